"""A completions server over real HTTP that streams what a script tells it to: good texts, odd ones, and none."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

HANG, DROP, CLOSE = "HANG", "DROP", "CLOSE"  # no more bytes; the connection is gone; the stream is, in good order


@dataclass(frozen=True)
class Status:
    """An error instead of a stream."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Say:
    """A piece of text with so many tokens."""

    text: str
    tokens: int = 1
    finish: str | None = None


Part = Say | Status | bytes | str
Script = Callable[[dict[str, Any]], Sequence[Part] | AsyncIterator[Part]]


def say(text: str, finish: str = "stop", cached: int = 0) -> list[Part]:
    """A good answer, a word a token, the end token counted."""
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    return [*map(Say, words), Say("", finish=finish), usage(cached=cached)]


def usage(prompt: int = 10, completion: int | None = None, cached: int = 0) -> bytes:
    """The last event; without `completion` the tokens that were written."""
    counts = {"prompt_tokens": prompt, "completion_tokens": -1 if completion is None else completion}
    return event({"choices": [], "usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}})


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


class CompletionsServer:
    """Listens on a free port while the context lasts.

    `bodies` are the completions asked for, `open` how many are under way, `checks` how often it was asked if it works.
    """

    def __init__(self, script: Script, models: Any = None) -> None:
        self.script = script
        self.models = models if models is not None else {"object": "list", "data": [{"id": "m", "object": "model"}]}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.open = self.checks = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.die()

    async def die(self) -> None:
        """End at once, in the middle of whatever is under way."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(sizes[0].split(b":")[1]) if sizes else 0)
                if head.startswith(b"GET"):
                    await self._check(writer)
                else:
                    await self._complete(reader, writer, head.decode(), json.loads(body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _check(self, writer: asyncio.StreamWriter) -> None:
        self.checks += 1
        if self.models == HANG:
            await asyncio.Event().wait()
        writer.write(_response(200, json.dumps(self.models).encode()))
        await writer.drain()

    async def _complete(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        self.bodies.append(body)
        self.headers.append(head)
        self.open += 1
        gone = asyncio.ensure_future(reader.read(1))  # the client says nothing more: only its end is read
        writing = asyncio.ensure_future(self._write(writer, body))
        try:
            await asyncio.wait({gone, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                raise ConnectionError("the client went away")
            writing.result()
        finally:
            self.open -= 1
            for task in (gone, writing):
                task.cancel()
                with suppress(asyncio.CancelledError, ConnectionError):
                    await task

    async def _write(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        parts = self.script(body)
        begun, tokens = False, 0
        async for part in parts if isinstance(parts, AsyncIterator) else _each(parts):
            await writer.drain()
            if isinstance(part, Status):
                error = json.dumps({"error": {"message": part.message, "code": part.status}}).encode()
                writer.write(_response(part.status, error, part.headers))
                return
            if part == HANG:
                await asyncio.Event().wait()
            if part == DROP:
                raise ConnectionError("dropped")
            if not begun:
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                begun = True
            if part == CLOSE:
                break
            if isinstance(part, Say):
                tokens += part.tokens
                ids = {"token_ids": [0] * part.tokens} if body.get("return_token_ids") else {}
                data: dict[str, Any] = {"choices": [{"text": part.text, "finish_reason": part.finish, **ids}]}
                if body["stream_options"].get("continuous_usage_stats"):
                    data["usage"] = {"prompt_tokens": 10, "completion_tokens": tokens}
                part = event(data)
            assert isinstance(part, bytes)
            part = part.replace(b'"completion_tokens": -1', f'"completion_tokens": {tokens}'.encode())
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        else:
            writer.write(b"%x\r\n%s\r\n" % (14, b"data: [DONE]\n\n"))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _each(parts: Sequence[Part]) -> AsyncIterator[Part]:
    for part in parts:
        yield part


def _response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in (headers or {}).items()), "", ""]).encode() + body


@contextmanager
def completions(text: str) -> Iterator[CompletionsServer]:
    """A completions server in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = CompletionsServer(lambda body: say(text), models={"data": [{"id": "m"}]})
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.die(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
