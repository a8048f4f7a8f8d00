"""SPRINT as an endpoint: the official client against the real server, on the shipped model and on scripted engines."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from scripted import Script, ScriptedEngine

from sprint_lib import models
from sprint_lib.accounting import costs
from sprint_lib.cli import main
from sprint_lib.endpoint.desk import Desk, Served, open_desk
from sprint_lib.endpoint.requests import Limits, Refusal, ServeError, read_request
from sprint_lib.endpoint.server import serving
from sprint_lib.endpoint.teller import Cut, Reader
from sprint_lib.engines import Completion, Engine, EngineError, EngineSpec, OnText, Request, open_engine
from sprint_lib.methods.sequential import Sequential, SequentialSettings
from sprint_lib.methods.sprint import Sprint, SprintSettings
from sprint_lib.tasks import countdown, get_task

PROBLEM = countdown.problem([3, 4, 5, 7], 24)
QUESTION = "How much is two and two?"
SCRIPT: Script = {
    "p1": "<Plan_1>\n<prompt_1.1>one two</prompt_1.1>\n<prompt_1.2>three</prompt_1.2>\n</Plan_1>",
    "e1.1": "a b c d e f</execution_1.1>",
    "e1.2": "g h</execution_1.2>",
    "p2": "<Final_answer>\nThe answer is four. That is all.\n</Final_answer>",
}
ANSWER = "The answer is four. That is all."


def desk(engine: Engine, limits: Limits | None = None, key: str = "", **settings: Any) -> Desk:
    sprint = Served(engine, SprintSettings(**{"temperature": 0.0, **settings}))
    return Desk({"m": sprint, "m/sequential": Served(engine, SequentialSettings(temperature=0.0))}, limits, key)


@asynccontextmanager
async def client(served: Desk, key: str = "none", **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """The official client of a server that runs as long as the block."""
    async with serving(served) as url, AsyncOpenAI(base_url=url, api_key=key, max_retries=0, **options) as made:
        yield made


def run(served: Desk, test: Callable[[AsyncOpenAI], Awaitable[Any]], **options: Any) -> Any:
    async def session() -> Any:
        async with client(served, **options) as made:
            return await asyncio.wait_for(test(made), 300)

    return asyncio.run(session())


async def ask(client: AsyncOpenAI, **more: Any) -> Any:
    return await client.completions.create(**{"model": "m", "prompt": QUESTION, **more})


async def chunks(client: AsyncOpenAI, *, chat: bool = False, **more: Any) -> list[Any]:
    if chat:
        messages: Any = [{"role": "user", "content": more.pop("prompt", QUESTION)}]
        stream = await client.chat.completions.create(**{"model": "m", "messages": messages, "stream": True, **more})
    else:
        stream = await ask(client, stream=True, **more)
    return [chunk async for chunk in stream]


def text_of(found: list[Any]) -> str:
    choices = [choice for chunk in found for choice in chunk.choices]
    return "".join((c.delta.content or "") if hasattr(c, "delta") else c.text for c in choices)


# --- the shipped model ----------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = open_engine(EngineSpec(model=str(models.path("countdown-sprint")), dtype="float64"))
    yield made
    asyncio.run(made.close())


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_greedy_answers_are_those_of_the_method(engine: Engine, chat: bool) -> None:
    async def test(client: AsyncOpenAI) -> None:
        tried = await Sprint().solve(PROBLEM, get_task("countdown"), engine, SprintSettings(temperature=0.0))
        if chat:
            messages: Any = [{"role": "user", "content": PROBLEM.question}]
            got: Any = await client.chat.completions.create(model="m", messages=messages)
            answer = got.choices[0].message.content
        else:
            got = await ask(client, prompt=PROBLEM.question)
            answer = got.choices[0].text
        assert get_task("countdown").grade(PROBLEM, answer).answer == tried.answer != ""
        assert got.choices[0].finish_reason == "stop"
        streamed = await chunks(client, chat=chat, prompt=PROBLEM.question)
        assert text_of(streamed) == answer
        assert sum(bool(text_of([chunk])) for chunk in streamed) > 3, "the answer must come in pieces"
        kept = await client.get(f"/trajectories/{got.id}", cast_to=dict[str, Any])
        assert (kept["text"], kept["status"], kept["answer"]) == (tried.text, "ok", answer)
        spent, usage = costs(tried), got.usage
        caching = {"prefill": 0, "cached": 0}  # depends on what was asked before
        assert kept["tokens"] | caching == spent | caching
        assert (usage.completion_tokens, usage.prompt_tokens) == (spent["total"], engine.count_tokens(PROBLEM.question))
        assert usage.sprint["sequential_tokens"] == spent["sequential"] < spent["total"]
        assert usage.sprint["stages"] == spent["stages"]

    run(desk(engine), test)


def test_the_baseline_is_one_completion(engine: Engine) -> None:
    settings = SequentialSettings(temperature=0.0, max_tokens=40)

    async def test(client: AsyncOpenAI) -> None:
        tried = await Sequential().solve(PROBLEM, get_task("countdown"), engine, settings)
        got = await ask(client, model="m/sequential", prompt=PROBLEM.question, max_tokens=40)
        assert (got.choices[0].text, got.choices[0].finish_reason) == (tried.text, "length")
        assert got.usage.completion_tokens == got.usage.sprint["sequential_tokens"] == 40
        assert text_of(await chunks(client, model="m/sequential", prompt=PROBLEM.question, max_tokens=40)) == tried.text
        cut = await ask(client, model="m/sequential", prompt=PROBLEM.question, max_tokens=40, stop="\n")
        assert (cut.choices[0].text, cut.choices[0].finish_reason) == (tried.text.partition("\n")[0], "stop")

    run(desk(engine), test)


def test_a_question_as_long_as_the_context_is_refused(tiny_model: Path) -> None:
    made = open_desk({"name": "tiny", "engine": {"model": str(tiny_model)}})

    async def test(client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, model="tiny", prompt="1 2 3 4 " * 200)
        assert refused.value.code == "context_length_exceeded"
        await made.close()

    run(made, test)


# --- what is said ---------------------------------------------------------------------


def test_models_are_listed() -> None:
    async def test(client: AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["m", "m/sequential"]
        assert (await client.models.retrieve("m/sequential")).id == "m/sequential"
        with pytest.raises(openai.NotFoundError, match="no model 'other'"):
            await ask(client, model="other")

    run(desk(ScriptedEngine(SCRIPT)), test)


def test_stages_are_told_to_who_asks() -> None:
    async def test(client: AsyncOpenAI) -> None:
        options: Any = {"include_usage": True, "include_stages": True}
        told = await chunks(client, chat=True, stream_options=options)
        calls = [chunk.sprint["call"] for chunk in told if "call" in (chunk.model_extra or {}).get("sprint", {})]
        assert "P1" in (call["id"] for call in calls)
        assert {call["id"]: call["completion"] for call in calls}["P1/E2"] == "g h"
        assert sum(call["completion_tokens"] for call in calls) == told[-1].usage.completion_tokens
        plain = await chunks(client, chat=True)
        assert text_of(plain) == text_of(told) == ANSWER
        assert all(chunk.choices for chunk in plain)
        assert plain[-1].choices[0].finish_reason == "stop"
        assert plain[-1].sprint["status"] == "ok"

    run(desk(ScriptedEngine(SCRIPT)), test)


@given(
    st.text(alphabet=" \nabE", max_size=30),
    st.lists(st.text(alphabet=" \nabE", min_size=1, max_size=3), max_size=2),
    st.lists(st.integers(1, 4), min_size=1, max_size=20),
    st.booleans(),
)
def test_what_is_shown_does_not_depend_on_the_pieces(
    answer: str, stop: list[str], sizes: list[int], opened: bool
) -> None:
    shown: list[str] = []
    reader = Reader(opened, tuple(stop), shown.append)
    text = answer if opened else f"\n<Final_answer>\n{answer}"
    whole, at = answer.lstrip(), 0
    with suppress(Cut):
        while at < len(text):
            size = sizes[at % len(sizes)]
            reader.feed(text[at : at + size])
            at += size
        reader.end()
    ends = [(whole.find(each) + len(each), whole.find(each)) for each in stop if each in whole]  # completed first
    assert "".join(shown) == whole[: min(ends)[1] if ends else None].rstrip()


def test_a_stop_string_ends_the_answer_and_the_call() -> None:
    made = ScriptedEngine(SCRIPT)

    async def test(client: AsyncOpenAI) -> None:
        for streams in (False, True):
            got = await chunks(client, stop=[" That", "x"]) if streams else [await ask(client, stop=[" That", "x"])]
            assert text_of(got) == "The answer is four."
            assert got[-1].choices[0].finish_reason == "stop"
        kept = await client.get(f"/trajectories/{got[0].id}", cast_to=dict[str, Any])
        assert kept["calls"][-1]["completion_tokens"] < made.count_tokens(str(SCRIPT["p2"]))
        plans = await ask(client, stop="prompt_1.1")
        assert plans.choices[0].text == ANSWER, "only the answer is searched for it"

    run(desk(made), test)


def test_max_tokens_bounds_all_calls_together() -> None:
    async def test(client: AsyncOpenAI) -> None:
        whole = (await ask(client)).usage.completion_tokens
        for budget in range(1, whole + 1):
            got = await ask(client, max_tokens=budget)
            assert got.choices[0].finish_reason == ("stop" if budget == whole else "length")
            assert got.usage.completion_tokens <= budget + 3  # one more token of every call that runs
            assert ANSWER.startswith(got.choices[0].text)
            assert text_of(await chunks(client, max_tokens=budget)) == got.choices[0].text
            calls = (await client.get(f"/trajectories/{got.id}", cast_to=dict[str, Any]))["calls"]
            assert sum(call["completion_tokens"] for call in calls) == got.usage.completion_tokens

    run(desk(ScriptedEngine(SCRIPT)), test)


def test_an_answer_that_was_shown_is_not_tried_again() -> None:
    made = ScriptedEngine({**SCRIPT, "p2": ["<Final_answer>\n" + "more " * 50, "<Final_answer>\nOther."]})

    async def test(client: AsyncOpenAI) -> None:
        got = await chunks(client, temperature=0.6, seed=1)
        assert text_of(got).startswith("more more")
        assert "Other" not in text_of(got)
        assert got[-1].choices[0].finish_reason == "length"

    run(desk(made, max_plan_tokens=20), test)


def test_the_seed_is_honoured_and_told() -> None:
    made = ScriptedEngine(SCRIPT)

    async def test(client: AsyncOpenAI) -> None:
        for seed in (7, 7, None, None):
            got = await ask(client, temperature=1, **({} if seed is None else {"seed": seed}))
            assert seed is None or got.sprint["seed"] == seed

    run(desk(made), test)
    first, again, *free = [request.seed for request in made.asked("p1")]
    assert first == again
    assert len({first, *free}) == 3
    assert {request.temperature for _, request in made.requests} == {1.0}


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"top_p": 0.9}, "top_p"),
        ({"suffix": "x"}, "suffix"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 99}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options"),
        ({"max_token": 5}, "max_token"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "x" * 40_000}, "prompt"),
        ({"model": None}, "model"),
    ],
    ids=str,
)
def test_what_is_not_honoured_is_refused(given: dict[str, Any], param: str) -> None:
    body = {"model": "m", "prompt": "x", **given}
    with pytest.raises(Refusal) as refused:
        read_request(json.dumps(body).encode(), chat=False, limits=Limits())
    said = refused.value.to_json()["error"]
    assert (refused.value.status_code, said["type"], said["param"]) == (400, "invalid_request_error", param)
    assert len(said["message"]) < 600


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]"),
        ({"messages": ["x"]}, "messages[0]"),
    ],
    ids=str,
)
def test_what_a_chat_cannot_ask(given: dict[str, Any], param: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **given}
    with pytest.raises(Refusal) as refused:
        read_request(json.dumps(body).encode(), chat=True, limits=Limits())
    assert refused.value.to_json()["error"]["param"] == param


def test_neutral_values_and_nulls_are_taken() -> None:
    neutral = {"n": 1, "top_p": 1.0, "logprobs": None, "echo": False, "user": "me", "stop": "x", "max_tokens": None}
    found = read_request(json.dumps({"model": "m", "prompt": ["q"], **neutral}).encode(), chat=False, limits=Limits())
    assert (found.text, found.stop, found.max_tokens) == ("q", ("x",), None)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
    ]
    body = {"model": "m", "messages": messages, "max_completion_tokens": 9, "tools": [], "logprobs": False}
    asked = read_request(json.dumps(body).encode(), chat=True, limits=Limits())
    assert (asked.text, asked.max_tokens) == ("Be brief.\n\nq", 9)


def raw(url: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """A request as no good client sends it, and the answer's status and JSON."""
    host = re.sub(r"^http://|/v1$", "", url)
    connection = http.client.HTTPConnection(host, timeout=20)
    with suppress(BrokenPipeError, ConnectionResetError):  # an answer may come before all of a body is sent
        connection.request(method, path, body, headers, encode_chunked=not isinstance(body, bytes | None))
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read() or b"{}")
    connection.close()
    return found


