"""The traces that notebook 01 begins with: sampled from the base model on Countdown, or read from a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sprint_lib import accounting, models, tokens
from sprint_lib.calls import Attempt
from sprint_lib.curation.sources import Candidate, by_boxes, judged, public_name, read
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation.runs import RunSpec, printer, run_many
from sprint_lib.store import Workspace
from sprint_lib.tasks import countdown

_WHOSE = {"examples": "the examples of this project", "released": "the released RFT runs"}
_LICENCES = {"examples": "apache-2.0"}
_BASE = "countdown-base"


@dataclass(frozen=True)
class BaseSampling:
    """How the base model is sampled on training problems of Countdown, in two processes that take half each."""

    problems: int
    temperature: float
    max_tokens: int
    seed: int
    dtype: str
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
    source: str, workspace: Workspace, sampling: BaseSampling, *, limit: int, licence: str, tokenizer: str
) -> Collected:
    """Every trace with its grade; sampled if there is no source, else at most `limit` (0: all) of it.

    A killed run goes on where it stopped. Tokens are those that the base model wrote, or of `tokenizer`.

    Raises:
        SourceError, TokenizerError: if the source or the tokenizer cannot be had.
        RunError: see `run_many`.
    """
    if not source:
        origin = {"source": "the base model of this project on Countdown", "licence": "apache-2.0", "tokenizer": _BASE}
        return Collected("base", "countdown", "the base model's traces", tuple(_sampled(workspace, sampling)), origin)
    count = tokens.counter(tokenizer)
    found = tuple(judged(read(source, limit=limit or None), by_boxes, count))
    name = public_name(source)
    origin = {"source": name, "licence": licence or _LICENCES.get(source, "unknown"), "tokenizer": tokenizer}
    whose, first = _WHOSE.get(source, f"the traces of {name}"), {"limit": limit} if limit else {}
    return Collected(name, "math", whose, found, {**origin, **first})


def _sampled(workspace: Workspace, sampling: BaseSampling) -> Sequence[Candidate]:
    """An attempt a problem; one that was drawn twice counts once."""
    model, each = str(models.path(_BASE)), sampling.concurrency
    engine = EngineSpec(model=model, dtype=sampling.dtype, max_batch=each)
    settings = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    halves = [
        RunSpec(
            name=f"base-train-{k}", method="sequential", split="train", n=sampling.problems // 2,
            seed=sampling.seed + k, engine=engine, settings=settings, concurrency=each,
        )
        for k in (1, 2)
    ]  # fmt: skip
    runs = run_many(halves, workspace, report=printer())
    attempts = {attempt.problem: attempt for half in runs.values() for attempt in half}
    return [_candidate(attempt) for attempt in attempts.values()]


def _candidate(attempt: Attempt) -> Candidate:
    problem = countdown.problem(*countdown.numbers_of(attempt.problem))
    return Candidate(
        f"{attempt.problem}#{attempt.sample}", problem.id, problem.question, attempt.text, problem.answer,
        attempt.status, attempt.correct, attempt.answer, attempt.note, accounting.total_tokens(attempt),
    )  # fmt: skip
