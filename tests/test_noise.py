"""Label noise: mistakes that are as many and as wrong as was asked for, and what is made of runs at several rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprint_lib.calls import Attempt, Call
from sprint_lib.curation import Annotated, Trace
from sprint_lib.curation.agreement import edge_scores
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.noise import with_wrong_edges
from sprint_lib.curation.packing import TIDY, assign_stages, pack
from sprint_lib.curation.samples import Sample, write_samples
from sprint_lib.curation.steps import AnnotationError, Step
from sprint_lib.evaluation import label_noise
from sprint_lib.training import several, sft


def annotated(parents: Sequence[Sequence[int]], id_: str = "a") -> Annotated:
    """A trace with a step for each list of parents, each an execution of three lines; the last gives the answer."""
    lines = "".join(f"Try {k}\nline\nline\n" for k in range(1, len(parents)))
    steps = [
        Step(f"step {k}", prompt=f"do {k}", execution=(3 * k - 2, 3 * k - 1, 3 * k)) for k in range(1, len(parents))
    ]
    final = Step("answer", plan=(3 * len(steps) + 1,), final=True)
    by_step = {number: tuple(needed) for number, needed in enumerate(parents, 1)}
    return Annotated(Trace(id_, "What now?\n", f"{lines}Answer 7\n"), (*steps, final), by_step)


def search(moves: int, id_: str = "a") -> Annotated:
    """As Countdown's graphs are: first moves that need nothing, and an answer that needs the last of them."""
    return annotated([*[()] * moves, (moves,)], id_)


@st.composite
def graphs(draw: st.DrawFn) -> Annotated:
    steps = draw(st.integers(1, 9))
    earlier = [draw(st.lists(st.integers(1, max(1, k - 1)), unique=True, max_size=k - 1)) for k in range(1, steps + 1)]
    return annotated(earlier, draw(st.text(max_size=3)))


def edges(item: Annotated) -> set[tuple[int, int]]:
    assert item.parents is not None
    return {(parent, child) for child, parents in item.parents.items() for parent in parents}


# --- mistakes -------------------------------------------------------------------------

RATES = st.floats(0, 1)


@given(graphs(), st.integers(0, 9))
def test_no_mistakes_change_nothing(item: Annotated, seed: int) -> None:
    noisy = with_wrong_edges(item, 0.0, seed)
    assert noisy.annotated == item
    assert noisy.wrong == 0


@given(graphs(), RATES, st.integers(0, 9))
def test_mistakes_make_a_graph_and_are_what_their_kind_says(item: Annotated, rate: float, seed: int) -> None:
    noisy = with_wrong_edges(item, rate, seed)
    parents = noisy.annotated.parents
    assert parents is not None
    dependency_graph(len(item.steps), parents)  # forward edges only, so no cycle
    assert all(len(set(needed)) == len(needed) for needed in parents.values())
    assert replace(noisy.annotated, parents=item.parents) == item
    added, lost = edges(noisy.annotated) - edges(item), edges(item) - edges(noisy.annotated)
    assert len(added) == noisy.spurious + noisy.moved
    assert len(lost) == noisy.moved + noisy.dropped
    assert noisy.wrong <= noisy.places


@given(graphs(), RATES, RATES, st.integers(0, 9))
def test_mistakes_of_a_low_rate_are_among_those_of_a_higher_one(
    item: Annotated, one: float, other: float, seed: int
) -> None:
    low, high = (with_wrong_edges(item, rate, seed).annotated for rate in sorted((one, other)))
    assert edges(low) - edges(item) <= edges(high) - edges(item)
    assert edges(item) - edges(low) <= edges(item) - edges(high)


@given(graphs(), st.integers(0, 9))
def test_at_rate_one_every_place_is_wrong(item: Annotated, seed: int) -> None:
    noisy = with_wrong_edges(item, 1.0, seed)
    assert noisy.wrong == noisy.places
    assert not edges(noisy.annotated) & edges(item)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_the_share_of_mistakes_is_the_rate(rate: float) -> None:
    noisy = [with_wrong_edges(search(8, str(k)), rate) for k in range(500)]
    places = sum(one.places for one in noisy)
    assert places == 500 * 8  # seven moves that could be said to need another, and the answer's edge
    share, spread = sum(one.wrong for one in noisy) / places, (rate * (1 - rate) / places) ** 0.5
    assert abs(share - rate) < 3 * spread
    assert sum(one.moved for one in noisy) > 0
    assert sum(one.dropped for one in noisy) == 0


