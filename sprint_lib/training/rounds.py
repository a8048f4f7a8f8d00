"""Rounds of rejection sampling: a model tries problems of the train split and learns on from those of its own attempts
that are right (STaR, arXiv 2203.14465, which starts each round from the base; here it goes on from the last).

A trace was packed from one search, which stopped at its first success. In attempts of its own a SPRINT model reads what
it reads at inference: several executions that have solved the problem, or none after two stages. The paper has no such
rounds; RFT gets the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sprint_lib.calls import Attempt
from sprint_lib.curation.samples import Sample, rft_samples, sprint_samples
from sprint_lib.evaluation.campaign import Planned, asked, run_models
from sprint_lib.evaluation.runs import Report, RunSpec
from sprint_lib.prompts import read as read_prompt
from sprint_lib.store import Workspace
from sprint_lib.tasks import Problem, Task, get_task, verifier
from sprint_lib.training.sft import Progress, SftConfig, SftError, train_sft
from sprint_lib.trajectory import parse
from sprint_lib.wording import unknown

METHODS = {"rft": "sequential", "sprint": "sprint"}  # by the model's name


@dataclass(frozen=True)
class Round:
    """One round: training problems, drawn with `seed` and tried once each, and how much is trained on what is right.

    `settings` are the methods' own, by the model's name; the rest of the recipe is fine-tuning's.
    """

    problems: int = 1000
    seed: int = 21
    tokens: int = 100_000
    lr: float = 4e-4
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    concurrency: int = 128

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Round:
        """Raises ValueError on an unknown key, and on what is no positive number where one is needed."""
        known = [one.name for one in fields(Round)]
        if said := unknown(data, known) or unknown(data.get("settings", {}), METHODS, "model"):
            raise ValueError(f"rounds: {said}")
        one = Round(**data)
        for name in ("problems", "tokens", "lr", "concurrency"):
            value = getattr(one, name)
            if type(value) not in (int, float) or value <= 0:
                raise ValueError(f"rounds: {name} is {value!r}, it must be a number more than 0")
        return one


def folder(workspace: Workspace, model: str, number: int, rounds: int) -> Path:
    """Where a model lies after so many of its `rounds`: after the last it has its plain name."""
    return workspace.models / (model if number == rounds else f"{model}-{number}")


def learn_on(
    one: Round,
    models: Mapping[str, tuple[Path, Path]],
    config: SftConfig,
    workspace: Workspace,
    *,
    task: str,
    engine: Mapping[str, Any],
    prompts: str = "",
    report: Report | None = None,
    training: Callable[[str], Callable[[Progress], None]] | None = None,
) -> dict[str, dict[str, Any]]:
    """One round for all `models`: by name the folder of each as it is, and of what it becomes.

    Attempts are logged in `data/attempts/own-FOLDER.jsonl`; what was cut goes on, what is done is not repeated.

    Args:
        config: fine-tuning's recipe, of which the round changes tokens and rate.
        engine: what writes, as `serving.engine_for` takes it.
        prompts: what is put before a question, as in fine-tuning (`prompts.read`).
        report: of the attempts; `training` gives that of a model's training.

    Returns:
        What `train_sft` says of each model.

    Raises:
        SftError: if none of a model's attempts is right.
        RunError, ServingError, ValueError: see `evaluation.campaign.run_models`.
    """
    posed = get_task(task)
    problems = {problem.id: problem for problem in posed.load(one.problems, split="train", seed=one.seed)}
    planned = asked([_planned(one, model, old.name, task) for model, (old, _) in models.items()], prompts)
    start = {model: old for model, (old, _) in models.items()}
    found = run_models(planned, start, engine, workspace, report=report)
    recipe = replace(config, tokens=one.tokens, epochs=0.0, lr=one.lr)
    trained = {}
    for model, (old, new) in models.items():
        told = read_prompt(prompts, METHODS[model], task)
        samples = own_samples(found[f"own-{old.name}"], posed, problems, told)
        if not samples:
            raise SftError(f"{old}: none of its {one.problems} attempts is right; it has nothing of its own to learn")
        trained[model] = train_sft(samples, old, new, recipe, training and training(model))
    return trained


def _planned(one: Round, model: str, name: str, task: str) -> Planned:
    settings = dict(one.settings.get(model, {}))
    spec = RunSpec(f"own-{name}", METHODS[model], task, "train", n=one.problems, seed=one.seed, settings=settings)
    return Planned(model, replace(spec, concurrency=one.concurrency))


def own_samples(
    attempts: Sequence[Attempt], task: Task, problems: Mapping[str, Problem], system: str = ""
) -> list[Sample]:
    """What is learned from the right ones of `attempts` at `problems` (by id).

    Of one line all of it; of a trajectory what its planner wrote, and the executions that solved the problem where the
    task can tell (`tasks.verifier`). The others are most of the tokens and searches without an end to get right;
    they are read, not trained.
    """
    samples: list[Sample] = []
    for attempt in attempts:
        if not attempt.correct:
            continue
        problem, trace = problems[attempt.problem], f"{attempt.problem}#{attempt.sample}"
        question = system + problem.question
        if attempt.method == "sequential":
            samples += rft_samples(question, attempt.text, trace)
        else:
            solved = verifier(task, problem) or (lambda text: False)
            calls = sprint_samples(question, parse(attempt.text), trace)
            samples += [call for call in calls if call.role == "planner" or solved(call.completion)]
    return samples
