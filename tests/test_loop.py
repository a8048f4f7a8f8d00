"""The loop over a scripted engine: who starts when, what is recorded, how an attempt ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace

import hostile
import pytest
from scripted import Script, ScriptedEngine, Until

from sprint_lib.accounting import cancelled_tokens, sequential_tokens, serial_tokens, total_tokens
from sprint_lib.calls import STATUSES, Call, Wait, in_order
from sprint_lib.engines import Completion, EngineError, Request
from sprint_lib.loop import (
    LoopResult,
    LoopSettings,
    Recorder,
    busy_seconds,
    executor_context,
    planner_context,
    run_loop,
    stable_seed,
)
from sprint_lib.trajectory import Execution, Prompt, parse

QUESTION = "Numbers: 2 3\nTarget: 5\n"
PLAN = "<Plan_1>\n<prompt_1.1> a</prompt_1.1>\n<prompt_1.2> b</prompt_1.2>\nthen rest\n</Plan_1>\n"
FINAL = "<Final_answer>\nAnswer 2 + 3 = 5\n</Final_answer>\n"
SIMPLE: Script = {
    "p1": PLAN,
    "e1.1": "one\n</execution_1.1>",
    "e1.2": "two words\n</execution_1.2>",
    "p2": FINAL,
}


def solve(engine: ScriptedEngine, **settings: object) -> LoopResult:
    result = asyncio.run(run_loop(engine, QUESTION, LoopSettings(**settings)))  # type: ignore[arg-type]
    in_order(result.calls)  # every recorded graph is one
    return result


def by_id(result: LoopResult) -> dict[str, Call]:
    return {call.id: call for call in result.calls}


# --- the ordinary course ----------------------------------------------------------------


def test_a_stage_and_an_answer_become_the_canonical_text() -> None:
    engine = ScriptedEngine(SIMPLE)
    result = solve(engine)
    assert result.status == "ok"
    assert result.trajectory.render() == (
        QUESTION
        + PLAN
        + "<Execution_1>\n<execution_1.1>\none\n</execution_1.1>\n<execution_1.2>\ntwo words\n</execution_1.2>\n"
        + "</Execution_1>\n"
        + FINAL
    )
    assert parse(result.trajectory.render()) == result.trajectory
    assert [call.id for call in result.calls] == ["P1", "P1/E1", "P1/E2", "P2"]


def test_the_engine_is_shown_what_the_context_functions_say() -> None:
    engine = ScriptedEngine(SIMPLE)
    result = solve(engine, system="Think in stages.\n")
    shown, stages = "Think in stages.\n" + QUESTION, result.trajectory.stages
    assert engine.asked("p1")[0].prompt == planner_context(shown, []) == shown
    plan = "<Plan_1>\n<prompt_1.1> a</prompt_1.1>"
    assert engine.asked("e1.1")[0].prompt == executor_context(shown, [], 1, plan, Prompt(1, 1, " a"))
    assert engine.asked("e1.1")[0].prompt == f"{shown}{plan}\n<execution_1.1>\n"
    assert engine.asked("e1.2")[0].prompt == f"{shown}{plan}\n<prompt_1.2> b</prompt_1.2>\n<execution_1.2>\n"
    assert engine.asked("p2")[0].prompt == planner_context(shown, stages)
    assert result.trajectory.question == QUESTION


def test_streamed_executors_start_while_the_plan_is_being_written() -> None:
    plan = (
        "<Plan_1>\n<prompt_1.1> a</prompt_1.1>",
        Until("e1.1"),
        "\n<prompt_1.2> b</prompt_1.2>",
        Until("e1.2"),
        "\n",
    )
    engine = ScriptedEngine({**SIMPLE, "p1": plan})  # without streaming the planner would wait for ever
    calls = by_id(solve(engine))
    assert engine.log.index("+e1.2") < engine.log.index("-p1")
    assert calls["P1/E1"].waits == (Wait("P1", 5),)  # <Plan_1> \n <prompt_1.1> a </prompt_1.1>
    assert calls["P1/E2"].waits == (Wait("P1", 9),)  # \n <prompt_1.2> b </prompt_1.2>
    assert calls["P2"].waits == (Wait("P1"), Wait("P1/E1"), Wait("P1/E2"))
    assert calls["P1/E1"].started < calls["P1"].ended


def test_a_chunk_that_closes_two_prompts_dates_both_at_its_end() -> None:
    result = solve(ScriptedEngine(SIMPLE, chunk=10))
    assert [call.waits for call in result.calls[1:3]] == [(Wait("P1", 10),), (Wait("P1", 10),)]
    assert result.trajectory == solve(ScriptedEngine(SIMPLE)).trajectory


def test_after_plan_starts_executors_when_the_whole_plan_is_there() -> None:
    engine = ScriptedEngine(SIMPLE)
    result = solve(engine, dispatch="after_plan")
    assert engine.log[:4] == ["+p1", "-p1", "+e1.1", "+e1.2"]  # and both before either ends
    assert by_id(result)["P1/E1"].waits == (Wait("P1"),)
    streamed = ScriptedEngine(SIMPLE)
    assert result.trajectory == solve(streamed).trajectory
    assert sorted(engine.requests, key=lambda r: r[0]) == sorted(streamed.requests, key=lambda r: r[0])


def test_an_engine_that_streams_nothing_is_served_all_the_same() -> None:
    class Silent(ScriptedEngine):
        async def complete(self, request: Request, on_text: object = None) -> Completion:
            return await super().complete(request)

    result = solve(Silent(SIMPLE))
    assert result.trajectory == solve(ScriptedEngine(SIMPLE)).trajectory
    assert by_id(result)["P1/E1"].waits == (Wait("P1"),)


def test_tokens_of_the_recorded_graph_are_the_papers_formula() -> None:
    """Two stages: sum over stages of max over prompts (P_ik + E_ik), by hand; then the answer."""
    engine = ScriptedEngine(
        {
            # 5 tokens to the end of prompt 1, 9 to the end of prompt 2, then "\n then rest \n" and the closing tag: 14
            "p1": PLAN,
            "e1.1": "one two three four five six seven\n</execution_1.1>",  # 9: 5 + 9 = 14
            "e1.2": "one two\n</execution_1.2>",  # 4: 9 + 4 = 13
            "p2": "<Plan_2>\nso\n<prompt_2.1> c</prompt_2.1>\n</Plan_2>",  # 7 to the end of the prompt, 9 in all
            "e2.1": "x\n</execution_2.1>",  # 3: 7 + 3 = 10
            "p3": FINAL,  # <Final_answer> \n Answer 2 + 3 = 5 \n </Final_answer>: 10
        }
    )
    calls = solve(engine).calls
    assert [call.completion_tokens for call in calls] == [14, 9, 4, 9, 3, 10]
    assert sequential_tokens(calls) == max(5 + 9, 9 + 4, 14) + max(7 + 3, 9) + 10
    assert serial_tokens(calls) == (14 + 9) + (9 + 3) + 10
    assert total_tokens(calls) == 14 + 9 + 4 + 9 + 3 + 10


# --- plans of other shapes --------------------------------------------------------------


def test_a_plan_without_prompts_is_a_stage_without_executions() -> None:
    engine = ScriptedEngine({"p1": "<Plan_1>\njust a thought\n</Plan_1>", "p2": FINAL})
    result = solve(engine)
    assert result.status == "ok"
    assert result.trajectory.render() == QUESTION + "<Plan_1>\njust a thought\n</Plan_1>\n" + FINAL
    assert by_id(result)["P2"].waits == (Wait("P1"),)


def test_two_prompts_alike_are_two_executors() -> None:
    for numbers in (("1.1", "1.2"), ("1.1", "1.1")):
        plan = "<Plan_1>\n" + "".join(f"<prompt_{n}> same</prompt_{n}>\n" for n in numbers) + "</Plan_1>"
        engine = ScriptedEngine({"p1": plan, "e1.1": "one\n", "e1.2": "two\n", "p2": FINAL})
        result = solve(engine)
        assert result.status == "ok"
        assert [call.id for call in result.calls] == ["P1", "P1/E1", "P1/E2", "P2"]
        executors = [request for name, request in engine.requests if name.startswith("e")]
        assert executors[1].prompt.count(" same") == 2 * executors[0].prompt.count(" same")
        assert executors[0].seed != executors[1].seed


def test_the_stage_limit_forces_the_answer() -> None:
    plan = "<Plan_{0}>\n<prompt_{0}.1> a</prompt_{0}.1>\n</Plan_{0}>"
    plans = {f"p{i}": plan.format(i) for i in (1, 2, 3)}
    done = {f"e{i}.1": "done\n" for i in (1, 2, 3)}
    engine = ScriptedEngine({**plans, **done, "final": "Answer 2 + 3 = 5\n</Final_answer>"})
    result = solve(engine, max_stages=2)
    assert result.status == "ok"
    assert [stage.number for stage in result.trajectory.stages] == [1, 2]
    assert result.trajectory.final == "Answer 2 + 3 = 5\n"
    assert engine.asked("final")[0].prompt.endswith("</Execution_2>\n<Final_answer>\n")
    assert result.calls[-1].id == "P3"
    assert not engine.asked("p3")


def test_an_answer_written_inside_an_open_plan_is_an_answer() -> None:
    engine = ScriptedEngine({"p1": "<Plan_1>\nnow I know\n" + FINAL})
    result = solve(engine)
    assert result.status == "ok"
    assert result.trajectory.final == "Answer 2 + 3 = 5\n"
    assert "now I know" in result.trajectory.render()


# --- retries and ends -------------------------------------------------------------------


def test_a_malformed_planner_is_tried_again_and_stays_in_tokens_and_path() -> None:
    wrong = "<Plan_7>\n<prompt_7.1> x</prompt_7.1>\n</Plan_7>"
    engine = ScriptedEngine({**SIMPLE, "p1": [wrong, PLAN]})
    result = solve(engine)
    calls = by_id(result)
    assert result.status == "ok"
    assert list(calls) == ["P1", "P1~2", "P1~2/E1", "P1~2/E2", "P2"]
    assert calls["P1~2"].waits == (Wait("P1"),)
    assert calls["P2"].waits[0] == Wait("P1~2")
    first, second = engine.asked("p1")
    assert first == replace(second, seed=first.seed)
    assert first.seed != second.seed
    clean = solve(ScriptedEngine(SIMPLE))
    assert total_tokens(result.calls) == total_tokens(clean.calls) + calls["P1"].completion_tokens
    assert sequential_tokens(result.calls) == sequential_tokens(clean.calls) + calls["P1"].completion_tokens


def test_executors_of_a_discarded_plan_run_to_their_end_and_are_counted() -> None:
    """A plan cut at its limit had started an executor; the second try's executors are others."""
    rambling = ("<Plan_1>\n<prompt_1.1> a</prompt_1.1>", Until("e1.1"), "\n" + "so " * 30)
    engine = ScriptedEngine({**SIMPLE, "p1": [rambling, PLAN]})
    result = solve(engine, max_plan_tokens=20)
    assert result.status == "ok"
    assert list(by_id(result)) == ["P1", "P1/E1", "P1~2", "P1~2/E1", "P1~2/E2", "P2"]
    assert [stage.executions for stage in result.trajectory.stages] == [
        (Execution(1, 1, "one\n"), Execution(1, 2, "two words\n"))
    ]
    assert by_id(result)["P1"].completion_tokens == 20


