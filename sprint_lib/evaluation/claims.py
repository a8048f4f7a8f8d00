"""The papers' numbers as data, and what this run says to each of them.

SPRINT is arXiv 2506.05745, APR arXiv 2504.15466. A claim has a stable id (`table2.countdown.sprint.sequential_tokens`),
its place in the paper, and a *setting*: what must have been run for a comparison to mean anything. Accuracies and
token counts of the paper's 7B models are facts about those models; a run of a tiny model says nothing about them and
they stay *not run*. What SPRINT does *relative* to RFT from the same base on Countdown is a statement about the method,
and any model can be held against it.

The rule for verdicts. `margin` is how far from the paper's value still counts as the same: for accuracies the paper's
own 95 % sampling error, for reductions 10 percentage points, for other numbers 10 % of the value, for settings and
yes/no nothing. `none` is the value that means no effect; differences and reductions have one.

- **not run**: there is no estimate.
- **different**: this run's 95 % interval lies outside paper value ± margin; or it excludes no effect on the other side;
  or it is no effect without any spread.
- **underpowered**: the interval reaches into paper value ± margin, but also holds no effect; or, where there is no such
  value, it is more than twice as wide as the margin's band; or there is no interval.
- **reproduced**: it reaches into paper value ± margin and excludes no effect on the paper's side (where there is such a
  value: else it is narrow enough).

Where the paper gives a direction but no number for Countdown, *reproduced* is an interval wholly on that side of no
effect, *different* one wholly on the other, *underpowered* one that holds it.

A verdict looks at its own number only; savings of Figure 6 at a loss of accuracy say so beside it.

A yes or no of Table 1 that recorded calls can contradict is held against a share: yes is 1, no is 0, the margin and *no
effect* are a half, so that *reproduced* is an interval wholly on the paper's side of a half.

A number may also be counted anew from the outputs that the authors released. Such a row is *of* those outputs, not of
this run, says how they were counted, and, where several ways of counting are possible, under how many it holds.

The basis of a claim says what a verdict is worth. *measured*: a model's output decides it. *estimated*: a model of time
does, with rates that were fitted, from the counts of such an output. *by construction*: the code or the parameters of
this suite do (a sequential call is one call; a setting was set to the paper's value), no output could contradict it,
and it is listed for completeness and counted apart.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sprint_lib import accounting, store
from sprint_lib.calls import Attempt
from sprint_lib.evaluation import statistics
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.wording import did_you_mean, readable, unknown

VERDICTS = ("reproduced", "different", "underpowered", "not run")
MEASURED, ESTIMATED, BUILT = "measured", "estimated", "by construction"  # the basis of a claim
PAPER_TASKS = {"countdown": "countdown", "math500": "math500", "gpqa": "gpqa_diamond"}  # of this suite: the claims'
OWN, RELEASED = "this run", "the authors' released outputs"  # what an estimate is of

COUNTDOWN = "countdown"  # the setting that every run of this suite provides
SETTINGS = {
    COUNTDOWN: "RFT and SPRINT from one base model (any) on held-out Countdown problems",
    "7b/countdown": "the paper's 7B models on its Countdown problems",
    "7b/math500": "the paper's 7B models on MATH-500, or their released outputs",
    "7b/gpqa_diamond": "the paper's 7B models on GPQA-diamond",
    "rivals/countdown": "the rival method with the paper's model for it, on Countdown",
    "rivals/math500": "the rival method with the paper's model for it, on MATH-500",
    "rivals/gpqa_diamond": "the rival method with the paper's model for it, on GPQA-diamond",
    "rivals": "the rival's way of working, by this suite, its calls recorded",
    "curation": "the 6,000 DeepSeek-R1 traces on MATH, annotated by GPT-4o",
    "examples": "the authors' worked examples",
    "apr": "APR and SoS+ models trained as in the APR paper, on its 1,000 validation problems",
    "reinforcement": "APR or SoS+ trained further by reinforcement for right answers alone (notebooks 22 and 23)",
}


@dataclass(frozen=True)
class Claim:
    """One number (or, with `paper` None, one direction) of a paper.

    `n` is how many problems the paper's number is from, None where it does not say, as for its long ones.
    `direction` is +1 or -1 for claims without a number; `none` is the value that means no effect, None where no
    value does.
    """

    id: str
    source: str
    quantity: str
    paper: float | None
    unit: str
    setting: str
    n: int | None = None
    margin: float = 0.0
    none: float | None = None
    direction: int = 0
    basis: str = MEASURED  # or ESTIMATED, BUILT


# --- verdicts -------------------------------------------------------------------------


def verdict(claim: Claim, estimate: Estimate | None) -> tuple[str, str]:
    """One of `VERDICTS` and, in a few words, why; the rule is the module's."""
    if estimate is None:
        return "not run", f"needs {SETTINGS[claim.setting]}"
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return "underpowered", f"no interval from n = {estimate.n}"
    if estimate.low == estimate.high == claim.none:
        return "different", f"no effect at all ({readable(claim.none)} on every problem)"
    if claim.paper is None:
        return _directed(claim, estimate)
    near = estimate.low <= claim.paper + claim.margin and estimate.high >= claim.paper - claim.margin
    band = f"the paper's {readable(claim.paper)}" + (f" ± {readable(claim.margin)}" if claim.margin else "")
    if not near:
        return "different", f"{_place(claim, estimate)} {band}"
    if claim.none is not None:
        return _effect(claim, estimate, band)
    if estimate.half_width > 2 * claim.margin:
        return "underpowered", f"the interval reaches into {band}, but is more than twice as wide as that band"
    return "reproduced", f"the interval reaches into {band}" if claim.margin else f"equal to {band}"


