"""Numbers with their uncertainty: 95 % intervals for accuracies, means, differences and reductions.

Everything compared here is paired, the same problems by two systems, and everything but a share is a function
of means of columns; one bootstrap (bias-corrected and accelerated, seeded) serves all of those. Small samples
and samples without spread give wide or no intervals, never false certainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
_CHUNK = 2_000_000  # numbers drawn at a time, so that memory stays small


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval from `n` problems; bounds are NaN where there is no telling (n < 2)."""

    value: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit, such as percent (`factor` 100); `factor` must be positive."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.n)


NONE = Estimate(math.nan, math.nan, math.nan, 0)  # of no problem at all


def aligned(*runs: Mapping[str, float]) -> tuple[Array, ...]:
    """Values by problem id of several runs as columns in one order, that of the first.

    Raises:
        ValueError: if the runs are not of the same problems.
    """
    check_same_problems(*runs)
    return tuple(np.array([run[id_] for id_ in runs[0]], dtype=np.float64) for run in runs)


def check_same_problems(*runs: Collection[str]) -> None:
    """Raise ValueError unless the runs have the same problem ids: what is compared in pairs is whole."""
    for run in runs[1:]:
        if odd := set(runs[0]) ^ set(run):
            raise ValueError(f"runs of different problems: {len(odd)} are not in both, such as {min(odd)!r}")


# --- shares ---------------------------------------------------------------------------


def proportion(outcomes: ArrayLike) -> Estimate:
    """Share of true outcomes with its Wilson score interval (Wilson 1927)."""
    hits = np.asarray(outcomes, dtype=bool)
    low, high = _wilson(int(hits.sum()), _some(len(hits)))
    return Estimate(float(hits.mean()), low, high, len(hits))


def _wilson(hits: int, n: int) -> tuple[float, float]:
    share, z2 = hits / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if hits == 0 else centre - spread), (1.0 if hits == n else centre + spread)


@dataclass(frozen=True)
class McNemar:
    """Problems that only one of two systems solved, and how surprising their split is."""

    only_base: int
    only_other: int
    p: float


