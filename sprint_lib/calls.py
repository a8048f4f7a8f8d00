"""Calls and attempts: what was asked of an engine, what it cost, and what each call waited for.

Whatever the paradigm, solving one problem is a directed acyclic graph of calls. A
`Wait` is an edge: a call may begin when another has ended or, if the edge names a
number of tokens, as soon as the other has written so many (SPRINT's executor starts
at the end of its prompt while the planner writes on). Everything that is measured,
in `sprint_lib.accounting`, is a sum over this graph or a path through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

STATUSES = ("ok", "truncated", "malformed", "refused", "engine_error")
FINISHES = ("stop", "length", "error", "cancelled")


class CallGraphError(ValueError):
    """Calls that form no call graph: a doubled id, an unknown wait, a cycle, a wait beyond a call's end."""


@dataclass(frozen=True)
class Wait:
    """One thing a call waited for: the first `tokens` completion tokens of `call`, or all of it (None)."""

    call: str
    tokens: int | None = None


@dataclass(frozen=True)
class Call:
    """One request to an engine. Tokens are counts; times are seconds since the attempt began.

    `prompt_tokens` includes `cached_tokens` (those whose keys and values were at hand);
    `completion_tokens` is everything generated, the token that completed a stop string included. A call that ended as
    `error` or `cancelled` (nobody needed it any more) has what was heard of it until then, and no prompt tokens.
    """

    id: str
    role: str  # "planner", "executor", "sample", ...
    stage: int = 0
    index: int = 0
    waits: tuple[Wait, ...] = ()
    completion: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    started: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    finish: str = "stop"  # one of FINISHES

    def __post_init__(self) -> None:
        if self.finish not in FINISHES:
            raise ValueError(f"call {self.id}: no finish {self.finish!r}; there are: {', '.join(FINISHES)}")
        if not 0 <= self.cached_tokens <= self.prompt_tokens or self.completion_tokens < 0:
            raise ValueError(
                f"call {self.id}: impossible token counts (prompt {self.prompt_tokens}, of these cached"
                f" {self.cached_tokens}, completion {self.completion_tokens})"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Call:
        return Call(**{**data, "waits": tuple(Wait(**wait) for wait in data.get("waits", ()))})


@dataclass(frozen=True)
class Attempt:
    """One problem tried once by one method: the outcome and the calls it took.

    Every attempt counts in the denominator, whatever its `status`. `engine_seconds` is
    the time during which at least one call was in the engine, so that
    `wall_seconds - engine_seconds` is the method's own overhead.
    """

    problem: str  # the problem's id
    method: str
    status: str  # one of STATUSES
    correct: bool
    answer: str
    text: str  # the rendered trajectory, or the linear text
    calls: tuple[Call, ...] = ()
    wall_seconds: float = 0.0
    engine_seconds: float = 0.0
    sample: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"attempt at {self.problem}: no status {self.status!r}; there are: {', '.join(STATUSES)}")

    def to_json(self) -> dict[str, Any]:
        """The attempt as plain data for a record log; `from_json` gives it back."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Attempt:
        """Raises TypeError on unknown or missing fields, ValueError on impossible values."""
        return Attempt(**{**data, "calls": tuple(map(Call.from_json, data.get("calls", ())))})


def in_order(calls: Iterable[Call]) -> tuple[Call, ...]:
    """The calls sorted so that each comes after all it waited for; checks the graph.

    Raises:
        CallGraphError: on a doubled id, an unknown wait, a cycle, or a wait for more
            tokens than the call wrote.
    """
    by_id: dict[str, Call] = {}
    for call in calls:
        if call.id in by_id:
            raise CallGraphError(f"two calls have the id {call.id!r}")
        by_id[call.id] = call
    for call in by_id.values():
        for wait in call.waits:
            _check_wait(call, wait, by_id)
    graph = {call.id: [wait.call for wait in call.waits] for call in by_id.values()}
    try:
        return tuple(by_id[id_] for id_ in TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise CallGraphError(f"calls wait for each other in a circle: {' -> '.join(error.args[1])}") from None


def _check_wait(call: Call, wait: Wait, by_id: dict[str, Call]) -> None:
    if wait.call not in by_id:
        raise CallGraphError(f"call {call.id!r} waits for {wait.call!r}, which is not among the calls")
    written = by_id[wait.call].completion_tokens
    if wait.tokens is not None and not 0 <= wait.tokens <= written:
        raise CallGraphError(
            f"call {call.id!r} waits for token {wait.tokens} of {wait.call!r}, which wrote {written} tokens"
        )