def _directed(claim: Claim, estimate: Estimate) -> tuple[str, str]:
    none = claim.none or 0.0
    if estimate.low <= none <= estimate.high:
        return "underpowered", f"not to be told from no effect ({readable(none)}); {_would_show(estimate)}"
    same = (estimate.value > none) == (claim.direction > 0)
    word = "above" if estimate.value > none else "below"
    return ("reproduced" if same else "different"), f"{word} no effect ({readable(none)}), {_as_paper(same)}"


def _effect(claim: Claim, estimate: Estimate, band: str) -> tuple[str, str]:
    assert claim.paper is not None
    assert claim.none is not None
    if estimate.low <= claim.none <= estimate.high:
        none = f"not to be told from no effect ({readable(claim.none)})"
        return "underpowered", f"the interval reaches into {band}, but {none}; {_would_show(estimate)}"
    same = (estimate.value > claim.none) == (claim.paper > claim.none)
    if not same:
        return "different", f"an effect in the other direction than {band}"
    inside = estimate.low <= claim.paper <= estimate.high
    return "reproduced", f"an effect, {'the interval holds' if inside else 'within'} {band}"


def _place(claim: Claim, estimate: Estimate) -> str:
    assert claim.paper is not None
    side = "above" if estimate.low > claim.paper else "below"
    if claim.none is None:
        return side
    if estimate.low <= claim.none <= estimate.high:
        return f"no effect to be seen; {side}"
    same = (estimate.value > claim.none) == (claim.paper > claim.none)
    return f"an effect {'in the same' if same else 'in the other'} direction, {side}"


def _as_paper(same: bool) -> str:
    return "as the paper says" if same else "against the paper"


def _would_show(estimate: Estimate) -> str:
    return f"at this n effects from about {readable(statistics.detectable(estimate))} on would show (80 % power)"


def claims_table(
    results: Mapping[str, Estimate],
    settings: Collection[str] = (COUNTDOWN,),
    claims: Sequence[Claim] | None = None,
    recounts: Iterable[Recount] = (),
) -> list[dict[str, Any]]:
    """One row a claim, in the papers' order: what the paper says, what was found, the verdict.

    Args:
        results: this run's estimates by claim id, in the claim's unit (percent, not shares).
        settings: what was run or counted anew, keys of `SETTINGS`.
        recounts: what the authors' released outputs say.

    Raises:
        ValueError: on an id that is no claim, an estimate for a claim whose setting was not run, or two for one claim.
    """
    claims = CLAIMS if claims is None else claims
    known = {claim.id: claim for claim in claims}
    anew: dict[str, Recount] = {}
    for recount in recounts:
        if recount.id in results or recount.id in anew:
            raise ValueError(f"two estimates for the claim {recount.id!r}; leave one out")
        anew[recount.id] = recount
    for id_ in (*results, *anew):
        if id_ not in known:
            raise ValueError(f"no claim {id_!r}{did_you_mean(id_, known)}")
        if known[id_].setting not in settings:
            raise ValueError(
                f"claim {id_!r} is about {SETTINGS[known[id_].setting]}; if that was run, "
                f"add {known[id_].setting!r} to the settings, else leave the estimate out"
            )
    rows = [_row(claim, results.get(claim.id), anew.get(claim.id)) for claim in claims]
    _note_lost_accuracy(rows)
    return rows


def _row(claim: Claim, own: Estimate | None, recount: Recount | None) -> dict[str, Any]:
    estimate = recount.estimate if recount else own
    found, why = verdict(claim, estimate)
    if recount and recount.views:
        why += f"; reproduced under {recount.holds} of {recount.views} ways of counting that differ"
    if estimate and claim.basis == BUILT:
        why = f"{BUILT}: {why}"
    return {
        "id": claim.id,
        "source": claim.source,
        "quantity": claim.quantity,
        "unit": claim.unit,
        "paper": claim.paper,
        "paper_n": claim.n,
        "value": estimate.value if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
        "n": estimate.n if estimate else None,
        "verdict": found,
        "why": why,
        "basis": claim.basis,
        "of": RELEASED if recount else OWN if estimate else None,
        "under": recount.under if recount else None,
        "figure": (recount.figure or None) if recount else None,
        "views": (recount.views or None) if recount else None,
        "holds": recount.holds if recount and recount.views else None,
    }


def _note_lost_accuracy(rows: Sequence[dict[str, Any]]) -> None:
    """Say beside what SPRINT saves on Countdown that it solves fewer problems, if it does: the paper's does not."""
    known = {row["id"]: row for row in rows if row["value"] is not None}
    accuracy = known.get("table2.countdown.accuracy_difference")
    if accuracy and accuracy["high"] < 0:
        for id_, row in known.items():
            if id_.startswith("figure6.countdown."):
                row["why"] += f"; but its accuracy is {readable(-accuracy['value'])} points lower, the paper's is not"


