"""The engine behind servers, over real HTTP: what it asks, what it makes of answers, and what of servers that fail."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from completions_server import CLOSE, DROP, HANG, CompletionsServer, Part, Say, Script, Status, event, say, usage
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedEngine, Until
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from tokenizers.trainers import BpeTrainer

from sprint_lib import models
from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Completion, EngineError, EngineSpec, Request, contexts, open_engine, server
from sprint_lib.engines.server import ServerEngine
from sprint_lib.evaluation import runs
from sprint_lib.evaluation.runs import RunError, RunSpec
from sprint_lib.loop import LoopSettings, Recorder, run_loop
from sprint_lib.methods import get_method
from sprint_lib.store import Workspace
from sprint_lib.tasks import get_task

T = TypeVar("T")
SHIPPED = "countdown-sprint"
KEY = "sk-not-to-be-seen-anywhere"
QUICK = {"connect_seconds": 2.0, "chunk_seconds": 5.0, "retries": 2}
PLAN = "<Plan_1>\n<prompt_1.1> a</prompt_1.1>\n<prompt_1.2> b</prompt_1.2>\nthen rest\n</Plan_1>\n"
FINAL = "<Final_answer>\nAnswer 2 + 3 = 5\n</Final_answer>\n"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.01)


def opened(*servers: CompletionsServer | str, **more: Any) -> ServerEngine:
    urls = [one if isinstance(one, str) else one.url for one in servers]
    return ServerEngine(EngineSpec(**{"kind": "server", "model": "m", "urls": urls, **QUICK, **more}))


def with_engine(
    scripts: Sequence[Script], work: Callable[[ServerEngine, list[CompletionsServer]], Awaitable[T]], **more: Any
) -> tuple[T, list[CompletionsServer]]:
    """What `work` gives with an engine over servers with these scripts, and the servers."""

    async def run() -> tuple[T, list[CompletionsServer]]:
        made = [CompletionsServer(script, more.pop("models", None)) for script in scripts]
        for one in made:
            await one.__aenter__()
        engine = opened(*made, **more)
        try:
            return await asyncio.wait_for(work(engine, made), 20), made
        finally:
            await engine.close()
            for one in made:
                await one.die()

    return asyncio.run(run())


def ask(
    *scripts: Script, request: Request | None = None, heard: list[tuple[str, int]] | None = None, **more: Any
) -> tuple[Completion, list[CompletionsServer]]:
    """One completion."""
    on_text = None if heard is None else lambda text, tokens: heard.append((text, tokens))
    return with_engine(
        scripts, lambda engine, made: engine.complete(request or Request("Q:", 50, stop=("</s",)), on_text), **more
    )


def always(*parts: Part) -> Script:
    return lambda body: parts


def in_turn(*answers: Sequence[Part]) -> Script:
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


# --- the ordinary course ----------------------------------------------------------------


def front(engine: ScriptedEngine) -> Script:
    """A server that writes what a scripted engine does, stop strings included, as vLLM does if asked to."""

    async def write(body: dict[str, Any]) -> AsyncIterator[Part]:
        parts: asyncio.Queue[Part | None] = asyncio.Queue()
        request = Request(body["prompt"], body["max_tokens"], body["temperature"], tuple(body["stop"]), body["seed"])
        last = 0

        def hear(text: str, tokens: int) -> None:
            nonlocal last
            parts.put_nowait(Say(text, tokens - last))
            last = tokens

        async def complete() -> None:
            done = await engine.complete(request, hear)
            stopped = done.completion_tokens > last
            parts.put_nowait(Say("</Plan_" if stopped else "", done.completion_tokens - last, done.finish))
            parts.put_nowait(usage(done.prompt_tokens, done.completion_tokens))
            parts.put_nowait(None)

        task = asyncio.create_task(complete())
        try:
            while (part := await parts.get()) is not None:
                yield part
        finally:
            task.cancel()

    return write


@pytest.mark.parametrize("dispatch", ["streamed", "after_plan"])
def test_the_loop_runs_as_with_an_engine_in_this_process(dispatch: str) -> None:
    replies = {"p1": PLAN, "e1.1": "one\n</execution_1.1>", "e1.2": "two words\n</execution_1.2>", "p2": FINAL}
    how = LoopSettings(dispatch=dispatch)
    here = asyncio.run(run_loop(ScriptedEngine(replies), "Q?\n", how))
    there, _ = with_engine([front(ScriptedEngine(replies))], lambda engine, _: run_loop(engine, "Q?\n", how))
    assert there.trajectory == here.trajectory
    assert there.status == here.status == "ok"
    assert not there.note

    def facts(call: Call) -> tuple[Any, ...]:
        return call.id, call.waits, call.completion, call.prompt_tokens, call.completion_tokens, call.finish

    assert [*map(facts, there.calls)] == [*map(facts, here.calls)]


def test_an_executor_starts_while_the_planner_writes() -> None:
    before, after = PLAN.split("\n<prompt_1.2>")
    plan = (before, Until("e1.1"), f"\n<prompt_1.2>{after}")  # the planner goes on only when the executor has begun
    engine = ScriptedEngine({"p1": plan, "e1.1": "one\n</execution_1.1>", "e1.2": "two\n", "p2": FINAL})
    result, _ = with_engine([front(engine)], lambda opened, _: run_loop(opened, "Q?\n", LoopSettings(retries=0)))
    assert result.status == "ok"


def test_what_is_asked_and_what_is_made_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    heard: list[tuple[str, int]] = []
    request = Request("Q:", 50, 0.6, ("</s", "</t"), seed=7)
    done, [made] = ask(always(*say("a b c", cached=8)), request=request, heard=heard, key_variable="SOME_KEY")
    assert done.text == "a b c"
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens, done.finish) == (10, 8, 4, "stop")
    assert done.started < done.first_token <= done.ended
    assert heard == [("a ", 1), ("b ", 2), ("c", 3)]
    [body] = made.bodies
    asked = {"model": "m", "prompt": "Q:", "max_tokens": 50, "temperature": 0.6, "seed": 7, "stop": ["</s", "</t"]}
    assert asked.items() <= body.items()
    assert f"authorization: bearer {KEY}" in made.headers[0].lower()
    assert not done.note


def test_a_stop_string_is_cut_off_and_its_tokens_counted() -> None:
    heard: list[tuple[str, int]] = []
    parts = [Say("a <"), Say("/"), Say("s", finish="stop"), usage()]
    done, _ = ask(always(*parts), heard=heard)
    assert (done.text, done.completion_tokens, done.finish) == ("a ", 3, "stop")
    assert heard == [("a ", 1)]


def test_what_only_looked_like_a_stop_string_is_kept() -> None:
    done, _ = ask(always(Say("a </"), Say("", finish="length"), usage()))
    assert (done.text, done.finish) == ("a </", "length")


def test_a_server_that_does_not_stop_is_stopped() -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> Completion:
        done = await engine.complete(Request("Q:", 50, stop=("</s",)))
        await until(lambda: not made[0].open)
        return done

    done, _ = with_engine([always(Say("a"), Say("</s"), HANG)], work)
    assert (done.text, done.completion_tokens, done.finish) == ("a", 2, "stop")


def test_a_server_that_refuses_what_is_vllms_own_is_asked_in_plain_words() -> None:
    def script(body: dict[str, Any]) -> Sequence[Part]:
        return [Status(400, "unknown field")] if "include_stop_str_in_output" in body else say("fine")

    async def twice(engine: ServerEngine, made: list[CompletionsServer]) -> list[str]:
        return [(await engine.complete(Request("Q:", 9))).text for _ in range(2)]

    texts, [made] = with_engine([script], twice)
    assert texts == ["fine", "fine"]
    assert len(made.bodies) == 3


@pytest.mark.parametrize("said", [400, 413])
def test_a_prompt_that_does_not_fit_ends_as_length(said: int) -> None:
    done, _ = ask(always(Status(said, "This model's maximum context length is 9 tokens.")))
    assert (done.text, done.finish, done.completion_tokens) == ("", "length", 0)
    assert "maximum context" in done.note


def test_with_the_tokenizer_prompts_are_ids_and_fill_the_context() -> None:
    models_ = {"data": [{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": 12}]}
    question = "Numbers: 3 4 5 7\nTarget: 24\n"

    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> tuple[Completion, Completion, int]:
        fits = await engine.complete(Request(question, 50))
        return fits, await engine.complete(Request(question * 2, 50)), engine.count_tokens(question)

    (fits, over, counted), [made] = with_engine([always(*say("x"))], work, tokenizer=SHIPPED, models=models_)
    assert (
        made.bodies[0]["prompt"]
        == Tokenizer.from_file(str(models.path(SHIPPED) / "tokenizer.json")).encode(question).ids
    )
    assert made.bodies[0]["max_tokens"] == 12 - counted
    assert fits.prompt_tokens == counted == 8
    assert (over.text, over.finish, over.prompt_tokens) == ("", "length", 16)
    assert len(made.bodies) == 1


@pytest.mark.parametrize("role", ["planner", "executor"])
def test_the_tokens_that_were_read_and_written_are_told_if_they_are_known(role: str) -> None:
    """Known: the prompt went out as tokens, and one server wrote all and said what."""
    request = Request("Numbers: 3 4", 50, role=role)
    read = tuple(Tokenizer.from_file(str(models.path(SHIPPED) / "tokenizer.json")).encode(request.prompt).ids)
    whole, _ = ask(in_turn([Status(503)], say("3 + 4")), request=request, tokenizer=SHIPPED)
    assert (whole.prompt_ids, whole.ids) == (read, (0,) * whole.completion_tokens)
    as_text, _ = ask(always(*say("3 + 4")), request=request)
    no_ids = event({"choices": [{"text": "3", "finish_reason": "stop"}]})
    not_told, _ = ask(always(no_ids, usage()), request=request, tokenizer=SHIPPED)
    several, _ = ask(always(Say("3 "), DROP), always(*say("+ 4")), request=request, tokenizer=SHIPPED)
    assert several.text == "3 + 4"
    for done in (as_text, not_told, several):
        assert done.completion_tokens
        assert done.prompt_ids == done.ids == ()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not so():
            await asyncio.sleep(0.01)


def test_cancelling_ends_the_work_on_the_server() -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> None:
        heard = asyncio.Event()
        task = asyncio.create_task(engine.complete(Request("Q:", 9), lambda text, tokens: heard.set()))
        await heard.wait()
        assert made[0].open == 1
        task.cancel()
        await until(lambda: not made[0].open)
        with pytest.raises(asyncio.CancelledError):
            await task

    with_engine([always(Say("a"), HANG)], work)


def test_a_listener_that_fails_gets_its_own_exception() -> None:
    def fail(text: str, tokens: int) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        with_engine([always(*say("a"))], lambda engine, _: engine.complete(Request("Q:", 9), fail))


def test_closing_ends_unfinished_calls() -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> None:
        task = asyncio.create_task(engine.complete(Request("Q:", 9)))
        await until(lambda: made[0].open == 1)
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            await task
        with pytest.raises(EngineError, match="closed"):
            await engine.complete(Request("Q:", 9))

    with_engine([always(Say("a"), HANG)], work)


# --- servers that fail ------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [[Status(503)], [Status(429, "busy", {"retry-after": "0"})], [DROP], [CLOSE], [b"x\n"]]
)
def test_a_call_that_failed_before_its_first_text_is_tried_again(trouble: list[Part]) -> None:
    done, [made] = ask(in_turn(trouble, trouble, say("a b")))
    assert (done.text, done.completion_tokens, done.finish) == ("a b", 3, "stop")
    assert done.note.count(made.url) == 2
    assert len(made.bodies) == 3


def test_a_key_that_is_refused_is_not_tried_again_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    bodies: list[Any] = []

    def script(body: dict[str, Any]) -> Sequence[Part]:
        bodies.append(body)
        return [Status(401, f"wrong key {KEY}")]

    with pytest.raises(EngineError, match=r"wrong key \[key\]") as caught:
        ask(script, key_variable="SOME_KEY")
    assert len(bodies) == 1
    assert caught.value.__context__ is None
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(EngineError, match="key_variable names is not set"):
        ask(script, key_variable="SOME_KEY")


GARBAGE: dict[str, list[Part]] = {
    "a page": [b"<html>what?</html>\n"],
    "no json": [b"data: {\n\n"],
    "no object": [event([1])],
    "no choices": [event({"choices": "x"}), event({"choices": [7]})],
    "nothing": [event({"choices": [{"text": None, "token_ids": {"a": 1}, "finish_reason": 5}]})],
    "depths": [b"data: " + b"[" * 100_000 + b"\n\n"],
    "no utf-8": [b"data: \xff\xfe\n\n"],
    "an error": [event({"error": {"message": "engine died"}})],
    "an odd error": [event({"error": [[None]]})],
    "wild counts": [event({"choices": [], "usage": {"prompt_tokens": -3, "completion_tokens": 1e99}})],
    "no end": [CLOSE],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_an_engine_error(name: str) -> None:
    with pytest.raises(EngineError, match=r"http://127.0.0.1:\d+/v1: "):
        ask(always(*GARBAGE[name]), retries=1)


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_the_middle_keeps_what_was_written(name: str) -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> tuple[Call, Recorder]:
        recorder = Recorder(engine)
        return await recorder.ask(Request("Q:", 50), Call(id="P1", role="planner")), recorder

    (call, recorder), [made] = with_engine([always(Say("a "), Say("b", 2), *GARBAGE[name])], work)
    assert (call.completion, call.completion_tokens, call.prompt_tokens, call.finish) == ("a b", 3, 10, "error")
    assert len(recorder.errors) == 1
    assert "after 3 tokens, which are kept" in recorder.errors[0]
    assert len(made.bodies) == 1


def test_a_server_that_writes_without_end_is_stopped() -> None:
    async def on_and_on(body: dict[str, Any]) -> AsyncIterator[Part]:
        while True:
            yield Say("a ")

    done, _ = ask(on_and_on)
    assert done.finish == "error"
    assert "more than it was asked for" in done.note


def test_a_server_without_usage_is_refused_unless_tokens_came() -> None:
    def script(body: dict[str, Any]) -> Sequence[Part]:
        return say("a b")[:-1]

    done, _ = ask(script)
    assert done.completion_tokens == 3  # continuous counts are as good
    done, _ = ask(lambda body: [event({"choices": [{"text": "a", "finish_reason": "stop"}]})])
    assert (done.finish, done.text) == ("error", "a")
    assert "usage" in done.note


def test_a_hung_server_is_an_engine_error() -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> Completion:
        async def hang() -> None:
            await until(lambda: bool(made[0].bodies))
            made[0].models = HANG

        hanging = asyncio.create_task(hang())
        try:
            return await engine.complete(Request("Q:", 50))
        finally:
            hanging.cancel()

    with pytest.raises(EngineError, match=r"nothing came for 0\.5 s"):
        with_engine([always(HANG)], work, chunk_seconds=0.5, retries=1)


def test_a_busy_server_is_waited_for_until_the_calls_time_is_up() -> None:
    with pytest.raises(EngineError, match=r"not done in 0\.7 s"):
        ask(always(HANG), chunk_seconds=0.1, call_seconds=0.7)


def test_a_server_that_hangs_in_the_middle_is_an_error_with_what_it_wrote() -> None:
    done, _ = ask(always(Say("a b"), HANG), chunk_seconds=0.3)
    assert (done.text, done.finish, done.completion_tokens) == ("a b", "error", 1)
    assert "nothing came for 0.3 s" in done.note


def test_nobody_there() -> None:
    async def work() -> None:
        engine = opened("http://127.0.0.1:9/v1", retries=1)
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/v1: no connection"):
            await engine.complete(Request("Q:", 9))
        await engine.close()

    asyncio.run(work())


# --- several servers --------------------------------------------------------------------


def continuing(text: str, dies_after: int | None = None, dead: list[bool] | None = None) -> Script:
    """A server that writes a text in words, from where the prompt has it; it may die on the way, at its first time."""

    def script(body: dict[str, Any]) -> Sequence[Part]:
        written = body["prompt"].removeprefix("Q:")
        assert text.startswith(written)
        rest = text[len(written) :]
        parts = [
            *map(Say, [word + " " for word in rest.split()]),
            Say("", finish="stop"),
            usage(10 + len(written.split())),
        ]
        if dies_after is not None and dead is not None and not dead:
            dead.append(True)
            return [*parts[:dies_after], DROP]
        return parts

    return script


TEXT = "one two three four five six "


@pytest.mark.parametrize("role", ["planner", "executor"])
def test_another_server_goes_on_where_one_died(role: str) -> None:
    heard: list[tuple[str, int]] = []
    dead: list[bool] = []
    scripts = [continuing(TEXT, 3, dead), continuing(TEXT, 3, dead)]
    done, made = ask(*scripts, heard=heard, request=Request("Q:", 50, role=role))
    assert "".join(text for text, _ in heard) == done.text == TEXT
    assert [tokens for _, tokens in heard] == [1, 2, 3, 4, 5, 6]
    assert (done.completion_tokens, done.prompt_tokens, done.finish) == (7, 10, "stop")
    assert sorted(len(one.bodies) for one in made) == [1, 1]
    second = next(one for one in made if one.bodies[0]["prompt"] != "Q:")
    assert second.bodies[0]["prompt"] == "Q:one two three "
    assert second.bodies[0]["max_tokens"] == 47
    assert "after 3 tokens, which are kept" in done.note
    assert f"{second.url} went on, having read 13 tokens" in done.note


def test_a_server_killed_in_the_middle_of_many_calls_costs_none_of_them() -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> list[Completion]:
        half = asyncio.Event()
        seen = 0

        def hear(text: str, tokens: int) -> None:
            nonlocal seen
            seen += 1
            if seen > 60:
                half.set()

        async def slow(body: dict[str, Any]) -> AsyncIterator[Part]:
            for part in continuing(TEXT)(body):
                await asyncio.sleep(0.02)
                yield part

        for one in made:
            one.script = slow
        tasks = [asyncio.create_task(engine.complete(Request("Q:", 50), hear)) for _ in range(40)]
        await half.wait()
        await made[0].die()
        return await asyncio.gather(*tasks)

    found, made = with_engine([always()] * 3, work, routing="least_load")
    assert {(done.text, done.completion_tokens, done.finish) for done in found} == {(TEXT, 7, "stop")}
    assert any(made[0].url in done.note for done in found)
    assert all(len(one.bodies) >= 13 for one in made)


def test_the_least_busy_server_is_asked() -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> list[int]:
        tasks = [asyncio.create_task(engine.complete(Request(f"{i} Q:", 9))) for i in range(6)]
        await until(lambda: sum(one.open for one in made) == 6)
        found = [one.open for one in made]
        for task in tasks:
            task.cancel()
        return found

    assert with_engine([always(HANG)] * 3, work)[0] == [2, 2, 2]


@pytest.mark.parametrize("routing", ["prefix", "least_load"])
def test_a_prompt_goes_where_its_beginning_went(routing: str) -> None:
    async def work(engine: ServerEngine, made: list[CompletionsServer]) -> None:
        for problem in ("A", "B", "C", "D"):
            for more in ("", " one", " one two", " one two three"):
                await engine.complete(Request(f"{problem}:{more}", 9))

    _, made = with_engine([always(*say("x"))] * 2, work, routing=routing)
    problems = [{body["prompt"][0] for body in one.bodies} for one in made]
    assert problems[0].isdisjoint(problems[1]) == (routing == "prefix")
    assert [len(one.bodies) for one in made] == [8, 8]


def test_planner_and_executors_have_pools_of_their_own() -> None:
    replies = {"p1": PLAN, "e1.1": "one\n</execution_1.1>", "e1.2": "two\n</execution_1.2>", "p2": FINAL}

    async def work() -> list[list[str]]:
        engine = ScriptedEngine(replies)
        async with CompletionsServer(front(engine)) as plans, CompletionsServer(front(engine)) as executes:
            opened_ = opened(plans, executor_urls=[executes.url])
            result = await run_loop(opened_, "Q?\n", LoopSettings())
            await opened_.close()
            assert result.status == "ok"
            return [[body["prompt"] for body in one.bodies] for one in (plans, executes)]

    planned, executed = asyncio.run(work())
    assert len(planned) == len(executed) == 2
    assert all("<execution_1." in prompt[-20:] for prompt in executed)


def test_a_server_that_is_not_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT", 60.0)

    async def work() -> None:
        async with CompletionsServer(always(*say("x"))) as good:
            engine = opened("http://127.0.0.1:9/v1", good)
            found = [await engine.complete(Request(f"{i}:", 9)) for i in range(4)]
            assert all(done.finish == "stop" for done in found)
            assert sum("127.0.0.1:9" in done.note for done in found) <= 1
            assert len(good.bodies) == 4
            await engine.close()

    asyncio.run(work())


# --- contexts as tokens -----------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    """A small byte-pair tokenizer that merges across words' ends, as those of language models do."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    lines = [PLAN, FINAL, "a b ab abc ba cab >\n >\n\n ü äü 日本 " * 20, "<execution_1.1>\n</execution_1.1>\n" * 20]
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(lines, trainer)
    return made


