"""Best-of-N: several samples at once, of which a verifier picks one.

The samples are self-consistency's own, by number and seed. Who picks decides what the result may be called:

    verifier  the task's `check`, which tells a right answer without knowing one. Countdown has it: whether four numbers
              give the target is arithmetic. A fair method, and there its accuracy *equals* pass@N.
    oracle    the task's grader, which knows the reference: this is pass@N, a bound and no method, and every attempt's
              note says so. Wherever it is shown it has to be called pass@N.

**Where ours differs.** Published best-of-N mostly ranks by a trained reward model; there is none here. Where nothing
passes, the answer is self-consistency's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Engine
from sprint_lib.methods.self_consistency import SelfConsistency, SelfConsistencySettings
from sprint_lib.tasks import Problem, Task

PICKS = ("verifier", "oracle")
ORACLE = "pass@N: picked by the reference answer"


@dataclass(frozen=True)
class BestOfNSettings(SelfConsistencySettings):
    """As self-consistency; `pick` is who picks, see above."""

    pick: str = "oracle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pick not in PICKS:
            raise ValueError(f"no pick {self.pick!r}; there are: {', '.join(PICKS)}")


class BestOfN(SelfConsistency):
    """The first sample that passes; if none does, the most common answer."""

    name = "best_of_n"
    settings = BestOfNSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: SelfConsistencySettings) -> Attempt:
        """See `Method.solve`. Raises ValueError if the verifier is to pick and the task has none."""
        self.pick(problem, task, settings, ())  # before anything is asked
        return await super().solve(problem, task, engine, settings)

    def pick(
        self, problem: Problem, task: Task, settings: SelfConsistencySettings, calls: Sequence[Call]
    ) -> tuple[int | None, str]:
        """See `SelfConsistency.pick` and `solve`."""
        assert isinstance(settings, BestOfNSettings)
        passes = _passes(task, problem, settings.pick)
        found = next((place for place, call in enumerate(calls) if passes(call.completion)), None)
        if found is None:
            found, _ = super().pick(problem, task, settings, calls)
        return found, ORACLE if settings.pick == "oracle" else ""


def _passes(task: Task, problem: Problem, pick: str) -> Callable[[str], bool]:
    check: Callable[[Problem, str], bool] | None = getattr(task, "check", None)
    if pick == "verifier":
        if check is None:
            raise ValueError(f"best_of_n: {task.name} cannot tell a right answer without knowing it; use pick: oracle")
        return lambda text: check(problem, text)
    return lambda text: task.grade(problem, text).correct