def test_a_planner_truncated_to_the_end_of_its_tries_ends_the_attempt() -> None:
    engine = ScriptedEngine({**SIMPLE, "p1": "<Plan_1>\n" + "so " * 50})
    result = solve(engine, max_plan_tokens=10, retries=2)
    assert result.status == "truncated"
    assert [call.id for call in result.calls] == ["P1", "P1~2", "P1~3"]
    assert result.trajectory.stages == ()


def test_a_truncated_answer_is_kept() -> None:
    engine = ScriptedEngine({"p1": "<Final_answer>\nAnswer " + "1 " * 50})
    result = solve(engine, max_plan_tokens=5)
    assert result.status == "truncated"
    assert result.trajectory.final == "Answer 1 1"


def test_a_bad_execution_is_tried_again() -> None:
    for bad in ("", " \n", "in <prompt_1.4> here", "too " * 40):
        engine = ScriptedEngine({**SIMPLE, "e1.1": [bad, "one\n"]})
        result = solve(engine, max_execution_tokens=30)
        calls = by_id(result)
        assert list(calls) == ["P1", "P1/E1", "P1/E1~2", "P1/E2", "P2"]
        assert calls["P1/E1~2"].waits == (Wait("P1/E1"),)
        assert calls["P2"].waits == (Wait("P1"), Wait("P1/E1~2"), Wait("P1/E2"))
        assert result.trajectory.stages[0].executions[0] == Execution(1, 1, "one\n")


