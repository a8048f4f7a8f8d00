"""Several fine-tunings side by side, a process each: for models this small, processes of one thread get more out of
a few cores than one training after the other with all of them. `sft` does the training; this module, run on a job's
file, is what a child does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sprint_lib import store
from sprint_lib.children import Child, ChildError, end_with_parent, run_side_by_side, tell
from sprint_lib.training.sft import Job, Progress, SftError, train_job

Report = Callable[[Mapping[str, Progress]], None]  # the last points of all jobs that have any, by name


def train_many(jobs: Mapping[str, Job], *, workers: int = 2, report: Report | None = None) -> dict[str, dict[str, Any]]:
    """`sft.train_job` for every job, `workers` at a time; returns their summaries by name.

    Each child computes with the threads that its config names. Finished models are not trained again, and what was
    cut goes on from its last checkpoint. If one fails the others are stopped; children end when this process dies.

    Raises:
        SftError: if a training fails; the message holds the last lines it wrote.
    """
    points: dict[str, Progress] = {}

    def told(name: str, point: dict[str, Any]) -> None:
        points[name] = Progress(**point)
        if report:
            report(dict(points))

    try:
        run_side_by_side([_child(name, job) for name, job in jobs.items()], told, workers)
    except ChildError as error:
        raise SftError(f"training {error}") from None
    return {name: _summary(job) for name, job in jobs.items()}


def printer(every: float = 15.0) -> Report:
    """A report that prints one plain line at most every so many seconds: the jobs at work and their losses."""
    next_time = time.monotonic() + every

    def report(points: Mapping[str, Progress]) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            working = {name: point for name, point in points.items() if point.step < point.steps}
            lines = [f"{name} {point.step}/{point.steps}, loss {point.loss:.3f}" for name, point in working.items()]
            print(" · ".join(lines), flush=True)
            next_time = time.monotonic() + every

    return report


def _child(name: str, job: Job) -> Child:
    paths = {key: str(getattr(job, key).absolute()) for key in ("samples", "base", "out")}
    file = store.write_json(job.samples.with_suffix(".job.json"), {**paths, "config": asdict(job.config)})
    return Child(name, __name__, file, job.config.threads)


def _summary(job: Job) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((job.out / "training.json").read_text(encoding="utf-8"))
    return summary


def main(file: Path) -> int:
    """What a child does: train as a file says; exit status 1 and one line if that cannot be."""
    try:
        train_job(Job.from_json(json.loads(file.read_text(encoding="utf-8"))), lambda point: tell(asdict(point)))
    except (SftError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
