"""The traces that notebook 01 begins with: sampled from a base model on a task, or read from a source."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sprint_lib import accounting, models, tokens
from sprint_lib.calls import Attempt
from sprint_lib.curation.sources import Candidate, Row, by_boxes, judged, public_name, read
from sprint_lib.evaluation.campaign import Planned, run_models
from sprint_lib.evaluation.runs import RunSpec, printer
from sprint_lib.store import Workspace
from sprint_lib.tasks import Problem, Task, get_task, title

_WHOSE = {"examples": "the examples of this project", "released": "the released RFT runs"}
_LICENCES = {"examples": "apache-2.0"}


@dataclass(frozen=True)
class BaseSampling:
    """How a base model is sampled on training problems of a task, in two runs that take half each.

    `base` is a shipped model, a folder or one of the hub, `engine` what `serving.engine_for` takes.
    """

    task: str
    base: str
    engine: Mapping[str, Any]
    problems: int
    temperature: float
    max_tokens: int
    seed: int
    concurrency: int


@dataclass(frozen=True)
class Collected:
    """Traces with their writer's name for tables, the task they are on, and what to call them in a sentence.

    `origin` is for the card of the data set they become: source, licence, limit, and the tokenizer that counts them.
    """

    name: str
    task: str
    whose: str
    candidates: tuple[Candidate, ...]
    origin: Mapping[str, Any]

    @property
    def attempts(self) -> list[Attempt]:
        return [candidate.attempt for candidate in self.candidates]


def collect(
    source: str,
    workspace: Workspace,
    sampling: BaseSampling,
    *,
    limit: int,
    licence: str,
    tokenizer: str,
    where: Mapping[str, str] | None = None,
    held_out: Collection[str] = (),
) -> Collected:
    """Every trace with its grade; sampled if there is no source, else at most `limit` (0: all) of it.

    A killed run goes on where it stopped. Tokens are those that the base model wrote, or of `tokenizer`. Of a source
    only rows count whose columns say what `where` says. A trace of a problem that the tasks `held_out` ask is set
    aside as malformed, with that reason.

    Raises:
        SourceError, TokenizerError: if the source or the tokenizer cannot be had.
        RunError: see `run_many`.
    """
    if not source:
        told = f"the base model of this project on {title(sampling.task)}"
        if sampling.base not in models.names():
            told = f"the model {public_name(sampling.base)} on {title(sampling.task)}"
        licence = licence or ("apache-2.0" if sampling.base in models.names() else "unknown")
        origin = {"source": told, "licence": licence, "tokenizer": sampling.base}
        found = tuple(_sampled(workspace, sampling))
        return Collected("base", sampling.task, "the base model's traces", found, origin)
    count = tokens.counter(tokenizer)
    rows = read(source, limit=limit or None, where=where)
    found = tuple(judged(_not_held_out(rows, held_out), by_boxes, count))
    name = public_name(source)
    origin = {"source": name, "licence": licence or _LICENCES.get(source, "unknown"), "tokenizer": tokenizer}
    whose, first = _WHOSE.get(source, f"the traces of {name}"), {"limit": limit} if limit else {}
    return Collected(name, "math", whose, found, {**origin, **first, **({"where": dict(where)} if where else {})})


def _not_held_out(rows: Iterable[Row], held_out: Collection[str]) -> Iterator[Row]:
    """The rows, their questions ending a line as tasks write them; a test problem of a task has that as its defect."""
    of = {_words(question): name for name in held_out for question in _questions(get_task(name))}
    for row in rows:
        known = of.get(_words(row.question))
        defect = row.defect or (f"a test problem of {title(known)}" if known else "")
        yield replace(row, question=f"{row.question.rstrip()}\n", defect=defect)


def _questions(task: Task) -> list[str]:
    """All test questions of a task that has a fixed number of them; none of one that makes them up."""
    found = getattr(task, "all_questions", None)
    return found() if found else []


def _words(text: str) -> str:
    return " ".join(text.split())


def _sampled(workspace: Workspace, sampling: BaseSampling) -> Sequence[Candidate]:
    """An attempt a problem; one that was drawn twice counts once."""
    settings = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    specs = [
        RunSpec(
            name=f"base-train-{k}", method="sequential", task=sampling.task, split="train", n=sampling.problems // 2,
            seed=sampling.seed + k, settings=settings, concurrency=sampling.concurrency,
        )
        for k in (1, 2)
    ]  # fmt: skip
    folders = {"base": models.find(sampling.base)}
    planned = [Planned("base", spec) for spec in specs]
    runs = run_models(planned, folders, sampling.engine, workspace, report=printer())
    task = get_task(sampling.task)
    problems = {p.id: p for spec in specs for p in task.load(spec.n, split="train", seed=spec.seed)}
    attempts = {attempt.problem: attempt for name in runs for attempt in runs[name]}
    return [_candidate(attempt, problems[attempt.problem]) for attempt in attempts.values()]


def _candidate(attempt: Attempt, problem: Problem) -> Candidate:
    return Candidate(
        f"{attempt.problem}#{attempt.sample}", problem.id, problem.question, attempt.text, problem.answer,
        attempt.status, attempt.correct, attempt.answer, attempt.note, accounting.total_tokens(attempt),
    )  # fmt: skip
