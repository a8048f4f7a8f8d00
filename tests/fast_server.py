"""A completions server that costs almost nothing, in a process of its own: it writes what a plan says, a token or
sixteen at a time as vLLM does, every stream once a tick. For measuring what a client of it costs.

`python fast_server.py TOKENIZER TICK` listens on a free port and prints it. TICK: seconds between two tokens of a
stream; 0: as fast as it goes.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripted import who
from tokenizers import Tokenizer

Piece = tuple[list[int], str, str | None]  # tokens, their text, why it ends there

TRY = " 1 + 3 = 4 no\n" * 13
PROMPT = "<prompt_{0}.{1}> 1 + 3 = 4 ; 4 5 10</prompt_{0}.{1}>\n"
PLANS = {
    f"p{stage}": f"<Plan_{stage}>\n" + "".join(PROMPT.format(stage, i) for i in range(1, 5)) + "</Plan_"
    for stage in (1, 2)
}
FINAL = "Answer 1 + 3 = 4 ; 4 * 5 = 20\n</Final_answer>"
REPLIES = {**PLANS, "p3": "<Final_answer>\n" + FINAL, "final": FINAL}  # an executor writes TRY


def reply(call: str) -> str:
    return REPLIES.get(call) or TRY + "</execution_1."


def calls(stages: int) -> int:
    """Of one problem: so many stages of four executions, one or two, then the answer."""
    return stages * (1 + 4) + 1


def event(data: object) -> bytes:
    line = b"data: " + json.dumps(data).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(line), line)


def chunk(text: str, ids: list[int], finish: str | None, prompt: list[int] | None = None) -> bytes:
    """As vLLM 0.32 writes it."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}
    choice |= {"token_ids": ids, "prompt_logprobs": None, "prompt_token_ids": prompt}
    head = {"id": "cmpl-0123456789abcdef0123456789abcdef", "object": "text_completion", "created": 0, "model": "m"}
    return event({**head, "choices": [choice], "usage": None})


class Writer:
    """The events of every reply, made once."""

    def __init__(self, tokenizer: str) -> None:
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.made: dict[tuple[str, int], list[Piece]] = {}

    def answer(self, body: dict[str, object]) -> list[bytes]:
        prompt, interval = body["prompt"], body.get("stream_interval", 1)
        assert isinstance(prompt, list)
        assert isinstance(interval, int)
        call = who(self.tokenizer.decode(prompt, skip_special_tokens=False))
        first, *rest = self.pieces(call, interval)
        events = [chunk(first[1], first[0], first[2], prompt), *(chunk(text, ids, end) for ids, text, end in rest)]
        written = sum(len(ids) for ids, _, _ in (first, *rest))
        used = {"prompt_tokens": len(prompt), "completion_tokens": written, "prompt_tokens_details": None}
        events.append(event({"id": "x", "choices": [], "usage": {**used, "total_tokens": len(prompt) + written}}))
        return [*events, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]

    def pieces(self, call: str, interval: int) -> list[Piece]:
        if (call, interval) not in self.made:
            ids = self.tokenizer.encode(reply(call), add_special_tokens=False).ids
            cuts = [ids[at : at + interval] for at in range(0, len(ids), interval)]
            texts = [self.tokenizer.decode(cut, skip_special_tokens=False) for cut in cuts]
            ends = [None] * (len(cuts) - 1) + ["stop"]
            self.made[call, interval] = list(zip(cuts, texts, ends, strict=True))
        return self.made[call, interval]


class Connection(asyncio.Protocol):
    """One keep-alive connection of HTTP/1.1; requests come one after the other."""

    def __init__(self, writer: Writer, streams: dict[Connection, Iterator[bytes]], tick: float) -> None:
        self.writer, self.streams, self.tick, self.data = writer, streams, tick, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(sizes[0].split(b":")[1]) if sizes else 0
        if not found or len(rest) < size:
            return
        self.data = rest[size:]
        if head.startswith(b"GET"):
            page = json.dumps({"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 4096}]})
            start = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(page)}\r\n\r\n"
            self.transport.write((start + page).encode())
            return
        events = self.writer.answer(json.loads(rest[:size]))
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if self.tick:
            self.streams[self] = iter(events)
        else:
            self.transport.writelines(events)


async def serve(tokenizer: str, tick: float) -> None:
    writer, streams = Writer(tokenizer), dict[Connection, Iterator[bytes]]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(writer, streams, tick), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    due = loop.time()
    while tick:
        due += tick
        await asyncio.sleep(due - loop.time())
        for connection, events in list(streams.items()):
            if piece := next(events, b""):
                connection.transport.write(piece)
            else:
                del streams[connection]
    await server.serve_forever()


@contextmanager
def fast_server(tokenizer: Path, tick: float) -> Iterator[str]:
    """The server's base URL while the block runs."""
    command = [sys.executable, __file__, str(tokenizer), str(tick)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2])))
