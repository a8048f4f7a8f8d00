"""What comes of the rivals' runs: Table 2 of this run, comparisons in pairs, who is on the front, what pays when.

Frames from attempts, as in `tables`: whatever depends on a clock, or on what ran at the same moment, is kept apart.
Everything that is counted is a function of one attempt in `QUANTITIES`; a further column is a further line there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sprint_lib import accounting, tables
from sprint_lib.calls import Attempt
from sprint_lib.evaluation import claims, statistics
from sprint_lib.evaluation.rivals import Field, Row
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.plots import name
from sprint_lib.tables import Runs, bounded
from sprint_lib.wording import readable

Quantity = Callable[[Attempt], float]

FAMILIES = {  # by method, for colours
    "sequential": "one line",
    "sos": "one line",
    "self_consistency": "many samples",
    "best_of_n": "many samples",
    "skeleton_of_thought": "directed from outside",
    "tree_of_thoughts": "directed from outside",
    "graph_of_thoughts": "directed from outside",
    "sprint": "trained to branch",
    "apr": "trained to branch",
    "pasta": "trained to branch",
    "hogwild": "shared cache",
}
SYSTEMS = {  # by method, the system of the paper's Table 1
    "sequential": "reasoning_models",
    "self_consistency": "repeated_sampling",
    "best_of_n": "repeated_sampling",
    "skeleton_of_thought": "skeleton_of_thought",
    "tree_of_thoughts": "tree_of_thoughts",
    "graph_of_thoughts": "graph_of_thoughts",
    "sprint": "sprint",
    "pasta": "pasta",
    "hogwild": "hogwild",
}


def mean_sample(attempt: Attempt) -> float:
    """`accounting.mean_sample` of an attempt that only drew samples; NaN of any other."""
    drawn = {call.role for call in attempt.calls} == {"sample"}
    return accounting.mean_sample(attempt) if drawn else math.nan


def parent_context(attempt: Attempt) -> int:
    """The most tokens that one call of the thread that plans and answers had; of an attempt without one, any call."""
    planned = (accounting.largest_context(attempt, role) for role in accounting.MAIN_ROLES)
    return max(planned) or accounting.largest_context(attempt)


QUANTITIES: dict[str, Quantity] = {
    "sequential": accounting.sequential_tokens,
    "serial": accounting.serial_tokens,
    "total": accounting.total_tokens,
    "calls": lambda attempt: len(attempt.calls),
    "mean_sample": mean_sample,
}
DUEL: dict[str, Quantity] = {  # of SPRINT against APR
    "critical path": accounting.sequential_tokens,
    "longest thread": accounting.longest_thread,
    "total": accounting.total_tokens,
    "context of the parent": parent_context,
    "largest context": accounting.largest_context,
}


# --- tables ---------------------------------------------------------------------------


def dials(field: Field, runs: Runs) -> pd.DataFrame:
    """What turning a dial from its first value to its last does: `duel` of each entry that has several, by entry."""
    turned = [(entry, field.of(entry)) for entry in field.entries() if len(field.of(entry)) > 1]
    few = {key: DUEL[key] for key in ("critical path", "total")}
    found = [duel(rows[:1], rows[-1:], runs, few).assign(method=entry) for entry, rows in turned]
    columns = [
        "method",
        "comparison",
        "quantity",
        "first",
        "second",
        "difference",
        "difference_low",
        "difference_high",
        "n",
    ]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def described(field: Field, given: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The entries of a profile as a table: method, by (what runs), model, runs at, attempts, note or why not."""
    rows = []
    for entry, said in given.items():
        dial = next((f"{dial} {', '.join(map(str, values))}" for dial, values in said.get("budgets", {}).items()), "")
        row = {"method": entry, "by": said.get("method", ""), "model": said.get("model", ""), "runs_at": dial}
        attempts = sum(row.spec.n for row in field.of(entry))
        rows.append({**row, "attempts": attempts, "note": said.get("note", "") or said.get("why_not", "")})
    return pd.DataFrame(rows)


def learning_curves(field: Field) -> pd.DataFrame:
    """Training loss of the models of trained entries, from their training records: model (the entry), tokens, loss."""
    points = []
    for row in {row.entry: row for row in field.rows if row.trained}.values():
        record = json.loads((Path(row.folder) / "training.json").read_text(encoding="utf-8"))
        each = record["tokens"] / record["steps"]
        points += [{"model": row.entry, "tokens": p["step"] * each, "loss": p["loss"]} for p in record["curve"]]
    return pd.DataFrame(points)


