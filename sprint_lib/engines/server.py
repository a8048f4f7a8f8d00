"""The engine behind OpenAI-compatible servers (vLLM first): one or several of them with the same model, so that loop,
methods and evaluation run against them as against the engine in this process.

Completions are streamed and text is handed on as it arrives. A call goes to the server that has the beginning of its
prompt, or to the least busy one; planner and executors may have servers of their own, as in APR (one and seven). A
call that fails before its first text is tried again. If a server fails in the middle of a call, another one continues
the text where it broke off, so that what was already acted upon stays true and nothing is counted twice; without
another one the call ends as `error` with what it had. With the model's tokenizer prompts go out as token ids (see
`contexts`). The API key is read from its environment variable when a request is sent, and kept nowhere.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sprint_lib.chat import MAX_TEXT, Endpoint, Failure
from sprint_lib.engines import Completion, EngineError, EngineSpec, OnText, Request
from sprint_lib.engines.contexts import Context, Prefixes, tokenise, tokenizer_file
from sprint_lib.engines.stops import StopCutter

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from tokenizers import Tokenizer

_REMEMBERED = 2048  # prompts whose tokens and server are known
_SPILL = 8  # calls that a server may have beyond twice those of the least busy one and still be preferred
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a retry; doubled with each
_MAX_LINE = 2**24  # bytes of one line of a stream; the first holds a prompt's token ids
_INTERVAL = 16  # tokens in a piece of a stream that nobody listens to; at most so many are lost with a server
_END_SECONDS = 0.1  # for the end of a stream that has said all, so that its connection can be used again


class ServerEngine:
    """An Engine over servers. See `Engine` for the methods' contracts; calls come from one event loop at a time.

    `Completion.cached_tokens` is what the server reports, `completion_tokens` its count. After a failover they are
    those of the prompt and of the text as one, and `note` says what happened. The token ids are known where prompts
    went out as such and one server wrote all, and said what.

    Raises:
        EngineError: if an address or the tokenizer is none; no server is asked yet.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._tokenizer = _open_tokenizer(spec.tokenizer) if spec.tokenizer else None
        self.folder = str(tokenizer_file(spec.tokenizer).parent) if spec.tokenizer else ""
        servers = {url: _Server(url, spec) for url in (*spec.urls, *spec.executor_urls)}
        self._servers = list(servers.values())
        self._general = [servers[url] for url in dict.fromkeys(spec.urls)]
        self._executors = [servers[url] for url in dict.fromkeys(spec.executor_urls)] or self._general
        self._known: Prefixes[_Known] = Prefixes(_REMEMBERED)
        self._calls: set[_Call] = set()
        self._closed = False

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """See `Engine.complete`. A prompt that fills the model's context ends as `length` without text.

        Raises:
            EngineError: if no server wrote anything; a call broken off later ends as `error`.
        """
        if self._closed:
            raise EngineError("the engine is closed")
        call = self._new_call(request, on_text)
        try:
            async with asyncio.timeout(self._spec.call_seconds) as call.limit:
                self._calls.add(call)
                await self._run(call)
        except TimeoutError:
            if not call.limit.expired():  # the caller's own
                raise
            call.notes.append("the engine is closed" if self._closed else f"not done in {self._spec.call_seconds:g} s")
        finally:
            self._calls.discard(call)
        if not call.finish and (self._closed or not call.tokens):
            raise EngineError("; ".join(call.notes))
        return call.completion()

    def count_tokens(self, text: str) -> int:
        if self._tokenizer is None:
            raise EngineError("engine: tokens of a text are counted by tokenizer, the folder of the model's; name it")
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def close(self) -> None:
        self._closed = True
        for call in self._calls:
            call.limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.gather(*(server.close() for server in self._servers))

    def _new_call(self, request: Request, on_text: OnText | None) -> _Call:
        started = time.monotonic()  # tokenising the prompt is the engine's work too
        if request.max_tokens < 1 or request.temperature < 0 or "" in request.stop:
            raise EngineError(f"a request needs max_tokens >= 1, temperature >= 0 and no empty stop string: {request}")
        if not request.prompt:
            raise EngineError("the prompt is empty; a completion needs at least one token to start from")
        known = self._known.longest(request.prompt)
        tokens = (
            tokenise(self._tokenizer, request.prompt, known.context if known else None) if self._tokenizer else None
        )
        entry = _Known(tokens, known.server if known else None)
        call = _Call(request, on_text, started, entry, remembered=request.role != "executor")
        if call.remembered:  # nothing ever goes on where an executor ended
            self._known.put(request.prompt, entry)
        return call

    async def _run(self, call: _Call) -> None:
        """Try servers until one has ended the call, or none can."""
        failed: _Server | None = None
        for _ in range(self._spec.retries + 1):
            server = self._route(call, failed)
            if server is failed and call.tokens:  # nobody else can go on
                return
            await server.wait()
            call.known.server = server
            server.load += 1
            try:
                failure = await self._attempt(call, server)
            finally:
                server.load -= 1
            if failure is None:
                return
            call.fail(server, failure)
            if not failure.again:
                return
            server.fail(failure)
            failed = server

    def _route(self, call: _Call, failed: _Server | None) -> _Server:
        """The server for a call: of those that work, not the one that has just failed if there is another."""
        pool = self._executors if call.request.role == "executor" else self._general
        up = [server for server in pool if server.up] or [server for server in self._servers if server.up] or pool
        rest = [server for server in up if server is not failed] or up
        least = min(rest, key=lambda server: (server.load, server.sent))
        near = call.known.server
        near_is_free = near in rest and near is not None and near.load <= 2 * least.load + _SPILL
        chosen = near if near is not None and near_is_free and self._spec.routing == "prefix" else least
        chosen.sent += 1
        return chosen

    async def _attempt(self, call: _Call, server: _Server) -> Failure | None:
        """Let a server write, or write on; None: the call has ended."""
        call.begin(self._tokenizer)
        if failure := await server.check():
            return failure
        room = call.room(server.context)
        if room < 1:
            call.finish = "length"
            return None
        failure = await self._stream(call, server, room, server.plain)
        if failure and failure.kind == "bad_request" and not server.plain:
            failure = await self._stream(call, server, room, plain=True)
            server.plain = failure is None
        if failure and failure.kind == "too_long":
            call.notes.append(f"{server.url}: {failure.text}")
            call.finish = "length"
            return None
        return failure

    async def _stream(self, call: _Call, server: _Server, room: int, plain: bool) -> Failure | None:
        """One request. No exception of the client leaves this function: they hold the request with its headers."""
        body = self._body(call, room, plain)
        silence = asyncio.timeout(None)
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(silence)
                watch = asyncio.create_task(self._watch(call, server, silence))
                stack.callback(watch.cancel)
                sent = server.client.completions.with_streaming_response.create(
                    model=self._spec.model, prompt="", stream=True, extra_body=body
                )  # what is in extra_body the client does not walk through, number by number
                try:
                    response = await stack.enter_async_context(sent)
                except Exception as error:
                    return server.endpoint.failure(error)
                return await _read(call, server, response)
        except TimeoutError:
            if not silence.expired():
                raise
            return Failure("timeout", f"nothing came for {self._spec.chunk_seconds:g} s", again=True)

    def _body(self, call: _Call, room: int, plain: bool) -> dict[str, Any]:
        request, tokens = call.request, call.known.context
        options: dict[str, Any] = {"include_usage": True}
        body: dict[str, Any] = {"model": self._spec.model, "max_tokens": room, "temperature": request.temperature}
        body |= {"seed": request.seed + call.before, "stream": True, "stream_options": options}
        body["prompt"] = tokens.ids.tolist() if tokens else call.text
        if request.stop:
            body["stop"] = list(request.stop)
        if not plain:  # vLLM's own: text is not held back for what may be a stop string, and comes with its tokens
            body |= {"include_stop_str_in_output": True, "return_token_ids": tokens is not None}
            options["continuous_usage_stats"] = tokens is None
            if call.on_text is None:  # nobody acts upon every token, and each piece costs both sides some work
                body["stream_interval"] = _INTERVAL
        return body

    async def _watch(self, call: _Call, server: _Server, silence: asyncio.Timeout) -> None:
        """End an attempt in which nothing comes; before the first text a server that answers may only be busy."""
        call.heard = time.monotonic()
        while (wait := call.heard + self._spec.chunk_seconds - time.monotonic()) > 0 or await self._busy(call, server):
            await asyncio.sleep(wait)
        silence.reschedule(asyncio.get_running_loop().time())

    async def _busy(self, call: _Call, server: _Server) -> bool:
        if call.written or await server.check(again=True):
            return False
        call.heard = time.monotonic()
        return True


