"""Promises: the calls by hand, the contexts that training shows, hostile text, limits, failures, the shipped model."""

from __future__ import annotations

import asyncio
import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import scripted
from hostile import strings
from scripted import Script, ScriptedEngine, Until
from test_curation import curated, solver_traces, trajectories
from test_methods import PROBLEM, RIGHT, Exact

from sprint_lib import accounting, models
from sprint_lib.calls import STATUSES, Attempt, Wait, in_order
from sprint_lib.curation.samples import pasta_samples, read_samples
from sprint_lib.engines import EngineError, EngineSpec, open_engine
from sprint_lib.loop import stable_seed
from sprint_lib.methods import attempt_seed
from sprint_lib.methods.pasta import WORDS, Pasta, PastaSettings, promise_tag, promises
from sprint_lib.tasks import Problem
from sprint_lib.tasks.countdown import Countdown
from sprint_lib.training import promises as training
from sprint_lib.training.sft import Job, encode

A, B = promise_tag("a", 12), promise_tag("b", 8)


def name(prompt: str) -> str:
    """The call that a context belongs to: `m1`, the main thread at first, `b1.2`, the body of its second promise."""
    *before, now = prompt.split("<sync/>\n")
    written = now if not before else now.rpartition("</async>\n")[2]
    kind = f"b{len(before) + 1}.{written.count('<promise')}" if prompt.endswith("<async>\n") else f"m{len(before) + 1}"
    return kind