def test_bad_requests_over_http() -> None:
    async def session() -> None:
        limits = Limits(body=1000)
        async with serving(desk(ScriptedEngine(SCRIPT), limits)) as url:
            good = json.dumps({"model": "m", "prompt": QUESTION}).encode()
            pieces = (b"x" * 500 for _ in range(2000))
            for status, said, *request in (
                (400, "not JSON", "POST", "/v1/completions", b"{"),
                (400, "not JSON", "POST", "/v1/completions", b"\xff\xfe{"),
                (400, "not JSON", "POST", "/v1/completions", b"[" * 900),
                (400, "not a JSON object", "POST", "/v1/completions", b"[]"),
                (400, "not JSON", "POST", "/v1/completions"),
                (413, "larger than 1,000", "POST", "/v1/completions", b"x" * 2**20),
                (404, "no such path", "GET", "/v1/engines"),
                (404, "no such path", "POST", "/", b"x"),
                (404, "no trajectory", "GET", "/v1/trajectories/1"),
                (405, "POST", "GET", "/v1/completions"),
                (405, "does not take", "POST", "/v1/models", b""),
            ):
                found = await asyncio.to_thread(raw, url, *request)
                assert found[0] == status, (request, found)
                assert said in found[1]["error"]["message"]
            chunked = {"Transfer-Encoding": "chunked"}
            found = await asyncio.to_thread(raw, url, "POST", "/v1/completions", pieces, **chunked)
            assert found[0] == 413
            foreign: tuple[dict[str, str], ...] = ({"Host": "evil.example"}, {"Origin": "http://evil.example"})
            for headers in foreign:
                found = await asyncio.to_thread(raw, url, "POST", "/v1/completions", good, **headers)
                assert found[0] == 403, headers
            assert (await asyncio.to_thread(raw, url, "POST", "/v1/completions", good))[0] == 200
            assert await asyncio.to_thread(raw, url, "GET", "/health") == (200, {"status": "ok"})

    asyncio.run(session())


