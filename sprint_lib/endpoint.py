"""SPRINT as an endpoint: an OpenAI-compatible HTTP server in front of any engine (`sprint serve`).

A client asks a question and gets an answer, as from any model; behind it planner and executors run by the loop. What
streams is the text of the final answer, as it is written; plans and executions are no answer, and a client that wants
them asks for `stream_options: {"include_stages": true}` or fetches `/v1/trajectories/ID` with the ID of the response.
`NAME` is SPRINT, `NAME/sequential` the baseline, one completion. What a request asks for is honoured or refused, never
ignored. `Desk` holds models and limits, `Teller` is how the loop's calls tell what they write, `serving` is the server.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from sprint_lib.accounting import costs
from sprint_lib.calls import Call
from sprint_lib.engines import Engine, EngineError, EngineSpec, OnText, Request, open_engine
from sprint_lib.loop import FINAL_OPEN, Recorder, run_loop, stable_seed
from sprint_lib.methods.sequential import SequentialSettings
from sprint_lib.methods.sprint import SprintSettings
from sprint_lib.wording import unknown

BASELINE = "/sequential"  # after a model's name
_DRAINED = 2**26  # bytes of a refused body that are read all the same, so that its sender reads the refusal
_IDLE_SECONDS = 120.0  # for headers, for a body, and between requests
_STOPS, _STOP_LENGTH = 16, 256


_S = TypeVar("_S", SprintSettings, SequentialSettings)


class ServeError(RuntimeError):
    """The endpoint cannot be started as asked; the message names the thing and the way out."""


class Refusal(HTTPError):
    """A request that is not answered, in OpenAI's form; `param` is the parameter at fault."""

    def __init__(
        self, status: int, message: str, *, param: str = "", code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status)
        self.message, self.param, self.code, self.headers = message, param, code, headers or {}

    def to_json(self) -> dict[str, Any]:
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status_code == 429 else kind
        said = {"message": self.message, "type": kind, "param": self.param or None, "code": self.code or None}
        return {"error": said}


@dataclass(frozen=True)
class Limits:
    """What clients may ask for; the number of stages is bounded by the loop's settings.

    Raises:
        ServeError: if one is not above 0.
    """

    body: int = 2**20  # bytes of a request
    prompt: int = 32_768  # characters of a question
    tokens: int = 65_536  # generated for one question by all its calls
    seconds: float = 3600.0  # for one question
    concurrency: int = 32  # questions at once; the next one gets status 429
    trajectories: int = 256  # kept for /v1/trajectories, the latest

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = (int, float) if field.name == "seconds" else (int,)
            if type(value) not in wanted or not value > 0:
                raise ServeError(f"limit {field.name} is {value!r}; expected a number above 0")


@dataclass(frozen=True)
class Served:
    """An engine with the settings of the method that answers on it: SPRINT's or the baseline's."""

    engine: Engine
    settings: SprintSettings | SequentialSettings


def open_desk(config: Mapping[str, Any], *, key: str = "") -> Desk:
    """The desk that a description says, its engines started (`Desk.close` ends them).

    Args:
        config: `name`; `engine` (an `EngineSpec`'s fields) and `settings` (SPRINT's); `sequential`, the baseline's
            `engine` (default: the same one) and `settings`; `limits` (those of `Limits`).
        key: what clients must send; "": nothing.

    Raises:
        ServeError: on an unknown key or an impossible value.
        EngineError: if an engine cannot start.
    """
    config = _mapping(config, ("name", "engine", "settings", "sequential", "limits"), "the description")
    baseline = _mapping(config.get("sequential", {}), ("engine", "settings"), "sequential")
    name = config.get("name")
    if not isinstance(name, str) or not name.strip() or name.endswith(BASELINE):
        raise ServeError(f"name is {name!r}; expected what requests are to call the model, without {BASELINE}")
    specs = {"": _spec(config.get("engine", {}), "engine")}
    specs[BASELINE] = _spec(baseline["engine"], "sequential: engine") if "engine" in baseline else specs[""]
    limits = Limits(**_mapping(config.get("limits", {}), [field.name for field in fields(Limits)], "limits"))
    settings: dict[str, SprintSettings | SequentialSettings] = {
        "": _settings(SprintSettings, config.get("settings", {})),
        BASELINE: _settings(SequentialSettings, baseline.get("settings", {})),
    }
    engines = {spec: open_engine(spec) for spec in dict.fromkeys(specs.values())}
    models = {name + suffix: Served(engines[specs[suffix]], settings[suffix]) for suffix in specs}
    return Desk(models, limits, key)


