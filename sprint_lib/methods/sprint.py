"""SPRINT: one model as planner and, many times at once, as executor (paper, section 3.1).

**Where ours differs.** An executor starts when its own prompt is written, not when the whole plan is (`dispatch`), so
that the path is the paper's formula; a malformed plan may be tried again (`retries`); `loop.py` says the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from sprint_lib.calls import Attempt
from sprint_lib.engines import Engine
from sprint_lib.loop import LoopSettings, run_loop
from sprint_lib.methods import MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task, verifier


@dataclass(frozen=True)
class SprintSettings(LoopSettings, MethodSettings):
    """The loop's settings, with the seed and sample every method has."""


class Sprint:
    """The rolling-horizon loop as a method; `Attempt.text` is the rendered trajectory, question included."""

    name = "sprint"
    settings = SprintSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: SprintSettings) -> Attempt:
        started = time.monotonic()
        seeded = replace(settings, seed=attempt_seed(settings, problem))
        result = await run_loop(engine, problem.question, seeded, solved=verifier(task, problem))
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=result.status,
            final=result.trajectory.final or "",
            text=result.trajectory.render(),
            calls=result.calls,
            wall_seconds=time.monotonic() - started,
            note=result.note,
        )
