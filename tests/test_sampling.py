"""Self-consistency and best-of-N: votes, picks and costs worked out by hand, and ends of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from scripted import ScriptedEngine, Until
from test_methods import PROBLEM, Exact

from sprint_lib.accounting import costs, mean_sample
from sprint_lib.calls import Attempt
from sprint_lib.engines import EngineError, Request
from sprint_lib.methods import get_method
from sprint_lib.methods.best_of_n import ORACLE
from sprint_lib.methods.self_consistency import majority
from sprint_lib.tasks import Grade, Problem
from sprint_lib.tasks.countdown import Countdown

SAMPLES = ("Answer 6\n", "so so Answer 5\n", "Answer 5\n", "none\n")  # 3, 5, 3 and 2 tokens


class Checked(Exact):
    """A task that can tell a right answer without knowing it."""

    def check(self, problem: Problem, text: str) -> bool:
        return "Answer 5\n" in text


def engine(replies: Sequence[Any]) -> ScriptedEngine:
    """Replies in the order in which it is asked."""
    left = iter(replies)
    return ScriptedEngine(lambda _: next(left))


def solve(method: str, replies: Sequence[Any], task: Exact | None = None, **settings: Any) -> Attempt:
    chosen = get_method(method)
    values = chosen.settings.from_dict({"n": len(replies), **settings})
    return asyncio.run(chosen.solve(PROBLEM, task or Exact(), engine(replies), values))


def test_a_vote_waits_for_the_longest_sample() -> None:
    attempt = solve("self_consistency", SAMPLES)
    assert (attempt.status, attempt.answer, attempt.correct, attempt.text) == ("ok", "5", True, SAMPLES[1])
    # longest 5; 3 + 5 + 3 + 2 in all; a prompt of 4 tokens each
    assert costs(attempt) == {
        "sequential": 5,
        "serial": 5,
        "total": 13,
        "prefill": 16,
        "cached": 0,
        "calls": 4,
        "stages": 0,
    }
    assert mean_sample(attempt) == 13 / 4
    assert mean_sample(()) == 0
    assert all(call.waits == () and call.role == "sample" for call in attempt.calls)


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        (["6", "5", "5"], 1),
        (["6", "5"], 0),  # a tie: the first
        (["", "6", "", ""], 1),  # no vote for nothing
        (["", ""], None),
        ([], None),
        ([r"\frac12", "6", r"\dfrac{1}{2}", "6 ", "6."], 1),
        (["3 + 4", "3+4", "4 + 3"], 0),  # typography is one answer, another expression is another
    ],
)
def test_votes_are_counted_over_answers_without_typography(answers: list[str], place: int | None) -> None:
    assert majority([Grade(False, answer) for answer in answers]) == place


def test_fewer_samples_are_the_first_of_more_and_the_first_is_the_sequential_one() -> None:
    def seeds(method: str, **settings: int) -> list[int]:
        asked = ScriptedEngine({"p1": "Answer 5\n"})
        chosen = get_method(method)
        asyncio.run(chosen.solve(PROBLEM, Exact(), asked, chosen.settings.from_dict(settings)))
        return [request.seed for _, request in asked.requests]

    eight = seeds("self_consistency", n=8)
    assert len(set(eight)) == 8
    assert seeds("self_consistency", n=4) == seeds("best_of_n", n=4) == eight[:4]
    assert seeds("sequential") == eight[:1]


def test_fewer_samples_need_no_run_of_their_own() -> None:
    method = get_method("self_consistency")
    calls = solve("self_consistency", SAMPLES).calls
    two = method.decide(PROBLEM, Exact(), method.settings(), calls[:2])  # type: ignore[attr-defined]
    assert (two.answer, two.calls) == ("6", calls[:2])


@pytest.mark.parametrize(
    ("replies", "status", "note"),
    [
        (["none\n", " \n"], "refused", "no answer"),
        (["none\n", "so " * 30], "truncated", "no answer"),
        (["so " * 30, "Answer 5\n"], "ok", ""),
        (["Answer 5\n", EngineError("out of memory")], "engine_error", "S2: out of memory"),
    ],
)
@pytest.mark.parametrize("method", ["self_consistency", "best_of_n"])
def test_ends(method: str, replies: list[Any], status: str, note: str) -> None:
    attempt = solve(
        method, replies, Checked(), max_tokens=20, **({"pick": "verifier"} if method == "best_of_n" else {})
    )
    assert (attempt.status, attempt.note) == (status, note)


def test_a_verifier_picks_the_first_that_passes_and_an_oracle_says_so() -> None:
    replies = ("Answer 6\n", "Answer 6\n", "so Answer 5\n", "Answer 5\n")
    voted = solve("self_consistency", replies[:3])
    verified = solve("best_of_n", replies, Checked(), pick="verifier")
    oracle = solve("best_of_n", replies, pick="oracle")
    assert (voted.answer, verified.answer, oracle.answer) == ("6", "5", "5")
    assert verified.text == oracle.text == replies[2]
    assert (verified.note, oracle.note) == ("", ORACLE)
    assert costs(oracle)["sequential"] == 4


def test_without_one_that_passes_the_vote_decides() -> None:
    attempt = solve("best_of_n", ["none\n", "Answer 6\n"], Checked(), pick="verifier")
    assert (attempt.answer, attempt.status) == ("6", "ok")


def test_a_verifier_that_a_task_does_not_have_is_refused_before_anything_is_asked() -> None:
    asked = engine(SAMPLES)
    method = get_method("best_of_n")
    with pytest.raises(ValueError, match="exact cannot tell a right answer without knowing it; use pick: oracle"):
        asyncio.run(method.solve(PROBLEM, Exact(), asked, method.settings.from_dict({"pick": "verifier"})))
    assert not asked.requests


@pytest.mark.parametrize(("method", "wrong"), [("self_consistency", {"n": 0}), ("best_of_n", {"pick": "reward"})])
def test_settings_that_cannot_be(method: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"n is 0|no pick 'reward'"):
        get_method(method).settings.from_dict(wrong)


def test_countdowns_check_needs_no_reference_and_is_the_grade() -> None:
    task = Countdown()
    (problem,) = task.load(1, split="test", seed=777)
    unknown = Problem(problem.id, problem.question, "", problem.meta)
    for text in (f"Answer {problem.answer}\n", "Answer 1 + 1\n", "none"):
        assert task.check(unknown, text) == task.grade(problem, text).correct
    assert task.check(unknown, f"Answer {problem.answer}\n")


def test_cancelling_ends_every_sample() -> None:
    async def run() -> list[str]:
        def wait(_: Request) -> Any:
            return Until("never")

        asked = ScriptedEngine(wait)
        method = get_method("self_consistency")
        task = asyncio.create_task(method.solve(PROBLEM, Exact(), asked, method.settings.from_dict({"n": 3})))
        while len(asked.requests) < 3 and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return asked.cancelled

    assert len(asyncio.run(run())) == 3
