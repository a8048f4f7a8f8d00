"""Claims: the data against the papers' tables, every branch of the rule for verdicts, the file byte for byte."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sprint_lib import report, store
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.evaluation import claims, statistics
from sprint_lib.evaluation.claims import CLAIMS, Claim, Recount, certain, claims_table, verdict
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.tasks import get_task

BY_ID = {claim.id: claim for claim in CLAIMS}
NUMBER = Claim("x", "here", "a number", 50.0, "%", "countdown", 100, margin=5.0)
EFFECT = replace(NUMBER, none=0.0)
DIRECTION = replace(EFFECT, paper=None, direction=1)


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 80)


@pytest.mark.parametrize(
    ("claim", "estimate", "expected", "why"),
    [
        (EFFECT, None, "not run", "needs RFT and SPRINT"),
        (EFFECT, Estimate(50, math.nan, math.nan, 1), "underpowered", "no interval from n = 1"),
        # a number without an effect
        (NUMBER, interval(48, 53), "reproduced", "reaches into the paper's 50.0 ± 5"),
        (NUMBER, interval(54, 58), "reproduced", "reaches into"),
        (NUMBER, interval(41, 61), "reproduced", "reaches into"),
        (NUMBER, interval(39, 61), "underpowered", "twice as wide"),
        (NUMBER, interval(55.1, 58), "different", "above the paper's 50"),
        (NUMBER, interval(40, 44.9), "different", "below the paper's 50"),
        # an effect
        (EFFECT, interval(45, 60), "reproduced", "the interval holds the paper's 50"),
        (EFFECT, interval(51, 52), "reproduced", "within the paper's 50.0 ± 5"),
        (EFFECT, interval(1, 90), "reproduced", "an effect"),
        (
            EFFECT,
            interval(-1, 90),
            "underpowered",
            "not to be told from no effect (0); at this n effects from about 65",
        ),
        (EFFECT, interval(56, 70), "different", "an effect in the same direction, above"),
        (EFFECT, interval(10, 20), "different", "an effect in the same direction, below"),
        (EFFECT, interval(-20, -10), "different", "an effect in the other direction, below"),
        (EFFECT, interval(-1, 1), "different", "no effect to be seen; below"),
        # an effect that the paper itself could not tell from none
        (replace(EFFECT, paper=1.0), interval(-0.5, 0.5), "underpowered", "not to be told from no effect"),
        (replace(EFFECT, paper=1.0), interval(0.5, 1.5), "reproduced", "an effect"),
        (replace(EFFECT, paper=1.0), interval(-3, -1), "different", "in the other direction than"),
        (replace(EFFECT, paper=-5.0), interval(-8, -2), "reproduced", "an effect"),
        # a ratio, where no effect is one
        (replace(EFFECT, paper=1.5, none=1.0, margin=0.15), interval(1.3, 1.4), "reproduced", "within"),
        (replace(EFFECT, paper=1.5, none=1.0, margin=0.15), interval(0.9, 1.4), "underpowered", "no effect (1)"),
        # a direction
        (DIRECTION, interval(1, 9), "reproduced", "above no effect (0), as the paper says"),
        (DIRECTION, interval(-1, 9), "underpowered", "not to be told from no effect"),
        (DIRECTION, interval(-9, -1), "different", "below no effect (0), against the paper"),
        (replace(DIRECTION, direction=-1), interval(-9, -1), "reproduced", "as the paper says"),
        (DIRECTION, certain(0.0, 9), "different", "no effect at all"),
        # settings, yes and no
        (replace(NUMBER, margin=0.0), certain(50.0, 7), "reproduced", "equal to the paper's 50"),
        (replace(NUMBER, margin=0.0), certain(49.0, 7), "different", "below the paper's 50"),
    ],
)
def test_rule(claim: Claim, estimate: Estimate | None, expected: str, why: str) -> None:
    found, reason = verdict(claim, estimate)
    assert found == expected
    assert why in reason


def test_every_verdict_is_one_of_the_four() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(3000):
        claim = rng.choice([NUMBER, EFFECT, DIRECTION])
        seen.add(verdict(claim, interval(*sorted(rng.uniform(-60, 120) for _ in range(2))))[0])
    assert seen == {"reproduced", "different", "underpowered"}


def test_the_papers_numbers() -> None:
    assert len(BY_ID) == len(CLAIMS)
    spots = {
        "table1.pasta.multi_step": 0,
        "table2.math500.self_consistency.total_tokens": 11645,
        "table2.countdown.sprint.sequential_tokens": 2284,
        "table2.gpqa_diamond.rft.accuracy": 50.5,
        "figure6.countdown.long": 65,
        "runtime.math500_long.rft": 120.54,
        "runtime.math500.sprint_over_rft": 0.91,
        "runtime.math500_long.sprint_over_rft": 0.618,
        "figure6.math500.rft_over_8000_tokens": 39,
        "figure6.math500.rft_over_8000_tokens_controlled": 39,
        "curation.fold_below": 3,
        "apr.figure6.apr_accuracy.6": 75.2,
        "apr.table1.apr_grpo.t0_5": 81.3,
    }
    assert {id_: BY_ID[id_].paper for id_ in spots} == spots
    assert BY_ID["figure6.countdown.all"].paper == pytest.approx(100 * (1 - 2284 / 4917), abs=0.06)
    assert BY_ID["figure6.gpqa_diamond.all"].paper == pytest.approx(100 * (1 - 6336 / 7103), abs=0.06)
    assert BY_ID["figure4.math500.saved_sequential_tokens_vs_rft"].paper == 2880 - 2440
    assert BY_ID["table2.countdown.accuracy_difference"].paper == 1.0
    assert BY_ID["table2.countdown.accuracy_difference"].margin == pytest.approx(3.09, abs=0.01)


def test_what_the_released_runs_are_held_against_says_how() -> None:
    both = {BY_ID[f"figure6.math500.short_problems{ending}"].quantity for ending in ("", "_controlled")}
    assert {words.rpartition(", ")[2] for words in both} == {
        "bucketed by the measured RFT run (MATH-500)",
        "bucketed by the other RFT run (MATH-500)",
    }
    assert all("names no limit" in words for words in both)
    runtime = [claim for claim in CLAIMS if claim.id.startswith("runtime.")]
    assert all("estimated" in claim.quantity and claim.basis == claims.ESTIMATED for claim in runtime)
    assert "second released RFT run" in BY_ID["appendix_b2.binary_to_octal.rft_sequential_tokens"].quantity
    assert "another sample" in BY_ID["appendix_b2.binary_to_octal.sprint_sequential_tokens"].quantity
    levels = BY_ID["figure5.math500.stages_by_level"]
    assert (levels.setting, levels.paper, levels.direction, levels.none) == ("7b/math500", None, 1, 0)


def test_the_papers_n_is_given_where_the_paper_gives_it() -> None:
    parts = {claim.id for claim in CLAIMS if re.search("figure6|runtime", claim.id) and "apr" not in claim.id}
    whole = {"figure6.countdown.all": 1000, "figure6.gpqa_diamond.all": 198}
    whole |= {f"runtime.math500.{what}": 500 for what in ("rft", "sprint", "sprint_over_rft")}
    assert {id_: BY_ID[id_].n for id_ in parts} == dict.fromkeys(parts) | whole


@pytest.mark.parametrize(("fit", "expected"), [(5, "different"), (6, "underpowered")])
def test_a_rule_with_one_exception_is_not_the_rule(fit: int, expected: str) -> None:
    share = statistics.proportion([True] * fit + [False] * (6 - fit)).scaled(100)
    assert verdict(BY_ID["curation.filter_of_examples"], share)[0] == expected


def test_what_a_small_model_can_be_held_against() -> None:
    comparable = {claim.id for claim in CLAIMS if claim.setting == claims.COUNTDOWN}
    assert {id_ for id_ in comparable if id_.startswith(("table2", "figure"))} == {
        "table2.countdown.accuracy_difference",
        "table2.direction.total_over_sequential",
        "table2.direction.total_over_rft",
        "figure5.direction.stages_by_difficulty",
        "figure6.countdown.all",
        "figure6.countdown.long",
        "figure6.countdown.long_minus_all",
    }
    assert {claim.setting for claim in CLAIMS} == set(claims.SETTINGS)
    with pytest.raises(ValueError, match="add '7b/countdown' to the settings"):
        claims_table({"table2.countdown.rft.accuracy": interval(80, 90)})
    rows = claims_table({"table2.countdown.rft.accuracy": interval(83, 87)}, settings=["7b/countdown"])
    assert next(row for row in rows if row["id"] == "table2.countdown.rft.accuracy")["verdict"] == "reproduced"
    with pytest.raises(ValueError, match=r"did you mean 'figure6\.countdown\.long'"):
        claims_table({"figure6.countdown.longest": interval(1, 2)})


def test_savings_at_a_loss_of_accuracy_say_so() -> None:
    saved, lost = interval(50, 60), interval(-91, -81)
    for accuracy, expected in ((lost, True), (interval(-1, 2), False)):
        rows = claims_table({"figure6.countdown.all": saved, "table2.countdown.accuracy_difference": accuracy})
        (row,) = (row for row in rows if row["id"] == "figure6.countdown.all")
        assert row["verdict"] == "reproduced"
        assert ("its accuracy is 86.0 points lower" in row["why"]) is expected


def test_file_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    noise = Estimate(0.1 + 0.2, 1 / 3, 2 / 3, 5)
    rows = claims_table(
        {"figure6.countdown.all": noise, "figure6.countdown.long": Estimate(-0.0, math.nan, math.nan, 1)}
    )
    path = claims.write_claims(tmp_path / "claims.json", rows)
    first = path.read_bytes()
    nudged = replace(noise, value=0.3, low=1 / 3 + 1e-12)
    claims.write_claims(
        path,
        claims_table(
            {
                **{r["id"]: Estimate(r["value"], r["low"], r["high"], r["n"]) for r in rows if r["value"] is not None},
                "figure6.countdown.all": nudged,
            }
        ),
    )
    assert path.read_bytes() == first
    found = {row["id"]: row for row in json.loads(first)}
    assert len(found) == len(CLAIMS)
    all_, long = found["figure6.countdown.all"], found["figure6.countdown.long"]
    assert [all_[k] for k in ("paper", "paper_n", "value", "low", "high", "n")] == [
        53.5,
        1000,
        0.3,
        0.333333,
        0.666667,
        5,
    ]
    assert (long["low"], long["verdict"]) == (None, "underpowered")
    assert math.copysign(1, long["value"]) == 1
    other = found["table2.countdown.sprint.accuracy"]
    assert (other["value"], other["n"], other["verdict"]) == (None, None, "not run")
    assert other["why"] == "needs the paper's 7B models on its Countdown problems"


# --- the authors' released outputs ------------------------------------------------------

SAVED = "table2.math500.sequential_reduction"
RECOUNT = Recount(SAVED, Estimate(16.2, 12.0, 20.0, 500), "tags out", "figures/a.svg", views=6, holds=4)


def test_recounts_come_back_as_they_were_written(tmp_path: Path) -> None:
    bare = Recount("curation.fold_below", Estimate(4, math.nan, math.nan, 3), "the number that fits")
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    claims.write_recounts(paths[0], [RECOUNT])
    claims.write_recounts(paths[1], [bare])
    first, second = claims.read_recounts(paths[0], tmp_path / "none.json", paths[1])
    assert first == RECOUNT
    assert (second.id, second.estimate.value, second.figure, second.views) == ("curation.fold_below", 4, "", 0)
    assert math.isnan(second.estimate.low)
    (row,) = json.loads(paths[0].read_text())
    assert row == {
        **{"id": SAVED, "value": 16.2, "low": 12.0, "high": 20.0, "n": 500, "under": "tags out"},
        **{"figure": "figures/a.svg", "views": 6, "holds": 4},
    }
    assert set(json.loads(paths[1].read_text())[0]) == {"id", "value", "low", "high", "n", "under", "figure"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "table2.math500.sequential_reductio"}, f"did you mean '{SAVED}'"),
        ({"id": 3}, "unknown claim 3"),
        ({"value": None}, "value, low and high are None, 12.0, 20.0"),
        ({"value": True}, "value, low and high are True"),
        ({"low": 21.0}, "value, low and high are 16.2, 21.0, 20.0"),
        ({"low": None}, "value, low and high are 16.2, None, 20.0"),
        ({"high": math.inf}, "value, low and high are 16.2, 12.0, inf"),
        ({"n": 0}, "n is 0"),
        ({"n": 5.0}, "n is 5.0"),
        ({"under": " "}, "'under' says nothing"),
        ({"figure": "../a.svg"}, "figure is '../a.svg', not figures/NAME.svg"),
        ({"figure": "figures/a.pdf"}, "not figures/NAME.svg"),
        ({"holds": 7}, "it holds under 7 of 6"),
        ({"views": None}, "it holds under 4 of None"),
        ({"nn": 3}, "unknown key 'nn'"),
    ],
)
def test_a_recount_refused_names_file_and_row(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "data" / "released-claims-16.json"
    good = {**RECOUNT.to_json(), "id": "table2.math500.total_increase"}
    path.parent.mkdir()
    path.write_text(json.dumps([good, {**RECOUNT.to_json(), **change}]))
    with pytest.raises(ValueError, match=re.escape(f"{path}, row 2: ")) as caught:
        claims.read_recounts(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"id": 3}', "not a list of recounts"),
        ("[3]", "row 1: expected an object, not '3'"),
        ('[{"id": "x", "value": 3}]', "row 1: it lacks low, high, n, under, figure"),
        (json.dumps([RECOUNT.to_json()] * 2), f"row 2: a second row for {SAVED}"),
    ],
)
def test_a_damaged_file_of_recounts_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        claims.read_recounts(path)
    assert said in str(caught.value)


def test_what_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    wrong = replace(RECOUNT, under="")
    with pytest.raises(ValueError, match=r"a\.json, row 2: 'under' says nothing"):
        claims.write_recounts(tmp_path / "a.json", [RECOUNT, wrong])
    assert not (tmp_path / "a.json").exists()


def test_every_row_says_what_its_number_is_of() -> None:
    own = {"figure6.countdown.all": interval(50, 60)}
    rows = {row["id"]: row for row in claims_table(own, ("countdown", "7b/math500"), recounts=[RECOUNT])}
    keys = ("of", "under", "figure", "views", "holds")
    assert [rows["figure6.countdown.all"][key] for key in keys] == ["this run", None, None, None, None]
    assert [rows[SAVED][key] for key in keys] == [
        *("the authors' released outputs", "tags out", "figures/a.svg", 6, 4),
    ]
    assert (rows[SAVED]["value"], rows[SAVED]["verdict"]) == (16.2, "reproduced")
    assert rows[SAVED]["why"].endswith("; reproduced under 4 of 6 ways of counting that differ")
    assert [rows["table2.math500.total_increase"][key] for key in keys] == [None] * 5
    with pytest.raises(ValueError, match="add '7b/math500' to the settings"):
        claims_table(own, recounts=[RECOUNT])
    with pytest.raises(ValueError, match=f"two estimates for the claim '{SAVED}'"):
        claims_table({SAVED: interval(1, 2)}, ("7b/math500",), recounts=[RECOUNT])


def test_report_has_a_page_on_the_released_outputs(tmp_path: Path) -> None:
    workspace = store.Workspace("quick", tmp_path)
    store.write_text(workspace.figures / "a.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>")
    manifest = {"notebooks": {}, "failures": {}, "provenance": {}}
    more = [
        replace(RECOUNT, id="table2.math500.total_increase", holds=6, under="all <b>tags</b> in"),
        Recount("curation.fold_below", certain(4, 3), "the number that fits", "figures/none.svg"),
    ]
    settings = ("countdown", "7b/math500", "examples")
    own = {"figure6.countdown.all": interval(50, 60)}
    claims.write_claims(workspace.claims, claims_table(own, settings, recounts=[RECOUNT, *more]))
    front = report.build([], workspace, manifest).read_text()
    assert front.count('href="released.html"') == 2
    header = front.partition("</header>")[0].replace('"', "")
    pills = re.findall(r"pill \w+>([a-z ]+)</span>&nbsp;(\d+)", header)
    assert pills == [("reproduced", "1"), ("not run", str(len(CLAIMS) - 4)), ("reproduced", "2"), ("different", "1")]
    assert SAVED not in front
    page = (workspace.report / "released.html").read_text()
    assert 'href="index.html"' in page
    assert page.count('<img src="figures/a.svg"') == 1
    assert re.findall("<h2>(.*?)</h2>", page) == ["Table 2", "Section 3.2 and A.2"]
    assert page.count("<b>depends on the counting</b>") == 1
    assert "reproduced under 4 of 6 ways of counting" in page
    assert "all &lt;b&gt;tags&lt;/b&gt; in" in page
    assert "16.2 <small>[12.0,&nbsp;20.0]</small>" in page
    assert "figures/none.svg" not in page
    assert "figure6.countdown" not in page
    claims.write_claims(workspace.claims, claims_table(own))
    assert "released.html" not in report.build([], workspace, manifest).read_text()
    assert not (workspace.report / "released.html").exists()


def attempt(problem: str, *, planner: int, executors: list[int], correct: bool, stages: int = 1) -> Attempt:
    """Stages of one plan and executors that start halfway through it; no executors: one sequential call."""
    calls: list[Call] = []
    waits: tuple[Wait, ...] = ()
    for stage in range(1, stages + 1):
        plan = Call(f"P{stage}", "planner" if executors else "sample", stage, waits=waits, completion_tokens=planner)
        half = (Wait(plan.id, planner // 2),)
        runs = [
            Call(f"E{stage}.{i}", "executor", stage, i, half, completion_tokens=t) for i, t in enumerate(executors, 1)
        ]
        waits = (Wait(plan.id), *(Wait(call.id) for call in runs))
        calls += [plan, *runs]
    return Attempt(problem, "m", "ok", correct, "", "", tuple(calls))


def test_estimates_from_a_run_by_hand() -> None:
    problems = [p.id for p in get_task("countdown").load(40, split="test", seed=0)]
    rng = random.Random(1)
    lengths = {p: rng.randint(100, 900) for p in problems}
    rft = [attempt(p, planner=lengths[p], executors=[], correct=True) for p in problems]
    control = [attempt(p, planner=lengths[p] + 5, executors=[], correct=True) for p in problems]
    sprint = [
        attempt(p, planner=20, executors=[40, 30], correct=p != problems[0], stages=1 + (lengths[p] > 500))
        for p in problems
    ]
    found = claims.countdown_estimates(rft, control, list(reversed(sprint)))
    assert set(found) <= {claim.id for claim in CLAIMS if claim.setting == claims.COUNTDOWN}
    assert found["table2.countdown.accuracy_difference"].value == pytest.approx(-2.5)
    mean = sum(lengths.values()) / 40
    path = sum(50 * (1 + (n > 500)) for n in lengths.values()) / 40  # half a plan and the longer execution
    assert found["figure6.countdown.all"].value == pytest.approx(100 * (1 - path / mean))
    ten = sorted(lengths.values())[-10:]
    longest = sum(50 * (1 + (n > 500)) for n in ten) / sum(ten)
    assert found["figure6.countdown.long"].value == pytest.approx(100 * (1 - longest))
    assert found["figure6.countdown.long"].n == 10
    more = found["figure6.countdown.long_minus_all"]
    assert more.value == pytest.approx(found["figure6.countdown.long"].value - found["figure6.countdown.all"].value)
    assert found["table2.direction.total_over_sequential"].value == pytest.approx(90 / 50)
    assert found["table2.direction.total_over_rft"].value == pytest.approx(path * 90 / 50 / mean)
    rows = {row["id"]: row for row in claims_table(found)}
    assert rows["table2.direction.total_over_sequential"]["verdict"] == "reproduced"
    with pytest.raises(ValueError, match="different problems"):
        claims.countdown_estimates(rft, control[:-1], sprint)


def test_the_papers_own_models_are_held_against_what_ran_of_them() -> None:
    problems = [f"p{k}" for k in range(40)]
    lengths = dict(zip(problems, range(250, 10250, 250), strict=True))
    levels = {p: 1.0 + k % 5 for k, p in enumerate(problems)}
    runs = {
        "base": [attempt(p, planner=9, executors=[], correct=k < 30) for k, p in enumerate(problems)],
        "rft": [attempt(p, planner=lengths[p], executors=[], correct=k < 20) for k, p in enumerate(problems)],
        "rft-control": [attempt(p, planner=lengths[p], executors=[], correct=True) for p in problems],
        "sprint": [
            attempt(p, planner=100, executors=[50, 40], correct=k < 22, stages=1 + (levels[p] == 5))
            for k, p in enumerate(problems)
        ],
    }
    assert claims.task_estimates("math500", runs, [], levels) == {}
    settings = ["7b/math500", "rivals/math500"]
    found = claims.task_estimates("math500", runs, settings, levels)
    value = {id_: estimate.value for id_, estimate in found.items()}
    assert value["table2.math500.rft.accuracy"] == 50
    assert value["table2.math500.accuracy_difference"] == pytest.approx(5)
    assert value["figure4.math500.base_r1_distill_7b.accuracy"] == 75
    assert value["table2.math500.rft.sequential_tokens"] == value["table2.math500.rft.total_tokens"] == 5125
    path, total = 100 * 1.2, 190 * 1.2  # half a plan and the longer execution, twice for a fifth of the problems
    assert value["table2.math500.sprint.sequential_tokens"] == pytest.approx(path)
    assert value["table2.math500.total_over_sequential"] == pytest.approx(1.9)
    assert value["table2.math500.sequential_reduction"] == pytest.approx(100 * (1 - path / 5125))
    assert value["table2.math500.total_increase"] == pytest.approx(100 * (total / 5125 - 1))
    assert value["figure4.math500.saved_sequential_tokens_vs_rft"] == pytest.approx(5125 - path)
    assert value["figure5.math500.stages_by_level"] == 1
    assert found["figure6.math500.rft_over_8000_tokens"].n == 8
    assert found["figure6.math500.short_problems_controlled"].n == 3
    claims_table(found, ["7b/math500", "rivals/math500"])
    short = claims.task_estimates("math500", {m: run[10:20] for m, run in runs.items()}, settings, {})
    assert not [id_ for id_ in short if id_.startswith(("figure5", "figure6"))]  # no such problems
    other = claims.task_estimates("gpqa", runs, ["7b/gpqa_diamond"], {})
    assert other["figure6.gpqa_diamond.long"].n == 10
    assert {CLAIM.setting for CLAIM in CLAIMS if CLAIM.id in other} == {"7b/gpqa_diamond"}


def test_stages_by_difficulty_sees_a_real_trend() -> None:
    from sprint_lib.tasks.countdown import first_moves_tried, numbers_of

    problems = [p.id for p in get_task("countdown").load(60, split="test", seed=1)]
    tried = {problem: first_moves_tried(*numbers_of(problem)) for problem in problems}
    runs = [[attempt(p, planner=9, executors=[], correct=True) for p in problems]] * 2
    sprint = [attempt(p, planner=9, executors=[9], correct=True, stages=1 + tried[p] // 6) for p in problems]
    found = claims.countdown_estimates(*runs, sprint)["figure5.direction.stages_by_difficulty"]
    order = sorted(tried.values())
    expected = sum(1 + t // 6 for t in order[-15:]) / 15 - sum(1 + t // 6 for t in order[:15]) / 15
    assert found.value == pytest.approx(expected)
    assert found.low > 0


def test_papers_numbers_for_figures() -> None:
    assert claims.properties()["sprint"] == dict.fromkeys(("parallel", "adaptive", "optimised", "multi_step"), True)
    rows = {row["method"]: row for row in claims.table2("countdown")}
    assert (rows["rft"]["n"], rows["rft"]["accuracy"], rows["sprint"]["sequential"]) == (1000, 84.9, 2284)
    assert math.isnan(rows["sprint"]["total"])
    assert {row["method"]: row for row in claims.table2("math500")}["sprint"]["total"] == 3622
    assert claims.figure6("countdown") == {"all": 53.5, "long": 65.0}
    assert claims.runtime("math500") == {"sprint": 36.92, "rft": 40.57}
    assert claims.apr("figure7")["apr_cond10.tokens"] == {"supervised": 19895, "grpo": 22265}
    assert claims.apr("figure4a")["apr_at_20k_tokens"] == {"": 80.1}
    assert list(claims.apr("figure6")["sos_plus_accuracy"].values()) == [45.1, 51.0, 56.7, 56.9, 57.3]
    with pytest.raises(KeyError, match="there are: math500, countdown"):
        claims.table2("aime")


def test_what_no_run_could_contradict_is_marked() -> None:
    built = {claim.id for claim in CLAIMS if claim.basis == claims.BUILT}
    keys, fixed = ("parallel", "adaptive", "optimised", "multi_step"), ("reasoning_models", "repeated_sampling")
    table1 = {f"table1.{system}.{key}" for system in fixed for key in keys}
    table1 |= {f"table1.{system}.optimised" for system in claims.properties()}
    assert built == {*table1, "curation.min_steps_per_stage", "curation.max_stages"}
    assert all(BY_ID[id_].setting in (claims.COUNTDOWN, "rivals") for id_ in built)
    rows = claims_table({"curation.max_stages": certain(12, 9), "figure6.countdown.all": interval(50, 60)})
    found = {row["id"]: row for row in rows}
    assert list(rows[0])[12:] == ["basis", "of", "under", "figure", "views", "holds"]
    assert (found["figure6.countdown.all"]["basis"], found["curation.max_stages"]["basis"]) == (
        claims.MEASURED,
        claims.BUILT,
    )
    assert found["curation.max_stages"]["why"] == "by construction: equal to the paper's 12"


@pytest.mark.parametrize(
    ("hits", "expected"), [(80, "reproduced"), (60, "reproduced"), (41, "underpowered"), (20, "different")]
)
def test_a_yes_of_table_1_is_more_than_half_of_the_attempts(hits: int, expected: str) -> None:
    share = statistics.proportion([True] * hits + [False] * (80 - hits))
    assert verdict(BY_ID["table1.sprint.parallel"], share)[0] == expected


def test_report_counts_apart_what_is_so_by_construction() -> None:
    results = {"figure6.countdown.all": interval(50, 60), "figure6.countdown.long": interval(-9, -1)}
    rows = claims_table({**results, "curation.max_stages": certain(12, 9), "table1.sprint.optimised": certain(1, 9)})
    manifest = {"notebooks": {}, "provenance": {}}
    pills = re.findall(
        r"pill \w+>([a-z ]+)</span>&nbsp;(\d+)", report._header("quick", manifest, rows).replace('"', "")
    )
    assert pills == [("reproduced", "1"), ("different", "1"), ("not run", str(len(CLAIMS) - 4)), ("reproduced", "2")]
    measured, _, built = report._claims(rows).partition("So by construction: 2")
    assert "figure6.countdown.all" in measured
    assert "curation.max_stages" not in measured
    assert "curation.max_stages" in built.partition("<details>")[0]
    older = [{key: value for key, value in row.items() if key != "basis"} for row in rows]
    assert report.by_basis(older) == (older, [])


def test_margins_are_the_papers_sampling_error() -> None:
    assert BY_ID["table2.math500.sprint.accuracy"].margin == pytest.approx(
        statistics.mean([100.0] * 463 + [0.0] * 37).half_width, rel=0.05
    )
