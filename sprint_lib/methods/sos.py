"""SoS and SoS+: the whole search as one text, branches that lead nowhere included (arXiv 2404.03683, 2504.15466).

SoS+ is APR's sequential baseline: depth first and breadth first within one search, and a token budget, in bins, that is
written before it. Both are one call; which of them it is depends on the model. `curation/demonstrations.py` makes what
the two are trained on, and says where it differs from the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import ENDS, MethodSettings, ask_within, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task
from sprint_lib.wording import at_least

BUDGET = "Budget"
BUDGET_BIN = 256  # tokens; the paper's is 512, of traces twice as long


def condition(tokens: int) -> str:
    """The line before a search of about so many tokens: their number in bins, rounded up."""
    return f"{BUDGET} {-(-tokens // BUDGET_BIN)}\n"


@dataclass(frozen=True)
class SosSettings(MethodSettings):
    """`budget` is SoS+'s conditioning, in tokens; 0: the model says itself (SoS+), or there is none (SoS)."""

    temperature: float = 0.6
    budget: int = 0
    max_tokens: int = 3584
    context_window: int = 0  # tokens that prompt and completion may have together; 0: as many as the model has
    system: str = ""  # put before the question

    def __post_init__(self) -> None:
        at_least(self, "sos", budget=0, context_window=0)


class Sos:
    """One serial search; `Attempt.text` is the budget, if one was asked for, and what the model wrote."""

    name = "sos"
    settings = SosSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: SosSettings) -> Attempt:
        recorder = Recorder(engine)
        asked = condition(settings.budget) if settings.budget else ""
        prompt = settings.system + problem.question + asked
        seed = stable_seed(attempt_seed(settings, problem), "S1")
        request = Request(prompt, settings.max_tokens, settings.temperature, seed=seed)
        call = await ask_within(recorder, request, Call(id="S1", role="sample"), settings.context_window)
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=ENDS[call.finish],
            final=call.completion,
            text=asked + call.completion,
            calls=(call,),
            wall_seconds=recorder.seconds(),
            note="; ".join(recorder.errors),
        )