def table2(field: Field, runs: Runs) -> pd.DataFrame:
    """One row a run: accuracy in percent and the means of `QUANTITIES` with 95 % bounds; a row a paradigm without runs.

    Columns: method (the entry), budget, n, accuracy, sequential, serial, total, calls, mean_sample (of methods that
    only draw samples), not_ok (attempts whose status is another), note (`remark`).
    """
    rows = []
    for row in field.rows:
        attempts = runs[row.name]
        found: dict[str, Any] = {"method": row.entry, "budget": row.label, "n": len(attempts)}
        found |= bounded("accuracy", accuracy(attempts))
        for column, of in QUANTITIES.items():
            values = [of(a) for a in attempts]
            found |= bounded(column, statistics.NONE if any(map(math.isnan, values)) else statistics.mean(values))
        rows.append(found | {"not_ok": sum(a.status != "ok" for a in attempts), "note": remark(row, field)})
    rows += [{"method": entry, "budget": "", "n": 0, "note": why} for entry, why in field.absent.items()]
    return pd.DataFrame(rows)


def remark(row: Row, field: Field) -> str:
    """The profile's note, and whose recorded samples a run took instead of drawing its own."""
    source = next((f"{other.entry} {other.label}".strip() for other in field.rows if other.name == row.replay), "")
    return "; ".join(filter(None, [row.note, source and f"replays the samples of {source}"]))


def clock_table(field: Field, runs: Runs, alone: Runs, base: str) -> pd.DataFrame:
    """What a clock or a cache decides: prefilled prompt tokens, milliseconds of a problem when nothing else runs.

    Columns: method, budget, n, prefill (all runs' problems), n_alone, milliseconds, and `times`: the summed seconds of
    the row `base` over this one's, paired; above 1 is faster; note (`remark`; milliseconds are never replayed).
    """
    rows = []
    for row in field.rows:
        seconds = [[a.wall_seconds for a in side] for side in tables.same_problems(alone[row.name], alone[base])]
        found: dict[str, Any] = {"method": row.entry, "budget": row.label, "n": len(runs[row.name])}
        found |= bounded("prefill", statistics.mean([accounting.prefill_tokens(a) for a in runs[row.name]]))
        found |= {"n_alone": len(seconds[0])}
        found |= bounded("milliseconds", statistics.mean([1000 * s for s in seconds[0]]))
        rows.append(found | bounded("times", statistics.ratio(*seconds)) | {"note": remark(row, field)})
    return pd.DataFrame(rows)


def accuracy(attempts: Sequence[Attempt]) -> Estimate:
    """In percent, every attempt counted, whatever its status."""
    return statistics.proportion([a.correct for a in attempts]).scaled(100)


def against(field: Field, runs: Runs, base: str) -> pd.DataFrame:
    """Every row against the row `base` on the same problems.

    Columns: method, budget, against (`base`), n, points (accuracy difference in percentage points, Newcombe), p_value
    (McNemar), saved (sequential tokens, percent of the base's mean, paired bootstrap), more (total tokens over the
    base's).
    """
    rows = []
    for row in field.rows:
        if row.name == base:
            continue
        there, here = tables.same_problems(runs[base], runs[row.name])
        right = [[a.correct for a in side] for side in (there, here)]
        found: dict[str, Any] = {"method": row.entry, "budget": row.label, "against": base, "n": len(here)}
        found |= bounded("points", statistics.accuracy_difference(*right).scaled(100))
        found["p_value"] = statistics.mcnemar(*right).p
        path = [[accounting.sequential_tokens(a) for a in side] for side in (there, here)]
        total = [[accounting.total_tokens(a) for a in side] for side in (there, here)]
        found |= bounded("saved", statistics.reduction(*path).scaled(100))
        rows.append(found | bounded("more", statistics.ratio(*total)))
    return pd.DataFrame(rows)


