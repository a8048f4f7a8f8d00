"""The annotator for Countdown: rules that read the structure of a search trace.

Each first move that is tried (`Try 2 + 3`) is a step: trying it is the plan, the move is the prompt, and the search
of what it leaves is the execution. First moves do not need each other; the answer needs the one that hit.
"""

from __future__ import annotations

from collections.abc import Sequence

from sprint_lib.curation.steps import AnnotationError, Step

_TRY, _ANSWER, _SOLVED = "Try ", "Answer ", "Solved "


class CountdownAnnotator:
    """Reads traces of `tasks.countdown.search_trace`, written by the solver or by a model.

    What the lines claim is not checked; the trace's answer was graded before.
    """

    name = "countdown-rules"

    async def steps(self, question: str, lines: Sequence[str]) -> list[Step]:
        starts = [n for n, line in enumerate(lines, 1) if line.startswith((_TRY, _ANSWER))]
        if not starts or starts[0] != 1:
            raise AnnotationError("does not begin with a first move")
        if not lines[starts[-1] - 1].startswith(_ANSWER) or starts[-1] != len(lines):
            raise AnnotationError("does not end with its answer")
        ends = [*(n - 1 for n in starts[1:]), len(lines)]
        steps = [self._step(lines, start, end) for start, end in zip(starts, ends, strict=True)]
        prompts = [step.prompt for step in steps]
        repeated = next((p for i, p in enumerate(prompts) if p in prompts[:i]), None)
        if repeated is not None:
            raise AnnotationError("tries a first move again")
        return steps

    def _step(self, lines: Sequence[str], start: int, end: int) -> Step:
        first = lines[start - 1]
        if first.startswith(_ANSWER):
            if end > start or end < len(lines):
                raise AnnotationError("goes on after its answer")
            return Step("give the answer", plan=(start,), final=True)
        move = first.removeprefix("Try").rstrip()
        return Step(f"try{move}", plan=(start,), prompt=move, execution=tuple(range(start + 1, end + 1)))

    async def dependencies(self, question: str, lines: Sequence[str], steps: Sequence[Step]) -> dict[int, list[int]]:
        answer = lines[steps[-1].plan[0] - 1].removeprefix(_ANSWER)
        hits = [
            number
            for number, step in enumerate(steps, 1)
            if any(lines[line - 1] == f"{_SOLVED}{answer}" for line in step.execution)
        ]
        if not hits:
            raise AnnotationError("no step found the answer")
        return {**{number: [] for number in range(1, len(steps))}, len(steps): hits[:1]}
