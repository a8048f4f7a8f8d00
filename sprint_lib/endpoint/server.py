"""The HTTP of the endpoint: paths, keys, refusals and streams, in OpenAI's form."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from sprint_lib.calls import Call
from sprint_lib.endpoint.desk import Desk, Solved
from sprint_lib.endpoint.requests import Refusal, ServeError, read_request

_DRAINED = 2**26  # bytes of a refused body that are read all the same, so that its sender reads the refusal
_IDLE_SECONDS = 120.0  # for headers, for a body, and between requests


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
