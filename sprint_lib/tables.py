"""The numbers behind tables and figures: tidy frames from attempts, written as CSV with fixed formats.

A table that holds no clock time is a function of the attempts alone, so that two
runs of one profile write the same bytes; whatever was measured in seconds, or
depends on what ran at the same moment (cached tokens), goes to tables of its own.
`show` is how a notebook prints a frame, with each value and its bounds in one cell.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sprint_lib import accounting
from sprint_lib.calls import STATUSES, Attempt, Call, in_order
from sprint_lib.curation.graph import dependency_graph, reduced
from sprint_lib.evaluation import claims, latency, statistics
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.plots import name
from sprint_lib.tasks import verifier
from sprint_lib.trajectory import parse
from sprint_lib.wording import kind_of, readable

if TYPE_CHECKING:
    from sprint_lib.curation import Annotated, Aside, Packed
    from sprint_lib.curation.steps import Annotator, Step
    from sprint_lib.store import Workspace
    from sprint_lib.tasks import Problem, Task

Runs = Mapping[str, Sequence[Attempt]]

COUNTED = ("sequential", "serial", "total")  # tokens that depend on the attempts alone
DECIMALS = {"accuracy": 2, "seconds": 4, "problems_per_second": 3, "tokens_per_second": 1, "p_value": 4}
DECIMALS |= {"reward": 4, "entropy": 5, "gradient": 5, "kl": 7}  # of training by reinforcement
_COLUMNS = {"n": "n", "method": "method", "accuracy": "accuracy (%)", "wall_seconds": "wall clock (s)"}


# --- methods by task --------------------------------------------------------------------


def bounded(column: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as three cells: value, low and high."""
    return {column: estimate.value, f"{column}_low": estimate.low, f"{column}_high": estimate.high}


def estimate(row: Mapping[Any, Any], column: str) -> Estimate:
    """`bounded` read back from a row that also has `n`."""
    return Estimate(row[column], row[f"{column}_low"], row[f"{column}_high"], int(row["n"]))


def said(estimate: Estimate, unit: str = "") -> str:
    """An estimate as a sentence has it: value, unit, 95 % interval where there is one, and n."""
    value, low, high = (readable(number) for number in (estimate.value, estimate.low, estimate.high))
    interval = f" [{low}, {high}]" if low else ""
    return f"{value}{unit and ' ' + unit}{interval}, n = {readable(estimate.n)}"


def methods(runs: Runs, task: str) -> pd.DataFrame:
    """One row a run: n, accuracy in percent and mean tokens a problem, each with 95 % bounds, and every status.

    Every attempt counts in n, whatever its status. Sequential tokens follow the
    paper (section 4), serial ones let executors wait for the whole plan.
    """
    return pd.DataFrame([_method_row(task, method, attempts) for method, attempts in runs.items()])


def _method_row(task: str, method: str, attempts: Sequence[Attempt]) -> dict[str, Any]:
    costs = [accounting.costs(attempt) for attempt in attempts]
    row: dict[str, Any] = {"task": task, "method": method, "n": len(attempts)}
    row |= bounded("accuracy", statistics.proportion([a.correct for a in attempts]).scaled(100))
    for column in COUNTED:
        row |= bounded(column, statistics.mean([cost[column] for cost in costs]))
    row |= {column: sum(cost[column] for cost in costs) / len(costs) for column in ("calls", "stages")}
    statuses = Counter(attempt.status for attempt in attempts)
    return row | {status: statuses[status] for status in STATUSES}


def clocked(runs: Runs, task: str) -> pd.DataFrame:
    """`methods` with what a clock decides: prefilled and cached prompt tokens, wall seconds, loop overhead.

    `overhead` is the share of an attempt's wall clock in which no call was in the
    engine, in percent, over all attempts of the run.
    """
    frame = methods(runs, task)
    rows = []
    for attempts in runs.values():
        costs = [accounting.costs(attempt) for attempt in attempts]
        row = bounded("prefill", statistics.mean([cost["prefill"] for cost in costs]))
        row |= bounded("cached", statistics.mean([cost["cached"] for cost in costs]))
        row |= bounded("wall_seconds", statistics.mean([attempt.wall_seconds for attempt in attempts]))
        wall = sum(attempt.wall_seconds for attempt in attempts)
        engine = sum(attempt.engine_seconds for attempt in attempts)
        rows.append({**row, "overhead": 100 * (wall - engine) / wall if wall else 0.0})
    return frame.join(pd.DataFrame(rows))