def test_a_key_is_asked_for_before_anything_is_read() -> None:
    served = desk(ScriptedEngine(SCRIPT), key="secret-of-mine")

    async def session() -> None:
        async with serving(served) as url:
            for key, right in (("secret-of-mine", True), ("secret-of-min", False), ("é", False)):
                header = {"Authorization": f"Bearer {key}"}
                found = await asyncio.to_thread(raw, url, "GET", "/v1/models", **header)
                assert found[0] == (200 if right else 401)
            assert (await asyncio.to_thread(raw, url, "POST", "/v1/completions", b"{"))[0] == 401
            assert (await asyncio.to_thread(raw, url, "GET", "/health"))[0] == 200
            async with AsyncOpenAI(base_url=url, api_key="wrong", max_retries=0) as made:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await ask(made)
                assert "secret" not in str(refused.value)

    asyncio.run(session())


def test_addresses_of_others_need_a_key() -> None:
    async def start(served: Desk, **options: Any) -> str:
        async with serving(served, **options) as url:
            return url

    engine = ScriptedEngine(SCRIPT)
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ServeError, match="--key-variable"):
            asyncio.run(start(desk(engine), host=host))
    assert asyncio.run(start(desk(engine), host="0.0.0.0", insecure=True))
    assert asyncio.run(start(desk(engine, key="k"), host="0.0.0.0"))
    assert asyncio.run(start(desk(engine), host="localhost"))
    with pytest.raises(ServeError, match="expected 1 to 65535"):
        asyncio.run(start(desk(engine), port=99999))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServeError, match="name another"):
        asyncio.run(start(desk(engine), port=taken.getsockname()[1]))


