"""Label noise: wrong edges put into dependency graphs that are known to be true, so that the effect of an annotator's
mistakes can be measured. A mistake is an edge too many (*spurious*), one from the wrong step (*moved*) or one too few
(*dropped*). How much of that there is goes by the rate, which places by the seed: the mistakes of a low rate are among
those of every higher one with the same seed, so that rates differ in nothing but how far they go.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

from sprint_lib.curation import Annotated
from sprint_lib.curation.graph import dependency_graph


@dataclass(frozen=True)
class Noisy:
    """A trace with mistakes in its dependencies, their numbers by kind, and the places where there could be one.

    A place is a true edge, or a step that needs nothing though other steps come before it.
    """

    annotated: Annotated
    places: int
    spurious: int = 0
    moved: int = 0
    dropped: int = 0

    @property
    def wrong(self) -> int:
        """Mistakes of all kinds."""
        return self.spurious + self.moved + self.dropped


def with_wrong_edges(annotated: Annotated, rate: float, seed: int = 0) -> Noisy:
    """A trace of known dependencies with a mistake in every place with probability `rate`.

    A step that needs nothing gets a parent among the steps before it. A true edge is taken away; if there is an
    earlier step that its child does not need, it leads from there instead. Edges only ever lead forward, so no cycle
    can come of it.

    Raises:
        ValueError: if `rate` is no share, or the dependencies are not known.
        AnnotationError: if the given dependencies make no graph.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}, it must be a share from 0 to 1")
    if annotated.parents is None:
        raise ValueError(f"{annotated.trace.id}: its dependencies are not known; run annotate_dependencies first")
    dependency_graph(len(annotated.steps), annotated.parents)
    rng = random.Random(f"{seed} {annotated.trace.id}")
    kinds: Counter[str] = Counter()
    noisy: dict[int, tuple[int, ...]] = {}
    for child in range(1, len(annotated.steps) + 1):
        true = annotated.parents[child]
        others = [step for step in range(1, child) if step not in true]
        rng.shuffle(others)  # what is drawn does not depend on the rate
        places: list[int | None] = [*true] or [None] * bool(others)
        kept: list[int | None] = []
        for place, parent in enumerate(places):
            instead = others[place] if place < len(others) else None
            mistaken = rng.random() < rate
            kinds[_kind(parent, instead) if mistaken else "right"] += 1
            kept.append(instead if mistaken else parent)
        noisy[child] = tuple(parent for parent in kept if parent is not None)
    found = replace(annotated, parents=noisy)
    return Noisy(found, kinds.total(), kinds["spurious"], kinds["moved"], kinds["dropped"])


def _kind(parent: int | None, instead: int | None) -> str:
    return "spurious" if parent is None else "dropped" if instead is None else "moved"