def _mapping(given: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ServeError(f"{where} is {given!r}; expected keys with values")
    if said := unknown(given, known):
        raise ServeError(f"{where}: {said}")
    return dict(given)


def _spec(given: Any, where: str) -> EngineSpec:
    try:
        return EngineSpec(**_mapping(given, [field.name for field in fields(EngineSpec)], where))
    except (TypeError, ValueError) as error:
        raise ServeError(f"{where}: {error}") from error


def _settings(kind: type[_S], given: Any) -> _S:
    known = [field.name for field in fields(kind) if field.name not in ("seed", "sample")]  # those are the request's
    try:
        return kind.from_dict(_mapping(given, known, "settings"))
    except (TypeError, ValueError) as error:
        raise ServeError(str(error)) from error


# --- reading a request ----------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A request whose every parameter can be honoured."""

    model: str
    text: str
    max_tokens: int | None  # generated by all calls together
    temperature: float | None
    seed: int
    stop: tuple[str, ...]  # these end the answer and are cut off
    stream: bool = False
    include_usage: bool = False
    include_stages: bool = False


# Parameters of the OpenAI API that are taken at the value that changes nothing (null always is), and those that say
# nothing about the answer.
_NEUTRAL: dict[str, Sequence[Any]] = {
    **{"n": (1,), "top_p": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},)},
    **{"logprobs": (False,), "store": (False,)},
}
_NEUTRAL_CHAT: dict[str, Sequence[Any]] = {
    **{"top_logprobs": (), "tools": ([],), "tool_choice": ("none",), "functions": ([],), "function_call": ("none",)},
    **{"response_format": ({"type": "text"},), "modalities": (["text"],), "reasoning_effort": ()},
}
_NEUTRAL_TEXT: dict[str, Sequence[Any]] = {"best_of": (1,), "echo": (False,), "suffix": ("",)}
_IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key")
_HONOURED = ("model", "max_tokens", "temperature", "seed", "stop", "stream", "stream_options")
_STREAM_OPTIONS = ("include_usage", "include_stages")


def read_request(data: bytes, *, chat: bool, limits: Limits) -> Question:
    """A request's body, checked.

    Raises:
        Refusal: if it is no JSON object, or asks for what is not honoured here.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object")
    body = {key: value for key, value in body.items() if value is not None}
    _refuse_unsupported(body, chat)
    options = _stream_options(body)
    return Question(
        model=_model_name(body),
        text=_checked(_conversation(body) if chat else _prompt(body), "messages" if chat else "prompt", limits),
        max_tokens=_max_tokens(body, limits),
        temperature=_number(body, "temperature", 0, 2),
        seed=_whole(body, "seed", -(2**63), 2**64 - 1, secrets.randbits(31)),
        stop=_stop(body),
        stream=_flag(body, "stream", "stream"),
        include_usage=_flag(options, "include_usage", "stream_options"),
        include_stages=_flag(options, "include_stages", "stream_options"),
    )


def _refuse_unsupported(body: Mapping[str, Any], chat: bool) -> None:
    neutral = {**_NEUTRAL, **(_NEUTRAL_CHAT if chat else _NEUTRAL_TEXT)}
    own = ("messages", "max_completion_tokens") if chat else ("prompt",)
    known = {*_HONOURED, *own, *_IGNORED, *neutral}
    for name, value in body.items():
        if name not in known:
            raise Refusal(400, unknown([name[:100]], sorted(known), "parameter"), param=name[:100])
        if name in neutral and not any(_same(value, taken) for taken in neutral[name]):
            taken = " or ".join(json.dumps(value) for value in (*neutral[name], None))
            raise Refusal(400, f"{name} is not supported here; leave it out, or say {taken}", param=name)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _model_name(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str):
        raise Refusal(400, "model is missing, or no string; /v1/models lists the names", param="model")
    return model


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Refusal(400, "prompt must be one text: no list of several, no token ids", param="prompt")
    return prompt


def _conversation(body: Mapping[str, Any]) -> str:
    """The texts of system and user messages, a blank line between them."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages is missing, or no list of messages", param="messages")
    texts = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if messages[-1]["role"] != "user":
        raise Refusal(400, "the last message must be the user's", param="messages")
    return "\n\n".join(texts)


