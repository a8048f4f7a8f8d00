"""The authors' released runs on MATH-500, counted anew: every counting convention, and everything malformed.

A run's text becomes the calls that would have written it (`accounting.calls_of`), and a
`Convention` says what of them counts; the counts themselves are those of every attempt of
this suite. Nothing here decides which convention is right: `table` shows them side by
side, `nearest` computes which of all of them comes closest to the paper's Table 2. No run
is left out unless a convention says so, and then n says so. What follows for the paper's
figures and claims is in `sprint_lib.evaluation.findings`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from sprint_lib import accounting, tables
from sprint_lib.accounting import Count
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.evaluation import claims, statistics
from sprint_lib.tasks import Problem
from sprint_lib.trajectory import DEFECTS, Trajectory, parse

if TYPE_CHECKING:
    from sprint_lib.released import Released, Run

TASK = "math500"
LONG = 8000  # the paper's long problems: more tokens of RFT than this
THINK = "<think>\n"  # every context ends with it; what follows is the run
CAP = 5000  # tokens at which executions of the release are cut: none is longer, and nine are as long
TRY_LIMITS = {"planner": 1000, "executor": 2000}  # the scripts try a longer output again, twice at most
TRIES = 2


# --- the runs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """One released run beside its problem; `trajectory` is None for a sequential system."""

    problem: Problem
    text: str  # what was written after `THINK`
    trajectory: Trajectory | None = None
    seconds: float | None = None  # elapsed, where the release says so


@dataclass(frozen=True)
class Logs:
    """The released runs by system, in the order of the problems; `count` remembers what it has counted."""

    sprint: tuple[Log, ...]
    rft: tuple[Log, ...]
    control: tuple[Log, ...]  # other RFT runs, not those of Table 2, on fewer problems
    count: Count


def read(released: Released, count: Count) -> Logs:
    """Parse the released runs once; `count` gives the tokens of a text and is asked once for each."""
    problems = released.problems()

    def log(run: Run) -> Log:
        return Log(problems[run.index], run.text, seconds=run.seconds)

    def staged(run: Run) -> Log:
        _, think, text = run.text.partition(THINK)
        return Log(problems[run.index], text if think else run.text, parse(run.text), run.seconds)

    return Logs(
        sprint=tuple(map(staged, released.sprint())),
        rft=tuple(map(log, released.rft())),
        control=tuple(map(log, released.rft_control())),
        count=lru_cache(maxsize=None)(count),
    )


# --- conventions ------------------------------------------------------------------------

WHOLE = {  # a run's text in one piece, every tag counted, the loop's, too
    "the text": "{text}",
    "the text after <think>": "\n{text}",  # with the line break that ends the context: the model did not write it
    "the text with <think>": THINK + "{text}",
    "the text with its question": "{question}{text}",
    "the text with its question in tags and <think>": "<Question>\n{question}\n</Question>\n\n" + THINK + "{text}",
}
_WORDS: dict[str, dict[Any, str]] = {  # how a convention's name says a field
    "tags": {"in": "tags in", "out": "tags out", "any": "any <…> out"},
    "trim": {True: "white space trimmed"},
    "tails": {False: "plans up to their last prompt"},
    "bare": {False: "stages without prompts out"},
    "final": {False: "final answer out"},
    "serial": {True: "executors after the whole plan"},
    "tries": {True: "discarded tries in"},
    "matched": {True: "only runs whose prompts match their executions"},
}


@dataclass(frozen=True)
class Convention:
    """One way to count the tokens of a released run.

    tags: "in": those that a model writes count; "out": they do not; "any": a stripper
        takes whatever stands between < and > on one line, inequalities included.
    trim: white space around each piece does not count.
    tails: what a plan says after its last prompt may set the pace; without it, the
        paper's formula (section 4.1).
    bare: stages without prompts count; final: the final answer counts. Taken literally, the
        formula has neither (`LITERAL`): there is no prompt to take the maximum over.
    serial: executors start after the whole plan, as in the authors' loop.
    tries: with every output over its limit (`TRY_LIMITS`) come the two tries that the
        scripts discarded before they let it pass, at the limit, their least.
    matched: runs with a stage that has not as many executions as prompts are left out, as
        by the authors' script.
    whole: a key of `WHOLE`; the run counts as one text. A sequential system's always does.
    """

    tags: str = "out"
    trim: bool = False
    tails: bool = True
    bare: bool = True
    final: bool = True
    serial: bool = False
    tries: bool = False
    matched: bool = False
    whole: str = ""

    @property
    def name(self) -> str:
        """What it does, in words."""
        if self.whole:
            return self.whole
        return ", ".join(words[v] for key, words in _WORDS.items() if (v := getattr(self, key)) in words)

    def calls(self, log: Log, count: Count) -> tuple[Call, ...] | None:
        """The calls that count, None if the run is left out."""
        count = self._counted(count)
        if self.whole or log.trajectory is None:
            text = WHOLE[self.whole or "the text"].format(question=log.problem.question, text=log.text)
            return (Call("text", "sample", completion_tokens=count(text)),)
        stages = log.trajectory.stages
        if self.matched and any(len(stage.prompts) != len(stage.executions) for stage in stages):
            return None
        kept = tuple(stage for stage in stages if self.bare or stage.prompts)
        trajectory = replace(log.trajectory, stages=kept, final=log.trajectory.final if self.final else None)
        calls = accounting.calls_of(trajectory, count, tags=self.tags == "in", tails=self.tails)
        if self.tries:
            calls = tuple(_with_tries(calls))
        return tuple(map(_after_the_whole, calls)) if self.serial else calls

    def _counted(self, count: Count) -> Count:
        if self.tags != "any" and not self.trim:
            return count

        def counted(text: str) -> int:
            text = without_brackets(text) if self.tags == "any" else text
            return count(text.strip() if self.trim else text)

        return counted


_BRACKETS = re.compile(r"<[^>\n]*(>?)")


def without_brackets(text: str) -> str:
    """The text without whatever stands between a < and the next > of its line, in linear time."""
    return _BRACKETS.sub(lambda found: "" if found[1] else found[0], text)


def _with_tries(calls: Sequence[Call]) -> Iterator[Call]:
    for call in calls:
        limit = TRY_LIMITS[call.role]
        for number in range(1, TRIES + 1 if call.completion_tokens > limit else 1):
            discarded = replace(call, id=f"{call.id}, try {number}", completion_tokens=limit)
            yield discarded
            call = replace(call, waits=(Wait(discarded.id),))
        yield call


def _after_the_whole(call: Call) -> Call:
    return replace(call, waits=tuple(Wait(wait.call) for wait in call.waits))


FORMULA = Convention(tails=False)  # completed by what the formula has no term for: bare stages, the final answer
LITERAL = replace(FORMULA, bare=False, final=False)
WRITTEN = Convention(tags="in")  # of a sequential system: its text
CONVENTIONS = {  # rows of `table`
    "sprint": (
        Convention(tags="in"),
        Convention(tags="in", serial=True),
        Convention(),
        FORMULA,
        replace(FORMULA, tags="any"),
        replace(FORMULA, trim=True),
        replace(FORMULA, bare=False),
        replace(FORMULA, final=False),
        LITERAL,
        replace(LITERAL, tags="any", trim=True),
        replace(FORMULA, tries=True),
        Convention(tags="any", trim=True, matched=True),
        *(Convention(whole=whole) for whole in WHOLE),
    ),
    "rft": tuple(Convention(tags="in", whole=whole) for whole in WHOLE),
}
GRID = tuple(  # what `nearest` looks through besides
    Convention(tags, trim, tails, bare, final)
    for tags in ("in", "out", "any")
    for trim, tails, bare, final in product((False, True), repeat=4)
)


# --- counts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Tokens of one run: sequential, serial and total, and who wrote those of the critical path, in how many calls."""

    sequential: int
    serial: int
    total: int
    planner: int
    executor: int
    calls: int


