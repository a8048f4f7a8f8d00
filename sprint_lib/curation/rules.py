"""The annotators for the embedded tasks: rules that read the structure of their traces.

Countdown: each first move that is tried is a step. The prompt names it as its first line does (`Try 2 + 3`); the
execution is all of its lines. First moves do not need each other; the answer needs the one that hit.

Longhand: each product is a step. The prompt names it (`Work A`), the execution is all of its lines. The last step is
the sum, which needs the results that it adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from string import digits

from sprint_lib.curation.steps import AnnotationError, Repaired, Step, silent

_TRY, _ANSWER, _SOLVED = "Try ", "Answer ", "Solved "


class CountdownAnnotator:
    """Reads traces of `tasks.countdown.search_trace`, written by the solver or by a model.

    What the lines claim is not checked; the trace's answer was graded before.
    """

    async def steps(self, question: str, lines: Sequence[str], repaired: Repaired = silent) -> list[Step]:
        starts = [n for n, line in enumerate(lines, 1) if line.startswith((_TRY, _ANSWER))]
        if not starts or starts[0] != 1 or not lines[0].startswith(_TRY):
            raise AnnotationError("does not begin with a first move")
        answers = [n for n in starts if lines[n - 1].startswith(_ANSWER)]
        if answers != [len(lines)]:
            raise AnnotationError("does not end with its answer" if not answers else "goes on after its answer")
        steps = [self._step(lines, start, end) for start, end in pairwise(starts)]
        if len({step.prompt for step in steps}) < len(steps):
            raise AnnotationError("tries a first move again")
        return [*steps, Step("give the answer", plan=(len(lines),), final=True)]

    def _step(self, lines: Sequence[str], start: int, end: int) -> Step:
        task = lines[start - 1].rstrip()
        return Step(task, prompt=task, execution=tuple(range(start, end)))

    async def dependencies(
        self, question: str, lines: Sequence[str], steps: Sequence[Step], repaired: Repaired = silent
    ) -> dict[int, list[int]]:
        answer = lines[steps[-1].plan[0] - 1].removeprefix(_ANSWER).strip()
        hits = [
            number
            for number, step in enumerate(steps, 1)
            if any(lines[line - 1].rstrip() == f"{_SOLVED}{answer}" for line in step.execution)
        ]
        if not hits:
            raise AnnotationError("no step found the answer")
        return {**{number: [] for number in range(1, len(steps))}, len(steps): hits[:1]}


_WORK, _SUM, _ADD = "Work ", "Sum", "Add "


class LonghandAnnotator:
    """Reads traces of `tasks.longhand.trace`, written out or by a model.

    What a line needs is what it names: no arithmetic is checked; the trace's answer was graded before.
    """

    async def steps(self, question: str, lines: Sequence[str], repaired: Repaired = silent) -> list[Step]:
        starts = [n for n, line in enumerate(lines, 1) if line.startswith((_WORK, _SUM))]
        if len(starts) < 2 or starts[0] != 1 or not lines[0].startswith(_WORK):
            raise AnnotationError("does not begin with a product")
        if [n for n in starts if lines[n - 1].startswith(_SUM)] != starts[-1:]:
            raise AnnotationError("does not end with one sum")
        if not lines[-1].startswith(_ANSWER.strip()):
            raise AnnotationError("does not end with its answer")
        steps = [self._step(lines, start, end) for start, end in pairwise(starts)]
        if len({step.prompt for step in steps}) < len(steps):
            raise AnnotationError("works a product again")
        return [*steps, Step("add the results", plan=tuple(range(starts[-1], len(lines) + 1)), final=True)]

    def _step(self, lines: Sequence[str], start: int, end: int) -> Step:
        task = " ".join(lines[start - 1].split()[:2])
        return Step(task, prompt=task, execution=tuple(range(start, end)))

    async def dependencies(
        self, question: str, lines: Sequence[str], steps: Sequence[Step], repaired: Repaired = silent
    ) -> dict[int, list[int]]:
        step_of = {step.prompt.removeprefix(_WORK): number for number, step in enumerate(steps[:-1], 1)}
        added = [lines[line - 1].removeprefix(_ADD) for line in steps[-1].plan if lines[line - 1].startswith(_ADD)]
        named = [word for line in added for word in line.split() if word[0] not in digits]
        if unknown := [label for label in named if label not in step_of]:
            raise AnnotationError(f"adds the result {unknown[0][:20]!r}, which no step has")
        if missing := [label for label in step_of if label not in named]:
            raise AnnotationError(f"does not add the result {missing[0][:20]!r}")
        return {**{number: [] for number in step_of.values()}, len(steps): sorted({step_of[label] for label in named})}
