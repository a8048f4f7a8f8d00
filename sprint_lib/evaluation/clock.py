"""The wall clock behind a real engine: the same problems by several methods in turn, one attempt at a time, so that
whatever else the machine does at that hour falls on all of them alike; then many problems at once, and bare streams.

A `Bench` opens the engines that a profile describes, a server for each model if it says so, when the first attempt is
missing, and closes them at its end. What is measured is appended attempt by attempt to record logs; a run that was
killed goes on, and one that is complete starts no server. Every attempt finds a server's prefix cache empty: what one
method leaves there must not serve the next.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from sprint_lib import engines
from sprint_lib.calls import Attempt
from sprint_lib.engines import Engine, EngineError, EngineSpec, Request
from sprint_lib.evaluation.runs import Report, RunSpec, Worker, read_attempts, run_key, to_retry, wait_for
from sprint_lib.loop import stable_seed
from sprint_lib.methods import get_method
from sprint_lib.serving import engine_for
from sprint_lib.store import RecordLog, Workspace
from sprint_lib.tasks import Problem, Task, check_unique, get_task

T = TypeVar("T")

_FURTHER = 6  # problems under load for each that counts, at most
REPEATS = 3  # of bare streams
WARM_UP = 1  # problems of the train split before the first that counts
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_METRIC = re.compile(r"^vllm:(\w+)(?:\{[^}\n]*\})? (\d[\d.e+-]*)$", re.MULTILINE)
_SUMS = {  # vLLM's metrics of ended requests: seconds summed, and how many
    "request_queue_time_seconds_sum": "queue",
    "request_prefill_time_seconds_sum": "prefill",
    "request_prefill_time_seconds_count": "calls",
}


class Bench:
    """Measures on the engine that a profile describes; use it in a `with` block.

    The model of a `RunSpec` is a folder; `engine` is as `serving.engine_for` takes it and replaces the rest of the
    spec's own description.
    """

    def __init__(self, engine: Mapping[str, Any], workspace: Workspace, report: Report | None = None) -> None:
        self.given, self.workspace, self.report = dict(engine), workspace, report
        self._servers = ExitStack()
        self._specs: dict[str, EngineSpec] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()

    # --- one attempt at a time ------------------------------------------------------------

    def in_turn(self, specs: Sequence[RunSpec], told: str = "") -> dict[str, list[Attempt]]:
        """Every problem by every spec, one attempt at a time, who begins changing with each problem.

        Returns the attempts by the spec's name, in the order of the problems. What a server that was started here
        says of each attempt's calls is kept in the log `data/<told>.jsonl`, if one is named (`told` reads it).

        Raises:
            ValueError: if the specs are not of the same problems.
            ServingError, EngineError: if an engine cannot start.
        """
        if len({(spec.task, spec.split, spec.n, spec.seed) for spec in specs}) != 1:
            raise ValueError("runs in turn must be of the same problems (task, split, n, seed)")
        wait_for(self._in_turn(specs, told))
        return {spec.name: read_attempts(self.workspace.attempts(spec.name)) for spec in specs}

    async def _in_turn(self, specs: Sequence[RunSpec], told: str) -> None:
        task, one = get_task(specs[0].task), specs[0]
        problems = task.load(one.n, split=one.split, seed=one.seed)
        check_unique(problems)
        with ExitStack() as stack:
            logs = [stack.enter_context(RecordLog(self.workspace.attempts(s.name), self._key(s))) for s in specs]
            for log in logs:
                log.discard(to_retry(log.records))
            if all(problem.id in log for log in logs for problem in problems):
                return
            notes = stack.enter_context(self._notes(told, specs)) if told else None
            async with self._engines(specs) as opened:
                workers = [
                    Worker(spec, task, opened[spec.engine.model], log, self.report)
                    for spec, log in zip(specs, logs, strict=True)
                ]
                for problem in task.load(WARM_UP, split="train", seed=one.seed):
                    for worker in workers:
                        await worker.method.solve(problem, task, worker.engine, worker.settings)
                for index, problem in enumerate(problems):
                    for worker in turned(workers, index):
                        if problem.id not in worker.log:
                            await self._forget(worker.spec)
                            before = await self._server_sums(worker.spec)
                            await worker.do(index, problem)
                            if notes is not None and before:
                                calls = len(worker.log.records[problem.id]["attempt"]["calls"])
                                await self._note(notes, worker.spec, problem, calls, before)

    def told(self, specs: Sequence[RunSpec], name: str) -> dict[str, list[Record]]:
        """What servers said of the attempts of `in_turn`, by the spec's name: a record has `problem`, `calls` and,
        summed over these calls, seconds in the server's `queue` and of its `prefill`. There is none of an attempt with
        cancelled calls, of which servers say nothing, nor of engines that are no server of ours."""
        with self._notes(name, specs) as log:
            records = list(log.records.values())
        return {spec.name: [record for record in records if record["run"] == spec.name] for spec in specs}

    def _notes(self, name: str, specs: Sequence[RunSpec]) -> RecordLog:
        return RecordLog(self.workspace.data / f"{name}.jsonl", [self._key(spec) for spec in specs])

    async def _note(
        self, notes: RecordLog, spec: RunSpec, problem: Problem, calls: int, before: Mapping[str, float]
    ) -> None:
        """Write down what the server says since `before`; it may take a moment to count the last call."""
        for _ in range(20):
            after = await self._server_sums(spec)
            if after["calls"] - before["calls"] == calls:
                found = {name: after[name] - before[name] for name in after}
                notes.discard([id_ := f"{spec.name}, {problem.id}"])  # of an attempt that is made again
                notes.append(id_, {"run": spec.name, "problem": problem.id, **found})
                return
            await asyncio.sleep(0.05)

    # --- many at once ---------------------------------------------------------------------

    def under_load(self, specs: Sequence[RunSpec], levels: Sequence[int], name: str) -> list[Record]:
        """Each spec with so many problems in flight, a record each, kept in the log `data/<name>.jsonl`.

        A record has `run`, `at_once`, `n`, `correct`, `tokens` (generated for these n) and `seconds`, the mean of a
        problem. It is of as many problems as are in flight, eight at least, and further ones take the places of those
        that have ended until the last of them has: so the load stays what it is called, and at_once / seconds are
        solved in a second (Little's law) however long the longest one takes.

        Raises:
            EngineError: if an attempt failed in the engine.
        """

        async def measure(opened: Mapping[str, Engine], spec: RunSpec, level: int) -> Record:
            task, n = get_task(spec.task), max(8, level)
            problems = task.load(_FURTHER * n, split=spec.split, seed=spec.seed)
            await self._forget(spec)
            attempts = await _first_ones(spec, task, problems, n, opened[spec.engine.model], level)
            if failed := [a for a in attempts if a.status == "engine_error"]:
                raise EngineError(
                    f"{spec.name}, {level} at once: {len(failed)} of {n} failed in the engine ({failed[-1].note}); "
                    "run again, what was measured is kept"
                )
            tokens = sum(call.completion_tokens for attempt in attempts for call in attempt.calls)
            seconds = sum(attempt.wall_seconds for attempt in attempts) / n
            return {"n": n, "correct": sum(a.correct for a in attempts), "tokens": tokens, "seconds": seconds}

        return wait_for(self._recorded(name, [(spec, level) for level in levels for spec in specs], measure))

    def streams(self, spec: RunSpec, levels: Sequence[int], tokens: int, name: str) -> list[Record]:
        """Bare completions side by side, so many at a time: a record a level, kept in the log `data/<name>.jsonl`.

        A record has `run`, `at_once` and `step_seconds`: by repetition what each of `tokens` tokens took after the
        first, the median of the streams.
        """
        task = get_task(spec.task)
        questions = [p.question for p in task.load(max(levels), split="train", seed=spec.seed)]

        async def measure(opened: Mapping[str, Engine], spec: RunSpec, level: int) -> dict[str, Any]:
            engine, found = opened[spec.engine.model], []
            for repeat in range(1 + REPEATS):  # the first is to warm up
                asked = [
                    Request(question, tokens, 0.6, seed=stable_seed("streams", repeat, k))
                    for k, question in enumerate(questions[:level])
                ]
                done = await asyncio.gather(*map(engine.complete, asked))
                steps = [(d.ended - d.first_token) / (d.completion_tokens - 1) for d in done if d.completion_tokens > 1]
                found.append(statistics.median(steps) if steps else 0.0)
            return {"tokens": tokens, "step_seconds": found[1:]}

        return wait_for(self._recorded(name, [(spec, level) for level in levels], measure))

    async def _recorded(self, name: str, wanted: Sequence[tuple[RunSpec, int]], measure: Measure) -> list[Record]:
        """A record for each spec and level, in this order; those in the log are not measured again."""
        specs = list({spec.name: spec for spec, _ in wanted}.values())
        ids = [f"{spec.name}, {level} at once" for spec, level in wanted]
        with RecordLog(self.workspace.data / f"{name}.jsonl", [self._key(spec) for spec in specs]) as log:
            if not set(ids) <= set(log.records):
                async with self._engines(specs) as opened:
                    for id_, (spec, level) in zip(ids, wanted, strict=True):
                        if id_ not in log:
                            found = await measure(opened, spec, level)
                            log.append(id_, {"run": spec.name, "at_once": level, **found})
            return [log.records[id_] for id_ in ids]

    # --- engines --------------------------------------------------------------------------

    def _key(self, spec: RunSpec) -> dict[str, Any]:
        """What a run measured here depends on: weights, method, problems, and the engine as the profile has it."""
        return {**run_key(spec), "engine": self.given}

    @asynccontextmanager
    async def _engines(self, specs: Sequence[RunSpec]) -> AsyncIterator[dict[str, Engine]]:
        """An open engine for each model folder; all servers are started at the same time, and stay."""
        folders = [folder for folder in dict.fromkeys(s.engine.model for s in specs) if folder not in self._specs]
        made = {folder: engine_for(folder, self.given, control=True) for folder in folders}  # to forget its cache
        with ThreadPoolExecutor(max(1, len(folders))) as pool:
            started = {f: pool.submit(self._servers.enter_context, engine) for f, engine in made.items()}
            self._specs |= {folder: future.result() for folder, future in started.items()}
        opened = {spec.engine.model: engines.open_engine(self._specs[spec.engine.model]) for spec in specs}
        try:
            yield opened
        finally:
            for engine in opened.values():
                await engine.close()

    async def _forget(self, spec: RunSpec) -> None:
        """Empty the prefix cache of a server that was started here. Raises EngineError if that fails."""
        await self._ask(spec, "reset_prefix_cache", "POST")

    async def _server_sums(self, spec: RunSpec) -> dict[str, float]:
        """What a server that was started here has counted of all its calls; nothing of another engine."""
        found = dict.fromkeys(_SUMS.values(), 0.0)
        pages = await self._ask(spec, "metrics", "GET")
        for name, value in _METRIC.findall("\n".join(pages)):
            if name in _SUMS:
                found[_SUMS[name]] += float(value)
        return found if pages else {}

    async def _ask(self, spec: RunSpec, page: str, method: str) -> list[str]:
        """A page of each server that was started here. Raises EngineError if one does not answer."""
        if self.given.get("kind") != "vllm":
            return []
        found = []
        for url in self._specs[spec.engine.model].urls:
            address = f"{url.removesuffix('/v1')}/{page}"
            try:
                found.append(await asyncio.to_thread(_read, urllib.request.Request(address, method=method)))
            except OSError as error:
                raise EngineError(f"{address}: {error}; run again, what was measured is kept") from error
        return found


Record = dict[str, Any]
Measure = Callable[[Mapping[str, Engine], RunSpec, int], Awaitable[Record]]


def _read(request: urllib.request.Request) -> str:
    with _DIRECTLY.open(request, timeout=30) as answer:
        return str(answer.read().decode())


async def _first_ones(
    spec: RunSpec, task: Task, problems: Sequence[Problem], n: int, engine: Engine, level: int
) -> list[Attempt]:
    """The attempts at the first n problems, with `level` in flight all the time; the others are given up then."""
    method, left, ended = get_method(spec.method), iter(enumerate(problems)), []
    done = asyncio.Event()

    async def go() -> None:
        for index, problem in left:
            attempt = await method.solve(problem, task, engine, spec.method_settings(method))
            if index < n:
                ended.append(attempt)
            if len(ended) == n:
                done.set()

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(go()) for _ in range(level)]
        await done.wait()
        for worker in workers:
            worker.cancel()
    return ended


def turned(items: Sequence[T], by: int) -> list[T]:
    """The items, another one first each time."""
    at = by % len(items)
    return [*items[at:], *items[:at]]