def _message(message: Any, where: str) -> str:
    if not isinstance(message, dict):
        raise Refusal(400, f"{where} is no message", param=where)
    if message.get("role") not in ("system", "developer", "user"):
        raise Refusal(
            400, "one question is answered, no conversation continued: send system and user messages", param=where
        )
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    ):
        raise Refusal(400, f"the content of {where} must be text", param=where)
    return "".join(part["text"] for part in parts)


def _checked(text: str, param: str, limits: Limits) -> str:
    if not text.strip():
        raise Refusal(400, f"{param} is empty", param=param)
    if len(text) > limits.prompt:
        said = f"the question has {len(text):,} characters; this server takes {limits.prompt:,}"
        raise Refusal(400, said, param=param, code="context_length_exceeded")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(400, f"{param} is no valid Unicode (a lone surrogate)", param=param) from None
    return text


def _max_tokens(body: Mapping[str, Any], limits: Limits) -> int | None:
    given = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
    if len(given) > 1:
        raise Refusal(400, "max_tokens and max_completion_tokens say the same; give one", param=given[0])
    return _whole(body, given[0], 1, limits.tokens, 0) if given else None


def _whole(body: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    value = body.get(name, default)
    if name in body and (type(value) is not int or not least <= value <= most):
        raise Refusal(400, f"{name} must be a whole number from {least} to {most}", param=name)
    return int(value)


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    if name not in body:
        return None
    value = body[name]
    if type(value) not in (int, float) or not least <= value <= most or not math.isfinite(value):
        raise Refusal(400, f"{name} must be a number from {least} to {most}", param=name)
    return float(value)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    given = body.get("stop", [])
    stops = [given] if isinstance(given, str) else given
    good = isinstance(stops, list) and len(stops) <= _STOPS
    if not good or not all(isinstance(stop, str) and 1 <= len(stop) <= _STOP_LENGTH for stop in stops):
        said = f"stop must be a text, or up to {_STOPS} of them, none empty or over {_STOP_LENGTH} characters"
        raise Refusal(400, said, param="stop")
    return tuple(stops)


def _stream_options(body: Mapping[str, Any]) -> dict[str, Any]:
    options = body.get("stream_options", {})
    said = unknown(options, _STREAM_OPTIONS, "option") if isinstance(options, dict) else "expected an object"
    if said or (options and body.get("stream") is not True):
        raise Refusal(400, f"stream_options: {said or 'only with stream'}"[:300], param="stream_options")
    return {key: value for key, value in options.items() if value is not None}


def _flag(values: Mapping[str, Any], name: str, param: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name} must be true or false", param=param)
    return value


# --- the answer as it is written ------------------------------------------------------


class _Cut(Exception):
    """Goes from an engine's stream through the engine to who asked, and ends the call; `finish` is why."""

    def __init__(self, finish: str) -> None:
        super().__init__(finish)
        self.finish = finish


class _Reader:
    """The final answer in what one planner writes, without the white space around it and from a stop string on."""

    def __init__(self, opened: bool, stop: tuple[str, ...], show: Callable[[str], None]) -> None:
        self.opened, self.stop, self.show = opened, stop, show
        self.read = 0  # characters
        self.begun = False  # some of it was shown
        self._plan = False  # what is written here is none
        self._held = ""  # white space, or the beginning of a stop string, may not be part of it

    def feed(self, new: str) -> None:
        """Read on. Raises _Cut at a stop string."""
        self.read += len(new)
        if self._plan:
            return
        text = self._held + new
        if not self.begun:
            text = text.lstrip()
        if not self.opened:
            self.opened = text.startswith(_FINAL_TAG)
            self._plan = not self.opened and not _FINAL_TAG.startswith(text)
            text = text.removeprefix(_FINAL_TAG).lstrip() if self.opened else text
        if self.opened:
            self._take(text)
        else:
            self._held = text

    def end(self) -> None:
        """Nothing follows: no stop string is completed any more."""
        if self.opened:
            self._show(self._held.rstrip())

    def _take(self, text: str) -> None:
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self._show(text[: min(found)].rstrip())
            raise _Cut("stop")
        begun = max((size for stop in self.stop for size in range(len(stop)) if text.endswith(stop[:size])), default=0)
        sure = len(text[: len(text) - begun].rstrip())
        self._held = text[sure:]
        self._show(text[:sure])

    def _show(self, text: str) -> None:
        if text:
            self.begun = True
            self.show(text)


_FINAL_TAG = FINAL_OPEN.strip()


class Teller(Recorder):
    """Records the calls of one question, shows its answer while it is written, and ends calls as the client asked.

    `show` gets the answer's text piece by piece, `tell` each call when it has ended. The calls write `budget` tokens
    in all; those that run at the moment it is spent end at their next token, with what they have. An answer that has
    been shown stands: a try after it is not made. After `max_stages` plans a planner writes nothing but the answer.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        budget: int,
        stop: tuple[str, ...],
        max_stages: int,
        show: Callable[[str], None],
        tell: Callable[[Call], None],
    ) -> None:
        super().__init__(engine)
        self.budget, self.stop, self.max_stages = budget, stop, max_stages
        self.shown: list[str] = []
        self.ended = ""  # how the latest planner ended, if it wrote the answer
        self._show_on, self._tell = show, tell
        self._written: dict[str, int] = {}  # tokens by call

    async def ask(self, request: Request, call: Call, on_text: OnText | None = None) -> Call:
        """As `Recorder.ask`; a call that was ended here has finish `stop` or `length` and what it wrote until then."""
        room = self.budget - sum(self._written.values())
        if room <= 0 or self.shown:
            made = self._ended(request, call, _Heard(self.seconds()), "length")
        else:
            made = await self._ask(replace(request, max_tokens=min(request.max_tokens, room)), call, on_text)
        self._written[call.id] = made.completion_tokens
        self._tell(made)
        return made

    async def _ask(self, request: Request, call: Call, on_text: OnText | None) -> Call:
        heard, reader = _Heard(self.seconds()), self._reader(call)

        def listen(new: str, tokens: int) -> None:
            heard.take(new, tokens, self.seconds())
            self._written[call.id] = tokens
            if on_text:
                on_text(new, tokens)
            if reader:
                reader.feed(new)
            if sum(self._written.values()) > self.budget:
                raise _Cut("length")

        try:
            made = await super().ask(request, call, listen)
            if reader and made.finish != "error":
                with suppress(_Cut):  # of an engine that streams nothing
                    reader.feed(made.completion[reader.read :])
                    reader.end()
        except _Cut as cut:
            made = self._ended(request, call, heard, cut.finish)
        if reader:
            self.ended = made.finish if reader.opened else ""
        return made

    def finish(self, final: str | None) -> str:
        """The whole answer, given the loop's; shows what is not shown yet."""
        if final and not self.shown:
            reader = _Reader(True, self.stop, self.show)
            with suppress(_Cut):
                reader.feed(final)
                reader.end()
        return "".join(self.shown)

    def show(self, text: str) -> None:
        self.shown.append(text)
        self._show_on(text)

    def _reader(self, call: Call) -> _Reader | None:
        return _Reader(call.stage > self.max_stages, self.stop, self.show) if call.role == "planner" else None

    def _ended(self, request: Request, call: Call, heard: _Heard, finish: str) -> Call:
        made = replace(
            call,
            completion="".join(heard.texts),
            prompt_tokens=(heard.tokens and _count(self.engine, request.prompt)) or 0,
            completion_tokens=heard.tokens,
            started=heard.started,
            first_token=heard.first or heard.started,
            ended=self.seconds(),
            finish=finish,
        )
        self.calls.append(made)
        return made


def _count(engine: Engine, text: str) -> int | None:
    """Tokens of a text; None where the engine has no tokenizer."""
    try:
        return engine.count_tokens(text)
    except EngineError:
        return None


class _Heard:
    """What a call has written so far."""

    def __init__(self, started: float) -> None:
        self.started, self.first, self.tokens = started, 0.0, 0
        self.texts: list[str] = []

    def take(self, new: str, tokens: int, now: float) -> None:
        self.texts.append(new)
        self.tokens, self.first = tokens, self.first or now


# --- answering ------------------------------------------------------------------------


@dataclass(frozen=True)
class Solved:
    """A question with its answer: `finish` is `stop` or `length`; `status` is the attempt's (see `methods`)."""

    answer: str
    finish: str
    status: str
    text: str  # the rendered trajectory, or what the baseline wrote
    calls: tuple[Call, ...]
    seconds: float
    note: str = ""


Show = Callable[[str], None]
Tell = Callable[[Call], None]


class Desk:
    """What is served: models by name, limits, the questions under way and the latest trajectories."""

    def __init__(self, models: Mapping[str, Served], limits: Limits | None = None, key: str = "") -> None:
        self.models, self.limits, self._key = dict(models), limits or Limits(), key
        self.created = int(time.time())
        self.running: set[asyncio.Task[Solved]] = set()
        self.trajectories: OrderedDict[str, dict[str, Any]] = OrderedDict()

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    def admits(self, authorization: str) -> bool:
        """Whether a header has the key, if one is needed; takes as long for one that is nearly right."""
        given = authorization.removeprefix("Bearer ").strip()
        return not self._key or hmac.compare_digest(given.encode(errors="replace"), self._key.encode())

    def start(self, question: Question, show: Show, tell: Tell) -> asyncio.Task[Solved]:
        """Begin to solve; cancelling the task cancels every call under way.

        Raises:
            Refusal: on an unknown model, and while too many questions are under way.
        """
        served = self.models.get(question.model)
        if served is None:
            there_are = ", ".join(self.models)
            said = f"no model {question.model[:100]!r}; there are: {there_are}"
            raise Refusal(404, said, param="model", code="model_not_found")
        if len(self.running) >= self.limits.concurrency:
            said = f"{len(self.running)} questions are under way, which is all that this server takes; try again"
            raise Refusal(429, said, code="rate_limit_exceeded", headers={"Retry-After": "1"})
        task = asyncio.create_task(self._solve(served, question, show, tell))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    async def _solve(self, served: Served, question: Question, show: Show, tell: Tell) -> Solved:
        solve = _sprint if isinstance(served.settings, SprintSettings) else _sequential
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await solve(served, question, self.limits, show, tell)
        except TimeoutError:
            said = f"no answer within {self.limits.seconds:.0f} s, the limit of this server"
            raise Refusal(504, said, code="timeout", headers={"X-Should-Retry": "false"}) from None

    async def close(self) -> None:
        """Close the engines."""
        for engine in {id(served.engine): served.engine for served in self.models.values()}.values():
            await engine.close()

    def keep(self, id_: str, question: Question, solved: Solved, created: int) -> dict[str, Any]:
        """Keep a trajectory for clients to fetch, and return it; the oldest goes when there are too many."""
        self.trajectories[id_] = made = {
            **{"id": id_, "object": "trajectory", "created": created, "model": question.model, "seed": question.seed},
            **{"question": question.text, "answer": solved.answer, "text": solved.text},
            **{"status": solved.status, "finish_reason": solved.finish, "note": solved.note},
            **{"seconds": solved.seconds, "tokens": costs(solved.calls)},
            "calls": [call.to_json() for call in solved.calls],
        }
        while len(self.trajectories) > self.limits.trajectories:
            self.trajectories.popitem(last=False)
        return made

    def usage(self, question: Question, solved: Solved) -> dict[str, Any]:
        """Tokens as OpenAI counts them: the question's, and everything generated for it; the rest under `sprint`."""
        spent = costs(solved.calls)
        answer = _count(self.models[question.model].engine, solved.answer)
        prompt, total = solved.calls[0].prompt_tokens if solved.calls else 0, int(spent["total"])
        own = {f"{name}_tokens": spent[name] for name in ("sequential", "prefill", "cached")}
        return {
            **{"prompt_tokens": prompt, "completion_tokens": total, "total_tokens": prompt + total},
            **({} if answer is None else {"completion_tokens_details": {"reasoning_tokens": max(0, total - answer)}}),
            "sprint": {**own, "calls": spent["calls"], "stages": spent["stages"]},
        }


async def _sprint(served: Served, question: Question, limits: Limits, show: Show, tell: Tell) -> Solved:
    assert isinstance(served.settings, SprintSettings)
    settings = replace(served.settings, seed=question.seed, temperature=_temperature(served.settings, question))
    teller = Teller(
        served.engine,
        budget=question.max_tokens or limits.tokens,
        stop=question.stop,
        max_stages=settings.max_stages,
        show=show,
        tell=tell,
    )
    result = await run_loop(served.engine, question.text, settings, teller)
    answer = teller.finish(result.trajectory.final)
    length = result.status == "truncated" and teller.ended != "stop"  # at a stop string there may be no answer yet
    return Solved(
        answer,
        "length" if length else "stop",
        result.status,
        result.trajectory.render(),
        result.calls,
        teller.seconds(),
        result.note,
    )


async def _sequential(served: Served, question: Question, limits: Limits, show: Show, tell: Tell) -> Solved:
    assert isinstance(served.settings, SequentialSettings)
    settings = served.settings
    request = Request(
        settings.system + question.text,
        question.max_tokens or min(settings.max_tokens, limits.tokens),
        _temperature(settings, question),
        question.stop,
        stable_seed(question.seed, "S1"),
    )
    recorder, shown = Recorder(served.engine), 0

    def listen(new: str, tokens: int) -> None:
        nonlocal shown
        shown += len(new)
        show(new)

    call = await recorder.ask(request, Call(id="S1", role="sample"), listen)
    tell(call)
    show(call.completion[shown:])
    status = {"stop": "ok", "length": "truncated"}.get(call.finish, "engine_error")
    finish = "length" if call.finish == "length" else "stop"
    note = "; ".join(recorder.errors)
    return Solved(call.completion, finish, status, call.completion, (call,), recorder.seconds(), note)


def _temperature(settings: Any, question: Question) -> float:
    return float(settings.temperature if question.temperature is None else question.temperature)


# --- HTTP -----------------------------------------------------------------------------


class _Handler(RequestHandler):
    """What all paths share: the key, errors in OpenAI's form, JSON."""

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")

    def prepare(self) -> None:
        if not self.desk.admits(self.request.headers.get("Authorization", "")):
            said = "the key is missing or wrong; send it as `Authorization: Bearer KEY`"
            raise Refusal(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        # Without a key only this machine is served, also where a web page has its own name lead here.
        host = urlsplit(f"//{self.request.host}").hostname or ""
        if self.application.settings["local"] and not self.desk.has_key and not is_loopback(host):
            raise Refusal(403, f"this server is for this machine only, not for {host[:100]!r}")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, Refusal):
            said = {404: "no such path", 405: "this path does not take that method"}.get(status_code, self._reason)
            error = Refusal(status_code, said)
        for name, value in error.headers.items():
            self.set_header(name, value)
        self.finish(error.to_json())


class _Unknown(_Handler):
    def prepare(self) -> None:
        raise Refusal(404, f"no such path: {self.request.path[:200]}")


class _Health(_Handler):
    def prepare(self) -> None:
        pass

    def get(self) -> None:
        self.finish({"status": "ok"})


class _Models(_Handler):
    def get(self, name: str | None = None) -> None:
        if name is None:
            self.finish({"object": "list", "data": [self._model(each) for each in self.desk.models]})
        elif name in self.desk.models:
            self.finish(self._model(name))
        else:
            raise Refusal(404, f"no model {name[:100]!r}", param="model", code="model_not_found")

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.desk.created, "owned_by": "sprint"}


