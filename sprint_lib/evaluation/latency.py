"""Where the seconds of an attempt go, how much of its prompts a server had cached, and a model of the seconds from
counts: fitted to some attempts, checked on others, and with another machine's numbers an estimate for that machine.

All of it is read from recorded calls. The path of an attempt is the one of `accounting`: what the answer waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from sprint_lib import accounting
from sprint_lib.calls import Attempt, Call
from sprint_lib.loop import executor_context, planner_context
from sprint_lib.trajectory import PromptScanner, Stage, parse

if TYPE_CHECKING:
    from collections.abc import Callable


# --- where the time goes --------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """Seconds of one attempt's wall clock, along the calls that its end waited for."""

    first_tokens: float = 0.0  # from asking to the first token: on its way, in the queue, reading the prompt
    decoding: float = 0.0
    between: float = 0.0  # no call of the path was in the engine: the loop, and its way to the next call


def spent(attempt: Attempt) -> Spent:
    """The wall clock of an attempt as a sum of three parts, walked back from the call that ended last.

    What a call waited for last is what held it up. A partial wait was over at the moment the call was sent, for that
    is what sends it.
    """
    calls = {call.id: call for call in attempt.calls if call.finish != "cancelled"}
    call = max(calls.values(), key=lambda c: c.ended, default=None)
    first = decoding = 0.0
    until = call.ended if call else 0.0
    while call:
        decoding += max(0.0, until - max(call.first_token, call.started))
        first += max(0.0, min(call.first_token, until) - call.started)
        before, begun = None, call.started
        for wait in call.waits:
            if wait.call in calls:
                ended = begun if wait.tokens is not None else min(begun, calls[wait.call].ended)
                if before is None or ended > until:
                    before, until = calls[wait.call], ended
        call = before
    return Spent(first, decoding, max(0.0, attempt.wall_seconds - first - decoding))


def stragglers(attempt: Attempt) -> list[tuple[int, float]]:
    """Of each stage with several executors: how many, and the slowest one's seconds over their mean."""
    stages: dict[int, list[float]] = {}
    for call in attempt.calls:
        if call.role == "executor" and call.finish != "cancelled":
            stages.setdefault(call.stage, []).append(call.ended - call.started)
    several = [seconds for seconds in stages.values() if len(seconds) > 1 and sum(seconds) > 0]
    return [(len(seconds), max(seconds) * len(seconds) / sum(seconds)) for seconds in several]


# --- the prefix cache -----------------------------------------------------------------


@dataclass(frozen=True)
class Hit:
    """A call's prompt and the server's cache, in tokens: `cacheable` of it an earlier call had, in whole blocks."""

    call: str
    kind: str  # "first" (of an attempt), "join" (a planner that reads executions), "executor"
    prompt: int
    cacheable: int
    cached: int


def contexts(attempt: Attempt, question: str) -> Iterator[tuple[Call, str]]:
    """The calls of a SPRINT attempt in order of their start, with the contexts they were sent, rebuilt from its text.

    What a forced answer was given to begin with is not in its context.
    """
    stages = parse(attempt.text.removeprefix(question)).stages
    plans = {call.id: call.completion for call in attempt.calls if call.role == "planner"}
    for call in sorted(attempt.calls, key=lambda c: c.started):
        planner, _, executor = call.id.partition("/")
        before: Sequence[Stage] = stages[: call.stage - 1]
        if len(before) < call.stage - 1:
            continue
        if not executor:
            yield call, planner_context(question, before)
            continue
        scanner = PromptScanner()
        prompts = scanner.feed(plans.get(planner, ""))
        at = int(executor[1:].partition("~")[0]) - 1
        if at < len(prompts):
            written = plans[planner][: scanner.ends[at]]
            yield call, executor_context(question, before, call.stage, written, prompts[at])


def hits(attempt: Attempt, question: str, encode: Callable[[str], list[int]], block: int) -> list[Hit]:
    """What the cache gave each call of an attempt that found it empty, and what it could have given.

    Of a prompt could be cached what an earlier call of the attempt had as its prompt or wrote, but for its last token
    (which is computed for what follows), rounded down to whole blocks of `block` tokens. Calls whose rebuilt prompt
    has not the tokens that were counted, and cancelled ones, are left out.
    """
    earlier: list[list[int]] = []
    found = []
    for call, context in contexts(attempt, question):
        ids = encode(context)
        shared = max((_common(ids, other) for other in earlier), default=0)
        kind = "executor" if call.role == "executor" else "join" if earlier else "first"
        if len(ids) == call.prompt_tokens and call.finish in ("stop", "length"):
            whole = min(shared, len(ids) - 1) // block * block
            found.append(Hit(call.id, kind, len(ids), whole, call.cached_tokens))
        earlier.append(encode(context + call.completion))
    return found


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# --- a model of the seconds -----------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What the seconds of one attempt are made of: numbers of calls and tokens."""

    calls: float  # on the path
    read: float  # tokens of their prompts that were not cached
    path: float  # tokens decoded on the path
    beside: float  # tokens decoded beside it


