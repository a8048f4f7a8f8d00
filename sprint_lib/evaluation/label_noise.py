"""What a rate does to a model: runs of models that were trained at several rates of something (mistakes in their
labels), once for each of several seeds, on the same problems.

Seeds are averaged problem by problem before anything is estimated, so that intervals are over problems: they say what
other problems would have given, not what other trainings would. For that there is a comparison of one rate with itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sprint_lib import accounting, tables
from sprint_lib.calls import Attempt
from sprint_lib.evaluation import statistics
from sprint_lib.evaluation.statistics import Array

UNITS = {"accuracy": "points", "sequential": "tokens", "total": "tokens", "stages": "stages"}  # of what is compared
_QUANTITIES = list(UNITS)
_TENTH = 0.1

Runs = Mapping[tuple[float, int], Sequence[Attempt]]  # by rate and seed


def outcomes(runs: Runs) -> pd.DataFrame:
    """One row an attempt: rate, seed, problem, accuracy (0 or 100), and sequential and total tokens and stages.

    Raises:
        ValueError: if the runs are not of the same problems, or a rate lacks a seed that another has.
    """
    statistics.check_same_problems(*({a.problem for a in attempts} for attempts in runs.values()))
    rates, seeds = (sorted({key[place] for key in runs}) for place in (0, 1))
    if missing := [(rate, seed) for rate in rates for seed in seeds if (rate, seed) not in runs]:
        raise ValueError(f"no run with rate {missing[0][0]} and seed {missing[0][1]}; every rate needs every seed")
    rows = []
    for (rate, seed), attempts in runs.items():
        for attempt in attempts:
            costs = accounting.costs(attempt)
            row = {"rate": rate, "seed": seed, "problem": attempt.problem, "accuracy": 100.0 * attempt.correct}
            rows.append(row | {quantity: float(costs[quantity]) for quantity in _QUANTITIES[1:]})
    return pd.DataFrame(rows)


def by_rate(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a rate of `outcomes`: trainings, n (problems), and the mean of each quantity with its 95 % bounds."""
    rows = []
    for rate, values in _by_problem(frame).items():
        row = {"rate": rate, "trainings": frame["seed"].nunique(), "n": len(values)}
        for quantity in _QUANTITIES:
            row |= tables.bounded(quantity, statistics.mean(values[quantity]))
        rows.append(row)
    return pd.DataFrame(rows)


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """Every rate of `outcomes` against the lowest one, the slope over all of them, and one rate against itself.

    Columns: comparison, quantity, unit, change (other minus base, paired by problem) with 95 % bounds, n (problems),
    detectable (the true change that would have been told from none with 80 % power), verdict (*different* if the
    interval leaves out zero, else *underpowered*) and, for accuracy, McNemar's exact test seed by seed.
    The slope is the change for a tenth more. The last rows are later seeds against the first one at the lowest rate:
    what a training does by its own luck.
    """
    by_problem = _by_problem(frame)
    lowest, *others = by_problem
    base, seeds = by_problem[lowest], sorted(frame["seed"].unique())
    rows = []
    for rate in others:
        tests = "; ".join(_mcnemar(frame, (lowest, seed), (rate, seed)) for seed in seeds)
        rows += _compared(f"{_percent(rate)} against {_percent(lowest)}", base, by_problem[rate], tests)
    if others:
        rows += _compared("a tenth more", 0 * base, _TENTH * _slopes(by_problem))
    first = _run(frame, lowest, seeds[0])
    for seed in seeds[1:]:
        test = _mcnemar(frame, (lowest, seeds[0]), (lowest, seed))
        rows += _compared(f"{_percent(lowest)}, trained twice", first, _run(frame, lowest, seed), test)
    return pd.DataFrame(rows)


def curves(frame: pd.DataFrame, panels: Mapping[str, str]) -> pd.DataFrame:
    """Data of `plots.response`, rates in percent: the means of `by_rate`, and each training's; `panels` are titles."""
    table, each = by_rate(frame), frame.groupby(["rate", "seed"])[_QUANTITIES].mean()
    parts = []
    for quantity, panel in panels.items():
        mean = {f"value{end}": table[f"{quantity}{end}"] for end in ("", "_low", "_high")}
        parts.append(pd.DataFrame({"panel": panel, "x": 100 * table["rate"], "run": "all", **mean}))
        single = each[quantity].reset_index(name="value")
        rest = {"x": 100 * single["rate"], "run": single["seed"].astype(str), "value": single["value"]}
        parts.append(pd.DataFrame({"panel": panel, **rest}))
    return pd.concat(parts, ignore_index=True)


def _by_problem(frame: pd.DataFrame) -> dict[float, pd.DataFrame]:
    """By rate, lowest first: each quantity by problem, averaged over seeds."""
    means = frame.groupby(["rate", "problem"])[_QUANTITIES].mean()
    return {rate: means.loc[rate] for rate in sorted(frame["rate"].unique())}


def _run(frame: pd.DataFrame, rate: float, seed: int) -> pd.DataFrame:
    return frame[(frame["rate"] == rate) & (frame["seed"] == seed)].set_index("problem")[_QUANTITIES].sort_index()


def _slopes(by_problem: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Least-squares slope of each quantity over the rates, problem by problem."""
    centred = {rate: rate - sum(by_problem) / len(by_problem) for rate in by_problem}
    squares = sum(distance**2 for distance in centred.values())
    return sum(centred[rate] / squares * values for rate, values in by_problem.items())


def _compared(what: str, base: pd.DataFrame, other: pd.DataFrame, test: str = "") -> list[dict[str, Any]]:
    rows = []
    for quantity, unit in UNITS.items():
        change = statistics.difference(_column(base, quantity), _column(other, quantity))
        verdict = "underpowered" if change.low <= 0 <= change.high else "different"
        row = {"comparison": what, "quantity": quantity, "unit": unit, **tables.bounded("change", change)}
        row |= {"n": change.n, "detectable": statistics.detectable(change), "verdict": verdict}
        rows.append({**row, "McNemar": test if quantity == "accuracy" else ""})
    return rows


def _column(values: pd.DataFrame, quantity: str) -> Array:
    column: Array = values[quantity].to_numpy(dtype=float)
    return column


def _mcnemar(frame: pd.DataFrame, base: tuple[float, int], other: tuple[float, int]) -> str:
    found = statistics.mcnemar(*(_run(frame, *key)["accuracy"] > 0 for key in (base, other)))
    split = f"only the first right {found.only_base}, only the second {found.only_other}"
    return f"seed {other[1]}: {split}, p = {found.p:.3f}"


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"
