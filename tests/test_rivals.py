"""Rivals: entries become runs, samples are drawn once, and tables and fronts say what hand-made attempts contain."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from completions_server import completions

from sprint_lib import models, plots, tables
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation import campaign, claims, rivals, standings
from sprint_lib.evaluation.campaign import CampaignError
from sprint_lib.evaluation.rivals import Field, Row
from sprint_lib.evaluation.runs import RunError, RunSpec, run
from sprint_lib.methods import METHODS
from sprint_lib.store import Workspace

ROOT = Path(__file__).parents[1]
HERE = {"dtype": "float64", "max_batch": 8}
SIZES = {"task": "countdown", "problems": 3, "seed": 2, "concurrency": 4}
DRAWS = '''
"""Draws so many samples and answers with the first."""

import asyncio
from dataclasses import dataclass

from sprint_lib.calls import Call
from sprint_lib.engines import Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import MethodSettings, attempt_seed, conclude


@dataclass(frozen=True)
class DrawsSettings(MethodSettings):
    samples: int = 1
    temperature: float = 0.6
    max_tokens: int = 10


class Draws:
    name = "draws"
    settings = DrawsSettings

    async def solve(self, problem, task, engine, settings):
        recorder, seed = Recorder(engine), attempt_seed(settings, problem)
        calls = await asyncio.gather(*(
            recorder.ask(
                Request(problem.question, settings.max_tokens, settings.temperature, seed=stable_seed(seed, f"S{k}")),
                Call(id=f"S{k}", role="sample", index=k),
            )
            for k in range(1, settings.samples + 1)
        ))
        failed = any(call.finish == "error" for call in calls)
        return conclude(
            problem, task, method=self.name, sample=settings.sample, status="engine_error" if failed else "ok",
            final=calls[0].completion, text=calls[0].completion, calls=tuple(calls), wall_seconds=recorder.seconds(),
            note="; ".join(recorder.errors),
        )
'''


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace("x", tmp_path)


@pytest.fixture
def draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of its own: one file, one line in the registry. Runs stay in this process, which alone knows it."""
    (tmp_path / "draws_method.py").write_text(textwrap.dedent(DRAWS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, "draws", "draws_method:Draws")

    def here(specs: Any, workspace: Workspace, **_: Any) -> dict[str, list[Attempt]]:
        return {spec.name: run(spec, workspace) for spec in specs}

    monkeypatch.setattr(campaign, "run_many", here)


def plan(given: dict[str, Any], workspace: Workspace, **sizes: Any) -> Field:
    common = {"temperature": 0.6, "max_tokens": 12}
    return rivals.plan(given, workspace, common=common, engine=HERE, **(SIZES | sizes))


# --- what is to run ---------------------------------------------------------------------


def test_entries_become_runs(workspace: Workspace) -> None:
    given = {
        "base": {"method": "sequential", "model": "countdown-base", "settings": {"max_tokens": 7}, "problems": 2},
        "sprint": {"method": "sprint", "model": "countdown-sprint", "budgets": {"max_stages": [1, 3]}, "trained": True},
        "other": {"why_not": "this model cannot"},
    }
    found = plan(given, workspace)
    assert [(row.name, row.label, row.spec.name, row.spec.n) for row in found.rows] == [
        ("base", "", "rival-base", 2),
        ("sprint-max_stages-1", "max_stages 1", "rival-sprint-max_stages-1", 3),
        ("sprint-max_stages-3", "max_stages 3", "rival-sprint-max_stages-3", 3),
    ]
    assert [row.spec.settings for row in found.rows] == [
        {"temperature": 0.6, "max_tokens": 7},
        {"temperature": 0.6, "max_stages": 1},  # it has no max_tokens
        {"temperature": 0.6, "max_stages": 3},
    ]
    assert found.absent == {"other": "this model cannot"}
    assert found.entries() == ["base", "sprint"]
    said = standings.described(found, given)
    assert said["attempts"].tolist() == [2, 6, 0]
    assert said["runs_at"].tolist() == ["", "max_stages 1, 3", ""]
    assert said["note"].tolist() == ["", "", "this model cannot"]


def test_a_model_of_this_run_comes_first(tiny_model: Path, workspace: Workspace) -> None:
    own = workspace.models / "countdown-base"
    own.parent.mkdir(parents=True)
    own.symlink_to(tiny_model)
    assert rivals.find_model("countdown-base", workspace, HERE) == str(own)
    assert rivals.find_model("countdown-sprint", workspace, HERE).endswith("models/countdown-sprint")
    assert rivals.find_model("qwen", workspace, {"kind": "server"}) == "qwen"  # the name that a server knows


BASE = {"method": "sequential", "model": "countdown-base"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": {**BASE, "modle": "x"}}, "rivals, a: unknown key 'modle' .did you mean 'model'"),
        ({"a": {"method": "sequental", "model": "countdown-base"}}, "rivals, a: no method 'sequental'"),
        ({"a": {"method": "sequential"}}, "rivals, a: it needs a model"),
        ({"a": {**BASE, "model": "nowhere"}}, "rivals, a: nowhere: no model here"),
        ({"a": {**BASE, "settings": {"heat": 1}}}, "rivals, a: SequentialSettings: unknown setting 'heat'"),
        ({"a": {**BASE, "budgets": {"max_tokens": ["x"]}}}, "max_tokens is 'x', it must be of type int"),
        ({"a": {**BASE, "budgets": {"max_tokens": [1], "sample": [1]}}}, "it is one dial with its values"),
        ({"a": {**BASE, "budgets": {"max_tokens": []}}}, "it is one dial with its values"),
        ({"a": {**BASE, "engine": {"kind": "hub"}}}, "rivals, a: engine: unknown kind 'hub'"),
        ({"a": {**BASE, "replay": "b"}}, "rivals, a: replay: no entry 'b' that runs"),
        ({"a": BASE, "b": {**BASE, "settings": {"max_tokens": 5}, "replay": "a"}}, "another model, temperature"),
        ({"a": {**BASE, "problems": 1}, "b": {**BASE, "replay": "a"}}, "or more problems"),
        ({"a": BASE, "b": {**BASE, "replay": "a"}, "c": {**BASE, "replay": "b"}}, "'b' has no samples of its own"),
    ],
)
def test_entries_refused_before_anything_runs(given: dict[str, Any], said: str, workspace: Workspace) -> None:
    with pytest.raises(CampaignError, match=said):
        plan(given, workspace)