def test_an_execution_truncated_in_every_try_stays_and_the_loop_goes_on() -> None:
    engine = ScriptedEngine({**SIMPLE, "e1.1": "too " * 40})
    result = solve(engine, max_execution_tokens=5)
    assert result.status == "ok"
    assert by_id(result)["P1/E1~2"].finish == "length"
    assert result.trajectory.stages[0].executions[0].text == " ".join(["too"] * 5)


def test_at_temperature_zero_nothing_is_tried_twice() -> None:
    result = solve(ScriptedEngine({"p1": "no tag"}), temperature=0.0, retries=3)
    assert [call.id for call in result.calls] == ["P1"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("I cannot help with that.", "refused"),
        ("", "refused"),
        ("<Final_answer>\n \n</Final_answer>", "refused"),
        ("<Plan_2>\nwrong stage\n</Plan_2>", "malformed"),
        ("well <Plan_1>\nlate\n</Plan_1>", "malformed"),
        ("<prompt_1.1> a</prompt_1.1>", "malformed"),
        ("<execution_1.1>\nme first", "malformed"),
    ],
)
def test_what_is_neither_plan_nor_answer(text: str, status: str) -> None:
    result = solve(ScriptedEngine({"p1": text}))
    assert result.status == status
    assert len(result.calls) == 2


