"""Several fine-tunings at once, a process each: on two cores, two models in the time of one.

Each job is what `sprint_lib.training.sft` takes from a file. A job that is finished is not started again, one
that was killed goes on from its last checkpoint. The processes end with the one that started them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sprint_lib import store
from sprint_lib.training.sft import Job
from sprint_lib.training.sft import main as train_one

_LAST_LINES = 20

Report = Callable[[Mapping[str, Mapping[str, Any]]], None]  # the last progress of every job, by name


class TrainingError(RuntimeError):
    """A fine-tuning that ended badly; its checkpoints are kept."""


def printer(every: float = 15.0) -> Report:
    """A report that prints one plain line at most every so many seconds."""
    next_time = time.monotonic() + every

    def report(jobs: Mapping[str, Mapping[str, Any]]) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            print(" · ".join(f"{name} {p['step']}/{p['steps']}, loss {p['loss']:.3f}" for name, p in jobs.items()))
            next_time = time.monotonic() + every

    return report


def train_side_by_side(jobs: Mapping[str, Job], report: Report | None = None) -> dict[str, dict[str, Any]]:
    """Train all jobs at the same time; returns what each one's training.json says.

    Raises:
        TrainingError: if one fails, with the last lines it wrote; the others are stopped.
    """
    children = _Children(report or (lambda _: None))
    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            for done in as_completed([pool.submit(children.run, name, job) for name, job in jobs.items()]):
                done.result()
        finally:
            children.stop()
    return {name: json.loads((job.out / "training.json").read_text()) for name, job in jobs.items()}


class _Children:
    """The processes, their last progress, and the way to stop them all."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.progress: dict[str, Mapping[str, Any]] = {}
        self.lock = threading.Lock()
        self.alive: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.alive:
                process.kill()

    def run(self, name: str, job: Job) -> None:
        paths = {key: str(Path(getattr(job, key)).resolve()) for key in ("samples", "base", "out")}
        path = store.write_json(job.out.parent / f"{job.out.name}.job.json", {**paths, "config": asdict(job.config)})
        process = self._start(path, job.config.threads)
        if process is None:
            return
        with process:
            last = self._listen(name, process)
        with self.lock:
            self.alive.remove(process)
        if process.returncode and not self.stopped:
            raise TrainingError(f"training {name!r} ended with exit status {process.returncode}:\n" + "\n".join(last))

    def _start(self, path: Path, threads: int) -> subprocess.Popen[str] | None:
        places = [str(Path(store.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", __name__, str(path)]
        pipe = subprocess.PIPE
        with self.lock:
            if self.stopped:
                return None
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=environment, text=True, errors="replace"
            )
            self.alive.add(process)
        return process

    def _listen(self, name: str, process: subprocess.Popen[str]) -> deque[str]:
        last: deque[str] = deque(maxlen=_LAST_LINES)
        assert process.stdout
        for line in process.stdout:
            point = _progress(line)
            if point is None:
                last.append(line.rstrip())
                continue
            with self.lock:
                self.progress[name] = point
                self.report(dict(self.progress))
        return last


def _progress(line: str) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) and {"step", "steps", "loss"} <= set(point) else None


def _end_with_parent() -> None:
    """End this process when the parent is gone, however it went: its end of the pipe closes with it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(train_one(sys.argv[1:]))