def test_trained_needs_the_record_of_a_training(tiny_model: Path, workspace: Workspace) -> None:
    with pytest.raises(CampaignError, match=r"rivals, a: trained, but .* has no training.json"):
        plan({"a": {**BASE, "model": str(tiny_model), "trained": True}}, workspace)
    assert rivals.trained_tokens(str(models.path("countdown-sprint"))) > 700_000


# --- running, with a method of one's own --------------------------------------------------


def test_a_method_of_ones_own_takes_a_file_a_line_and_an_entry(
    draws: None, tiny_model: Path, workspace: Workspace
) -> None:
    field = plan({"base": BASE, "mine": {"method": "draws", "model": str(tiny_model)}}, workspace)
    runs = rivals.run(field, workspace)
    table = standings.table2(field, runs).set_index("method")
    assert table.loc["mine", ["n", "calls", "total"]].tolist() == [3, 1, table.loc["mine", "sequential"]]
    front = standings.points(field, table.reset_index(), "total")
    assert front.set_index("method").loc["mine", "family"] == "other"
    assert "mine" in plots.pareto(front, label="x", title="t").axes[0].texts[1].get_text()
    properties = standings.properties(field, runs)
    assert set(properties[properties["method"] == "mine"]["property"]) == {
        *("parallel", "adaptive", "multi_step", "optimised")
    }
    rivals.write_index(field, workspace)
    again, same = rivals.read(workspace)
    assert same == runs
    assert [(row.name, row.spec) for row in again.rows] == [(row.name, row.spec) for row in field.rows]