PIECES = [*"abc <>\n/_.1", "ü", "日", "</prompt_1.1>", "<execution_1.1>\n"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 60))
def test_tokens_are_those_of_the_whole_text_if_nobody_wrote_others(
    bpe: Tokenizer, text: str, more: str, at: int
) -> None:
    known = contexts.tokenise(bpe, text)
    assert known.ids.tolist() == bpe.encode(text).ids
    for new in (text + more, text[:at] + more):
        assert contexts.tokenise(bpe, new, known).ids.tolist() == bpe.encode(new).ids


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_tokens_that_were_written_are_kept(bpe: Tokenizer, text: str, written: str, more: str) -> None:
    """Written byte by byte, as no tokenizer would: up to the last end of a token before the joint it stays so."""
    known = contexts.tokenise(bpe, text)
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known.write([bpe.token_to_id(byte) for piece, _ in alphabet.pre_tokenize_str(written) for byte in piece])
    assert known.text == text + written
    new = text + written + more
    made = contexts.tokenise(bpe, new, known)
    assert bpe.decode(made.ids.tolist()) == new
    joint = max((end for _, end in bpe.encode(new).offsets if end <= len(text + written)), default=0)
    least = len(bpe.encode(text).ids) + len(new[len(text) : joint].encode())
    if joint > len(text):
        assert made.ids[:least] == known.ids[:least]