def costs(logs: Sequence[Log], convention: Convention, count: Count) -> dict[str, Cost]:
    """What each run costs, by problem id; without the runs that the convention leaves out."""
    counted = {log.problem.id: convention.calls(log, count) for log in logs}
    return {id_: _cost(calls) for id_, calls in counted.items() if calls is not None}


def _cost(calls: Sequence[Call]) -> Cost:
    path = accounting.critical_path(calls)
    by_role: Counter[str] = Counter()
    for segment in path:
        by_role[segment.role] += segment.tokens
    sequential, serial, total = by_role.total(), accounting.serial_tokens(calls), accounting.total_tokens(calls)
    return Cost(sequential, serial, total, by_role["planner"], by_role["executor"], len(path))


def lengths(logs: Sequence[Log], convention: Convention, count: Count) -> dict[str, float]:
    """Sequential tokens by problem id."""
    return {id_: float(cost.sequential) for id_, cost in costs(logs, convention, count).items()}


def lengths_of(system: str, logs: Logs, convention: Convention) -> dict[str, float]:
    """`lengths` of "rft", "control" or "sprint"; the convention is SPRINT's, a sequential text counts whole."""
    return lengths(getattr(logs, system), convention if system == "sprint" else WRITTEN, logs.count)


def table(logs: Logs) -> pd.DataFrame:
    """Table 2's token counts under every convention of `CONVENTIONS`, a row each.

    Means over runs with 95 % intervals, `planner` and `executor` tokens of the critical
    path, and how far each mean is off the paper's (`_off`; of serial tokens: off the
    paper's sequential ones). A text counted as one has no path; a sequential system's is one.
    """
    rows = []
    for system, conventions in CONVENTIONS.items():
        paper = paper_tokens(system)
        for convention in conventions:
            found = list(costs(getattr(logs, system), convention, logs.count).values())
            row: dict[str, Any] = {"system": system, "convention": convention.name, "n": len(found)}
            for column in ("sequential", "serial", "total"):
                values = [getattr(cost, column) for cost in found]
                estimate = statistics.mean(values)
                if system == "sprint" and convention.whole and column != "total":
                    estimate = statistics.NONE
                row |= tables.bounded(column, estimate)
                row[f"{column}_off"] = estimate.value - paper[column]
            rows.append(row | _on_path(found, system == "sprint" and not convention.whole))
    return pd.DataFrame(rows)


