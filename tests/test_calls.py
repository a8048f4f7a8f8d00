"""Calls and attempts: their JSON form, and what is refused as no call graph."""

from __future__ import annotations

import json

import pytest

from sprint_lib.calls import STATUSES, Attempt, Call, CallGraphError, Wait, in_order

CALLS = (
    Call("p1", "planner", 1, completion="<Plan_1>", prompt_tokens=9, cached_tokens=4, completion_tokens=8, ended=0.5),
    Call("e1", "executor", 1, 1, (Wait("p1", 5),), completion_tokens=3, started=0.3, first_token=0.4, ended=0.6),
    Call("p2", "planner", 2, waits=(Wait("p1"), Wait("e1")), completion_tokens=2, finish="length"),
)
ATTEMPT = Attempt("2-3-4-17=85", "sprint", "ok", True, "85", "text\n", CALLS, 1.25, 1.2, sample=3, note="a note")


def test_an_attempt_survives_its_json_form() -> None:
    assert Attempt.from_json(json.loads(json.dumps(ATTEMPT.to_json()))) == ATTEMPT


def test_an_attempt_without_calls_survives_too() -> None:
    for status in STATUSES:
        attempt = Attempt("p", "base", status, False, "", "")
        assert Attempt.from_json(json.loads(json.dumps(attempt.to_json()))) == attempt


def test_unknown_and_missing_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Attempt.from_json({**ATTEMPT.to_json(), "colour": 1})
    with pytest.raises(TypeError, match="method"):
        Attempt.from_json({"problem": "p"})


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2-3-4-17=85: no status 'fine'; there are: ok, truncated"):
        Attempt.from_json({**ATTEMPT.to_json(), "status": "fine"})
    with pytest.raises(ValueError, match="no finish 'eos'"):
        Call("c", "sample", finish="eos")
    with pytest.raises(ValueError, match="of these cached 3"):
        Call("c", "sample", prompt_tokens=2, cached_tokens=3)
    with pytest.raises(ValueError, match="completion -1"):
        Call("c", "sample", completion_tokens=-1)


def test_calls_are_ordered_by_what_they_waited_for() -> None:
    assert [call.id for call in in_order(reversed(CALLS))] == ["p1", "e1", "p2"]
    assert in_order(()) == ()


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([Call("a", "sample"), Call("a", "sample")], "two calls have the id 'a'"),
        ([Call("a", "sample", waits=(Wait("b"),))], "'a' waits for 'b', which is not among the calls"),
        ([Call("a", "sample", waits=(Wait("a"),))], "in a circle: a -> a"),
        ([Call("a", "x", waits=(Wait("b"),)), Call("b", "x", waits=(Wait("a"),))], "in a circle"),
        ([Call("a", "x", completion_tokens=4), Call("b", "x", waits=(Wait("a", 5),))], "token 5 of 'a', which wrote 4"),
        ([Call("a", "x"), Call("b", "x", waits=(Wait("a", -1),))], "token -1 of 'a'"),
    ],
)
def test_what_is_no_call_graph_is_refused(calls: list[Call], message: str) -> None:
    with pytest.raises(CallGraphError, match=message):
        in_order(calls)
