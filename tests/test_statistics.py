"""Intervals against published examples, against hand computation, and by their coverage in simulations."""

from __future__ import annotations

import math
import time

import hostile
import numpy as np
import pytest

from sprint_lib.evaluation import statistics as st
from sprint_lib.evaluation.statistics import Estimate


def outcomes(both: int, only_base: int, only_other: int, neither: int) -> tuple[list[bool], list[bool]]:
    base = [True] * (both + only_base) + [False] * (only_other + neither)
    other = [True] * both + [False] * only_base + [True] * only_other + [False] * neither
    return base, other


def covered(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def test_wilson_published_example() -> None:
    found = st.proportion([True] * 81 + [False] * 182)  # Newcombe 1998, table I
    assert (found.value, found.n) == (81 / 263, 263)
    assert found.low == pytest.approx(0.2553, abs=5e-5)
    assert found.high == pytest.approx(0.3662, abs=5e-5)


def test_wilson_at_the_ends() -> None:
    all_right, none_right = st.proportion([True] * 20), st.proportion([False] * 20)
    assert all_right.high == 1.0
    assert all_right.low == pytest.approx(20 / (20 + 1.959964**2))
    assert none_right.low == 0.0
    assert none_right.high == pytest.approx(1 - all_right.low)
    with pytest.raises(ValueError, match="no problems"):
        st.proportion([])


def test_mcnemar_by_hand() -> None:
    found = st.mcnemar(*outcomes(20, 2, 12, 16))
    assert (found.only_base, found.only_other) == (2, 12)
    assert found.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert st.mcnemar(*outcomes(5, 0, 0, 5)).p == 1.0
    assert st.mcnemar(*outcomes(5, 3, 3, 5)).p == 1.0


def test_accuracy_difference_published_example_and_without_discordant_pairs() -> None:
    found = st.accuracy_difference(*outcomes(20, 2, 12, 16))  # Newcombe 1998, e f g h = 20 12 2 16
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0562, abs=1e-4), pytest.approx(0.3292, abs=1e-4))
    same = st.accuracy_difference(*outcomes(30, 0, 0, 0))
    assert same.value == 0
    assert same.low == pytest.approx(-same.high)
    assert 0.05 < same.high < 0.2


def test_accuracy_difference_covers() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        base = rng.random(60) < 0.8
        other = np.where(base, rng.random(60) < 0.95, rng.random(60) < 0.3)
        hits += covered(st.accuracy_difference(base, other), 0.8 * 0.95 + 0.2 * 0.3 - 0.8)
    assert 0.92 <= hits / 400 <= 0.99


def test_bootstrap_covers_skewed_means_and_reductions() -> None:
    rng = np.random.default_rng(5)
    means = reductions = 0
    for seed in range(200):
        base = rng.lognormal(0.0, 0.7, 60)
        other = base * rng.uniform(0.2, 1.0, 60)
        means += covered(st.mean(base, seed=seed, resamples=800), math.exp(0.7**2 / 2))
        reductions += covered(st.reduction(base, other, seed=seed, resamples=800), 0.4)
    assert 0.88 <= means / 200 <= 0.99
    assert 0.90 <= reductions / 200 <= 0.99


def test_bootstrap_is_near_the_normal_interval_and_seeded() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = st.mean(values)
    spread = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.value - spread, abs=0.03)
    assert found.high == pytest.approx(found.value + spread, abs=0.03)
    assert st.mean(values) == found
    assert st.mean(values, seed=1) != found


def test_pairing_is_used() -> None:
    rng = np.random.default_rng(0)
    base = rng.lognormal(6, 1, 200)
    other = base - 10 + rng.normal(0, 1, 200)
    found = st.difference(base, other)
    assert found.half_width < 0.3
    assert covered(found, -10)
    half = st.reduction(base, base * 0.25)
    assert (half.value, half.low, half.high) == (pytest.approx(0.75), pytest.approx(0.75), pytest.approx(0.75))
    twice = st.ratio(base, base * 2)
    assert twice.value == pytest.approx(2)


def test_reduction_is_of_means_not_mean_of_ratios() -> None:
    found = st.reduction([100, 300], [50, 270])
    assert found.value == pytest.approx(1 - 320 / 400)
    assert found.low <= found.value <= found.high