@pytest.fixture(autouse=True)
def _language(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted engine knows calls by their contexts; here a promise is three tokens and its topic, a tag is one."""
    monkeypatch.setattr(scripted, "who", name)
    monkeypatch.setattr(scripted, "_TOKEN", re.compile(r'<promise topic="|" tens=|/>|</?\w+/?>|\n| *[^\s<"/]+| +|.'))


def solve(replies: Script, engine: ScriptedEngine | None = None, **settings: Any) -> Attempt:
    chosen = PastaSettings.from_dict(settings)
    attempt = asyncio.run(Pasta().solve(PROBLEM, Exact(), engine or ScriptedEngine(replies), chosen))
    in_order(attempt.calls)
    return attempt


# --- the calls, by hand -----------------------------------------------------------------

TWO_SYNCS: Script = {
    "m1": f"{A}\n{B}\nmore words\n<sync/>",  # 5 + 1 + 5 + 1 + 2 + 1 + 1 = 16 tokens
    "b1.1": "one\n</async>",  # 3
    "b1.2": "one two three\n</async>",  # 5
    "m2": f"{A}\n<sync/>",  # 5 + 1 + 1 = 7
    "b2.1": "one two\n</async>",  # 4
    "m3": RIGHT,  # 3
}


def test_what_two_syncs_cost() -> None:
    attempt = solve(TWO_SYNCS)
    assert (attempt.status, attempt.correct, attempt.answer) == ("ok", True, "5")
    assert [(c.id, c.role, c.completion_tokens) for c in attempt.calls] == [
        ("M1", "main", 16),
        ("M1/B1", "async", 3),
        ("M1/B2", "async", 5),
        ("M2", "main", 7),
        ("M2/B1", "async", 4),
        ("M3", "main", 3),
    ]
    assert [c.waits for c in attempt.calls] == [
        (),
        (Wait("M1", 5),),  # as soon as the first promise is closed
        (Wait("M1", 11),),
        (Wait("M1"), Wait("M1/B1"), Wait("M1/B2")),
        (Wait("M2", 5),),
        (Wait("M2"), Wait("M2/B1")),
    ]
    # To the first sync: the main thread writes 16, its bodies are there after 5 + 3 and 11 + 5. To the second: 7
    # against 5 + 4. Serially: 16 + 5, then 7 + 4, then 3.
    found = accounting.costs(attempt)
    assert (found["sequential"], found["serial"], found["total"]) == (16 + 9 + 3, 21 + 11 + 3, 38)
    assert (found["calls"], found["stages"]) == (6, 2)
    assert [s.call for s in accounting.critical_path(attempt)][-3:] == ["M2", "M2/B1", "M3"]


def test_the_main_thread_reads_the_bodies_in_the_order_of_their_promises() -> None:
    engine = ScriptedEngine(TWO_SYNCS)
    attempt = solve({}, engine)
    first = f"{A}\n{B}\nmore words\n<sync/>\n<async>\none\n</async>\n<async>\none two three\n</async>\n"
    second = f"{A}\n<sync/>\n<async>\none two\n</async>\n"
    assert engine.asked("m3")[0].prompt == PROBLEM.question + first + second
    assert attempt.text == PROBLEM.question + first + second + RIGHT
    assert engine.asked("b1.2")[0].prompt == f"{PROBLEM.question}{A}\n{B}\n<async>\n"
    assert engine.asked("b2.1")[0].prompt == f"{PROBLEM.question}{first}{A}\n<async>\n"


def test_a_body_is_written_while_the_main_thread_goes_on() -> None:
    engine = ScriptedEngine({**TWO_SYNCS, "m1": (f"{A}\n", Until("b1.1"), f"{B}\nmore words\n<sync/>")})
    assert solve({}, engine).correct
    assert engine.log.index("+b1.1") < engine.log.index("-m1")


def test_an_engine_that_delivers_all_at_once_costs_the_whole_call() -> None:
    attempt = solve({}, ScriptedEngine(TWO_SYNCS, chunk=100))
    assert attempt.correct
    assert {w for c in attempt.calls if c.role == "async" for w in c.waits} == {Wait("M1", 16), Wait("M2", 7)}
    assert accounting.costs(attempt)["sequential"] == accounting.costs(attempt)["serial"] == 35


def test_promises_that_are_open_at_the_end_are_waited_for() -> None:
    assert solve({"m1": f"{A}\n", "b1.1": "so\n</async>", "m2": RIGHT}).correct


# --- hostile text -----------------------------------------------------------------------

GARBAGE = "<promise topic= <sync/ </async> <async>"


@pytest.mark.parametrize(
    ("replies", "status", "calls"),
    [
        ({"m1": ""}, "refused", 2),
        ({"m1": " \n<sync/>"}, "refused", 2),
        ({"m1": "I give up.\n"}, "refused", 1),
        ({"m1": GARBAGE}, "malformed", 2),
        ({"m1": ["<async>\n" + RIGHT, RIGHT]}, "ok", 2),  # a body where none was promised; then as it should be
        ({"m1": f'{A}\n<promise topic="b"/>\n<sync/>', "b1.1": "so\n"}, "malformed", 4),
        ({"m1": f"{A}\n<async>\nso\n</async>\n{RIGHT}", "b1.1": "so\n"}, "malformed", 4),  # writes the body itself
        ({"m1": "so " * 99}, "truncated", 2),
        ({"m1": f"{A}\n" + "so " * 99, "b1.1": "so\n"}, "truncated", 4),
        ({"m1": f"{A}\n<sync/>", "b1.1": "", "m2": RIGHT}, "ok", 4),  # an empty body is tried again and stands
        ({"m1": f"{A}\n<sync/>", "b1.1": "so " * 99, "m2": RIGHT}, "ok", 4),
        ({"m1": f"{A}\n<sync/>", "b1.1": f"so\n{A}\n<sync/>", "m2": RIGHT}, "ok", 3),  # cut at the first tag
        ({"m1": f"{A}\n<sync/>", "b1.1": "so\n", "m2": GARBAGE}, "malformed", 4),
    ],
)
def test_hostile_text_ends_as_a_classified_attempt(replies: Script, status: str, calls: int) -> None:
    attempt = solve(replies, max_main_tokens=40, max_body_tokens=40)
    assert (attempt.status, len(attempt.calls)) == (status, calls)
    assert attempt.correct == (status == "ok")


def test_no_text_of_a_body_is_taken_for_the_main_thread() -> None:
    engine = ScriptedEngine({"m1": f"{A}\n<sync/>", "b1.1": f"{RIGHT}<sync/>\n{A}", "m2": "Answer 6\n"})
    attempt = solve({}, engine)
    assert (attempt.answer, attempt.correct) == ("6", False)
    assert engine.asked("m2")[0].prompt == f"{PROBLEM.question}{A}\n<sync/>\n<async>\n{RIGHT}</async>\n"


def test_any_text_is_survived_within_the_limits() -> None:
    fragments = [*WORDS, A, B, "\n", " 3", RIGHT, "<promise", "<sync", "&quot;"]
    texts = list(strings(300, 7, [f"{A}\n{B}\n<sync/>\n", RIGHT, "so\n"], fragments))
    rng = random.Random(0)
    seen = set()
    for _ in range(150):
        engine = ScriptedEngine(lambda request: rng.choice(texts))
        attempt = solve({}, engine, max_syncs=2, max_promises=3, max_main_tokens=60, max_body_tokens=30)
        seen.add(attempt.status)
        assert attempt.status in STATUSES
        assert len(attempt.calls) <= 2 * 3 * (1 + 2 * 3)  # two tries of three main calls, two tries of three bodies
        assert Attempt.from_json(attempt.to_json()) == attempt
    assert {"ok", "refused", "malformed", "truncated"} & seen >= {"refused", "malformed", "truncated"}


def test_a_topic_may_be_any_text() -> None:
    for topic in ('say "<sync/>"', "</async>", "a\nb", "&lt;", " "):
        assert promises(f"x {promise_tag(topic, 30)} y\n") == [topic]
    assert promises('<promise topic="a" tens= 1') is None
    assert promises("a < b") == []
    assert promise_tag("a", 3).endswith(" tens= 1/>")


# --- limits, failures, seeds ------------------------------------------------------------


def test_more_syncs_than_allowed_are_malformed_and_nothing_is_started_for_them() -> None:
    engine = ScriptedEngine({"m1": f"{A}\n<sync/>", "b1.1": "so\n", "m2": f"{A}\n<sync/>"})
    attempt = solve({}, engine, max_syncs=1)
    assert (attempt.status, [c.id for c in attempt.calls]) == ("malformed", ["M1", "M1/B1", "M2", "M2~2"])


def test_more_promises_than_allowed_are_malformed_and_no_more_bodies_are_started() -> None:
    attempt = solve({"m1": f"{A}\n{A}\n{A}\n<sync/>", "b1.1": "so\n", "b1.2": "so\n"}, max_promises=2, retries=0)
    assert (attempt.status, [c.id for c in attempt.calls]) == ("malformed", ["M1", "M1/B1", "M1/B2"])


def test_at_temperature_0_nothing_is_tried_again() -> None:
    assert [c.id for c in solve({"m1": ""}, temperature=0.0).calls] == ["M1"]


@pytest.mark.parametrize("key", ["max_syncs", "max_promises", "max_main_tokens", "max_body_tokens"])
def test_limits_must_allow_something(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is 0; it must be at least 1"):
        PastaSettings.from_dict({key: 0})


@pytest.mark.parametrize("call", ["m1", "b1.1", "b1.2", "m2", "b2.1", "m3"])
def test_an_engine_that_fails_anywhere_is_an_attempt(call: str) -> None:
    attempt = solve({**TWO_SYNCS, call: ("half ", EngineError("out of memory"))})
    assert (attempt.status, attempt.correct) == ("engine_error", False)
    assert "out of memory" in attempt.note
    failed = [c for c in attempt.calls if c.finish == "error"]
    assert [c.id.lower().replace("/", ".").replace("m", "") for c in failed] == [
        call.replace("m", "").replace("b1.", "1.b").replace("b2.", "2.b")
    ]


def test_cancelling_ends_every_call() -> None:
    engine = ScriptedEngine({"m1": (f"{A}\n", Until("never")), "b1.1": (Until("never"),)})

    async def go() -> None:
        work = asyncio.create_task(Pasta().solve(PROBLEM, Exact(), engine, PastaSettings()))
        while len(engine.requests) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(go())
    assert sorted(engine.cancelled) == ["b1.1", "m1"]


def test_a_seed_depends_on_the_call_alone() -> None:
    engine = ScriptedEngine({**TWO_SYNCS, "b1.1": ["", "so\n"]})
    attempt = solve({}, engine)
    seed = attempt_seed(PastaSettings(), PROBLEM)
    ids = [c.id for c in attempt.calls]
    assert "M1/B1~2" in ids
    assert sorted(r.seed for _, r in engine.requests) == sorted(stable_seed(seed, id_) for id_ in ids)


# --- samples ----------------------------------------------------------------------------


def count(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("number", range(6))
def test_samples_are_exactly_the_calls_of_the_method(number: int) -> None:
    trajectory = [t for t in trajectories() if all(len(s.prompts) == len(s.executions) > 0 for s in t.stages)][number]
    samples = pasta_samples(trajectory.question, trajectory, "t", count)
    written = {sample.context: sample.completion + sample.stop for sample in samples}
    engine = ScriptedEngine(lambda request: written[request.prompt])
    problem = Problem("p", trajectory.question, "")
    attempt = asyncio.run(Pasta().solve(problem, Exact(), engine, PastaSettings()))
    assert sorted(r.prompt for _, r in engine.requests) == sorted(sample.context for sample in samples)
    assert sorted(c.completion for c in attempt.calls) == sorted(sample.completion for sample in samples)
    assert attempt.text == samples[-1].context + samples[-1].completion


def test_no_body_sees_a_sibling_and_main_contexts_grow() -> None:
    for item in curated(solver_traces(8), cap=3).kept:
        trajectory = item.packing.trajectory
        samples = pasta_samples(trajectory.question, trajectory, "t", count)
        bodies = [s for s in samples if s.role == "async"]
        assert [s.completion for s in bodies] == [e.text for stage in trajectory.stages for e in stage.executions]
        for sample in bodies:
            assert sample.context.count("<promise") - 1 >= sample.context.count("</async>")
            assert sample.context.endswith("/>\n<async>\n")
            assert sample.stop == "</async>"
        main = [s for s in samples if s.role == "main"]
        for before, after in pairwise(main):
            assert after.context.startswith(before.context + before.completion + before.stop)
        assert [s.ends for s in main] == [False] * (len(main) - 1) + [True]


def test_what_only_hindsight_knows_is_not_learned() -> None:
    """Neither where a narrow last stage ends nor how long its last execution is, nor that it is the one that solved."""
    places = []
    for item in curated(solver_traces(40), cap=8).kept:
        trajectory, id_ = item.packing.trajectory, item.annotated.trace.id
        samples = pasta_samples(trajectory.question, trajectory, id_, count, width=8)
        main = [s for s in samples if s.role == "main"]
        narrow = len(trajectory.stages[-1].prompts) < 8
        assert [s.stop for s in main] == ["<sync/>"] * (len(main) - 2) + ["" if narrow else "<sync/>", ""]
        tens = [int(n) for n in re.findall(r"tens= (\d+)", "".join(s.completion for s in main))]
        lengths = [count(e.text) for stage in trajectory.stages for e in stage.executions]
        assert tens[:-1] == [max(1, round(n / 10)) for n in lengths[:-1]]
        if len(lengths) > 1:
            assert min(tens[:-1]) <= tens[-1] <= max(tens[:-1])
        last = main[-1].context.rpartition("<sync/>\n")[2].split("<async>\n")[1:]
        if len(last) > 2:
            places.append(([("Solved" in body) for body in last].index(True) + 1) / len(last))
    assert len(places) > 10
    assert 0.3 < sum(places) / len(places) < 0.8


def test_the_recipe_of_a_training_is_written_for_the_command_line(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    trajectory = curated(solver_traces(1)).kept[0].packing.trajectory
    record = {"id": "t", "question": trajectory.question, "trajectory": trajectory.render(), "cap": 2}
    (tmp_path / "trajectories.jsonl").write_text(json.dumps(record) + "\n")
    base = models.path("countdown-base")
    job = Job.from_json(
        json.loads(training.prepare(tmp_path / "trajectories.jsonl", base, tmp_path, tokens=9).read_text())
    )
    assert (job.config.tokens, job.config.lr, job.out) == (9, 0.001, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    for sample in read_samples(job.samples):
        encode(sample, tokenizer, {})  # refuses what the tokenizer has no token for
    assert tokenizer.tokenize(promise_tag("Try 3 + 5", 130)) == [
        WORDS[0],
        "Try",
        " 3",
        " +",
        " 5",
        WORDS[1],
        " 13",
        "/>",
    ]


# --- the shipped model ------------------------------------------------------------------


def test_the_shipped_model_was_trained_by_the_recipe() -> None:
    trained = json.loads((models.path("countdown-pasta") / "training.json").read_text())["config"]
    assert {key: trained[key] for key in training.RECIPE} == training.RECIPE


def test_the_shipped_model_keeps_its_promises() -> None:
    task = Countdown()
    problems = task.load(6, split="test", seed=777)

    async def run() -> list[Attempt]:
        engine = open_engine(EngineSpec(model=str(models.path("countdown-pasta"))))
        try:
            return await asyncio.gather(*(Pasta().solve(p, task, engine, PastaSettings()) for p in problems))
        finally:
            await engine.close()

    attempts = asyncio.run(run())
    assert {a.status for a in attempts} == {"ok"}
    assert sum(a.correct for a in attempts) >= 4
    for attempt in attempts:
        bodies = [c for c in attempt.calls if c.role == "async"]
        assert len(bodies) > 1
        assert bodies[0].waits[0].tokens  # it began before the main thread was at its sync
        assert accounting.sequential_tokens(attempt) < accounting.serial_tokens(attempt)