@settings(deadline=None)
@given(st.lists(st.text("ab", max_size=6)), st.text("ab", max_size=8))
def test_the_longest_known_beginning_is_found(texts: list[str], text: str) -> None:
    known: contexts.Prefixes[str] = contexts.Prefixes(100)
    for one in texts:
        known.put(one, one)
    assert known.longest(text) == max((one for one in texts if text.startswith(one)), key=len, default=None)


def test_the_longest_unused_are_forgotten() -> None:
    known: contexts.Prefixes[int] = contexts.Prefixes(2)
    known.put("a", 1)
    known.put("b", 2)
    assert known.longest("ab") == 1
    known.put("c", 3)
    assert [known.longest(text) for text in "abc"] == [1, None, 3]
    assert len(known) == 2


# --- as part of a run -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"urls": []}, "urls"),
        ({"urls": "http://a/v1"}, "list of addresses"),
        ({"model": ""}, "model"),
        ({"routing": "best"}, "least_load"),
        ({"retries": -1}, "retries"),
        ({"chunk_seconds": 0}, "chunk_seconds"),
    ],
)
def test_a_description_that_cannot_be_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EngineSpec(**{"kind": "server", "model": "m", "urls": ["http://a/v1"], **more})


def test_an_address_or_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    for url in ("localhost:8000", "http://user:secret@host/v1"):
        with pytest.raises(EngineError, match="base_url") as caught:
            open_engine(EngineSpec(kind="server", model="m", urls=(url,)))
        assert "secret" not in str(caught.value)
    with pytest.raises(EngineError, match=r"no tokenizer.json"):
        open_engine(EngineSpec(kind="server", model="m", urls=("http://a/v1",), tokenizer=str(tmp_path)))
    with pytest.raises(EngineError, match="name it"):
        open_engine(EngineSpec(kind="server", model="m", urls=("http://a/v1",))).count_tokens("x")


