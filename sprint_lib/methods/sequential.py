"""The sequential baseline: one completion of the question, for the base model and the RFT control.

**Where ours differs.** Nothing but the limit: 36,000 tokens in the paper (A.3), `max_tokens` here.
"""

from __future__ import annotations

from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import ENDS, MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task


@dataclass(frozen=True)
class SequentialSettings(MethodSettings):
    """Temperature as in the paper (A.3); its limit is 36,000 tokens."""

    temperature: float = 0.6
    max_tokens: int = 2048
    system: str = ""  # put before the question


class Sequential:
    """One chain of thought to its end; `Attempt.text` is what the model wrote, without the question."""

    name = "sequential"
    settings = SequentialSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: SequentialSettings) -> Attempt:
        recorder = Recorder(engine)
        seed = stable_seed(attempt_seed(settings, problem), "S1")
        prompt = settings.system + problem.question
        request = Request(prompt, settings.max_tokens, settings.temperature, seed=seed)
        call = await recorder.ask(request, Call(id="S1", role="sample"))
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=ENDS[call.finish],
            final=call.completion,
            text=call.completion,
            calls=(call,),
            wall_seconds=recorder.seconds(),
            note="; ".join(recorder.errors),
        )
