"""Steps of a trace by line numbers, and what an annotator is (paper, section 3.2 and A.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

Repaired = Callable[[str], None]  # told of a repair, in words


def silent(repair: str) -> None:
    """The default of `repaired`: nobody listens."""


@dataclass(frozen=True)
class Step:
    """One step: what is planned, how it is carried out, and remarks on the outcome, as line numbers from 1.

    `prompt` is the task an executor gets. `final` marks the step that gives the final answer; it is the last one.
    Steps are numbered from 1 in the order of their first lines.
    """

    description: str
    plan: tuple[int, ...] = ()
    prompt: str = ""
    execution: tuple[int, ...] = ()
    comment: tuple[int, ...] = ()
    final: bool = False

    @property
    def lines(self) -> tuple[int, ...]:
        return (*self.plan, *self.execution, *self.comment)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Step:
        ranges = {name: tuple(value[name]) for name in ("plan", "execution", "comment")}
        return cls(**{**value, **ranges})


class Annotator(Protocol):
    """Reads the structure of a trace: by rules, or by asking a language model.

    Both functions tell `repaired` of every repair that they made to what they read, and raise AnnotationError if the
    trace has no structure that they can read. Many traces may be asked for at once: an annotator bounds its requests.
    """

    async def steps(self, question: str, lines: Sequence[str], repaired: Repaired = silent) -> list[Step]:
        """The steps of a trace, every line in exactly one place."""

    async def dependencies(
        self, question: str, lines: Sequence[str], steps: Sequence[Step], repaired: Repaired = silent
    ) -> dict[int, list[int]]:
        """For each step (by number) the numbers of the steps whose results it needs."""


class AnnotationError(ValueError):
    """A trace that cannot be curated; the message says why."""


def check_steps(steps: Sequence[Step], lines: Sequence[str]) -> None:
    """Raise AnnotationError unless the steps cover every line exactly once and in order, as A.2 demands."""
    if wrong := wrong_steps(steps, lines):
        raise AnnotationError("; ".join(wrong))


def wrong_steps(steps: Sequence[Step], lines: Sequence[str]) -> list[str]:
    """Every reason for which `check_steps` refuses steps, in words; none if it takes them."""
    wrong: list[str] = []
    if not any(not step.final for step in steps):
        wrong.append("no step")
    for number, step in enumerate(steps, 1):
        wrong += [f"step {number}: {reason}" for reason in _wrong_in_step(step, last=number == len(steps))]
    uses = Counter(line for step in steps for line in step.lines)
    wrong += [f"line {line} is in {uses[line]} places" for line in sorted(uses) if uses[line] > 1]
    wrong += [f"line {line} does not exist" for line in sorted(uses) if not 1 <= line <= len(lines)]
    wrong += [f"line {line} is in no step" for line in range(1, len(lines) + 1) if line not in uses]
    starts = [min(step.lines) for step in steps if step.lines]
    if starts != sorted(starts):
        wrong.append("the steps are not in the order of their first lines")
    return wrong


def _wrong_in_step(step: Step, last: bool) -> list[str]:
    wrong: list[str] = []
    if not step.lines:
        wrong.append("has no lines")
    if list(step.lines) != sorted(step.lines):
        wrong.append("plan, execution and comment are not in order")
    if step.execution and not step.final and not step.prompt.strip():
        wrong.append("has an execution but no prompt")
    if step.final and not last:
        wrong.append("gives the final answer but is not the last")
    return wrong
