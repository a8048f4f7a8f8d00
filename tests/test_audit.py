"""The audit on hand-made runs whose counts are known; the released ones themselves where a folder is named."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import hostile
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprint_lib import plots, tables, tokens
from sprint_lib.evaluation import audit, bucketing, claims, findings, seconds
from sprint_lib.evaluation.audit import FORMULA, LITERAL, Convention, Log, Logs
from sprint_lib.evaluation.findings import View
from sprint_lib.evaluation.grading import Matrix
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.released import Released, Run, find
from sprint_lib.tasks import NO_ANSWER, Grade, Problem
from sprint_lib.trajectory import DEFECTS

STAGES = """\
<Plan_1>
a b <prompt_1.1> c</prompt_1.1>
d <prompt_1.2> e</prompt_1.2> f g h i j
</Plan_1>

<Execution_1>
<execution_1.1>
1 < 2 and 3 > 2 . .
</execution_1.1>

<execution_1.2>
1
</execution_1.2>
</Execution_1>

<Plan_2>
k l
</Plan_2>

<Execution_2>
No prompt to execute.
</Execution_2>

<Final_answer>
x y z
</Final_answer>
</think>"""
TEXT = f"<Question>\nWhich one\n</Question>\n\n<think>\n{STAGES}"

UNMATCHED = TEXT.replace("execution_1.2>", "execution_1.2")  # two prompts, one execution


def words(text: str) -> int:
    """One token a tag and a word."""
    return len(re.sub(r"(</?\w+[\w.]*>)", r" \1 ", text).split())


@dataclass
class Files:
    """A release of these texts, by system."""

    staged: Sequence[str] = (TEXT,)
    linear: Sequence[str] = ("one two three\n</think>",)
    again: Sequence[str] = ("one two\n</think>",)
    seconds: Sequence[float] = ()
    ids: Sequence[str] = field(default=())

    def problems(self) -> list[Problem]:
        n = max(map(len, (self.staged, self.linear, self.again)))
        ids = self.ids or [f"test/{i}.json" for i in range(n)]
        return [Problem(id_, "Which one", "1", {"level": 5 - i % 5, "subject": "s"}) for i, id_ in enumerate(ids)]

    def sprint(self) -> list[Run]:
        return [Run(i, text) for i, text in enumerate(self.staged)]

    def rft(self) -> list[Run]:
        seconds = [*self.seconds] or [None] * len(self.linear)
        return [Run(i, text, None, s) for i, (text, s) in enumerate(zip(self.linear, seconds, strict=True))]

    def rft_control(self) -> list[Run]:
        return [Run(i, text) for i, text in enumerate(self.again)]


def read(files: Files) -> Logs:
    return audit.read(cast(Released, files), words)


def of(convention: Convention, text: str = TEXT) -> tuple[int, ...]:
    """Sequential, serial, total, planner and executor tokens, calls on the path."""
    cost = next(iter(audit.costs(read(Files(staged=(text,))).sprint, convention, words).values()))
    return cost.sequential, cost.serial, cost.total, cost.planner, cost.executor, cost.calls


# --- conventions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        # Stage 1: its prompts end at words 3 and 5 of a plan of 10, its executions have 9 and 1. Then 2 and 3 words.
        (Convention(), (3 + 9 + 2 + 3, 10 + 9 + 2 + 3, 10 + 10 + 2 + 3, 3 + 2 + 3, 9, 4)),
        (Convention(tags="in"), (6 + 11 + 4 + 5, 16 + 11 + 4 + 5, 16 + 11 + 3 + 4 + 5, 6 + 4 + 5, 11, 4)),
        (Convention(tags="any"), (10 + 2 + 3, 10 + 4 + 2 + 3, 10 + 5 + 2 + 3, 15, 0, 3)),
        (replace(FORMULA, tags="any"), (3 + 4 + 2 + 3, 5 + 4 + 2 + 3, 5 + 5 + 2 + 3, 3 + 2 + 3, 4, 4)),
        (FORMULA, (3 + 9 + 2 + 3, 5 + 9 + 2 + 3, 5 + 10 + 2 + 3, 3 + 2 + 3, 9, 4)),
        (Convention(bare=False), (3 + 9 + 3, 10 + 9 + 3, 10 + 10 + 3, 3 + 3, 9, 3)),
        (Convention(final=False), (3 + 9 + 2, 10 + 9 + 2, 10 + 10 + 2, 3 + 2, 9, 3)),
        (LITERAL, (3 + 9, 5 + 9, 5 + 10, 3, 9, 2)),
        (Convention(serial=True), (24, 24, 25, 10 + 2 + 3, 9, 4)),
        (Convention(whole="the text with <think>"), (49, 49, 49, 0, 0, 1)),
    ],
)
def test_conventions_by_hand(convention: Convention, expected: tuple[int, ...]) -> None:
    assert of(convention) == expected


def test_whole_texts() -> None:
    counted = {whole: of(Convention(whole=whole))[0] for whole in audit.WHOLE}
    assert list(counted.values()) == [48, 48, 49, 48 + 2, 49 + 4]
    log = read(Files()).sprint[0]
    assert (
        audit.WHOLE["the text with its question in tags and <think>"].format(question="Which one", text=log.text)
        == TEXT
    )
    assert of(Convention(whole="the text with <think>"), "no such tag")[0] == 4
    bare, after = (Convention(whole=whole).calls(log, len) or () for whole in ("the text", "the text after <think>"))
    assert after[0].completion_tokens == bare[0].completion_tokens + 1 == len(STAGES) + 1  # the context's line break


def test_trimming() -> None:
    trimmed, whole = (
        audit.costs(read(Files()).sprint, Convention(trim=trim), len)["test/0.json"].total for trim in (True, False)
    )
    assert whole - trimmed == 5  # a line break before the closing tag of two plans, two executions and the answer


def test_a_question_with_braces_is_no_format() -> None:
    problem = Problem("p", r"\frac{1}{2} {text} {0}", "1", {"level": 1})
    calls = Convention(whole="the text with its question").calls(Log(problem, "{x}"), len)
    assert calls
    assert calls[0].completion_tokens == len(problem.question) + 3


def test_discarded_tries_come_with_an_output_over_its_limit() -> None:
    long = TEXT.replace("1 < 2", "w " * 2001)
    plain, tried = of(FORMULA, long), of(replace(FORMULA, tries=True), long)
    assert [b - a for a, b in zip(plain, tried, strict=True)] == [4000, 4000, 4000, 0, 4000, 2]
    assert of(replace(FORMULA, tries=True)) == of(FORMULA)


def test_runs_whose_prompts_do_not_match_are_left_out_only_where_that_is_said() -> None:
    logs = read(Files(staged=(TEXT, UNMATCHED)))
    assert len(audit.costs(logs.sprint, Convention(), words)) == 2
    assert list(audit.costs(logs.sprint, Convention(matched=True), words)) == ["test/0.json"]
    with pytest.raises(ValueError, match="leaves none out"):
        audit.attempts(logs.sprint, "sprint", [True, True], Convention(matched=True), words)


def test_names_are_of_all_conventions_and_differ() -> None:
    for conventions in (*audit.CONVENTIONS.values(), audit.GRID):
        assert len({convention.name for convention in conventions}) == len(conventions)
    assert FORMULA.name == "tags out, plans up to their last prompt"


@given(st.text("<>a \n", max_size=40))
def test_without_brackets(text: str) -> None:
    assert audit.without_brackets(text) == re.sub(r"<[^>\n]*>", "", text)


def test_without_brackets_takes_linear_time() -> None:
    started = time.thread_time()
    audit.without_brackets("<" * 1_000_000 + "\n" + "<a" * 500_000)
    assert time.thread_time() - started < 2 * hostile.slowness()


@pytest.mark.parametrize("text", ["", "\x00<Plan_1>", TEXT[:100], TEXT + TEXT, "<Plan_1><prompt_1.1>" * 50])
def test_any_text_counts_under_every_convention(text: str) -> None:
    logs = read(Files(staged=(text,)))
    for convention in {*audit.CONVENTIONS["sprint"], *audit.GRID}:
        for cost in audit.costs(logs.sprint, convention, words).values():
            assert 0 <= cost.sequential <= cost.serial <= cost.total
    assert audit.defects(logs)["count"].sum() > 0


# --- table and nearest ------------------------------------------------------------------


def test_table_has_every_convention_and_how_far_it_is_off() -> None:
    table = audit.table(read(Files(staged=(TEXT, TEXT)))).set_index(["system", "convention"])
    row = table.loc[("sprint", "tags out")]
    assert (row["n"], row["sequential"], row["serial"], row["total"]) == (2, 17, 24, 25)
    assert (row["sequential_off"], row["total_off"]) == (17 - 2440, 25 - 3622)
    assert (row["planner"], row["executor"]) == (8, 9)
    whole = table.loc[("sprint", "the text after <think>")]
    assert whole["total"] == 48
    assert whole[["sequential", "serial", "planner"]].isna().all()
    assert table.loc[("rft", "the text"), "sequential"] == 4
    assert len(table) == sum(map(len, audit.CONVENTIONS.values()))


def test_nearest_finds_the_convention_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"method": "sprint", "sequential": 36.1, "total": 48.0},  # tags in, executors after the whole plan
        {"method": "rft", "sequential": 9.0, "total": 9.0},
    ]
    monkeypatch.setattr(claims, "table2", lambda task: rows)
    found = {(n.system, n.number): n for n in audit.nearest(read(Files()))}
    sequential = found["sprint", "sequential"]
    assert (sequential.convention, sequential.value) == (Convention(tags="in", serial=True), 36)
    assert sequential.off == pytest.approx(-0.1)
    assert sequential.close >= 1
    assert sequential.tried > len(audit.GRID)
    assert found["sprint", "total"].convention.whole == "the text after <think>"
    assert found["rft", "total"].convention.whole == "the text with its question in tags and <think>"


def test_each_text_is_counted_once() -> None:
    asked: list[str] = []
    logs = audit.read(cast(Released, Files()), lambda text: asked.append(text) or words(text))
    audit.nearest(logs)
    assert len(asked) == len(set(asked)) > 20


# --- defects ----------------------------------------------------------------------------


def test_defects_count_kinds_and_runs_over_all_runs() -> None:
    clean = TEXT.replace("No prompt to execute.\n", "").replace("<Execution_2>\n</Execution_2>\n", "")
    doubled = clean.replace("k l", "None\n\n---\nNone")
    table = audit.defects(read(Files(staged=(TEXT, clean, doubled, "\n" * 100 + "x" * 100))), cap=9).set_index("kind")
    assert (table["n"] == 4).all()
    assert tuple(table.loc["none_plan", ["count", "runs", "share"]]) == (2, 1, 25.0)
    assert table.loc["text_outside", "count"] == 0  # what stands in place of an execution is counted once
    assert set(table.index) == {*DEFECTS, "cut_at_limit", "only_nothing_to_execute", "none"}
    assert table["count"].iloc[:-3].is_monotonic_decreasing
    assert table.loc["nothing_to_execute", "problem"] == "test/0.json"
    assert TEXT[int(table.loc["nothing_to_execute", "at"]) :].startswith("<Execution_2>")
    assert tuple(table.loc["cut_at_limit", ["count", "runs", "example"]]) == (3, 3, "execution_1.1")
    assert table.loc["none", "count"] == 0
    assert table["example"].str.len().max() <= 60
    few = audit.defects(read(Files(staged=(TEXT, clean, clean)))).set_index("kind")
    assert few.loc[["nothing_to_execute", "only_nothing_to_execute", "none"], "runs"].tolist() == [1, 1, 2]


# --- attempts, figures ------------------------------------------------------------------


def test_attempts_go_through_the_tables_of_every_run() -> None:
    logs = read(Files(staged=(TEXT, "cut off"), linear=("a b c\n</think>", "a b")))
    runs = {
        "rft": audit.attempts(logs.rft, "rft", [True, False], Convention(), words),
        "sprint": audit.attempts(logs.sprint, "sprint", [True, False], Convention(), words),
    }
    table = tables.methods(runs, "math500").set_index("method")
    assert table.loc["sprint", ["accuracy", "sequential", "total", "malformed"]].tolist() == [50, 8.5, 12.5, 1]
    assert table.loc["rft", ["sequential", "malformed"]].tolist() == [3, 1]
    reach = tables.stage_reach(runs["sprint"], audit.levels(logs.sprint))
    assert list(dict.fromkeys(reach["group"])) == ["level 4", "level 5"]
    assert reach.loc[(reach["group"] == "level 5") & (reach["stage"] == 1), "parallel"].item() == 1
    with pytest.raises(ValueError, match="1 outcomes for 2 runs of sprint"):
        audit.attempts(logs.sprint, "sprint", [True], Convention(), words)


def _lengths(*systems: Sequence[int], clock: Sequence[float] = (), ids: Sequence[str] = ()) -> Logs:
    """Linear texts of so many tokens, a character each: SPRINT's, RFT's, the other RFT's."""
    files = Files(*(["w" * n for n in lengths] for lengths in systems), seconds=clock, ids=ids)
    logs = audit.read(cast(Released, files), len)
    return replace(logs, sprint=tuple(replace(log, trajectory=None) for log in logs.sprint))


