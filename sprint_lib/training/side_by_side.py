"""Several fine-tunings at once, a process each: on two cores, two models in the time of one.

A job that is finished is not trained again, one that was killed goes on from its last checkpoint.
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
from sprint_lib.training import sft
from sprint_lib.training.sft import Job

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
    progress: dict[str, Mapping[str, Any]] = {}

    def told(name: str, numbers: Mapping[str, Any]) -> None:
        progress[name] = numbers
        if report:
            report(dict(progress))

    try:
        run_side_by_side([_child(name, job) for name, job in jobs.items()], told, workers=len(jobs))
    except ChildError as error:
        raise TrainingError(f"training {error}") from None
    return {name: json.loads((job.out / "training.json").read_text()) for name, job in jobs.items()}


def _child(name: str, job: Job) -> Child:
    paths = {key: str(Path(getattr(job, key)).resolve()) for key in ("samples", "base", "out")}
    path = store.write_json(job.out.parent / f"{job.out.name}.job.json", {**paths, "config": asdict(job.config)})
    return Child(name, __name__, path, job.config.threads)


def main(file: Path) -> int:
    """What a child does: train the job in a file; exit status 1 and one line if that cannot be."""
    try:
        sft.train_job(Job.from_json(json.loads(file.read_text(encoding="utf-8"))), lambda p: tell(asdict(p)))
    except sft.SftError as error:
        print(f"error: {file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