def test_samples_are_drawn_once(draws: None, tiny_model: Path, workspace: Workspace) -> None:
    mine = {"method": "draws", "model": str(tiny_model)}
    given = {
        "line": {**BASE, "model": str(tiny_model), "replay": "mine"},
        "mine": {**mine, "budgets": {"samples": [1, 2, 4]}, "replay": "mine"},
    }
    field = plan(given, workspace)
    assert [(row.name, row.replay) for row in field.rows] == [
        ("line", "mine-samples-4"),
        ("mine-samples-1", "mine-samples-4"),
        ("mine-samples-2", "mine-samples-4"),
        ("mine-samples-4", ""),
    ]
    runs = rivals.run(field, workspace)
    drawn = plan({"two": {**mine, "budgets": {"samples": [2]}}}, workspace)  # the same, decoded
    for replayed, decoded in zip(runs["mine-samples-2"], rivals.run(drawn, workspace)["two-samples-2"], strict=True):
        assert [c.completion for c in replayed.calls] == [c.completion for c in decoded.calls]
        assert (replayed.text, replayed.answer, replayed.status) == (decoded.text, decoded.answer, decoded.status)
        assert [c.completion_tokens for c in replayed.calls] == [c.completion_tokens for c in decoded.calls]
    for one, four in zip(runs["line"], runs["mine-samples-4"], strict=True):
        assert [c.completion for c in one.calls] == [four.calls[0].completion]
    first = workspace.attempts("rival-mine-samples-2").read_bytes()
    assert rivals.run(field, workspace) == runs
    assert workspace.attempts("rival-mine-samples-2").read_bytes() == first  # kept, not made again


def test_a_replay_that_is_asked_for_more_than_was_recorded(draws: None, tiny_model: Path, workspace: Workspace) -> None:
    mine = {"method": "draws", "model": str(tiny_model)}
    given = {
        "mine": {**mine, "budgets": {"samples": [1]}},
        "more": {**mine, "settings": {"samples": 2}, "replay": "mine"},
    }
    with pytest.raises(RunError, match=r"3 attempts could not take samples of 'mine-samples-1': .*asks for more"):
        rivals.run(plan(given, workspace), workspace)


def test_the_clock_goes_round(draws: None, tiny_model: Path, workspace: Workspace) -> None:
    mine = {"method": "draws", "model": str(tiny_model)}
    field = plan({"one": mine, "two": {**mine, "settings": {"samples": 2}, "problems": 2}}, workspace)
    runs, alone = rivals.run(field, workspace), rivals.clocked(field, 3, workspace)
    assert {name: len(attempts) for name, attempts in alone.items()} == {"one": 2, "two": 2}
    assert workspace.attempts("rival-clock-one").exists()
    table = standings.clock_table(field, runs, alone, "one")
    assert table["n_alone"].tolist() == [2, 2]
    assert table["n"].tolist() == [3, 2]
    assert table.loc[0, "times"] == 1.0
    assert (table["milliseconds"] > 0).all()
    assert alone == rivals.clocked(field, 3, workspace)


def test_an_entry_may_have_an_engine_of_its_own(tiny_model: Path, workspace: Workspace) -> None:
    with completions("Answer 1 + 2") as there:
        served = {"kind": "server", "urls": [there.url]}
        given = {"here": {**BASE, "model": str(tiny_model)}, "there": {**BASE, "model": "chat", "engine": served}}
        field = plan(given, workspace, problems=2)
        runs, alone = rivals.run(field, workspace), rivals.clocked(field, 1, workspace)
        assert {body["model"] for body in there.bodies} == {"chat"}
        assert [a.text for a in runs["there"]] == ["Answer 1 + 2"] * 2
        assert [len(alone[name]) for name in ("here", "there")] == [1, 1]
        assert "Answer 1 + 2" not in {a.text for a in runs["here"]}


# --- what comes of it ---------------------------------------------------------------------


