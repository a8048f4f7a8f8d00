"""Questions to a chat model behind any OpenAI-compatible server: every reply is stored by what was asked, so that
nothing is paid for twice; what the network or the server does wrong is tried again within bounds; a ledger says what
it all cost. The API key is read from an environment variable whenever a request is sent, and kept nowhere.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from sprint_lib import store
from sprint_lib.tokens import encodable

if TYPE_CHECKING:
    from openai import AsyncOpenAI, Timeout

_CONNECTIONS = 2**16  # at once: no limit but that of open files

Message = Mapping[str, str]  # role and content
Kind = Literal["ok", "refusal", "truncated"]
FORMATS = ("json_schema", "json_object", "text")  # of replies, the strictest first

MAX_TEXT = 1_000_000  # characters of a reply that are kept
_SHOWN = 300  # characters of an error message
_SECRET = 8  # characters; a shorter key, such as local servers take, is no secret and may be any word of a text
_RECORD = "sprint-reply-1"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")  # in capitals: most keys are none
_DEAD = ("connection", "timeout", "server")  # failures of a server that may be gone
_BOUNDS = ("maxLength", "maxItems", "pattern")  # of schemas; some servers refuse them
_TOO_LONG = re.compile(r"context.{0,9}(?:length|window|size)|maximum context|too many tokens|prompt is too long", re.I)


class ChatError(RuntimeError):
    """A call that ended without a reply. `kind`: `engine_error` (network or server), `malformed`, `too_long`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def copy(self) -> ChatError:
        return ChatError(self.kind, str(self))


class EndpointError(ChatError):
    """An endpoint where no call can succeed: a wrong key, address or model, no credit, or a dead server."""

    def __init__(self, message: str) -> None:
        super().__init__("engine_error", message)

    def copy(self) -> EndpointError:
        return EndpointError(str(self))


# --- what is asked, and how -----------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server. `key_variable` names the environment variable with the API key ("": none is sent).

    No message repeats `key_variable`: somebody may have put the key itself there.
    `revision` is what the model's owner calls its version; only the cache knows it.

    Raises:
        ValueError: for an address that is none or holds a secret, or a variable's name that is none.
    """

    model: str
    base_url: str
    key_variable: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if not self.model:
            raise ValueError("endpoint: no model is named")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint: base_url must be an address such as http://localhost:8000/v1; {self.model}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"endpoint: base_url holds more than an address ({parts.hostname}); it is written into caches and "
                "reports, so a key goes into an environment variable that key_variable names"
            )
        if self.key_variable and not _VARIABLE.fullmatch(self.key_variable):
            raise ValueError(
                "endpoint: key_variable must be the name of an environment variable, in capitals such as "
                "OPENAI_API_KEY; the key itself does not go here"
            )

    def client(self, timeout: Timeout, *, streams: bool = False) -> AsyncOpenAI:
        """A client for the running event loop; it tries nothing again by itself and reads the key for each request.

        For `streams`, any number at once, it speaks HTTP through aiohttp, which takes half of httpx's time for
        hundreds of them; such a client must be closed.
        """
        from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient

        key = self._key if self.key_variable else "none"
        # A client of its own making would, unless closed, close itself in whatever event loop is running by then.
        if streams:
            from httpx2 import Limits

            http = DefaultAioHttpClient(timeout=timeout, limits=Limits(max_connections=_CONNECTIONS))
        else:
            http = DefaultAsyncHttpxClient(timeout=timeout)
        return AsyncOpenAI(api_key=key, base_url=self.base_url, max_retries=0, http_client=http)

    async def _key(self) -> str:
        """The API key, read when a request is sent.

        Raises:
            EndpointError: if the variable is not set, or holds what cannot be a key.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise EndpointError("the environment variable that key_variable names is not set; set it to the API key")
        if not re.fullmatch(r"[!-~]+", key):
            raise EndpointError("the environment variable that key_variable names holds characters that no API key has")
        return key

    def scrub(self, text: str) -> str:
        """Text without the API key, and such that it can be encoded."""
        text = encodable(text)
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        return text.replace(key, "[key]") if len(key) >= _SECRET else text

    def failure(self, error: Exception) -> Failure:
        """What an exception of the client says, without the key and without the exception, whose request holds it."""
        import openai

        text = self.scrub(" ".join(str(error).split()))[:_SHOWN] or type(error).__name__
        if isinstance(error, TimeoutError | openai.APITimeoutError) and not _broken_off(error):
            return Failure("timeout", "no reply in time", again=True)
        if isinstance(error, openai.APIStatusError):
            return _status_failure(error.status_code, str(error.code or ""), text, _retry_after(error.response.headers))
        if isinstance(error, openai.APIConnectionError):
            return Failure("connection", f"no connection ({type(error.__cause__).__name__})", again=True)
        if isinstance(error, EndpointError):
            return Failure("endpoint", text, fatal=True)
        return Failure("client", f"{type(error).__name__}: {text}")