def babble(request: Request) -> str:
    """Words and tags at random, beginning as a planner or an answer should more often than not."""
    rng = random.Random(f"{request.seed} {request.prompt}")
    stage = request.prompt.count("</Plan_") + 1
    opening = rng.choice([f"<Plan_{stage}>\n"] * 6 + [f"<Plan_{stage}>", "<Final_answer>\n", "\n", "well", "<Plan>"])
    numbers = [f"_{i}.{j}" for i in (stage, stage, 1) for j in (1, 2, 3)] + ["", "_", "_x", "_1", "_0.1"]
    tags = [f"<{slash}{kind}{n}>" for kind in ("prompt", "execution") for slash in ("", "/") for n in numbers]
    tags += [f"<{slash}{kind}_{stage}>" for kind in ("Plan", "Execution") for slash in ("", "/")]
    words = [" 2 + 3", "\n", "<", "<Final_answer>", "</Final_answer>", "Answer 2 + 3 = 5", "Based on execution_1.1:"]
    asked = [f"<prompt_{stage}.{j}> 2 * 3</prompt_{stage}.{j}>\n" for j in (1, 2)]
    body = rng.choices([*rng.sample(tags, 6), *words, *asked * 6], k=rng.randint(0, 12))
    return ("" if request.prompt.endswith(">\n") else opening) + "".join(body)


def test_babble_ends_as_a_classified_attempt_whichever_way_it_is_dispatched() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        streamed = solve(ScriptedEngine(babble, chunk=1 + seed % 3), seed=seed, max_plan_tokens=25, max_stages=3)
        after = solve(ScriptedEngine(babble), seed=seed, max_plan_tokens=25, max_stages=3, dispatch="after_plan")
        assert (streamed.trajectory, streamed.status) == (after.trajectory, after.status)
        assert all(len(stage.executions) == len(stage.prompts) for stage in streamed.trajectory.stages[:-1])
        parse(streamed.trajectory.render())
        seen[streamed.status] += 1
        seen["executions"] += sum(len(stage.executions) for stage in streamed.trajectory.stages)
    assert set(STATUSES) - {"engine_error"} <= set(seen)
    assert seen["executions"] > 100


# --- failures, cancellation, seeds ------------------------------------------------------


def test_an_engine_error_keeps_the_other_calls() -> None:
    engine = ScriptedEngine({**SIMPLE, "e1.1": ("half", EngineError("out of memory"))})
    result = solve(engine)
    calls = by_id(result)
    assert result.status == "engine_error"
    assert "out of memory" in result.note
    assert "P1/E1" in result.note
    assert calls["P1/E1"].finish == "error"
    assert calls["P1/E2"].completion == "two words\n"
    assert not engine.asked("p2")


def test_a_planner_that_fails_keeps_what_it_had_streamed() -> None:
    broken = ("<Plan_1>\n<prompt_1.1> a</prompt_1.1>", Until("e1.1"), EngineError("connection lost"))
    result = solve(ScriptedEngine({**SIMPLE, "p1": broken}))
    calls = by_id(result)
    assert result.status == "engine_error"
    assert calls["P1"].completion == "<Plan_1>\n<prompt_1.1> a</prompt_1.1>"
    assert calls["P1"].completion_tokens == 5
    assert calls["P1/E1"].waits == (Wait("P1", 5),)


