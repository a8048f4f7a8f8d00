"""APR and SoS: spawn and join as a call graph counted by hand, and hostile text that ends as a classified attempt."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedEngine

from sprint_lib.accounting import (
    costs,
    largest_context,
    longest_thread,
    sequential_tokens,
    serial_tokens,
    total_tokens,
)
from sprint_lib.calls import STATUSES, Attempt, Call, Wait, in_order
from sprint_lib.engines import Completion, EngineError, EngineSpec, OnText, Request, open_engine
from sprint_lib.methods import get_method
from sprint_lib.methods.apr import AprSettings, messages_of, result_of
from sprint_lib.methods.sos import SosSettings
from sprint_lib.tasks.countdown import Countdown, problem

PROBLEM = problem((3, 4, 5, 7), 24)
QUESTION = PROBLEM.question  # 9 tokens of the scripted engine: a word with the spaces before it, a tag, a line break
PATH = "3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24"  # 17 tokens
SPAWN = "<spawn>\nTry 3 + 4\nTry 3 * 4\n</spawn>"
LOST = " = 7\nLeft 5 7 7 -> 24\nNone\n"
FOUND = f" = 12\nSolved {PATH}\n"

Reply = Callable[[str], str]


def example(prompt: str) -> str:
    """A parent that spawns two children, the second of which reaches the goal."""
    if prompt.endswith("<child>\nTry 3 + 4\n"):
        return LOST
    if prompt.endswith("<child>\nTry 3 * 4\n"):
        return FOUND
    return f"Answer {PATH}\n" if "Solved" in prompt else ("" if "Threads" in prompt else "Threads 2\n") + SPAWN


def solve(reply: Reply, method: str = "apr", engine: ScriptedEngine | None = None, **settings: Any) -> Attempt:
    chosen = get_method(method)
    engine = engine or ScriptedEngine(lambda request: reply(request.prompt))
    attempt = asyncio.run(chosen.solve(PROBLEM, Countdown(), engine, chosen.settings.from_dict(settings)))
    in_order(attempt.calls)
    return attempt


# --- spawn and join ---------------------------------------------------------------------


def test_a_hand_computed_call_graph() -> None:
    attempt = solve(example)
    assert (attempt.status, attempt.correct) == ("ok", True)
    calls = {call.id: call for call in attempt.calls}
    assert list(calls) == ["P1", "P1/C1", "P1/C2", "P2"]
    # P1: Threads 2 \n <spawn> \n, 5; two messages of 5; the closing tag: 16
    # C1: = 7 \n, Left 5 7 7 -> 24 \n, None \n: 12. C2: = 12 \n, Solved, the path, \n: 3 + 1 + 17 + 1 = 22
    # P2: Answer, the path, \n: 19
    assert [call.completion_tokens for call in attempt.calls] == [16, 12, 22, 19]
    assert calls["P1/C1"].waits == (Wait("P1", 10),)
    assert calls["P1/C2"].waits == (Wait("P1", 15),)
    assert calls["P2"].waits == (Wait("P1"), Wait("P1/C1"), Wait("P1/C2"))
    assert sequential_tokens(attempt) == 15 + 22 + 19
    assert serial_tokens(attempt) == 16 + 22 + 19
    assert total_tokens(attempt) == 16 + 12 + 22 + 19
    assert longest_thread(attempt) == 16 + 19  # the parent; the longest child has 22
    # P2's prompt: question 9, Threads 2 \n, Try 3 + 4 \n None \n, Try 3 * 4 \n Solved, path, \n: 9 + 3 + 7 + 24 = 43
    assert calls["P2"].prompt_tokens == 43
    assert largest_context(attempt) == largest_context(attempt, "parent") == 43 + 19
    assert largest_context(attempt, "child") == 9 + 2 + 5 + 22
    assert costs(attempt)["calls"] == 4


def test_the_parent_never_sees_a_search_and_its_spawn_block_is_cut_out() -> None:
    engine = ScriptedEngine(lambda request: example(request.prompt))
    solve(example, engine=engine)
    prompts = {request.seed: request.prompt for _, request in engine.requests}
    assert len(prompts) == len(engine.requests) == 4  # so many seeds, too
    assert QUESTION in prompts.values()
    assert f"{QUESTION}<child>\nTry 3 + 4\n" in prompts.values()
    assert f"{QUESTION}<child>\nTry 3 * 4\n" in prompts.values()
    assert f"{QUESTION}Threads 2\nTry 3 + 4\nNone\nTry 3 * 4\nSolved {PATH}\n" in prompts.values()


def test_the_text_tells_what_was_spawned_and_what_was_joined() -> None:
    joined = f"Try 3 + 4\nNone\nTry 3 * 4\nSolved {PATH}\n"
    assert solve(example).text == f"Threads 2\n{SPAWN}\n{joined}Answer {PATH}\n"


def test_children_run_at_once_while_the_parent_still_writes() -> None:
    class Watched(ScriptedEngine):
        running = 0
        most = 0

        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                return await super().complete(request, on_text)
            finally:
                self.running -= 1

    engine = Watched(lambda request: example(request.prompt))
    solve(example, engine=engine)
    assert engine.most == 3


def test_a_number_of_threads_is_asked_for_before_the_search() -> None:
    engine = ScriptedEngine(lambda request: example(request.prompt))
    attempt = solve(example, engine=engine, threads=6)
    assert engine.requests[0][1].prompt == f"{QUESTION}Threads 6\n"
    assert attempt.text.startswith(f"Threads 6\n{SPAWN}")
    assert attempt.correct
    alone = solve(lambda prompt: f"Answer {PATH}\n" if prompt.endswith("Threads 0\n") else "", threads=-1)
    assert alone.correct
    assert [call.id for call in alone.calls] == ["P1"]


def test_rounds_add_up_in_the_parents_context_and_are_limited() -> None:
    def endless(prompt: str) -> str:
        return LOST if "<child>" in prompt else SPAWN

    engine = ScriptedEngine(lambda request: endless(request.prompt))
    attempt = solve(endless, engine=engine, max_rounds=2)
    assert (attempt.status, attempt.correct) == ("truncated", False)
    assert [call.id for call in attempt.calls] == ["P1", "P1/C1", "P1/C2", "P2", "P2/C1", "P2/C2", "P3"]
    assert engine.requests[-1][1].prompt == QUESTION + "Try 3 + 4\nNone\nTry 3 * 4\nNone\n" * 2
    assert "a spawn after 2 rounds" in attempt.note
    assert sequential_tokens(attempt) == 2 * (12 + 12) + 13  # each child starts after 12 of 13 tokens of its parent
    assert longest_thread(attempt) == 3 * 13


def test_a_spawn_starts_so_many_children_at_most() -> None:
    attempt = solve(example, max_threads=1)
    assert [call.id for call in attempt.calls if call.role == "child"][:1] == ["P1/C1"]
    assert all(call.index <= 1 for call in attempt.calls)


def test_the_longest_thread_and_the_largest_context_of_any_calls() -> None:
    def call(id_: str, role: str, prompt: int, tokens: int, *waits: Wait, finish: str = "stop") -> Call:
        return Call(id_, role, waits=waits, prompt_tokens=prompt, completion_tokens=tokens, finish=finish)

    staged = [
        call("P1", "planner", 10, 30),
        call("E1", "executor", 40, 50, Wait("P1", 20)),
        call("E2", "executor", 45, 70, Wait("P1", 25)),
        call("P2", "planner", 90, 15, Wait("P1"), Wait("E1"), Wait("E2")),
    ]
    assert longest_thread(staged) == 70  # the planner's two calls have 45
    assert sequential_tokens(staged) == 25 + 70 + 15
    assert largest_context(staged) == 45 + 70
    assert largest_context(staged, "planner") == 90 + 15
    samples = [call("S1", "sample", 10, 30), call("S2", "sample", 10, 40)]
    assert longest_thread(samples) == sequential_tokens(samples) == 40
    cut = [*samples, call("S3", "sample", 0, 60, finish="cancelled")]
    assert (longest_thread(cut), sequential_tokens(cut)) == (60, 40)
    assert longest_thread([]) == largest_context([]) == 0


# --- a context window -------------------------------------------------------------------


def test_a_call_ends_where_its_window_is_full() -> None:
    attempt = solve(example, context_window=62)  # what P2 needs
    assert attempt.correct
    short = solve(example, context_window=61)
    assert (short.status, short.calls[-1].finish, short.calls[-1].completion_tokens) == ("truncated", "length", 18)
    lost = solve(example, context_window=37)  # the child that finds it needs 38: it returns nothing
    assert not lost.correct
    full = solve(example, context_window=9)
    assert (full.status, full.calls[0].prompt_tokens, full.calls[0].completion_tokens) == ("truncated", 9, 0)
    assert largest_context(short) == 61


def test_sos_has_the_same_window() -> None:
    assert solve(lambda _: f"Answer {PATH}\n", "sos", context_window=28).correct
    assert solve(lambda _: f"Answer {PATH}\n", "sos", context_window=27).status == "truncated"


# --- hostile text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "refused"),
        (" \n", "refused"),
        ("Threads 3\n", "refused"),
        ("<spawn>", "malformed"),
        ("<spawn>\n\n </spawn>", "malformed"),
        ("<spawn>\n<child>\n<spawn>\n</spawn>", "malformed"),
        ("</spawn>" + SPAWN, "refused"),
        ("<child>\nTry 3 + 4\n", "refused"),
        (f"Answer {PATH}\n<spawn>\n", "malformed"),
        ("<spawn>\n" + "x" * 5000 + "\n</spawn>", "malformed"),
        ("Try 3 + 4\n" * 400, "truncated"),
        ("<spawn>\n" + "Try 3 + 4\n" * 400, "truncated"),
        ("Answer 3 + 4 = 8\n", "ok"),
        (f"Answer {PATH}\n", "ok"),
    ],
)
def test_hostile_parents_end_as_classified_attempts(text: str, status: str) -> None:
    attempt = solve(lambda prompt: "None\n" if "<child>" in prompt else text, max_tokens=100)
    assert attempt.status == status
    assert attempt.correct == (text == f"Answer {PATH}\n")
    assert len(attempt.calls) <= 17


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        SPAWN,
        "Solved",
        f"Solved {PATH}\nNone\n",
        f"Solved <spawn>{PATH}\n",
        "Solved " + "3 + 4 = 7 ; " * 100,
        f"Answer {PATH}\n",
        "None\n" * 500,
        f"Solved {PATH}\n" * 500,
    ],
)
def test_hostile_children_return_nothing(text: str) -> None:
    engine = ScriptedEngine(lambda request: text if "<child>" in request.prompt else SPAWN)
    attempt = solve(example, engine=engine, max_rounds=1, max_child_tokens=1000)
    assert attempt.status == "truncated"
    assert engine.requests[-1][1].prompt == f"{QUESTION}Try 3 + 4\nNone\nTry 3 * 4\nNone\n"


def test_what_a_child_returns_and_what_a_parent_names() -> None:
    assert result_of(Call("C", "child", completion=FOUND)) == f"Solved {PATH}"
    assert result_of(Call("C", "child", completion=FOUND, finish="length")) == "None"
    assert messages_of("Threads 2\n<spawn>\nTry 3 + 4\nTry 3", ended=False) == ["Try 3 + 4"]
    assert messages_of("Threads 2\n<spawn>\nTry 3 + 4\nTry 3 * 4") == ["Try 3 + 4", "Try 3 * 4"]
    assert messages_of("Try 3 + 4\n") == []
    # what is a line must not depend on whether the text has ended
    assert messages_of("<spawn>\na\u2028b\r\n</spawn>\nc\n") == ["a\u2028b"]
    assert messages_of("<spawn>\na\u2028b\r\n", ended=False) == ["a\u2028b"]


@pytest.mark.parametrize("where", ["parent", "child"])
def test_an_engine_that_fails_ends_the_attempt_as_such(where: str) -> None:
    class Failing(ScriptedEngine):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            if request.role == where:
                raise EngineError("out of memory")
            return await super().complete(request, on_text)

    attempt = solve(example, engine=Failing(lambda request: example(request.prompt)))
    assert (attempt.status, attempt.correct) == ("engine_error", False)
    assert "out of memory" in attempt.note


def test_cancelling_an_attempt_cancels_every_call_of_it() -> None:
    class Stuck(ScriptedEngine):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            if request.role == "child":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.append(request.prompt)
                    raise
            return await super().complete(request, on_text)

    async def run(engine: Stuck) -> None:
        work = asyncio.create_task(get_method("apr").solve(PROBLEM, Countdown(), engine, AprSettings()))
        while len(engine.requests) < 1 or not engine.log[-1].startswith("-"):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    engine = Stuck(lambda request: example(request.prompt))
    asyncio.run(run(engine))
    assert len(engine.cancelled) == 2


def test_settings_that_cannot_be_are_refused() -> None:
    for name, value in (("threads", -2), ("max_threads", 0), ("max_rounds", -1), ("context_window", -1)):
        with pytest.raises(ValueError, match=f"apr: {name} is {value}"):
            AprSettings.from_dict({name: value})
    with pytest.raises(ValueError, match="sos: budget is -1"):
        SosSettings.from_dict({"budget": -1})


# --- SoS --------------------------------------------------------------------------------


def test_sos_is_one_call_and_its_budget_a_line_before_it() -> None:
    engine = ScriptedEngine(lambda _: f"Try 3 * 4\nAnswer {PATH}\n")
    attempt = solve(example, "sos", engine=engine, budget=600)
    assert engine.requests[0][1].prompt == f"{QUESTION}Budget 3\n"  # 600 tokens are begun bins of 256
    assert (attempt.status, attempt.correct) == ("ok", True)
    assert attempt.text == f"Budget 3\nTry 3 * 4\nAnswer {PATH}\n"
    # Try 3 * 4 \n, Answer, the path, \n
    assert sequential_tokens(attempt) == longest_thread(attempt) == total_tokens(attempt) == 5 + 19
    assert largest_context(attempt) == 9 + 3 + 24
    assert solve(lambda prompt: prompt, "sos").status == "refused"


def test_nonsense_from_a_real_model_ends_as_classified_attempts(tiny_model: Path) -> None:
    problems = Countdown().load(6, split="train", seed=0)

    async def run() -> list[Attempt]:
        engine = open_engine(EngineSpec(model=str(tiny_model), max_batch=16))
        try:
            chosen = get_method("apr")
            limits = {"temperature": 1.0, "max_tokens": 60, "max_child_tokens": 20, "max_rounds": 2}
            settings = chosen.settings.from_dict(limits)
            return await asyncio.gather(*(chosen.solve(p, Countdown(), engine, settings) for p in problems))
        finally:
            await engine.close()

    for attempt in asyncio.run(run()):
        assert attempt.status in set(STATUSES) - {"engine_error"}
        in_order(attempt.calls)
        assert len(re.findall("P", "".join(call.id for call in attempt.calls if call.role == "parent"))) <= 3