def _on_path(runs: Sequence[Cost], staged: bool) -> dict[str, float]:
    """Mean tokens of the critical path by who wrote them; a text in one piece has none."""
    roles = ("planner", "executor")
    return {role: sum(getattr(cost, role) for cost in runs) / len(runs) if staged else math.nan for role in roles}


def paper_tokens(system: str) -> dict[str, float]:
    """Table 2's mean sequential and total tokens of `rft` or `sprint`; for `serial` the sequential ones."""
    row = next(row for row in claims.table2(TASK) if row["method"] == system)
    return {"sequential": row["sequential"], "serial": row["sequential"], "total": row["total"]}


@dataclass(frozen=True)
class Nearest:
    """The convention whose mean is closest to a number of Table 2, of how many tried, and how many come within 1 %."""

    system: str
    number: str  # "sequential" or "total"
    paper: float
    convention: Convention
    value: float
    tried: int
    close: int
    planner: float  # mean tokens of the critical path by who wrote them; NaN of a text in one piece
    executor: float

    @property
    def off(self) -> float:
        return self.value - self.paper

    def row(self) -> dict[str, Any]:
        """As a row of a table, the convention by its name."""
        row = {"system": self.system, "number": self.number, "paper": self.paper, "value": self.value, "off": self.off}
        row |= {"convention": self.convention.name, "tried": self.tried, "close": self.close}
        return row | {"planner": self.planner, "executor": self.executor}


def nearest(logs: Logs) -> tuple[Nearest, ...]:
    """For each of Table 2's token counts on MATH-500 the nearest convention, of `CONVENTIONS`, `GRID` and serial ones.

    Many conventions near a number mean that nearness does not tell which one was used.
    """
    found = []
    for system in ("sprint", "rft"):
        grid = {*CONVENTIONS[system], *(GRID if system == "sprint" else ())}
        means: dict[str, dict[Convention, float]] = {"sequential": {}, "total": {}}
        for convention in sorted(grid, key=repr):
            runs = list(costs(getattr(logs, system), convention, logs.count).values())
            means["total"][convention] = sum(cost.total for cost in runs) / len(runs)
            if system == "rft" or not convention.whole:
                means["sequential"][convention] = sum(cost.sequential for cost in runs) / len(runs)
                serial = replace(convention, serial=system == "sprint")
                means["sequential"][serial] = sum(cost.serial for cost in runs) / len(runs)
        found += [_nearest(logs, system, number, by) for number, by in means.items()]
    return tuple(found)


def _nearest(logs: Logs, system: str, number: str, means: Mapping[Convention, float]) -> Nearest:
    paper = paper_tokens(system)[number]
    best = min(means, key=lambda convention: abs(means[convention] - paper))
    close = sum(abs(value / paper - 1) <= 0.01 for value in means.values())
    runs = list(costs(getattr(logs, system), best, logs.count).values())
    path = _on_path(runs, system == "sprint" and not best.whole)
    return Nearest(system, number, paper, best, means[best], len(means), close, **path)


# --- defects ----------------------------------------------------------------------------