def test_cancelling_the_attempt_cancels_its_calls() -> None:
    plan = ("<Plan_1>\n<prompt_1.1> a</prompt_1.1>\n<prompt_1.2> b</prompt_1.2>", Until("never"))
    engine = ScriptedEngine({**SIMPLE, "p1": plan, "e1.1": (Until("never"),), "e1.2": "two\n"})

    async def run() -> None:
        task = asyncio.create_task(run_loop(engine, QUESTION, LoopSettings()))
        while "-e1.2" not in engine.log:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert sorted(engine.cancelled) == ["e1.1", "p1"]


def test_text_that_arrives_after_cancellation_is_ignored() -> None:
    late: list[object] = []

    class Late(ScriptedEngine):
        async def complete(self, request: Request, on_text: object = None) -> Completion:
            late.append(on_text)
            return await super().complete(request, on_text)  # type: ignore[arg-type]

    solve(Late(SIMPLE))
    late[0]("<prompt_1.3> c</prompt_1.3>", 99)  # type: ignore[operator]


def test_seeds_are_stable_and_every_calls_own() -> None:
    engine, again, other = (ScriptedEngine(SIMPLE) for _ in range(3))
    solve(engine), solve(again), solve(other, seed=1)
    seeds = {name: request.seed for name, request in engine.requests}
    assert len(set(seeds.values())) == 4
    assert seeds == {name: request.seed for name, request in again.requests}
    assert not set(seeds.values()) & {request.seed for _, request in other.requests}
    assert stable_seed(0, "P1") == seeds["p1"] == 1886302876
    assert stable_seed("a", "b") != stable_seed("ab")


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"no dispatch 'eager'; there are: streamed, after_plan"):
        LoopSettings(dispatch="eager")
    with pytest.raises(ValueError, match="max_stages is 0"):
        LoopSettings(max_stages=0)


# --- the clock --------------------------------------------------------------------------


def test_busy_seconds_are_a_union_of_intervals() -> None:
    spans = [(0.0, 2.0), (1.0, 3.0), (1.5, 1.6), (5.0, 6.0)]
    assert busy_seconds(Call(id=str(i), role="x", started=a, ended=b) for i, (a, b) in enumerate(spans)) == 4.0
    assert busy_seconds([]) == 0.0


def test_times_of_calls_count_from_the_recorders_creation() -> None:
    async def ask() -> tuple[Call, float]:
        recorder = Recorder(ScriptedEngine({"p1": "x"}))
        await asyncio.sleep(0.02)
        return await recorder.ask(Request("q", 5), Call(id="S1", role="sample")), recorder.seconds()

    call, wall = asyncio.run(ask())
    assert 0.02 <= call.started <= call.first_token <= call.ended <= wall


def test_the_loop_costs_little_beside_any_engine() -> None:
    """Processor time of this thread, which does not depend on what else runs; the scripted engine's own is in it."""
    prompts = "".join(f"<prompt_1.{j}> task {j}</prompt_1.{j}>\n" for j in range(1, 21))
    executions = {f"e1.{j}": "Left 4 5 17 -> 85\n" * 10 for j in range(1, 21)}
    engine = ScriptedEngine({"p1": f"<Plan_1>\n{prompts}</Plan_1>", **executions, "p2": FINAL})
    began = time.thread_time()
    calls = sum(len(solve(engine).calls) for _ in range(10))
    assert calls == 220
    assert (time.thread_time() - began) / calls < 0.005 * hostile.slowness()


# --- first success ----------------------------------------------------------------------

THREE = "<Plan_1>\n<prompt_1.1> a</prompt_1.1>\n<prompt_1.2> b</prompt_1.2>\n<prompt_1.3> c</prompt_1.3>\n</Plan_1>\n"
RACE: Script = {
    "p1": THREE,  # 5, 9 and 13 tokens to the end of the prompts, 15 in all
    "e1.1": "no\n</execution_1.1>",  # 3
    "e1.2": ("one two three four", Until("p2"), " five\n</execution_1.2>"),  # waits for ever, if it is not cancelled
    "e1.3": "found " * 8 + "it\n</execution_1.3>",
    "p2": FINAL,  # 10
}


