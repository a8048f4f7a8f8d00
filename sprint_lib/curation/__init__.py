"""Curation: sequential traces become training samples of planned, parallel ones (paper, section 3.2 and A.2).

    traces -> numbered lines -> steps -> dependency graph -> stages -> samples

An annotator reads steps and dependencies; everything else is the same for every task. Each arrow is one function
here, which sets aside what it cannot use and says why; `curate` does them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sprint_lib.calls import Attempt
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.packing import MIN_RATIO, Packing, pack
from sprint_lib.curation.steps import AnnotationError, Annotator, Step, check_steps

T = TypeVar("T")


@dataclass(frozen=True)
class Trace:
    """A sequential trace of reasoning that found the right answer."""

    id: str
    question: str
    text: str


@dataclass(frozen=True)
class Annotated:
    """A trace with its steps and, once they are known, the steps that each step needs."""

    trace: Trace
    steps: tuple[Step, ...]
    parents: Mapping[int, Sequence[int]] | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        return number_lines(self.trace.text)

    def to_json(self) -> dict[str, Any]:
        parents = None if self.parents is None else {str(k): list(v) for k, v in self.parents.items()}
        return {**vars(self.trace), "steps": [step.to_json() for step in self.steps], "parents": parents}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Annotated:
        parents = value["parents"]
        return cls(
            Trace(value["id"], value["question"], value["text"]),
            tuple(Step.from_json(step) for step in value["steps"]),
            None if parents is None else {int(k): tuple(v) for k, v in parents.items()},
        )


@dataclass(frozen=True)
class Packed:
    """A trace and the trajectory it became."""

    annotated: Annotated
    packing: Packing


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


def right_traces(attempts: Iterable[Attempt], questions: Mapping[str, str]) -> Sifted[Trace]:
    """Traces of the attempts that ended well and were graded correct; `questions` are by problem id."""
    sifted: Sifted[Trace] = Sifted([], [])
    for attempt in attempts:
        id_ = f"{attempt.problem}#{attempt.sample}"
        if attempt.status == "ok" and attempt.correct:
            sifted.kept.append(Trace(id_, questions[attempt.problem], attempt.text))
        else:
            reason = "wrong answer" if attempt.status == "ok" else attempt.status
            sifted.aside.append(Aside(id_, "traces", reason))
    return sifted


async def annotate_steps(traces: Sequence[Trace], annotator: Annotator) -> Sifted[Annotated]:
    """Steps of every trace, checked: each line in exactly one place."""
    sifted: Sifted[Annotated] = Sifted([], [])
    for trace in traces:
        lines = number_lines(trace.text)
        try:
            steps = await annotator.steps(trace.question, lines)
            check_steps(steps, lines)
        except AnnotationError as error:
            sifted.aside.append(Aside(trace.id, "steps", str(error)))
        else:
            sifted.kept.append(Annotated(trace, tuple(steps)))
    return sifted


async def annotate_dependencies(annotated: Sequence[Annotated], annotator: Annotator) -> Sifted[Annotated]:
    """Dependencies between the steps of every trace, checked: each step needs earlier ones only."""
    sifted: Sifted[Annotated] = Sifted([], [])
    for item in annotated:
        try:
            parents = await annotator.dependencies(item.trace.question, item.lines, item.steps)
            dependency_graph(len(item.steps), parents)
        except AnnotationError as error:
            sifted.aside.append(Aside(item.trace.id, "graph", str(error)))
        else:
            sifted.kept.append(replace(item, parents=parents))
    return sifted


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
    traces: Sequence[Trace], annotator: Annotator, *, cap: int | None = None, min_ratio: float = MIN_RATIO
) -> Sifted[Packed]:
    """All of curation on traces with a right answer."""
    steps = await annotate_steps(traces, annotator)
    graphs = await annotate_dependencies(steps.kept, annotator)
    packed = pack_traces(graphs.kept, cap=cap, min_ratio=min_ratio)
    return Sifted(packed.kept, [*steps.aside, *graphs.aside, *packed.aside])
