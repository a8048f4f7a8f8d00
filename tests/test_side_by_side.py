"""Fine-tunings as processes: what they report, what happens when one fails. Training itself is tested in test_sft."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sprint_lib import store
from sprint_lib.curation.samples import Sample, write_samples
from sprint_lib.training.sft import SftConfig, training_key
from sprint_lib.training.side_by_side import Job, TrainingError, train_side_by_side

SAMPLES = [Sample("question\n", "answer\n", "sequential", "t", ends=True)]


def job(folder: Path, name: str) -> Job:
    """A job whose model is there already, so that the process has nothing to train."""
    base = folder / "base"
    store.write_text(base / "config.json", "{}")
    config = SftConfig(seed=len(name))
    out = folder / name
    store.write_text(out / "config.json", "{}")
    done = {"key": training_key(SAMPLES, base, config), "model": store.hash_model(out)}
    numbers = {"steps": 1, "tokens": 2, "computed_tokens": 3, "seconds": 4}
    store.write_json(out / "training.json", {**done, **numbers})
    return Job(write_samples(folder / f"{name}.jsonl", SAMPLES), base, out, config)


def test_what_is_trained_is_not_trained_again(tmp_path: Path) -> None:
    jobs = {name: job(tmp_path, name) for name in ("rft", "sprint")}
    trained = train_side_by_side(jobs)
    assert {name: summary["tokens"] for name, summary in trained.items()} == {"rft": 2, "sprint": 2}


def test_a_failure_names_the_job_and_shows_its_last_lines(tmp_path: Path) -> None:
    good, bad = job(tmp_path, "rft"), job(tmp_path, "sprint")
    bad.samples.write_text("no samples\n")
    with pytest.raises(
        TrainingError, match=r"(?s)training 'sprint' ended with exit status 1:.*'samples': .*sprint.jsonl"
    ):
        train_side_by_side({"rft": good, "sprint": bad})


PARENT = """
import sys
from pathlib import Path
from sprint_lib.training.side_by_side import Job, train_side_by_side
samples, *outs = map(Path, sys.argv[1:])
train_side_by_side({out.name: Job(samples, samples.parent / "base", out) for out in outs})
"""

# A training that says where it stands and then lasts; a child gets it as `sitecustomize`.
ENDLESS = """
import os, time
from pathlib import Path
from sprint_lib.training import sft

def train_job(job, report):
    job.out.mkdir()
    (job.out / "pid").write_text(str(os.getpid()))
    while True:
        report(sft.Progress(1, 9, 0.5, 0.1, 2.0))
        time.sleep(0.01)

sft.train_job = train_job
"""


def test_killed_parent_leaves_no_training_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_text(tmp_path / "python" / "sitecustomize.py", ENDLESS)
    places = [str(tmp_path / "python"), str(Path(store.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    outs = [tmp_path / name for name in ("rft", "sprint")]
    marks = [out / "pid" for out in outs]
    command = [sys.executable, "-c", PARENT, str(tmp_path / "samples.jsonl"), *map(str, outs)]
    with subprocess.Popen(command) as parent:
        wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks))
        children = [int(mark.read_text()) for mark in marks]
        assert parent.poll() is None
        assert all(map(is_alive, children))
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, children)))


def is_alive(pid: int) -> bool:
    """Whether a process runs; what has ended may stand in the table until somebody asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"nothing happened in {seconds} s"
        time.sleep(0.01)