class _Trajectories(_Handler):
    def get(self, id_: str) -> None:
        if id_ not in self.desk.trajectories:
            kept = self.desk.limits.trajectories
            raise Refusal(404, f"no trajectory {id_[:100]!r}; the latest {kept} are kept while the server runs")
        self.finish(self.desk.trajectories[id_])


@stream_request_body
class _Completions(_Handler):
    """Both kinds of completions; the body is read piece by piece, so that the key is looked at before it."""

    def initialize(self, desk: Desk, chat: bool = False) -> None:
        super().initialize(desk)
        self.chat = chat
        self.body = bytearray()
        self.task: asyncio.Task[Solved] | None = None
        self.gone = False
        self.id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        self.created = int(time.time())

    def prepare(self) -> None:
        super().prepare()
        if self.request.method != "POST":
            raise Refusal(405, "this path takes POST", headers={"Allow": "POST"})
        length = self.request.headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self.desk.limits.body):
            raise self._too_large()

    def data_received(self, chunk: bytes) -> None:
        if len(self.body) <= self.desk.limits.body:
            self.body += chunk

    def on_connection_close(self) -> None:
        self.gone = True
        if self.task:
            self.task.cancel()

    async def post(self) -> None:
        if len(self.body) > self.desk.limits.body:
            raise self._too_large()
        question = read_request(bytes(self.body), chat=self.chat, limits=self.desk.limits)
        self.question = question
        self.task = self.desk.start(question, self._show, self._tell)
        self.set_header("X-Request-Id", self.id)
        if question.stream:
            self.set_header("Content-Type", "text/event-stream; charset=utf-8")
            self.set_header("Cache-Control", "no-cache")
            self._send([self._choice("", role={"role": "assistant"})])
        try:
            solved = await self.task
            self.desk.keep(self.id, question, solved, self.created)
            self._check(solved)
        except asyncio.CancelledError:
            if not self.gone:  # the server ends
                raise Refusal(503, "the server is shutting down") from None
        except Refusal as refusal:
            if not question.stream:
                raise
            self._event(refusal.to_json())
            self.finish()
        else:
            self._conclude(solved)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self.desk.limits.body:,} bytes, the limit of this server")

    def _check(self, solved: Solved) -> None:
        if solved.status == "engine_error":
            raise Refusal(500, f"the engine failed: {solved.note[:1000]}", code="engine_error")
        if solved.finish == "length" and not any(call.completion_tokens for call in solved.calls):
            param = "messages" if self.chat else "prompt"
            raise Refusal(400, "the question fills the model's context", param=param, code="context_length_exceeded")

    def _show(self, text: str) -> None:
        if self.question.stream and text and not self.gone:
            self._send([self._choice(text)])

    def _tell(self, call: Call) -> None:
        if self.question.include_stages and not self.gone:
            names = ("id", "role", "stage", "index", "completion", "completion_tokens", "finish")
            self._send([], sprint={"call": {name: getattr(call, name) for name in names}})

    def _conclude(self, solved: Solved) -> None:
        question, own = self.question, {"status": solved.status, "seed": self.question.seed}
        usage = self.desk.usage(question, solved)
        if not question.stream:
            choice = self._choice(solved.answer, finish=solved.finish, role={"role": "assistant"})
            self.finish(self._body([choice], usage=usage, sprint=own))
            return
        self._send([self._choice("", finish=solved.finish)], sprint=own)
        if question.include_usage:
            self._send([], usage=usage)
        self.write("data: [DONE]\n\n")
        self.finish()

    def _choice(self, text: str, *, finish: str | None = None, role: Mapping[str, str] | None = None) -> dict[str, Any]:
        common = {"index": 0, "logprobs": None, "finish_reason": finish}
        if not self.chat:
            return {**common, "text": text}
        said = {**(role or {}), **({"content": text} if text or role else {})}
        return {**common, ("delta" if self.question.stream else "message"): said}

    def _body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if self.question.stream else "chat.completion"
        common = {"id": self.id, "object": kind, "created": self.created, "model": self.question.model}
        return {**common, "choices": choices, **more}

    def _send(self, choices: list[dict[str, Any]], **more: Any) -> None:
        self._event(self._body(choices, **more))

    def _event(self, value: dict[str, Any]) -> None:
        self.write(f"data: {json.dumps(value)}\n\n")
        self.flush()  # not waited for: an answer that its reader leaves in the buffer is bounded by its tokens


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def serving(desk: Desk, *, host: str = "127.0.0.1", port: int = 0, insecure: bool = False) -> AsyncIterator[str]:
    """The server for as long as the block runs; gives its base URL for OpenAI clients. Port 0: any that is free.

    At the end what is under way is cancelled; the engines stay open.

    Raises:
        ServeError: if the address cannot be listened on, or is not this machine's own and no key is needed.
    """
    if not (desk.has_key or insecure or is_loopback(host)):
        raise ServeError(
            f"{host}: others can reach this address, and no key is asked for; name the environment variable that holds"
            " one (--key-variable), or say --insecure"
        )
    if not 0 <= port <= 65535:
        raise ServeError(f"port {port}: expected 1 to 65535, or 0 for any that is free")
    try:
        sockets = bind_sockets(port, host)
    except OSError as error:
        raise ServeError(f"{host}, port {port}: {error}; name another (port 0: any that is free)") from error
    server = HTTPServer(
        _application(desk, local=is_loopback(host)),
        max_body_size=max(_DRAINED, desk.limits.body),
        idle_connection_timeout=_IDLE_SECONDS,
        body_timeout=_IDLE_SECONDS,
    )
    server.add_sockets(sockets)
    name = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{name}:{sockets[0].getsockname()[1]}/v1"
    finally:
        server.stop()
        for task in desk.running:
            task.cancel()
        await asyncio.gather(*desk.running, return_exceptions=True)
        await asyncio.sleep(0)  # the handlers say so to their clients
        await server.close_all_connections()


def _application(desk: Desk, *, local: bool) -> Application:
    given = {"desk": desk}
    return Application(
        [
            (r"/health", _Health, given),
            (r"/v1/models", _Models, given),
            (r"/v1/models/(.+)", _Models, given),
            (r"/v1/completions", _Completions, given),
            (r"/v1/chat/completions", _Completions, {**given, "chat": True}),
            (r"/v1/trajectories/([^/]+)", _Trajectories, given),
        ],
        default_handler_class=_Unknown,
        default_handler_args=given,
        cross_origin_protection=True,
        log_function=lambda handler: None,
        local=local,
    )
