"""What the released runs say to the paper's claims on MATH-500, counted in several ways.

An `Estimate` for every claim that the release can speak to, under each of several `View`s
of what counts, and which of the claims hold however one counts, which depend on the
counting, and which do not hold. The counts are `audit`'s, Figure 6 is that of `bucketing`,
seconds are those of `seconds`, and the rules for verdicts those of `claims`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sprint_lib import tables
from sprint_lib.evaluation import audit, bucketing, claims, seconds, statistics
from sprint_lib.evaluation.audit import (
    FORMULA,
    LITERAL,
    LONG,
    TASK,
    WRITTEN,
    Convention,
    Logs,
    Nearest,
    costs,
    lengths,
    lengths_of,
    level,
)
from sprint_lib.evaluation.claims import Recount
from sprint_lib.evaluation.grading import Matrix
from sprint_lib.evaluation.statistics import Array, Estimate

_CLAIMS = {claim.id: claim for claim in claims.CLAIMS}


def table2(logs: Logs, right: Mapping[str, Sequence[bool]], countings: Mapping[str, Convention]) -> pd.DataFrame:
    """Table 2's MATH-500 rows: of `tables.methods` under each counting, a panel each, and as the paper has them.

    `right` says by system (`rft`, `sprint`) which runs are right, in their order.
    """
    panels = []
    for name, how in countings.items():
        runs = {s: audit.attempts(getattr(logs, s), s, right[s], how, logs.count) for s in ("rft", "sprint")}
        panels.append(tables.methods(runs, TASK).assign(panel=name))
    paper = tables.reported(TASK).query("method in ('rft', 'sprint')").assign(panel="the paper")
    return pd.concat([*panels, paper], ignore_index=True)


# --- the appendix -----------------------------------------------------------------------

OCTAL = "test/number_theory/516.json"  # the problem of MATH-500 that appendix B.2 works out


def octal(logs: Logs, convention: Convention = FORMULA) -> dict[str, int]:
    """Sequential tokens of every released run on the problem of appendix B.2 (binary to octal), by system."""
    by_system = {system: lengths_of(system, logs, convention) for system in ("rft", "control", "sprint")}
    return {system: int(by_id[OCTAL]) for system, by_id in by_system.items() if OCTAL in by_id}


def _from_octal(logs: Logs, view: View) -> dict[str, Estimate]:
    """The worked example. One run has no interval, but one that is the paper's to a token is the paper's own."""
    shown, found = octal(logs, view.path), {}
    for name, system in (("rft", "control"), ("sprint", "sprint")):
        if system in shown:
            id_, tokens = f"appendix_b2.binary_to_octal.{name}_sequential_tokens", float(shown[system])
            bound = tokens if tokens == _CLAIMS[id_].paper else math.nan
            found[id_] = Estimate(tokens, bound, bound, 1)
    return found


# --- views ------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """How the release is counted for a row of claims: SPRINT's paths, SPRINT's total, and RFT's text."""

    name: str
    path: Convention
    total: Convention
    rft: Convention = WRITTEN


# The formula of section 4.1 without tags, and everything that was written. The formula has no term for a stage
# without prompts nor for the final answer, which a reader waits for all the same: with both, and taken literally.
COMPLETED = View("the formula, completed", FORMULA, Convention(whole="the text after <think>"))
LITERALLY = replace(COMPLETED, name="the formula, literally", path=LITERAL)
ALIKE = tuple(  # ways that count what both systems wrote alike
    View(name, path, replace(path, tails=True))
    for name, path in {
        "tags out": Convention(),
        "tags in": Convention(tags="in"),
        "tags in, executors after the whole plan": Convention(tags="in", serial=True),
        "tags out, the formula, discarded tries in": replace(FORMULA, tries=True),
    }.items()
)


def views(found: Sequence[Nearest]) -> tuple[View, ...]:
    """The paper's way as far as its numbers tell (`audit.nearest`), its formula, then ways that count both alike.

    Only the first was chosen by looking at the paper's numbers.
    """
    near = {(n.system, n.number): n.convention for n in found}
    numbers = (("sprint", "sequential"), ("sprint", "total"), ("rft", "total"))
    return (View("nearest to the paper", *(near[number] for number in numbers)), COMPLETED, LITERALLY, *ALIKE)


