"""Figures and tables from small hand-made attempts whose numbers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from sprint_lib import plots, tables
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.curation import Annotated, Aside, Packed, Trace
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.packing import pack
from sprint_lib.curation.rules import CountdownAnnotator
from sprint_lib.curation.steps import Step
from sprint_lib.store import Workspace

TEXT = (
    "Numbers: 1 2 3 4\nTarget: 10\n"
    "<Plan_1>\n<prompt_1.1> 1 + 2</prompt_1.1>\n<prompt_1.2> 2 - 1</prompt_1.2>\n</Plan_1>\n"
    "<Execution_1>\n<execution_1.1>\nNone\n</execution_1.1>\n<execution_1.2>\nSolved\n</execution_1.2>\n</Execution_1>\n"
    "<Final_answer>\nAnswer 10\n</Final_answer>\n"
)


def staged(problem: str = "a", *, correct: bool = True, retry: bool = False) -> Attempt:
    """A plan of 20 tokens with prompts closed at 5 and 12, executors of 30 and 40, an answer of 10."""
    first = Call("P1", "planner", 1, completion_tokens=20, prompt_tokens=9, started=0.0, first_token=0.1, ended=0.3)
    one = Call(
        "P1/1", "executor", 1, 1, (Wait("P1", 5),), completion_tokens=30, started=0.1, first_token=0.2, ended=0.6
    )
    two = Call(
        "P1/2", "executor", 1, 2, (Wait("P1", 12),), completion_tokens=40, started=0.2, first_token=0.3, ended=0.9
    )
    calls = [first, one, two]
    if retry:
        calls.append(Call("P1/2b", "executor", 1, 2, (Wait("P1/2"),), completion_tokens=25, started=0.9, ended=1.2))
    waits = (Wait("P1"), Wait("P1/1"), Wait(calls[-1].id))
    calls.append(Call("P2", "planner", 2, waits=waits, completion_tokens=10, started=1.2, first_token=1.3, ended=1.5))
    return Attempt(problem, "sprint", "ok", correct, "10", TEXT, tuple(calls), wall_seconds=1.5, engine_seconds=1.2)


def linear(problem: str = "a", tokens: int = 100, *, correct: bool = True, status: str = "ok") -> Attempt:
    call = Call("S1", "sample", prompt_tokens=8, completion_tokens=tokens, first_token=0.1, ended=1.0)
    text = "Try 1 + 2\nNone\nTry 2 - 1\nSolved\nAnswer 10\n"
    return Attempt(problem, "sequential", status, correct, "10", text, (call,), wall_seconds=1.0, engine_seconds=1.0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace("test", tmp_path)


# --- tables -----------------------------------------------------------------------------


def test_a_row_a_method_with_every_attempt_in_the_denominator() -> None:
    attempts = [linear("a", 100), linear("b", 200, correct=False), linear("c", 600, correct=False, status="truncated")]
    row = tables.methods({"rft": attempts}, "countdown").iloc[0]
    assert (row["n"], row["ok"], row["truncated"]) == (3, 2, 1)
    assert row["accuracy"] == pytest.approx(100 / 3)
    assert row["sequential"] == row["total"] == 300
    assert row["sequential_low"] < 300 < row["sequential_high"]


def test_tables_that_must_not_change_hold_nothing_a_clock_decides() -> None:
    assert not [c for c in tables.methods({"sprint": [staged()]}, "t") if "second" in c or c in ("prefill", "cached")]
    clocked = tables.clocked({"sprint": [staged()]}, "t").iloc[0]
    assert clocked["wall_seconds"] == 1.5
    assert clocked["overhead"] == pytest.approx(20)


def test_csv_has_fixed_decimals_and_empty_cells_for_what_is_not_known() -> None:
    frame = pd.DataFrame(
        {"method": ["a"], "accuracy": [1 / 3], "accuracy_low": [math.nan], "wall_seconds": [2.0], "n": [3]}
    )
    assert tables.to_csv(frame) == "method,accuracy,accuracy_low,wall_seconds,n\na,0.33,,2.0000,3\n"


def test_comparison_is_of_the_same_problems() -> None:
    base = [linear(k, 100) for k in "abcd"]
    other = [linear(k, 40, correct=k != "a") for k in "dcba"]
    frame = tables.compare({"rft": base, "sprint": other}, "rft", "sprint").set_index("quantity")
    assert frame.loc["accuracy", "value"] == -25
    assert frame.loc["sequential tokens saved", "value"] == 60
    assert "only RFT right: 1, only SPRINT right: 0" in str(frame.loc["accuracy", "note"])


def test_comparison_with_a_smaller_run_is_of_its_problems_and_strangers_are_refused() -> None:
    base = [linear(k, 100) for k in "abcd"]
    some = [linear(k, 50) for k in "ca"]
    for pair in (("rft", "sprint"), ("sprint", "rft")):
        frame = tables.compare({"rft": base, "sprint": some}, *pair)
        assert set(frame["n"]) == {2}
    with pytest.raises(ValueError, match="different problems"):
        tables.compare({"rft": base, "sprint": [*some, linear("x", 50)]}, "rft", "sprint")


def test_paper_rows_have_intervals_for_accuracies_only() -> None:
    rows = tables.reported("countdown").set_index("method")
    assert rows.loc["sprint", "accuracy_low"] < 85.9 < rows.loc["sprint", "accuracy_high"]
    assert math.isnan(rows.loc["sprint", "sequential_low"])


def test_stage_reach_by_group() -> None:
    shallow = Attempt("b", "sprint", "malformed", False, "", "Numbers: 1\n", ())
    frame = tables.stage_reach([staged("a"), shallow], {"a": "all", "b": "all"})
    assert frame.to_dict("records") == [{"group": "all", "stage": 1, "share": 50.0, "problems": 2, "parallel": 1}]


def _shares(attempts: list[Attempt]) -> dict[str, tuple[float, int]]:
    return {key: (share.value, share.n) for key, (share, _) in tables.properties(attempts).items()}


def test_properties_are_shares_of_attempts() -> None:
    sprint = [staged("a"), staged("b", retry=True), linear("c"), staged("d"), staged("e"), staged("f")]
    # of (a, b), (c, d) and (e, f) only (c, d) differ in their graphs: another try is none
    assert _shares(sprint) == {"parallel": (5 / 6, 6), "adaptive": (1 / 3, 3), "multi_step": (5 / 6, 6)}
    evidence = [why for _, why in tables.properties(sprint).values()]
    assert evidence == ["at most 2 calls side by side", "2 different graphs", "up to 3 rounds of calls"]
    rft = [linear("a", 10), linear("b", 20), linear("c", 20), linear("d", 20)]
    assert _shares(rft) == {"parallel": (0, 4), "adaptive": (1 / 2, 2), "multi_step": (1, 4)}
    share = tables.properties(sprint)["parallel"][0]
    assert share.low < 5 / 6 < share.high


def test_a_single_attempt_says_nothing_of_how_attempts_differ() -> None:
    share = tables.properties([staged("a")])["adaptive"][0]
    assert math.isnan(share.low)
    assert share.n == 0


def test_trying_again_is_neither_parallel_nor_a_step() -> None:
    plan = Call("P1", "planner", 1, completion_tokens=20)
    again = Call("P1~2", "planner", 1, waits=(Wait("P1"),), completion_tokens=20)
    one = Call("E1", "executor", 1, 1, (Wait("P1~2", 5),), completion_tokens=30)
    two = Call("E1~2", "executor", 1, 1, (Wait("E1"),), completion_tokens=30)
    attempt = Attempt("a", "sprint", "truncated", False, "", TEXT, (plan, again, one, two))
    assert _shares([attempt]) == {"parallel": (0, 1), "adaptive": (0, 0), "multi_step": (0, 1)}


def test_model_text_brings_no_markup_into_a_notebook() -> None:
    assert "<script>" not in tables.coloured([("<script>", 1, '"><script>')]).data
    assert "<script>" not in tables.side_by_side({"<script>": "<script>"}).data


# --- timelines and packing --------------------------------------------------------------


def test_token_clock_starts_executors_at_their_prompts() -> None:
    frame = tables.timeline({"SPRINT": staged()}, "tokens").set_index("call")
    assert frame["start"].to_dict() == {"P1": 0, "P1/1": 5, "P1/2": 12, "P2": 52}
    assert frame["end"].max() == 62
    assert frame["critical"].to_dict() == {"P1": True, "P1/1": False, "P1/2": True, "P2": True}
    assert frame.loc["P2", "name"] == "answer"


def test_a_retry_marks_what_it_replaces() -> None:
    frame = tables.timeline({"SPRINT": staged(retry=True)}, "seconds").set_index("call")
    assert frame.index[frame["discarded"]].tolist() == ["P1/2"]
    assert frame["lane"].to_dict() == {"P1": 0, "P1/1": 1, "P1/2": 2, "P1/2b": 2, "P2": 0}
    assert frame.loc["P1", "first"] == 0.1


def packed() -> Packed:
    """Four steps of three execution lines, packed two to a stage, and the answer that needs the last."""
    trial = "Try {}\nLeft\n no\nNone\n"
    text = "".join(trial.format(k) for k in "abcd") + "Answer d\n"
    steps = [Step(f"try {c}", (4 * k + 1,), f" {c}", tuple(range(4 * k + 2, 4 * k + 5))) for k, c in enumerate("abcd")]
    steps.append(Step("answer", (17,), final=True))
    parents = {1: (), 2: (), 3: (), 4: (), 5: (4,)}
    annotated = Annotated(Trace("t", "Q\n", text), tuple(steps), parents)
    return Packed(annotated, pack("Q\n", annotated.lines, steps, dependency_graph(5, parents), cap=2))


def test_packing_shows_every_step_on_both_sides() -> None:
    frame = tables.packing(packed(), len)
    before, after = (frame[frame["side"] == side] for side in ("before", "after"))
    assert before["end"].max() == len(packed().annotated.trace.text)
    for side in (before, after):
        assert set(side.loc[side["kind"] == "execution", "step"]) == {1, 2, 3, 4}
    assert after.loc[after["kind"] == "execution", "stage"].tolist() == [1, 1, 2, 2]
    assert (after.loc[after["kind"] == "final", "start"] == after["end"].iloc[:-1].max()).all()


def test_a_step_with_lines_apart_is_drawn_where_they_stand() -> None:
    item = packed()
    steps = (Step("one", plan=(1, 4), prompt="", execution=()), Step("two", plan=(2, 3)), Step("end", (5,), final=True))
    lines = "".join(f"{k}\n" for k in range(1, 6))
    annotated = Annotated(Trace("t", "q", lines), steps, {1: [], 2: [], 3: [1]})
    before = tables.packing(replace(item, annotated=annotated), len).query("side == 'before'")
    assert list(before["step"]) == [1, 2, 1, 3]
    assert list(before["end"]) == [2, 6, 8, 10]


def test_steps_as_an_annotator_returns_them() -> None:
    found = (Step("a" * 200, plan=(1, 2, 4), prompt="do", execution=(5,)), Step("end", (6,), final=True))
    frame = tables.steps(found)
    assert list(frame["plan"]) == ["1-2, 4", "6"]
    assert "comment" not in frame
    assert frame["description"].str.len().max() == 100
    assert list(tables.steps((replace(found[0], comment=(7,)),))["comment"]) == ["7"]


def test_kinds_of_what_was_changed() -> None:
    said = [
        "step 4: folded, 2 lines",
        "step 12: folded, 1 line",
        "stage 3: merged into the final answer, it had no prompt",
    ]
    frame = tables.kinds(said, "change")
    assert frame.to_dict("records") == [
        {"change": "folded", "times": 2},
        {"change": "merged into the final answer", "times": 1},
    ]
    assert list(tables.kinds([], "change")) == ["change", "times"]


def test_the_corpus_of_what_was_packed_and_of_what_was_kept() -> None:
    other = replace(packed(), annotated=replace(packed().annotated, trace=Trace("other", "q", "x" * 100)))
    frame = tables.corpus([packed(), other], [other], len).set_index("quantity")
    assert frame.loc["share kept", "value"] == 50
    assert frame.loc["kept: tokens before", "value"] == 100
    assert frame.loc["packed: tokens before", "n"] == 2
    after = frame.loc["kept: critical path after", "value"]
    assert frame.loc["kept: critical path saved in principle", "value"] == pytest.approx(100 - after)


class Asked:
    """An annotator with a ledger: what was asked, and what replies from the cache had taken."""

    def __init__(self, asked: dict[str, Any], cached: dict[str, Any], failures: dict[str, int] | None = None) -> None:
        said = {"asked": asked, "cached": cached, "retries": 1, "failures": failures or {}, "prices": None}
        self.ledger = SimpleNamespace(to_json=lambda: said)


def test_a_ledger_goes_on_over_runs(tmp_path: Path) -> None:
    workspace = SimpleNamespace(tables=tmp_path)

    def write(annotator: Any) -> pd.DataFrame:
        tables.write(tables.ledger(annotator, tmp_path / "ledger.csv"), "ledger", workspace)  # type: ignore[arg-type]
        return pd.read_csv(tmp_path / "ledger.csv").set_index("quantity")

    none = {"calls": 0, "money": 0}
    assert write(CountdownAnnotator())["in_all"].to_dict() == {"calls": 0}
    first = write(Asked({"calls": 3, "money": 0.25}, none, {"timeout": 2}))
    assert first["in_all"].to_dict() == {"calls": 3, "money": 0.25, "retries": 1, "failures: timeout": 2}
    again = write(Asked(none, {"calls": 3, "money": 0.25}))
    assert again["this_run"].to_dict() == {"calls": 0, "money": 0, "retries": 1, "failures: timeout": 0}
    assert again["in_all"].to_dict() == {"calls": 3, "money": 0.25, "retries": 2, "failures: timeout": 2}
    more = write(Asked({"calls": 1, "money": "unknown"}, none))
    assert more["in_all"].to_dict() == {"calls": "4", "money": "unknown", "retries": "3", "failures: timeout": "2"}
    assert write(CountdownAnnotator())["in_all"].to_dict() == more["in_all"].to_dict()


def test_what_a_killed_run_had_paid_for_is_in_the_ledger() -> None:
    frame = tables.ledger(Asked({"calls": 2}, {"calls": 5})).set_index("quantity")  # type: ignore[arg-type]
    assert frame.loc["calls"].to_dict() == {"this_run": 2, "earlier_runs": 5, "in_all": 7}


def test_outcomes_count_equal_reasons_together() -> None:
    aside = [Aside(str(k), "steps", f"line {k} is in no step; line 9 is in 2 places") for k in (7, 8)]
    frame = tables.outcomes(3, [Aside("a", "traces", "wrong answer"), *aside])
    assert frame.to_numpy().tolist() == [
        ["kept", "", 3],
        ["set aside: steps", "line … is in no step", 2],
        ["set aside: traces", "wrong answer", 1],
    ]


def test_dag_puts_the_final_step_into_a_band_of_its_own() -> None:
    frame = tables.dag(packed().annotated, packed().packing.stage_of)
    assert frame["band"].tolist() == ["stage 1", "stage 1", "stage 2", "stage 2", "answer"]
    assert frame["parents"].tolist() == ["", "", "", "", "4"]


# --- figures ----------------------------------------------------------------------------


def layered() -> pd.DataFrame:
    """Forty steps in natural language, with formulas, in three stages of which one is wider than the page."""
    label = r"Let me check whether $\frac{a}{b holds for all the values that were found so far"
    rows = [
        {"step": k, "label": label, "band": f"stage {1 + k // 12}", "executes": k % 3 > 0}
        | {"parents": " ".join(map(str, sorted({k // 2, k // 5} - {0, k})))}
        for k in range(1, 41)
    ]
    return pd.DataFrame(rows)


def test_steps_with_long_labels_stand_below_what_they_rest_on() -> None:
    figure = plots.dag(layered(), title="a graph")
    figure.canvas.draw()
    heights = {
        int(t.get_text().split()[0]): t.get_position()[1] for t in figure.axes[0].texts if "check" in t.get_text()
    }
    assert len(heights) == 40
    for row in layered().itertuples():
        assert all(heights[int(parent)] < heights[row.step] for parent in row.parents.split())
    plots.plt.close(figure)


def _numbers(columns: str, rows: int = 4, **fixed: Any) -> pd.DataFrame:
    values = {}
    for column in columns.split():
        values[column] = [float(k + 1) for k in range(rows)]
        values |= {f"{column}_low": [k + 0.5 for k in range(rows)], f"{column}_high": [k + 1.5 for k in range(rows)]}
    return pd.DataFrame({**values, **fixed})


METHODS = ["base", "rft", "rft-control", "sprint"]
CLAIMS = {"unit": ["%", "%", "ratio"], "paper": [1.0, math.nan, 2.0], "value": [1.0, 2.0, 3.0]}
FIGURES: dict[str, tuple[Any, pd.DataFrame, dict[str, Any]]] = {
    "timeline": (
        plots.timeline,
        tables.timeline({"RFT": linear(), "SPRINT": staged(retry=True)}, "seconds"),
        {"clock": "seconds"},
    ),
    "dag": (plots.dag, tables.dag(packed().annotated, packed().packing.stage_of), {}),
    "dag of language": (plots.dag, layered(), {}),
    "packing": (plots.packing, tables.packing(packed(), len), {}),
    "histogram": (
        plots.histogram,
        pd.DataFrame({"x": [1.0, 2.5, 4.0]}),
        {"column": "x", "label": "x", "threshold": 1.5},
    ),
    "loss": (plots.loss_curves, _numbers("tokens loss", model="rft"), {}),
    "accuracy": (plots.accuracy_tokens, _numbers("accuracy sequential", method=METHODS, panel="p"), {"caption": "c"}),
    "stages": (
        plots.stage_reach,
        tables.stage_reach([staged("a")], {"a": "easy"}),
        {"caption": "c"},
    ),
    "one scale": (
        plots.accuracy_tokens,
        _numbers("accuracy sequential", method=METHODS, panel=["p", "p", "q", "q"]),
        {"caption": "c", "one_scale": True},
    ),
    "forest": (
        plots.forest,
        _numbers("value", panel=["p", "p", "q", "q"], row="a way of counting " * 5, series=["rft", "x"] * 2, paper=3.0),
        {"label": "tokens", "caption": "c"},
    ),
    "contrasts": (
        plots.contrasts,
        _numbers("value", quantity=["saved (%)", "ratio"] * 2, row="a way of counting " * 5, paper=3.0, none=0.0),
        {"caption": "c"},
    ),
    "reduction": (plots.reduction, _numbers("reduction length", series="s", style="main"), {"caption": "c"}),
    "distributions": (plots.distributions, _numbers("value", method=METHODS), {"label": "tokens"}),
    "wall clock": (plots.wall_clock, _numbers("value", method=METHODS, panel="seconds"), {"caption": "c"}),
    "response": (
        plots.response,
        _numbers("value x", panel=["p", "p", "q", "q"], run=["all", "1"] * 2),
        {"label": "rate (%)", "caption": "c"},
    ),
    "latency": (plots.predicted_measured, _numbers("predicted measured", method=METHODS), {"caption": "c"}),
    "claims": (
        plots.claims,
        pd.DataFrame({**CLAIMS, "low": 0.5, "high": 3.5, "quantity": "q", "verdict": "reproduced"}),
        {"caption": "c"},
    ),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_every_figure_has_units_on_its_axes_and_fits_its_page(kind: str) -> None:
    draw, frame, options = FIGURES[kind]
    figure = draw(frame, title="A title", **options)
    figure.canvas.draw()
    page = figure.bbox
    for axis in figure.axes:
        assert (
            kind.startswith("dag")
            or axis.get_xlabel()
            or axis.get_shared_x_axes().get_siblings(axis)
            or kind == "wall clock"
        )
        box = axis.get_tightbbox()
        assert page.x0 - 2 <= box.x0 < box.x1 <= page.x1 + 2, "something sticks out of the figure"
    assert figure.get_label(), "a figure without a caption"
    plots.plt.close(figure)


def test_a_forest_has_a_line_a_row_and_marks_what_the_paper_says() -> None:
    rows = {"panel": "p", "row": ["a", "a", "b"], "series": ["rft", "x", "rft"], "paper": [3.0, math.nan, 3.0]}
    frame = _numbers("value", 3, **rows)
    figure = plots.forest(frame, label="tokens", title="t")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    drawn = [(line.get_xdata().tolist(), line.get_color()) for line in axis.lines if line.get_marker() in "os"]  # type: ignore[union-attr]
    assert [x for x, _ in drawn] == [[1.0, 3.0], [2.0]]
    marks = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [(line.get_xdata()[0], line.get_color()) for line in marks] == [(3.0, plots.colour("rft"))]  # type: ignore[index]
    assert "RFT" in [text.get_text() for text in figure.legends[0].get_texts()]
    plots.plt.close(figure)


def test_panels_share_their_axes_where_asked_to() -> None:
    frame = FIGURES["one scale"][1]
    for one_scale in (False, True):
        figure = plots.accuracy_tokens(frame, title="t", one_scale=one_scale)
        first, second = (axis.get_xlim() + axis.get_ylim() for axis in figure.axes)
        assert (first == second) is one_scale
        plots.plt.close(figure)


def test_saving_twice_gives_the_same_svg_and_csv(workspace: Workspace) -> None:
    draw, frame, options = FIGURES["accuracy"]
    written = []
    for _ in range(2):
        picture = plots.save(draw(frame, title="t", **options), "figure", frame, workspace)
        written.append([(workspace.figures / f"figure.{kind}").read_bytes() for kind in ("svg", "csv", "png")])
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0][0]
    data, metadata = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == "c"


def test_what_is_saved_is_what_is_drawn(workspace: Workspace) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.5]})
    figure = plots.histogram(frame, "x", label="x", title="t")
    plots.save(figure, "h", frame, workspace)
    pd.testing.assert_frame_equal(pd.read_csv(workspace.figures / "h.csv"), frame)


def test_show_puts_bounds_beside_their_value() -> None:
    frame = pd.DataFrame({"method": ["sprint"], "accuracy": [91.23], "accuracy_low": [89.0], "accuracy_high": [93.0]})
    shown = cast(SimpleNamespace, tables.show(frame)).data
    assert shown.to_dict("records") == [{"method": "SPRINT", "accuracy (%)": "91.2 [89.0, 93.0]"}]


def test_a_table_brings_no_markup_into_a_notebook() -> None:
    page = tables.show(pd.DataFrame({"convention": ["the text after <think>"]}), caption="a < b").to_html()
    assert "after &lt;think&gt;" in page
    assert "a &lt; b" in page


# --- the clock --------------------------------------------------------------------------


def test_a_cancelled_call_is_told_apart_from_one_that_was_tried_again() -> None:
    attempt = staged()
    calls = tuple(replace(c, finish="cancelled") if c.role == "executor" else c for c in attempt.calls)
    frame = tables.timeline({"SPRINT": replace(attempt, calls=calls)}, "seconds")
    assert frame.loc[frame["role"] == "executor", "cancelled"].all()
    assert not frame.loc[frame["role"] == "planner", "cancelled"].any()
    said = [text.get_text() for text in plots.timeline(frame, clock="seconds", title="t").legends[0].get_texts()]
    assert "cancelled" in said
    assert "thrown away, tried again" not in said


def test_bars_of_seconds_end_at_their_sum() -> None:
    parts = ("decoding", "first_tokens", "between")
    rows = [
        {"method": m, "part": part, "seconds": s}
        for m in ("rft", "sprint")
        for part, s in zip(parts, (1, 2, 3), strict=True)
    ]
    axis = plots.seconds_by_part(pd.DataFrame(rows), title="t").axes[0]
    assert [bar.get_x() + bar.get_width() for bar in axis.patches] == [1, 3, 6, 1, 3, 6]
    assert [text.get_text() for text in axis.texts] == ["6 s", "6 s"]


def test_panels_by_load_begin_at_nothing() -> None:
    frame = pd.DataFrame({"panel": "p", "method": "rft", "at_once": [1, 2, 4], "value": [5.0, 6.0, 7.0]})
    axis = plots.by_load(frame, title="t").axes[0]
    assert axis.get_ylim() == (0, pytest.approx(7.7))
    assert list(axis.lines[0].get_xdata()) == [1, 2, 4]
