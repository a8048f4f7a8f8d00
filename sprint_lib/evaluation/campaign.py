"""The runs of notebook 06: several models, each behind its own engine, on one task or more; and `data/runs.json`, which
tells the later notebooks what task this is about and which log holds which method's attempts.

Models in this process run side by side as processes. A model behind a server that is started for it has all its runs
while that server is up, one after the other, then comes the next model. Nothing is started for what is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sprint_lib import store
from sprint_lib.calls import Attempt
from sprint_lib.evaluation.runs import Report, RunSpec, done_before, read_attempts, run, run_many
from sprint_lib.prompts import read as read_prompt
from sprint_lib.serving import ModelEngine, engine_for
from sprint_lib.store import Workspace
from sprint_lib.tasks import Problem
from sprint_lib.wording import unknown

INDEX = "runs.json"
_OTHER = {"task", "problems", "max_tokens"}  # what an entry of `others` in notebook 06 may say


class CampaignError(ValueError):
    """Runs that cannot be made or read as asked; the message says what to do."""


@dataclass(frozen=True)
class Planned:
    """A run without its engine, and the model that it is of; `alone`: nothing else may run beside it (for a clock)."""

    model: str
    spec: RunSpec
    alone: bool = False


def run_models(
    planned: Sequence[Planned],
    folders: Mapping[str, Path | str],
    engine: Mapping[str, Any],
    workspace: Workspace,
    *,
    workers: int = 2,
    report: Report | None = None,
) -> dict[str, list[Attempt]]:
    """Make all runs and return their attempts by the run's name. A killed call goes on where it stopped.

    Args:
        planned: the runs; those in this process that are not `alone` come first, `workers` at a time.
        folders: by model, its folder or name.
        engine: what writes, as `serving.engine_for` takes it; the same for every model.
        workspace: whose `data/attempts/` is written; a started server's log goes to `data/server-MODEL.log`.

    Raises:
        RunError, ServingError, ValueError: see `run_many` and `engine_for`.
    """
    opened = {
        model: engine_for(folders[model], engine, workspace.data / f"server-{model}.log")
        for model in dict.fromkeys(one.model for one in planned)
    }
    ready = [replace(one, spec=replace(one.spec, engine=opened[one.model].spec)) for one in planned]
    if all(one.spec.kind == "embedded" for one in opened.values()):
        found = run_many([one.spec for one in ready if not one.alone], workspace, workers=workers, report=report)
        return found | {one.spec.name: run(one.spec, workspace) for one in ready if one.alone}
    found = {}
    for model, source in opened.items():
        found |= _behind_a_server(source, [one.spec for one in ready if one.model == model], workspace, report)
    return found


def _behind_a_server(
    source: ModelEngine, specs: Sequence[RunSpec], workspace: Workspace, report: Report | None
) -> dict[str, list[Attempt]]:
    if all(done_before(spec, workspace) for spec in specs):
        return {spec.name: read_attempts(workspace.attempts(spec.name)) for spec in specs}
    with source:
        return {spec.name: run(spec, workspace, report) for spec in specs}


def other_runs(others: Sequence[Mapping[str, Any]], specs: Sequence[Planned]) -> list[Planned]:
    """The runs of further tasks: those given again, on the other tasks' problems, called TASK-NAME.

    Args:
        others: one mapping a task, with `task`, `problems` and, if wanted, `max_tokens` of a sequential trace.
        specs: the main task's runs.

    Raises:
        CampaignError: on an unknown key, a task without a number of problems, or one that is there twice.
    """
    found: list[Planned] = []
    main = {one.spec.task for one in specs}
    for other in others:
        if said := unknown(other, sorted(_OTHER)):
            raise CampaignError(f"others: {said}")
        if "task" not in other or "problems" not in other:
            raise CampaignError(
                f"others: {dict(other)}: needs task and problems, such as {{task: gpqa, problems: 198}}"
            )
        if other["task"] in main:
            raise CampaignError(f"others: the task {other['task']!r} is there twice; leave one out")
        main.add(other["task"])
        for one in specs:
            settings = dict(one.spec.settings)
            if "max_tokens" in other and "max_tokens" in settings:
                settings["max_tokens"] = other["max_tokens"]
            spec = replace(one.spec, name=f"{other['task']}-{one.spec.name}", task=other["task"], settings=settings)
            found.append(replace(one, spec=replace(spec, n=other["problems"])))
    return found


def asked(planned: Sequence[Planned], prompts: str) -> list[Planned]:
    """The same with what the model is told first (`prompts.read`), by each run's method and task."""
    if not prompts:
        return list(planned)
    found = []
    for one in planned:
        system = read_prompt(prompts, one.spec.method, one.spec.task)
        found.append(replace(one, spec=replace(one.spec, settings={**one.spec.settings, "system": system})))
    return found


# --- what ran -------------------------------------------------------------------------


@dataclass(frozen=True)
class Campaign:
    """What notebook 06 ran: the main task, and by task and method the name of the log with its attempts."""

    workspace: Workspace
    task: str
    logs: Mapping[str, Mapping[str, str]]

    @property
    def others(self) -> list[str]:
        return [task for task in self.logs if task != self.task]

    def attempts(self, *methods: str, task: str = "") -> dict[str, list[Attempt]]:
        """By method, in the order asked for, the attempts on a task (default: the main one), read from the logs."""
        logs = self.logs[task or self.task]
        return {method: read_attempts(self.workspace.attempts(logs[method])) for method in methods or logs}

    def problems(self, method: str, task: str = "") -> list[Problem]:
        """The problems of a run, from its task as the run's log says. Raises CampaignError if there is no log."""
        from sprint_lib.tasks import get_task

        log = self.workspace.attempts(self.logs[task or self.task][method])
        found = store.log_key(log)
        if found is None:
            raise CampaignError(f"{log}: no such log; run notebook 06 again")
        spec = found[0]["spec"]
        return get_task(spec["task"]).load(spec["n"], split=spec["split"], seed=spec["seed"])


def write_index(workspace: Workspace, planned: Sequence[Planned], task: str) -> Path:
    """Write `data/runs.json` for the runs that are not `alone`, with a hash of each log."""
    logs: dict[str, dict[str, str]] = {task: {}}
    for one in planned:
        if not one.alone:
            method = one.spec.name.removeprefix(f"{one.spec.task}-")
            logs.setdefault(one.spec.task, {})[method] = one.spec.name
    names = [name for by_method in logs.values() for name in by_method.values()]
    hashes = {name: store.hash_path(workspace.attempts(name)) for name in names}
    return store.write_json(workspace.data / INDEX, {"task": task, "logs": logs, "sha256": hashes})


def read(workspace: Workspace) -> Campaign:
    """What `write_index` wrote.

    Raises:
        CampaignError: if notebook 06 has not written it, or it is damaged.
    """
    path = workspace.data / INDEX
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Campaign(workspace, data["task"], data["logs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CampaignError(f"{path}: cannot be read ({error!r}); run notebook 06 again") from error
