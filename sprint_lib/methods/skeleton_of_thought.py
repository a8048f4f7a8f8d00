"""Skeleton-of-Thought: a list of short points first, then each worked out at once (Ning et al., arXiv 2307.15337).

One call writes the skeleton, a numbered list of three to ten points; one call a point is shown question and skeleton
and told to go on with its point alone; the answer is read from all of it, one after the other. With `router` (SoT-R) a
call before them says whether the answer is a list of independent points; if not, the problem is solved in one piece.

**Where ours differs.** The released router is a trained classifier or GPT-4; here the model that solves is asked, and a
reply that cannot be read counts as "no list". A model of a task's own language is asked in that language
(`tasks.dialects`), which may have no words for the router (then none is asked) nor for the other points (Countdown: a
point is shown alone). There code helps more than the paper's does: only legal moves become points, and the answer is
put together from the first point that came to one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import ENDS, MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task
from sprint_lib.tasks.dialects import INSTRUCT, Ask, Dialect, get_dialect
from sprint_lib.wording import at_least


@dataclass(frozen=True)
class SkeletonOfThoughtSettings(MethodSettings):
    """At most `points` points; every call has `max_tokens`. The paper: temperature 0.1 (chat), 0.6 (reasoning)."""

    router: bool = True
    points: int = 10
    temperature: float = 0.6
    max_tokens: int = 2048
    dialect: str = INSTRUCT
    system: str = ""  # the prompts of the dialect instruct; "": the shipped ones

    def __post_init__(self) -> None:
        at_least(self, "skeleton_of_thought", points=1, max_tokens=1)


class SkeletonOfThought:
    """`Attempt.text` is all that is read for the answer: the points worked out, in order, or the one piece.

    A skeleton without a point is truncated if it was cut, else refused. If a point was cut, so is the attempt, unless
    an answer was found all the same; any call that fails in the engine ends the attempt as `engine_error`.
    """

    name = "skeleton_of_thought"
    settings = SkeletonOfThoughtSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: SkeletonOfThoughtSettings) -> Attempt:
        dialect = get_dialect(settings.dialect, self.name, task, engine, settings.system)
        work = _Work(problem, engine, settings, dialect)
        text = await work.run()
        finishes = {call.finish for call in work.recorder.calls if call.role != "router"}
        cut = "length" in finishes and not task.grade(problem, text).answer
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=ENDS["error" if work.failed else "length" if cut else "stop"],
            final=text,
            text=text,
            calls=tuple(sorted(work.recorder.calls, key=lambda call: (call.stage, call.index))),
            wall_seconds=work.recorder.seconds(),
            note="; ".join(work.recorder.errors),
        )


class _Work:
    """One attempt at work: the skeleton is stage 1, its points stage 2; so it counts as one stage."""

    def __init__(self, problem: Problem, engine: Engine, settings: SkeletonOfThoughtSettings, dialect: Dialect) -> None:
        self.problem, self.settings, self.dialect = problem, settings, dialect
        self.recorder = Recorder(engine)
        self.seed = attempt_seed(settings, problem)

    @property
    def failed(self) -> bool:
        return any(call.finish == "error" for call in self.recorder.calls)

    async def run(self) -> str:
        """The text that the answer is read from."""
        waits: tuple[Wait, ...] = ()
        ask = self.dialect.route(self.problem) if self.settings.router else None
        if ask is not None:
            call = await self.ask(ask, Call("R1", "router"))
            if self.failed:
                return ""
            waits = (Wait(call.id),)
            if self.dialect.routed(call.completion) != "list":
                ask = self.dialect.sequential(self.problem)
                return (await self.ask(ask, Call("S1", "sample", index=1, waits=waits))).completion
        ask = self.dialect.skeleton(self.problem, self.settings.points)
        call = await self.ask(ask, Call("K1", "skeleton", 1, waits=waits))
        points = self.dialect.points(self.problem, call.completion)[: self.settings.points]
        asks = [self.dialect.point(self.problem, points, place) for place in range(len(points))]
        waits = (Wait(call.id),)
        calls = [Call(f"E{place}", "point", 2, place, waits) for place in range(1, len(asks) + 1)]
        done = await asyncio.gather(*map(self.ask, asks, calls)) if not self.failed else ()
        return self.dialect.joined(self.problem, points, [call.completion for call in done]) if done else ""

    async def ask(self, ask: Ask, call: Call) -> Call:
        settings = self.settings
        seed = stable_seed(self.seed, call.id)
        request = Request(ask.prompt, settings.max_tokens, settings.temperature, ask.stop, seed)
        return await self.recorder.ask(request, call)