def described(url: str, **more: Any) -> RunSpec:
    engine = {"kind": "server", "model": "m", "urls": [url], **QUICK, **more}
    return RunSpec.from_json({"name": "far", "method": "sequential", "n": 6, "concurrency": 3, "engine": engine})


def test_a_run_does_not_depend_on_where_the_server_is() -> None:
    key = runs.run_key(described("http://a/v1"))
    assert runs.run_key(described("http://b:9/v1", retries=9, key_variable="K", call_seconds=5)) == key
    assert json.loads(json.dumps(key)) == key
    assert "http" not in json.dumps(key)
    for other in (
        {"model": "n"},
        {"tokenizer": SHIPPED},
        {"routing": "least_load"},
        {"executor_urls": ["http://c/v1"]},
    ):
        assert runs.run_key(described("http://a/v1", **other)) != key


def test_a_run_against_a_server_goes_on_where_it_was(tmp_path: Path) -> None:
    space = Workspace("smoke", tmp_path)
    asked: list[int] = []
    broken = True

    def script(body: dict[str, Any]) -> Sequence[Part]:
        asked.append(body["seed"])
        return [Say("Answer"), DROP] if broken and len(asked) in (2, 3) else say("Answer 1 + 1 = 2")

    with in_thread(script) as url, pytest.raises(RunError, match="2 of 6 attempts failed in the engine"):
        runs.run(described(url), space)
    assert len(asked) == 6
    kept = runs.read_attempts(space.attempts("far"))
    assert sorted(attempt.status for attempt in kept) == ["engine_error"] * 2 + ["ok"] * 4
    assert [attempt.calls[0].completion_tokens for attempt in kept if attempt.status == "engine_error"] == [1, 1]
    broken = False
    with in_thread(script) as url:
        found = runs.run(described(url), space)
    assert len(asked) == 8
    assert len(set(asked)) == 6  # the same seeds again
    assert {attempt.status for attempt in found} == {"ok"}


