"""The dependency graph of a trace's steps: edges from a step to those that need its result (paper, A.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx

from sprint_lib.curation.steps import AnnotationError


def dependency_graph(steps: int, parents: Mapping[int, Sequence[int]]) -> nx.DiGraph:
    """Graph on steps 1..`steps` with an edge from every parent to its child.

    Raises:
        AnnotationError: if a step is missing or unknown, or needs itself or a later step (so there are no cycles).
    """
    wrong = [f"dependencies of step {n} are missing" for n in range(1, steps + 1) if n not in parents]
    wrong += [f"step {n} does not exist" for n in sorted(parents) if not 1 <= n <= steps]
    for child in sorted(parents):
        for parent in parents[child]:
            if not 1 <= parent <= steps:
                wrong.append(f"step {child} needs step {parent}, which does not exist")
            elif parent >= child:
                wrong.append(f"step {child} needs step {parent}, which does not come before it")
    if wrong:
        raise AnnotationError("; ".join(wrong))
    graph = nx.DiGraph()
    graph.add_nodes_from(range(1, steps + 1))
    graph.add_edges_from((parent, child) for child in sorted(parents) for parent in parents[child])
    return graph


def reduced(graph: nx.DiGraph) -> nx.DiGraph:
    """The fewest edges from which all others follow (transitive reduction); the graph given stays as it is.

    Stages are the same with it and without: a step waits for whatever the steps that it needs wait for.
    """
    return nx.transitive_reduction(graph)
