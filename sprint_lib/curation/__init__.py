"""Curation: sequential traces become training samples of planned, parallel ones (paper, section 3.2 and A.2).

    traces -> numbered lines -> steps -> dependency graph -> stages -> samples

An annotator reads steps and dependencies; everything else is the same for every task. Each arrow is one function
here, which sets aside what it cannot use and says why; `curate` does them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.packing import MIN_RATIO, Packing, pack
from sprint_lib.curation.steps import AnnotationError, Annotator, Step, check_steps

T = TypeVar("T")
S = TypeVar("S")
Stage = Callable[
    [str, int], Callable[[], None]
]  # told a stage and its number of traces; gives what each calls at its end


def _unwatched() -> None:
    """The default of `done`: nobody counts."""


@dataclass(frozen=True)
class Trace:
    """A sequential trace of reasoning that found the right answer.

    `problem` is the id of its problem ("": its own), of which there may be several traces; `answer` the right answer.
    """

    id: str
    question: str
    text: str
    problem: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Annotated:
    """A trace with its steps and, once they are known, the steps that each step needs.

    `repairs` are what its annotator had to mend to read it, in words.
    """

    trace: Trace
    steps: tuple[Step, ...]
    parents: Mapping[int, Sequence[int]] | None = None
    repairs: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def lines(self) -> tuple[str, ...]:
        return number_lines(self.trace.text)

    def to_json(self) -> dict[str, Any]:
        parents = None if self.parents is None else {str(k): list(v) for k, v in self.parents.items()}
        steps = [step.to_json() for step in self.steps]
        return {**vars(self.trace), "steps": steps, "parents": parents, "repairs": list(self.repairs)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Annotated:
        parents = value["parents"]
        problem, answer = value.get("problem", ""), value.get("answer", "")
        return cls(
            Trace(value["id"], value["question"], value["text"], problem, answer),
            tuple(Step.from_json(step) for step in value["steps"]),
            None if parents is None else {int(k): tuple(v) for k, v in parents.items()},
            repairs=tuple(value.get("repairs", ())),
        )


@dataclass(frozen=True)
class Packed:
    """A trace and the trajectory it became; `filled`: with a last stage as wide as its plan (`curation.filling`)."""

    annotated: Annotated
    packing: Packing
    filled: bool = False


@dataclass(frozen=True)
class Aside:
    """A trace that was set aside at a stage, with the reason."""

    trace: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Sifted(Generic[T]):
    """What a stage of curation, or all of it, kept and what it set aside."""

    kept: list[T]
    aside: list[Aside]


async def annotate_steps(
    traces: Sequence[Trace], annotator: Annotator, done: Callable[[], None] = _unwatched
) -> Sifted[Annotated]:
    """Steps of every trace, checked: each line in exactly one place. Traces are annotated at once, kept in order.

    `done` is called at the end of each.
    """

    async def annotate(trace: Trace) -> Annotated | Aside:
        lines = number_lines(trace.text)
        repairs: list[str] = []
        try:
            steps = await annotator.steps(trace.question, lines, repairs.append)
            check_steps(steps, lines)
        except AnnotationError as error:
            return Aside(trace.id, "steps", str(error))
        return Annotated(trace, tuple(steps), repairs=tuple(repairs))

    return await _sift(traces, annotate, done)


async def annotate_dependencies(
    annotated: Sequence[Annotated], annotator: Annotator, done: Callable[[], None] = _unwatched
) -> Sifted[Annotated]:
    """Dependencies between the steps of every trace, checked: each step needs earlier ones only. Order as given.

    `done` is called at the end of each.
    """

    async def annotate(item: Annotated) -> Annotated | Aside:
        repairs = list(item.repairs)
        try:
            parents = await annotator.dependencies(item.trace.question, item.lines, item.steps, repairs.append)
            dependency_graph(len(item.steps), parents)
        except AnnotationError as error:
            return Aside(item.trace.id, "graph", str(error))
        return replace(item, parents=parents, repairs=tuple(repairs))

    return await _sift(annotated, annotate, done)


async def _sift(items: Iterable[S], work: Callable[[S], Awaitable[T | Aside]], done: Callable[[], None]) -> Sifted[T]:
    """`work` on all items at once; if one raises, the others are stopped."""
    sifted: Sifted[T] = Sifted([], [])
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(work, item, done)) for item in items]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    for task in tasks:
        outcome = task.result()
        if isinstance(outcome, Aside):
            sifted.aside.append(outcome)
        else:
            sifted.kept.append(outcome)
    return sifted


async def _run(work: Callable[[S], Awaitable[T]], item: S, done: Callable[[], None]) -> T:
    outcome = await work(item)
    done()
    return outcome


def pack_traces(
    annotated: Sequence[Annotated], *, cap: int | None = None, min_ratio: float = MIN_RATIO
) -> Sifted[Packed]:
    """Trajectories of the traces that have at least `min_ratio` steps a stage; `cap` as in `packing.pack`."""
    sifted: Sifted[Packed] = Sifted([], [])
    for item in annotated:
        if item.parents is None:
            raise ValueError(f"{item.trace.id}: its dependencies are not known; run annotate_dependencies first")
        graph = dependency_graph(len(item.steps), item.parents)
        try:
            packing = pack(item.trace.question, item.lines, item.steps, graph, cap=cap)
        except AnnotationError as error:
            sifted.aside.append(Aside(item.trace.id, "packing", str(error)))
            continue
        if packing.ratio < min_ratio:
            sifted.aside.append(Aside(item.trace.id, "filter", f"fewer than {min_ratio:g} steps a stage"))
        else:
            sifted.kept.append(Packed(item, packing))
    return sifted


async def curate(
    traces: Sequence[Trace],
    annotator: Annotator,
    *,
    cap: int | None = None,
    min_ratio: float = MIN_RATIO,
    stage: Stage = lambda name, traces: _unwatched,
) -> Sifted[Packed]:
    """All of curation on traces with a right answer; `stage` hears of its progress."""
    steps = await annotate_steps(traces, annotator, stage("steps", len(traces)))
    graphs = await annotate_dependencies(steps.kept, annotator, stage("dependencies", len(steps.kept)))
    packed = pack_traces(graphs.kept, cap=cap, min_ratio=min_ratio)
    return Sifted(packed.kept, [*steps.aside, *graphs.aside, *packed.aside])