UNDER = {  # what the estimates of a claim are measured under, besides the view
    "table2.math500.": "all released runs that the view counts",
    "figure4.math500.": "SPRINT's runs and the RFT runs of the table, paired by problem",
    "figure5.math500.": "stages that a SPRINT run wrote, however they are counted",
    **dict.fromkeys(
        ("figure6.math500.short_problems_controlled", "figure6.math500.rft_over_8000_tokens_controlled"),
        "bucketed by the other RFT run; short: below 1,000 tokens of it",
    ),
    "figure6.math500.": "bucketed by the RFT run that is measured, as in the paper; short: below 1,000 tokens of it",
    "runtime.": "rates fitted to RFT's elapsed seconds, ten problems at a time; long: over 8,000 tokens",
    "appendix_b2.binary_to_octal.rft": "the other RFT run, whose length is the paper's; the run of Table 2 is another",
    "appendix_b2.binary_to_octal.sprint": "the one released SPRINT run on that problem",
}


def estimates(logs: Logs, view: View) -> dict[str, Estimate]:
    """The release's side of every claim it can speak to, by claim id, in the claim's unit; `UNDER` says under what.

    Accuracies are `by_grader`'s, and `most_stages` has no view.
    """
    found = _from_tokens(logs, view) | _from_figure6(logs, view) | _from_stages(logs)
    if any(log.seconds for log in logs.rft):
        found |= seconds.runtime(logs, view.path)
    return found | _from_octal(logs, view)


def _from_tokens(logs: Logs, view: View) -> dict[str, Estimate]:
    rft, sprint, total = _paired(logs, view)
    id_ = f"table2.{TASK}"
    return {
        f"{id_}.rft.sequential_tokens": statistics.mean(rft),
        f"{id_}.rft.total_tokens": statistics.mean(rft),
        f"{id_}.sprint.sequential_tokens": statistics.mean(sprint),
        f"{id_}.sprint.total_tokens": statistics.mean(total),
        f"{id_}.sequential_reduction": statistics.reduction(rft, sprint).scaled(100),
        f"{id_}.total_increase": _less_one(statistics.ratio(rft, total)).scaled(100),
        f"{id_}.total_over_sequential": statistics.ratio(sprint, total),
        f"figure4.{TASK}.saved_sequential_tokens_vs_rft": statistics.difference(sprint, rft),
    }


def _paired(logs: Logs, view: View) -> tuple[Array, Array, Array]:
    """RFT's tokens, SPRINT's sequential and total tokens, on the problems that both have."""
    rft = lengths(logs.rft, view.rft, logs.count)
    sprint = lengths(logs.sprint, view.path, logs.count)
    total = {id_: float(cost.total) for id_, cost in costs(logs.sprint, view.total, logs.count).items()}
    shared = [id_ for id_ in rft if id_ in sprint and id_ in total]
    return tuple(np.array([by_id[id_] for id_ in shared]) for by_id in (rft, sprint, total))  # type: ignore[return-value]


def _less_one(estimate: Estimate) -> Estimate:
    return Estimate(estimate.value - 1, estimate.low - 1, estimate.high - 1, estimate.n)


def _from_figure6(logs: Logs, view: View) -> dict[str, Estimate]:
    runs = {
        system: lengths(getattr(logs, system), view.path if system == "sprint" else view.rft, logs.count)
        for system in ("rft", "control", "sprint")
    }
    saved = {}
    for ending, by in (("", "rft"), ("_controlled", "control")):
        shared = [id_ for id_ in runs["rft"] if id_ in runs["sprint"] and id_ in runs[by]]
        length, base, other = (np.array([runs[who][id_] for id_ in shared]) for who in (by, "rft", "sprint"))
        for part, inside in (("short_problems", length < bucketing.EDGES[0]), ("rft_over_8000_tokens", length > LONG)):
            saved[f"figure6.{TASK}.{part}{ending}"] = bucketing.saved(base[inside], other[inside])
    return {id_: estimate for id_, estimate in saved.items() if estimate.n}


