"""Runs: one method on many problems of one task, into a record log that a kill at any moment leaves usable.

Every finished attempt is on the disk before the next one starts in its place; running the same spec again does only
what is missing. The log holds attempts in the order in which they ended, reading gives them in the order of the
problems. Every attempt counts, right or wrong, whatever its status; only an `engine_error` says nothing about the
method: a run with such attempts ends with an error when all others are done, and the next run of the same spec tries
them again. Several specs run side by side as processes (`run_many`; `sprint eval` from the command line), which are
this module on a spec's file. A run of the same spec with another `sample` is an independent run: the control for
Figure 6.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from inspect import getfile
from pathlib import Path
from typing import Any, TypeVar

from sprint_lib import calls, engines, loop, methods, prompts, store, tasks, trajectory
from sprint_lib.calls import Attempt
from sprint_lib.children import Child, ChildError, end_with_parent, run_side_by_side, tell
from sprint_lib.engines import Engine, EngineError, EngineSpec
from sprint_lib.engines.contexts import tokenizer_file
from sprint_lib.methods import Method, MethodSettings, get_method
from sprint_lib.progress import Every
from sprint_lib.store import RecordLog, Workspace
from sprint_lib.tasks import Problem, Task, check_unique, get_task
from sprint_lib.tasks.dialects import INSTRUCT
from sprint_lib.wording import unknown

T = TypeVar("T")

_FEW = 3  # runs whose progress fits on a line


class RunError(RuntimeError):
    """A run that could not go on; what it had finished is kept."""


# --- what to run ----------------------------------------------------------------------


@dataclass(frozen=True)
class RunSpec:
    """One method on `n` problems of a task's split; `name` is the log's name.

    `settings` are the method's own, without `seed` and `sample`, which stand here. `concurrency` bounds the problems
    in flight; 1 measures the wall clock of one problem at a time.
    """

    name: str
    method: str
    task: str = "countdown"
    split: str = "test"
    n: int = 100
    seed: int = 0
    sample: int = 0
    engine: EngineSpec = field(default_factory=EngineSpec)
    settings: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 64

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith(".") or set(self.name) & set("/\\"):
            raise ValueError(f"run {self.name!r}: the name must be usable as a file name")
        if self.n < 1 or self.concurrency < 1:
            raise ValueError(
                f"run {self.name!r}: n is {self.n}, concurrency {self.concurrency}; both must be 1 or more"
            )
        if twice := {"seed", "sample"} & set(self.settings):
            raise ValueError(f"run {self.name!r}: {min(twice)} belongs to the run, not into its settings")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RunSpec:
        """Raises ValueError on an unknown key, naming the nearest known one."""
        engine = data.get("engine", {})
        _known(data, RunSpec, f"run {data.get('name')!r}")
        _known(engine, EngineSpec, f"run {data.get('name')!r}, engine")
        return RunSpec(**{**data, "engine": EngineSpec(**engine)})

    def method_settings(self, method: Method) -> MethodSettings:
        return method.settings.from_dict({**self.settings, "seed": self.seed, "sample": self.sample})


def _known(data: Mapping[str, Any], kind: type, where: str) -> None:
    if said := unknown(data, (f.name for f in fields(kind))):
        raise ValueError(f"{where}: {said}")


def run_key(spec: RunSpec) -> dict[str, Any]:
    """What the attempts of a run depend on: the spec with all defaults, the weights, and the code that decides.

    Neither the run's name nor the folder of the model is part of it, nor, for a server, its address, how long it is
    waited for and how often it is asked again. Attempts made under another key are set aside (see `RecordLog`).
    """
    method = get_method(spec.method)
    data = spec.to_json()
    del data["name"]
    weights = _weights(spec.engine, data["engine"])
    data["settings"] = asdict(spec.method_settings(method))
    get_task(spec.task)  # an unknown one is refused here
    return {
        "spec": json.loads(json.dumps(data)),
        "weights": weights,
        "code": code_hash(spec.method, spec.task, data["settings"]),
    }


def code_hash(method: str, task: str, settings: Mapping[str, Any]) -> str:
    """The code that decides what an attempt is: method, loop, engines, tasks, and the prompts of its dialect."""
    code = [getfile(kind) for kind in type(get_method(method)).__mro__[:-1]]  # a method may build on another
    code += [str(module.__file__) for module in (calls, loop, methods, trajectory)]
    if settings.get("dialect") == INSTRUCT:
        code += [str(path) for path in prompts.shipped(method, task)]
    code += [str(path) for room in (engines, tasks) for path in sorted(Path(str(room.__file__)).parent.glob("*.py"))]
    return store.hash_json([store.hash_path(path) for path in code])


def _weights(engine: EngineSpec, data: dict[str, Any]) -> Any:
    """What stands for an engine's weights; takes what no attempt depends on out of `data`, the engine's description."""
    del data["model"]
    if engine.kind != "server":
        return weights_hash(engine.model)
    for name in ("key_variable", "retries", "connect_seconds", "chunk_seconds", "call_seconds"):
        del data[name]
    for name in ("urls", "executor_urls"):  # how many share the work is in the wall clock
        data[name] = len(data[name])
    if engine.tokenizer:
        data["tokenizer"] = store.hash_path(tokenizer_file(engine.tokenizer))
    return engine.model


def weights_hash(model: str) -> str:
    """`store.hash_model` of a folder. For a model that is no folder (one behind a server) its name stands for it.

    Raises:
        FileNotFoundError: if `model` looks like a folder and holds no model.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file():
        if folder.is_dir() or folder.is_absolute() or not model:
            raise FileNotFoundError(f"{model or '(no model given)'}: no model here (no config.json); train it first")
        return model
    return store.hash_model(folder)