def test_an_edge_that_cannot_lead_from_elsewhere_is_dropped() -> None:
    noisy = with_wrong_edges(annotated([(), (1,)]), 1.0)
    assert (noisy.annotated.parents, noisy.dropped, noisy.places) == ({1: (), 2: ()}, 1, 1)


def test_the_seed_and_the_trace_decide_nothing_else_does() -> None:
    items = [search(6, str(k)) for k in range(20)]
    there = [with_wrong_edges(item, 0.3, 1) for item in items]
    back = [with_wrong_edges(item, 0.3, 1) for item in reversed(items)]
    assert there == back[::-1]
    assert there != [with_wrong_edges(item, 0.3, 2) for item in items]
    assert len({str(one.annotated.parents) for one in there}) > 1


def test_scored_as_any_annotation_is() -> None:
    truth = search(5)
    wrong = replace(truth, parents={1: (), 2: (1,), 3: (), 4: (), 5: (), 6: (5,)})
    score = edge_scores(truth, wrong)
    assert (score.hits, score.found, score.wanted) == (1, 2, 1)
    noisy = with_wrong_edges(truth, 0.5, 3)
    score = edge_scores(truth, noisy.annotated)
    assert score.found - score.hits == noisy.spurious + noisy.moved
    assert score.wanted - score.hits == noisy.moved + noisy.dropped


@given(st.integers(1, 9), RATES, st.integers(0, 9))
def test_edges_too_many_only_delay(moves: int, rate: float, seed: int) -> None:
    truth, noisy = search(moves), with_wrong_edges(search(moves), rate, seed).annotated
    before, after = (
        assign_stages(item.steps, dependency_graph(len(item.steps), item.parents or {})) for item in (truth, noisy)
    )
    assert all(after[step] >= stage for step, stage in before.items())
    assert sorted(set(after.values())) == list(range(1, max(after.values()) + 1))


def test_false_references_can_be_left_unsaid() -> None:
    item = with_wrong_edges(search(6), 1.0).annotated
    graph = dependency_graph(len(item.steps), item.parents or {})
    said, unsaid = (pack("What now?\n", item.lines, item.steps, graph, rules=rules) for rules in (TIDY, PLAIN))
    assert "Based on execution_1.1:" in said.trajectory.render()
    assert "Based on" not in unsaid.trajectory.render()
    assert unsaid.stage_of == said.stage_of
    assert {part for stage in unsaid.trajectory.stages for part in stage.plan if isinstance(part, str)} == {"\n"}


PLAIN = replace(TIDY, references=False)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate is .*, it must be a share from 0 to 1"):
        with_wrong_edges(search(3), rate)


def test_what_is_not_known_to_be_a_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="a: its dependencies are not known; run annotate_dependencies first"):
        with_wrong_edges(replace(search(3), parents=None), 0.1)
    with pytest.raises(AnnotationError, match="step 1 needs step 2, which does not come before it"):
        with_wrong_edges(annotated([(2,), ()]), 0.1)


# --- runs at several rates ------------------------------------------------------------

N = 40


def run(right: int, tokens: int) -> list[Attempt]:
    """`N` attempts of one call: the first ones right, each a token longer than the one before."""
    return [
        Attempt(f"p{k:02}", "sprint", "ok", k < right, "", "", (Call("S1", "sample", completion_tokens=tokens + k),))
        for k in range(N)
    ]


def frame() -> pd.DataFrame:
    return label_noise.outcomes(
        {
            **{(0.0, 1): run(36, 100), (0.0, 2): run(34, 100)},
            **{(0.1, 1): run(36, 110), (0.1, 2): run(35, 110)},
            **{(0.2, 1): run(24, 130), (0.2, 2): run(22, 130)},
        }
    )


def test_means_over_trainings_then_over_problems() -> None:
    table = label_noise.by_rate(frame()).set_index("rate")
    assert table.loc[0.2, ["trainings", "n", "accuracy"]].tolist() == [2, N, pytest.approx(100 * 23 / N)]
    assert table.loc[0.0, "sequential"] == table.loc[0.0, "total"] == 100 + (N - 1) / 2
    assert (table["accuracy_low"] < table["accuracy"]).all()
    assert (table["accuracy"] < table["accuracy_high"]).all()