# --- engines in trouble, limits, cancellation -----------------------------------------


class Waiting(ScriptedEngine):
    """Writes its reply but for the executors, which wait until they are let; counts the calls that are under way."""

    def __init__(self) -> None:
        super().__init__(SCRIPT)
        self.running = 0
        self.let = asyncio.Event()

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        self.running += 1
        try:
            if "<execution_" in request.prompt[-20:]:
                await self.let.wait()
            return await super().complete(request, on_text)
        finally:
            self.running -= 1


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_calls(stream: bool) -> None:
    async def session() -> None:
        waiting = Waiting()
        served = desk(waiting)
        async with client(served) as made:
            task = asyncio.create_task(chunks(made) if stream else ask(made))
            await until(lambda: waiting.running == 2)
            task.cancel()
            await until(lambda: waiting.running == 0 and not served.running)
            waiting.let.set()
            assert (await ask(made)).choices[0].text == ANSWER

    asyncio.run(session())


def test_the_end_of_the_server_ends_all_calls() -> None:
    async def session() -> None:
        waiting = Waiting()
        async with client(desk(waiting)) as made:
            task = asyncio.create_task(ask(made))
            await until(lambda: waiting.running == 2)
        assert waiting.running == 0
        with pytest.raises(openai.APIError):
            await task

    asyncio.run(session())