class in_thread:
    """A server in an event loop of its own, for what runs one itself."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def __enter__(self) -> str:
        ready = threading.Event()

        async def serve() -> None:
            self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
            async with CompletionsServer(self.script) as made:
                self.url = made.url
                ready.set()
                await self.over.wait()

        self.thread = threading.Thread(target=asyncio.run, args=(serve(),))
        self.thread.start()
        assert ready.wait(5)
        return self.url

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(5)


# --- with vLLM --------------------------------------------------------------------------


def solved(spec: EngineSpec, n: int) -> list[Attempt]:
    task, method = get_task("countdown"), get_method("sprint")
    how = method.settings.from_dict({"temperature": 0.0})

    async def run() -> list[Attempt]:
        engine = open_engine(spec)
        try:
            return await asyncio.gather(
                *(method.solve(p, task, engine, how) for p in task.load(n, split="test", seed=0))
            )
        finally:
            await engine.close()

    return asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [SHIPPED, ""], ids=["ids", "text"])
def test_vllm_and_the_engine_in_this_process_write_the_same_trajectories(vllm: str, tokenizer: str) -> None:
    here = solved(EngineSpec(model=str(models.path(SHIPPED))), 5)
    there = solved(EngineSpec(kind="server", model=SHIPPED, urls=(vllm,), tokenizer=tokenizer), 5)

    def facts(attempt: Attempt) -> list[tuple[Any, ...]]:
        return [(c.id, c.completion, c.prompt_tokens, c.completion_tokens, c.finish) for c in attempt.calls]

    for a, b in zip(here, there, strict=True):
        assert (b.text, b.status, b.correct, b.note) == (a.text, a.status, a.correct, a.note)
        assert facts(b) == facts(a)
    calls = [call for attempt in there for call in attempt.calls]
    assert all(call.cached_tokens % 32 == 0 for call in calls)  # vLLM's blocks
    again = [call for attempt in there for call in attempt.calls if call.role == "executor" and call.index > 3]
    assert all(call.cached_tokens for call in again)


@pytest.mark.slow
def test_vllm_gives_up_a_call_that_is_cancelled(vllm: str) -> None:
    async def work() -> None:
        engine = opened(vllm, model=SHIPPED, chunk_seconds=60)
        heard = asyncio.Event()
        question = get_task("countdown").load(1, split="test", seed=0)[0].question
        tasks = [
            asyncio.create_task(engine.complete(Request(question, 3000, 2.0, seed=i), lambda *_: heard.set()))
            for i in range(8)
        ]
        await heard.wait()
        for task in tasks:
            task.cancel()
        metrics = vllm.removesuffix("/v1") + "/metrics"
        web = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy on the way to this machine
        async with asyncio.timeout(20):
            while True:
                page = (await asyncio.to_thread(web.open, metrics)).read().decode()
                [line] = [one for one in page.splitlines() if one.startswith("vllm:num_requests_running")]
                if float(line.split()[-1]) == 0:
                    break
                await asyncio.sleep(0.05)
        await asyncio.wait(tasks)
        assert any(task.cancelled() for task in tasks)  # at this temperature some may have ended by themselves
        await engine.close()

    asyncio.run(work())