# --- progress -------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """Where a run stands: attempts done in all and by this process, how many of all were right, its seconds."""

    total: int
    done: int = 0
    new: int = 0
    correct: int = 0
    seconds: float = 0.0

    @property
    def left(self) -> float | None:
        """Seconds still to go at the pace so far; None before the first attempt."""
        return self.seconds / self.new * (self.total - self.done) if self.new else None


Report = Callable[[Mapping[str, Progress]], None]  # all runs at hand, by name


def printer(every: float = 30.0) -> Report:
    """A report that prints one plain line at most every so many seconds, and one at the end."""
    due = Every(every)

    def report(runs: Mapping[str, Progress]) -> None:
        if due(now=all(p.done == p.total for p in runs.values())):
            print(describe(runs), flush=True)

    return report


def describe(runs: Mapping[str, Progress]) -> str:
    """`2 of 7 done · rft 120/500, 83 % right · sprint 90/500, 80 % right · 65 s, about 110 s left`

    Of many runs those that are at work; once all are done, all of them.
    """
    done = sum(p.done == p.total for p in runs.values())
    shown = runs if len(runs) <= _FEW or done == len(runs) else {n: p for n, p in runs.items() if 0 < p.done < p.total}
    right = {name: f", {p.correct / p.done:.0%} right" if p.done else "" for name, p in shown.items()}
    parts = [f"{name} {p.done}/{p.total}{right[name]}" for name, p in shown.items()]
    parts = parts if len(shown) == len(runs) else [f"{done} of {len(runs)} done", *parts]
    seconds = max((p.seconds for p in runs.values()), default=0.0)
    lefts = [p.left for p in runs.values() if p.left]
    return " · ".join([*parts, f"{seconds:.0f} s" + (f", about {max(lefts):.0f} s left" if lefts else "")])


# --- reading --------------------------------------------------------------------------


def read_attempts(path: Path | str) -> list[Attempt]:
    """The attempts of a run's log in the order of the problems; as many as are there.

    Raises:
        FileNotFoundError: if there is no such log.
        LogError: if it is damaged.
    """
    return _in_problem_order(store.read_log(path))


def run_seconds(path: Path | str) -> float:
    """Wall clock of a run, engine start left out, summed over its resumptions; work lost to a kill is not in it."""
    ends: dict[int, float] = {}
    for record in store.read_log(path).values():
        ends[record["session"]] = max(record["at"], ends.get(record["session"], 0.0))
    return sum(ends.values())


def _in_problem_order(records: Mapping[str, store.Record]) -> list[Attempt]:
    ordered = sorted(records.values(), key=lambda record: record["index"])
    return [Attempt.from_json(record["attempt"]) for record in ordered]


