"""Chat over real HTTP: what a server may do wrong, what is stored, what is counted, and that the key is nowhere."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Answer, Raw, Say, ScriptedServer, Status, Trouble

from sprint_lib import batches
from sprint_lib.chat import Chat, ChatError, Endpoint, EndpointError, Limits, Prices, Reply, Sampling

KEY = "sk-test-0123456789abcdef"
QUICK = Limits(retries=3, first_wait=0.01, longest_wait=0.3)
IMPATIENT = replace(QUICK, read_seconds=1.0)
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


def question(text: str = "What?") -> list[dict[str, str]]:
    return [{"role": "system", "content": "Answer."}, {"role": "user", "content": text}]


def chat(server: ScriptedServer, folder: Path, limits: Limits = QUICK, **options: Any) -> Chat:
    return Chat(Endpoint("m", server.url), folder / "cache", limits=limits, **options)


def ask(asked: Chat, *texts: str, schema: dict[str, Any] | None = None) -> list[Reply]:
    """Replies to all texts at once."""

    async def work() -> list[Reply]:
        async with asked:
            return await asyncio.gather(*(asked.ask(question(text), schema) for text in texts or ("What?",)))

    return asyncio.run(work())


def failing(asked: Chat, text: str = "What?") -> ChatError:
    with pytest.raises(ChatError) as caught:
        ask(asked, text)
    return caught.value


# --- replies and the cache ------------------------------------------------------------


def test_a_reply_is_read_counted_and_stored(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:
        first = chat(server, tmp_path, prices=Prices(2.0, 8.0, cached=0.5))
        assert ask(first)[0].text == "This."
        again = chat(server, tmp_path, prices=Prices(2.0, 8.0, cached=0.5))
        reply = ask(again)[0]
    assert len(server.asked) == 1
    body = server.asked[0].body
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("m", 0.0, 0, 8192)
    assert "response_format" not in body
    assert (reply.kind, reply.finish, reply.prompt_tokens, reply.completion_tokens) == ("ok", "stop", 100, 20)
    asked = first.ledger.to_json()
    assert asked["asked"]["calls"] == 1
    assert asked["asked"]["money"] == pytest.approx((60 * 2 + 40 * 0.5 + 20 * 8) / 1e6)
    assert again.ledger.to_json()["cached"]["money"] == asked["asked"]["money"]
    assert again.ledger.to_json()["asked"]["calls"] == 0
    json.dumps(asked, allow_nan=False)


def test_what_was_asked_decides_what_is_stored(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:
        base = chat(server, tmp_path)
        key = base.request(question(), None).key
        others = [
            base.request(question("Else?"), None),
            base.request(question(), SCHEMA),
            base.request(question(), None, "v2"),
            chat(server, tmp_path, sampling=Sampling(seed=1)).request(question(), None),
            Chat(Endpoint("n", server.url), tmp_path).request(question(), None),
            Chat(Endpoint("m", server.url, revision="2"), tmp_path).request(question(), None),
            Chat(Endpoint("m", "http://elsewhere/v1"), tmp_path).request(question(), None),
        ]
    assert len({key, *(request.key for request in others)}) == 1 + len(others)
    assert (
        Chat(Endpoint("m", f"{server.url}/", "SOME_KEY"), tmp_path, limits=QUICK).request(question(), None).key == key
    )


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"format": "sprint-reply-1"}', b"[" * 100_000, None])
def test_a_damaged_entry_is_set_aside_and_asked_for_again(tmp_path: Path, damage: bytes | None) -> None:
    with ScriptedServer([Say("This.")]) as server:
        ask(chat(server, tmp_path))
        [path] = (tmp_path / "cache").glob("??/*.json")
        path.write_bytes(damage if damage is not None else path.read_bytes().replace(b"This.", b"That."))
        asked = chat(server, tmp_path)
        assert ask(asked)[0].text == "This."
        assert ask(chat(server, tmp_path))[0].text == "This."
    assert len(server.asked) == 2
    assert asked.ledger.corrupt == 1
    assert len(list((tmp_path / "cache" / ".aside").iterdir())) == 1


def test_equal_calls_at_once_are_one(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:
        replies = ask(chat(server, tmp_path), *["Same?"] * 20, "Other?")
    assert len(server.asked) == 2
    assert {reply.text for reply in replies} == {"This."}


def test_who_goes_away_does_not_take_the_call_along(tmp_path: Path) -> None:
    with ScriptedServer(lambda body, before: (time.sleep(0.1), Say("This."))[1]) as server:
        asked = chat(server, tmp_path)

        async def work() -> Reply:
            first, second = (asyncio.ensure_future(asked.ask(question())) for _ in range(2))
            await asyncio.sleep(0.02)
            first.cancel()
            return await second

        assert asyncio.run(work()).text == "This."
    assert len(server.asked) == 1


def test_one_chat_serves_one_loop_after_the_other(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:
        asked = chat(server, tmp_path)
        for text in ("a", "b"):
            assert asyncio.run(asked.ask(question(text))).text == "This."


def test_odd_text_is_sent_and_stored(tmp_path: Path) -> None:
    with ScriptedServer([Say("\ud800 \x00 \u202e é")]) as server:
        for _ in range(2):
            assert ask(chat(server, tmp_path), "lone \ud800")[0].text == "? \x00 \u202e é"
    assert len(server.asked) == 1


def test_without_a_count_of_tokens_money_is_unknown(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.", usage=None)]) as server:
        asked = chat(server, tmp_path, prices=Prices(1, 1))
        ask(asked)
    assert asked.ledger.to_json()["asked"]["money"] == "unknown"
    assert Chat(Endpoint("m", "http://x/v1"), tmp_path).ledger.to_json()["asked"]["money"] == "unknown"


@pytest.mark.parametrize(
    ("say", "kind", "text"),
    [
        (Say(None, refusal="I will not."), "refusal", "I will not."),
        (Say('{"x":', finish="length"), "truncated", '{"x":'),
        (Say(None, finish="content_filter"), "truncated", ""),
    ],
)
def test_kinds_of_replies(tmp_path: Path, say: Say, kind: str, text: str) -> None:
    with ScriptedServer([say]) as server:
        asked = chat(server, tmp_path)
        reply = ask(asked)[0]
        ask(asked)
    assert (reply.kind, reply.text) == (kind, text)
    assert len(server.asked) == 1  # it is paid for, and would be the same again
    assert asked.ledger.failures == {kind: 1}


# --- what goes wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Status(429), "rate_limit"),
        (Status(500), "server"),
        (Status(503), "server"),
        (Status(408), "server"),
        (Trouble("drop"), "connection"),
        (Trouble("half"), "connection"),
        (Trouble("hang"), "timeout"),
        (Raw(b"<html>busy</html>", "text/html"), "malformed"),
        (Raw(b"{", "application/json"), "malformed"),
        (Raw(b'{"choices": []}'), "malformed"),
        (Raw(b'{"choices": [{"message": {"content": 5}}]}'), "malformed"),
        (Raw(b"[" * 50_000), "malformed"),
    ],
)
def test_trouble_is_tried_again_within_bounds(tmp_path: Path, trouble: Answer, kind: str) -> None:
    limits = IMPATIENT if kind == "timeout" else QUICK
    with ScriptedServer([trouble, Say("This.")]) as server:
        asked = chat(server, tmp_path, limits)
        assert ask(asked)[0].text == "This."
        assert (len(server.asked), asked.ledger.retries, asked.ledger.failures) == (2, 1, {kind: 1})
    with ScriptedServer([trouble]) as server:
        asked = chat(server, tmp_path, limits)
        error = failing(asked)
    assert error.kind == ("malformed" if kind == "malformed" else "engine_error")
    assert len(server.asked) == QUICK.retries + 1
    assert asked.ledger.unanswered == 1
    assert f"{kind}: " in str(error)
    assert "4 attempts" in str(error)


def test_no_server_at_all(tmp_path: Path) -> None:
    with ScriptedServer([Say("")]) as server:
        pass
    assert "connection: " in str(failing(chat(server, tmp_path)))


@pytest.mark.parametrize("status", [400, 403, 422])
def test_what_would_fail_again_is_not_tried_again(tmp_path: Path, status: int) -> None:
    with ScriptedServer([Status(status, "bad input")]) as server:
        error = failing(chat(server, tmp_path))
    assert len(server.asked) == 1
    assert not isinstance(error, EndpointError)
    assert "bad input" in str(error)


def test_a_prompt_that_is_too_long(tmp_path: Path) -> None:
    with ScriptedServer([Status(400, "This model's maximum context length is 8 tokens")]) as server:
        assert failing(chat(server, tmp_path)).kind == "too_long"


@pytest.mark.parametrize("status", [Status(401), Status(404), Status(429, code="insufficient_quota")])
def test_where_no_call_can_succeed_the_work_stops(tmp_path: Path, status: Status) -> None:
    with ScriptedServer([status]) as server:
        assert isinstance(failing(chat(server, tmp_path)), EndpointError)
    assert len(server.asked) == 1


def test_a_dead_server_is_given_up(tmp_path: Path) -> None:
    with ScriptedServer([Status(500)]) as server:
        asked = chat(server, tmp_path, replace(QUICK, concurrency=2, retries=0))
        errors = [failing(asked, str(n)) for n in range(3)]
    assert [isinstance(error, EndpointError) for error in errors] == [False, False, True]
    assert "3 calls in a row" in str(errors[-1])


def _every_fourth_refused(body: dict[str, Any], before: int) -> Answer:
    text = body["messages"][-1]["content"].partition("\n")[0]
    return Status(400, "bad input") if int(text) % 4 == 0 else Say('{"x": 1}')


def kinds(asked: Chat, n: int, schema: dict[str, Any] | None = None) -> Counter[str]:
    """What became of calls 0 to n - 1, one after the other begun."""

    async def work() -> list[Reply | BaseException]:
        async with asked:
            calls = (asked.ask(question(str(i)), schema) for i in range(n))
            return await asyncio.gather(*calls, return_exceptions=True)

    return Counter(type(outcome).__name__ for outcome in asyncio.run(work()))


@pytest.mark.parametrize("concurrency", [1, 8])
def test_calls_that_a_living_server_refuses_do_not_end_the_work(tmp_path: Path, concurrency: int) -> None:
    with ScriptedServer(_every_fourth_refused) as server:
        for _ in range(2):  # the second time only those are asked
            asked = chat(server, tmp_path, replace(QUICK, concurrency=concurrency))
            assert kinds(asked, 60) == {"Reply": 45, "ChatError": 15}
            assert asked.ledger.unanswered == 15


@pytest.mark.usefixtures("_no_gathering")
def test_calls_that_a_batch_refuses_do_not_end_the_work(tmp_path: Path) -> None:
    def script(body: dict[str, Any], before: int) -> Answer:
        answer = _every_fourth_refused(body, before)
        return Status(500) if isinstance(answer, Status) else answer

    with ScriptedServer(script) as server:
        for _ in range(2):
            asked = chat(server, tmp_path, replace(QUICK, retries=1), batch=True)
            assert kinds(asked, 54) == {"Reply": 40, "ChatError": 14}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.usefixtures("_no_gathering")
def test_a_refused_call_takes_no_structure_from_the_others(tmp_path: Path, batch: bool) -> None:
    with ScriptedServer(_every_fourth_refused) as server:
        asked = chat(server, tmp_path, batch=batch)
        assert kinds(asked, 4, SCHEMA) == {"Reply": 3, "ChatError": 1}
        assert kinds(asked, 8, SCHEMA) == {"Reply": 6, "ChatError": 2}
    assert asked.ledger.formats == {"json_schema": 6}


def test_a_living_server_between_failures_is_not_given_up(tmp_path: Path) -> None:
    with ScriptedServer([Status(500), Status(500), Status(400), Status(500), Say("This."), Status(500)]) as server:
        asked = chat(server, tmp_path, replace(QUICK, concurrency=2, retries=0))
        errors = [failing(asked, str(n)) for n in range(4)]
        ask(asked, "4")
        errors += [failing(asked, str(n)) for n in range(5, 8)]
    assert [isinstance(error, EndpointError) for error in errors] == [False] * 6 + [True]


def test_a_server_is_given_the_time_it_asks_for(tmp_path: Path) -> None:
    busy = Status(429, headers={"Retry-After": "0.25"})
    with ScriptedServer([busy, Say("This.")]) as server:
        ask(chat(server, tmp_path))
    assert server.asked[1].at - server.asked[0].at >= 0.25
    for value in ("3600", formatdate(time.time() + 3600, usegmt=True), "soon", "9" * 30, "-1"):
        with ScriptedServer([Status(503, headers={"Retry-After": value}), Say("This.")]) as server:
            ask(chat(server, tmp_path, replace(QUICK, longest_wait=0.1)), value)
        assert server.asked[1].at - server.asked[0].at < 30


def test_a_busy_server_gets_no_other_call_meanwhile(tmp_path: Path) -> None:
    with ScriptedServer([Status(429, headers={"Retry-After": "0.3"}), Say("This.")]) as server:
        asked = chat(server, tmp_path)

        async def work() -> None:
            first = asyncio.ensure_future(asked.ask(question("a")))
            while not asked.ledger.failures:
                await asyncio.sleep(0.01)
            await asyncio.gather(first, asked.ask(question("b")))

        asyncio.run(work())
    assert all(later.at - server.asked[0].at >= 0.28 for later in server.asked[1:])


def test_no_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], before: int) -> Say:
        return Say("This.")

    with ScriptedServer(slow) as server:
        ask(chat(server, tmp_path, replace(QUICK, concurrency=3)), *map(str, range(12)))
    assert len(server.asked) == 12
    assert server.busiest <= 3


def test_no_more_calls_a_minute_than_allowed(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:
        ask(chat(server, tmp_path, replace(QUICK, requests_per_minute=600)), *map(str, range(8)))
    times = [asked.at for asked in server.asked]
    assert times[-1] - times[0] >= 0.4


def test_no_more_tokens_a_minute_than_allowed(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:  # 120 tokens a call
        ask(chat(server, tmp_path, replace(QUICK, concurrency=1, tokens_per_minute=72_000)), *map(str, range(8)))
    times = [asked.at for asked in server.asked]
    assert times[-1] - times[0] >= 0.4


# --- the shape of replies -------------------------------------------------------------


def test_a_schema_is_asked_for(tmp_path: Path) -> None:
    with ScriptedServer([Say('{"x": 1}')]) as server:
        asked = chat(server, tmp_path)
        assert ask(asked, schema=SCHEMA)[0].format == "json_schema"
    shape = server.asked[0].body["response_format"]
    assert shape["type"] == "json_schema"
    assert shape["json_schema"]["schema"] == SCHEMA
    assert shape["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("refused", "format_"), [({"json_schema"}, "json_object"), ({"json_schema", "json_object"}, "text")]
)
def test_servers_without_schemas_are_asked_more_simply(tmp_path: Path, refused: set[str], format_: str) -> None:
    def script(body: dict[str, Any], before: int) -> Answer:
        asked = body.get("response_format", {}).get("type")
        return Status(400, f"{asked} is not supported") if asked in refused else Say('{"x": 1}')

    with ScriptedServer(script) as server:
        asked = chat(server, tmp_path)
        assert ask(asked, "a", schema=SCHEMA)[0].format == format_
        assert len(server.asked) == len(refused) + 1
        assert json.dumps(SCHEMA) in server.asked[-1].body["messages"][-1]["content"]
        ask(asked, "b", schema=SCHEMA)
        assert len(server.asked) == len(refused) + 2  # it is remembered
        ask(chat(server, tmp_path), "a", schema=SCHEMA)
        assert len(server.asked) == len(refused) + 2  # and what is stored is found whatever the shape
    assert asked.ledger.to_json()["formats"] == {format_: 2}


def test_bounds_in_a_schema_go_before_the_schema(tmp_path: Path) -> None:
    items = {"type": "string", "pattern": "^a$"}
    bounded = {**SCHEMA, "properties": {"x": {"type": "array", "items": items, "maxItems": 3}}}

    def script(body: dict[str, Any], before: int) -> Answer:
        return Status(400, "'maxItems' is not permitted") if "maxItems" in json.dumps(body) else Say('{"x": []}')

    with ScriptedServer(script) as server:
        asked = chat(server, tmp_path)
        assert ask(asked, schema=bounded)[0].format == "json_schema"
    first, second = (one.body["response_format"]["json_schema"]["schema"] for one in server.asked)
    assert first == bounded
    assert second["properties"]["x"] == {"type": "array", "items": {"type": "string"}}


def test_the_newer_name_of_the_bound_is_understood(tmp_path: Path) -> None:
    def script(body: dict[str, Any], before: int) -> Answer:
        refused = Status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return refused if "max_tokens" in body else Say("This.")

    with ScriptedServer(script) as server:
        asked = chat(server, tmp_path)
        ask(asked, "a")
        ask(asked, "b")
    assert [asked.body.get("max_completion_tokens") for asked in server.asked] == [None, 8192, 8192]


# --- batches --------------------------------------------------------------------------


@pytest.fixture
def _no_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 0.05)


@pytest.mark.usefixtures("_no_gathering")
def test_a_batch_carries_all_calls(tmp_path: Path) -> None:
    def script(body: dict[str, Any], before: int) -> Answer:
        text = body["messages"][-1]["content"]
        return Status(500) if text == "3" and not before else Say(f"to {text}")

    with ScriptedServer(script, polls=3) as server:
        asked = chat(server, tmp_path, batch=True)
        assert [reply.text for reply in ask(asked, *"12345")] == [f"to {n}" for n in "12345"]
        assert len(server.batches) == 2  # the failed call went into another one
        assert [reply.text for reply in ask(chat(server, tmp_path), *"12345")] == [f"to {n}" for n in "12345"]
    assert len(server.asked) == 6
    assert asked.ledger.asked.calls == 5
    assert not list((tmp_path / "cache" / "batches").glob("*.json"))


@pytest.mark.usefixtures("_no_gathering")
def test_a_batch_is_found_again(tmp_path: Path) -> None:
    with ScriptedServer(lambda body, before: Say("This."), polls=10**9) as server:
        asked = chat(server, tmp_path, batch=True)

        async def killed() -> None:
            calls = asyncio.gather(asked.ask(question("a")), asked.ask(question("b")))
            while not any(server.looks.values()):
                await asyncio.sleep(0.01)
            calls.cancel()

        asyncio.run(killed())
        assert len(server.batches) == 1
        server.polls = 1
        assert ask(chat(server, tmp_path, batch=True), "b")[0].text == "This."
        assert ask(chat(server, tmp_path, batch=True), "a")[0].text == "This."  # nobody waited, but it is stored
    assert len(server.batches) == 1
    assert len(server.asked) == 2


@pytest.mark.usefixtures("_no_gathering")
def test_a_batch_whose_making_was_not_answered_is_not_made_twice(tmp_path: Path) -> None:
    with ScriptedServer([Say("This.")]) as server:
        server.lose_batch_answer = True
        assert ask(chat(server, tmp_path, batch=True))[0].text == "This."
    assert len(server.batches) == 1


@pytest.mark.usefixtures("_no_gathering")
def test_a_batch_without_schemas_is_asked_more_simply(tmp_path: Path) -> None:
    def script(body: dict[str, Any], before: int) -> Answer:
        return Status(400, "response_format is unknown") if "response_format" in body else Say('{"x": 1}')

    with ScriptedServer(script) as server:
        replies = ask(chat(server, tmp_path, batch=True), "a", "b", schema=SCHEMA)
    assert [reply.format for reply in replies] == ["text", "text"]
    assert len(server.batches) == 3


# --- the key --------------------------------------------------------------------------


def secret_chat(server: ScriptedServer, folder: Path) -> Chat:
    return Chat(Endpoint("m", server.url, "SPRINT_TEST_KEY"), folder / "cache", limits=IMPATIENT)


@pytest.mark.parametrize(
    "answer",
    [
        Say(f"your key is {KEY}"),
        Say(None, refusal=f"not with {KEY}"),
        Status(401, f"Incorrect API key provided: {KEY}"),
        Status(400, f"{'x' * 290} {KEY}"),
        Status(500, f"Authorization: Bearer {KEY}"),
        Raw(f"{KEY} <html>".encode(), "text/html"),
        Trouble("drop"),
        Trouble("hang"),
    ],
)
def test_the_key_is_nowhere(
    tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPRINT_TEST_KEY", f"{KEY}\n")
    seen: list[str] = []
    raised: ChatError | None = None
    with ScriptedServer([answer]) as server:
        asked = secret_chat(server, tmp_path)
        try:
            seen.append(repr(ask(asked)))
        except ChatError as error:
            stack = traceback.TracebackException.from_exception(error, capture_locals=True).stack
            frames = [repr((frame.name, frame.locals)) for frame in stack if frame.filename != __file__]
            assert frames
            seen += [*frames, *traceback.format_exception(error), repr(error), repr(vars(error))]
            raised = error
    assert raised is None or (raised.__cause__, raised.__context__) == (None, None)
    assert server.asked[0].authorization == f"Bearer {KEY}"
    seen += [
        repr(asked),
        repr(vars(asked)),
        repr(asked.endpoint),
        json.dumps(asked.ledger.to_json()),
        *capfd.readouterr(),
    ]
    seen += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert seen
    assert not [text for text in seen if KEY in text or KEY[:12] in text]


def test_the_key_is_in_no_frame_of_an_unexpected_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*arguments: object) -> None:
        raise RuntimeError("burst")

    monkeypatch.setenv("SPRINT_TEST_KEY", KEY)
    monkeypatch.setattr(Chat, "read", burst)
    with ScriptedServer([Say("This.")]) as server, pytest.raises(RuntimeError) as caught:
        ask(secret_chat(server, tmp_path))
    seen = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [repr((frame.name, frame.locals)) for frame in seen.stack]
    assert any("_send" in frame for frame in frames)
    assert not [frame for frame in frames if KEY in frame]


@pytest.mark.parametrize("value", ["", " \n", "sk-käse-0123456789", "sk 0123456789"])
def test_a_key_that_is_none_stops_the_work(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRINT_TEST_KEY", value)
    with ScriptedServer([Say("This.")]) as server:
        error = failing(secret_chat(server, tmp_path))
    assert isinstance(error, EndpointError)
    assert "that key_variable names" in str(error)
    assert "SPRINT_TEST_KEY" not in str(error)  # it may be a key
    assert not value.strip() or value not in str(error)
    assert not server.asked


@pytest.mark.parametrize(
    ("model", "url", "variable"),
    [
        ("", "http://x/v1", ""),
        ("m", "x/v1", ""),
        ("m", "ftp://x/v1", ""),
        ("m", f"https://me:{KEY}@x/v1", ""),
        ("m", f"https://x/v1?key={KEY}", ""),
        ("m", "https://x/v1", KEY),
        ("m", "https://x/v1", "gsk_0123456789abcdef"),
        ("m", "https://x/v1", "AIzaSyA0123456789"),
        ("m", "https://x/v1", "hf_abcdefghijklmnop"),
        ("m", "https://x/v1", "A" * 65),
    ],
)
def test_endpoints_that_are_refused(model: str, url: str, variable: str) -> None:
    with pytest.raises(ValueError, match="endpoint: ") as caught:
        Endpoint(model, url, variable)
    assert KEY not in str(caught.value)
    assert not variable or variable not in str(caught.value)


@pytest.mark.parametrize(
    "limit",
    [{"concurrency": 0}, {"retries": -1}, {"read_seconds": 0}, {"tokens_per_minute": 0}, {"first_wait": float("nan")}],
)
def test_limits_that_are_refused(limit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limit))} is"):
        Limits(**limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}])
def test_sampling_that_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        Sampling(**wrong)  # type: ignore[arg-type]