_CUT = "cut_at_limit"
_ALONE = "nothing_to_execute"  # costs nothing, so runs that have only this are counted apart


class _Found(NamedTuple):
    kind: str
    problem: str
    at: int | None
    example: str


def defects(logs: Logs, *, cap: int = CAP) -> pd.DataFrame:
    """Every kind of defect over all SPRINT runs: how often, in how many runs, and one example of at most 60 characters.

    Columns: kind, meaning, count, runs, share (percent of all runs), n, problem, at
    (offset in the text), example. Kinds that no run has are there with 0. The last three
    rows are no defects of the format: executions that were cut at `cap` tokens, runs with
    nothing but stages that had nothing to execute, and runs with nothing wrong.
    """
    by_run = [_found(log, logs.count, cap) for log in logs.sprint]
    by_kind: dict[str, list[_Found]] = {kind: [] for kind in (*DEFECTS, _CUT)}
    for one in (one for found in by_run for one in found):
        by_kind[one.kind].append(one)
    rows = [_defect_row(kind, DEFECTS[kind], by_kind[kind]) for kind in DEFECTS]
    rows.sort(key=lambda row: row["count"], reverse=True)
    rows.append(_defect_row(_CUT, f"an execution of {cap:,} tokens, where the engine stopped it", by_kind[_CUT]))
    kinds = [{one.kind for one in found} for found in by_run]
    for kind, meaning, exactly in (
        (f"only_{_ALONE}", f"nothing but {_ALONE}", {_ALONE}),
        ("none", "nothing wrong", set()),
    ):
        rows.append(_defect_row(kind, meaning, []) | dict.fromkeys(("count", "runs"), kinds.count(exactly)))
    frame = pd.DataFrame(rows)
    frame.insert(4, "share", 100 * frame["runs"] / len(logs.sprint))
    frame.insert(5, "n", len(logs.sprint))
    return frame.astype({"at": "Int64"})


def _found(log: Log, count: Count, cap: int) -> list[_Found]:
    """The defects of one run, and its executions that were cut."""
    trajectory, id_ = log.trajectory or parse(log.text), log.problem.id
    cut = [e for stage in trajectory.stages for e in stage.executions if count(e.text.strip()) >= cap]
    found = [_Found(defect.kind, id_, defect.at, _short(defect.note)) for defect in trajectory.defects]
    return found + [_Found(_CUT, id_, None, f"execution_{e.stage}.{e.index}") for e in cut]


def _defect_row(kind: str, meaning: str, found: Sequence[_Found]) -> dict[str, Any]:
    first = found[0] if found else _Found(kind, "", None, "")
    row = {"kind": kind, "meaning": meaning, "count": len(found), "runs": len({one.problem for one in found})}
    return row | {"problem": first.problem, "at": first.at, "example": first.example}


def _short(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:60]


# --- attempts ---------------------------------------------------------------------------


def attempts(
    logs: Sequence[Log], method: str, outcomes: Sequence[bool], convention: Convention, count: Count
) -> list[Attempt]:
    """The runs as attempts, for the tables and figures that attempts have (Table 2, Figures 4 and 5).

    A run whose text does not end as it should is *malformed*.

    Args:
        outcomes: right or not, a grader's word for each run, in the order of `logs`.

    Raises:
        ValueError: if there are not as many outcomes as runs, or the convention leaves runs out.
    """
    if len(outcomes) != len(logs):
        raise ValueError(
            f"{len(outcomes)} outcomes for {len(logs)} runs of {method}; give one for each, in their order"
        )
    if convention.matched:
        raise ValueError("attempts are of all runs; choose a convention that leaves none out (matched=False)")
    return [
        Attempt(
            problem=log.problem.id,
            method=method,
            status="ok" if _ended(log) else "malformed",
            correct=bool(correct),
            answer="",
            text=log.text,
            calls=convention.calls(log, count) or (),
        )
        for log, correct in zip(logs, outcomes, strict=True)
    ]


def _ended(log: Log) -> bool:
    return "</think>" in log.text if log.trajectory is None else log.trajectory.final is not None


def levels(logs: Sequence[Log]) -> dict[str, str]:
    """The difficulty level of each problem as a group for `tables.stage_reach`, easiest first (Figure 5)."""
    return {log.problem.id: f"level {level(log)}" for log in sorted(logs, key=level)}


def level(log: Log) -> int:
    """The difficulty of a run's problem, 1 to 5."""
    return int(log.problem.meta["level"])
