"""A chat server over real HTTP that says what a script tells it to: good answers, odd ones, and none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Say:
    """A chat completion; `usage` None: the server does not count."""

    text: str | None
    finish: str = "stop"
    refusal: str | None = None
    usage: Mapping[str, Any] | None = field(
        default_factory=lambda: {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 40},
        }
    )


@dataclass(frozen=True)
class Status:
    """An error with its status."""

    status: int
    message: str = "no"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Status 200 with any body."""

    body: bytes
    kind: str = "application/json"


@dataclass(frozen=True)
class Trouble:
    """No answer: the socket hangs, is dropped at once, or in the middle of the body."""

    kind: Literal["hang", "drop", "half"]


Answer = Say | Status | Raw | Trouble
Script = Callable[[dict[str, Any], int], Answer]  # the request's body; how often the same body came before


@dataclass(frozen=True)
class Asked:
    """A request as it came, and what it was answered."""

    body: dict[str, Any]
    authorization: str
    at: float
    answer: Answer

    @property
    def content(self) -> str:
        """What tells one call from another."""
        return json.dumps(self.body["messages"])


class ScriptedServer:
    """Listens on a free port while the context lasts. `busiest` is the most requests that were there at once.

    Batches take `polls` looks before they are done; each of their lines goes through the script.
    """

    def __init__(self, script: Script | list[Answer], polls: int = 1) -> None:
        self.script: Script = script if callable(script) else _in_turn(script)
        self.polls = polls
        self.asked: list[Asked] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.lose_batch_answer = False  # the next batch is made, but its maker is not told
        self.now = self.busiest = 0
        self.lock, self.over = threading.Lock(), threading.Event()
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, body: dict[str, Any], authorization: str) -> Answer:
        with self.lock:
            messages = body.get("messages")
            answer = self.script(body, sum(asked.body.get("messages") == messages for asked in self.asked[-400:]))
            self.asked.append(Asked(body, authorization, time.monotonic(), answer))
        return answer

    def batch(self, made: dict[str, Any], authorization: str) -> dict[str, Any]:
        with self.lock:
            id_ = f"batch_{len(self.batches)}"
            common = {"id": id_, "object": "batch", "endpoint": made["endpoint"], "created_at": 0}
            more = {"input_file_id": made["input_file_id"], "completion_window": "24h", "status": "in_progress"}
            self.batches[id_] = {**common, **more, "metadata": made.get("metadata")}
            self.looks[id_] = 0
        return self.batches[id_]

    def look(self, id_: str, authorization: str) -> dict[str, Any]:
        self.looks[id_] += 1
        batch = self.batches[id_]
        if self.looks[id_] >= self.polls and batch["status"] == "in_progress":
            good, bad = [], []
            for line in self.files[batch["input_file_id"]].splitlines():
                call = json.loads(line)
                answer = self.answer(call["body"], authorization)
                if isinstance(answer, Say):
                    response = {"status_code": 200, "body": completion(answer, call["body"])}
                    good.append({"custom_id": call["custom_id"], "response": response, "error": None})
                elif isinstance(answer, Status):
                    response = {"status_code": answer.status, "body": failure(answer)}
                    bad.append({"custom_id": call["custom_id"], "response": response, "error": None})
            for name, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    self.files[f"{id_}-{name}"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
                    batch[name] = f"{id_}-{name}"
            batch["status"] = "completed"
        return batch


def _in_turn(answers: list[Answer]) -> Script:
    """The answers one after the other, the last one again and again."""
    left = list(answers)
    return lambda body, before: left.pop(0) if len(left) > 1 else left[0]


def completion(say: Say, body: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": say.text, "refusal": say.refusal}
    choice = {"index": 0, "message": message, "finish_reason": say.finish, "logprobs": None}
    common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body.get("model")}
    return {**common, "choices": [choice], "usage": say.usage}


def failure(status: Status) -> dict[str, Any]:
    return {"error": {"message": status.message, "type": "error", "param": None, "code": status.code}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that went away are part of the script


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1/")
        if path == "batches":
            self._json(200, {"object": "list", "data": list(self.owner.batches.values()), "has_more": False})
        elif path.startswith("batches/"):
            self._json(200, self.owner.look(path.removeprefix("batches/"), self._authorization))
        elif path.endswith("/content"):
            self._send(200, self.owner.files[path.split("/")[1]], "application/octet-stream", {})
        else:
            self._json(404, failure(Status(404, "no such page")))

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
            parts = data.split(b"--" + boundary)
            content = next(part for part in parts if b"filename=" in part).partition(b"\r\n\r\n")[2].rstrip(b"\r\n")
            id_ = f"file-{len(self.owner.files)}"
            self.owner.files[id_] = content + b"\n"
            about = {"id": id_, "object": "file", "bytes": len(content), "created_at": 0, "filename": "f"}
            self._json(200, {**about, "purpose": "batch", "status": "processed"})
        elif self.path == "/v1/batches":
            batch = self.owner.batch(json.loads(data), self._authorization)
            if self.owner.lose_batch_answer:
                self.owner.lose_batch_answer = False
                self.close_connection = True
            else:
                self._json(200, batch)
        else:
            self._chat(json.loads(data))

    @property
    def _authorization(self) -> str:
        return self.headers.get("Authorization", "")

    def _chat(self, body: dict[str, Any]) -> None:
        with self.owner.lock:
            self.owner.now += 1
            self.owner.busiest = max(self.owner.busiest, self.owner.now)
        try:
            answer = self.owner.answer(body, self._authorization)
            if isinstance(answer, Say):
                self._json(200, completion(answer, body))
            elif isinstance(answer, Status):
                self._json(answer.status, failure(answer), answer.headers)
            elif isinstance(answer, Raw):
                self._send(200, answer.body, answer.kind, {})
            else:
                self._trouble(answer)
        finally:
            with self.owner.lock:
                self.owner.now -= 1

    def _trouble(self, trouble: Trouble) -> None:
        self.close_connection = True
        if trouble.kind == "hang":
            self.owner.over.wait(30)
        elif trouble.kind == "half":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, data: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