def race(**settings: object) -> tuple[ScriptedEngine, LoopResult]:
    engine = ScriptedEngine(RACE)
    first = LoopSettings(sync="first_success", **settings)  # type: ignore[arg-type]
    result = asyncio.run(run_loop(engine, QUESTION, first, solved=lambda text: "found" in text))
    in_order(result.calls)
    return engine, result


def test_first_success_cancels_the_others_and_counts_what_they_wrote() -> None:
    engine, result = race()
    calls = by_id(result)
    assert engine.cancelled == ["e1.2"]
    assert [(id_, call.finish) for id_, call in calls.items()] == [
        *[("P1", "stop"), ("P1/E1", "stop"), ("P1/E2", "cancelled"), ("P1/E3", "stop"), ("P2", "stop")]
    ]
    assert calls["P1/E2"].completion == "one two three four"
    assert [call.completion_tokens for call in calls.values()] == [15, 3, 4, 11, 10]
    assert calls["P2"].waits == (Wait("P1"), Wait("P1/E1"), Wait("P1/E3"))
    assert total_tokens(result.calls) == 15 + 3 + 4 + 11 + 10
    assert cancelled_tokens(result.calls) == 4
    assert sequential_tokens(result.calls) == (13 + 11) + 10  # to the end of prompt 3, its execution, the answer
    assert serial_tokens(result.calls) == (15 + 11) + 10


def test_the_next_planner_sees_the_whole_plan_and_what_had_ended() -> None:
    engine, result = race()
    assert [e.index for e in result.trajectory.stages[0].executions] == [1, 3]
    shown = engine.asked("p2")[0].prompt
    assert shown == planner_context(QUESTION, result.trajectory.stages)
    assert "<prompt_1.2> b</prompt_1.2>" in shown
    assert "<execution_1.2>" not in shown
    assert result.status == "ok"
    assert parse(result.trajectory.render()).stages == result.trajectory.stages


def test_a_long_cancelled_call_is_on_no_path() -> None:
    """It may have written more tokens than the answer's path has, on an engine that runs it faster."""
    calls = (
        Call("P1", "planner", 1, completion_tokens=5),
        Call("P1/E1", "executor", 1, 1, (Wait("P1"),), completion_tokens=900, finish="cancelled"),
        Call("P1/E2", "executor", 1, 2, (Wait("P1"),), completion_tokens=7),
        Call("P2", "planner", 2, 0, (Wait("P1"), Wait("P1/E2")), completion_tokens=3),
    )
    assert sequential_tokens(calls) == 15


def test_without_a_success_all_are_waited_for() -> None:
    engine = ScriptedEngine(SIMPLE)
    settings = LoopSettings(sync="first_success")
    result = asyncio.run(run_loop(engine, QUESTION, settings, solved=lambda text: False))
    assert engine.cancelled == []
    assert result.trajectory == solve(ScriptedEngine(SIMPLE)).trajectory


def test_first_success_is_never_the_default_and_needs_somebody_who_can_tell() -> None:
    assert LoopSettings().sync == "all"
    with pytest.raises(ValueError, match="first_success needs a task that verifies executions"):
        solve(ScriptedEngine(SIMPLE), sync="first_success")
    with pytest.raises(ValueError, match="no sync 'first'; there are: all, first_success"):
        LoopSettings(sync="first")
    engine = ScriptedEngine(SIMPLE)  # `all` asks nobody
    asyncio.run(run_loop(engine, QUESTION, LoopSettings(), solved=lambda text: True))
    assert engine.cancelled == []


def test_a_cancelled_attempt_keeps_its_calls_as_far_as_they_were_heard() -> None:
    async def go() -> Recorder:
        recorder = Recorder(ScriptedEngine({"p1": ("one two", Until("never"))}))
        request, heard = Request(QUESTION, 99), asyncio.Event()

        def listen(new: str, tokens: int) -> None:
            if tokens == 2:
                heard.set()

        task = asyncio.create_task(recorder.ask(request, Call("P1", "planner"), listen))
        await asyncio.wait_for(heard.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return recorder

    (call,) = asyncio.run(go()).calls
    assert (call.finish, call.completion, call.completion_tokens, call.prompt_tokens) == ("cancelled", "one two", 2, 0)
    assert call.started <= call.first_token < call.ended
