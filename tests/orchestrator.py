"""What the loop behind a server costs this process, beside a client that only replays its requests.

`python orchestrator.py URL MODEL STAGES PROBLEMS CONCURRENCY ROUNDS` prints JSON: seconds of CPU and of the clock of
every round, calls of a round, the most memory this process had (MB), and CPU seconds of a piece of work that is always
the same (`yardstick`), by which machines compare. A process of its own, so that nothing else is in them. STAGES: at
most so many.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from hostile import yardstick

from sprint_lib.calls import Call
from sprint_lib.engines import EngineSpec
from sprint_lib.engines.server import ServerEngine
from sprint_lib.loop import LoopResult, LoopSettings, run_loop, stable_seed
from sprint_lib.tasks import get_task

TOKENIZER = "countdown-sprint"


class Recording(ServerEngine):
    """Keeps the body of every request by its seed."""

    bodies: dict[int, bytes]

    def _body(self, *given: Any) -> dict[str, Any]:
        body = super()._body(*given)
        self.bodies[body["seed"]] = json.dumps(body).encode()
        return body


class Replay:
    """Sends recorded requests and reads the answers' bytes, no more: what any client of this server has to do.

    It counts the events of a stream, so that an executor can go out when its planner has come to where it waits for.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._place = parts.hostname, parts.port
        self._head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    async def problem(self, calls: list[tuple[Call, bytes]]) -> None:
        reached = {call.id: asyncio.Condition() for call, _ in calls}
        events = dict.fromkeys(reached, 0.0)

        async def one(call: Call, body: bytes) -> None:
            for wait in call.waits:
                async with (condition := reached[wait.call]):
                    least = float("inf") if wait.tokens is None else wait.tokens
                    await condition.wait_for(lambda wait=wait, least=least: events[wait.call] >= least)
            await self._send(call.id, body, reached[call.id], events)

        await asyncio.gather(*(one(call, body) for call, body in calls))

    async def _send(self, id_: str, body: bytes, reached: asyncio.Condition, events: dict[str, float]) -> None:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._place)
        writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        last = b""
        while not last.endswith(b"0\r\n\r\n"):
            piece = await reader.read(2**16)
            assert piece, "the server closed the stream"
            last = (last + piece)[-5:]
            events[id_] += piece.count(b"data: ")
            async with reached:
                reached.notify_all()
        events[id_] = float("inf")
        async with reached:
            reached.notify_all()
        self._idle.append((reader, writer))


async def measured(works: list[Callable[[], Awaitable[Any]]], concurrency: int) -> tuple[list[Any], float, float]:
    """Their results, seconds of CPU and of the clock."""
    gate = asyncio.Semaphore(concurrency)

    async def one(work: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await work()

    cpu, began = time.process_time(), time.perf_counter()
    found = await asyncio.gather(*map(one, works))
    return found, time.process_time() - cpu, time.perf_counter() - began


async def main(url: str, model: str, stages: int, problems: int, concurrency: int, rounds: int) -> dict[str, Any]:
    questions = [problem.question for problem in get_task("countdown").load(problems, split="test", seed=0)]
    spec = EngineSpec(kind="server", model=model, urls=(url,), tokenizer=TOKENIZER, connect_seconds=120.0)

    def settings(seed: int) -> LoopSettings:
        return LoopSettings(temperature=0.0, seed=seed, max_stages=stages)

    def solve(engine: ServerEngine, number: int) -> Callable[[], Awaitable[LoopResult]]:
        return lambda: run_loop(engine, questions[number], settings(number))

    recording = Recording(spec)
    recording.bodies = {}
    first, *_ = await measured([solve(recording, number) for number in range(problems)], concurrency)
    notes = [result.note for result in first if result.note]
    assert not notes, notes
    recorded = [
        [(call, recording.bodies[stable_seed(number, call.id)]) for call in result.calls]
        for number, result in enumerate(first)
    ]
    await recording.close()
    loops, replays, yardsticks = [], [], []
    for _ in range(rounds):
        engine = ServerEngine(spec)  # that remembers nothing
        found, *took = await measured([solve(engine, number) for number in range(problems)], concurrency)
        await engine.close()
        assert not [result.note for result in found if result.note]
        loops.append(took)
        replay = Replay(url)  # with connections of its own, as the engine
        _, *took = await measured(
            [lambda calls=calls, replay=replay: replay.problem(calls) for calls in recorded], concurrency
        )
        replay.close()
        replays.append(took)
        yardsticks.append(yardstick())
    return {
        **{"calls": sum(map(len, recorded)), "loops": loops, "replays": replays, "yardsticks": yardsticks},
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    url, model, *numbers = sys.argv[1:]
    print(json.dumps(asyncio.run(main(url, model, *map(int, numbers)))))