def mcnemar(base: ArrayLike, other: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test of paired outcomes (binomial on the discordant pairs)."""
    first, second = _pair(base, other, bool)
    only_base, only_other = int((first & ~second).sum()), int((~first & second).sum())
    n, k = only_base + only_other, min(only_base, only_other)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return McNemar(only_base, only_other, min(1.0, 2 * tail / 2**n))


def accuracy_difference(base: ArrayLike, other: ArrayLike) -> Estimate:
    """Share solved by `other` minus share solved by `base`, paired, with a score interval.

    Newcombe's method 10 (Statistics in Medicine 17, 1998): it keeps its coverage near 100 % accuracy and with few
    or no discordant pairs, where a bootstrap would give an interval of width zero.
    """
    first, second = _pair(base, other, bool)
    n = _some(len(first))
    p_base, p_other = float(first.mean()), float(second.mean())
    low_base, high_base = _wilson(int(first.sum()), n)
    low_other, high_other = _wilson(int(second.sum()), n)
    phi = _newcombe_phi(first, second)
    down, up = p_other - low_other, high_other - p_other
    base_down, base_up = p_base - low_base, high_base - p_base
    below = math.sqrt(max(0.0, down**2 - 2 * phi * down * base_up + base_up**2))
    above = math.sqrt(max(0.0, up**2 - 2 * phi * up * base_down + base_down**2))
    value = p_other - p_base
    return Estimate(value, value - below, value + above, n)


def _newcombe_phi(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Correlation of paired outcomes, shrunk towards zero where it is positive."""
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    one, two = int((first & ~second).sum()), int((~first & second).sum())
    margins = (both + one) * (two + neither) * (both + two) * (one + neither)
    if margins == 0:
        return 0.0
    excess: float = both * neither - one * two
    if excess > 0:
        excess = max(excess - len(first) / 2, 0)
    return excess / math.sqrt(margins)


# --- means ----------------------------------------------------------------------------

Statistic = Callable[[Array], Array]  # means of the columns [..., columns] -> values [...]


def mean(values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean with its BCa bootstrap interval."""
    return bootstrap(np.asarray(values, dtype=np.float64)[:, None], lambda m: m[..., 0], seed=seed, resamples=resamples)


def difference(base: ArrayLike, other: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean of `other` minus mean of `base`, resampling problems (paired)."""
    columns = np.stack(_pair(base, other, np.float64), axis=1)
    return bootstrap(columns, lambda m: m[..., 1] - m[..., 0], seed=seed, resamples=resamples)


def ratio(base: ArrayLike, other: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean of `other` over mean of `base`, resampling problems (paired). ValueError if `base` is all zero."""
    columns = np.stack(_pair(base, other, np.float64), axis=1)
    _positive(columns[:, 0])
    return bootstrap(columns, lambda m: m[..., 1] / m[..., 0], seed=seed, resamples=resamples)


def reduction(base: ArrayLike, other: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """How much lower `other` is on average, as a share of `base`: 1 - mean(other) / mean(base)."""
    found = ratio(base, other, seed=seed, resamples=resamples)
    return Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.n)


def median(values: ArrayLike) -> Estimate:
    """Median with the interval that two order statistics give (binomial, no assumption on the distribution).

    Below six values no two of them hold the median with 95 %: the bounds are NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = _some(len(ordered))
    inside, outer = 0.0, -1  # the most values that can be left out at each end
    for k in range(n // 2):
        inside += math.comb(n, k) / 2**n
        if 2 * inside > 1 - LEVEL:
            break
        outer = k
    low, high = (ordered[outer], ordered[n - 1 - outer]) if outer >= 0 else (math.nan, math.nan)
    return Estimate(float(np.median(ordered)), float(low), float(high), n)


def bootstrap(columns: Array, statistic: Statistic, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """A function of column means with its BCa interval (Efron 1987), rows resampled together.

    Args:
        columns: values [problems, columns].
        statistic: maps means [..., columns] to values [...].
        seed: of the resampling; the same seed gives the same interval.
    """
    n = _some(len(columns))
    value = float(statistic(columns.mean(axis=0)))
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    draws = np.sort(statistic(_resampled_means(columns, seed, resamples)))
    if draws[0] == draws[-1]:
        return Estimate(value, value, value, n)
    left_out = statistic((columns.sum(axis=0) - columns) / (n - 1))
    low, high = (_quantile(draws, q) for q in _bca_levels(value, draws, left_out))
    return Estimate(value, low, high, n)


def _resampled_means(columns: Array, seed: int, resamples: int) -> Array:
    """Means of `resamples` samples of rows drawn with replacement, [resamples, columns]."""
    rng = np.random.default_rng(seed)
    n = len(columns)
    means = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = rng.integers(0, n, size=(min(step, resamples - start), n), dtype=np.int32)
        for k in range(columns.shape[1]):  # a column at a time: gathers of plain vectors are much faster
            means[start : start + len(rows), k] = columns[:, k][rows].mean(axis=1)
    return means


def _bca_levels(value: float, draws: Array, left_out: Array) -> tuple[float, float]:
    """The two quantile levels after correcting for bias and for a spread that changes with the value."""
    normal = NormalDist()
    below = (np.count_nonzero(draws < value) + np.count_nonzero(draws == value) / 2) / len(draws)
    bias = normal.inv_cdf(min(max(below, 1 / len(draws)), 1 - 1 / len(draws)))
    centred = left_out.mean() - left_out
    squares = float((centred**2).sum())
    acceleration = float((centred**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    shifted = [bias + z for z in (-_Z, _Z)]
    low, high = (normal.cdf(bias + s / (1 - acceleration * s)) for s in shifted)
    return low, high


def _quantile(sorted_draws: Array, level: float) -> float:
    return float(sorted_draws[min(len(sorted_draws) - 1, int(level * len(sorted_draws)))])


# --- reduction by length --------------------------------------------------------------


@dataclass(frozen=True)
class Bucket:
    """Problems whose length lies in [low, high) and what the other system saves on them."""

    low: float
    high: float
    n: int
    base: Estimate
    other: Estimate
    reduction: Estimate


def reduction_by_length(
    baseline_for_bucket: ArrayLike,
    baseline: ArrayLike,
    other: ArrayLike,
    *,
    quantiles: int = 4,
    edges: Sequence[float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Bucket, ...]:
    """Reduction of `other` against `baseline` by length (SPRINT, Figure 6), honestly controlled.

    Bucketing by the very run that is measured makes long buckets shrink by themselves: a run that was long by
    chance is shorter the next time. So give a second, independent run of the baseline as `baseline_for_bucket`;
    giving `baseline` itself draws the figure the way the paper does.

    Args:
        baseline_for_bucket, baseline, other: tokens of each problem, in one order.
        quantiles: number of buckets of equal size; or
        edges: rising inner limits of the buckets. The first and the last are open, so every problem is in one.

    Returns:
        The buckets with at least one problem, shortest first.
    """
    by = np.asarray(baseline_for_bucket, dtype=np.float64)
    base, measured = _pair(baseline, other, np.float64)
    if len(by) != len(base):
        raise ValueError(f"lengths of {len(by)} problems to bucket by, but tokens of {len(base)}")
    inner = np.asarray(edges, dtype=np.float64) if edges is not None else _quantile_edges(by, quantiles)
    if np.any(np.diff(inner) <= 0):
        raise ValueError(f"edges must rise: {inner.tolist()}")
    limits = [-math.inf, *inner.tolist(), math.inf]
    settings = {"seed": seed, "resamples": resamples}
    buckets = []
    for low, high in pairwise(limits):
        inside = (by >= low) & (by < high)
        if inside.any():
            b, o = base[inside], measured[inside]
            parts = mean(b, **settings), mean(o, **settings), reduction(b, o, **settings)
            buckets.append(Bucket(low, high, int(inside.sum()), *parts))
    return tuple(buckets)


def longest(by: ArrayLike, share: float = 0.25) -> NDArray[np.bool_]:
    """Mask of the longest share of problems, ties broken by order, so that its size is exact (at least one)."""
    values = np.asarray(by, dtype=np.float64)
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[: max(1, round(share * _some(len(values))))]] = True
    return mask


def reduction_contrast(
    base: ArrayLike, other: ArrayLike, mask: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Reduction on the masked problems minus the reduction on all: does the saving grow with length?"""
    first, second = _pair(base, other, np.float64)
    inside = np.asarray(mask, dtype=np.float64)
    _positive(first * inside)
    columns = np.stack([first, second, first * inside, second * inside], axis=1)

    def contrast(m: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            part = m[..., 3] / m[..., 2]
        return m[..., 1] / m[..., 0] - np.where(np.isfinite(part), part, 1.0)

    return bootstrap(columns, contrast, seed=seed, resamples=resamples)


def _quantile_edges(values: Array, buckets: int) -> Array:
    """Distinct inner limits; ties can make them fewer than asked for."""
    if buckets < 1:
        raise ValueError(f"quantiles must be at least 1, not {buckets}")
    edges = np.unique(np.quantile(values, np.arange(1, buckets) / buckets))
    kept: Array = edges[edges > values.min()]
    return kept


# --- power ----------------------------------------------------------------------------


def detectable(estimate: Estimate, power: float = 0.8) -> float:
    """Smallest true effect that a run of this size and spread would tell from none with `power`, two-sided 5 %.

    In the estimate's unit, from the half width of its interval (normal approximation).
    """
    return estimate.half_width * (_Z + NormalDist().inv_cdf(power)) / _Z


def problems_needed(estimate: Estimate, effect: float, power: float = 0.8) -> int:
    """Problems that would tell `effect` from none with `power`, given the spread seen in `estimate`."""
    if effect == 0:
        raise ValueError("no number of problems tells an effect of zero from none")
    return math.ceil(estimate.n * (detectable(estimate, power) / effect) ** 2)


# --- checks ---------------------------------------------------------------------------


def _pair(first: ArrayLike, second: ArrayLike, dtype: type) -> tuple[NDArray[Any], NDArray[Any]]:
    a: NDArray[Any] = np.asarray(first, dtype=dtype)
    b: NDArray[Any] = np.asarray(second, dtype=dtype)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values must be two lists of one length, not of shapes {a.shape} and {b.shape}")
    return a, b


def _positive(values: Array) -> None:
    if _some(len(values)) and not values.sum() > 0:
        raise ValueError("the baseline is zero on all problems; there is nothing to take a share of")


def _some(n: int) -> int:
    if n == 0:
        raise ValueError("no problems; an estimate needs at least one")
    return n