def write_claims(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON, floats with six significant digits and unknown bounds as null: the same bytes every time."""
    return store.write_json(path, [{key: _fixed(value) for key, value in row.items()} for row in rows])


def _fixed(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") + 0.0 if math.isfinite(value) else None


# --- estimates from the authors' released outputs -------------------------------------


@dataclass(frozen=True)
class Recount:
    """A claim's number, counted anew from the authors' released outputs.

    Attributes:
        id: of the claim; `estimate` is in its unit.
        under: how it was counted, in words.
        figure: the figure that shows it, a path in the workspace, or nothing.
        views: how many ways of counting give different numbers, and `holds`, under how many of them the claim is
            reproduced; both 0 where all give one number.
    """

    id: str
    estimate: Estimate
    under: str
    figure: str = ""
    views: int = 0
    holds: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready row; unknown bounds are null."""
        numbers = {key: _fixed(getattr(self.estimate, key)) for key in ("value", "low", "high")}
        more = {"views": self.views, "holds": self.holds} if self.views else {}
        return {"id": self.id, **numbers, "n": self.estimate.n, "under": self.under, "figure": self.figure} | more

    @classmethod
    def from_json(cls, row: Any) -> Recount:
        """Read what `to_json` wrote.

        Raises:
            ValueError: saying what is wrong with the row.
        """
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, not {str(row)[:60]!r}")
        if wrong := unknown(row, (*_RECOUNT, "views", "holds")):
            raise ValueError(wrong)
        if lacking := [key for key in _RECOUNT if key not in row]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        if wrong := unknown([row["id"]], _known(), "claim"):
            raise ValueError(wrong)
        low, high = (math.nan if row[key] is None else row[key] for key in ("low", "high"))
        views, holds = row.get("views", 0), row.get("holds", 0)
        for said, good in {
            f"value, low and high are {row['value']}, {row['low']}, {row['high']}": _ordered(row["value"], low, high),
            f"n is {row['n']!r}": type(row["n"]) is int and row["n"] > 0,
            "'under' says nothing": isinstance(row["under"], str) and row["under"].strip(),
            f"figure is {row['figure']!r}, not figures/NAME.svg": _is_figure(row["figure"]),
            f"it holds under {holds!r} of {views!r}": type(views) is type(holds) is int and 0 <= holds <= views,
        }.items():
            if not good:
                raise ValueError(said)
        return cls(row["id"], Estimate(row["value"], low, high, row["n"]), row["under"], row["figure"], views, holds)


_RECOUNT = ("id", "value", "low", "high", "n", "under", "figure")


def _known() -> list[str]:
    return [claim.id for claim in CLAIMS]


def _ordered(value: Any, low: Any, high: Any) -> bool:
    """Whether these are finite numbers, the bounds in order or both unknown."""
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in (value, low, high)):
        return False
    unbounded = math.isnan(low) and math.isnan(high)
    return math.isfinite(value) and (unbounded or (math.isfinite(low) and math.isfinite(high) and low <= high))


def _is_figure(path: Any) -> bool:
    return isinstance(path, str) and (not path or re.fullmatch(r"figures/[\w.-]+\.(svg|png)", path) is not None)


def write_recounts(path: Path, recounts: Iterable[Recount]) -> Path:
    """Write a notebook's recounts as JSON, after checking them.

    Raises:
        ValueError: naming the first row that is wrong.
    """
    rows = [recount.to_json() for recount in recounts]
    _checked(path, rows)
    return store.write_json(path, rows)


def read_recounts(*paths: Path) -> list[Recount]:
    """The recounts of several files; one that is not there has none (its notebook did not run).

    Raises:
        ValueError: naming the file and row that is damaged, and the way out.
    """
    found: list[Recount] = []
    for path in paths:
        if path.exists():
            try:
                rows = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: damaged ({error}); delete it, its notebook writes it anew") from error
            found += _checked(path, rows)
    return found


def _checked(path: Path, rows: Any) -> list[Recount]:
    if not isinstance(rows, list):
        raise ValueError(f"{path}: not a list of recounts; delete it, its notebook writes it anew")
    found: dict[str, Recount] = {}
    for number, row in enumerate(rows, start=1):
        try:
            recount = Recount.from_json(row)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}; correct the notebook that writes it") from error
        if recount.id in found:
            raise ValueError(f"{path}, row {number}: a second row for {recount.id}; correct the notebook")
        found[recount.id] = recount
    return list(found.values())


# --- estimates from a run on Countdown ------------------------------------------------