def reported(task: str) -> pd.DataFrame:
    """Table 2 as the paper reports it, in the columns of `methods`.

    Wilson's interval of an accuracy follows from the number of problems; for tokens the
    paper gives none, their bounds are NaN. Of a task that is not the paper's there are no rows.
    """
    rows = []
    for row in claims.table2(task) if task in claims.PAPER_TASKS else ():
        right = round(row["accuracy"] / 100 * row["n"])
        accuracy = statistics.proportion([True] * right + [False] * (row["n"] - right)).scaled(100)
        sequential = Estimate(row["sequential"], math.nan, math.nan, row["n"])
        rows.append({"task": task, **row, **bounded("accuracy", accuracy), **bounded("sequential", sequential)})
        rows[-1]["accuracy"] = row["accuracy"]
    columns = ["task", "method", "n", *(c + e for c in ("accuracy", "sequential") for e in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=None if rows else [*columns, "total"])


def tokens(runs: Runs, column: str = "sequential") -> pd.DataFrame:
    """One row an attempt: method, problem, value (tokens of that kind), correct."""
    rows = [
        {"method": method, "problem": a.problem, "value": accounting.costs(a)[column], "correct": a.correct}
        for method, attempts in runs.items()
        for a in attempts
    ]
    return pd.DataFrame(rows)


def paired(runs: Runs, column: str = "sequential") -> pd.DataFrame:
    """Tokens by problem (rows) and method (columns). Raises ValueError if the runs are not of the same problems."""
    statistics.check_same_problems(*({a.problem for a in attempts} for attempts in runs.values()))
    return tokens(runs, column).pivot(index="problem", columns="method", values="value")[list(runs)]


def compare(runs: Runs, base: str, other: str) -> pd.DataFrame:
    """`other` against `base` on the same problems: accuracy difference, reductions, and who solves what.

    Where one of them was asked fewer problems, all of them among the other's, these are compared; n says how many.

    Differences of accuracy in percentage points (Newcombe), reductions in percent
    of the base's mean (paired bootstrap), McNemar's exact test.

    Raises:
        ValueError: if each has problems that the other has not.
    """
    both = same_problems(runs[base], runs[other])
    outcomes = [[a.correct for a in attempts] for attempts in both]
    rows = [_quantity("accuracy", "points", statistics.accuracy_difference(*outcomes).scaled(100))]
    for column in COUNTED:
        values = [[accounting.costs(a)[column] for a in attempts] for attempts in both]
        rows.append(_quantity(f"{column} tokens saved", "%", statistics.reduction(*values).scaled(100)))
    solved = [pair for pair in zip(*both, strict=True) if pair[0].correct and pair[1].correct]
    if solved:
        values = [[accounting.costs(pair[side])["sequential"] for pair in solved] for side in (0, 1)]
        rows.append(_quantity("sequential tokens saved, both right", "%", statistics.reduction(*values).scaled(100)))
    test = statistics.mcnemar(*outcomes)
    frame = pd.DataFrame(rows)
    frame.insert(0, "comparison", f"{name(other)} against {name(base)}")
    frame["note"] = ""
    frame.loc[0, "note"] = (
        f"only {name(base)} right: {test.only_base}, only {name(other)} right: {test.only_other}, p = {test.p:.3f}"
    )
    return frame


def _quantity(quantity: str, unit: str, estimate: Estimate) -> dict[str, Any]:
    return {"quantity": quantity, "unit": unit, **bounded("value", estimate), "n": estimate.n}


def same_problems(first: Sequence[Attempt], second: Sequence[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    """Both runs' attempts at the problems that both were asked, in one order; one may have been asked fewer."""
    left, right = ({a.problem: a for a in attempts} for attempts in (first, second))
    if not (left.keys() <= right.keys() or right.keys() <= left.keys()):
        statistics.check_same_problems(left, right)
    both = [id_ for id_ in left if id_ in right]
    return [left[id_] for id_ in both], [right[id_] for id_ in both]


# --- figures ----------------------------------------------------------------------------


def timeline(attempts: Mapping[str, accounting.Calls], clock: str) -> pd.DataFrame:
    """Bars of `plots.timeline`: a panel an attempt, a row a call, times in tokens or seconds.

    Bare calls are those of an attempt that ended with its answer.

    On the token clock a call begins when everything it waited for has been
    written, at one token a tick, whoever writes.
    """
    rows = []
    for panel, attempt in attempts.items():
        critical = {segment.call for segment in accounting.critical_path(attempt)}
        calls = attempt.calls if isinstance(attempt, Attempt) else attempt
        ended = not isinstance(attempt, Attempt) or attempt.status == "ok"
        begins = _token_starts(calls)
        retried, lanes = _retried(calls), _lanes(calls)
        last = max((call for call in calls if call.role == "planner"), key=lambda c: c.stage, default=None)
        for call in calls:
            start, first, end = call.started, call.first_token, call.ended
            if clock == "tokens":
                start = first = begins[call.id]
                end = start + call.completion_tokens
            rows.append(
                {
                    "panel": panel,
                    "call": call.id,
                    "role": call.role,
                    "lane": lanes[call.id],
                    "name": _bar_name(call, answer=call is last and ended),
                    "start": start,
                    "first": first,
                    "end": end,
                    "critical": call.id in critical,
                    "discarded": call.id in retried,
                    "cancelled": call.finish == "cancelled",
                }
            )
    return pd.DataFrame(rows)


def _token_starts(calls: Sequence[Call]) -> dict[str, int]:
    written = {call.id: call.completion_tokens for call in calls}
    begins: dict[str, int] = {}
    for call in in_order(calls):
        reached = (begins[w.call] + (written[w.call] if w.tokens is None else w.tokens) for w in call.waits)
        begins[call.id] = max(reached, default=0)
    return begins


def _retried(calls: Sequence[Call]) -> set[str]:
    """Calls whose place was taken by another try: same role, stage and index, waiting for them."""
    place = {call.id: (call.role, call.stage, call.index) for call in calls}
    return {w.call for call in calls for w in call.waits if place.get(w.call) == place[call.id]}


def _lanes(calls: Sequence[Call]) -> dict[str, int]:
    """Rows of a chart: planners in 0, the executors of a stage below in order, a further try where the first was."""
    place = {call.id: (call.role, call.stage, call.index) for call in calls}
    lanes: dict[str, int] = {}
    used: Counter[int] = Counter()
    for call in calls:
        again = next((w.call for w in call.waits if place.get(w.call) == place[call.id]), None)
        if again in lanes:
            lanes[call.id] = lanes[again]
        elif call.role == "executor":
            used[call.stage] += 1
            lanes[call.id] = used[call.stage]
        else:
            lanes[call.id] = 0 if call.role == "planner" else call.index
    return lanes


def _bar_name(call: Call, *, answer: bool) -> str:
    if call.role in ("executor", "child"):
        return f"{call.stage}.{call.index}"
    if call.role == "parent":
        return f"parent {call.stage}"
    if call.role == "planner":
        return "answer" if answer else f"plan {call.stage}"
    return "one long trace"


def packing(packed: Packed, count: accounting.Count) -> pd.DataFrame:
    """Pieces of `plots.packing`: a trace's steps in one line, and the stages that they became.

    Both sides are counted with the tags and texts that a model writes.
    """
    annotated, packing_ = packed.annotated, packed.packing
    lines, rows, at = annotated.lines, [], 0
    for (number, kind), numbers in _pieces(annotated.steps):
        end = at + count("".join(lines[n - 1] for n in numbers))
        rows.append(_piece("before", 0, at, end, number, kind, 0))
        at = end
    calls = accounting.calls_of(packing_.trajectory, count, tags=True)
    begins = _token_starts(calls)
    for call in calls:
        start, end = begins[call.id], begins[call.id] + call.completion_tokens
        if call.role == "executor":
            rows.append(_piece("after", call.index, start, end, _step_of(packed, call), "execution", call.stage))
            continue
        cuts = {c.index: c.waits[0].tokens for c in calls if c.role == "executor" and c.waits[0].call == call.id}
        executors = {c.index: c for c in calls if c.role == "executor" and c.stage == call.stage}
        if not cuts:
            kind, number = (
                ("final", len(annotated.steps)) if call.stage > len(packing_.trajectory.stages) else ("plan", 0)
            )
            rows.append(_piece("after", 0, start, end, number, kind, call.stage))
        at = start
        for index, cut in sorted(cuts.items()):
            until = end if index == max(cuts) else start + (cut or 0)
            rows.append(_piece("after", 0, at, until, _step_of(packed, executors[index]), "plan", call.stage))
            at = until
    frame = pd.DataFrame(rows)
    return frame[frame["end"] > frame["start"]].reset_index(drop=True)


def _pieces(found: Sequence[Step]) -> Iterator[tuple[tuple[int, str], list[int]]]:
    """Runs of lines of one part of one step, with its number and the part, in the order of the trace."""
    owner = _owners(found)
    kind = {line: (number, "final" if found[number - 1].final else part) for line, (number, part) in owner.items()}
    for piece, numbers in groupby(sorted(kind), key=kind.__getitem__):
        yield piece, list(numbers)


def _owners(found: Sequence[Step]) -> dict[int, tuple[int, str]]:
    """By line: the number of the step that has it, and which part of the step it is."""
    return {
        line: (number, part)
        for number, step in enumerate(found, 1)
        for part in ("plan", "execution", "comment")
        for line in getattr(step, part)
    }


def _piece(side: str, lane: int, start: int, end: int, step: int, kind: str, stage: int) -> dict[str, Any]:
    return {"side": side, "lane": lane, "start": start, "end": end, "step": step, "kind": kind, "stage": stage}


def _step_of(packed: Packed, call: Call) -> int:
    """The step whose execution an executor's call is."""
    return packed.packing.step_of[call.stage, call.index]


def dag(annotated: Annotated, stage_of: Mapping[int, int]) -> pd.DataFrame:
    """Nodes of `plots.dag`: a row a step, stage by stage, the final one in a band of its own at the end.

    Of the dependencies those that follow from others are left out.
    """
    graph = reduced(dependency_graph(len(annotated.steps), annotated.parents or {}))
    rows = [
        {
            "step": number,
            "label": step.prompt.strip() or step.description,
            "band": f"stage {stage_of[number]}" if number in stage_of else "answer",
            "executes": bool(step.execution) and not step.final,
            "parents": " ".join(map(str, sorted(graph.predecessors(number)))),
        }
        for number, step in sorted(
            enumerate(annotated.steps, 1), key=lambda s: (stage_of.get(s[0], len(stage_of) + 1), s[0])
        )
    ]
    return pd.DataFrame(rows)


def steps(found: Sequence[Step]) -> pd.DataFrame:
    """One row a step: its parts as line ranges, as an annotator returns them; remarks only where there are any."""
    rows = [
        {
            "step": number,
            "description": _short(step.description),
            "plan": _span(step.plan),
            "prompt": _short(step.prompt.strip()),
            "execution": _span(step.execution),
            "comment": _span(step.comment),
        }
        for number, step in enumerate(found, 1)
    ]
    frame = pd.DataFrame(rows)
    return frame if any(step.comment for step in found) else frame.drop(columns="comment")


def _span(numbers: Sequence[int]) -> str:
    """1-3, 7"""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _short(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def kinds(said: Iterable[str], column: str) -> pd.DataFrame:
    """How often what was said of steps ("step 4: folded, 2 lines") is of each kind: without its place and numbers."""
    found = Counter(kind_of(one) for one in said)
    return pd.DataFrame([{column: kind, "times": n} for kind, n in found.most_common(20)], columns=[column, "times"])


def outcomes(kept: int, aside: Iterable[Aside]) -> pd.DataFrame:
    """What became of traces: those kept in the first row, then those set aside by stage and kind of reason."""
    found = Counter((one.stage, kind_of(one.reason)) for one in aside)
    rows = [{"outcome": "kept", "reason": "", "traces": kept}]
    rows += [{"outcome": f"set aside: {stage}", "reason": why, "traces": n} for (stage, why), n in found.most_common()]
    return pd.DataFrame(rows)


def ledger(annotator: Annotator, path: Path | None = None) -> pd.DataFrame:
    """What asking a language model took, one row a quantity: in this run, in earlier ones, in all; by rules no calls.

    `path` is this table as the last run wrote it, whose sums go on. Replies from the cache were paid for by a run that
    may have been killed before it wrote its table, so earlier runs took at least what those replies did.
    """
    ledger = getattr(annotator, "ledger", None)
    said = ledger.to_json() if ledger else {"asked": {"calls": 0}, "cached": {}}
    now = {**said["asked"], **{key: said[key] for key in ("retries", "unanswered", "corrupt") if key in said}}
    for what in ("failures", "formats"):
        now |= {f"{what}: {key}": n for key, n in said.get(what, {}).items()}
    before = _in_all(path)
    rows = []
    for quantity in dict.fromkeys([*now, *before]):
        value = now.get(quantity, 0)
        earlier = _known(max, before.get(quantity, 0), said["cached"].get(quantity, 0))
        row = {"quantity": quantity, "this_run": value, "earlier_runs": earlier}
        rows.append({**row, "in_all": _known(lambda a, b: a + b, value, earlier)})
    return pd.DataFrame(rows, dtype=object)


def _in_all(path: Path | None) -> dict[str, float | str]:
    """The sums of a `ledger` that was written; none if there is no such file."""
    if path is None or not path.exists():
        return {}
    sums = pd.read_csv(path, dtype=str).set_index("quantity")["in_all"]
    return {quantity: _number(text) for quantity, text in sums.items()}


def _number(text: str) -> float | str:
    number = pd.to_numeric(text, errors="coerce")
    return text if pd.isna(number) else int(number) if number == int(number) else float(number)


def _known(of: Callable[[float, float], float], a: float | str, b: float | str) -> float | str:
    """A function of two numbers, `unknown` if one of them is."""
    return "unknown" if isinstance(a, str) or isinstance(b, str) else of(a, b)


def corpus(packed: Sequence[Packed], kept: Sequence[Packed], count: accounting.Count) -> pd.DataFrame:
    """Steps, stages and tokens of packed traces, of all of them and of those that were kept: means with 95 % bounds.

    The critical path is the one of `accounting.tokens_of`, tags included; before packing a trace is one call.
    """
    ids = {item.annotated.trace.id for item in kept}
    among = [item.annotated.trace.id in ids for item in packed]
    rows = [_quantity("share kept", "%", statistics.proportion(among).scaled(100))]
    for which, items in (("packed", packed), ("kept", kept)):
        done = [item.packing for item in items]
        before = [count(item.annotated.trace.text) for item in items]
        after = [accounting.tokens_of(one.trajectory, count, tags=True) for one in done]
        critical = [one["sequential"] for one in after]
        means: dict[str, tuple[str, Sequence[float]]] = {
            "steps": ("a trace", [len(one.stage_of) for one in done]),
            "stages": ("a trace", [len(one.trajectory.stages) for one in done]),
            "steps a stage": ("ratio", [one.ratio for one in done]),
            "tokens before": ("a trace", before),
            "tokens after, all calls": ("a trace", [one["total"] for one in after]),
            "critical path after": ("tokens", critical),
        }
        rows += [_quantity(f"{which}: {q}", unit, statistics.mean(values)) for q, (unit, values) in means.items()]
        saved = statistics.reduction(before, critical).scaled(100)
        rows.append(_quantity(f"{which}: critical path saved in principle", "%", saved))
    return pd.DataFrame(rows)


def stage_reach(attempts: Sequence[Attempt], groups: Mapping[str, str]) -> pd.DataFrame:
    """Data of Figure 5: by group of problems and stage, the share that reaches it and how many plan in parallel.

    `groups` gives the group of a problem id; groups come in the order of their first problem in it.
    """
    widths = {a.problem: [len(stage.prompts) for stage in parse(a.text).stages] for a in attempts}
    deepest = max([1, *map(len, widths.values())])
    rows = []
    for group in dict.fromkeys(groups.values()):
        members = [stages for problem, stages in widths.items() if groups[problem] == group]
        for stage in range(1, deepest + 1):
            reached = [stages[stage - 1] for stages in members if len(stages) >= stage]
            rows.append(
                {
                    "group": group,
                    "stage": stage,
                    "share": 100 * len(reached) / max(1, len(members)),
                    "problems": len(members),
                    "parallel": sum(width > 1 for width in reached),
                }
            )
    return pd.DataFrame(rows)


def reduction_by_length(
    series: str,
    style: str,
    by: Sequence[float],
    base: Sequence[float],
    other: Sequence[float],
    quantiles: int = 4,
    edges: Sequence[float] | None = None,
) -> pd.DataFrame:
    """One line of Figure 6: reduction in percent by bucket of `by`, at the bucket's mean length.

    Buckets are of equal size, or have the inner limits `edges`.
    """
    buckets = statistics.reduction_by_length(by, base, other, quantiles=quantiles, edges=edges)
    rows = []
    for bucket in buckets:
        inside = [length for length in by if bucket.low <= length < bucket.high]
        rows.append(
            {
                "series": series,
                "style": style,
                "low": min(inside),
                "high": max(inside),
                "length": sum(inside) / len(inside),
                **bounded("reduction", bucket.reduction.scaled(100)),
                "n": bucket.n,
            }
        )
    return pd.DataFrame(rows)


def panel(title: str, frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """A panel of `plots.wall_clock`: one column of a table of methods, with its bounds where it has any."""
    value = frame[column].to_numpy()
    low, high = (frame.get(f"{column}{end}", frame[column] * math.nan).to_numpy() for end in ("_low", "_high"))
    return pd.DataFrame(
        {"panel": title, "method": frame["method"].to_numpy(), "value": value, "value_low": low, "value_high": high}
    )


# --- the wall clock behind a server -----------------------------------------------------


def speed_up(base: Sequence[Attempt], other: Sequence[Attempt], control: Sequence[Attempt]) -> pd.DataFrame:
    """How many times faster `other` is than `base` on the same problems, in seconds and in sequential tokens.

    Columns: part, quantity, value with bounds, n. Summed over the part's problems, and `realised`: the ratio in
    seconds as a share of the ratio in tokens, in percent; of the median problem the ratio in seconds alone. Quarters
    are by the tokens of `control`, a third run.
    """
    lengths = {a.problem: accounting.sequential_tokens(a) for a in control}
    by = [lengths[a.problem] for a in base]
    right = [a.correct and b.correct for a, b in zip(base, other, strict=True)]
    parts = {
        "all problems": [True] * len(base),
        "longest quarter": statistics.longest(by).tolist(),
        "shortest quarter": statistics.longest([-tokens for tokens in by]).tolist(),
        "both right": right,
    }
    rows = []
    for part, inside in parts.items():
        columns = _clock_columns(base, other, inside)
        if len(columns):
            quantities: dict[str, Callable[[Any], Any]] = {
                "seconds": lambda m: m[..., 0] / m[..., 1],
                "sequential tokens": lambda m: m[..., 2] / m[..., 3],
                "realised": lambda m: 100 * m[..., 0] / m[..., 1] * m[..., 3] / m[..., 2],
            }
            for quantity, of in quantities.items():
                rows.append({"part": part, "quantity": quantity, **_valued(statistics.bootstrap(columns, of))})
    columns = _clock_columns(base, other, [True] * len(base))
    middle = statistics.median(columns[:, 0] / columns[:, 1])
    rows.insert(3, {"part": "median problem", "quantity": "seconds", **_valued(middle)})
    return pd.DataFrame(rows)


def _valued(estimate: Estimate) -> dict[str, float]:
    return {**bounded("value", estimate), "n": estimate.n}


def _clock_columns(base: Sequence[Attempt], other: Sequence[Attempt], inside: Sequence[bool]) -> Any:
    """Seconds of both, then sequential tokens of both, [problems, 4], of the problems inside."""
    statistics.check_same_problems([a.problem for a in base], [a.problem for a in other])
    rows = [
        (a.wall_seconds, b.wall_seconds, accounting.sequential_tokens(a), accounting.sequential_tokens(b))
        for a, b, kept in zip(base, other, inside, strict=True)
        if kept
    ]
    return np.array(rows, dtype=float).reshape(-1, 4)


def switched(runs: Runs, base: str) -> pd.DataFrame:
    """What another setting does, run by run, against the run `base` on the same problems.

    Columns: method, n, `times` (summed seconds of `base` over the run's, above 1 is faster), `points` (accuracy, in
    percentage points against `base`), mean sequential, total and cancelled tokens.
    """
    rows = []
    for method, attempts in runs.items():
        seconds = [[a.wall_seconds for a in run] for run in (attempts, runs[base])]
        right = [[a.correct for a in run] for run in (runs[base], attempts)]
        row: dict[str, Any] = {"method": method, "n": len(attempts), **bounded("times", statistics.ratio(*seconds))}
        row |= bounded("points", statistics.accuracy_difference(*right).scaled(100))
        for column, count in (
            ("sequential", accounting.sequential_tokens),
            ("total", accounting.total_tokens),
            ("cancelled", accounting.cancelled_tokens),
        ):
            row[column] = sum(map(count, attempts)) / len(attempts)
        rows.append(row)
    return pd.DataFrame(rows)


def where_answers_go(attempts: Sequence[Attempt], problems: Sequence[Problem], task: Task) -> pd.DataFrame:
    """Where right answers are lost: by the stages that an attempt executed and, where the task can tell, by how many of
    its executions solved the problem by themselves: n, `wrong` and its share in percent with bounds.

    Where an execution has solved it and the answer is wrong all the same, the last planner did not take it over.
    """
    asked = {problem.id: problem for problem in problems}
    groups: dict[tuple[int, int], list[bool]] = {}
    for attempt in attempts:
        solves = verifier(task, asked[attempt.problem])
        written = [call for call in attempt.calls if call.role == "executor"]
        stages = len({call.stage for call in written})
        solved = sum(map(solves, (call.completion for call in written))) if solves else -1
        groups.setdefault((min(stages, 3), min(solved, 2)), []).append(not attempt.correct)
    rows = []
    for (stages, solved), wrong in sorted(groups.items()):
        row = {"stages": str(stages) if stages < 3 else "3 or more", "executions_that_solve": _SOLVED[solved]}
        share = statistics.proportion(wrong).scaled(100)
        rows.append({**row, "n": len(wrong), "wrong": sum(wrong), **bounded("share (%)", share)})
    return pd.DataFrame(rows)


_SOLVED = {-1: "the task cannot tell", 0: "none", 1: "one", 2: "several"}


def where_seconds_go(runs: Runs) -> pd.DataFrame:
    """Mean seconds of a problem by run and part (`latency.Spent`), with the share of the run's wall clock in percent,
    and `token_seconds`: what a token on the path takes while it is decoded."""
    rows = []
    for method, attempts in runs.items():
        parts = [latency.spent(attempt) for attempt in attempts]
        wall = sum(attempt.wall_seconds for attempt in attempts)
        tokens = sum(accounting.sequential_tokens(attempt) for attempt in attempts)
        for part in ("decoding", "first_tokens", "between"):
            seconds = sum(getattr(one, part) for one in parts)
            each = seconds / tokens if part == "decoding" else math.nan
            row = {"method": method, "part": part, "seconds": seconds / len(parts), "share": 100 * seconds / wall}
            rows.append({**row, "token_seconds": each, "n": len(parts)})
    return pd.DataFrame(rows)


def first_tokens(runs: Runs, told: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """What a call waits for before its first token: `queue` and `prefill` as the server says (`clock.Bench.told`), and
    `way`, which is the rest: tokenising, request, and the first text's way back.

    Columns: method, part, n (attempts), calls, `milliseconds` of a call with bounds over attempts, share in percent.
    """
    rows = []
    for method, attempts in runs.items():
        said = {record["problem"]: record for record in told.get(method, ())}
        chosen = [attempt for attempt in attempts if attempt.problem in said]
        if not chosen:
            continue
        waited = [sum(call.first_token - call.started for call in attempt.calls) for attempt in chosen]
        calls = [len(attempt.calls) for attempt in chosen]
        parts = {part: [float(said[attempt.problem][part]) for attempt in chosen] for part in ("queue", "prefill")}
        parts["way"] = [whole - q - p for whole, q, p in zip(waited, *parts.values(), strict=True)]
        for part, seconds in parts.items():
            row = {"method": method, "part": part, "n": len(chosen), "calls": sum(calls)}
            row |= bounded("milliseconds", statistics.ratio(calls, seconds).scaled(1000))
            rows.append({**row, "share": 100 * sum(seconds) / sum(waited)})
    bounds = [f"milliseconds{end}" for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["method", "part", "n", "calls", *bounds, "share"])


def cache(found: Sequence[Sequence[latency.Hit]]) -> pd.DataFrame:
    """By kind of call, and in all: calls, mean tokens of a prompt, shares that could be cached and that were, percent.

    `of_cacheable` is what was cached of what could be, with bounds over attempts; `found` is by attempt.
    """
    rows = []
    for kind in ("first", "executor", "join", "all"):
        chosen = [[hit for hit in hits if kind in (hit.kind, "all")] for hits in found]
        flat = [hit for hits in chosen for hit in hits]
        sums = [(sum(h.cacheable for h in hits), sum(min(h.cached, h.cacheable) for h in hits)) for hits in chosen]
        prompt = sum(hit.prompt for hit in flat)
        if prompt:
            could = sum(a for a, _ in sums)
            of = statistics.ratio(*zip(*sums, strict=True)).scaled(100) if could else statistics.NONE
            row = {"kind": kind, "calls": len(flat), "prompt": prompt / len(flat), "cacheable": 100 * could / prompt}
            share = 100 * sum(hit.cached for hit in flat) / prompt
            rows.append({**row, "cached": share, **bounded("of_cacheable", of)})
    return pd.DataFrame(rows)


def loaded(records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> pd.DataFrame:
    """Records of `clock.Bench.under_load`: method, at_once, n, accuracy, problems and tokens a second."""
    rows = [
        {
            "method": names[record["run"]],
            **{key: record[key] for key in ("at_once", "n")},
            **bounded("accuracy", statistics.proportion(_outcomes(record)).scaled(100)),
            "problems_per_second": record["at_once"] / record["seconds"],
            "tokens_per_second": record["at_once"] / record["seconds"] * record["tokens"] / record["n"],
        }
        for record in records
    ]
    return pd.DataFrame(rows)


def _outcomes(record: Mapping[str, Any]) -> list[bool]:
    return [True] * record["correct"] + [False] * (record["n"] - record["correct"])


def pays_until(frame: pd.DataFrame, base: str = "rft", other: str = "sprint") -> float:
    """The load at which `other` no longer solves more problems a second than `base`, between the levels of `loaded`
    on a line in the logarithm of the load; infinite if it always does, 0 if it never does."""
    rates = frame.pivot(index="at_once", columns="method", values="problems_per_second").sort_index()
    gain = [math.log(a / b) for a, b in zip(rates[other], rates[base], strict=True)]
    levels = [float(level) for level in rates.index]
    if gain[0] <= 0:
        return 0.0
    for (x, a), (y, b) in pairwise(zip(levels, gain, strict=True)):
        if b <= 0:
            return float(x * (y / x) ** (a / (a - b)))
    return math.inf


# --- properties (Table 1) ---------------------------------------------------------------


def properties(attempts: Sequence[Attempt]) -> dict[str, tuple[Estimate, str]]:
    """In what share of a run the recorded calls show the properties of Table 1, each with its evidence.

    - `parallel`: attempts with two calls of which neither waited for the other's end;
    - `adaptive`: the model decides how much work there is: pairs of attempts (each attempt is in one of them) that
      differ in shape, or in length if all are one call;
    - `multi_step`: attempts where a call builds on results of calls that built on results, or where one call
      reasons on in more than two lines.

    A call that was tried again counts once: a second try is luck, no decision of the model.
    """
    shapes = [_shape(attempt.calls) for attempt in attempts]
    single = all(len(attempt.calls) <= 1 for attempt in attempts)
    widest = max((max(shape, default=0) for shape in shapes), default=0)
    lengths = [accounting.total_tokens(attempt) for attempt in attempts]
    steps = [attempt.text.count("\n") for attempt in attempts] if single else [len(shape) for shape in shapes]
    differ: list[bool] = [a != b for a, b in _pairs(lengths if single else shapes)]
    kinds = f"{len(set(lengths))} different lengths" if single else f"{len(set(shapes))} different graphs"
    deepest = max(steps, default=0)
    return {
        "parallel": (
            _share([max(shape, default=0) > 1 for shape in shapes]),
            f"at most {widest} call{'s' * (widest != 1)} side by side",
        ),
        "adaptive": (_share(differ), kinds),
        "multi_step": (
            _share([count > 2 for count in steps]),
            f"one call of up to {deepest} lines" if single else f"up to {deepest} rounds of calls",
        ),
    }


def _share(outcomes: Sequence[bool]) -> Estimate:
    return statistics.proportion(outcomes) if outcomes else Estimate(0.0, math.nan, math.nan, 0)


def _pairs(values: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """Neighbours, each value in one pair at most, so that the pairs are independent of each other."""
    return zip(values[::2], values[1::2], strict=False)


def _shape(calls: Sequence[Call]) -> tuple[int, ...]:
    """How many calls of an attempt, discarded tries left out, stand side by side in each round."""
    depth, discarded = _depths(calls), _retried(calls)
    rounds = Counter(at for id_, at in depth.items() if id_ not in discarded)
    return tuple(count for _, count in sorted(rounds.items()))


def _depths(calls: Sequence[Call]) -> dict[str, int]:
    """Longest chain of calls before each one. A further try stands where the first one stood, and a call that began
    while another of its role was under way, having seen some of it, stands beside that one."""
    place = {call.id: (call.role, call.stage, call.index) for call in calls}
    depth: dict[str, int] = {}
    for call in in_order(calls):
        beside = {wait.call for wait in call.waits if wait.tokens is not None and place[wait.call][0] == call.role}
        beside |= {wait.call for wait in call.waits if place[wait.call] == place[call.id]}
        before = (depth[wait.call] + (wait.call not in beside) for wait in call.waits)
        depth[call.id] = max(before, default=0)
    return depth


# --- files and display ------------------------------------------------------------------


def write(frame: pd.DataFrame, stem: str, workspace: Workspace) -> Path:
    """Write tables/`stem`.csv: one header, fixed decimals, an empty cell for what is not known."""
    from sprint_lib.store import write_text

    return write_text(workspace.tables / f"{stem}.csv", to_csv(frame))


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV text; floats with the decimals of their column, two unless `DECIMALS` says otherwise."""
    text = frame.copy()
    for column in frame.select_dtypes("floating"):
        text[column] = frame[column].map(_formatter(column))
    return str(text.to_csv(index=False, lineterminator="\n"))


def _formatter(column: str) -> Callable[[float], str]:
    base = column.removesuffix("_low").removesuffix("_high")
    decimals = next((n for ending, n in DECIMALS.items() if base.endswith(ending)), 2)

    def write_number(value: float) -> str:
        return "" if pd.isna(value) else f"{value + 0.0:.{decimals}f}"

    return write_number


def show(frame: pd.DataFrame, columns: Sequence[str] | None = None, *, caption: str = "") -> Any:
    """A frame for a notebook: `value [low, high]` in one cell, methods by their printed names, no markup of its own."""
    shown = pd.DataFrame(index=frame.index)
    for column in columns or [c for c in frame if not c.endswith(("_low", "_high"))]:
        shown[_COLUMNS.get(column, column.replace("_", " "))] = _cells(frame, column)
    style = shown.style.format(escape="html").hide(axis="index").set_caption(html.escape(caption, quote=False))
    style.set_uuid("table")
    return style.set_table_styles([{"selector": "td, th", "props": "text-align: left; padding: 0.2em 0.8em"}])


def _cells(frame: pd.DataFrame, column: str) -> list[str]:
    values = frame[column].tolist()
    if f"{column}_low" not in frame:
        return [name(v) if column == "method" else readable(v) for v in values]
    bounds = zip(values, frame[f"{column}_low"], frame[f"{column}_high"], strict=True)
    return [
        readable(v) if pd.isna(low) else f"{readable(v)} [{readable(low)}, {readable(high)}]" for v, low, high in bounds
    ]


def provenance() -> Any:
    """The last cell of every notebook: versions, state of the code and the machine."""
    from sprint_lib.store import provenance as made_with

    rows = []
    for key, value in made_with().items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value or "-")
        rows.append({"what": key, "value": text})
    return show(pd.DataFrame(rows))


def coloured(pieces: Sequence[tuple[str, int | None, str]]) -> Any:
    """Text as HTML with coloured passages: (text, number of the colour or None, what the pointer shows).

    Model text is escaped: it cannot bring markup of its own into a notebook.
    """
    from IPython.display import HTML

    spans = (
        f'<span title="{html.escape(note)}" style="background:{_tint(number)}">{html.escape(text)}</span>'
        for text, number, note in pieces
    )
    return HTML(_PRE.format("".join(spans)))


def coloured_steps(annotated: Annotated) -> Any:
    """A trace with a colour a step; the pointer shows which part of the step a line is."""
    owner = _owners(annotated.steps)
    lines = enumerate(annotated.lines, 1)
    return coloured([(text, owner[k][0], "step {} · {}".format(*owner[k])) for k, text in lines])


def side_by_side(texts: Mapping[str, str]) -> Any:
    """Texts in columns under their titles, escaped."""
    from IPython.display import HTML

    columns = (
        f'<div style="flex:1;min-width:0"><b>{html.escape(title)}</b>{_PRE.format(html.escape(text))}</div>'
        for title, text in texts.items()
    )
    return HTML(f'<div style="display:flex;gap:1em">{"".join(columns)}</div>')


_PRE = (
    '<pre style="font-family:monospace;font-size:12px;line-height:1.45;white-space:pre-wrap;'
    'color:#222;background:#fafafa;padding:0.6em">{}</pre>'
)


def _tint(number: int | None) -> str:
    """A pale background; neighbours in number differ strongly in hue."""
    return "transparent" if number is None else f"hsl({number * 137 % 360}, 70%, 86%)"