@dataclass(frozen=True)
class Sampling:
    """How the model writes; None: not sent, for models that refuse it. `max_tokens` are of the reply."""

    temperature: float | None = 0.0
    seed: int | None = 0
    max_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"sampling: temperature is {self.temperature}; a number from 0 on, or null to send none")
        if self.max_tokens < 1:
            raise ValueError(f"sampling: max_tokens is {self.max_tokens}; a reply needs room for at least one token")


@dataclass(frozen=True)
class Limits:
    """Bounds on requests: how many at once and a minute, how often again, and how long each may take (seconds).

    Attributes:
        tokens_per_minute: of prompts and replies; a prompt counts as characters / 4 until the server has counted.
        first_wait: before the first retry; it doubles with each, less up to half by chance.
        longest_wait: before any retry, also if the server asks for more (`Retry-After`).
        read_seconds: without a byte from the server.
        request_seconds: for one request from beginning to end.
    """

    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    retries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 60.0
    connect_seconds: float = 10.0
    read_seconds: float = 300.0
    request_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = "0" if name in ("retries", "first_wait", "longest_wait") else "more than 0"
            if value is not None and not (0 < value < math.inf or (value == 0 and least == "0")):
                raise ValueError(f"limits: {name} is {value}; the least is {least}")


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens of prompts and replies; `cached`: of a prompt's tokens that the server had cached."""

    input: float
    output: float
    cached: float | None = None  # None: as input
    currency: str = "USD"


@dataclass(frozen=True)
class Reply:
    """What a model answered. Tokens are the server's count, None where it gave none; `seconds` those of the request.

    `kind` is `refusal`, or `truncated` where `finish` is `length` or `content_filter`, or else `ok`. `format` is the
    member of `FORMATS` that was asked for in the end.
    """

    text: str
    kind: Kind
    finish: str
    format: str
    model: str = ""  # as the server names it
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0  # of the prompt, taken from the server's own cache
    seconds: float = 0.0


# --- the ledger -----------------------------------------------------------------------