@dataclass(eq=False)
class _Known:
    """What is known of a prompt: its tokens with those written on it, and the server it went to."""

    context: Context | None
    server: _Server | None


class _Server:
    """One server: its client in the running event loop, how busy it is, and whether it works."""

    def __init__(self, url: str, spec: EngineSpec) -> None:
        try:
            self.endpoint = Endpoint(spec.model, url, spec.key_variable)
        except ValueError as error:  # says no more of an address than it should
            raise EngineError(f"engine: urls: {error}") from None
        self.url, self.plain = url, False
        self.context: int | None = None  # tokens of prompt and text together that the model can take, if it says so
        self.load = self.sent = 0  # calls now, calls ever
        self._connect_seconds = spec.connect_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failures, self._resume_at, self._checked = 0, 0.0, False
        self._checking: asyncio.Task[Failure | None] | None = None

    @property
    def up(self) -> bool:
        return time.monotonic() >= self._resume_at

    @property
    def client(self) -> AsyncOpenAI:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            from openai import Timeout

            _allow_files()
            self._client = self.endpoint.client(Timeout(None, connect=self._connect_seconds), streams=True)
            self._loop, self._checking = loop, None
        return self._client

    async def check(self, again: bool = False) -> Failure | None:
        """Why the server does not answer; None if it does. It is asked at first, after a failure and if told to."""
        client = self.client
        if self._checked and not again:
            return None
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._ask(client))
        return await asyncio.shield(self._checking)

    async def _ask(self, client: AsyncOpenAI) -> Failure | None:
        try:
            async with asyncio.timeout(self._connect_seconds):
                page = await client.models.list()
        except Exception as error:
            failure = self.endpoint.failure(error)
            if failure.again:
                return failure
        else:  # what a server says of itself may be anything
            for model in getattr(page, "data", None) or ():
                length = getattr(model, "max_model_len", None)
                if getattr(model, "id", None) == self.endpoint.model and _is_count(length):
                    self.context = length
        self._checked = True
        return None

    def fail(self, failure: Failure) -> None:
        """Leave it alone for a while, longer with each failure in a row; those of calls side by side are one."""
        if self.up:
            wait = max(_FIRST_WAIT * 2 ** min(self._failures, 10), failure.after or 0.0)
            self._resume_at = time.monotonic() + min(_LONGEST_WAIT, wait)
            self._failures, self._checked = self._failures + 1, False

    def good(self) -> None:
        self._failures, self._resume_at = 0, 0.0

    async def wait(self) -> None:
        """Wait until it may be tried again, with jitter."""
        if not self.up:
            await asyncio.sleep((self._resume_at - time.monotonic()) * random.uniform(1, 1.2))

    async def close(self) -> None:
        if self._checking:
            self._checking.cancel()
        if self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._loop = None


