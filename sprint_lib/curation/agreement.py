"""How far an annotation of a trace agrees with a reference: where steps begin, and which steps need which.

Both are sets, so both are scored by precision, recall and F1. `pooled` puts the scores of several traces together,
with intervals over traces: the steps of one trace do not vote independently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import networkx as nx
import numpy as np

from sprint_lib.curation import Annotated
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.steps import AnnotationError, Annotator, Step
from sprint_lib.evaluation import statistics
from sprint_lib.evaluation.statistics import NONE, Array, Estimate

Relation = Literal["edges", "closure"]


@dataclass(frozen=True)
class Agreement:
    """`hits` of the `found` items of an annotation are among the `wanted` ones of the reference."""

    hits: int
    found: int
    wanted: int


async def annotate(annotator: Annotator, references: Iterable[Annotated]) -> list[Annotated]:
    """What an annotator makes of the lines of annotated traces; no steps where it cannot read them."""
    found: list[Annotated] = []
    for reference in references:
        trace, lines = reference.trace, reference.lines
        try:
            steps = await annotator.steps(trace.question, lines)
            parents = await annotator.dependencies(trace.question, lines, steps)
        except AnnotationError:
            steps, parents = [], {}
        found.append(Annotated(trace, tuple(steps), parents))
    return found


def scores(references: Sequence[Annotated], others: Sequence[Annotated]) -> dict[str, list[Agreement]]:
    """Agreements trace by trace: on boundaries, on edges, and on order, which is all that follows from the edges.

    Raises:
        ValueError: if there are not as many annotations of one kind as of the other.
    """
    pairs = list(zip(references, others, strict=True))
    return {
        "boundaries": [boundary_scores(*pair) for pair in pairs],
        "edges": [edge_scores(*pair) for pair in pairs],
        "order": [edge_scores(*pair, "closure") for pair in pairs],
    }


def boundary_scores(reference: Annotated, other: Annotated) -> Agreement:
    """Agreement on the lines where steps begin; line 1, where the first one always does, is not counted."""
    wanted, found = _starts(reference.steps), _starts(other.steps)
    return Agreement(len(wanted & found), len(found), len(wanted))


def _starts(steps: Iterable[Step]) -> set[int]:
    return {min(step.lines) for step in steps if step.lines} - {1}


def edge_scores(reference: Annotated, other: Annotated, relation: Relation = "edges") -> Agreement:
    """Agreement on which steps need which, also where the steps differ.

    A step stands for the reference step with which it shares most lines, the first of several. So its edges become
    edges of the reference; those inside one reference step are not counted, those of a step that shares no line
    with any are found but wrong. `relation` compares the edges as given, or all that follow from them (`closure`: what
    must come before what).

    Raises:
        AnnotationError: if the parents of one of them make no dependency graph.
    """
    wanted = set(_edges(reference, relation))
    place = _places(reference.steps, other.steps)
    found = {(place[parent], place[child]) for parent, child in _edges(other, relation)}
    found = {(parent, child) for parent, child in found if parent != child}
    return Agreement(len(wanted & found), len(found), len(wanted))


def _edges(annotated: Annotated, relation: Relation) -> Iterable[tuple[int, int]]:
    graph = dependency_graph(len(annotated.steps), annotated.parents or {})
    if relation == "closure":
        graph = nx.transitive_closure_dag(graph)
    edges: Iterable[tuple[int, int]] = graph.edges
    return edges


def _places(reference: Sequence[Step], other: Sequence[Step]) -> dict[int, int]:
    """For each step the reference step that it stands for, or a number that none has."""
    owners: dict[int, list[int]] = {}
    for number, step in enumerate(reference, 1):
        for line in set(step.lines):
            owners.setdefault(line, []).append(number)
    places: dict[int, int] = {}
    for number, step in enumerate(other, 1):
        shared = Counter(owner for line in set(step.lines) for owner in owners.get(line, ()))
        places[number] = min(shared, key=lambda owner: (-shared[owner], owner), default=-number)
    return places


def pooled(scores: Sequence[Agreement], *, seed: int = 0) -> dict[str, Estimate]:
    """Precision, recall and F1 over all items of several traces, with bootstrap intervals over traces; n is traces.

    A sample of traces in which nothing was found, or nothing is wanted, counts as 0.

    Raises:
        ValueError: if there are no scores.
    """
    columns = np.array([[s.hits, s.found, s.wanted] for s in scores], dtype=np.float64)
    over: Mapping[str, Array] = {
        "precision": np.array([0.0, 1.0, 0.0]),
        "recall": np.array([0.0, 0.0, 1.0]),
        "f1": np.array([0.0, 0.5, 0.5]),
    }
    return {name: _share(columns, weights, seed) for name, weights in over.items()}


def summary(scores: Sequence[Agreement]) -> dict[str, float]:
    """A row of a table: n (traces), wanted, found and hits in all, and `pooled` in percent with `_low` and `_high`."""
    row: dict[str, float] = {"n": len(scores)}
    row |= {part: sum(getattr(score, part) for score in scores) for part in ("wanted", "found", "hits")}
    for name, estimate in pooled(scores).items():
        share = estimate.scaled(100)
        row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    return row


def _share(columns: Array, weights: Array, seed: int) -> Estimate:
    """Hits over a weighted sum of what was found and wanted."""
    if len(columns) and not (columns @ weights).any():
        return replace(NONE, n=len(columns))

    def statistic(means: Array) -> Array:
        whole = means @ weights
        return np.divide(means[..., 0], whole, out=np.zeros_like(whole), where=whole > 0)

    return statistics.bootstrap(columns, statistic, seed=seed)
