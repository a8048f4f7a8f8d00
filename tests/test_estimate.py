"""What a profile takes before it runs, by hand-computed numbers, and what is refused on a machine that lacks it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sprint_lib import estimate, models, serving, suite
from sprint_lib.estimate import Need
from sprint_lib.params import Step, checked_steps

ROOT = Path(__file__).parents[1]


def steps(profile: str = "paper", **changed: Any) -> list[Step]:
    found = checked_steps(ROOT / "notebooks", ROOT / "params" / f"{profile}.yaml")
    return [
        replace(step, parameters={**step.parameters, **{k: v for k, v in changed.items() if k in step.parameters}})
        for step in found
    ]


def test_annotators_are_priced_by_their_settings() -> None:
    found = estimate.needs(steps())
    asked = 6000 * 0.9
    prompts = asked * (700 + 1.2 * 3500)
    assert found["02_steps"].prompt_tokens == pytest.approx(prompts)
    assert found["02_steps"].completion_tokens == pytest.approx(asked * 3500 / 25 * 12)
    assert found["02_steps"].money == pytest.approx((prompts * 2.5 + asked * 1680 * 10) / 1e6)
    assert found["03_dag"].money == pytest.approx((prompts * 0.15 + asked * 420 * 0.6) / 1e6)
    twice = estimate.needs(steps(limit=12_000))
    assert twice["02_steps"].money == pytest.approx(2 * (found["02_steps"].money or 0))
    unknown = estimate.needs(steps(settings={"model": "m", "base_url": "http://x/v1"}))
    assert unknown["02_steps"].money is None
    assert "unknown" in "\n".join(estimate.describe(unknown))


def test_training_and_evaluation_follow_from_size_tokens_and_gpus() -> None:
    found = estimate.needs(steps())
    train, run = found["05_sft"], found["06_parallel_inference"]
    tokens = 1700 * 3500 * 2.2 * 5
    assert train.own_tokens == pytest.approx(tokens)
    assert train.hours == pytest.approx(6 * 7.63e9 * tokens * 4 / 3 / (8 * 312e12 * 0.35) / 3600)
    assert (train.gpus, round(train.gpu_gb)) == (8, 26)  # as sft's own account of the paper's recipe has it
    assert train.disk_gb == pytest.approx(7.63 * (6 + 48))
    pure = 500 * (3 * 2880 + 3622) + 1000 * (3 * 4917 + 1.5 * 2284) + 198 * (3 * 7103 + 1.5 * 6336)
    assert run.own_tokens == pytest.approx(pure + 276 * (2880 + 3622))
    assert run.gpus == 8
    alone = estimate.needs(steps(training={"epochs": 5, "max_length": 7168}))["05_sft"]
    assert alone.gpus == 1
    assert alone.hours == pytest.approx(8 * train.hours * 3 / 4)  # nothing is computed again
    assert alone.gpu_gb == pytest.approx(16 * 7.63 + 11, rel=0.01)


def test_what_any_machine_runs_in_minutes_is_not_worth_a_word() -> None:
    for profile in ("laptop", "smoke", "language", "gpu"):
        assert estimate.needs(steps(profile)) == {}
    assert estimate.describe({}) == []


def test_sizes_of_models(tmp_path: Path) -> None:
    assert estimate.parameters_of("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B") == pytest.approx(7.63e9)
    assert estimate.parameters_of("Qwen/Qwen2.5-0.5B-Instruct") == pytest.approx(0.545e9)
    assert estimate.parameters_of("somebody/model") == 0
    shipped = estimate.parameters_of("countdown-base")
    assert 1e6 < shipped < 1e7
    folder = tmp_path / "copy-70B"
    shutil.copytree(models.path("countdown-base"), folder)
    assert estimate.parameters_of(str(folder)) == shipped


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """What a machine with such GPUs and so much disk lacks for the paper profile, all else being there."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-mine")
    monkeypatch.setattr(serving, "environment", lambda: serving.Environment(tmp_path, "cuda"))

    def lacking(gpus: list[float], disk: float = 2000.0, **changed: Any) -> list[str]:
        monkeypatch.setattr(estimate, "gpu_memory", lambda: gpus)
        monkeypatch.setattr(estimate, "_free", lambda folder: disk)
        known = steps(**changed)
        return estimate.lacking(known, estimate.needs(known), tmp_path / "not" / "there")

    return lacking


def test_a_machine_that_has_everything_lacks_nothing(machine: Callable[..., list[str]]) -> None:
    assert machine([42.9] * 8) == []


@pytest.mark.parametrize(
    ("gpus", "disk", "said"),
    [
        ([], 2000.0, "05_sft: needs 8 GPUs with about 26 GB each, found: 0"),
        ([42.9] * 4, 2000.0, "06_parallel_inference: needs 8 GPUs with about 21 GB each, found: 4"),
        ([42.9] * 7 + [17.0], 2000.0, "here they have 17; more processes"),
        ([42.9] * 8, 100.0, "413 GB of disk are needed, 100 are free; set SPRINT_OUTPUTS"),
    ],
)
def test_what_is_lacking_is_named(machine: Callable[..., list[str]], gpus: list[float], disk: float, said: str) -> None:
    assert said in "\n".join(machine(gpus, disk))


def test_settings_that_cannot_be_are_refused_before_anything(machine: Callable[..., list[str]]) -> None:
    enough = [42.9] * 8
    assert "05_sft: config: unknown key 'epoch'" in "\n".join(machine(enough, training={"epoch": 5}))
    assert "engine: unknown kind 'vlm' (did you mean 'vllm'?)" in "\n".join(machine(enough, engine={"kind": "vlm"}))
    assert "no such folder or file" in "\n".join(machine(enough, prompts="nowhere"))


def test_a_run_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    monkeypatch.setenv(serving.VARIABLE, str(tmp_path / "nothing"))
    monkeypatch.setattr(estimate, "gpu_memory", list)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(suite.SuiteError) as caught:
        suite.run("paper")
    said = str(caught.value)
    for part in ("export OPENAI_API_KEY=", "`make server` makes it", "needs 8 GPUs"):
        assert part in said
    stream = io.StringIO()
    assert suite.run("paper", dry_run=True, stream=stream) == 0
    assert said in stream.getvalue()
    assert "estimated, not measured:" in stream.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_a_sum_of_what_is_known_and_what_is_not() -> None:
    found = {
        "a": Need("a", hours=1, prompt_tokens=1e6, money=3.0, currency="USD"),
        "b": Need("b", hours=2, gpus=2, gpu_gb=5),
    }
    last = [line for line in estimate.describe(found) if line.startswith("in all")]
    assert "3 USD" in last[0]
    assert "2 of 5 GB" in last[0]
    found["b"] = replace(found["b"], money=None)
    assert "unknown" in next(line for line in estimate.describe(found) if line.startswith("in all"))