def countdown_estimates(
    rft: Sequence[Attempt], control: Sequence[Attempt], sprint: Sequence[Attempt], *, seed: int = 0
) -> dict[str, Estimate]:
    """This run's side of every claim that a run on Countdown can be held against, Table 1 left out.

    `control` is a second, independent RFT run on the same problems; the long problems are its longest quarter.

    Raises:
        ValueError: if the three runs are not of the same problems.
    """
    outcomes = statistics.aligned(*({a.problem: a.correct for a in run} for run in (rft, sprint)))
    counted = [{a.problem: accounting.costs(a) for a in run} for run in (rft, control, sprint)]
    base, by, other = statistics.aligned(*({p: c["sequential"] for p, c in run.items()} for run in counted))
    base_total, total, stages = statistics.aligned(
        {p: c["total"] for p, c in counted[0].items()},
        {p: c["total"] for p, c in counted[2].items()},
        {p: c["stages"] for p, c in counted[2].items()},
    )
    long = statistics.longest(by)
    found = {
        "table2.countdown.accuracy_difference": statistics.accuracy_difference(*outcomes),
        "figure6.countdown.all": statistics.reduction(base, other, seed=seed),
        "figure6.countdown.long": statistics.reduction(base[long], other[long], seed=seed),
        "figure6.countdown.long_minus_all": statistics.reduction_contrast(base, other, long, seed=seed),
    }
    return {id_: estimate.scaled(100) for id_, estimate in found.items()} | {
        "table2.direction.total_over_sequential": statistics.ratio(other, total, seed=seed),
        "table2.direction.total_over_rft": statistics.ratio(base_total, total, seed=seed),
        "figure5.direction.stages_by_difficulty": _hard_minus_easy(list(counted[0]), stages, seed),
    }


def _hard_minus_easy(problems: Sequence[str], values: statistics.Array, seed: int) -> Estimate:
    """Mean on the hardest quarter of Countdown problems minus that on the easiest, by the solver's first moves."""
    from sprint_lib.tasks.countdown import first_moves_tried, numbers_of

    tried = [first_moves_tried(*numbers_of(problem)) for problem in problems]
    return groups_difference(statistics.longest(tried), statistics.longest([-t for t in tried]), values, seed=seed)


def groups_difference(first: ArrayLike, second: ArrayLike, values: ArrayLike, *, seed: int = 0) -> Estimate:
    """Mean of `values` [problems] over the problems of one mask minus that over another's, all problems resampled."""
    masks = [np.asarray(mask, dtype=np.float64) for mask in (first, second)]
    columns = np.stack([*masks, *(mask * np.asarray(values) for mask in masks)], axis=1)

    def contrast(means: statistics.Array) -> statistics.Array:
        shares = np.maximum(means[..., :2], 1e-12)  # a resample of few problems may hold none of a group
        found: statistics.Array = means[..., 2] / shares[..., 0] - means[..., 3] / shares[..., 1]
        return found

    return statistics.bootstrap(columns, contrast, seed=seed)


def task_estimates(
    task: str, runs: Mapping[str, Sequence[Attempt]], settings: Collection[str], levels: Mapping[str, float]
) -> dict[str, Estimate]:
    """This run's side of the claims about the paper's own models on a task, as far as `settings` says that they ran.

    Args:
        task: a task of `PAPER_TASKS`.
        runs: attempts of `base`, `rft`, `rft-control` and `sprint`; the last three on the same problems.
        settings: keys of `SETTINGS`.
        levels: by problem id, its level of difficulty; only MATH-500 has them.

    Long problems are those over 8,000 tokens of an RFT run where the paper says so, else the control's longest quarter.
    """
    key = PAPER_TASKS[task]
    values: dict[str, Estimate] = {}
    costs = {name: {a.problem: accounting.costs(a) for a in run} for name, run in runs.items()}
    for name in ("rft", "sprint"):
        values[f"{name}.accuracy"] = statistics.proportion([a.correct for a in runs[name]]).scaled(100)
        for kind in ("sequential", "total"):
            values[f"{name}.{kind}_tokens"] = statistics.mean([cost[kind] for cost in costs[name].values()])
    pair = statistics.aligned(*({a.problem: a.correct for a in runs[name]} for name in ("rft", "sprint")))
    values["accuracy_difference"] = statistics.accuracy_difference(*pair).scaled(100)
    sequential = {n: {p: c["sequential"] for p, c in costs[n].items()} for n in ("rft", "rft-control", "sprint")}
    all_tokens = {p: c["total"] for p, c in costs["sprint"].items()}
    base, by, other, total = statistics.aligned(*sequential.values(), all_tokens)
    more = statistics.ratio(base, total)
    values["sequential_reduction"] = statistics.reduction(base, other).scaled(100)
    values["total_increase"] = Estimate(more.value - 1, more.low - 1, more.high - 1, more.n).scaled(100)
    values["total_over_sequential"] = statistics.ratio(other, total)
    found = {f"table2.{key}.{name}": estimate for name, estimate in values.items()}
    right = statistics.proportion([a.correct for a in runs["base"]]).scaled(100)
    found[f"figure4.{key}.base_r1_distill_7b.accuracy"] = right
    found[f"figure4.{key}.saved_sequential_tokens_vs_rft"] = statistics.difference(other, base)
    found |= {f"figure6.{key}.{part}": e for part, e in _savings(base, by, other).items()}
    stages = np.array([costs["sprint"][p]["stages"] for p in sequential["rft"]])
    hard, easy = (np.array([levels.get(p) == level for p in sequential["rft"]]) for level in (5, 1))
    if hard.any() and easy.any():
        found[f"figure5.{key}.stages_by_level"] = groups_difference(hard, easy, stages)
    allowed = {claim.id for claim in CLAIMS if claim.setting in settings and claim.setting != COUNTDOWN}
    return {id_: estimate for id_, estimate in found.items() if id_ in allowed}