def samples(problem: str, tokens: list[int], correct: bool, seconds: float = 1.0) -> Attempt:
    calls = [Call(f"S{k}", "sample", index=k, prompt_tokens=8, completion_tokens=t) for k, t in enumerate(tokens, 1)]
    return Attempt(problem, "m", "ok", correct, "1", "Answer 1\n", tuple(calls), wall_seconds=seconds)


def branched(problem: str, correct: bool) -> Attempt:
    """A parent of 20 tokens spawns children of 30 and 50 at 10 and 20; it goes on with 15 after both."""
    parent = Call("P1", "parent", 1, prompt_tokens=10, completion_tokens=20, ended=1.0)
    one = Call("C1", "child", 1, 1, (Wait("P1", 10),), "", 12, 0, 30, 0.5, 0.6, 2.0)
    two = Call("C2", "child", 1, 2, (Wait("P1"),), "", 12, 0, 50, 1.0, 1.1, 3.0)
    last = Call("P2", "parent", 2, waits=(Wait("P1"), Wait("C1"), Wait("C2")), prompt_tokens=25, completion_tokens=15,
                started=3.0, ended=4.0)  # fmt: skip
    return Attempt(problem, "m", "ok", correct, "1", "a\nb\n", (parent, one, two, last), wall_seconds=0.5)


def hand_made() -> tuple[Field, dict[str, list[Attempt]]]:
    def row(name: str, entry: str, method: str, value: Any = "") -> Row:
        spec = RunSpec(f"rival-{name}", method, n=4)
        return Row(name, entry, "samples" if value else "", value, spec, "folder", entry == "apr")

    rows = (
        row("rft", "rft", "sequential"),
        row("votes-1", "votes", "self_consistency", 1),
        row("votes-2", "votes", "self_consistency", 2),
        row("apr", "apr", "apr"),
    )
    runs = {
        "rft": [samples(p, [100], p != "d") for p in "abcd"],
        "votes-1": [samples(p, [100], p != "d") for p in "abcd"],
        "votes-2": [samples(p, [100, 140], True, 2.0) for p in "abcd"],
        "apr": [branched(p, p in "ab") for p in "abcd"],
    }
    return Field(rows, {"tree": "cannot"}), runs


def test_table_2() -> None:
    field, runs = hand_made()
    table = standings.table2(field, runs)
    assert table["method"].tolist() == ["rft", "votes", "votes", "apr", "tree"]
    assert table["budget"].tolist() == ["", "samples 1", "samples 2", "", ""]
    assert table["accuracy"].tolist()[:4] == [75.0, 75.0, 100.0, 50.0]
    assert table["sequential"].tolist()[:4] == [100, 100, 140, 85]  # 20 of the parent, 50 of the slower child, 15
    assert table["serial"].tolist()[:4] == [100, 100, 140, 85]
    assert table["total"].tolist()[:4] == [100, 100, 240, 115]
    assert table["calls"].tolist()[:4] == [1, 1, 2, 4]
    assert table["mean_sample"].tolist()[:3] == [100, 100, 120]  # half of the total; the wait is for 140
    assert math.isnan(table["mean_sample"][3])
    assert (table["n"][4], table["note"][4]) == (0, "cannot")
    assert table.loc[3, ["accuracy_low", "accuracy_high"]].tolist() == pytest.approx([15.0, 85.0], abs=0.1)
    tables.show(table)


def test_pairs_and_clock() -> None:
    field, runs = hand_made()
    pairs = standings.against(field, runs, "rft").set_index("budget")
    assert pairs.loc["samples 2", ["points", "saved", "more", "n"]].tolist() == pytest.approx([25, -40, 2.4, 4])
    assert pairs.loc["samples 1", "points"] == 0
    assert pairs.loc["", "saved"] == pytest.approx(15)
    clock = standings.clock_table(field, runs, runs, "rft").set_index("budget")
    assert clock.loc["samples 2", ["milliseconds", "times", "prefill"]].tolist() == [2000, 0.5, 16]


