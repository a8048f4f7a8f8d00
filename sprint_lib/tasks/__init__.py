"""What a task is: problems, and a grader that every method shares.

A task knows nothing of methods, prompts of a paradigm or engines. It loads
problems, finds the answer in a model's final text and grades it. Adding a task
is adding a module here and a line in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pkgutil import resolve_name
from typing import Any, Protocol


@dataclass(frozen=True)
class Problem:
    """One question with its reference: `meta` holds what the grader needs."""

    id: str
    question: str
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)


NO_ANSWER = "no answer"  # the reason of a grade where a text holds nothing that looks like an answer


@dataclass(frozen=True)
class Grade:
    """Outcome of grading one final text.

    `answer` is the canonical form of what was found ("" if nothing was found);
    `reason` says in a few words why a text is not correct.
    """

    correct: bool
    answer: str = ""
    reason: str = ""


class Task(Protocol):
    """The contract of a task module.

    Where one execution alone can solve a problem, a task may also have
    `solved(problem, text) -> bool`, see `verifier`; where a final answer can be told to be right without knowing one,
    `check(problem, text) -> bool` (best-of-N); and where its base model speaks a language of its own, `dialect`, the
    name of a class that asks in it (`tasks.dialects`).
    """

    name: str

    def load(self, n: int, *, split: str, seed: int) -> list[Problem]:
        """Return `n` problems of a split ("train" or "test"), the same for the same seed."""

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade a model's final text. Never raises on any string."""


def verifier(task: Task, problem: Problem) -> Callable[[str], bool] | None:
    """Tells whether what one executor wrote solves the problem by itself; None if the task cannot tell."""
    solved: Callable[[Problem, str], bool] | None = getattr(task, "solved", None)
    return partial(solved, problem) if solved else None


TASKS: dict[str, str] = {
    "countdown": "sprint_lib.tasks.countdown:Countdown",
    "gpqa": "sprint_lib.tasks.gpqa:Gpqa",
    "longhand": "sprint_lib.tasks.longhand:Longhand",
    "math500": "sprint_lib.tasks.math500:Math500",
}


def get_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        KeyError: if there is no such task; the message lists those there are.
    """
    if name not in TASKS:
        raise KeyError(f"no task {name!r}; there are: {', '.join(sorted(TASKS))}")
    task: Task = resolve_name(TASKS[name])()
    return task


def title(name: str) -> str:
    """A task's name as people write it."""
    return {"math500": "MATH-500", "gpqa": "GPQA-diamond"}.get(name, name.capitalize())


def difficulty(task: Task, problems: Sequence[Problem]) -> tuple[dict[str, float], str] | None:
    """What makes a task's problems hard, by problem id, and how to say it; None if the task does not say.

    A task says it with a method `difficulty(problem)` and an attribute `difficulty_of`, such as "{} first moves".
    """
    of = getattr(task, "difficulty", None)
    return None if of is None else ({problem.id: of(problem) for problem in problems}, task.difficulty_of)  # type: ignore[attr-defined]


def check_unique(problems: Sequence[Problem]) -> None:
    """Raise ValueError if two problems share an id."""
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ValueError(f"two problems have the id {problem.id!r}")
        seen.add(problem.id)