def counts(attempt: Attempt) -> Counts:
    """The counts of an attempt, on its longest path in tokens."""
    path = accounting.critical_path(attempt)
    calls = {call.id: call for call in attempt.calls}
    read = sum(calls[s.call].prompt_tokens - calls[s.call].cached_tokens for s in path)
    tokens = sum(segment.tokens for segment in path)
    return Counts(len(path), read, tokens, accounting.total_tokens(attempt) - tokens)


@dataclass(frozen=True)
class Cost:
    """Seconds for one of each of `Counts`. A decoding step with n streams takes path + (n - 1) beside: so the sum over
    an attempt's steps is linear in the tokens on its path and those beside it."""

    calls: float
    read: float
    path: float
    beside: float

    def seconds(self, counted: Counts) -> float:
        return sum(a * b for a, b in zip(astuple(self), astuple(counted), strict=True))


def fit(counted: Sequence[Counts], seconds: Sequence[float]) -> Cost:
    """Least squares in which nothing costs less than nothing.

    The best of all subsets of costs whose own least squares are positive: with four of them that is exact and quick.

    Raises:
        ValueError: if there are fewer attempts than costs.
    """
    rows, wanted = np.array([astuple(c) for c in counted], dtype=float), np.asarray(seconds, dtype=float)
    size = len(fields(Counts))
    if len(rows) < size:
        raise ValueError(f"a latency model of {size} costs needs as many attempts to be fitted to, not {len(rows)}")
    best, found = float(wanted @ wanted), np.zeros(size)
    for columns in (list(c) for n in range(1, size + 1) for c in combinations(range(size), n)):
        solved = np.linalg.lstsq(rows[:, columns], wanted, rcond=None)[0]
        error = float(((rows[:, columns] @ solved - wanted) ** 2).sum())
        if (solved >= 0).all() and error < best:
            best, found = error, np.zeros(size)
            found[columns] = solved
    return Cost(*map(float, found))


def r2(measured: Sequence[float], predicted: Sequence[float]) -> float:
    """Share of the variance of measured seconds that predictions made without them explain; below 0 is worse than
    their mean. NaN for fewer than two, or all alike."""
    x, y = np.asarray(measured, dtype=float), np.asarray(predicted, dtype=float)
    spread = float(((x - x.mean()) ** 2).sum()) if len(x) > 1 else 0.0
    return 1 - float(((x - y) ** 2).sum()) / spread if spread else float("nan")


# --- another machine ------------------------------------------------------------------


@dataclass(frozen=True)
class Hardware:
    """What a GPU and a model on it are assumed to be; of the arithmetic and the bandwidth a share is reached."""

    parameters: float = 7.6e9
    layers: int = 28
    cache_bytes: float = 57_344.0  # keys and values of one token: 28 layers, 4 heads of 128, two of them, 2 bytes
    weight_bytes: float = 2.0  # a parameter
    bandwidth: float = 1.555e12  # bytes a second of one GPU
    arithmetic: float = 312e12  # operations a second of one GPU
    reached: float = 0.6  # share of both
    call_seconds: float = 0.01  # to ask and be answered
    step_seconds: float = 0.001  # of a decoding step, whatever the model
    joining_seconds: float = 1e-5  # of the GPUs, twice a layer, if there are several


def assumed(hardware: Hardware, gpus: int, context: float) -> Cost:
    """What the counts would cost with the model split over `gpus`, all layers on all of them (tensor parallel).

    Reading is bound by arithmetic (two operations a parameter and token), a decoding step by what it must load:
    all weights once, and for each stream the keys and values of its `context` tokens.
    """
    h, loaded = hardware, gpus * hardware.bandwidth * hardware.reached
    stream = h.cache_bytes * context / loaded
    together = 2 * h.layers * h.joining_seconds if gpus > 1 else 0.0
    step = h.parameters * h.weight_bytes / loaded + together + h.step_seconds
    read = 2 * h.parameters / (gpus * h.arithmetic * h.reached)
    return Cost(calls=h.call_seconds + together, read=read, path=step + stream, beside=stream)


def mean_context(attempts: Sequence[Attempt]) -> float:
    """Tokens before the one that is decoded, on average over all tokens of the attempts."""
    calls = [call for attempt in attempts for call in attempt.calls]
    written = sum(call.completion_tokens for call in calls)
    return sum(c.completion_tokens * (c.prompt_tokens + c.completion_tokens / 2) for c in calls) / max(1, written)


def costs_in_words(cost: Cost) -> dict[str, float]:
    """In milliseconds, by what it is for."""
    words = {"calls": "a call", "read": "a token read", "path": "a token on the path", "beside": "a token beside it"}
    return {words[name]: 1000 * value for name, value in asdict(cost).items()}