def duel(first: Sequence[Row], second: Sequence[Row], runs: Runs, quantities: Mapping[str, Quantity]) -> pd.DataFrame:
    """Each row of one paradigm against each of another, quantity by quantity, on the same problems.

    Columns: comparison, quantity, first, second (means; accuracy in percent), difference (second minus first: points
    of accuracy, else percent of the first's mean) with 95 % bounds, n.
    """
    found = []
    for one in first:
        for two in second:
            sides = tables.same_problems(runs[one.name], runs[two.name])
            right = [[a.correct for a in side] for side in sides]
            comparison = " against ".join(f"{name(row.entry)} {row.label}".strip() for row in (two, one))
            shares = [accuracy(side).value for side in sides]
            rows = [("accuracy", shares, statistics.accuracy_difference(*right).scaled(100))]
            for quantity, of in quantities.items():
                values = [[float(of(a)) for a in side] for side in sides]
                ratio = statistics.ratio(*values)
                change = Estimate(ratio.value - 1, ratio.low - 1, ratio.high - 1, ratio.n).scaled(100)
                rows.append((quantity, [sum(v) / len(v) for v in values], change))
            for quantity, means, change in rows:
                row = {"comparison": comparison, "quantity": quantity, "first": means[0], "second": means[1]}
                found.append({**row, **bounded("difference", change), "n": change.n})
    columns = ["comparison", "quantity", "first", "second", *(f"difference{end}" for end in ("", "_low", "_high")), "n"]
    return pd.DataFrame(found, columns=columns)


def duel_lines(found: pd.DataFrame, quantities: Sequence[str] = ("accuracy", "critical path", "total")) -> list[str]:
    """Rows of a `duel` as list items."""
    return [
        f"- {row.comparison}, {row.quantity}: {readable(row.second)} and {readable(row.first)}, difference "
        f"**{row.difference:+.1f}** [{row.difference_low:.1f}, {row.difference_high:.1f}] "
        f"{'points' if row.quantity == 'accuracy' else '%'}, n = {row.n}"
        for row in found[found["quantity"].isin(quantities)].itertuples()
    ]


# --- fronts ---------------------------------------------------------------------------


def front(cost: Sequence[float], gain: Sequence[float]) -> list[bool]:
    """Which points no other one beats: none costs at most as much and gains at least as much, one of the two truly.

    Of equal points all are on the front. A point with an unknown number is on no front.
    """
    points = list(zip(cost, gain, strict=True))
    known = [point for point in points if not any(map(math.isnan, point))]
    return [p in known and not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in known) for p in points]


