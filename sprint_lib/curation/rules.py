"""The annotator for Countdown: rules that read the structure of a search trace.

Each first move that is tried is a step. The prompt names it as its first line does (`Try 2 + 3`); the execution is
all of its lines. First moves do not need each other; the answer needs the one that hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