def _savings(base: statistics.Array, by: statistics.Array, other: statistics.Array) -> dict[str, Estimate]:
    """Savings in percent by length, as Figure 6 and its text divide the problems; parts that no problem is in lack."""
    long = statistics.longest(by)
    parts = {"all": np.ones(len(base), dtype=bool), "long": long}
    for ending, length in (("", base), ("_controlled", by)):
        parts |= {f"short_problems{ending}": length < 1000, f"rft_over_8000_tokens{ending}": length > 8000}
    found = {
        part: statistics.reduction(base[mask], other[mask]).scaled(100) for part, mask in parts.items() if mask.any()
    }
    return found | {"long_minus_all": statistics.reduction_contrast(base, other, long).scaled(100)}


def certain(value: float, n: int) -> Estimate:
    """An estimate without uncertainty: a setting that was used, or a yes (1) or no (0) that a method makes so."""
    return Estimate(value, value, value, n)


# --- the SPRINT paper -----------------------------------------------------------------

_N = {"math500": 500, "countdown": 1000, "gpqa_diamond": 198}
_OWN = ("rft", "sprint")

_TABLE1 = {  # parallel at inference, adaptive search, model optimised for it, multi-step reasoning
    "tree_of_thoughts": (True, False, False, False),
    "graph_of_thoughts": (True, False, False, False),
    "skeleton_of_thought": (True, True, False, False),
    "repeated_sampling": (True, False, False, False),
    "reasoning_models": (False, True, True, True),
    "pasta": (True, True, True, False),
    "hogwild": (True, True, False, False),
    "sprint": (True, True, True, True),
}
_PROPERTIES = ("parallel", "adaptive", "optimised", "multi_step")
# What calls can contradict. RFT is one call of free length and repeated sampling one round of them whatever a model
# writes; whether a model was trained for it is up to this suite.
_SHARES = {
    "parallel": "share of attempts with calls side by side",
    "adaptive": "share of pairs of problems that get different graphs",
    "multi_step": "share of attempts with more than two rounds of calls",
}
_BUILT = ("reasoning_models", "repeated_sampling")

_TABLE2: dict[str, dict[str, tuple[float, ...]]] = {  # accuracy, sequential tokens, total tokens where given
    "math500": {
        "self_consistency": (80.5, 590, 11645),
        "sot_chat": (47.3, 256, 1290),
        "sot_reasoning": (90.8, 3836, 11538),
        "rft": (91.0, 2880, 2880),
        "sprint": (92.5, 2440, 3622),
    },
    "countdown": {
        "self_consistency": (78.5, 2845),
        "sot_chat": (80.0, 2367),
        "sot_reasoning": (82.4, 5823),
        "rft": (84.9, 4917),
        "sprint": (85.9, 2284),
    },
    "gpqa_diamond": {
        "self_consistency": (45.4, 4735),
        "sot_chat": (49.4, 3526),
        "sot_reasoning": (48.0, 7560),
        "rft": (50.5, 7103),
        "sprint": (51.0, 6336),
    },
}
_COLUMNS = (("accuracy", "%"), ("sequential_tokens", "tokens"), ("total_tokens", "tokens"))

_FIGURE6 = {
    "math500": {"short_problems": -5.0, "rft_over_8000_tokens": 39.0},
    "gpqa_diamond": {"all": 10.8, "long": 45.0},
    "countdown": {"all": 53.5, "long": 65.0},
}
_RUNTIME = {"math500": {"sprint": 36.92, "rft": 40.57}, "math500_long": {"sprint": 74.47, "rft": 120.54}}

_REDUCTION_MARGIN = 10.0  # percentage points
_RELATIVE_MARGIN = 0.1
_CONTROL = "; long by the very run that is measured in the paper, by a second RFT run here"
# Both ways of bucketing the released runs stand beside the paper's number.
_BUCKETED = {"": "bucketed by the measured RFT run", "_controlled": "bucketed by the other RFT run"}


def _sampling_error(*accuracies: float, n: int) -> float:
    """95 % sampling error in points of an accuracy, or of the difference of two, on `n` problems."""
    return 1.96 * math.sqrt(sum(a * (100 - a) for a in accuracies) / n)


def _table1() -> Iterator[Claim]:
    for system, marks in _TABLE1.items():
        setting = COUNTDOWN if system in ("reasoning_models", "sprint") else "rivals"
        for key, mark in zip(_PROPERTIES, marks, strict=True):
            id_, words = f"table1.{system}.{key}", f"{_words(system)}: {_words(key)}"
            if key in _SHARES and system not in _BUILT:
                words += f" (1 yes, 0 no; {_SHARES[key]})"
                yield Claim(id_, "SPRINT, Table 1", words, float(mark), "share", setting, margin=0.5, none=0.5)
                continue
            words += " (1 yes, 0 no)"
            yield Claim(id_, "SPRINT, Table 1", words, float(mark), "yes/no", setting, basis=BUILT)