class _Call:
    """One request at work, over all the servers that have written on it."""

    limit: asyncio.Timeout

    def __init__(
        self, request: Request, on_text: OnText | None, started: float, known: _Known, remembered: bool
    ) -> None:
        self.request, self.on_text, self.known, self.remembered = request, on_text, known, remembered
        self.started = self.heard = started
        self.first_token = 0.0
        self.finish = ""
        self.notes: list[str] = []
        self.written = 0  # tokens of this attempt
        self.before = 0  # tokens of the servers that failed
        self._usage: dict[str, int] = {}  # the last one of this attempt
        self._prompt_ids = tuple(known.context.ids) if known.context else ()
        self._prompt_tokens = len(self._prompt_ids)
        self._ids: list[int] = []  # written in this attempt
        self._cutter = StopCutter(request.stop)
        self._raw: list[str] = []
        self._length = 0
        self._exact = False  # whether tokens came along with the text

    @property
    def tokens(self) -> int:
        return self.before + self.written

    @property
    def text(self) -> str:
        """Prompt and all that was written."""
        return self.request.prompt + "".join(self._raw)

    def room(self, context: int | None) -> int:
        """Tokens that may still be written, by the request and by the model's context."""
        left = self.request.max_tokens - self.before
        return min(left, context - len(self.known.context.ids)) if context and self.known.context else left

    def begin(self, tokenizer: Tokenizer | None) -> None:
        """Make ready for a server that continues what is there."""
        if self.written:
            self.before += self.written
            if not self._prompt_tokens:
                self._prompt_tokens = self._usage.get("prompt_tokens", 0)
            if tokenizer:
                self.known.context = tokenise(tokenizer, self.text, self.known.context)
        self.written, self._usage, self._ids = 0, {}, []

    def fail(self, server: _Server, failure: Failure) -> None:
        kept = f" after {self.tokens} tokens, which are kept" if self.written else ""
        lost = (
            f"; up to {_INTERVAL - 1} not sent yet are lost" if kept and not self.on_text and not server.plain else ""
        )
        self.notes.append(f"{server.url}: {failure.text}{kept}{lost}")

    def take(self, data: Any, now: float) -> Failure | None:
        """Take on one piece of a stream, whatever it is. An exception is that of `on_text`."""
        self.heard = now
        if not isinstance(data, dict):
            return Failure("malformed", "the stream holds something else than completions", again=True)
        if error := data.get("error"):
            said = error.get("message") if isinstance(error, dict) else error
            return Failure("server", " ".join(str(said).split())[:300], again=True)
        usage = data.get("usage")
        self._usage = _counts(usage) or self._usage if isinstance(usage, dict) else self._usage
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        return self._take_choice(choice, now) if isinstance(choice, dict) and not self.finish else None

    def _take_choice(self, choice: dict[str, Any], now: float) -> Failure | None:
        text, tokens, finish = choice.get("text"), choice.get("token_ids"), choice.get("finish_reason")
        text = text if isinstance(text, str) else ""
        self._count(text, tokens if isinstance(tokens, list) and all(map(_is_count, tokens)) else None)
        self._length += len(text)
        if self._length > MAX_TEXT or self.tokens > self.request.max_tokens:
            return Failure("malformed", "the server writes more than it was asked for", again=True)
        self._raw.append(text)
        self.first_token = self.first_token or (now if self.written else 0.0)
        new, stopped = self._cutter.take(text) if text else ("", False)
        if finish in ("stop", "length") and not stopped:
            new += self._cutter.flush()
        elif finish and not stopped:
            return Failure("server", f"the server ended it with {str(finish)[:40]!r}", again=True)
        self.finish = "stop" if stopped else finish or ""
        if new and self.on_text:
            self.on_text(new, self.tokens)
        return None

    def _count(self, text: str, tokens: list[int] | None) -> None:
        """Tokens so far: those that came along, else what the server says, else at least one for a piece of text."""
        if tokens is not None:
            self.written += len(tokens)
            self._ids += tokens
            self._exact = True
            if self.remembered and self.known.context:
                self.known.context.write(tokens)
        elif counted := self._usage.get("completion_tokens"):
            self.written = max(self.written, counted)
        else:
            self.written += bool(text)

    def end(self, cut: bool) -> Failure | None:
        """What is still wrong when a stream has ended; `cut`: by this side."""
        if not self.finish:
            return Failure("connection", "the stream ended early", again=True)
        counted = self._usage.get("completion_tokens")
        if counted is None and not cut and not self._exact:
            self.finish = ""
            return Failure("uncounted", "the server gives no usage, so that its tokens are not known", fatal=True)
        self.written = max(self.written, counted or 0)
        return None

    def completion(self) -> Completion:
        now = time.monotonic()
        prompt = self._prompt_tokens or self._usage.get("prompt_tokens", 0)
        if self.finish != "stop":
            self._cutter.flush()
        if self.finish and self.before and self.known.server:
            read = self._usage.get("prompt_tokens", 0)
            self.notes.append(f"{self.known.server.url} went on, having read {read} tokens")
        exact = bool(self._prompt_ids) and len(self._ids) == self.tokens
        return Completion(
            text=self._cutter.text,
            prompt_tokens=prompt,
            cached_tokens=min(prompt, self._usage.get("cached_tokens", 0)),
            completion_tokens=self.tokens,
            finish=self.finish or "error",
            started=self.started,
            first_token=self.first_token or now,
            ended=now,
            note="; ".join(self.notes),
            prompt_ids=self._prompt_ids if exact else (),
            ids=tuple(self._ids) if exact else (),
        )


