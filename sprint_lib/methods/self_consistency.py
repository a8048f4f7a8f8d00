"""Self-consistency: several samples at once, and the answer that most of them give (Wang et al., arXiv 2203.11171).

**Where ours differs.** SPRINT's paper draws 20 samples at temperature 0.3 from another model, an instruct one, and its
sequential tokens are the total divided by 20: the mean sample. Here all samples come from the model that every other
method uses, and whoever wants the vote waits for the longest sample, so that is what `sequential` counts;
`accounting.mean_sample` is the paper's figure. Votes are counted over the answers that the task's grader found, without
what is only typography (`tasks.boxed.normalised`). An answer that says the same in other words is another answer: in
Countdown two right expressions are two answers, so agreement is rarer there than on a task whose answer is a number.
With two samples there is no majority: the first that has an answer is taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import ENDS, MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import Grade, Problem, Task
from sprint_lib.tasks.boxed import normalised
from sprint_lib.wording import at_least


@dataclass(frozen=True)
class SelfConsistencySettings(MethodSettings):
    """`n` samples, `max_tokens` each. The paper: n 20, temperature 0.3, on Qwen2.5-7B-Instruct."""

    n: int = 8
    temperature: float = 0.6
    max_tokens: int = 2048
    system: str = ""  # put before the question

    def __post_init__(self) -> None:
        at_least(self, "self_consistency", n=1)


class SelfConsistency:
    """The first of the samples that gave the most common answer; of equally common ones the first.

    A sample without an answer has no vote. The seed of a sample depends on its number, so a run with n = 4 has the
    first four samples of one with n = 8, and the first of all is what `sequential` writes. `Attempt.text` is the chosen
    sample, status and grade are its own. If none has an answer the attempt is truncated if any sample was cut, else
    refused; if one failed in the engine, so has the attempt.
    """

    name = "self_consistency"
    settings = SelfConsistencySettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: SelfConsistencySettings) -> Attempt:
        recorder = Recorder(engine)
        seed = attempt_seed(settings, problem)

        async def sample(number: int) -> Call:
            id_ = f"S{number}"
            request = Request(
                settings.system + problem.question,
                settings.max_tokens,
                settings.temperature,
                seed=stable_seed(seed, id_),
            )
            return await recorder.ask(request, Call(id=id_, role="sample", index=number))

        calls = await asyncio.gather(*(sample(number) for number in range(1, settings.n + 1)))
        return self.decide(problem, task, settings, calls, recorder.errors, recorder.seconds())

    def decide(
        self,
        problem: Problem,
        task: Task,
        settings: SelfConsistencySettings,
        calls: Sequence[Call],
        errors: Sequence[str] = (),
        wall_seconds: float = 0.0,
    ) -> Attempt:
        """The attempt that these samples make; also of the first few of more, which need no run of their own."""
        place, said = self.pick(problem, task, settings, calls)
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=self._status(place, calls),
            final=calls[place or 0].completion,
            text=calls[place or 0].completion,
            calls=tuple(calls),
            wall_seconds=wall_seconds,
            note="; ".join(filter(None, (*errors, said))),
        )

    def pick(
        self, problem: Problem, task: Task, settings: SelfConsistencySettings, calls: Sequence[Call]
    ) -> tuple[int | None, str]:
        """The place of the sample that is chosen, None if none has an answer, and what to note of the choice."""
        return majority([task.grade(problem, call.completion) for call in calls]), ""

    def _status(self, place: int | None, calls: Sequence[Call]) -> str:
        finishes = {call.finish for call in calls}
        if "error" in finishes:
            return ENDS["error"]
        return ENDS[calls[place].finish if place is not None else "length" if "length" in finishes else "stop"]


def majority(grades: Sequence[Grade]) -> int | None:
    """The place of the first grade with the most common answer, ties to the first; None if there is no answer."""
    answers = [normalised(grade.answer) for grade in grades]
    votes = Counter(filter(None, answers))
    return answers.index(votes.most_common(1)[0][0]) if votes else None