def test_a_duel() -> None:
    field, runs = hand_made()
    found = standings.duel(field.of("rft"), field.of("apr"), runs, standings.DUEL)
    rows = found.set_index("quantity")
    assert list(rows.index) == ["accuracy", *standings.DUEL]
    assert set(rows["comparison"]) == {"APR against RFT"}
    assert rows["first"].tolist() == [75, 100, 100, 100, 108, 108]
    # The longest thread is a child's; the parent's 35 tokens, and its largest context is its last call's.
    assert rows["second"].tolist() == [50, 85, 50, 115, 40, 62]
    assert rows["difference"].tolist() == pytest.approx([-25, -15, -50, 15, 40 / 1.08 - 100, 62 / 1.08 - 100])
    assert set(rows["n"]) == {4}
    assert standings.duel_lines(found)[0] == (
        "- APR against RFT, accuracy: 50.0 and 75.0, difference **-25.0** "
        f"[{rows['difference_low'].iloc[0]:.1f}, {rows['difference_high'].iloc[0]:.1f}] points, n = 4"
    )
    assert len(standings.duel([], field.of("apr"), runs, standings.DUEL)) == 0


def test_front() -> None:
    assert standings.front([1, 2, 3, 4, 5], [10, 30, 20, 30, 40]) == [True, True, False, False, True]
    assert standings.front([1, 1], [10, 10]) == [True, True]
    assert standings.front([1, 1, 2], [10, 12, 12]) == [False, True, False]
    assert standings.front([math.nan, 1], [99, 1]) == [False, True]
    assert standings.front([], []) == []


def test_points_of_a_front() -> None:
    field, runs = hand_made()
    table = standings.table2(field, runs)
    found = standings.points(field, table, "sequential")
    assert found["x"].tolist() == [100, 100, 140, 85]
    assert found["y"].tolist() == [75, 75, 100, 50]
    assert found["front"].tolist() == [True, True, True, True]
    assert found["label"].tolist() == ["", "1", "2", ""]
    assert found["family"].tolist() == ["one line", "many samples", "many samples", "trained to branch"]
    clock = standings.clock_table(field, runs, runs, "rft")
    timed = standings.points(field, table, "milliseconds", clock)
    assert timed["x"].tolist() == [1000, 1000, 2000, 500]


def test_within_a_window_a_call_that_needs_more_is_wrong() -> None:
    _, runs = hand_made()
    assert [standings.accuracy_within(runs["apr"], w).value for w in (61, 62)] == [0.0, 50.0]
    assert standings.accuracy_within(runs["votes-2"], 147).value == 0.0
    assert standings.accuracy_within(runs["votes-2"], 148).value == 100.0


def test_apr_figures_hold_this_run_and_the_paper() -> None:
    field, runs = hand_made()
    a, b, c = standings.apr_figures(field, runs, runs, [62, 200])
    here = a[a["panel"] == "this run"]
    assert list(zip(here["series"], here["x"], here["accuracy"], strict=True)) == [
        *(("rft", 100.0, 75.0), ("votes", 100.0, 75.0), ("votes", 240.0, 100.0), ("apr", 115.0, 50.0))
    ]
    paper = a[a["panel"] != "this run"]
    assert {("apr", 10964, 75.5), ("apr", 20000, 80.1), ("sos_plus_best", 24000, 68.4)} <= set(
        zip(paper["series"], paper["x"], paper["accuracy"], strict=True)
    )
    assert paper["accuracy_low"].isna().all()
    assert b[b["panel"] == "this run"].groupby("series", sort=False).size().to_dict() == {
        "rft": 2,
        "apr": 2,
    }  # samples that would have fitted are another run's
    assert c["panel"].nunique() == 4
    assert (
        c[c["panel"].str.startswith("the APR paper") & (c["series"] == "apr") & (c["x"] == 8)]["accuracy"].item()
        == 80.1
    )
    for frame in (a, b, c):
        assert len([axis for axis in plots.curves(frame, title="t").axes if axis.get_visible()]) in (2, 3, 4)