def _finished(records: Mapping[str, store.Record], spec: RunSpec) -> bool:
    return len(records) == spec.n and not to_retry(records)


def to_retry(records: Mapping[str, store.Record]) -> list[str]:
    return [id_ for id_, record in records.items() if record["attempt"]["status"] == "engine_error"]


# --- running --------------------------------------------------------------------------


def run(spec: RunSpec, workspace: Workspace, report: Report | None = None, *, allowed_errors: int = 0) -> list[Attempt]:
    """Run what is missing of a spec and return all its attempts in the order of the problems.

    Also from a notebook, where an event loop is running already. The engine starts only if something is missing.

    Raises:
        RunError: if the engine is dead: more attempts in a row failed in it than can be in flight, or all of them;
            or, when all others are done, if more than `allowed_errors` failed in it.
        LogError: if another process is writing this log.
        EngineError, FileNotFoundError: if the engine cannot start.
    """
    return wait_for(run_async(spec, workspace, report, allowed_errors=allowed_errors))


async def run_async(
    spec: RunSpec, workspace: Workspace, report: Report | None = None, *, allowed_errors: int = 0
) -> list[Attempt]:
    """`run` as a coroutine; cancelling it keeps what is finished."""
    with RecordLog(workspace.attempts(spec.name), run_key(spec)) as log:
        if not _finished(log.records, spec):
            log.discard(to_retry(log.records))
            task = get_task(spec.task)
            problems = task.load(spec.n, split=spec.split, seed=spec.seed)
            check_unique(problems)
            engine = engines.open_engine(spec.engine)
            try:
                await Worker(spec, task, engine, log, report).go(problems)
            finally:
                await engine.close()
        attempts = _in_problem_order(log.records)
    if all(a.status == "engine_error" for a in attempts):
        raise RunError(f"run {spec.name!r}: every attempt failed in the engine ({attempts[-1].note})")
    _check_errors({spec.name: attempts}, allowed_errors)
    return attempts


def _check_errors(runs: Mapping[str, Sequence[Attempt]], allowed: int) -> None:
    """Raise RunError, with counts, if a run has more than `allowed` attempts that failed in the engine."""
    failed = {name: [a for a in attempts if a.status == "engine_error"] for name, attempts in runs.items()}
    said = [
        f"run {name!r}: {len(errors)} of {len(runs[name])} attempts failed in the engine ({errors[-1].note})"
        for name, errors in failed.items()
        if len(errors) > allowed
    ]
    if said:
        raise RunError("; ".join([*said, "run again: finished records are kept, the failed ones are tried anew"]))


class Worker:
    """One process's share of a run: the problems that are not in the log yet, a bounded number at a time (`go`), or
    one that is asked for (`do`)."""

    def __init__(self, spec: RunSpec, task: Task, engine: Engine, log: RecordLog, report: Report | None) -> None:
        self.spec, self.task, self.engine, self.log = spec, task, engine, log
        self.report = report or (lambda _: None)
        self.method = get_method(spec.method)
        self.settings = spec.method_settings(self.method)
        self.session = 1 + max((record["session"] for record in log.records.values()), default=0)
        self.correct = sum(record["attempt"]["correct"] for record in log.records.values())
        self.new = self.failed_in_a_row = 0
        self.began = time.monotonic()

    async def go(self, problems: Sequence[Problem]) -> None:
        missing = ((i, problem) for i, problem in enumerate(problems) if problem.id not in self.log.records)
        self._tell()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.spec.concurrency, self.spec.n)):
                    group.create_task(self._work(missing))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self, missing: Iterator[tuple[int, Problem]]) -> None:
        """Take problems from the shared iterator until there are none."""
        for index, problem in missing:
            await self.do(index, problem)

    async def do(self, index: int, problem: Problem) -> None:
        """Try a problem and write down how it went."""
        attempt = await self._attempt(problem)
        record = {"index": index, "session": self.session, "at": round(time.monotonic() - self.began, 3)}
        self.log.append(problem.id, {**record, "attempt": attempt.to_json()})
        self.new += 1
        self.correct += attempt.correct
        self._tell()
        self._check_engine(attempt)

    async def _attempt(self, problem: Problem) -> Attempt:
        began = time.monotonic()
        try:
            return await self.method.solve(problem, self.task, self.engine, self.settings)
        except EngineError as error:
            return Attempt(
                problem=problem.id,
                method=self.spec.method,
                status="engine_error",
                correct=False,
                answer="",
                text="",
                wall_seconds=time.monotonic() - began,
                sample=self.spec.sample,
                note=str(error),
            )
        except Exception as error:
            error.add_note(f"run {self.spec.name!r}, problem {problem.id!r}")
            raise

    def _check_engine(self, attempt: Attempt) -> None:
        self.failed_in_a_row = self.failed_in_a_row + 1 if attempt.status == "engine_error" else 0
        if self.failed_in_a_row > self.spec.concurrency:
            raise RunError(
                f"run {self.spec.name!r}: the engine is dead, {self.failed_in_a_row} attempts in a row failed in it "
                f"({attempt.note}); run again to go on, finished attempts are kept and failed ones tried again"
            )

    def _tell(self) -> None:
        done, seconds = len(self.log), time.monotonic() - self.began
        self.report({self.spec.name: Progress(self.spec.n, done, self.new, self.correct, seconds)})


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, from a thread with or without a running event loop (a notebook has one)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    handle: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def inner() -> T:
        current = asyncio.current_task()
        assert current
        handle.set_result((asyncio.get_running_loop(), current))
        return await work

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asyncio.run, inner())
        try:
            return future.result()
        except BaseException:
            if not future.done():  # an interrupted cell must not leave its run going in the thread
                event_loop, current = handle.result(timeout=10)
                event_loop.call_soon_threadsafe(current.cancel)
            raise


