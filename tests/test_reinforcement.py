"""Reinforcement as the suite runs it: what is refused before anything trains, and tables against numbers by hand."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sprint_lib import models, plots, tables
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.evaluation import campaign, reinforcement, statistics
from sprint_lib.evaluation.claims import claims_table
from sprint_lib.evaluation.reinforcement import ReinforcementError, System, Training
from sprint_lib.evaluation.runs import run
from sprint_lib.params import load_yaml
from sprint_lib.store import Workspace
from sprint_lib.training import grpo
from sprint_lib.training.rollouts import Reward, Rollout

ROOT = Path(__file__).parents[1]
SIZES = {"task": "countdown", "problems": 4, "group": 2, "pool": 8, "copies": 1, "seed": 0}
HERE = {"dtype": "float64", "max_batch": 8}
APR = {"method": "apr", "model": "countdown-apr"}
HALF = Reward(latency=0.5, typical_path=50)
PROFILES = {
    profile: load_yaml(ROOT / f"params/{profile}.yaml")["notebooks"]
    for profile in ("smoke", "laptop", "reinforcement", "gpu")
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace("x", tmp_path)


def plan(given: dict[str, Any], workspace: Workspace, **changed: Any) -> dict[str, Training]:
    common = {"rollouts": SIZES, "recipe": {"steps": 3}, "engine": HERE}
    return reinforcement.plan(given, workspace, **(common | changed))


# --- what is to be trained --------------------------------------------------------------


def test_entries_become_trainings(workspace: Workspace) -> None:
    given = {
        "apr": {**APR, "settings": {"threads": 3}, "recipe": {"kl": 0.5, "temperature": 0.8}, "group": 6},
        "sos": {"method": "sos", "model": "countdown-sos", "settings": {"max_tokens": 90}, "latency": 0.5, "work": 1},
    }
    found = plan(given, workspace)
    apr, sos = found.values()
    assert apr.rollouts.settings == {"threads": 3, "temperature": 0.8}
    assert (apr.rollouts.group, apr.rollouts.problems, sos.rollouts.group) == (6, 4, 2)
    assert (apr.config.steps, apr.config.kl, apr.config.temperature) == (3, 0.5, 0.8)
    assert sos.rollouts.settings == {"max_tokens": 90, "temperature": 1.0}
    assert (sos.reward, sos.config.kl) == (Reward(latency=0.5, work=1), 0.001)
    assert (apr.base, apr.out) == (models.path("countdown-apr"), workspace.models / "grpo-apr")
    assert reinforcement.described(found)["attempts_a_step"].tolist() == ["4 problems × 6", "4 problems × 2"]


def test_a_model_of_the_workspace_comes_first(workspace: Workspace) -> None:
    workspace.models.mkdir(parents=True)
    (workspace.models / "apr").symlink_to(models.path("countdown-apr"))
    assert plan({"a": {**APR, "model": "apr"}}, workspace)["a"].base == workspace.models / "apr"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**APR, "latancy": 0.5}, "unknown key 'latancy' (did you mean 'latency'?)"),
        ({**APR, "latency": "0.5"}, "latency is '0.5', it must be of type float"),
        ({**APR, "latency": -0.5}, "latency is -0.5, it must be 0 or more"),
        ({"model": "countdown-apr"}, "no method ''; there are: apr,"),
        ({"method": "apr"}, "model: it needs one to start from"),
        ({"method": "apr", "model": "countdown-arp"}, "countdown-arp: no model here"),
        ({**APR, "settings": {"thread": 3}}, "unknown setting 'thread' (did you mean 'threads'?)"),
        ({**APR, "settings": {"threads": "3"}}, "threads is '3', it must be of type int"),
        ({**APR, "settings": {"temperature": 0.5}}, "the temperature of training belongs into recipe"),
        ({**APR, "recipe": {"stepps": 3}}, "recipe: unknown key 'stepps' (did you mean 'steps'?)"),
        ({**APR, "recipe": {"lr": "1e-5"}}, "recipe: lr is '1e-5', it must be of type float"),
        ({**APR, "recipe": {"lr": 0}}, "'lr' is 0, it must be more than 0"),
        ({**APR, "group": 1}, "groups of two or more"),
        ({**APR, "problems": 9}, "problems 9 of a pool of 8"),
        (["apr"], "['apr']: expected 'key: value' pairs"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_trains(entry: Any, said: str, workspace: Workspace) -> None:
    with pytest.raises(ReinforcementError) as caught:
        plan({"fine": APR, "wrong": entry}, workspace)
    assert str(caught.value).startswith("22_grpo: runs, wrong: ")
    assert said in str(caught.value)


def test_names_and_engines_that_cannot_be_are_refused(workspace: Workspace) -> None:
    with pytest.raises(ReinforcementError, match="runs, a/b: the name must be usable as a file name"):
        plan({"a/b": APR}, workspace)
    with pytest.raises(ReinforcementError, match="22_grpo: runs: nothing to train"):
        plan({}, workspace)
    with pytest.raises(ReinforcementError, match=r"unknown key 'dtyp' \(did you mean 'dtype'"):
        plan({"apr": APR}, workspace, engine={"dtyp": "float64"})
    running = {"kind": "server", "model": "m", "urls": ["http://127.0.0.1:9/v1"], "tokenizer": "t"}
    with pytest.raises(ReinforcementError, match=r"runs, apr: .*server"):
        plan({"apr": APR}, workspace, engine=running)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_runs_of_a_profile_can_be_trained(profile: str, workspace: Workspace) -> None:
    said = PROFILES[profile]["22_grpo"]
    found = reinforcement.plan(
        said["runs"], workspace, rollouts=SIZES | {k: said[k] for k in SIZES if k in said},
        recipe=said["recipe"], engine=said["engine"],
    )  # fmt: skip
    for name, training in found.items():  # as if they were trained
        training.out.parent.mkdir(parents=True, exist_ok=True)
        training.out.symlink_to(training.base)
        assert training.name == name
    reinforcement.write_index(found, summaries(found), workspace)
    trained = reinforcement.read(workspace)[1]
    beside = PROFILES[profile]["23_before_and_after"]["beside"]
    assert set(reinforcement.with_beside(trained, beside, workspace)) == set(trained) | set(beside)


# --- attempts by hand ---------------------------------------------------------------------


def attempt(problem: str, right: bool, parent: int, *children: int, status: str = "ok", sample: int = 0) -> Attempt:
    """A parent of so many tokens, then children of so many at once: the path is the parent and the longest child."""
    calls = [Call("P1", "parent", 1, completion_tokens=parent)]
    calls += [
        Call(f"P1/C{k}", "child", 1, k, (Wait("P1"),), completion_tokens=tokens) for k, tokens in enumerate(children, 1)
    ]
    return Attempt(problem, "apr", status, right, "", "", tuple(calls), sample=sample)


BEFORE = [attempt("a", True, 100, 50), attempt("b", False, 100, 100), attempt("c", False, 60), attempt("d", True, 90)]
AFTER = [
    attempt("a", True, 50, 50, 20), attempt("b", True, 50, 50), attempt("c", False, 60, 15), attempt("d", True, 45),
]  # fmt: skip
TRIED = {
    ("apr", 0.6): BEFORE,
    ("apr-grpo", 0.6): AFTER,
    ("apr", 0.0): BEFORE[:2],
    ("apr-grpo", 0.0): AFTER[:2],
}  # fmt: skip


def test_a_group_in_numbers() -> None:
    found = [attempt("a", True, 40, 10, 30, sample=0), attempt("a", False, 40, status="truncated", sample=1)]
    group = [Rollout(one, (), reward) for one, reward in zip(found, (0.6, -0.1), strict=True)]
    rows = reinforcement.group_table("apr", group).to_dict("records")
    assert [(r["attempt"], r["status"], r["right"], r["path"], r["total"], r["threads"]) for r in rows] == [
        (0, "ok", True, 70, 80, 2),
        (1, "truncated", False, 40, 40, 0),
    ]
    assert [r["advantage"] for r in rows] == pytest.approx([1, -1], rel=1e-3)
    same = [replace(one, reward=1.0) for one in group]
    assert reinforcement.telling([same, group]) is group
    assert reinforcement.telling([same, same]) is same


def step(number: int, **changed: float) -> dict[str, float]:
    """A row of a curve, as the trainer makes it."""
    measured = grpo._measures([[Rollout(one, (), 1.0 * one.correct) for one in AFTER]])
    learnt = {"tokens": 10.0, "kl": 0.001, "clipped": 0.25, "entropy": 0.01, "gradient": 0.2}
    clock = {"sampling_seconds": 2.0, "training_seconds": 3.0}
    return {"step": float(number), **measured, **learnt, **clock, **changed}


def test_the_curve_as_a_table() -> None:
    table = reinforcement.training_table({"apr": [step(0), step(1, accuracy=0.5)], "sos": [step(0)]})
    assert not [column for column in table if "seconds" in column]
    assert table[["run", "step", "accuracy"]].to_numpy().tolist() == [["apr", 1, 75], ["apr", 2, 50], ["sos", 1, 75]]
    first = table.iloc[0]
    assert (first["attempts"], first["groups_told_apart"], first["clipped"], first["ok"]) == (4, 100, 25, 100)
    assert first["unanswered"] == 0
    assert first["sequential"] == (100 + 100 + 75 + 45) / 4
    assert first["total"] == (120 + 100 + 75 + 45) / 4
    line = tables.to_csv(table).splitlines()[1]
    assert "0.0010000" in line  # KL has digits enough


def test_what_cannot_be_told_apart_leaves_a_gap_in_the_curve() -> None:
    nothing = {k: v for k, v in step(1).items() if k not in ("kl", "clipped", "entropy", "gradient")}
    frame = reinforcement.training_curves(reinforcement.training_table({"apr": [step(0), nothing, step(2)]}))
    kl = frame[frame["panel"] == reinforcement.PANELS["kl"]]["value"].tolist()
    assert kl[0] == kl[2] == 0.001
    assert math.isnan(kl[1])
    assert list(dict.fromkeys(frame["panel"])) == list(reinforcement.PANELS.values())
    assert reinforcement.line(nothing, 9).endswith("threads 1, nothing told apart, 5 s")
    assert reinforcement.line(step(1), 9) == (
        "2/9: reward 0.750, 75.0% right, path 80.0, total 85.0, threads 1, KL 1.0e-03, entropy 0.010, 5 s"
    )


def test_first_and_last_quarter() -> None:
    curve = [step(k, reward=float(k)) for k in range(8)]
    found = reinforcement.first_and_last(reinforcement.training_table({"apr": curve}))
    assert found[["part", "n", "reward"]].to_numpy().tolist() == [
        ["first 2 of 8 steps", 2, 0.5],
        ["last 2 of 8 steps", 2, 6.5],
    ]
    assert found["reward_low"].isna().all()  # two steps have no interval
    half = reinforcement.first_and_last(reinforcement.training_table({"apr": curve * 2}), share=0.5)
    assert (half["reward_low"] < half["reward"]).all()


def test_a_training_is_watched_in_lines(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    report = reinforcement.watch(plan({"apr": APR}, workspace)["apr"])
    report(step(0))
    report(step(1))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("apr ")]
    assert [line[:8] for line in lines] == ["apr 1/3:", "apr 2/3:"]


# --- what was trained ---------------------------------------------------------------------


def summaries(runs: dict[str, Training]) -> dict[str, Any]:
    """What `train` would have said of the rewards."""
    return {name: {"reward": {**asdict(run.reward), "typical_path": 200.0}} for name, run in runs.items()}


@pytest.fixture
def trained(workspace: Workspace) -> dict[str, Training]:
    """Two trainings of one model, with shipped models in the place of those they would make."""
    runs = plan({"apr": {**APR, "settings": {"threads": 3}}, "fast": {**APR, "latency": 0.5}}, workspace)
    workspace.models.mkdir(parents=True)
    for training in runs.values():
        training.out.symlink_to(models.path("countdown-sos"))
    reinforcement.write_index(runs, summaries(runs), workspace)
    return runs


def test_what_was_trained_is_read_back(trained: dict[str, Training], workspace: Workspace) -> None:
    task, found = reinforcement.read(workspace)
    assert task == "countdown"
    assert list(found) == ["apr", "apr-grpo", "fast", "fast-grpo"]
    assert found["apr"] == System("apr", str(models.path("countdown-apr")), {"threads": 3})
    fast = found["fast-grpo"]
    assert (fast.folder, fast.latency) == (str(workspace.models / "grpo-fast"), 0.5)
    assert fast.reward == Reward(latency=0.5, typical_path=200)
    assert fast.recipe == {**asdict(trained["fast"].config), "problems": 4, "group": 2}
    assert reinforcement.pairs(found) == ["apr", "fast"]
    (workspace.models / "grpo-fast").unlink()
    (workspace.models / "grpo-fast").symlink_to(models.path("countdown-sprint"))
    with pytest.raises(ReinforcementError, match=r"grpo-fast is another model than it was.*run notebook 22 again"):
        reinforcement.read(workspace)
    with pytest.raises(ReinforcementError, match="run notebook 22 again"):
        reinforcement.read(Workspace("y", workspace.outputs))


def test_what_the_paper_found_to_grow_is_looked_at_where_only_right_answers_were_rewarded(
    trained: dict[str, Training], workspace: Workspace
) -> None:
    assert reinforcement.claim_estimates(workspace) == {}
    pairs = reinforcement.before_after(
        {**TRIED, ("fast", 0.6): AFTER, ("fast-grpo", 0.6): BEFORE}, ["apr", "fast"], 0.6
    )
    tables.write(pairs, "grpo-pairs", workspace)
    found = reinforcement.claim_estimates(workspace)
    assert {id_: estimate.value for id_, estimate in found.items()} == {
        "apr.reinforcement.apr.accuracy": 25,
        "apr.reinforcement.apr.total_tokens": 85 / 125,
        "apr.reinforcement.apr.tokens_a_sequence": 0.53,
        "apr.reinforcement.apr.threads": 0.5,
    }
    rows = {row["id"]: row for row in claims_table(found, ["reinforcement"])}
    assert rows["apr.reinforcement.apr.threads"]["verdict"] != "not run"
    assert rows["apr.reinforcement.sos_plus.accuracy"]["verdict"] == "not run"


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("sos", {"method": "sos", "model": "countdown-sos", "latency": 1.0}, "unknown key 'latency'"),
        ("sos", {"method": "sos", "model": "grpo-sos"}, "grpo-sos: no model here"),
        ("sos", {"method": "sos", "model": "countdown-sos", "settings": {"thread": 1}}, "unknown setting 'thread'"),
        ("apr", APR, "there is one of this name"),
    ],
)
def test_systems_beside_that_cannot_be(
    name: str, entry: dict[str, Any], said: str, trained: dict[str, Training], workspace: Workspace
) -> None:
    with pytest.raises(ReinforcementError) as caught:
        reinforcement.with_beside(reinforcement.read(workspace)[1], {name: entry}, workspace)
    assert str(caught.value).startswith(f"23_before_and_after: beside, {name}: ")
    assert said in str(caught.value)


def test_systems_that_are_the_same_are_tried_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def here(specs: Any, workspace: Workspace, **_: Any) -> dict[str, list[Attempt]]:
        asked.extend(spec.name for spec in specs)
        return {spec.name: run(spec, workspace) for spec in specs}

    monkeypatch.setattr(campaign, "run_many", here)
    one = System("sos", str(models.path("countdown-sos")), {"max_tokens": 12})
    systems = {
        "sos": one,
        "again": replace(one, reward=Reward(latency=0.5)),
        "other": replace(one, settings={"max_tokens": 6}),
    }
    found = reinforcement.solve(
        systems, {0.0: 1, 0.5: 2}, workspace, task="countdown", seed=2, engine=HERE, concurrency=2
    )
    assert asked == ["23-sos-0", "23-other-0", "23-sos-0.5", "23-other-0.5"]
    assert {key: len(attempts) for key, attempts in found.items()} == {
        (name, temperature): n for name in systems for temperature, n in ((0.0, 1), (0.5, 2))
    }
    assert found["again", 0.5] == found["sos", 0.5]
    assert reinforcement.distinct(systems) == ["sos", "other"]
    assert all(len(a.calls[0].completion) > 0 and a.calls[0].completion_tokens == 6 for a in found["other", 0.5])


# --- before and after ---------------------------------------------------------------------


def test_a_price_on_length_is_held_against_the_same_training_without(
    trained: dict[str, Training], workspace: Workspace
) -> None:
    _, systems = reinforcement.read(workspace)
    systems |= {name: replace(systems[name], settings={}) for name in ("apr", "apr-grpo")}
    tried = {("apr-grpo", 0.6): BEFORE, ("fast-grpo", 0.6): AFTER}
    found = reinforcement.priced_against_free(tried, systems, ["apr", "fast"], 0.6)
    assert found[["run", "against"]].drop_duplicates().to_numpy().tolist() == [["fast", "apr"]]
    assert found.set_index("quantity").loc["critical path", "change"] == 80 / 125
    other = systems | {"apr-grpo": replace(systems["apr-grpo"], recipe={"steps": 5})}
    assert reinforcement.priced_against_free(tried, other, ["apr", "fast"], 0.6).empty
    systems["fast"] = replace(systems["fast"], settings={"threads": 3})  # not the same start any more
    assert reinforcement.priced_against_free(tried, systems, ["apr", "fast"], 0.6).empty


def test_before_and_after_by_hand() -> None:
    """Paths 150, 200, 60, 90 and 100, 100, 75, 45; totals the same and 120, 100, 75, 45; threads 1, 1, 0, 0 and
    2, 1, 1, 0; both right on a and d."""
    table = reinforcement.before_after(TRIED, ["apr"], 0.6).set_index("quantity")
    assert list(table.index) == [
        *("accuracy", "without an answer", "critical path", "total tokens", "tokens a sequence", "threads"),
        "critical path, both right",
    ]
    assert table.loc["without an answer", ["before", "after", "change", "unit"]].tolist() == [0, 0, 0, "points"]
    assert table.loc["tokens a sequence", "change"] == 43.125 / 81.25
    assert table.loc["accuracy", ["before", "after", "change", "n", "unit"]].tolist() == [50, 75, 25, 4, "points"]
    wilson = statistics.proportion([True, False, False, True])
    assert table.loc["accuracy", "before_low"] == pytest.approx(100 * wilson.low)
    assert table.loc["accuracy", "note"] == "right only before 0, only after 1, p = 1.000"
    path = table.loc["critical path"]
    assert (path["before"], path["after"], path["change"]) == (125, 80, 80 / 125)
    assert table.loc["total tokens", "change"] == 85 / 125
    assert table.loc["threads", ["before", "after", "change"]].tolist() == [0.5, 1.0, 0.5]
    both = table.loc["critical path, both right"]
    assert (both["n"], both["before"], both["after"], both["change"]) == (2, 120, 72.5, 72.5 / 120)
    assert table.loc["accuracy", "verdict"] == "underpowered"


def test_one_line_has_no_threads_to_compare() -> None:
    alone = [attempt("a", True, 10), attempt("b", True, 20)]
    table = reinforcement.before_after({("sos", 0.0): alone, ("sos-grpo", 0.0): alone}, ["sos"], 0.0)
    assert not {"threads", "tokens a sequence"} & set(table["quantity"])


@pytest.mark.parametrize(
    ("quantity", "low", "high", "none", "said"),
    [
        ("accuracy", 0.1, 5.0, 0.0, "gain"),
        ("accuracy", -5.0, -0.1, 0.0, "loss"),
        ("accuracy", -0.1, 5.0, 0.0, "underpowered"),
        ("critical path", 0.7, 0.9, 1.0, "gain"),
        ("critical path", 1.1, 1.3, 1.0, "loss"),
        ("critical path", 0.9, 1.0, 1.0, "underpowered"),
        ("total tokens", 0.7, 0.9, 1.0, "different"),
        ("threads", math.nan, math.nan, 0.0, "underpowered"),
    ],
)
def test_verdicts(quantity: str, low: float, high: float, none: float, said: str) -> None:
    change = statistics.Estimate((low + high) / 2, low, high, 500)
    assert reinforcement.verdict(quantity, change, none) == said


def test_what_was_found_in_words() -> None:
    many = {
        key: [replace(a, problem=f"{a.problem}{k}") for k in range(40) for a in side] for key, side in TRIED.items()
    }
    (said,) = reinforcement.findings(reinforcement.before_after(many, ["apr"], 0.6), ["apr"])
    assert said.startswith("- **APR**, n = 160: accuracy 50.0 → 75.0, +25.0 points [")
    assert "; critical path 125.0 → 80.0, 0.64 times [" in said
    assert said.endswith("; so the path is shorter, and accuracy no lower.")
    pairs = zip(many["apr", 0.6], many["apr-grpo", 0.6], strict=True)
    level = many | {("apr-grpo", 0.6): [replace(after, correct=before.correct) for before, after in pairs]}
    (said,) = reinforcement.findings(reinforcement.before_after(level, ["apr"], 0.6), ["apr"])
    assert " points lower (95 %)." in said
    worse = {("apr", 0.6): many["apr-grpo", 0.6], ("apr-grpo", 0.6): many["apr", 0.6]}
    (said,) = reinforcement.findings(reinforcement.before_after(worse, ["apr"], 0.6), ["apr"])
    assert "(*loss*)" in said
    assert "shorter" not in said


def test_right_answers_too_long_for_the_price_are_paid_the_least() -> None:
    """Paths of the right ones, 150 and 90 of 50 typical ones: 1 - 0.5 * 3 and 1 - 0.5 * 1.8 are 0.1 or less."""
    systems = {"apr": System("apr", "there"), "apr-grpo": System("apr", "x", reward=HALF)}
    found = reinforcement.floors(TRIED, systems, ["apr"], 0.6)
    assert (found["apr"].value, found["apr"].n) == (100, 2)
    long = {"apr": systems["apr"], "apr-grpo": replace(systems["apr-grpo"], reward=replace(HALF, typical_path=80))}
    assert reinforcement.floors(TRIED, long, ["apr"], 0.6)["apr"].value == 50
    free = {"apr": systems["apr"], "apr-grpo": replace(systems["apr-grpo"], reward=Reward())}
    assert reinforcement.floors(TRIED, free, ["apr"], 0.6) == {}


# --- APR's figures and table ----------------------------------------------------------------


def test_figure_5_beside_the_paper() -> None:
    frame = reinforcement.figure5(TRIED, ["apr"], 0.6).set_index(["source", "quantity"])
    here, paper = (frame.loc[source] for source in (reinforcement.HERE, reinforcement.PAPER))
    assert here["before"].tolist() == pytest.approx([50, 125, (75 + 100 + 60 + 90) / 4, 0.5])
    assert here["after"].tolist() == pytest.approx([75, 85, (40 + 50 + 37.5 + 45) / 4, 1.0])
    assert paper["before"].tolist() == [75.5, 10964, 1471, 6.1]
    assert paper["after"].tolist() == [83.4, 16720, 1796, 8.2]
    assert paper["before_low"].isna().all()
    assert paper["n"].eq(1000).all()


def test_figure_7_and_the_frontier() -> None:
    frame = reinforcement.figure7(TRIED, ["apr"], 0.6)
    here = frame[frame["panel"] == reinforcement.HERE]
    assert here[["step", "x", "y", "n"]].to_numpy().tolist() == [["before", 125, 50, 4], ["after", 85, 75, 4]]
    paper = frame[frame["panel"] == reinforcement.PAPER]
    assert paper[["run", "step", "x", "y"]].to_numpy().tolist()[:2] == [
        ["sos_plus", "before", 2201, 57.3],
        ["sos_plus", "after", 2660, 60.0],
    ]
    tried = TRIED | {("fast", 0.6): BEFORE, ("fast-grpo", 0.6): AFTER}
    start = System("apr", "there")
    systems = {
        "apr": start, "apr-grpo": System("apr", "x", reward=Reward()),
        "fast": start, "fast-grpo": System("apr", "y", reward=HALF),
    }  # fmt: skip
    frame = reinforcement.frontier(tried, systems, ["apr", "fast"], 0.6)
    assert frame["panel"].tolist() == ["from APR"] * 4
    assert frame["label"].tolist() == ["", "λ 0", "", "λ 0.5"]
    assert frame["x"].tolist() == [125, 80, 125, 80]


def test_table_1_beside_the_paper() -> None:
    table = reinforcement.by_temperature(TRIED, ["apr", "apr-grpo"], [0.0, 0.6])
    assert table[["system", "temperature", "n", "accuracy"]].to_numpy().tolist() == [
        ["apr", 0, 2, 50], ["apr", 0.6, 4, 50], ["apr-grpo", 0, 2, 100], ["apr-grpo", 0.6, 4, 75],
    ]  # fmt: skip
    assert table["points"].tolist()[2:] == [50, 25]
    assert table["points"].isna().tolist() == [True, True, False, False]
    assert table["paper"].tolist()[::2] == [75.5, 83.4]
    assert table["paper"].isna().tolist() == [False, True, False, True]  # it has no 0.6
    wide = reinforcement.side_by_side(table)
    assert wide["system"].tolist() == ["APR", "APR GRPO"]
    assert wide["temperature 0"].tolist()[1].endswith("100.0] · paper 83.4")
    assert "paper" not in wide["temperature 0.6"].tolist()[1]
    own = table.assign(system=table["system"].str.replace("apr", "mine"), paper=math.nan)
    curves = reinforcement.temperature_curves(pd.concat([own, table], ignore_index=True))
    sizes = {reinforcement.HERE: 4, reinforcement.PAPER: 2, "this run, not in the paper": 4}
    assert curves.groupby("panel", sort=False).size().to_dict() == sizes
    assert set(reinforcement.temperature_curves(own)["panel"]) == {"this run, not in the paper"}


def test_spreads_have_every_attempt() -> None:
    frame = reinforcement.spreads(TRIED, ["apr"], 0.6)
    found = frame.groupby(["panel", "step"])["value"].apply(list).to_dict()
    assert found["threads a problem", "after"] == [2, 1, 1, 0]
    assert found["tokens of the longest thread", "before"] == [100, 100, 60, 90]


def test_names_and_colours_of_the_trained() -> None:
    assert plots.name("apr-grpo") == "APR GRPO"
    assert plots.name("sos-plus") == plots.name("sos_plus") == "SoS+"
    assert plots.name("apr-cond10-grpo") == "APR, ten children GRPO"
    assert plots.name("apr-latency") == "APR latency"
    assert plots.name("sprint-latency-25-grpo") == "SPRINT latency 25 GRPO"
    assert len({plots.colour(name) for name in ("apr", "apr-latency", "apr-grpo", "apr-latency-grpo")}) == 4
    assert plots.colour("apr-grpo") != plots.colour("apr")
    looks = plots._runs(pd.DataFrame({"run": ["apr", "mine", "other", "sos-plus"]}))
    assert len({shade for _, shade, _ in looks.values()}) == 4
    assert looks["sos-plus"][1] == plots.colour("sos_plus")


def test_the_figures_can_be_drawn(workspace: Workspace) -> None:
    systems = {"apr": System("apr", "there"), "apr-grpo": System("apr", "x", reward=HALF)}
    curve = reinforcement.training_curves(reinforcement.training_table({"apr": [step(0), step(1)]}))
    five, seven = (of(TRIED, ["apr"], 0.6) for of in (reinforcement.figure5, reinforcement.figure7))
    frontier = reinforcement.frontier(TRIED, systems, ["apr"], 0.6)
    spreads = reinforcement.spreads(TRIED, ["apr"], 0.6)
    found = {
        "curves": (plots.training_curves(curve, title="t", caption="c"), curve, 9),
        "five": (plots.before_after(five, title="t", caption="c"), five, 8),
        "seven": (plots.arrows(seven, label="x", title="t", caption="c"), seven, 2),
        "frontier": (plots.arrows(frontier, label="x", title="t", caption="c"), frontier, 1),
        "spreads": (plots.spreads(spreads, title="t", caption="c"), spreads, 2),
    }
    for stem, (figure, frame, panels) in found.items():
        assert len(figure.axes) == panels
        assert plots.save(figure, stem, frame, workspace).png.startswith(b"\x89PNG")