def test_dials_are_turned_from_the_first_value_to_the_last() -> None:
    """Votes of one sample against votes of two: 75 % and 100 %, 100 and 240 tokens in all."""
    found = standings.dials(*hand_made()).set_index("quantity")
    assert set(found["method"]) == {"votes"}
    assert found.loc["accuracy", ["first", "second", "difference"]].tolist() == [75, 100, 25]
    assert found.loc["total", ["first", "second", "difference"]].tolist() == pytest.approx([100, 240, 140])


def test_which_paradigm_when() -> None:
    field, runs = hand_made()
    costs = standings.mean_costs(field, runs, runs)
    assert costs["total tokens"] == {"rft": 100, "votes-1": 100, "votes-2": 240, "apr": 115}
    found = standings.advice(field, runs, costs, "rft")
    rows = found[found["axis"] == "sequential tokens"].set_index("share")
    assert rows["method"].tolist() == ["", "", "rft", "votes"]
    assert rows.loc[1.0, "limit"] == 100
    assert rows.loc[4.0, "budget"] == "samples 2"
    assert "RFT" in rows.loc[4.0, "level"]  # four problems tell little
    said = standings.paragraph(found, "RFT")
    assert "Of RFT's sequential tokens, right most often: for a quarter (25.0) there is no run" in said
    assert "for four times (400.0) **votes samples 2**, 100.0 %" in said


def test_properties_are_read_off_the_calls() -> None:
    field, runs = hand_made()
    found = standings.properties(field, runs).set_index(["method", "property"])
    assert found.loc["votes", "here"].to_dict() == {
        "parallel": True, "adaptive": "undecided", "multi_step": False, "optimised": False,
    }  # fmt: skip
    # 4 of 4 is more than half, 0 of 4 less (Wilson: 51 % at least, 49 % at most), 0 of 2 pairs does not tell
    assert found.loc[("votes", "parallel"), "paper"] is True
    assert found.loc[("apr", "optimised"), "here"]
    assert found.loc[("apr", "parallel"), "share"] == 1.0
    assert found.loc[("apr", "parallel"), "paper"] is None  # APR is not in SPRINT's table
    assert found.loc[("apr", "multi_step"), "here"]


def test_workers_that_look_on_stand_side_by_side() -> None:
    """Two workers, two steps each; the second begins when the first has written 6 tokens."""
    calls = (
        Call("W1.1", "worker", 1, 1, completion_tokens=20),
        Call("W2.1", "worker", 1, 2, (Wait("W1.1", 6),), completion_tokens=20),
        Call("W1.2", "worker", 2, 1, (Wait("W1.1"), Wait("W2.1", 14)), completion_tokens=20),
        Call("W2.2", "worker", 2, 2, (Wait("W2.1"), Wait("W1.1"), Wait("W1.2", 6)), completion_tokens=20),
    )
    found = tables.properties([Attempt("a", "hogwild", "ok", True, "1", "", calls)])
    assert found["parallel"][0].value == 1.0
    said = [found[key][1] for key in ("parallel", "multi_step")]
    assert said == ["at most 2 calls side by side", "up to 2 rounds of calls"]


def test_claims_about_rivals_get_verdicts() -> None:
    field, runs = hand_made()
    found = standings.table1_estimates(field, runs)
    assert set(found) == {
        f"table1.repeated_sampling.{key}" for key in ("parallel", "adaptive", "multi_step", "optimised")
    }
    rows = {row["id"]: row for row in claims.claims_table(found, [claims.COUNTDOWN, "rivals"])}
    assert rows["table1.repeated_sampling.parallel"]["verdict"] == "reproduced"
    assert rows["table1.repeated_sampling.parallel"]["basis"] == claims.BUILT
    assert rows["table1.tree_of_thoughts.parallel"]["verdict"] == "not run"