def test_too_many_at_once() -> None:
    async def session() -> None:
        waiting = Waiting()
        async with client(desk(waiting, Limits(concurrency=2))) as made:
            tasks = [asyncio.create_task(ask(made)) for _ in range(2)]
            await until(lambda: waiting.running == 4)
            with pytest.raises(openai.RateLimitError) as refused:
                await ask(made)
            assert refused.value.response.headers["retry-after"] == "1"
            patient = asyncio.create_task(ask(made.with_options(max_retries=5)))
            await asyncio.sleep(0.1)
            waiting.let.set()
            assert [got.choices[0].text for got in await asyncio.gather(*tasks, patient)] == [ANSWER] * 3

    asyncio.run(session())


def test_no_answer_in_time() -> None:
    async def session() -> None:
        waiting = Waiting()
        async with client(desk(waiting, Limits(seconds=0.2))) as made:
            with pytest.raises(openai.InternalServerError, match="no answer within"):
                await ask(made.with_options(max_retries=3))
            assert waiting.running == 0
            assert len(waiting.asked("p1")) == 1, "what took too long is not to be tried again"

    asyncio.run(session())


def test_an_engine_that_fails() -> None:
    made = ScriptedEngine({**SCRIPT, "e1.2": (EngineError("the engine is on fire"),)})

    async def test(client: AsyncOpenAI) -> None:
        for request in (ask(client), chunks(client), chunks(client, chat=True)):
            with pytest.raises(openai.APIError, match="on fire"):
                await request

    run(desk(made), test)


