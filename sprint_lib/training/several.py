"""Fine-tuning in processes of its own. Several side by side, one each: for models this small, processes of one thread
get more out of a few cores than one training after the other with all of them. Or one in several that share its
batches, a GPU each. `sft` does the training; this module, run on a job's file, is what a child does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sprint_lib import store
from sprint_lib.children import Child, ChildError, end_with_parent, run_side_by_side, tell
from sprint_lib.curation.samples import Sample, write_samples
from sprint_lib.progress import Every
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


def train_together(samples: Sequence[Sample], job: Job, report: Callable[[Progress], None]) -> dict[str, Any]:
    """`sft.train_sft` in as many processes of this machine as the job's config says; returns its summary.

    `samples` are first written where the job says. What the first process reports is handed on. If one fails the
    others are stopped; all end when this process dies.

    Raises:
        SftError: if one fails; the message holds the last lines it wrote.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    job.samples.parent.mkdir(parents=True, exist_ok=True)
    write_samples(job.samples, samples)
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # a port that nobody else can take
    places = [{"port": meeting.port, "process": process} for process in range(job.config.processes)]
    children = [_child(f"process {place['process']}", job, place) for place in places]
    try:
        run_side_by_side(children, lambda _, point: report(Progress(**point)), job.config.processes)
    except ChildError as error:
        raise SftError(f"training {job.out}: {error}") from None
    return _summary(job)


def printer(every: float = 15.0) -> Report:
    """A report that prints one plain line at most every so many seconds: the jobs at work and their losses."""
    due = Every(every)

    def report(points: Mapping[str, Progress]) -> None:
        if due():
            working = {name: point for name, point in points.items() if point.step < point.steps}
            lines = [f"{name} {point.step}/{point.steps}, loss {point.loss:.3f}" for name, point in working.items()]
            print(" · ".join(lines), flush=True)

    return report


def _child(name: str, job: Job, place: Mapping[str, int] | None = None) -> Child:
    paths = {key: str(getattr(job, key).absolute()) for key in ("samples", "base", "out")}
    data = {"job": {**paths, "config": asdict(job.config)}, "place": place}
    suffix = f".{place['process']}.job.json" if place else ".job.json"
    return Child(name, __name__, store.write_json(job.samples.with_suffix(suffix), data), job.config.threads)


def _summary(job: Job) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((job.out / "training.json").read_text(encoding="utf-8"))
    return summary


def _take(place: Mapping[str, int], processes: int) -> None:
    """Become one of several processes of this machine, as torchrun would say it."""
    here = {"RANK": place["process"], "LOCAL_RANK": place["process"]}
    all_ = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": place["port"]}
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}  # the parent's store is there
    os.environ.update({key: str(value) for key, value in {**here, **all_, **meeting, **elastic}.items()})


def main(file: Path) -> int:
    """What a child does: train as a file says; exit status 1 and one line if that cannot be."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        job = Job.from_json(data["job"])
        if data["place"]:
            _take(data["place"], job.config.processes)
        train_job(job, lambda point: tell(asdict(point)))
    except (SftError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