def test_labels_lie_in_the_picture_and_not_on_each_other() -> None:
    rows = [
        {
            "method": f"method {k}",
            "family": "other",
            "label": "",
            "x": 100 + 3 * k,
            "y": 80 + k % 2,
            "n": 9,
            "front": k == 0,
        }
        for k in range(8)
    ]
    frame = pd.DataFrame(rows)
    for end in ("_low", "_high"):
        frame = frame.assign(**{f"x{end}": frame["x"], f"y{end}": frame["y"]})
    figure = plots.pareto(frame, label="x", title="t")
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == 8
    inside = axis.get_window_extent().padded(4)
    assert all(inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) for box in boxes)
    crossing = [(a, b) for k, a in enumerate(boxes) for b in boxes[k + 1 :] if a.padded(-2).overlaps(b.padded(-2))]
    assert crossing == []


# --- the profiles -------------------------------------------------------------------------

PROFILES = {
    p: yaml.safe_load((ROOT / f"params/{p}.yaml").read_text())["notebooks"]["07_rivals"] for p in ("smoke", "laptop")
}


def link_models(workspace: Workspace) -> None:
    """Shipped models in the place of those that notebook 05 makes."""
    workspace.models.mkdir(parents=True, exist_ok=True)
    for made, shipped in (("rft", "countdown-base"), ("sprint", "countdown-sprint")):
        (workspace.models / made).symlink_to(models.path(shipped))


@pytest.mark.parametrize(("profile", "entry"), [(p, e) for p, said in PROFILES.items() for e in said["rivals"]])
def test_every_entry_of_a_profile_can_run(profile: str, entry: str, workspace: Workspace) -> None:
    link_models(workspace)
    said = PROFILES[profile]["rivals"]
    wanted = {name: said[name] for name in (said[entry].get("replay") or entry, entry)}
    assert rivals.plan(
        wanted, workspace, task="countdown", problems=2, seed=2, concurrency=1, engine=HERE,
        common={"temperature": 0.6, "max_tokens": 100},
    ).of(entry)  # fmt: skip


def test_smoke_runs_the_same_paradigms_as_the_laptop() -> None:
    assert list(PROFILES["smoke"]["rivals"]) == list(PROFILES["laptop"]["rivals"])
    assert {one["method"] for one in PROFILES["laptop"]["rivals"].values() if "method" in one} == set(METHODS)
    assert PROFILES["laptop"]["problems"] >= 300


# Parallel, adaptive, multi-step: what calls show on at least one problem (or pair of problems), or never.
SHAPES = {
    "sequential": (False, True, True),
    "sos": (False, True, True),
    "self_consistency": (True, False, False),
    "best_of_n": (True, False, False),
    "skeleton_of_thought": (True, True, False),
    "tree_of_thoughts": (True, True, True),
    "graph_of_thoughts": (True, True, True),
    "sprint": (True, True, True),
    "apr": (True, True, True),
    "pasta": (True, True, True),
    "hogwild": (True, True, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_properties_of_every_method_on_recorded_calls(method: str, workspace: Workspace) -> None:
    """Table 1: each registered method, as the laptop profile has it, on a few problems by its own model."""
    assert method in SHAPES, "say which properties the new method's calls show"
    link_models(workspace)
    given = next(e for e in PROFILES["laptop"]["rivals"].values() if e.get("method") == method)
    given = {key: value for key, value in given.items() if key != "replay"}
    row = plan({method: given}, workspace, problems=10).rows[-1]
    engine = EngineSpec(model=row.folder, dtype="float64", max_batch=64)  # where rounding tips no choice
    settings = row.spec.settings | ({"max_tokens": 800} if "max_tokens" in row.spec.settings else {})
    attempts = run(replace(row.spec, engine=engine, settings=settings, concurrency=10), workspace)
    found = tables.properties(attempts)
    assert tuple(found[key][0].value > 0 for key in ("parallel", "adaptive", "multi_step")) == SHAPES[method]


def test_a_name_with_a_comma_in_it_is_one_of_those_not_to_be_told_apart() -> None:
    row = {"axis": "total tokens", "share": 1.0, "limit": 100.0, "method": "rft", "budget": "", "others": 5}
    row |= {"accuracy": 90.0, "accuracy_low": 80.0, "accuracy_high": 95.0, "level": "A, earlier 2; B; C; D, late"}
    assert "4 of the 5 others" in standings.paragraph(pd.DataFrame([row]), "RFT")
