"""Fine-tunings as processes: what they report, what happens when one fails. Training itself is tested in test_sft."""

from __future__ import annotations

from pathlib import Path

import pytest

from sprint_lib import store
from sprint_lib.curation.samples import Sample, write_samples
from sprint_lib.training.sft import SftConfig, training_key
from sprint_lib.training.side_by_side import Job, TrainingError, _progress, train_side_by_side

SAMPLES = [Sample("question\n", "answer\n", "sequential", "t", ends=True)]


def job(folder: Path, name: str) -> Job:
    """A job whose model is there already, so that the process has nothing to train."""
    base = folder / "base"
    store.write_text(base / "config.json", "{}")
    config = SftConfig(seed=len(name))
    out = folder / name
    done = {"key": training_key(SAMPLES, base, config), "steps": 1, "tokens": 2, "computed_tokens": 3, "seconds": 4}
    store.write_json(out / "training.json", done)
    return Job(write_samples(folder / f"{name}.jsonl", SAMPLES), base, out, config)


def test_what_is_trained_is_not_trained_again(tmp_path: Path) -> None:
    jobs = {name: job(tmp_path, name) for name in ("rft", "sprint")}
    trained = train_side_by_side(jobs)
    assert {name: summary["tokens"] for name, summary in trained.items()} == {"rft": 2, "sprint": 2}


def test_a_failure_names_the_job_and_shows_its_last_lines(tmp_path: Path) -> None:
    good, bad = job(tmp_path, "rft"), job(tmp_path, "sprint")
    bad.samples.write_text("no samples\n")
    with pytest.raises(TrainingError, match=r"(?s)training 'sprint' ended with exit status 1:.*JSONDecodeError"):
        train_side_by_side({"rft": good, "sprint": bad})


def test_only_points_of_the_curve_are_progress() -> None:
    point = '{"step": 1, "steps": 9, "loss": 0.5, "lr": 0.1, "seconds": 2.0}\n'
    assert _progress(point) == {"step": 1, "steps": 9, "loss": 0.5, "lr": 0.1, "seconds": 2.0}
    assert [_progress(line) for line in ("warning: {}\n", "3\n", '{"steps": 9}\n', "")] == [None] * 4