def test_one_problem_has_no_interval_and_none_is_refused() -> None:
    found = st.mean([3.0])
    assert found.value == 3.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match="no problems"):
        st.reduction([], [])
    with pytest.raises(ValueError, match="two lists"):
        st.difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="zero on all"):
        st.reduction([0.0, 0.0], [1.0, 2.0])


def test_aligned_refuses_other_problems() -> None:
    first, second = st.aligned({"a": 1, "b": 2}, {"b": 4, "a": 3})
    assert (first.tolist(), second.tolist()) == ([1, 2], [3, 4])
    with pytest.raises(ValueError, match="'c'"):
        st.aligned({"a": 1}, {"a": 1, "c": 2})


def test_buckets_hold_every_problem_once() -> None:
    by = [5, 1, 2, 2, 2, 9, 30, 7]
    found = st.reduction_by_length(by, by, [x / 2 for x in by], edges=[2, 6, 100], resamples=200)
    assert [(b.low, b.high, b.n) for b in found] == [(-math.inf, 2, 1), (2, 6, 4), (6, 100, 3)]
    assert all(b.reduction.value == pytest.approx(0.5) for b in found)
    assert found[1].base.value == pytest.approx(11 / 4)
    quarters = st.reduction_by_length(range(100), range(1, 101), range(1, 101), resamples=200)
    assert [b.n for b in quarters] == [25, 25, 25, 25]
    ties = st.reduction_by_length([4] * 10, [4] * 10, [2] * 10, resamples=200)
    assert [b.n for b in ties] == [10]
    with pytest.raises(ValueError, match="rise"):
        st.reduction_by_length(by, by, by, edges=[3, 3])
    with pytest.raises(ValueError, match="8 problems"):
        st.reduction_by_length(by, by[:3], by[:3])


def test_control_run_removes_regression_to_the_mean() -> None:
    """Three equal, independent runs: nothing is saved, but bucketing by the measured run says otherwise."""
    rng = np.random.default_rng(2)
    control, base, other = (rng.lognormal(6, 0.8, 2000) for _ in range(3))
    naive = st.reduction_by_length(base, base, other, resamples=1000)
    honest = st.reduction_by_length(control, base, other, resamples=1000)
    assert naive[-1].reduction.low > 0.3
    assert naive[0].reduction.high < -0.5
    assert all(covered(b.reduction, 0) for b in honest)


def test_longest_and_contrast() -> None:
    mask = st.longest([1, 9, 5, 5, 2, 0, 0, 0])
    assert mask.tolist() == [False, True, True, *[False] * 5]
    assert st.longest([1.0]).tolist() == [True]
    base, other = np.array([10.0, 90, 50, 50] * 20), np.array([10.0, 9, 50, 50] * 20)
    found = st.reduction_contrast(base, other, st.longest(base))
    assert found.value == pytest.approx((1 - 9 / 90) - (1 - 119 / 200))
    assert found.low < found.value < found.high
    with pytest.raises(ValueError, match="zero"):
        st.reduction_contrast(base, other, np.zeros(80, dtype=bool))


def test_detectable_effect_is_found_at_the_stated_power() -> None:
    rng = np.random.default_rng(7)
    spread = Estimate(0.0, -1.96 / 10, 1.96 / 10, 100)  # the mean of 100 standard normal values
    effect = st.detectable(spread)
    assert effect == pytest.approx(0.2802, abs=1e-3)
    means = rng.normal(effect, 1, (4000, 100)).mean(axis=1)
    assert np.mean(np.abs(means) > 0.196) == pytest.approx(0.8, abs=0.025)
    assert st.problems_needed(spread, effect) == pytest.approx(100, abs=1)
    assert st.problems_needed(spread, effect / 2) == pytest.approx(400, abs=3)
    with pytest.raises(ValueError, match="zero"):
        st.problems_needed(spread, 0)


def test_scaled() -> None:
    assert Estimate(0.5, 0.25, 0.75, 8).scaled(100) == Estimate(50, 25, 75, 8)


def test_thousand_problems_take_under_two_seconds() -> None:
    values = np.random.default_rng(0).lognormal(6, 1, 1000)
    began = time.process_time()
    st.reduction(values, values[::-1])
    assert time.process_time() - began < 2 * hostile.slowness()