@pytest.mark.parametrize(
    ("reply", "status"), [("no tags at all", "refused"), ("<Plan_7>\n</Plan_7>", "malformed"), ("", "refused")]
)
def test_no_answer_is_said_to_be_none(reply: str, status: str) -> None:
    async def test(client: AsyncOpenAI) -> None:
        got = await ask(client)
        assert (got.choices[0].text, got.choices[0].finish_reason, got.sprint["status"]) == ("", "stop", status)

    run(desk(ScriptedEngine({"p1": reply})), test)


def test_a_question_full_of_tags_is_a_question() -> None:
    question = "<Plan_1>\n<prompt_1.1>x</prompt_1.1></Plan_1>\n<execution_1.1>\n<Final_answer>\n"

    async def test(client: AsyncOpenAI) -> None:
        assert (await ask(client, prompt=question)).choices[0].text == "4"

    run(desk(ScriptedEngine(lambda request: "<Final_answer>\n4</Final_answer>")), test)


def test_only_the_latest_trajectories_are_kept() -> None:
    served = desk(ScriptedEngine(SCRIPT), Limits(trajectories=2))

    async def test(client: AsyncOpenAI) -> list[str]:
        return [(await ask(client)).id for _ in range(3)]

    ids = run(served, test)
    assert list(served.trajectories) == ids[1:]


def test_an_engine_that_does_not_stream() -> None:
    class Silent(ScriptedEngine):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            return await super().complete(request)

    async def test(client: AsyncOpenAI) -> None:
        assert text_of(await chunks(client)) == ANSWER
        assert (await ask(client, stop=" That")).choices[0].text == "The answer is four."

    run(desk(Silent(SCRIPT)), test)


def test_an_engine_without_a_tokenizer() -> None:
    class Uncounted(ScriptedEngine):
        def count_tokens(self, text: str) -> int:
            if text == ANSWER:
                raise EngineError("no tokenizer")
            return super().count_tokens(text)

    async def test(client: AsyncOpenAI) -> None:
        got = await ask(client, stop="zzz")
        assert got.usage.completion_tokens_details is None
        assert got.choices[0].text == ANSWER

    run(desk(Uncounted(SCRIPT)), test)


# --- the command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"engine": {}}, "name is None"),
        ({"name": "x/sequential"}, "without /sequential"),
        ({"name": "x", "engin": {}}, "did you mean 'engine'"),
        ({"name": "x", "engine": {"modle": "y"}}, "engine: unknown key 'modle'"),
        ({"name": "x", "engine": ["y"]}, "engine is ['y']"),
        ({"name": "x", "settings": {"seed": 1}}, "settings: unknown key 'seed'"),
        ({"name": "x", "settings": {"max_stages": 0}}, "max_stages is 0"),
        ({"name": "x", "settings": {"sync": "first_success"}}, "a served question has none"),
        ({"name": "x", "sequential": {"settings": {"max_tokens": "y"}}}, "must be of type int"),
        ({"name": "x", "limits": {"concurrency": 0}}, "limit concurrency is 0"),
        ({"name": "x", "limits": {"body": 1.5}}, "limit body is 1.5"),
        (["x"], "expected keys"),
    ],
    ids=str,
)
def test_impossible_descriptions_are_refused(
    config: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps(config))
    assert main(["serve", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_the_command_refuses_before_it_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY_HERE", raising=False)
    assert main(["serve", "--key-variable", "NO_KEY_HERE"]) == 2
    assert "NO_KEY_HERE: no such environment variable" in capsys.readouterr().err
    assert main(["serve", "--key-variable", "sk-my-key"]) == 2
    assert "sk-my-key" not in capsys.readouterr().err
    assert main(["serve", "no-such-model"]) == 2
    assert "no shipped model" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(number: int) -> None:
    command = [sys.executable, "-m", "sprint_lib", "serve", "--port", "0", "--key-variable", "MY_KEY"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "MY_KEY": "k"}
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=url, api_key="k") as made:
            assert len(list(made.models.list())) == 2
            assert (
                made.completions.create(model="countdown-sprint", prompt=PROBLEM.question, temperature=0)
                .choices[0]
                .text
            )
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()