def test_changes_are_told_from_none_by_their_interval() -> None:
    found = label_noise.comparisons(frame()).set_index(["comparison", "quantity"])
    worse = found.loc[("20 % against 0 %", "accuracy")]
    assert worse["change"] == pytest.approx(100 * (23 - 35) / N)
    assert worse["change_high"] < 0
    assert worse["verdict"] == "different"
    assert worse["McNemar"].startswith("seed 1: only the first right 12, only the second 0, p = 0.000; seed 2: ")
    same = found.loc[("10 % against 0 %", "accuracy")]
    assert same["verdict"] == "underpowered"
    assert same["detectable"] > abs(same["change"])
    assert found.loc[("20 % against 0 %", "sequential"), ["change", "verdict"]].tolist() == [
        pytest.approx(30),
        "different",
    ]
    assert found.loc[("20 % against 0 %", "stages"), "verdict"] == "underpowered"
    assert set(found["n"]) == {N}


def test_slope_over_all_rates_and_a_rate_against_itself() -> None:
    found = label_noise.comparisons(frame()).set_index(["comparison", "quantity"])
    assert found.loc[("a tenth more", "sequential"), "change"] == pytest.approx(15)
    assert found.loc[("a tenth more", "accuracy"), "change"] == pytest.approx(100 * (23 - 35) / N / 2)
    again = found.loc[("0 %, trained twice", "accuracy")]
    assert again["change"] == pytest.approx(-100 * 2 / N)
    assert again["McNemar"] == "seed 2: only the first right 2, only the second 0, p = 0.500"


def test_one_rate_and_one_seed_compare_with_nothing() -> None:
    alone = label_noise.outcomes({(0.0, 1): run(3, 10)})
    assert label_noise.comparisons(alone).empty
    assert len(label_noise.by_rate(alone)) == 1


def test_curves_hold_means_and_single_trainings() -> None:
    points = label_noise.curves(frame(), {"accuracy": "right (%)"})
    assert points["run"].value_counts().to_dict() == {"all": 3, "1": 3, "2": 3}
    highest = points[points["x"] == 20].set_index("run")["value"]
    assert highest["all"] == pytest.approx((highest["1"] + highest["2"]) / 2)


def test_runs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="runs of different problems"):
        label_noise.outcomes({(0.0, 1): run(3, 10), (0.1, 1): run(3, 10)[1:]})
    with pytest.raises(ValueError, match=r"no run with rate 0.1 and seed 2; every rate needs every seed"):
        label_noise.outcomes({(0.0, 1): run(3, 10), (0.0, 2): run(3, 10), (0.1, 1): run(3, 10)})


# --- several trainings ----------------------------------------------------------------


def job(folder: Path, base: Path, name: str, seed: int) -> sft.Job:
    samples = [Sample("Numbers: 1 2\nTarget: 3\n", "Try 1 + 2\n", "planner", str(k), ends=True) for k in range(4)]
    config = sft.SftConfig(tokens=60, batch_tokens=128, log_steps=1, emphasis={"Try": 2.0}, threads=1, seed=seed)
    return sft.Job(write_samples(folder / f"{name}.jsonl", samples), base, folder / name, config)


@pytest.mark.slow
def test_trainings_side_by_side_are_those_of_one_process(tmp_path: Path, tiny_model: Path) -> None:
    jobs = {name: job(tmp_path, tiny_model, name, seed) for name, seed in (("a", 1), ("b", 2))}
    points: list[set[str]] = []
    trained = several.train_many(jobs, report=lambda found: points.append(set(found)))
    assert points[-1] == {"a", "b"}
    for name, one in jobs.items():
        assert trained[name] == sft.train_job(one, lambda _: None)  # finished: the same key, and the model is there
        assert trained[name]["config"]["seed"] == one.config.seed
    assert several.train_many(jobs) == trained


@pytest.mark.slow
def test_a_training_that_fails_is_named(tmp_path: Path, tiny_model: Path) -> None:
    jobs = {"a": job(tmp_path, tmp_path / "nowhere", "a", 1)}
    with pytest.raises(sft.SftError, match=r"training 'a' ended with exit status 1:\n.*no model here") as caught:
        several.train_many(jobs)
    assert "Traceback" not in str(caught.value)


def test_progress_of_the_trainings_at_work(capsys: pytest.CaptureFixture[str]) -> None:
    points = {"a": sft.Progress(9, 9, 0.25, 0.1, 2.0), "b": sft.Progress(1, 9, 0.5, 0.1, 2.0)}
    several.printer(every=60)(points)
    several.printer(every=0)(points)
    assert capsys.readouterr().out == "b 1/9, loss 0.500\n"


def test_records_keep_what_is_wrong() -> None:
    noisy = with_wrong_edges(search(4), 1.0).annotated
    assert Annotated.from_json(json.loads(json.dumps(noisy.to_json()))) == noisy