@dataclass
class Tally:
    """Replies and what they took; `uncounted` are those whose tokens the server did not say."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    uncounted: int = 0
    seconds: float = 0.0

    def add(self, reply: Reply) -> None:
        self.calls += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        self.cached_tokens += reply.cached_tokens
        self.uncounted += reply.prompt_tokens is None or reply.completion_tokens is None
        self.seconds += reply.seconds

    def money(self, prices: Prices | None) -> float | None:
        """None if it is not known: no prices, or tokens that the server did not count."""
        if prices is None or self.uncounted:
            return None
        cached = prices.input if prices.cached is None else prices.cached
        fresh = self.prompt_tokens - self.cached_tokens
        return (fresh * prices.input + self.cached_tokens * cached + self.completion_tokens * prices.output) / 1e6

    def to_json(self, prices: Prices | None) -> dict[str, Any]:
        money = self.money(prices)
        return {**asdict(self), "seconds": round(self.seconds, 3), "money": "unknown" if money is None else money}


@dataclass
class Ledger:
    """What was asked of a server in this process (`asked`) and what earlier replies had taken (`cached`).

    `failures` counts attempts by kind, those that a retry made good included; `unanswered` are calls that ended
    without a reply. What a failed attempt cost is not known and in none of the sums.
    """

    prices: Prices | None = None
    asked: Tally = field(default_factory=Tally)
    cached: Tally = field(default_factory=Tally)
    retries: int = 0
    unanswered: int = 0
    corrupt: int = 0  # stored replies that were damaged, set aside and asked for again
    failures: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; money is `unknown` where it is, never a guess."""
        return {
            "asked": self.asked.to_json(self.prices),
            "cached": self.cached.to_json(self.prices),
            "retries": self.retries,
            "unanswered": self.unanswered,
            "corrupt": self.corrupt,
            "failures": dict(sorted(self.failures.items())),
            "formats": dict(sorted(self.formats.items())),
            "prices": asdict(self.prices) if self.prices else None,
        }


# --- the cache ------------------------------------------------------------------------


class ReplyCache:
    """Replies in a folder, one file each, named by the hash of what was asked.

    A file that is not what was written into it is moved to `.aside/` and counts as not there.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def load(self, key: str) -> Reply | None:
        """The reply stored under a key; None without one.

        Raises:
            CorruptError: if it was damaged; it is set aside by then.
        """
        try:
            return self.read(key)
        except CorruptError as error:
            path = self.path(key)
            aside = self.folder / ".aside" / path.name
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
            raise CorruptError(f"{error}; moved to {aside}") from None

    def read(self, key: str) -> Reply | None:
        """As `load`, but a damaged reply stays where it is."""
        path = self.path(key)
        try:
            record = json.loads(path.read_bytes())
            reply = record["reply"]
            if record["format"] != _RECORD or record["key"] != key or record["check"] != store.hash_json(reply):
                raise ValueError("not what was written")
            return Reply(**reply)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
            raise CorruptError(f"{path}: {error}") from None

    def save(self, key: str, about: Mapping[str, Any], reply: Reply) -> None:
        stored = asdict(reply)
        record = {"format": _RECORD, "key": key, "about": about, "reply": stored, "check": store.hash_json(stored)}
        store.write_json(self.path(key), record)


class CorruptError(ValueError):
    """A stored reply that was damaged."""


# --- pace -----------------------------------------------------------------------------


class _Pace:
    """At most `per_minute` units a minute, one after the other and evenly; None: no bound."""

    def __init__(self, per_minute: float | None) -> None:
        self._each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def take(self, units: float) -> None:
        """Wait for one's turn; `units` put off the next one."""
        start = max(time.monotonic(), self._free_at)
        self._free_at = start + units * self._each
        await asyncio.sleep(max(0.0, start - time.monotonic()))

    def correct(self, units: float) -> None:
        """What a request took turned out to be so many units more."""
        self._free_at += units * self._each


# --- the chat -------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One call, whoever carries it: its cache key, messages and the JSON schema of its reply (None: any text)."""

    key: str
    messages: tuple[dict[str, str], ...]
    schema: Mapping[str, Any] | None
    version: str

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Dialect:
    """What a server understands of the ways to bound and to shape a reply. `bounds`: of lengths, in schemas."""

    format: str = FORMATS[0]
    length: str = "max_tokens"
    bounds: bool = True

    def lower(self, failure: Failure, schema: Mapping[str, Any] | None) -> Dialect | None:
        """What to try after a failure; None if simpler words would not help."""
        if failure.kind != "bad_request":
            return None
        if self.length == "max_tokens" and "max_completion_tokens" in failure.text:
            return replace(self, length="max_completion_tokens")
        if schema is None or self.format == FORMATS[-1]:
            return None
        if self.format == FORMATS[0] and self.bounds and _unbounded(schema) != schema:
            return replace(self, bounds=False)
        return replace(self, format=FORMATS[FORMATS.index(self.format) + 1])