def _table2() -> Iterator[Claim]:
    for task, systems in _TABLE2.items():
        for system, values in systems.items():
            setting = f"{'7b' if system in _OWN else 'rivals'}/{task}"
            for (column, unit), value in zip(_COLUMNS, values, strict=False):
                error = _sampling_error(value, n=_N[task]) if unit == "%" else _RELATIVE_MARGIN * value
                quantity = f"{_words(column)} of {_words(system)} on {_words(task)}"
                yield Claim(
                    f"table2.{task}.{system}.{column}",
                    "SPRINT, Table 2",
                    quantity,
                    value,
                    unit,
                    setting,
                    _N[task],
                    error,
                )
        yield _accuracy_difference(task)
    yield from _derived_from_table2()


def _accuracy_difference(task: str) -> Claim:
    rft, sprint = (_TABLE2[task][system][0] for system in _OWN)
    return Claim(
        id=f"table2.{task}.accuracy_difference",
        source="SPRINT, Table 2, computed from it",
        quantity=f"accuracy of SPRINT minus accuracy of RFT on {_words(task)}",
        paper=round(sprint - rft, 6),
        unit="points",
        setting=COUNTDOWN if task == "countdown" else f"7b/{task}",
        n=_N[task],
        margin=_sampling_error(rft, sprint, n=_N[task]),
        none=0.0,
    )


def _derived_from_table2() -> Iterator[Claim]:
    (_, rft, rft_total), (_, sprint, total) = (_TABLE2["math500"][system] for system in _OWN)
    source, there = "SPRINT, Table 2, computed from it", "7b/math500"
    saved = _percent(1 - sprint / rft)
    more = _percent(total / rft_total - 1)
    ratio = round(total / sprint, 3)
    id_ = "table2.math500"
    yield _reduction(
        f"{id_}.sequential_reduction", source, "sequential tokens saved against RFT", saved, there, "math500"
    )
    yield _reduction(f"{id_}.total_increase", source, "total tokens of SPRINT above RFT's", more, there, "math500")
    words = "total over sequential tokens of SPRINT"
    margin = _RELATIVE_MARGIN * ratio
    yield Claim(f"{id_}.total_over_sequential", source, f"{words} on MATH-500", ratio, "ratio", there, 500, margin, 1.0)
    source = "SPRINT, Table 2 (MATH-500; not reported for Countdown)"
    id_ = "table2.direction"
    yield _direction(f"{id_}.total_over_sequential", source, f"{words}: above 1", "ratio", none=1.0)
    yield _direction(f"{id_}.total_over_rft", source, "total tokens of SPRINT over RFT's: above 1", "ratio", none=1.0)


def _figures() -> Iterator[Claim]:
    base, four = 89.1, "SPRINT, Figure 4"
    words = "accuracy of R1-Distill-Qwen-7B on MATH-500"
    error = _sampling_error(base, n=500)
    yield Claim("figure4.math500.base_r1_distill_7b.accuracy", four, words, base, "%", "rivals/math500", 500, error)
    words = "sequential tokens that SPRINT saves against RFT on MATH-500"
    id_ = "figure4.math500.saved_sequential_tokens_vs_rft"
    yield Claim(id_, four, words, 440, "tokens", "7b/math500", 500, 440 * _RELATIVE_MARGIN, 0.0)
    words = "stages on the hardest quarter of problems minus on the easiest: above 0"
    yield _direction("figure5.direction.stages_by_difficulty", "SPRINT, Figure 5", words, "stages", none=0.0)
    words = "stages on MATH-500 problems of level 5 minus on those of level 1: above 0"
    yield _direction("figure5.math500.stages_by_level", "SPRINT, Figure 5", words, "stages", 0.0, "7b/math500")
    for task, values in _FIGURE6.items():
        setting = COUNTDOWN if task == "countdown" else f"7b/{task}"
        for which, value in values.items():
            words = f"sequential tokens saved against RFT, {_words(which)}{_CONTROL if which == 'long' else ''}"
            for ending, how in _BUCKETED.items() if task == "math500" else [("", "")]:
                id_, said = f"figure6.{task}.{which}{ending}", f"{words}, {how}" if how else words
                yield _reduction(id_, "SPRINT, Figure 6", said, value, setting, task, whole=which == "all")
        if {"all", "long"} <= set(values):
            more = round(values["long"] - values["all"], 6)
            words = f"saving on long problems minus saving on all{_CONTROL}"
            id_ = f"figure6.{task}.long_minus_all"
            yield _reduction(
                id_, "SPRINT, Figure 6, computed from it", words, more, setting, task, "points", whole=False
            )