def _from_stages(logs: Logs) -> dict[str, Estimate]:
    """Mean stages of the hardest level minus those of the easiest."""
    counted = [(level(log), len(log.trajectory.stages)) for log in logs.sprint if log.trajectory]
    ends = np.array([(at, stages) for at, stages in counted if at in (1, 5)])
    if len(set(ends[:, 0]) if len(ends) else ()) < 2:
        return {}
    found = claims.groups_difference(ends[:, 0] == 5, ends[:, 0] == 1, ends[:, 1])
    return {f"figure5.{TASK}.stages_by_level": found}


def most_stages(logs: Logs, figure: str) -> Recount:
    """How often the planner was asked in the longest run, the final answer being the last time; two ways to count.

    The paper's loop asks for the answer at its last stage, so that stage is one; as plans alone there is one fewer.
    """
    staged = [log.trajectory for log in logs.sprint if log.trajectory]
    turns = max(len(run.stages) + (run.final is not None) for run in staged)
    plans = max(len(run.stages) for run in staged)
    id_ = "curation.stages_of_released_runs"
    under = f"the final answer is the last stage; plans alone: {plans}"
    holds = sum(found == _CLAIMS[id_].paper for found in (turns, plans))
    return Recount(id_, claims.certain(turns, len(staged)), under, figure, views=2, holds=holds)


# --- claims under every view ------------------------------------------------------------


def against_control(logs: Logs) -> Logs:
    """The same with the other RFT runs as the baseline, on the problems that they have; they have no seconds."""
    has = {log.problem.id for log in logs.control}
    return replace(logs, rft=logs.control, sprint=tuple(log for log in logs.sprint if log.problem.id in has))


def by_view(logs: Logs, views_: Sequence[View]) -> pd.DataFrame:
    """A row a claim and view: the paper's value, the estimate with interval and n, the verdict and why.

    One more view holds what SPRINT is said to do relative to RFT against the other RFT runs.
    """
    other = View("tags out, the formula, against the other RFT runs", FORMULA, Convention())
    found = _from_tokens(against_control(logs), other)
    relative = {id_: estimate for id_, estimate in found.items() if _CLAIMS[id_].none == 0}
    return _verdicts([*((view.name, estimates(logs, view)) for view in views_), (other.name, relative)])


GRADED = {"all": "every problem counts", "answered": "only answered problems count"}


def by_grader(matrix: Matrix) -> pd.DataFrame:
    """`by_view` for the claims on accuracy: a view is a grader with a denominator (`GRADED`).

    The matrix must have the systems `rft` and `sprint`.
    """
    id_, by_name = f"table2.{TASK}", dict[str, dict[str, Estimate]]()
    for row in matrix.accuracy().to_dict("records"):
        if row["system"] in ("rft", "sprint"):
            accuracy = tables.estimate(row, "accuracy")
            by_name.setdefault(_view_name(row), {})[f"{id_}.{row['system']}.accuracy"] = accuracy
    for row in matrix.comparison("rft", "sprint").to_dict("records"):
        by_name[_view_name(row)][f"{id_}.accuracy_difference"] = tables.estimate(row, "difference")
    return _verdicts(by_name.items())


def _view_name(row: Mapping[Any, Any]) -> str:
    return f"{row['grader']}, {GRADED[row['denominator']]}"


def _verdicts(counted: Iterable[tuple[str, Mapping[str, Estimate]]]) -> pd.DataFrame:
    rows = []
    for name, by_claim in counted:
        for id_, estimate in by_claim.items():
            claim = _CLAIMS[id_]
            verdict, why = claims.verdict(claim, estimate)
            row: dict[str, Any] = {"id": id_, "quantity": claim.quantity, "unit": claim.unit, "view": name}
            row |= {"paper": claim.paper, **tables.bounded("value", estimate), "n": estimate.n}
            rows.append({**row, "verdict": verdict, "why": why})
    return pd.DataFrame(rows)


_NUMBERS = ["value", "value_low", "value_high", "n"]