def _unbounded(schema: Any) -> Any:
    """A schema without its bounds."""
    if isinstance(schema, list):
        return [_unbounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _unbounded(value) for key, value in schema.items() if key not in _BOUNDS}


@dataclass(frozen=True)
class Failure:
    """An attempt without a reply; `text` holds no key. `after`: seconds the server asks to wait."""

    kind: str
    text: str
    again: bool = False  # worth trying
    fatal: bool = False  # for every call
    after: float | None = None


@dataclass
class _Flight:
    """A call that is on its way, and how many wait for it."""

    task: asyncio.Task[Reply]
    waiting: int = 0


class _Line:
    """What belongs to one event loop: the client with its connections, places and paces, calls on their way."""

    def __init__(self, client: AsyncOpenAI, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.client = client
        self.places = asyncio.Semaphore(limits.concurrency)
        self.requests, self.tokens = _Pace(limits.requests_per_minute), _Pace(limits.tokens_per_minute)
        self.resume_at = 0.0  # a server that is busy gets no request before
        self.flights: dict[str, _Flight] = {}


class Chat:
    """Asks one endpoint; any number of calls at once, from any event loop, one loop at a time.

    Args:
        cache: the folder of the stored replies; several processes may share it.
        prices: for the ledger; without them money is unknown.
        batch: send calls through the Batch API, which is slower and often cheaper (see `batches`).
        seed: of the jitter between retries.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path | str,
        *,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        prices: Prices | None = None,
        batch: bool = False,
        seed: int = 0,
    ) -> None:
        self.endpoint, self.sampling, self.limits = endpoint, sampling or Sampling(), limits or Limits()
        self.cache = ReplyCache(cache)
        self.ledger = Ledger(prices)
        self.batch = batch
        self._random = random.Random(seed)
        self.dialect = Dialect()
        self._line: _Line | None = None
        self._lost_in_a_row = 0
        self._attempt: Callable[[Request, Dialect], Awaitable[Reply | Failure]] = self._send
        if batch:
            from sprint_lib.batches import BatchDesk

            self._attempt = BatchDesk(self).send

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any] | None = None, *, version: str = ""
    ) -> Reply:
        """The reply to messages: a stored one, or that of an equal call on its way, or a new one.

        With `schema` the server is asked for JSON that follows it, or if it refuses that for any JSON, or for text
        (remembered for the next calls); the text may still be anything. `version` is that of the prompts.

        Raises:
            ChatError: if there is no reply after all retries; its message holds no key.
            EndpointError: if no call can succeed.
        """
        request = self.request(messages, schema, version)
        if (reply := self.known(request)) is not None:
            self.ledger.cached.add(reply)
            return reply
        flights = self.line().flights
        flight = flights.get(request.key)
        if flight is None:
            flight = flights[request.key] = _Flight(asyncio.ensure_future(self._answer(request)))
            flight.task.add_done_callback(lambda _: flights.pop(request.key, None))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # nobody wants it any more (no effect on one that is done)

    def request(self, messages: Sequence[Message], schema: Mapping[str, Any] | None, version: str = "") -> Request:
        """The call that `ask` makes of its arguments."""
        clean = tuple({"role": message["role"], "content": encodable(message["content"])} for message in messages)
        asked = {
            **{"model": self.endpoint.model, "revision": self.endpoint.revision},
            **{"endpoint": self.endpoint.base_url.rstrip("/"), "sampling": asdict(self.sampling)},
            **{"messages": clean, "schema": schema, "version": version},
        }
        return Request(store.hash_json(asked), clean, schema, version)

    def known(self, request: Request) -> Reply | None:
        """The stored reply to a call; None without one, or if it was damaged."""
        try:
            return self.cache.load(request.key)
        except CorruptError:
            self.ledger.corrupt += 1
            return None

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._line is not None and self._line.loop is asyncio.get_running_loop():
            await self._line.client.close()
        self._line = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    # --- one call, used by `batches`, too

    def line(self) -> _Line:
        """What belongs to the running event loop; another one's connections cannot be used in it."""
        if self._line is None or self._line.loop is not asyncio.get_running_loop():
            self._line = _Line(self._client(), self.limits)
        return self._line

    def read(self, data: bytes | str, format_: str, seconds: float) -> Reply | Failure:
        """The reply in the body of a response; whatever it holds, this does not raise."""
        try:
            body = json.loads(data)
            choice = body["choices"][0]
            message, finish = choice["message"], str(choice.get("finish_reason") or "stop")
            text, refusal = message.get("content"), message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            return Failure("malformed", f"the response is no chat completion ({type(error).__name__})", again=True)
        kind: Kind = "truncated" if finish in ("length", "content_filter") else "ok"
        if isinstance(refusal, str) and refusal:
            text, kind = refusal, "refusal"
        if not isinstance(text, str) and kind == "ok":
            return Failure("malformed", f"the response has no text (finish_reason {finish[:40]})", again=True)
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        details = usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return Reply(
            text=self.endpoint.scrub(text if isinstance(text, str) else "")[:MAX_TEXT],
            kind=kind,
            finish=self.endpoint.scrub(finish)[:40],
            format=format_,
            model=self.endpoint.scrub(str(body.get("model") or ""))[:200],
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            cached_tokens=cached or 0,
            seconds=round(seconds, 3),
        )

    def keep(self, request: Request, reply: Reply) -> Reply:
        """Store a reply and enter it into the ledger."""
        about = {**asdict(self.endpoint), "version": request.version}
        self.cache.save(request.key, {k: v for k, v in about.items() if k != "key_variable"}, reply)
        self.ledger.asked.add(reply)
        self.ledger.formats[reply.format] += 1
        if reply.kind != "ok":
            self.ledger.failures[reply.kind] += 1
        self._lost_in_a_row = 0
        return reply

    def lost(self, failure: Failure, tries: int, *, living: bool = False) -> ChatError:
        """The error of a call that got no reply. Too many of them in a row mean that the server is dead, but for those
        that only a `living` one can have made fail."""
        self.ledger.unanswered += 1
        where = f"{self.endpoint.model} at {self.endpoint.base_url}"
        if failure.fatal:
            return EndpointError(f"{where}: {failure.text}; no other call would succeed, so the work stopped")
        said = f"{failure.kind}: {failure.text}" + (f" ({tries} attempts)" if tries > 1 else "")
        self._lost_in_a_row = 0 if living or failure.kind not in _DEAD else self._lost_in_a_row + 1
        if self._lost_in_a_row > self.limits.concurrency:
            return EndpointError(
                f"{where}: {self._lost_in_a_row} calls in a row got no reply, the last one: {said}; "
                "what has finished is kept, the same command goes on from there"
            )
        return ChatError(failure.kind if failure.kind in ("malformed", "too_long") else "engine_error", said)

    def status_failure(self, status: int, error: Any) -> Failure:
        """What the status and the error object of a response that is none say."""
        error = error if isinstance(error, dict) else {"message": error}
        text = self.endpoint.scrub(" ".join(str(error.get("message")).split()))[:_SHOWN]
        return _status_failure(status, str(error.get("code") or ""), text, None)

    async def wait(self, tries: int, failure: Failure) -> None:
        """Wait before a retry, the longer the more there were, with jitter; a busy server holds up all calls."""
        wait = self.limits.first_wait * 2 ** (tries - 1) * self._random.uniform(0.5, 1)
        wait = min(self.limits.longest_wait, max(wait, failure.after or 0.0))
        if failure.after is not None:  # the others need not find out for themselves
            self.line().resume_at = max(self.line().resume_at, time.monotonic() + wait)
        await asyncio.sleep(wait)

    # --- inside

    async def _answer(self, request: Request) -> Reply:
        """A new reply: in ever simpler words while the server refuses them, again while that may help."""
        async with nullcontext() if self.batch else self.line().places:
            dialect = first = self.dialect
            tries = 1
            while True:
                outcome = await self._attempt(request, dialect)
                if isinstance(outcome, Reply):
                    if dialect != first:
                        self.dialect = dialect  # for the next calls, too: only now it is known to help
                    return outcome
                self.ledger.failures[outcome.kind] += 1
                if simpler := dialect.lower(outcome, request.schema):
                    dialect = simpler
                    continue
                if not outcome.again or tries > self.limits.retries:
                    raise self.lost(outcome, tries, living=self.batch)
                self.ledger.retries += 1
                if not self.batch:  # whose calls shall go up together
                    await self.wait(tries, outcome)
                tries += 1

    async def _send(self, request: Request, dialect: Dialect) -> Reply | Failure:
        """One request. No exception of the client leaves this function: they hold the request with its headers."""
        line = self.line()
        estimate = request.characters / 4
        await asyncio.sleep(max(0.0, line.resume_at - time.monotonic()))
        await line.requests.take(1)
        await line.tokens.take(estimate)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                body = self.body(request, dialect)
                response = await line.client.chat.completions.with_raw_response.create(**body)
        except Exception as error:
            return self.endpoint.failure(error)
        format_ = dialect.format if request.schema is not None else FORMATS[-1]
        reply = self.read(response.http_response.content, format_, time.monotonic() - started)
        if isinstance(reply, Reply) and reply.prompt_tokens is not None:
            line.tokens.correct(reply.prompt_tokens + (reply.completion_tokens or 0) - estimate)
        return self.keep(request, reply) if isinstance(reply, Reply) else reply

    def body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """The body of a call in a dialect."""
        messages = [dict(message) for message in request.messages]
        body: dict[str, Any] = {"model": self.endpoint.model, "messages": messages}
        for name in ("temperature", "seed"):
            if getattr(self.sampling, name) is not None:
                body[name] = getattr(self.sampling, name)
        body[dialect.length] = self.sampling.max_tokens
        if request.schema is None:
            return body
        if dialect.format == "json_schema":
            schema = request.schema if dialect.bounds else _unbounded(request.schema)
            shape = {"name": "reply", "strict": True, "schema": schema}
            return {**body, "response_format": {"type": "json_schema", "json_schema": shape}}
        messages[-1]["content"] += (
            f"\n\nReply with one JSON object that follows this JSON schema, and nothing else:\n"
            f"{json.dumps(request.schema, ensure_ascii=False)}"
        )
        return {**body, "response_format": {"type": "json_object"}} if dialect.format == "json_object" else body

    def _client(self) -> AsyncOpenAI:
        from openai import Timeout

        return self.endpoint.client(Timeout(self.limits.read_seconds, connect=self.limits.connect_seconds))


def _status_failure(status: int, code: str, text: str, after: float | None) -> Failure:
    if status in (401, 402, 404) or code == "insufficient_quota":
        return Failure("endpoint", text, fatal=True)
    if status == 429:
        return Failure("rate_limit", text, again=True, after=after)
    if status >= 500 or status in (408, 409, 425):
        return Failure("server", text, again=True, after=after)
    if status == 413 or code == "context_length_exceeded" or _TOO_LONG.search(text):
        return Failure("too_long", text)
    return Failure("bad_request" if status in (400, 422) else "refused", text)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, given as seconds or as a date; None if it does not or nobody can read it."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if re.fullmatch(r"[0-9.]{1,20}", value) else _until(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds)


def _broken_off(error: BaseException | None) -> bool:
    """Whether what the client (that on aiohttp) calls a timeout is a connection that broke, or none that was made."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            return True
        if type(error).__name__ == "ServerDisconnectedError":  # not imported: aiohttp may not have been needed
            return True
        error = error.__cause__
    return False


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None