def _other_numbers() -> Iterator[Claim]:
    for part, systems in _RUNTIME.items():
        n = _N.get(part)  # how many long problems it has the paper does not say
        there = "7b/math500"
        for system, seconds in systems.items():
            id_, words = f"runtime.{part}.{system}", f"estimated seconds a problem, {_words(system)} on {_words(part)}"
            margin = _RELATIVE_MARGIN * seconds
            yield Claim(id_, "SPRINT, runtime estimate", words, seconds, "s", there, n, margin, basis=ESTIMATED)
        ratio = round(systems["sprint"] / systems["rft"], 3)
        id_, words = f"runtime.{part}.sprint_over_rft", f"estimated seconds of SPRINT over RFT's on {_words(part)}"
        source, margin = "SPRINT, runtime estimate, computed from it", _RELATIVE_MARGIN * ratio
        yield Claim(id_, source, words, ratio, "ratio", there, n, margin, 1.0, basis=ESTIMATED)
    where = "SPRINT, section 3.2 and A.2"
    value: float
    for key, value, unit in (("source_traces", 6000, "traces"), ("kept_samples", 1700, "samples")):
        margin = _RELATIVE_MARGIN * value
        yield Claim(f"curation.{key}", where, _words(key), value, unit, "curation", margin=margin)
    for key, value, unit in (("min_steps_per_stage", 1.5, "steps"), ("max_stages", 12, "stages")):
        yield Claim(f"curation.{key}", where, f"{_words(key)} (a setting)", value, unit, COUNTDOWN, basis=BUILT)
    words = "executions of fewer lines than this are folded into their plans"
    yield Claim("curation.fold_below", where, words, 3, "lines", "examples")
    words = "released traces that a filter of 1.5 steps a stage keeps or drops as the authors did"
    yield Claim("curation.filter_of_examples", where, words, 100, "%", "examples")
    words = "stages of the longest released run, where the paper stops it"
    yield Claim("curation.stages_of_released_runs", "SPRINT, section 3.1 and A.1", words, 12, "stages", "7b/math500")
    examples: dict[str, tuple[str, float, str]] = {
        "appendix_b1.parabola_trace_sequential_tokens": ("parabola trace before packing", 1645, "tokens"),
        "appendix_b1.packed_sequential_tokens": ("parabola trace after packing", 1445, "tokens"),
        "appendix_b1.parallel_components": ("components in parallel (2, 3, 6 and 7)", 4, "components"),
        "appendix_b2.binary_to_octal.rft_sequential_tokens": (
            "binary to octal, RFT (its length is that of the second released RFT run, not of Table 2's)",
            1989,
            "tokens",
        ),
        "appendix_b2.binary_to_octal.sprint_sequential_tokens": (
            "binary to octal, SPRINT (another sample than the released run)",
            1463,
            "tokens",
        ),
    }
    for id_, (words, value, unit) in examples.items():
        margin = _RELATIVE_MARGIN * value if unit == "tokens" else 0.0
        yield Claim(
            id_, f"SPRINT, appendix B.{id_.partition('.')[0][-1]}", words, value, unit, "examples", margin=margin
        )


def _reduction(
    id_: str, source: str, words: str, value: float, setting: str, task: str, unit: str = "%", *, whole: bool = True
) -> Claim:
    """`whole`: over all problems of the task, not over some whose number the paper does not give."""
    n = _N[task] if whole else None
    return Claim(id_, source, f"{words} ({_words(task)})", value, unit, setting, n, _REDUCTION_MARGIN, 0.0)


def _direction(id_: str, source: str, words: str, unit: str, none: float, setting: str = COUNTDOWN) -> Claim:
    return Claim(id_, source, words, None, unit, setting, none=none, direction=1)


def _percent(share: float) -> float:
    return round(100 * share, 1)


_NAMES = {
    "math500": "MATH-500",
    "short_problems": "short problems (the paper names no limit, here it is 1,000 RFT tokens)",
    "rft_over_8000_tokens": "problems with over 8,000 RFT tokens",
    "gpqa_diamond": "GPQA-diamond",
    **{"t0": "T 0", "t0_1": "T 0.1", "t0_5": "T 0.5", "t1": "T 1"},
    **{
        "countdown": "Countdown",
        "rft": "RFT",
        "sprint": "SPRINT",
        "sot": "SoT",
        "apr": "APR",
        "sos": "SoS",
        "grpo": "GRPO",
    },
}


def _words(name: str) -> str:
    return _NAMES.get(name) or " ".join(_NAMES.get(word, word) for word in name.split("_"))


# --- the APR paper --------------------------------------------------------------------