# --- several at once ------------------------------------------------------------------


def run_many(
    specs: Sequence[RunSpec], workspace: Workspace, *, workers: int = 2, report: Report | None = None
) -> dict[str, list[Attempt]]:
    """Run several specs as processes, `workers` at a time; returns the attempts of each by the run's name.

    Each child computes with the threads its engine's spec names. If one fails, the others are stopped (what they
    finished is kept). Children end at once when this process dies, however it dies.

    Raises:
        RunError: if a run fails; the message holds the last lines it wrote. When all runs are done, if attempts
            failed in the engine.
        ValueError: if two runs have one name.
    """
    progress = {spec.name: Progress(spec.n) for spec in specs}
    if len(progress) < len(specs):
        raise ValueError(f"two runs have one name: {', '.join(sorted(spec.name for spec in specs))}")

    def told(name: str, numbers: dict[str, Any]) -> None:
        progress[name] = Progress(**numbers)
        if report:
            report(dict(progress))

    for spec in specs:
        if done := done_before(spec, workspace):
            told(spec.name, asdict(done))
    missing = [_child(spec, workspace) for spec in specs if not progress[spec.name].done]
    try:
        run_side_by_side(missing, told, workers)
    except ChildError as error:
        raise RunError(f"run {error}") from None
    attempts = {spec.name: read_attempts(workspace.attempts(spec.name)) for spec in specs}
    _check_errors(attempts, allowed=0)
    return attempts


def done_before(spec: RunSpec, workspace: Workspace) -> Progress | None:
    """A run's progress if its log is complete: then no process is started for it."""
    log = workspace.attempts(spec.name)
    if store.log_key(log) != (run_key(spec),) or not _finished(records := store.read_log(log), spec):
        return None
    return Progress(spec.n, spec.n, correct=sum(record["attempt"]["correct"] for record in records.values()))


def _child(spec: RunSpec, workspace: Workspace) -> Child:
    path = workspace.attempts(spec.name).with_suffix(".spec.json")
    where = {"profile": workspace.profile, "outputs": str(workspace.root.parent)}
    store.write_json(path, {**where, "run": spec.to_json()})
    return Child(spec.name, __name__, path, spec.engine.threads)


def main(file: Path) -> int:
    """What a child does: run the spec in a file; exit status 1 and one line if that cannot be."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        spec, workspace = RunSpec.from_json(data["run"]), Workspace(data["profile"], Path(data["outputs"]))
        # The parent looks for attempts that failed in the engine when its other runs are done, too.
        run(spec, workspace, lambda runs: tell(asdict(runs[spec.name])), allowed_errors=spec.n)
    except (RunError, EngineError, store.LogError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