def _chance(n: int = 500) -> tuple[list[int], list[int], list[int]]:
    """SPRINT saves a tenth of what a problem takes, wherever luck makes a run long."""
    rng = np.random.default_rng(0)
    needs = rng.uniform(500, 8000, n)
    sprint, rft, control = (np.maximum(1, needs * share * rng.lognormal(0, 0.35, n)) for share in (0.9, 1, 1))
    return tuple([int(x) for x in run] for run in (sprint, rft, control))  # type: ignore[return-value]


def test_figure_6_shows_what_luck_does() -> None:
    logs = _lengths(*_chance())
    frame = bucketing.figure6(logs, edges=(2000, 4000, 6000))
    assert dict(zip(frame["series"], frame["style"], strict=True)) == {
        s: style for s, (style, *_) in bucketing._BY.items()
    }
    last = frame.groupby("style").last()["reduction"]
    assert last["naive"] > last["main"] + 10
    assert last["null"] > 10
    assert abs(last["main"] - 10) < 10
    assert last["main"] < last["mean"] < last["naive"]
    picture = plots.reduction(frame, title="Figure 6", caption="n")
    assert len(picture.axes[0].get_legend().get_texts()) == 4
    plots.plt.close(picture)


def test_long_problems_under_every_bucketing() -> None:
    table = bucketing.long_problems(_lengths(*_chance()))
    naive, main, _, null, swapped, reverse, beyond = (row for _, row in table.iterrows())
    assert naive["rise"] == pytest.approx(naive["saved"] - naive["over_all"])
    assert abs(main["rise"]) < 10 < min(naive["rise"], null["rise"], reverse["rise"])
    assert beyond["rise"] == pytest.approx(naive["rise"] - null["rise"])
    assert beyond["rise_low"] < 0 < beyond["rise_high"]  # SPRINT saves the same share everywhere
    assert (table["n"] > 20).all()
    assert swapped["saved"] < naive["saved"]  # another run is not long where this one was by chance
    none = bucketing.long_problems(_lengths([5, 6], [5, 6], [5, 6]))
    assert none["n"].tolist() == [0] * 7
    assert none[["saved", "rise"]].isna().all(axis=None)