def _distinct(group: pd.DataFrame) -> pd.DataFrame:
    """One claim's rows of `by_view`, those of one estimate as one: such views cannot differ, or do not here."""
    names = group.groupby(_NUMBERS, dropna=False)["view"].transform(lambda views_: " = ".join(views_))
    return group.assign(view=names).drop_duplicates(_NUMBERS)


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a claim of `by_view`'s frame: it *holds* if every view reproduces it.

    If only some do, it *depends on the counting*. If none does, it *does not hold* where
    every view says *different*, is *open* where no interval tells, and is *not
    reproduced* where some do the one and some the other. Views with one and the same
    estimate are one, of the `views` that `reproduced`, `different` and `open` count.
    """
    rows: list[dict[str, Any]] = []
    for id_, group in frame.groupby("id", sort=False):
        found = _distinct(group)
        names = {"reproduced": "reproduced", "different": "different", "open": "underpowered"}
        counts = {name: int((found["verdict"] == verdict).sum()) for name, verdict in names.items()}
        first = found.iloc[0].to_dict()
        row = {"id": id_, **{key: first[key] for key in ("quantity", "unit", "paper")}, "finding": _finding(counts)}
        row |= {"low": found["value"].min(), "high": found["value"].max(), "views": len(found), **counts}
        rows.append({**row, "holds_under": "; ".join(found.loc[found["verdict"] == "reproduced", "view"])})
    return pd.DataFrame(rows)


def _finding(counts: Mapping[str, int]) -> str:
    if counts["reproduced"]:
        return "depends on the counting" if counts["different"] or counts["open"] else "holds"
    if counts["different"]:
        return "not reproduced" if counts["open"] else "does not hold"
    return "open"


def drawn(frame: pd.DataFrame, places: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Data of `plots.forest`: the claims of `by_view`'s frame that are named here by id, each with panel and series.

    A row is a view.
    """
    part = frame[frame["id"].isin(list(places))].rename(columns={"view": "row"})
    panels, series = ([places[id_][k] for id_ in part["id"]] for k in (0, 1))
    part = part.assign(panel=panels, series=series)
    return part[["panel", "row", "series", "value", "value_low", "value_high", "paper", "n"]]


def relative(frame: pd.DataFrame, quantities: Mapping[str, str]) -> pd.DataFrame:
    """Data of `plots.contrasts`: the claims of `by_view`'s frame that are named here by id, with a short name and unit.

    A row a view, a column a claim: what SPRINT does relative to RFT, each with the value that means no effect.
    """
    part = frame[frame["id"].isin(list(quantities))].rename(columns={"view": "row"})
    part = part.assign(quantity=part["id"].map(dict(quantities)), none=[_CLAIMS[id_].none for id_ in part["id"]])
    return part[["quantity", "row", "value", "value_low", "value_high", "paper", "none", "n"]]


def recounts(frame: pd.DataFrame, view: str, figures: Mapping[str, str]) -> list[Recount]:
    """Rows for `claims.write_recounts`: each claim of `by_view`'s frame as that view counts it.

    Views are counted where they differ, those of one estimate as one. Which figure shows a
    claim is looked up by the beginning of its id.

    Raises:
        ValueError: if the frame has no such view.
    """
    if view not in set(frame["view"]):
        raise ValueError(f"no view {view!r} in the frame; there are: {', '.join(frame['view'].unique())}")
    found = []
    for id_, group in frame.groupby("id", sort=False):
        here = group[group["view"] == view]
        if here.empty:
            continue
        differ = _distinct(group)
        depends = len(differ) > 1
        how = "; ".join(filter(None, [_starting(UNDER, id_), view if depends else ""]))
        holds = int((differ["verdict"] == "reproduced").sum())
        counts = {"views": len(differ), "holds": holds} if depends else {}
        estimate = tables.estimate(here.iloc[0].to_dict(), "value")
        found.append(Recount(id_, estimate, how, _starting(figures, id_), **counts))
    return found


def _starting(words: Mapping[str, str], id_: str) -> str:
    return next((said for start, said in words.items() if id_.startswith(start)), "")
