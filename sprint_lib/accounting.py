"""What an attempt costs: token counts and seconds, all from the one graph of its calls.

Total tokens are a sum over the calls. Sequential tokens are the longest path: SPRINT's
sum over stages of max over prompts (P_ik + E_ik) (arXiv 2506.05745, section 4.1), and just
as well self-consistency's longest sample, Skeleton-of-Thought's skeleton and longest
point, or APR's parent, slowest child, parent. Seconds are the same longest path with
rates instead of ones. `tokens_of` counts a trajectory's text by building its calls first,
so that a text and a recorded attempt are measured by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sprint_lib.calls import Attempt, Call, Wait, in_order
from sprint_lib.trajectory import Prompt, Stage, Trajectory, render_execution, render_part

Calls = Attempt | Sequence[Call]
MAIN_ROLES = ("planner", "parent", "main")  # whose calls go on from each other
SPAWNED_ROLES = ("executor", "child", "body")  # whose calls ran beside the thread that plans


@dataclass(frozen=True)
class Segment:
    """A piece of a critical path: the first `tokens` completion tokens of a call."""

    call: str
    role: str
    tokens: int


def total_tokens(calls: Calls) -> int:
    """Everything generated, discarded tries included."""
    return sum(call.completion_tokens for call in _calls(calls))


def spawned(calls: Calls) -> int:
    """Threads beside the one that plans: executors, children, bodies of promises; 0 for one line."""
    return sum(call.role in SPAWNED_ROLES for call in _calls(calls))


def prefill_tokens(calls: Calls) -> int:
    """Prompt tokens that had to be computed: all but the cached ones."""
    return sum(call.prompt_tokens - call.cached_tokens for call in _calls(calls))


def cancelled_tokens(calls: Calls) -> int:
    """Tokens of calls that were cancelled: part of the total, not of any path to the answer."""
    return sum(call.completion_tokens for call in _calls(calls) if call.finish == "cancelled")


def cached_tokens(calls: Calls) -> int:
    """Prompt tokens whose keys and values were at hand."""
    return sum(call.cached_tokens for call in _calls(calls))


def sequential_tokens(calls: Calls) -> int:
    """Completion tokens on the longest path; a partial wait counts only up to its token.

    Raises:
        CallGraphError: if the calls form no graph; likewise for everything below.
    """
    return sum(segment.tokens for segment in critical_path(calls))


def serial_tokens(calls: Calls) -> int:
    """The longest path if every call waits for the whole of what it waits for.

    So the authors' code counts: executors start after the plan, not at their prompt.
    """
    return round(_longest(_calls(calls), _tokens, partial=False)[0])


def longest_thread(calls: Calls) -> int:
    """Tokens of the longest single thread: what the APR paper calls sequential tokens (arXiv 2504.15466).

    The calls of a planner, a parent or a main thread are one thread, their texts together, and so are the steps of one
    worker; every other call is a thread of its own. It leaves out who waited for whom, so it is at most
    `sequential_tokens` unless calls were cancelled.
    """
    threads: dict[str, int] = {}
    for call in _calls(calls):
        one = "main" if call.role in MAIN_ROLES else f"worker {call.index}" if call.role == "worker" else call.id
        threads[one] = threads.get(one, 0) + call.completion_tokens
    return max(threads.values(), default=0)


def largest_context(calls: Calls, role: str = "") -> int:
    """The most tokens, prompt and completion, that one call (of a role) had: the context window it takes.

    Calls that ended as `error` or `cancelled` have no prompt tokens to count. What workers of a shared cache wrote
    while a step of another one went on is in that one's context, too, and is not counted.
    """
    found = (call for call in _calls(calls) if not role or call.role == role)
    return max((call.prompt_tokens + call.completion_tokens for call in found), default=0)


def critical_path(calls: Calls) -> tuple[Segment, ...]:
    """The longest path in completion tokens, first call first; of equally long ones the first in the graph.

    A call that no later one waited for (an executor of a discarded try) may end it: the loop waits for it all the same.
    """
    return _longest(_calls(calls), _tokens)[1]


def mean_sample(calls: Calls) -> float:
    """Completion tokens of the mean sample: what SPRINT's paper gives as self-consistency's sequential tokens. Whoever
    wants the vote waits for the longest one, which is what `sequential_tokens` counts. 0 without samples."""
    tokens = [call.completion_tokens for call in _calls(calls) if call.role == "sample"]
    return sum(tokens) / max(1, len(tokens))


@dataclass(frozen=True)
class LatencyModel:
    """Seconds of an attempt where any number of calls run at once at these rates.

    `prefill_rate` and `decode_rate` are tokens a second of one call, `overhead` seconds a
    call. The time to first token is overhead + uncached prompt / prefill_rate: the pass
    that reads the prompt yields that token, only those after it are decoded one by one.
    """

    prefill_rate: float
    decode_rate: float
    overhead: float = 0.0

    def __post_init__(self) -> None:
        if self.prefill_rate <= 0 or self.decode_rate <= 0 or self.overhead < 0:
            raise ValueError(f"latency model: rates must be above 0 and the overhead not below: {self}")

    def seconds(self, calls: Calls) -> float:
        """The longest path in modelled seconds."""
        return _longest(_calls(calls), self._until)[0]

    def path(self, calls: Calls) -> tuple[Segment, ...]:
        """The calls that these seconds are spent in, first call first; not always the critical path in tokens."""
        return _longest(_calls(calls), self._until)[1]

    def _until(self, call: Call, tokens: int) -> float:
        prefill = (call.prompt_tokens - call.cached_tokens) / self.prefill_rate
        return self.overhead + prefill + max(0, tokens - 1) / self.decode_rate


def costs(calls: Calls) -> dict[str, float]:
    """Every count of an attempt by name: sequential, serial, total, prefill, cached (tokens), calls, stages.

    A stage counts once it has an executor or another stage follows; the planner's call
    that writes the final answer is therefore none.
    """
    found = _calls(calls)
    last = max((call.stage for call in found), default=0)
    stages = {call.stage for call in found if call.stage > 0 and (call.stage < last or call.role == "executor")}
    return {
        "sequential": sequential_tokens(found),
        "serial": serial_tokens(found),
        "total": total_tokens(found),
        "prefill": prefill_tokens(found),
        "cached": cached_tokens(found),
        "calls": len(found),
        "stages": len(stages),
    }


def _calls(calls: Calls) -> Sequence[Call]:
    return calls.calls if isinstance(calls, Attempt) else calls


def _tokens(call: Call, tokens: int) -> float:
    return tokens


def _longest(
    calls: Sequence[Call], until: Callable[[Call, int], float], *, partial: bool = True
) -> tuple[float, tuple[Segment, ...]]:
    """The longest path, where `until(call, n)` is what a call takes from its start to its n-th token."""
    by_id: dict[str, Call] = {}
    starts: dict[str, float] = {}
    reached_by: dict[str, Wait | None] = {}
    best, last = 0.0, None
    for call in in_order(calls):
        by_id[call.id], starts[call.id], reached_by[call.id] = call, 0.0, None
        for wait in call.waits:
            after = wait if partial and wait.tokens is not None else Wait(wait.call, by_id[wait.call].completion_tokens)
            ready = starts[wait.call] + until(by_id[wait.call], after.tokens or 0)
            if ready > starts[call.id] or reached_by[call.id] is None:
                starts[call.id], reached_by[call.id] = ready, after
        end = starts[call.id] + until(call, call.completion_tokens)
        if call.finish != "cancelled" and (last is None or end > best):  # nobody waited for what was cancelled
            best, last = end, Wait(call.id, call.completion_tokens)
    path: list[Segment] = []
    while last:
        path.append(Segment(last.call, by_id[last.call].role, last.tokens or 0))
        last = reached_by[last.call]
    return best, tuple(reversed(path))


# --- a trajectory's text as calls -------------------------------------------------------

Count = Callable[[str], int]  # tokens of a text


def calls_of(trajectory: Trajectory, count: Count, *, tags: bool = False, tails: bool = True) -> tuple[Call, ...]:
    """The calls that would have written a trajectory, in the graph that the loop produces.

    With `tags`, the tags that a model writes count too; those around an execution block
    are the loop's. Without `tails`, what a plan says after its last prompt is left out.
    """
    calls: list[Call] = []
    waits: tuple[Wait, ...] = ()
    for place, stage in enumerate(trajectory.stages, 1):
        planner, ends = _planner(stage, place, waits, count, tags)
        if ends and not tails:
            planner = replace(planner, completion_tokens=max(ends.values()))
        executors = _executors(stage, planner, ends, count, tags)
        calls += [planner, *executors]
        waits = tuple(Wait(call.id) for call in (planner, *executors))
    if trajectory.final is not None:
        text = f"<Final_answer>\n{trajectory.final}</Final_answer>" if tags else trajectory.final
        number = len(trajectory.stages) + 1
        calls.append(Call("final", "planner", number, waits=waits, completion_tokens=count(text)))
    return tuple(calls)


_Ends = dict[tuple[int, int], int]  # after how many of its plan's tokens a prompt ends
_WHOLE_PREFIXES = 64  # prompts of a plan whose ends are counted as one text each; further ones piece by piece


def _planner(stage: Stage, place: int, waits: tuple[Wait, ...], count: Count, tags: bool) -> tuple[Call, _Ends]:
    written, before = f"<Plan_{stage.number}>\n" if tags else "", 0  # what is still to be counted, and what has been
    ends: _Ends = {}
    for part in stage.plan:
        written += render_part(part) if tags or isinstance(part, str) else part.text
        if isinstance(part, Prompt):
            ends[part.stage, part.index] = end = before + count(written)
            if len(ends) >= _WHOLE_PREFIXES:
                written, before = "", end
    tokens = before + count(f"{written}</Plan_{stage.number}>" if tags else written)
    # A tokenizer may cut a prefix into more tokens than the whole.
    ends = {prompt: min(end, tokens) for prompt, end in ends.items()}
    return Call(f"plan {place}", "planner", place, waits=waits, completion_tokens=tokens), ends


def _executors(stage: Stage, planner: Call, ends: _Ends, count: Count, tags: bool) -> list[Call]:
    calls: list[Call] = []
    for place, execution in enumerate(stage.executions, 1):
        text = render_execution(execution) if tags else execution.text
        # One without a prompt cannot have started before the whole plan was there.
        wait = Wait(planner.id, ends.get((execution.stage, execution.index)))
        id_ = f"{planner.id}, execution {place}"
        calls.append(Call(id_, "executor", planner.stage, place, (wait,), completion_tokens=count(text)))
    return calls


def tokens_of(trajectory: Trajectory, count: Count, *, tags: bool = False) -> dict[str, int]:
    """Token counts of a trajectory's text: sequential, formula, serial, total, calls, stages.

    `sequential` is the longest path in the loop's graph, where a planner waits for the
    whole plan before it. `formula` is the paper's sum: what a plan says after its last
    prompt does not count. They differ only where that outlasts the stage's executors; a
    plan without prompts and the final answer, for which the sum has no term, count in both.
    """
    found = costs(calls_of(trajectory, count, tags=tags))
    return {
        "sequential": int(found["sequential"]),
        "formula": sequential_tokens(calls_of(trajectory, count, tags=tags, tails=False)),
        "serial": int(found["serial"]),
        "total": int(found["total"]),
        "calls": int(found["calls"]),
        "stages": len(trajectory.stages),
    }
