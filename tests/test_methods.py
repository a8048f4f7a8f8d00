"""Methods: settings, grading and classification, the same for all; and a real model that writes nonsense."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Script, ScriptedEngine

from sprint_lib.calls import STATUSES, Attempt, in_order
from sprint_lib.engines import EngineError, EngineSpec, open_engine
from sprint_lib.methods import METHODS, attempt_seed, get_method
from sprint_lib.methods.sequential import SequentialSettings
from sprint_lib.methods.sprint import SprintSettings
from sprint_lib.tasks import NO_ANSWER, Grade, Problem
from sprint_lib.tasks.countdown import Countdown
from sprint_lib.trajectory import parse

PROBLEM = Problem("sum", "2 + 3\n", "5")
RIGHT = "Answer 5\n"
PLAN = "<Plan_1>\n<prompt_1.1> a</prompt_1.1>\n</Plan_1>"


class Exact:
    """A task that wants the very answer, and remembers which texts it was given to grade."""

    name = "exact"

    def __init__(self) -> None:
        self.graded: list[str] = []

    def grade(self, problem: Problem, text: str) -> Grade:
        self.graded.append(text)
        if "Answer " not in text:
            return Grade(False, "", NO_ANSWER)
        answer = text.partition("Answer ")[2].split("\n")[0]
        return Grade(True, answer) if answer == problem.answer else Grade(False, answer, "another number")

    def load(self, n: int, *, split: str, seed: int) -> list[Problem]:
        return [PROBLEM]


def solve(method: str, replies: Script, task: Exact | None = None, **settings: Any) -> Attempt:
    chosen = get_method(method)
    engine = ScriptedEngine(replies)
    attempt = asyncio.run(chosen.solve(PROBLEM, task or Exact(), engine, chosen.settings.from_dict(settings)))
    assert Attempt.from_json(json.loads(json.dumps(attempt.to_json()))) == attempt
    assert attempt.engine_seconds <= attempt.wall_seconds
    in_order(attempt.calls)
    return attempt


# --- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_settings_that_refuse_what_they_do_not_know(name: str) -> None:
    method = get_method(name)
    assert method.name == name
    assert method.settings.from_dict({"seed": 3, "sample": 1, "temperature": 1}).seed == 3
    with pytest.raises(ValueError, match=r"unknown setting 'temprature' \(did you mean 'temperature'\?\)"):
        method.settings.from_dict({"temprature": 1.0})
    with pytest.raises(TypeError, match="temperature is '1', it must be of type float"):
        method.settings.from_dict({"temperature": "1"})
    with pytest.raises(TypeError, match="seed is True, it must be of type int"):
        method.settings.from_dict({"seed": True})


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no method 'sprnt'; there are: .*\bsequential\b.*\bsprint\b"):
        get_method("sprnt")


def test_the_loops_limits_are_checked_for_the_method_too() -> None:
    with pytest.raises(ValueError, match="max_stages is 0"):
        SprintSettings.from_dict({"max_stages": 0})


# --- grading and ends, alike for both ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "answer", "note"),
    [
        (RIGHT, "ok", "5", ""),
        ("so\nAnswer 6\n", "ok", "6", "another number"),
        ("I give up.\n", "refused", "", NO_ANSWER),
        (" \n", "refused", "", NO_ANSWER),
        ("", "refused", "", NO_ANSWER),
        (RIGHT + "so " * 50, "truncated", "5", ""),
        ("so " * 50 + RIGHT, "truncated", "", NO_ANSWER),
    ],
)
def test_a_final_text_ends_alike_under_every_method(text: str, status: str, answer: str, note: str) -> None:
    task = Exact()
    plain = solve("sequential", {"p1": text}, task, max_tokens=20)
    staged = solve("sprint", {"p1": f"<Final_answer>\n{text}</Final_answer>"}, task, max_plan_tokens=22)
    for attempt in (plain, staged):
        assert (attempt.status, attempt.answer, attempt.note) == (status, answer, note)
        assert attempt.correct == (answer == PROBLEM.answer)
    assert task.graded[0] == task.graded[1]


def test_sprint_keeps_its_trajectory_and_grades_only_the_final_answer() -> None:
    task = Exact()
    attempt = solve("sprint", {"p1": PLAN, "e1.1": RIGHT, "p2": "<Final_answer>\nAnswer 2\n</Final_answer>"}, task)
    assert task.graded == ["Answer 2\n"]
    assert (attempt.status, attempt.correct, attempt.method) == ("ok", False, "sprint")
    assert parse(attempt.text).defects == ()
    assert attempt.text.startswith(PROBLEM.question + PLAN)
    assert [call.role for call in attempt.calls] == ["planner", "executor", "planner"]


def test_sequential_is_one_completion_of_the_question() -> None:
    engine = ScriptedEngine({"p1": "Try 2 + 3\n</Plan_ " + RIGHT})
    settings = SequentialSettings(system="Think.\n", max_tokens=30, temperature=0.3)
    attempt = asyncio.run(get_method("sequential").solve(PROBLEM, Exact(), engine, settings))
    (_, request), *others = engine.requests
    assert not others
    assert (request.prompt, request.max_tokens) == ("Think.\n" + PROBLEM.question, 30)
    assert (request.temperature, request.stop) == (0.3, ())
    assert attempt.text == "Try 2 + 3\n</Plan_ " + RIGHT
    assert (attempt.calls[0].id, attempt.calls[0].waits) == ("S1", ())


@pytest.mark.parametrize("name", METHODS)
def test_an_engine_error_is_an_attempt(name: str) -> None:
    attempt = solve(name, {"p1": ("half", EngineError("out of memory"))})
    assert (attempt.status, attempt.correct) == ("engine_error", False)
    assert "out of memory" in attempt.note
    assert attempt.calls[0].finish == "error"


@pytest.mark.parametrize("name", METHODS)
def test_seeds_differ_by_run_problem_and_sample_and_by_nothing_else(name: str) -> None:
    method = get_method(name)
    other = Problem("another", PROBLEM.question, PROBLEM.answer)

    def seed(problem: Problem, **settings: int) -> int:
        engine = ScriptedEngine({"p1": f"<Final_answer>\n{RIGHT}"})
        asyncio.run(method.solve(problem, Exact(), engine, method.settings.from_dict(settings)))
        return engine.requests[0][1].seed

    seeds = [seed(PROBLEM), seed(other), seed(PROBLEM, seed=1), seed(PROBLEM, sample=1)]
    assert len(set(seeds)) == 4
    assert seed(PROBLEM) == seeds[0]
    assert attempt_seed(SequentialSettings(), PROBLEM) == attempt_seed(SprintSettings(), PROBLEM)


# --- a real model -----------------------------------------------------------------------


def test_nonsense_from_a_real_model_ends_as_classified_attempts(tiny_model: Path) -> None:
    task = Countdown()
    problems = task.load(8, split="train", seed=0)

    async def run() -> list[Attempt]:
        engine = open_engine(EngineSpec(model=str(tiny_model), max_batch=16))
        try:
            limits = {"temperature": 1.0, "seed": 1}
            sequential, sprint = get_method("sequential"), get_method("sprint")
            plain = sequential.settings.from_dict({**limits, "max_tokens": 40})
            staged = sprint.settings.from_dict({**limits, "max_plan_tokens": 40, "max_execution_tokens": 20})
            work = [sequential.solve(p, task, engine, plain) for p in problems]
            work += [sprint.solve(p, task, engine, staged) for p in problems]
            return await asyncio.gather(*work)
        finally:
            await engine.close()

    for attempt in asyncio.run(run()):
        assert attempt.status in set(STATUSES) - {"engine_error"}
        assert not attempt.correct
        in_order(attempt.calls)
        assert all(0 <= c.started <= c.first_token <= c.ended <= attempt.wall_seconds for c in attempt.calls)
