"""Hogwild!-style workers: the bookkeeping of a team, what it costs, and hostile text; on a scripted engine."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hostile import strings
from scripted import Reply, ScriptedEngine
from test_methods import PROBLEM, RIGHT, Exact

from sprint_lib import accounting
from sprint_lib.calls import STATUSES, Attempt, Call, Wait, in_order
from sprint_lib.engines import EngineError, EngineSpec, open_engine
from sprint_lib.engines.team import Seen, Team, TeamRequest, TeamResult
from sprint_lib.methods.hogwild import Hogwild, HogwildSettings, _call
from sprint_lib.tasks.countdown import Countdown

PLAIN: dict[str, Any] = {"step_end": "None\n", "opening": "Try", "divider": "---"}  # of one token each


def solve(*scripts: Reply, task: Exact | None = None, context: int = 10_000, **settings: Any) -> Attempt:
    """An attempt by as many workers as there are scripts."""
    engine = ScriptedEngine({f"w{n}": script for n, script in enumerate(scripts, 1)})
    engine.context = context
    chosen = HogwildSettings.from_dict({"workers": len(scripts), "stagger": 0, **PLAIN, **settings})
    attempt = asyncio.run(Hogwild().solve(PROBLEM, task or Exact(), engine, chosen))
    assert Attempt.from_json(json.loads(json.dumps(attempt.to_json()))) == attempt
    assert 0 <= attempt.engine_seconds <= attempt.wall_seconds
    assert all(0 <= call.started <= call.first_token <= call.ended <= attempt.wall_seconds for call in attempt.calls)
    in_order(attempt.calls)
    return attempt


def team(*scripts: str, **asked: Any) -> TeamResult:
    request = TeamRequest(
        **{
            "prompt": "2 + 3\n",
            "seeds": tuple(range(len(scripts))),
            "max_tokens": 100,
            "answered": lambda text: "Answer" in text,
            **PLAIN,
            **asked,
        }
    )
    return asyncio.run(ScriptedEngine({f"w{n}": script for n, script in enumerate(scripts, 1)}).workers(request))


# --- what it costs, by hand ---------------------------------------------------------------


def test_costs_by_hand() -> None:
    # decode step  1   2   3     4   5       6   7
    # worker 1     a   b   None  \n  Answer  5   \n
    # worker 2             c     d   e       f   g     stopped there
    attempt = solve(" a b None\n" + RIGHT, " c d e f g h None\n", stagger=2)
    by_id: dict[str, Call] = {call.id: call for call in attempt.calls}
    first, answer, other = by_id["W1.1"], by_id["W1.2"], by_id["W2.1"]
    assert (first.waits, other.waits) == ((), (Wait("W1.1", 2),))
    assert answer.waits == (Wait("W1.1"), Wait("W2.1", 2))
    assert (first.completion_tokens, answer.completion_tokens, other.completion_tokens) == (4, 3, 5)
    # the prompt has 4 tokens, every opening and the one divider 1
    assert (first.prompt_tokens, first.cached_tokens) == (4 + 1, 0)
    assert (other.prompt_tokens, other.cached_tokens) == (4 + (1 + 2) + 1 + 1, 4 + (1 + 2))
    assert (answer.prompt_tokens, answer.cached_tokens) == (4 + (1 + 4) + (1 + 2) + 1 + 1, 4 + (1 + 4) + (1 + 2) + 1)
    assert accounting.costs(attempt) == {
        "sequential": 7,  # decode steps
        "serial": 4 + 5 + 3,  # if the other's step had to be whole before the answer's could begin
        "total": 4 + 5 + 3,
        "prefill": 5 + 2 + 1,
        "cached": 0 + 7 + 13,
        "calls": 3,
        "stages": 1,
    }
    assert (attempt.status, attempt.correct, attempt.answer) == ("ok", True, "5")
    assert [call.finish for call in (first, answer, other)] == ["stop", "stop", "cancelled"]
    assert attempt.text == "Try a b None\nTry c d e f gTry" + RIGHT


def test_the_longest_path_is_the_decode_steps_whoever_answers() -> None:
    # decode step  1   2     3   4      5   6     7   8       9   10  11
    # worker 1     a   None  \n  b      c   None  \n  d       e   f   g
    # worker 2     h   i     j   k      l   None  \n  Answer  5   \n
    attempt = solve(" a None\n b c None\n d e f g h", " h i j k l None\n" + RIGHT)
    assert accounting.sequential_tokens(attempt) == 10
    assert accounting.total_tokens(attempt) == 2 * 10
    by_id = {call.id: call for call in attempt.calls}
    assert by_id["W1.2"].waits == (Wait("W1.1"), Wait("W2.1", 3))
    assert by_id["W2.2"].waits == (Wait("W1.1"), Wait("W1.2"), Wait("W2.1"))  # what had ended since it last began
    assert [segment.call for segment in accounting.critical_path(attempt)][-1] == "W2.2"
    assert by_id["W1.3"].finish == "cancelled"
    assert {(call.role, call.index) for call in attempt.calls} == {("worker", 1), ("worker", 2)}


def test_one_worker_is_one_chain() -> None:
    attempt = solve(" a None\n b None\n" + RIGHT, opening="", divider="")
    assert accounting.costs(attempt)["sequential"] == accounting.costs(attempt)["serial"] == 3 + 3 + 3
    assert [call.waits for call in attempt.calls] == [(), (Wait("W1.1"),), (Wait("W1.2"),)]
    assert accounting.prefill_tokens(attempt) == 4
    assert attempt.text == " a None\n b None\n" + RIGHT


# --- how a team works ---------------------------------------------------------------------


def test_what_a_step_has_seen_is_in_its_context() -> None:
    result = team(" a b c None\n d e f", " g None\n h i j", heading="Others:", stagger=1)
    by_id = {(step.worker, step.number): step for step in result.steps}
    assert by_id[2, 1].seen == (Seen(1, 1, 1),)
    # prompt 4, heading 1, worker 1's opening and token, divider, opening
    assert (by_id[2, 1].prompt_tokens, by_id[2, 1].read) == (4 + 1 + 2 + 1 + 1, 1 + 1)
    assert by_id[1, 1].read == 4 + 1 + 1
    assert by_id[2, 2].seen == (Seen(2, 1), Seen(1, 1, 4))
    assert by_id[1, 2].seen == (Seen(2, 1), Seen(1, 1), Seen(2, 2, 1))


@pytest.mark.parametrize(
    ("sees", "views"),
    [
        ("all", {0: [1, 2], 1: [2, 0], 2: [1, 0]}),
        ("earlier", {0: [1, 2], 1: [], 2: [1]}),
    ],
)
def test_whose_current_steps_a_worker_sees(sees: str, views: dict[int, list[int]]) -> None:
    request = TeamRequest("q", (1, 2, 3), 100, **PLAIN, answered=bool, sees=sees)
    made = Team(request, len, (1, 0, 0), 1000)
    made.turn(lambda worker: None)
    for worker, text in zip(made.writing, ("None\n", " a", " b"), strict=True):
        made.write(worker, text, last=False)
    moved: list[int] = []
    made.turn(lambda worker: moved.append(worker.index))  # the first worker begins its second step, behind the others
    assert moved == [0]
    assert {w.index: [other.index for other in made.others(w)] for w in made.workers} == views


def test_openings_name_worker_and_step_and_the_question_comes_now_and_then() -> None:
    result = team(
        " a None\n b None\n c None\n",
        " a None\n b None\n c None\n",
        opening="{worker}.{step}:",
        check=" redundant?",
        check_every=8,
    )
    openings = {(step.worker, step.number): step.opening for step in result.steps}
    assert openings == {
        (1, 1): "1.1:",
        (2, 1): "2.1:",
        (1, 2): "1.2:",
        (2, 2): "2.2:",
        (1, 3): "1.3: redundant?",  # 12 tokens so far
        (2, 3): "2.3:",
    }


def test_nobody_waits_where_nobody_works() -> None:
    result = team(" a", " b None\n Answer", stagger=50)
    assert [(step.worker, step.tokens) for step in result.steps] == [(1, 1), (2, 3), (2, 1)]
    assert result.decode_steps == 5
    assert result.answer == result.steps[-1]


def test_the_first_worker_of_a_decode_step_answers() -> None:
    result = team(" Answer 5\n", " Answer 6\n")
    assert result.answer is not None
    assert (result.answer.worker, [step.finish for step in result.steps]) == (1, ["stop", "stop"])


@pytest.mark.parametrize(
    ("step_end", "written", "steps"),
    [
        (r"[.?!…]\s*\n\n|\bNone\n", "One.\n\nTwo\n\nNone\n", 2),
        (r"[.?!…]\s*\n\n|\bNone\n", "Nobody: None\nNone of us\n", 2),
        ("x", "axbxx", 1),  # three in one token
        ("", " a b", 2),  # after every token
    ],
)
def test_ends_of_steps(step_end: str, written: str, steps: int) -> None:
    result = team(written, step_end=step_end, opening="")
    assert len([step for step in result.steps if step.text]) == steps
    assert "".join(step.text for step in result.steps) == written


# --- ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "answer"),
    [
        (RIGHT, "ok", "5"),
        ("so\nAnswer 6\n", "ok", "6"),
        ("I give up.\n", "refused", ""),
        (" \n", "refused", ""),
        ("", "refused", ""),
        (RIGHT + "so " * 50, "truncated", "5"),
        ("so " * 50 + RIGHT, "truncated", ""),
    ],
)
def test_ends_of_attempts(text: str, status: str, answer: str) -> None:
    for scripts in ((text,), (text, text)):
        attempt = solve(*scripts, max_tokens=20)
        assert (attempt.status, attempt.answer, attempt.correct) == (status, answer, answer == PROBLEM.answer)
        assert accounting.total_tokens(attempt) <= 20 * len(scripts)


def test_only_the_answering_step_is_graded() -> None:
    task = Exact()
    attempt = solve(" b None\n" + "so " * 5, " c" * 4 + RIGHT, task=task)
    assert (attempt.status, attempt.correct) == ("ok", True)
    assert task.graded[-1] == "Try" + " c" * 4 + RIGHT


def test_a_full_context_ends_all_workers() -> None:
    attempt = solve(" a" * 50, " b" * 50, context=20)
    assert attempt.status == "truncated"
    assert {call.finish for call in attempt.calls} == {"length"}
    assert 4 + 1 + 2 + accounting.total_tokens(attempt) in (19, 20)
    nothing = solve(" a", context=3)
    assert (nothing.status, nothing.calls) == ("truncated", ())


def test_an_engine_that_fails_or_has_no_workers_is_an_attempt() -> None:
    attempt = solve((" a", EngineError("out of memory")), " b")
    assert (attempt.status, attempt.calls[0].finish) == ("engine_error", "error")
    assert "out of memory" in attempt.note

    class Plain:
        count_tokens = close = complete = None

    attempt = asyncio.run(Hogwild().solve(PROBLEM, Exact(), Plain(), HogwildSettings()))  # type: ignore[arg-type]
    assert attempt.status == "engine_error"
    assert (
        "Plain has no workers over one cache; hogwild needs an engine in this process (kind: embedded)" in attempt.note
    )


def test_hostile_text_ends_as_classified_attempts() -> None:
    fragments = ["Try", "None\n", "\n\n", "Answer ", "Answer 5\n", "\\boxed{", ".", " 3 + 4"]
    texts = list(strings(80, 0, ["Try 3 + 4\nNone\nAnswer 5\n", "a.\n\nb?\n\n\\boxed{5}"], fragments))
    for one, other in zip(texts[::2], texts[1::2], strict=True):
        attempt = solve(one, other, max_tokens=50, stagger=3, step_end=HogwildSettings.step_end)
        assert attempt.status in set(STATUSES) - {"engine_error"}
        assert accounting.total_tokens(attempt) <= 100


@pytest.mark.parametrize("sees", ["all", "earlier"])
def test_sequential_tokens_are_decode_steps_whatever_is_written(sees: str) -> None:
    rng = random.Random(0)
    answered = 0
    for _ in range(200):
        scripts = ["".join(rng.choices([" a", " b", " None\n", " Answer"], [9, 9, 4, 1], k=30)) for _ in range(4)]
        stagger, limit = rng.randrange(6), rng.randrange(5, 40)
        result = team(*scripts[: rng.randrange(1, 5)], sees=sees, stagger=stagger, max_tokens=limit)
        calls = [_call(step, 0.0) for step in result.steps]
        assert accounting.sequential_tokens(calls) == result.decode_steps
        assert accounting.serial_tokens(calls) <= accounting.total_tokens(calls)
        answered += result.answer is not None
    assert 50 < answered < 190


def test_nonsense_from_a_real_model_ends_as_classified_attempts(tiny_model: Path) -> None:
    task = Countdown()
    settings = HogwildSettings(workers=3, temperature=1.0, max_tokens=30, step_end=r"\n", check="None\n", check_every=9)

    async def run() -> list[Attempt]:
        engine = open_engine(EngineSpec(model=str(tiny_model), max_batch=16))
        try:
            problems = task.load(8, split="train", seed=0)
            return await asyncio.gather(*(Hogwild().solve(p, task, engine, settings) for p in problems))
        finally:
            await engine.close()

    for attempt in asyncio.run(run()):
        assert attempt.status in set(STATUSES) - {"engine_error"}
        assert not attempt.correct
        in_order(attempt.calls)
        assert accounting.total_tokens(attempt) <= 90
        assert all(0 <= c.started <= c.first_token <= c.ended <= attempt.wall_seconds for c in attempt.calls)


def test_seeds_are_a_workers_own() -> None:
    request = HogwildSettings(workers=3).request("q", 7, bool)
    assert len(set(request.seeds)) == 3
    assert HogwildSettings(workers=2).request("q", 7, bool).seeds == request.seeds[:2]
    assert HogwildSettings(workers=3, temperature=1.0).request("other", 7, bool).seeds == request.seeds


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"stagger": -1}, "stagger is -1"),
        ({"sees": "nobody"}, "no sees 'nobody'; there are: all, earlier"),
        ({"stagger": 2, "opening": ""}, "stagger needs an opening"),
        ({"step_end": "("}, r"step_end '\(' is no regular expression"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HogwildSettings.from_dict(wrong)


def test_a_cancelled_attempt_is_cancelled() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda request: "so " * 10_000)
        work = asyncio.create_task(Hogwild().solve(PROBLEM, Exact(), engine, HogwildSettings()))
        while not engine.requests:
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(asyncio.wait_for(go(), 10))
