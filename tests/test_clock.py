"""The wall clock's parts: runs in turn, where the time goes, what a cache could have given, the latency model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from sprint_lib import models, serving, store, tables
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation import clock, latency, statistics
from sprint_lib.evaluation.latency import Cost, Counts, Hit, Spent
from sprint_lib.evaluation.runs import RunSpec
from sprint_lib.store import Workspace
from sprint_lib.tasks import get_task

QUESTION = "Numbers: 2 3\nTarget: 5\n"
PLAN = "<Plan_1>\n<prompt_1.1>a</prompt_1.1>\n<prompt_1.2>b</prompt_1.2>\n"
TEXT = (
    QUESTION
    + PLAN
    + "</Plan_1>\n<Execution_1>\n<execution_1.1>\none\n</execution_1.1>\n<execution_1.2>\ntwo\n</execution_1.2>\n"
    + "</Execution_1>\n<Final_answer>\nAnswer 2 + 3 = 5\n</Final_answer>\n"
)


def call(id_: str, waits: tuple[Wait, ...], times: tuple[float, float, float], tokens: int = 10) -> Call:
    role = "executor" if "/" in id_ else "planner"
    stage = int(id_[1])
    index = int(id_[-1]) if "/" in id_ else 0
    started, first, ended = times
    return Call(id_, role, stage, index, waits, "", 0, 0, tokens, started, first, ended)


def staged() -> Attempt:
    calls = (
        call("P1", (), (0.1, 0.3, 1.0)),
        call("P1/E1", (Wait("P1", 5),), (0.6, 0.7, 2.0), 20),
        call("P1/E2", (Wait("P1", 9),), (0.9, 1.1, 3.0), 20),
        call("P2", (Wait("P1"), Wait("P1/E1"), Wait("P1/E2")), (3.2, 3.7, 4.0)),
    )
    return Attempt("a", "sprint", "ok", True, "", TEXT, calls, wall_seconds=4.1)


# --- where the time goes ----------------------------------------------------------------


def test_the_wall_clock_is_a_sum_of_three_parts() -> None:
    found = latency.spent(staged())
    # back from P2 (0.5 to its first token, then 0.3), E2 (0.2 and 1.9), P1 until E2 was sent (0.2 and 0.6)
    assert found.first_tokens == pytest.approx(0.5 + 0.2 + 0.2)
    assert found.decoding == pytest.approx(0.3 + 1.9 + 0.6)
    assert found.between == pytest.approx(0.1 + 0.2 + 0.1)  # before P1, before P2, after P2
    assert sum((found.first_tokens, found.decoding, found.between)) == pytest.approx(4.1)
    assert latency.spent(replace(staged(), calls=())) == Spent(between=4.1)


def test_what_was_cancelled_held_nothing_up() -> None:
    attempt = staged()
    cancelled = replace(attempt.calls[1], ended=9.0, finish="cancelled")
    waits = (Wait("P1"), Wait("P1/E2"))
    calls = (attempt.calls[0], cancelled, attempt.calls[2], replace(attempt.calls[3], waits=waits))
    assert latency.spent(replace(attempt, calls=calls)) == latency.spent(attempt)
    assert latency.stragglers(replace(attempt, calls=calls)) == []


def test_stragglers() -> None:
    ((width, ratio),) = latency.stragglers(staged())
    assert (width, ratio) == (2, pytest.approx(2.1 / 1.75))  # 1.4 and 2.1 seconds


def test_first_tokens_are_what_the_server_says_and_the_rest() -> None:
    attempts = [
        replace(staged(), problem=problem) for problem in ("a", "b", "c")
    ]  # 0.2, 0.1, 0.2, 0.5 s to first tokens
    said = [{"problem": p, "calls": 4.0, "queue": 0.08, "prefill": 0.6} for p in ("a", "b")]  # nothing of c
    frame = tables.first_tokens({"sprint": attempts, "rft": attempts}, {"sprint": said, "rft": []}).set_index("part")
    assert set(frame["method"]) == {"sprint"}
    assert set(frame["n"]) == {2}
    assert set(frame["calls"]) == {8}
    assert frame["milliseconds"].to_dict() == pytest.approx({"queue": 20, "prefill": 150, "way": 80})
    assert frame["share"].to_dict() == pytest.approx({"queue": 8, "prefill": 60, "way": 32})
    assert tables.first_tokens({"rft": attempts}, {}).empty


# --- the cache --------------------------------------------------------------------------


def test_what_could_be_cached_is_what_an_earlier_call_had_in_whole_blocks() -> None:
    encode = lambda text: list(text.encode())  # noqa: E731
    sizes = {
        "P1": len(QUESTION),
        "P1/E1": len(QUESTION + "<Plan_1>\n<prompt_1.1>a</prompt_1.1>\n<execution_1.1>\n"),
        "P1/E2": len(QUESTION + "<Plan_1>\n<prompt_1.1>a</prompt_1.1>\n<prompt_1.2>b</prompt_1.2>\n<execution_1.2>\n"),
        "P2": len(TEXT.partition("<Final_answer>")[0]),
    }
    wrote = {"P1": PLAN + "</Plan_1>", "P1/E1": "one\n", "P1/E2": "two\n"}
    attempt = staged()
    calls = tuple(
        replace(c, completion=wrote.get(c.id, ""), prompt_tokens=sizes[c.id], cached_tokens=4) for c in attempt.calls
    )
    attempt = replace(attempt, calls=calls)
    found = {hit.call: hit for hit in latency.hits(attempt, QUESTION, encode, 1)}
    assert found["P1"] == Hit("P1", "first", sizes["P1"], 0, 4)
    # E1 and its planner part after `</prompt_1.1>\n<`; the executor's own tag follows
    assert found["P1/E1"].cacheable == len(QUESTION + "<Plan_1>\n<prompt_1.1>a</prompt_1.1>\n<")
    assert found["P1/E2"].cacheable == len(QUESTION + PLAN) + len("<")
    # the join: all of the plan, and not the executions, which were written behind other texts
    assert found["P2"].kind == "join"
    assert found["P2"].cacheable == len(QUESTION + PLAN + "</Plan_1>")
    blocks = {hit.call: hit.cacheable for hit in latency.hits(attempt, QUESTION, encode, 32)}
    assert blocks == {id_: hit.cacheable // 32 * 32 for id_, hit in found.items()}
    odd = replace(attempt, calls=(replace(calls[0], prompt_tokens=5), *calls[1:]))
    assert [hit.call for hit in latency.hits(odd, QUESTION, encode, 1)] == ["P1/E1", "P1/E2", "P2"]


def test_table_of_the_cache() -> None:
    frame = tables.cache([[Hit("P1", "first", 10, 0, 0), Hit("P2", "join", 90, 64, 32)]] * 3).set_index("kind")
    assert frame.loc["join", "of_cacheable"] == 50
    assert frame.loc["all", "cached"] == pytest.approx(32)
    assert math.isnan(frame.loc["first", "of_cacheable"])
    assert "executor" not in frame.index


# --- the latency model ------------------------------------------------------------------


def test_counts_are_those_of_the_path() -> None:
    attempt = staged()
    calls = tuple(replace(c, prompt_tokens=100, cached_tokens=60) for c in attempt.calls)
    # P1 up to token 9, E2, P2
    assert latency.counts(replace(attempt, calls=calls)) == Counts(3, 120, 9 + 20 + 10, 60 - 39)


def test_the_fit_finds_costs_that_made_the_seconds_and_none_below_zero() -> None:
    rng = np.random.default_rng(1)
    counted = [Counts(*map(float, row)) for row in rng.integers(1, 900, (30, 4))]
    true = Cost(calls=0.02, read=0.0001, path=0.004, beside=0.0)
    found = latency.fit(counted, [true.seconds(c) for c in counted])
    assert found.path == pytest.approx(true.path, rel=1e-6)
    assert found.calls == pytest.approx(true.calls, rel=1e-4)
    odd = [true.seconds(c) - 0.001 * c.beside for c in counted]  # what no cost of zero or more explains
    assert latency.fit(counted, odd).beside == 0
    assert min(latency.fit(counted, odd).calls, latency.fit(counted, odd).read) >= 0
    with pytest.raises(ValueError, match="4 costs needs as many attempts"):
        latency.fit(counted[:3], [1.0, 2.0, 3.0])


def test_explained_variance_is_of_predictions_and_not_of_a_line_through_them() -> None:
    assert latency.r2([1, 2, 3], [1, 2, 3]) == 1
    assert latency.r2([1, 2, 3], [2, 2, 2]) == 0
    assert latency.r2([1, 2, 3], [2, 4, 6]) < 0  # perfectly correlated, and wrong
    assert math.isnan(latency.r2([1], [1]))


def test_more_gpus_make_every_token_cheaper_and_none_free() -> None:
    one, eight = (latency.assumed(latency.Hardware(), gpus, 1000.0) for gpus in (1, 8))
    weights = 7.6e9 * 2 / (1.555e12 * 0.6)
    assert one.path == pytest.approx(weights + 0.001 + one.beside)
    assert one.beside == pytest.approx(57_344 * 1000 / (1.555e12 * 0.6))
    assert eight.beside == pytest.approx(one.beside / 8)
    assert one.path > eight.path > weights / 8
    assert eight.calls > one.calls > 0


# --- tables -----------------------------------------------------------------------------


def timed(id_: str, seconds: float, tokens: int, correct: bool = True) -> Attempt:
    only = Call("S", "sample", completion_tokens=tokens, ended=seconds)
    return Attempt(id_, "m", "ok", correct, "", "", (only,), wall_seconds=seconds)


def test_speed_up_and_the_share_of_the_tokens_ratio_that_is_realised() -> None:
    base = [timed(str(k), 4.0 + k, 400 + 100 * k) for k in range(8)]
    other = [timed(str(k), (4.0 + k) / 2, (400 + 100 * k) // 4, correct=k > 0) for k in range(8)]
    frame = tables.speed_up(base, other, base).set_index(["part", "quantity"])
    assert frame.loc[("all problems", "seconds"), "value"] == pytest.approx(2)
    assert frame.loc[("all problems", "sequential tokens"), "value"] == pytest.approx(4)
    assert frame.loc[("longest quarter", "realised"), "value"] == pytest.approx(50)
    assert frame.loc[("longest quarter", "seconds"), "n"] == 2
    assert frame.loc[("both right", "seconds"), "n"] == 7
    assert frame.loc[("median problem", "seconds"), "value"] == pytest.approx(2)
    with pytest.raises(ValueError, match="different problems"):
        tables.speed_up(base, [replace(a, problem=a.problem + "x") for a in other], base)


def test_the_median_has_the_bounds_of_two_order_statistics() -> None:
    found = statistics.median(range(1, 11))
    assert (found.value, found.low, found.high) == (5.5, 2, 9)  # the textbook interval for n = 10
    assert math.isnan(statistics.median([1, 2, 3, 4, 5]).low)


@pytest.mark.parametrize(("sprint", "until"), [((2, 2, 2), math.inf), ((0.5, 2, 2), 0.0), ((2, 1, 0.5), 2.0)])
def test_the_load_at_which_parallel_stops_paying(sprint: tuple[float, ...], until: float) -> None:
    rows = [
        {"run": run, "at_once": level, "n": 10, "correct": 9, "tokens": 100, "seconds": level / rate}
        for run, rates in (("a", (1, 1, 1)), ("b", sprint))
        for level, rate in zip((1, 2, 4), rates, strict=True)
    ]
    frame = tables.loaded(rows, {"a": "rft", "b": "sprint"})
    assert tables.pays_until(frame) == pytest.approx(until)
    assert frame["tokens_per_second"].iloc[0] == pytest.approx(10)


# --- measuring, on the real engine ------------------------------------------------------


def specs(model: Path, n: int = 2) -> list[RunSpec]:
    engine = EngineSpec(model=str(model))
    linear, plan = {"max_tokens": 8}, {"max_plan_tokens": 8, "max_stages": 1, "retries": 0}
    return [
        RunSpec("wall-a", "sequential", n=n, engine=engine, settings=linear),
        RunSpec("wall-b", "sprint", n=n, engine=engine, settings=plan),
    ]


def test_runs_in_turn_and_goes_on_where_it_stopped(tiny_model: Path, tmp_path: Path) -> None:
    workspace, given = Workspace("t", tmp_path), {"kind": "embedded", "dtype": "float64"}
    with clock.Bench(given, workspace) as bench:
        found = bench.in_turn(specs(tiny_model))
        loads = bench.under_load(specs(tiny_model), [1, 2], "wall-load")
        streams = bench.streams(specs(tiny_model)[0], [1, 2], 4, "wall-streams")
    assert [len(attempts) for attempts in found.values()] == [2, 2]
    assert [a.problem for a in found["wall-a"]] == [a.problem for a in found["wall-b"]]
    assert [(r["run"], r["at_once"], r["n"]) for r in loads] == [
        *[("wall-a", 1, 8), ("wall-b", 1, 8)],
        *[("wall-a", 2, 8), ("wall-b", 2, 8)],
    ]
    assert all(len(r["step_seconds"]) == clock.REPEATS for r in streams)
    before = {name: store.read_log(workspace.attempts(name)) for name in found}
    log = workspace.attempts("wall-b")
    log.write_bytes(log.read_bytes()[:-10])  # killed while it wrote its last attempt
    with clock.Bench(given, workspace) as bench:
        again = bench.in_turn(specs(tiny_model), "wall-server")
        assert bench.told(specs(tiny_model), "wall-server") == {"wall-a": [], "wall-b": []}  # an engine says nothing
        assert bench.under_load(specs(tiny_model), [1, 2], "wall-load") == loads  # nothing is measured twice
    assert store.read_log(workspace.attempts("wall-a")) == before["wall-a"]
    assert [a.problem for a in again["wall-b"]] == [a.problem for a in found["wall-b"]]


def test_a_complete_run_opens_no_engine(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace("t", tmp_path)
    with clock.Bench({}, workspace) as bench:
        bench.in_turn(specs(tiny_model))
    monkeypatch.setattr(clock, "engine_for", None)
    with clock.Bench({}, workspace) as bench:
        assert len(bench.in_turn(specs(tiny_model))["wall-a"]) == 2
    with pytest.raises(TypeError), clock.Bench({"dtype": "float64"}, workspace) as bench:
        bench.in_turn(specs(tiny_model))  # another engine: other measurements


def test_runs_in_turn_are_of_the_same_problems(tiny_model: Path, tmp_path: Path) -> None:
    one, other = specs(tiny_model)
    with clock.Bench({}, Workspace("t", tmp_path)) as bench, pytest.raises(ValueError, match="same problems"):
        bench.in_turn([one, replace(other, seed=9)])


def test_who_begins_changes() -> None:
    assert [clock.turned("abc", k) for k in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


@pytest.mark.slow
def test_behind_a_real_server_every_attempt_finds_the_cache_empty(tmp_path: Path) -> None:
    """Two runs of the same seeds and texts: what the first left in the cache would serve the second."""
    try:
        serving.environment()
    except serving.ServingError as error:
        pytest.skip(str(error))
    folder = str(models.path("countdown-sprint"))
    one = RunSpec("wall-a", "sprint", n=2, seed=2, engine=EngineSpec(model=folder), settings={"temperature": 0.0})
    with clock.Bench({"kind": "vllm", "dtype": "float32"}, Workspace("t", tmp_path)) as bench:
        found = bench.in_turn([one, replace(one, name="wall-b")], "wall-server")
        told = bench.told([one, replace(one, name="wall-b")], "wall-server")
    for name, attempts in found.items():  # two clocks, but every call
        assert [(r["problem"], r["calls"]) for r in told[name]] == [(a.problem, len(a.calls)) for a in attempts]
        waited = sum(call.first_token - call.started for attempt in attempts for call in attempt.calls)
        assert 0 < sum(r["prefill"] for r in told[name]) <= sum(r["prefill"] + r["queue"] for r in told[name]) < waited
    task = get_task("countdown")
    questions = {p.id: p.question for p in task.load(2, split="test", seed=2)}
    encode = Tokenizer.from_file(f"{folder}/tokenizer.json")
    for attempts in found.values():
        hits = [h for a in attempts for h in latency.hits(a, questions[a.problem], lambda t: encode.encode(t).ids, 32)]
        assert len(hits) == sum(len(a.calls) for a in attempts) > 4
        assert sum(h.cached for h in hits) >= 0.95 * sum(h.cacheable for h in hits)
        joins = [h for h in hits if h.kind == "join"]
        assert sum(h.cached for h in joins) <= sum(h.cacheable for h in joins) + 32 * len(joins)