async def _read(call: _Call, server: _Server, response: Any) -> Failure | None:
    """Read a stream to its end, or until the text has ended."""
    events = _events(response)
    async with aclosing(events):
        while True:
            try:
                data = await anext(events)
            except StopAsyncIteration:
                return call.end(cut=False)
            except (ValueError, RecursionError):
                return Failure("malformed", "the stream holds something else than completions", again=True)
            except Exception as error:  # the transport's
                return Failure("connection", f"the stream broke off ({type(error).__name__})", again=True)
            ended = call.finish
            if failure := call.take(data, time.monotonic()):
                return replace(failure, text=server.endpoint.scrub(failure.text))
            server.good()
            cut = call.finish and not ended and not data["choices"][0].get("finish_reason")
            if cut:  # a server that does not know stop strings would write on
                return call.end(cut=True)


async def _events(response: Any) -> AsyncGenerator[Any, None]:
    """What the events of a stream hold (server-sent events, one line of JSON each), until `[DONE]`.

    Raises:
        ValueError, RecursionError: if it is something else.
    """
    rest = b""
    pieces = response.iter_bytes()
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise ValueError("a line without end")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if line[5:].strip() == b"[DONE]":
                with suppress(Exception):
                    async with asyncio.timeout(_END_SECONDS):
                        async for _ in pieces:
                            pass
                return
            yield json.loads(line[5:])


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    """The counts in a `usage` that are some."""
    details = usage.get("prompt_tokens_details")
    found = {**usage, "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else None}
    return {
        name: found[name]
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
        if _is_count(found.get(name))
    }


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _allow_files() -> None:
    """Let this process have as many open files, and so connections, as the system lets it."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems refuse what they name
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open_tokenizer(given: str) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(tokenizer_file(given)))
    except Exception as error:  # the library's own is a bare Exception
        raise EngineError(str(error)) from None
