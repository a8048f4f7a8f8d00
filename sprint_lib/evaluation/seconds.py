"""The paper's runtime estimate from the released runs: two rates fitted to RFT's elapsed seconds, and what follows.

Nothing here was measured of SPRINT: its seconds are *estimated*, as in the paper, as time
to first token of each call and decoding along the path that takes longest. A call's first
token is in its time to first token, so only those after it are decoded (`accounting`).
The counts are `audit`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sprint_lib.accounting import Count, LatencyModel
from sprint_lib.evaluation import claims, statistics
from sprint_lib.evaluation.audit import FORMULA, LONG, TASK, WRITTEN, Convention, Log, Logs, paper_tokens
from sprint_lib.evaluation.statistics import NONE, Array, Estimate

GIVES_UP = 180.0  # seconds after which the authors' client asks again; a longer run is several requests

_Spent = Mapping[str, tuple[int, int]]  # by problem: calls on the path, and tokens decoded in them


@dataclass(frozen=True)
class Rates:
    """Seconds of one call: `first` for its first token and `each` for every further one, fitted to elapsed seconds."""

    first: Estimate
    each: Estimate
    left_out: int  # runs above `GIVES_UP`

    @property
    def model(self) -> LatencyModel:
        """The rates for `accounting`; reading a prompt is in `first`, for the release does not tell them apart."""
        return LatencyModel(math.inf, 1 / self.each.value, max(0.0, self.first.value))


def rates(logs: Logs) -> Rates:
    """Least squares of RFT's elapsed seconds on its tokens, over the runs that one request took.

    Raises:
        ValueError: if no run has its seconds, or seconds do not grow with tokens.
    """
    columns = _clocked(logs)
    if not columns[:, 0].any() or _line(columns.mean(axis=0))[1] <= 0:
        raise ValueError(
            "no rates to fit: the RFT runs have no elapsed seconds, or these do not grow with their tokens"
        )
    left_out = sum(log.seconds is not None and log.seconds > GIVES_UP for log in logs.rft)
    used = columns[columns[:, 0] > 0]
    first = statistics.bootstrap(used, lambda means: _line(means)[0])
    return Rates(first, statistics.bootstrap(used, lambda means: _line(means)[1]), left_out)


def _clocked(logs: Logs) -> Array:
    """By RFT run: 1, tokens after the first, seconds, and the sums of products a line needs; zeros if not usable."""
    rows = []
    for log in logs.rft:
        tokens, seconds = logs.count(log.text) - 1.0, log.seconds
        usable = seconds is not None and seconds <= GIVES_UP
        rows.append((1.0, tokens, seconds, tokens * tokens, tokens * seconds) if seconds and usable else (0.0,) * 5)
    return np.array(rows)


def _line(means: Array) -> tuple[Array, Array]:
    """Intercept and slope from means of the columns of `_clocked`, [..., columns]."""
    share, x, y, xx, xy = np.moveaxis(means[..., :5], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (share * xy - x * y) / (share * xx - x * x)
        return (y - slope * x) / share, slope


# --- seconds a problem ------------------------------------------------------------------


def runtime(logs: Logs, convention: Convention = FORMULA) -> dict[str, Estimate]:
    """*Estimated* seconds a problem by claim id, at `rates`.

    Intervals resample problems and fit the rates anew each time; the paths are those of
    the rates from all. Long problems are those with more than `LONG` tokens of RFT. The
    ratio is over the problems that both have.
    """
    clocked, by_system = _clocked(logs), _spent(logs, convention)
    ids, long_ids = [log.problem.id for log in logs.rft], set(_long(logs))
    # 1, calls, tokens after the first of each; a convention may leave runs out
    spent = {
        system: np.array([(1, *by_id[id_]) if id_ in by_id else (0, 0, 0) for id_ in ids], dtype=float)
        for system, by_id in by_system.items()
    }
    long = np.array([id_ in long_ids for id_ in ids], dtype=float)
    found = {}
    for part, inside in ((TASK, np.ones(len(ids))), (f"{TASK}_long", long)):
        both = inside * spent["rft"][:, 0] * spent["sprint"][:, 0]
        for system, columns in spent.items():
            kept = np.column_stack([clocked, columns * inside[:, None]])
            found[f"runtime.{part}.{system}"] = _counted(kept, _seconds)
        kept = np.column_stack([clocked, *(columns * both[:, None] for columns in spent.values())])
        found[f"runtime.{part}.sprint_over_rft"] = _counted(kept, _seconds_ratio)
    return {id_: estimate for id_, estimate in found.items() if estimate.n}


def _long(logs: Logs) -> list[str]:
    return [log.problem.id for log in logs.rft if logs.count(log.text) > LONG]


def _spent(logs: Logs, convention: Convention) -> dict[str, _Spent]:
    """Of `rft` and `sprint`, on the paths that take longest at the fitted rates."""
    model = rates(logs).model
    counted = {"rft": (logs.rft, WRITTEN), "sprint": (logs.sprint, convention)}
    return {system: _paths(runs, how, logs.count, model) for system, (runs, how) in counted.items()}


def _paths(logs: Sequence[Log], convention: Convention, count: Count, model: LatencyModel) -> _Spent:
    calls = {log.problem.id: convention.calls(log, count) for log in logs}
    paths = {id_: model.path(found) for id_, found in calls.items() if found is not None}
    return {id_: (len(path), sum(max(0, segment.tokens - 1) for segment in path)) for id_, path in paths.items()}


def _counted(columns: Array, statistic: statistics.Statistic) -> Estimate:
    """The estimate with its n, the sum of column 5; none is made of no problem."""
    n = int(columns[:, 5].sum())
    return replace(statistics.bootstrap(columns, statistic), n=n) if n else NONE


def _seconds(means: Array, at: int = 5) -> Array:
    first, each = _line(means)
    share, calls, further = (means[..., k] for k in range(at, at + 3))
    seconds: Array = (first * calls + each * further) / np.maximum(share, 1e-12)  # a resample may hold no long problem
    return seconds


def _seconds_ratio(means: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = _seconds(means, 8) / _seconds(means)
    return np.where(np.isfinite(found), found, 1.0)


# --- which rates would give the paper's seconds? ----------------------------------------


def assumptions(logs: Logs, convention: Convention = FORMULA) -> pd.DataFrame:
    """Rates and the seconds a problem that follow from them: the fitted ones, and those that would give the paper's.

    The paper's two overall estimates are two equations in two unknowns (seconds to first
    token x calls on the path + seconds a token x tokens after the first of each), solved
    with Table 2's tokens and with those counted here; its two on long problems are then a
    test. Columns: rates, first_seconds, tokens_per_second, the seconds of `rft` and
    `sprint`, both also on the `n_long` long problems (the paper does not say how many it
    has), and `even_seconds`: up to this time to first token SPRINT is the faster.
    """
    spent, long = _spent(logs, convention), _long(logs)
    here, there = _terms(spent, [log.problem.id for log in logs.rft]), _terms(spent, long)
    tokens = np.array([paper_tokens(system)["sequential"] for system in spent])
    theirs = np.column_stack([here[:, 0], tokens - here[:, 0]])
    seconds = {part: claims.runtime(part) for part in (TASK, f"{TASK}_long")}
    wanted = [seconds[TASK][system] for system in spent]
    fitted = rates(logs)
    solved: list[tuple[str, Array, Any]] = [
        ("fitted to RFT's elapsed seconds", here, (fitted.first.value, fitted.each.value)),
        ("solved for, with the paper's tokens", theirs, np.linalg.solve(theirs, wanted)),
        ("solved for, with the tokens counted here", here, np.linalg.solve(here, wanted)),
    ]
    rows = [{"rates": name, **_assumed(terms, there, *map(float, found))} for name, terms, found in solved]
    paper = {"rates": "the paper", **seconds[TASK], **{f"{k}_long": v for k, v in seconds[f"{TASK}_long"].items()}}
    n_long = pd.Series([*[len(long)] * len(rows), None], dtype=object)
    return pd.DataFrame([*rows, paper]).assign(n_long=n_long)


def _assumed(terms: Array, long: Array, first: float, each: float) -> dict[str, float]:
    """The columns of `assumptions` that follow from two rates."""
    (one, rft), (calls, sprint) = terms
    (rft_seconds, sprint_seconds), (rft_long, sprint_long) = terms @ (first, each), long @ (first, each)
    return {
        "first_seconds": first,
        "tokens_per_second": 1 / each,
        "rft": rft_seconds,
        "sprint": sprint_seconds,
        "rft_long": rft_long,
        "sprint_long": sprint_long,
        "even_seconds": each * (rft - sprint) / (calls - one),
    }


def _terms(spent: Mapping[str, _Spent], ids: Sequence[str]) -> Array:
    """Mean calls and tokens after the first of each, [systems, 2]; NaN of no problem."""
    means = []
    for by_id in spent.values():
        rows: list[tuple[float, float]] = [by_id[id_] for id_ in ids if id_ in by_id]
        means.append(np.mean(rows or [(math.nan, math.nan)], axis=0))
    return np.array(means)
