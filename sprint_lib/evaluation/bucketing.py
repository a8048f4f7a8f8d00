"""Figure 6 from the released runs, with its controls: what SPRINT saves by length, and how much of that is luck.

Which problems count as long is decided by the run that is measured, as in the paper, by
another RFT run, or by the mean of both; the null line has an RFT run in SPRINT's place.
The counts are `audit`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sprint_lib import tables
from sprint_lib.evaluation import statistics
from sprint_lib.evaluation.audit import FORMULA, LONG, Convention, Logs, lengths_of
from sprint_lib.evaluation.statistics import NONE, Array, Estimate

EDGES = (1000, 2000, 4000, 6000, 8000)  # buckets of Figure 6, tokens; the paper names no limit of its short problems

_BY = {  # series of Figure 6: style, then whose lengths decide the bucket, are the baseline, are compared with it
    "SPRINT, bucketed by the RFT run it is measured against": ("naive", "rft", "rft", "sprint"),
    "SPRINT, bucketed by the other RFT run": ("main", "control", "rft", "sprint"),
    "SPRINT, bucketed by the mean of both": ("mean", "mean", "rft", "sprint"),
    "no SPRINT: the other RFT run against RFT, bucketed by RFT": ("null", "rft", "rft", "control"),
}
_SWAPPED = {
    "SPRINT against the other RFT run, bucketed by RFT": ("rft", "control", "sprint"),
    "no SPRINT: RFT against the other RFT run, bucketed by that one": ("control", "control", "rft"),
}


def common(logs: Logs, convention: Convention) -> dict[str, Array]:
    """Sequential tokens of `rft`, `control`, their `mean` and `sprint`, on the problems that all three have.

    The convention is for SPRINT; a sequential system's tokens are those that it wrote.
    """
    runs = {system: lengths_of(system, logs, convention) for system in ("rft", "control", "sprint")}
    shared = [id_ for id_ in runs["rft"] if id_ in runs["control"] and id_ in runs["sprint"]]
    found = {system: np.array([by_id[id_] for id_ in shared]) for system, by_id in runs.items()}
    return found | {"mean": (found["rft"] + found["control"]) / 2}


def figure6(logs: Logs, convention: Convention = FORMULA, edges: Sequence[float] = EDGES) -> pd.DataFrame:
    """Data of `plots.reduction`: savings by length, bucketed as the paper does, with two controls and the null line.

    A run that was long by chance is shorter the next time, so the paper's way of
    bucketing shows a saving that grows with length where there is none: the null line is
    that. The other RFT runs are shorter throughout, which shifts it as a whole (`long_problems`).
    """
    tokens = common(logs, convention)
    lines = []
    for series, (style, *roles) in _BY.items():
        by, base, other = (tokens[who].tolist() for who in roles)
        lines.append(tables.reduction_by_length(series, style, by, base, other, edges=edges))
    return pd.concat(lines, ignore_index=True)


def long_problems(logs: Logs, convention: Convention = FORMULA, above: float = LONG) -> pd.DataFrame:
    """Savings of Figure 6 on problems above so many tokens of the run that buckets them, in percent with 95 % interval.

    Columns: series, bucketed_by, saved (on those n problems), over_all, and rise, which is
    saved minus over_all in points: what length does, whatever the level of the two systems.
    To the series of Figure 6 come SPRINT against the other RFT run, and the null line the
    other way round. The last row is SPRINT's rise minus the null line's.
    """
    tokens = common(logs, convention)
    rows: list[dict[str, Any]] = []
    for series, (by, base, other) in ({s: roles for s, (_, *roles) in _BY.items()} | _SWAPPED).items():
        inside = tokens[by] > above
        part, over_all = saved(tokens[base][inside], tokens[other][inside]), saved(tokens[base], tokens[other])
        rise = NONE
        if inside.any():
            rise = statistics.reduction_contrast(tokens[base], tokens[other], inside).scaled(100)
        rows.append({"series": series, "bucketed_by": by, **tables.bounded("saved", part), "n": part.n})
        rows[-1] |= tables.bounded("over_all", over_all) | tables.bounded("rise", rise)
    inside = tokens["rft"] > above
    last = {"series": "SPRINT's rise beyond the null line's", "bucketed_by": "rft", "n": int(inside.sum())}
    return pd.DataFrame([*rows, last | tables.bounded("rise", _beyond(tokens, inside))])


def _beyond(tokens: Mapping[str, Array], inside: NDArray[np.bool_]) -> Estimate:
    """How much more SPRINT's saving rises from all problems to those inside than the other RFT run's, in points."""
    if not inside.any():
        return NONE
    runs = [tokens[who] for who in ("rft", "control", "sprint")]
    columns = np.stack([*runs, *(run * inside for run in runs)], axis=1)

    def points(m: Array) -> Array:
        long = (m[..., 4] - m[..., 5]) / np.maximum(m[..., 3], 1e-12)  # a resample may hold no long problem
        found: Array = 100 * (long - (m[..., 1] - m[..., 2]) / m[..., 0])
        return found

    return statistics.bootstrap(columns, points)


def saved(base: Array, other: Array) -> Estimate:
    """Reduction in percent, `NONE` of no problem."""
    return statistics.reduction(base, other).scaled(100) if len(base) else NONE