def test_a_baseline_that_is_shorter_throughout_shifts_the_null_line_only() -> None:
    sprint, rft, control = _chance()
    plain, shorter = (
        bucketing.long_problems(_lengths(sprint, rft, [int(share * n) for n in control])).iloc[3] for share in (1, 0.8)
    )
    assert shorter["saved"] > plain["saved"] + 10
    assert shorter["rise"] < plain["rise"]


# --- runtime ----------------------------------------------------------------------------


def _timed(*, staged: bool = False) -> Logs:
    """Forty RFT runs at 2 s and 10 ms a token, the last one asked twice; SPRINT's are half as long, or in stages."""
    rft = [100 * (i + 1) for i in range(40)]
    clock = [2 + 0.01 * (tokens - 1) for tokens in rft]
    logs = _lengths([t // 2 for t in rft], rft, rft, clock=[*clock[:-1], 700.0])
    return replace(logs, sprint=read(Files(staged=(TEXT,) * 40)).sprint, count=_either) if staged else logs


def _either(text: str) -> int:
    return words(text) if " " in text else len(text)


def test_rates_are_found_again_without_the_runs_that_were_asked_twice() -> None:
    fitted = seconds.rates(_timed())
    assert (fitted.first.value, fitted.each.value) == pytest.approx((2, 0.01))
    assert (fitted.left_out, fitted.first.n) == (1, 39)
    assert fitted.model.overhead == pytest.approx(2)


@pytest.mark.parametrize("clock", [(), (9.0, 8.0, 7.0)])
def test_rates_that_cannot_be_are_refused(clock: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="no rates to fit"):
        seconds.rates(_lengths([1] * 3, [10, 20, 30], [1] * 3, clock=clock))


def test_runtime_is_the_latency_model_s() -> None:
    logs = _timed(staged=True)
    found = seconds.runtime(logs)
    assert found["runtime.math500.rft"].value == pytest.approx(2 + 0.01 * (100 * 41 / 2 - 1))
    assert found["runtime.math500.sprint"].value == pytest.approx(4 * 2 + 0.01 * (17 - 4))  # 17 tokens in four calls
    ratio = found["runtime.math500.sprint_over_rft"]
    assert ratio.value == pytest.approx(found["runtime.math500.sprint"].value / found["runtime.math500.rft"].value)
    assert ratio.low < ratio.value < ratio.high
    assert not [id_ for id_ in found if "long" in id_]
    model = seconds.rates(logs).model
    modelled = [model.seconds(FORMULA.calls(log, _either) or ()) for log in logs.sprint]
    assert found["runtime.math500.sprint"].value == pytest.approx(np.mean(modelled))


def test_runs_that_are_left_out_take_no_seconds() -> None:
    sprint = read(Files(staged=(*(TEXT,) * 39, UNMATCHED))).sprint
    broken = replace(_timed(staged=True), sprint=sprint)
    found = seconds.runtime(broken, replace(FORMULA, matched=True))["runtime.math500.sprint"]
    assert (found.value, found.n) == (pytest.approx(4 * 2 + 0.01 * (17 - 4)), 39)


def test_assumptions_give_the_papers_two_numbers() -> None:
    logs = _timed(staged=True)
    table = seconds.assumptions(logs).set_index("rates")
    solved = table[table.index.str.startswith("solved")]
    assert solved["rft"].tolist() == pytest.approx([40.57] * 2)
    assert solved["sprint"].tolist() == pytest.approx([36.92] * 2)
    assert table.loc["the paper", ["rft", "sprint", "rft_long"]].tolist() == [40.57, 36.92, 120.54]
    fitted = table.iloc[0]
    even = fitted["even_seconds"]
    assert 4 * even + 0.01 * (17 - 4) == pytest.approx(even + 0.01 * (2050 - 1))
    estimated = seconds.runtime(logs)
    for system in ("rft", "sprint"):  # the same seconds by both ways
        assert fitted[system] == pytest.approx(estimated[f"runtime.math500.{system}"].value)
    assert table["n_long"].tolist() == [0, 0, 0, None]  # the paper does not say how many it has


# --- claims -----------------------------------------------------------------------------


def _complete() -> Logs:
    sprint, rft, control = _chance(30)
    rft[0], control[0] = 9000, 1989
    clock = [1 + 0.01 * (n - 1) for n in rft]
    return _lengths(sprint, rft, control, clock=clock, ids=[findings.OCTAL, *(f"p{i}" for i in range(1, 30))])


PLAIN = View("plain", FORMULA, Convention())


def test_every_claim_that_the_release_speaks_to_has_an_estimate() -> None:
    found = findings.estimates(_complete(), PLAIN)
    speaks = {claim.id for claim in claims.CLAIMS if claim.setting in ("7b/math500", "examples")}
    unreleased = {id_ for id_ in speaks if "appendix_b1" in id_}
    elsewhere = {"curation.fold_below", "curation.filter_of_examples"}  # curated examples
    elsewhere |= {"figure5.math500.stages_by_level", "curation.stages_of_released_runs"}  # runs in stages, below
    graded = set(findings.by_grader(_graded())["id"])
    assert set(found) | graded == speaks - unreleased - elsewhere
    assert not set(found) & graded
    assert all(id_.startswith(tuple(findings.UNDER)) for id_ in found)
    claims.claims_table(found, ("7b/math500", "examples"))
    octal = (found[f"appendix_b2.binary_to_octal.{system}_sequential_tokens"] for system in ("rft", "sprint"))
    rft, sprint = ((e.value, e.low, e.high, e.n) for e in octal)
    assert rft == (1989, 1989, 1989, 1)  # the paper's own run
    assert np.isnan(sprint[1:3]).all()  # another sample of one has no interval


def _graded() -> Matrix:
    """Thirty problems: RFT is right on 20, gives no answer to 6 others; SPRINT is right on 25."""
    wrong, none = Grade(False, "2", "another answer"), Grade(False, "", NO_ANSWER)
    rft = [Grade(True, "1")] * 20 + [none] * 6 + [wrong] * 4
    sprint = [wrong] * 5 + [Grade(True, "1")] * 25
    systems = {name: {str(i): grade for i, grade in enumerate(g)} for name, g in {"rft": rft, "sprint": sprint}.items()}
    return Matrix({str(i): "1" for i in range(30)}, {"strict": {**systems, "control": {"0": wrong}}})


def test_accuracies_by_grader_and_denominator() -> None:
    frame = findings.by_grader(_graded()).set_index(["view", "id"])
    every, answered = (f"strict, {said}" for said in findings.GRADED.values())
    assert frame.loc[(every, "table2.math500.rft.accuracy"), "value"] == pytest.approx(100 * 20 / 30)
    assert frame.loc[(answered, "table2.math500.rft.accuracy"), ["value", "n"]].tolist() == [
        pytest.approx(100 * 5 / 6),
        24,
    ]
    difference = frame.loc[every].loc["table2.math500.accuracy_difference"]
    assert (difference["value"], difference["verdict"]) == (pytest.approx(100 * 5 / 30), "underpowered")
    assert difference["value_low"] < difference["value"] < difference["value_high"]
    assert len(frame) == 6
    found = findings.recounts(frame.reset_index(), every, {"table2": "figures/a.svg"})
    assert [recount.views for recount in found] == [2, 0, 2]  # SPRINT answered every problem


def test_estimates_by_hand() -> None:
    found = findings.estimates(_lengths([30, 50], [40, 60], [9, 9]), PLAIN)
    id_ = "table2.math500"
    assert found[f"{id_}.sequential_reduction"].value == pytest.approx(20)
    assert found["figure4.math500.saved_sequential_tokens_vs_rft"].value == 10
    assert found[f"{id_}.total_increase"].value == pytest.approx(-20)
    assert found["figure6.math500.short_problems"].n == 2
    assert not [i for i in found if "runtime" in i or "octal" in i or "8000" in i]


def test_figure_6_is_bucketed_both_ways() -> None:
    found = findings.estimates(_lengths([900, 10_000], [900, 9000], [9000, 900]), PLAIN)
    saved = {id_.partition("math500.")[2]: e.value for id_, e in found.items() if id_.startswith("figure6")}
    assert saved == {
        "short_problems": pytest.approx(0),
        "rft_over_8000_tokens": pytest.approx(100 * (1 - 10 / 9)),
        "short_problems_controlled": pytest.approx(100 * (1 - 10 / 9)),
        "rft_over_8000_tokens_controlled": pytest.approx(0),
    }
    short = next(claim for claim in claims.CLAIMS if claim.id == "figure6.math500.short_problems")
    assert f"{bucketing.EDGES[0]:,} RFT tokens" in short.quantity


def test_stages_of_the_hardest_level_against_the_easiest() -> None:
    one = TEXT.replace("<Plan_2>", "").replace("</Plan_2>", "")  # levels 5, 4, 3, 2, 1, 5, 4, ...
    short = "<Plan_1>\na\n</Plan_1>\n<Final_answer>\nx\n</Final_answer>"
    logs = read(Files(staged=(TEXT, one, one, one, short) * 3, linear=("a",) * 15, again=("a",) * 15))
    found = findings.estimates(logs, PLAIN)["figure5.math500.stages_by_level"]
    assert (found.value, found.n) == (1, 6)
    few = read(Files(staged=(TEXT, TEXT), linear=("a",) * 2, again=("a",) * 2))
    assert "figure5.math500.stages_by_level" not in findings.estimates(few, PLAIN)


def test_views_follow_what_is_nearest() -> None:
    near = audit.nearest(read(Files()))
    paper, completed, literally, *alike = findings.views(near)
    assert paper.path == near[0].convention
    assert (paper.total, paper.rft) == (near[1].convention, near[3].convention)
    assert (completed.path, literally.path) == (FORMULA, LITERAL)
    assert completed.total == literally.total == Convention(whole="the text after <think>")
    assert all(view.total.tails and view.rft == audit.WRITTEN for view in alike)


def test_claims_by_view_and_overall() -> None:
    logs = _complete()
    frame = findings.by_view(logs, [PLAIN, View("other", Convention(), Convention())])
    assert set(frame["view"]) == {"plain", "other", "tags out, the formula, against the other RFT runs"}
    relative = frame[frame["view"].str.endswith("RFT runs")]
    assert "table2.math500.sequential_reduction" in set(relative["id"])
    assert not relative["id"].str.contains("rft.total|runtime|over_sequential").any()
    assert set(frame["verdict"]) <= set(claims.VERDICTS)
    table = findings.overall(frame)
    assert len(table) == frame["id"].nunique()


def test_recounts_say_under_how_many_views_a_claim_holds(tmp_path: Path) -> None:
    logs = _complete()
    other = Convention(whole="the text with <think>")
    ways = [PLAIN, View("same", Convention(tags="in"), Convention()), View("other", other, Convention())]
    frame = findings.by_view(logs, ways)
    found = findings.recounts(frame, "plain", {"table2": "figures/a.svg"})
    claims.write_recounts(tmp_path / "a.json", found)
    by_id = {recount.id: recount for recount in claims.read_recounts(tmp_path / "a.json")}
    saved = by_id["table2.math500.sequential_reduction"]
    rows = frame[frame["id"] == saved.id]
    assert saved.estimate.value == pytest.approx(rows.iloc[0]["value"], rel=1e-5)
    differ = rows.drop_duplicates("value")  # texts without stages are the same with tags in and out
    assert (len(rows), saved.views, saved.holds) == (4, 3, (differ["verdict"] == "reproduced").sum())
    assert saved.figure == "figures/a.svg"
    assert saved.under == "all released runs that the view counts; plain"
    same = by_id["appendix_b2.binary_to_octal.rft_sequential_tokens"]
    assert (same.views, same.under) == (0, findings.UNDER["appendix_b2.binary_to_octal.rft"])
    with pytest.raises(ValueError, match="no view 'plane' in the frame; there are: plain, same, other"):
        findings.recounts(frame, "plane", {})


def _viewed(verdicts: Sequence[str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"id": "c", "quantity": "q", "unit": "%", "paper": 1.0, "view": f"v{i}", "verdict": verdict, "n": 9}
        | tables.bounded("value", Estimate(float(i), i - 1.0, float("nan"), 9))
        for i, verdict in enumerate(verdicts)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("verdicts", "finding"),
    [
        (["reproduced"] * 3, "holds"),
        (["reproduced", "different", "underpowered"], "depends on the counting"),
        (["different", "underpowered", "different"], "not reproduced"),
        (["different"] * 3, "does not hold"),
        (["underpowered"] * 3, "open"),
    ],
)
def test_findings(verdicts: list[str], finding: str) -> None:
    row = findings.overall(_viewed(verdicts)).iloc[0]
    assert (row["finding"], row["low"], row["high"], row["views"]) == (finding, 0, 2, 3)
    assert row[["reproduced", "different", "open"]].tolist() == [
        verdicts.count(verdict) for verdict in ("reproduced", "different", "underpowered")
    ]
    assert row["holds_under"] == "; ".join(f"v{i}" for i, verdict in enumerate(verdicts) if verdict == "reproduced")


def test_views_that_come_to_one_estimate_count_once() -> None:
    frame = _viewed(["reproduced", "different", "underpowered"])
    again = pd.concat([frame, frame.assign(view=["x", "y", "z"])], ignore_index=True)
    row = findings.overall(again).iloc[0]
    assert row[["views", "reproduced", "different", "open"]].tolist() == [3, 1, 1, 1]
    assert row["holds_under"] == "v0 = x"


def test_relative_quantities_by_view() -> None:
    id_, ratio = "table2.math500.sequential_reduction", "table2.math500.total_over_sequential"
    frame = findings.by_view(_complete(), [PLAIN])
    drawn = findings.relative(frame, {id_: "saved (%)", ratio: "ratio"})
    assert drawn.groupby("quantity")["none"].first().to_dict() == {"ratio": 1, "saved (%)": 0}
    assert drawn["row"].tolist() == ["plain", "plain", "tags out, the formula, against the other RFT runs"]
    picture = plots.contrasts(drawn, title="t", caption="c")
    assert [axis.get_xlabel() for axis in picture.axes] == ["saved (%)", "ratio"]
    marks = [(line.get_linestyle(), np.asarray(line.get_xdata())) for line in picture.axes[1].lines]
    lines = {(style, at[0]) for style, at in marks if len(at) == 2}
    assert {("-", 1.0), ("--", 1.484)} <= lines
    plots.plt.close(picture)


def test_the_longest_run_is_counted_with_its_answer_and_without() -> None:
    logs = read(Files(staged=(TEXT, "cut off")))
    found = findings.most_stages(logs, "figures/a.svg")
    assert (found.estimate.value, found.estimate.n, found.views, found.holds) == (3, 2, 2, 0)
    assert found.under.endswith("plans alone: 2")
    twelve = "".join(f"<Plan_{i}>\na\n</Plan_{i}>\n" for i in range(1, 12)) + "<Final_answer>\nx\n</Final_answer>"
    found = findings.most_stages(read(Files(staged=(twelve,))), "")
    assert (found.estimate.value, found.holds) == (12, 1)
    claims.claims_table({}, ("7b/math500",), recounts=[found])


def test_table_2_has_a_panel_a_counting_and_the_papers_rows() -> None:
    logs = read(Files(staged=(TEXT, TEXT), linear=("a b", "a")))
    right = {"rft": [True, True], "sprint": [True, False]}
    found = findings.table2(logs, right, {"plain": Convention(), "formula": FORMULA}).set_index(["panel", "method"])
    assert list(dict.fromkeys(found.index.get_level_values(0))) == ["plain", "formula", "the paper"]
    assert found.loc[("plain", "sprint"), ["accuracy", "total"]].tolist() == [50, 25]
    assert found.loc[("the paper", "sprint"), "total"] == 3622


def test_an_estimate_in_a_sentence() -> None:
    estimate = Estimate(9.026, 4.18, 13.43, 500)
    assert tables.said(estimate, "%") == "9.03 % [4.18, 13.4], n = 500"
    assert tables.said(Estimate(2175, float("nan"), float("nan"), 1)) == "2,175, n = 1"
    assert tables.estimate({**tables.bounded("x", estimate), "n": 500}, "x") == estimate


def test_the_other_baseline_has_its_own_problems() -> None:
    logs = read(Files(staged=(TEXT,) * 3, linear=("a",) * 3, again=("a b",) * 2))
    swapped = findings.against_control(logs)
    assert [len(runs) for runs in (swapped.rft, swapped.sprint, swapped.control)] == [2, 2, 2]
    assert swapped.rft[0].text == "a b"


# --- the release ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released() -> Logs:
    for variable in ("SPRINT_RELEASED_DIR", "SPRINT_QWEN_TIKTOKEN"):
        if not os.environ.get(variable):
            pytest.skip(f"{variable} is not set: the released runs and Qwen's vocabulary are not part of this project")
    return audit.read(find(), tokens.counter(os.environ["SPRINT_QWEN_TIKTOKEN"]))


def test_the_total_of_the_released_runs_is_the_papers_to_a_token(released: Logs) -> None:
    whole = audit.costs(released.sprint, Convention(whole="the text after <think>"), released.count)
    assert len(whole) == 500
    assert round(sum(cost.total for cost in whole.values()) / 500) == 3622
    bare = audit.costs(released.sprint, Convention(whole="the text"), released.count).values()
    assert round(sum(cost.total for cost in bare) / 500) == 3621  # one less: the line break is the context's
    literal = replace(LITERAL, tags="any", trim=True)
    path = audit.costs(released.sprint, literal, released.count).values()
    assert sum(cost.sequential for cost in path) / 500 == pytest.approx(2440, abs=5)
    assert (len(released.rft), len(released.control)) == (500, 498)


def test_what_is_odd_in_the_released_runs(released: Logs) -> None:
    runs = audit.defects(released).set_index("kind")["runs"]
    kinds = ["nothing_to_execute", "text_outside", "only_nothing_to_execute", "none"]
    assert runs[kinds].tolist() == [205, 0, 192, 273]
    assert findings.most_stages(released, "").estimate.value == 12


def test_the_rft_example_of_the_appendix_is_of_the_other_run(released: Logs) -> None:
    shown = findings.octal(released)
    assert shown["control"] == 1989
    assert shown["rft"] > 4 * 1989
    assert shown["sprint"] != 1463
