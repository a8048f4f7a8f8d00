"""Rollouts: attempts at training problems, made by the loop and the engine that evaluation uses, kept token by token.

Whatever the method, an attempt is a number of calls, and every call is a sequence to learn from: its prompt is
context, what the model wrote is trained (APR, arXiv 2504.15466, section 3.3; parents and children alike). What was
joined in between is in a later call's prompt, and so is never trained.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sprint_lib.accounting import sequential_tokens, total_tokens
from sprint_lib.calls import Attempt
from sprint_lib.engines import Completion, Engine, EngineError, EngineSpec, OnText, Request, open_engine
from sprint_lib.loop import stable_seed
from sprint_lib.methods import get_method
from sprint_lib.serving import ModelEngine, check_engine, engine_for
from sprint_lib.tasks import Problem, get_task

Written = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a call: its prompt, what it wrote


class RolloutError(RuntimeError):
    """Rollouts that cannot be made or learnt from; says what and why."""


@dataclass(frozen=True)
class Rollout:
    """One attempt with the tokens of its calls; `reward` is set by who trains."""

    attempt: Attempt
    calls: tuple[Written, ...]
    reward: float = 0.0


class Rollouts(Protocol):
    """Where attempts come from: `groups` of them, each at one problem, by the model in a folder."""

    def sample(self, step: int, model: Path) -> Sequence[Sequence[Rollout]]:
        """The groups of one step; the same step and model give the same."""
        ...

    def close(self) -> None:
        """End what runs from one step to the next; another `sample` starts it again."""
        ...


class Tape:
    """An engine that keeps what its calls read and wrote."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.calls: list[Written] = []
        self.lost = ""  # why a call's tokens are not known, though this engine's mostly are

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """Raises RolloutError if the engine does not know the tokens that it wrote."""
        done = await self._engine.complete(request, on_text)
        if done.completion_tokens and not done.ids:
            if not done.note:
                raise RolloutError("this engine does not say which tokens it wrote; its texts teach nothing")
            self.lost = done.note  # a server failed on the way
        if done.ids:
            self.calls.append((done.prompt_ids, done.ids))
        return done

    def count_tokens(self, text: str) -> int:
        return self._engine.count_tokens(text)

    async def close(self) -> None:
        await self._engine.close()


# --- rewards --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reward:
    """1 for a right answer, less what it took; other shapes are functions of an attempt, too.

    A right answer is worth `1 - latency * path / typical path - work * tokens / typical tokens`, but at least `least`:
    it stays better than a wrong one. With `latency` and `work` 0 this is APR's reward. `work` is against tasks that
    nobody needed: they cost no path. `broken` is taken off where the text came to nothing (malformed, truncated or
    refused), so that garbage is worse than a wrong answer. Typical are the starting model's means over right answers.
    """

    latency: float = 0.0
    work: float = 0.0
    broken: float = 0.1
    least: float = 0.1
    typical_path: float = 1.0
    typical_tokens: float = 1.0

    def __call__(self, attempt: Attempt) -> float:
        if attempt.correct:
            cost = self.latency * sequential_tokens(attempt) / self.typical_path
            cost += self.work * total_tokens(attempt) / self.typical_tokens
            return max(self.least, 1.0 - cost)
        return -self.broken if attempt.status != "ok" else 0.0

    def measured(self, attempts: Sequence[Attempt]) -> Reward:
        """The same with the typical numbers of these attempts."""
        right = [attempt for attempt in attempts if attempt.correct] or list(attempts)
        path = sum(map(sequential_tokens, right)) / len(right)
        return replace(
            self, typical_path=max(1.0, path), typical_tokens=max(1.0, sum(map(total_tokens, right)) / len(right))
        )


# --- attempts at a task's problems ----------------------------------------------------


@dataclass(frozen=True)
class TaskRollouts:
    """`group` attempts by one method at each of `problems` problems of the train split, others in every step.

    Problems are taken in order from `pool` of them, which are drawn with `seed`. `engine` is as `serving.engine_for`
    takes it. An engine in this process is opened on the model's folder in every step; a server (`kind: vllm`) is
    started at the first one, takes the new weights in those that follow, and runs until `close`.

    Raises:
        ValueError: if `engine` is none, or one whose weights are not ours to change.
    """

    method: str
    settings: Mapping[str, Any]
    task: str = "countdown"
    problems: int = 16
    group: int = 8
    pool: int = 2000
    seed: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)
    copies: int = 1  # of the engine, each with its share of the attempts
    _running: list[ModelEngine] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_engine(self.engine)
        if self.engine.get("kind") == "server":
            raise ValueError(
                "engine: a server that runs already keeps the weights it has; with `kind: vllm` one is started here "
                "that takes new ones, without `kind` attempts are made in this process"
            )

    def sample(self, step: int, model: Path) -> list[list[Rollout]]:
        """See `Rollouts`.

        Raises:
            EngineError, ServingError: if the engine cannot start, or a server fails at new weights.
            RolloutError: if all attempts failed in it.
        """
        from sprint_lib.evaluation.runs import wait_for

        return wait_for(self._sample(step, self._with_weights(model)))

    def code_hash(self) -> str:
        """What stands for the code that makes the attempts, see `evaluation.runs.code_hash`."""
        from sprint_lib.evaluation import runs

        return runs.code_hash(self.method, self.task, self.settings)

    def close(self) -> None:
        """See `Rollouts`."""
        while self._running:
            self._running.pop().__exit__(None, None, None)

    def _with_weights(self, model: Path) -> EngineSpec:
        if self._running:
            return self._running[0].take(model)
        engine = engine_for(model, self.engine, control=True)
        spec = engine.__enter__()
        self._running.append(engine)
        return spec

    async def _sample(self, step: int, spec: EngineSpec) -> list[list[Rollout]]:
        task, method = get_task(self.task), get_method(self.method)
        everything = _pool(self.task, self.pool, self.seed)
        chosen = [everything[(step * self.problems + k) % self.pool] for k in range(self.problems)]
        opened = [open_engine(spec) for _ in range(self.copies)]

        async def one(problem: Problem, sample: int) -> Rollout:
            values = {**self.settings, "seed": stable_seed("rollout", self.seed, step), "sample": sample}
            tape = Tape(opened[sample % self.copies])
            try:
                attempt = await method.solve(problem, task, tape, method.settings.from_dict(values))
            except EngineError as error:
                attempt = Attempt(
                    problem.id, self.method, "engine_error", False, "", "", sample=sample, note=str(error)
                )
            if tape.lost:
                attempt = replace(attempt, status="engine_error", note=tape.lost)
            return Rollout(attempt, tuple(sorted(tape.calls)))  # in which order they ended is chance

        try:
            found = await asyncio.gather(*(one(p, k) for p in chosen for k in range(self.group)))
        finally:
            for engine in opened:
                await engine.close()
        failed = [rollout.attempt.note for rollout in found if rollout.attempt.status == "engine_error"]
        if len(failed) == len(found):
            raise RolloutError(f"every attempt failed in the engine: {failed[0]}")
        return [list(found[k : k + self.group]) for k in range(0, len(found), self.group)]


@functools.cache
def _pool(task: str, size: int, seed: int) -> list[Problem]:
    return get_task(task).load(size, split="train", seed=seed)