_STEPS = ("supervised", "grpo")
_TEMPERATURES = ("t0", "t0_1", "t0_5", "t1")
_APR: dict[
    str, tuple[str, tuple[str, ...], dict[str, Sequence[float]]]
] = {  # section: unit, what a list runs over, data
    "figure4a": (
        "%",
        (),
        {
            "apr_at_20k_tokens": [80.1],
            "sos_plus_cons7": [66.6],
            "sos_plus_pass8_at_24k_tokens": [68.4],
            "less_compute_to_match_pass8_percent": [57.4],
        },
    ),
    "figure4b": ("points", (), {"apr_cond10_over_sos_plus_points": [20], "apr_cond6_over_sos_plus_points": [10]}),
    "figure5": (
        "",
        _STEPS,
        {
            "accuracy": [75.5, 83.4],
            "total_tokens": [10964, 16720],
            "tokens_per_sequence": [1471, 1796],
            "child_threads": [6.1, 8.2],
        },
    ),
    "figure6": (
        "%",
        ("1", "2", "3", "4", "5", "6", "7", "8"),
        {
            "sos_plus_accuracy": [45.1, 51.0, 56.7, 56.9, 57.3],
            "apr_accuracy": [53.5, 61.5, 65.3, 67.9, 69.8, 75.2, 76.9, 80.1],
        },
    ),
    "figure6.at_5000_ms": ("%", (), {"apr": [75.2], "sos_plus": [57.3]}),
    "figure7": (
        "",
        _STEPS,
        {
            "sos_plus.tokens": [2201, 2660],
            "sos_plus.accuracy": [57.3, 60.0],
            "apr.tokens": [10964, 16720],
            "apr.accuracy": [75.5, 83.4],
            "apr_cond10.tokens": [19895, 22265],
            "apr_cond10.accuracy": [83.2, 83.3],
        },
    ),
    "table1": (
        "%",
        _TEMPERATURES,
        {
            "sos": [49.5, 49.6, 47.1, 37.9],
            "sos_plus": [57.3, 57.1, 52.0, 48.1],
            "sos_plus_grpo": [60.0, 59.3, 59.1, 58.1],
            "apr": [75.5, 75.9, 74.9, 67.8],
            "apr_grpo": [83.4, 82.9, 81.3, 76.4],
            "apr_cond10": [83.2, 83.3, 83.8, 80.1],
            "apr_cond10_grpo": [83.3, 83.3, 83.8, 81.9],
        },
    ),
    "at_4k_context": ("%", (), {"apr_grpo": [83.4], "sos_plus_grpo": [60.0]}),
}


def _apr() -> Iterator[Claim]:
    for section, (unit, labels, series) in _APR.items():
        source = "APR, " + section.partition(".")[0].replace("figure", "Figure ").replace("table", "Table ").replace(
            "_", " "
        )
        for name, values in series.items():
            for label, value in zip(labels or ("",), values, strict=False):
                id_ = ".".join(filter(None, ["apr", section, name, label]))
                kind = unit or ("%" if name.endswith("accuracy") else "threads" if "threads" in name else "tokens")
                share = kind == "%" and "compute" not in name
                margin = _sampling_error(value, n=1000) if share else _RELATIVE_MARGIN * value
                words = ", ".join(map(_words, filter(None, [*name.split("."), label])))
                yield Claim(id_, source, words, value, kind, "apr", 1000, margin, 0.0 if kind == "points" else None)


REINFORCED = {  # what grows by reinforcement in the APR paper: by run and quantity its figure, the unit, and no growth
    ("apr", "accuracy"): ("Figure 5", "points", 0.0),
    ("apr", "total tokens"): ("Figure 5", "times", 1.0),
    ("apr", "tokens a sequence"): ("Figure 5", "times", 1.0),
    ("apr", "threads"): ("Figure 5", "threads", 0.0),
    ("sos-plus", "accuracy"): ("Figure 7", "points", 0.0),
    ("sos-plus", "total tokens"): ("Figure 7", "times", 1.0),
}


def reinforced(run: str, quantity: str) -> str:
    """The id of the claim that reinforcement makes a quantity of a run larger."""
    return f"apr.reinforcement.{run}.{quantity}".replace("-", "_").replace(" ", "_")


def _reinforced() -> Iterator[Claim]:
    for (run, quantity), (figure, unit, none) in REINFORCED.items():
        words = f"{_words(run.replace('-', '_'))}: {quantity} after reinforcement against before"
        yield _direction(reinforced(run, quantity), f"APR, {figure}", words, unit, none, "reinforcement")


CLAIMS: tuple[Claim, ...] = (*_table1(), *_table2(), *_figures(), *_other_numbers(), *_apr(), *_reinforced())


# --- the papers' numbers for tables and figures ---------------------------------------


def properties() -> dict[str, dict[str, bool]]:
    """Table 1 of SPRINT: by system, which of the four properties it has."""
    return {system: dict(zip(_PROPERTIES, marks, strict=True)) for system, marks in _TABLE1.items()}


def table2(task: str) -> list[dict[str, Any]]:
    """Rows of Table 2 of SPRINT: method, n, accuracy in percent, mean sequential and total tokens (NaN: not given)."""
    rows = []
    for method, values in _of(_TABLE2, PAPER_TASKS.get(task, task)).items():
        accuracy, sequential, total = (*values, math.nan)[:3]
        n = _N[PAPER_TASKS.get(task, task)]
        rows.append({"method": method, "n": n, "accuracy": accuracy, "sequential": sequential, "total": total})
    return rows


def figure6(task: str) -> dict[str, float]:
    """Reductions of sequential tokens in percent that SPRINT's Figure 6 and its text give for a task."""
    return dict(_of(_FIGURE6, PAPER_TASKS.get(task, task)))


def runtime(part: str) -> dict[str, float]:
    """SPRINT's estimated seconds a problem, `rft` and `sprint`, for `math500` or `math500_long`."""
    return dict(_of(_RUNTIME, part))


def apr(section: str) -> dict[str, dict[str, float]]:
    """The APR paper's numbers of a section, such as `figure6`: by series and label ("" where a series has one)."""
    _, labels, series = _of(_APR, section)
    return {name: dict(zip(labels or ("",), values, strict=False)) for name, values in series.items()}


def _of(data: Mapping[str, Any], key: str) -> Any:
    if key not in data:
        raise KeyError(f"the paper has nothing for {key!r} here; there are: {', '.join(data)}")
    return data[key]