def points(field: Field, table: pd.DataFrame, column: str, costs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Data of `plots.pareto`: accuracy against a column, a row a run, in the field's order.

    `column` is one of `table` (made by `table2`) or, where given, of `costs` (made by `clock_table`). Columns: method,
    family, label (value of the dial), x and y with bounds, n, front.
    """
    ran = table[table["n"] > 0].reset_index(drop=True)
    of = ran if costs is None else costs
    rows = []
    for place, row in enumerate(field.rows):
        x, y = (
            {f"{axis}{end}": frame.loc[place, f"{key}{end}"] for end in ("", "_low", "_high")}
            for axis, frame, key in (("x", of, column), ("y", ran, "accuracy"))
        )
        looks = {"family": FAMILIES.get(row.method, "other"), "label": str(row.value)}
        rows.append({"method": row.entry, **looks, **x, **y, "n": int(ran.loc[place, "n"])})
    frame = pd.DataFrame(rows)
    return frame.assign(front=front(frame["x"].tolist(), frame["y"].tolist()))


# --- the APR paper's figures --------------------------------------------------------------


def apr_figures(field: Field, runs: Runs, alone: Runs, windows: Sequence[int]) -> tuple[pd.DataFrame, ...]:
    """Data of `plots.curves` for the APR paper's Figures 4a, 4b and 6: this run's rows, and the paper's numbers.

    Columns: panel, label, series (the entry), x, accuracy with bounds (NaN in the paper's panels), n. Runs of several
    samples are not in 4b: which of them would have fitted is another run's question.
    """
    here, there = "this run", "the APR paper, its model and problems"
    means = mean_costs(field, runs, alone)
    right = {row.name: accuracy(runs[row.name]) for row in field.rows}
    total, path, clock = (
        [(row.entry, means[axis][row.name], right[row.name]) for row in field.rows]
        for axis in ("total tokens", "sequential tokens", "milliseconds")
    )
    last = [field.of(entry)[-1] for entry in field.entries()]
    last = [row for row in last if row.method not in ("self_consistency", "best_of_n")]
    window = [(row.entry, w, accuracy_within(runs[row.name], w)) for row in last for w in windows]
    paper = _apr_paper()
    label = "total tokens a problem (mean)"
    figure_4a = _curves(here, label, total)
    figure_4a += _curves("the APR paper, Figure 4a (temperature 1)", label, paper["4a"])
    figure_4a += _curves("the APR paper, Figure 7 (greedy)", label, paper["7"])
    label = "context window (tokens)"
    figure_4b = _curves(here, label, window) + _curves(there, label, paper["4b"])
    steps = "place in the paper's curve (its tokens are not in our list)"
    figure_6 = _curves(f"{here}, critical path", "critical path in tokens (mean)", path)
    figure_6 += _curves(f"{there}, tokens", steps, paper["6"])
    figure_6 += _curves(f"{here}, clock", "milliseconds a problem (mean)", clock)
    figure_6 += _curves(f"{there}, clock", "milliseconds", paper["6, clock"])
    return tuple(map(pd.DataFrame, (figure_4a, figure_4b, figure_6)))


def accuracy_within(attempts: Sequence[Attempt], window: int) -> Estimate:
    """Accuracy in percent if an attempt with a call that has more context than `window` tokens counts as wrong.

    At least so much is right in a run within that window: it differs only where an attempt went on without that call.
    """
    return statistics.proportion([a.correct and accounting.largest_context(a) <= window for a in attempts]).scaled(100)


def _curves(panel: str, label: str, points: Sequence[tuple[str, float, Estimate]]) -> list[dict[str, Any]]:
    return [
        {"panel": panel, "label": label, "series": series, "x": x, **bounded("accuracy", share), "n": share.n}
        for series, x, share in points
    ]


def _apr_paper() -> dict[str, list[tuple[str, float, Estimate]]]:
    """Points of the APR paper's figures: series, x, accuracy in percent without an interval."""

    def point(series: str, x: float, value: float) -> tuple[str, float, Estimate]:
        return series, x, Estimate(value, math.nan, math.nan, 1000)

    four, seven, six = (claims.apr(section) for section in ("figure4a", "figure7", "figure6"))
    at_4k, at_5000 = claims.apr("at_4k_context"), claims.apr("figure6.at_5000_ms")
    sampled = ("sos_plus", "sos_plus"), ("apr", "apr"), ("apr", "apr_cond10")
    points = [
        point(to, seven[f"{of}.tokens"]["supervised"], seven[f"{of}.accuracy"]["supervised"]) for to, of in sampled
    ]
    curve = [point(s, int(at), value) for s in ("sos_plus", "apr") for at, value in six[f"{s}_accuracy"].items()]
    return {
        "4a": [
            point("sos_plus_best", 24_000, four["sos_plus_pass8_at_24k_tokens"][""]),
            point("apr", 20_000, four["apr_at_20k_tokens"][""]),
        ],
        "7": points,
        "4b": [point(s, 4096, at_4k[f"{s}_grpo"][""]) for s in ("sos_plus", "apr")],
        "6": curve,
        "6, clock": [point(s, 5000, at_5000[s][""]) for s in ("sos_plus", "apr")],
    }


# --- which paradigm when --------------------------------------------------------------


def mean_costs(field: Field, runs: Runs, alone: Runs) -> dict[str, dict[str, float]]:
    """By axis the mean cost of every row: sequential and total tokens, milliseconds a problem one at a time."""

    def mean(of: Quantity, attempts: Sequence[Attempt]) -> float:
        return sum(map(of, attempts)) / len(attempts)

    return {
        "sequential tokens": {r.name: mean(accounting.sequential_tokens, runs[r.name]) for r in field.rows},
        "total tokens": {r.name: mean(accounting.total_tokens, runs[r.name]) for r in field.rows},
        "milliseconds": {r.name: mean(lambda a: 1000 * a.wall_seconds, alone[r.name]) for r in field.rows},
    }


def best_within(
    field: Field, runs: Runs, costs: Mapping[str, float], limit: float
) -> tuple[Row, Estimate, list[Row]] | None:
    """The most accurate row whose mean cost is at most `limit`, its accuracy, and those it cannot be told apart from.

    `costs` are mean costs by the row's name. Not told apart: the paired 95 % interval of the difference holds zero. Of
    equally accurate ones the cheapest is taken. None if nothing is that cheap.
    """
    cheap = [row for row in field.rows if costs[row.name] <= limit]
    if not cheap:
        return None
    best = max(cheap, key=lambda row: (accuracy(runs[row.name]).value, -costs[row.name]))
    level = []
    for row in cheap:
        there, here = tables.same_problems(runs[row.name], runs[best.name])
        apart = statistics.accuracy_difference([a.correct for a in there], [a.correct for a in here])
        if row is not best and apart.low <= 0 <= apart.high:
            level.append(row)
    return best, accuracy(runs[best.name]), level


_SHARES = {0.25: "a quarter", 0.5: "half", 1.0: "as many", 4.0: "four times"}


def advice(field: Field, runs: Runs, costs: Mapping[str, Mapping[str, float]], base: str) -> pd.DataFrame:
    """What is right most often for a quarter, half, once and four times what the row `base` costs, a row a limit.

    `costs`: by axis (such as "sequential tokens") the mean cost of every row by its name. Columns: axis, share, limit,
    method ("" if nothing is that cheap), budget, cost, accuracy with bounds, n, level (who cannot be told apart),
    others (how many further runs are that cheap).
    """
    found = []
    for axis, of in costs.items():
        for share in _SHARES:
            row: dict[str, Any] = {"axis": axis, "share": share, "limit": share * of[base], "method": "", "budget": ""}
            if best := best_within(field, runs, of, share * of[base]):
                one, right, level = best
                row |= {"method": one.entry, "budget": one.label, "cost": of[one.name], **bounded("accuracy", right)}
                row |= {"n": right.n, "level": "; ".join(f"{name(o.entry)} {o.label}".strip() for o in level)}
                row["others"] = sum(of[o.name] <= row["limit"] for o in field.rows) - 1
            found.append(row)
    return pd.DataFrame(found)


def paragraph(found: pd.DataFrame, base: str) -> str:
    """`advice` as one paragraph; `base` is the printed name of the run that the limits are of."""
    said = []
    for axis, rows in found.groupby("axis", sort=False):
        parts = []
        for row in rows.itertuples():
            limit = f"for {_SHARES[row.share]} ({readable(row.limit)})"
            if not row.method:
                parts.append(f"{limit} there is no run")
                continue
            right = f"{row.accuracy:.1f} % [{row.accuracy_low:.1f}, {row.accuracy_high:.1f}]"
            level = [one for one in row.level.split("; ") if one]
            told = "; ".join(level) if len(level) < 4 else f"{len(level)} of the {row.others:.0f} others"
            told = f" (not to be told from it: {told})" if level else ""
            parts.append(f"{limit} **{f'{name(row.method)} {row.budget}'.strip()}**, {right}{told}")
        said.append(f"Of {base}'s {axis}, right most often: " + "; ".join(parts) + ".")
    return " ".join(said)


# --- properties (Table 1) -------------------------------------------------------------


def properties(field: Field, runs: Runs) -> pd.DataFrame:
    """Table 1 for what ran: a row an entry and property, read off the calls of the entry's last run.

    `optimised` is no property of calls but of the model: whether it was fine-tuned for this way of working, by
    construction. Columns: method, system (of the paper's table, "" if it has none), property, share with bounds, n,
    here (`most`), paper (None where it does not say), evidence.
    """
    rows = []
    paper = claims.properties()
    for entry in field.entries():
        row = field.of(entry)[-1]
        system = SYSTEMS.get(row.method, "")
        for key, (share, evidence) in found_properties(row, runs[row.name]).items():
            said = {"method": entry, "system": system, "property": key, **bounded("share", share), "n": share.n}
            rows.append({**said, "here": most(share), "paper": paper.get(system, {}).get(key), "evidence": evidence})
    return pd.DataFrame(rows)


def most(share: Estimate) -> bool | str:
    """Whether a share is more than half or less, or that its interval does not tell."""
    return "undecided" if share.low <= 0.5 <= share.high else share.value > 0.5


def found_properties(row: Row, attempts: Sequence[Attempt]) -> dict[str, tuple[Estimate, str]]:
    """`tables.properties` of a run's calls, and `optimised`."""
    why = "fine-tuned for it" if row.trained else "the model was not trained for it"
    trained = claims.certain(float(row.trained), len(attempts)), why
    return {**tables.properties(attempts), "optimised": trained}


def table1_estimates(field: Field, runs: Runs) -> dict[str, Estimate]:
    """By claim: this run's shares for the systems of the paper's Table 1 that ran as rivals; SPRINT and RFT left out.

    Of several entries of one system the first one counts. What is so by construction is a plain yes or no.
    """
    found: dict[str, Estimate] = {}
    built = {claim.id for claim in claims.CLAIMS if claim.basis == claims.BUILT}
    for entry in field.entries():
        row = field.of(entry)[-1]
        system = SYSTEMS.get(row.method, "")
        if system not in ("", "sprint", "reasoning_models"):
            for key, (share, _) in found_properties(row, runs[row.name]).items():
                id_ = f"table1.{system}.{key}"
                found.setdefault(id_, claims.certain(float(share.value > 0.5), share.n) if id_ in built else share)
    return found
