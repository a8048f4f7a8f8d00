"""Tree-of-Thoughts: propose next steps, judge each, keep the best, level by level (Yao et al., arXiv 2305.10601).

Each level asks for next steps of every kept thought side by side, has every new thought judged `values` times (sure,
likely, impossible: 20, 1 and 0.001, summed) and keeps the `breadth` best. After the last level the best thought gives
the answer.

**Where ours differs.** A thought is judged as soon as the call that proposed it has ended, not when all of its level
have, so the longest path is over the slowest proposal *with its judgements*. The paper's 74 % on Game of 24 counts a
problem as solved if any of five answers is right: that needs someone who knows, so here it is `answers: any`, and every
attempt's note says so. How the model is asked is the dialect's (`tasks.dialects`): English, or what a task's own base
model speaks; in Countdown's, code keeps only steps that are legal moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import ENDS, MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task
from sprint_lib.tasks.dialects import INSTRUCT, Ask, Dialect, Thought, get_dialect
from sprint_lib.wording import at_least

ANSWERS = ("first", "any")
ANY = "any of the kept answers: picked by the reference answer"
SCORES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001, "": 0.0}


@dataclass(frozen=True)
class TreeOfThoughtsSettings(MethodSettings):
    """Breadth, judgements and temperature; `max_tokens` bounds each call. At most
    depth * breadth * (1 + proposals * values) + breadth calls.

    `proposals` of one thought are kept at most, and `depth` levels are gone down if the dialect has so many. `answers`
    is `first`, the best thought's, or `any`: all kept thoughts answer, and one that is right is taken (a bound).
    """

    breadth: int = 5
    proposals: int = 10
    values: int = 3
    depth: int = 3
    answers: str = "first"
    temperature: float = 0.7
    max_tokens: int = 512
    dialect: str = INSTRUCT
    system: str = ""  # the prompts of the dialect instruct; "": the shipped ones

    def __post_init__(self) -> None:
        at_least(self, "tree_of_thoughts", breadth=1, proposals=1, values=1, depth=1, max_tokens=1)
        if self.answers not in ANSWERS:
            raise ValueError(f"no answers {self.answers!r}; there are: {', '.join(ANSWERS)}")


@dataclass(frozen=True)
class Candidate:
    """A thought with its id, the calls that whatever is asked of it next waits for, and its score."""

    id: str
    thought: Thought
    after: tuple[Wait, ...] = ()
    score: float = 0.0


class TreeOfThoughts:
    """Breadth-first search over thoughts. `Attempt.text` is the answering thought's steps and the answer.

    Status is that of the call that answered. If nothing was proposed from which an answer could come, the attempt is
    truncated if a proposal was cut, else refused; any call that fails in the engine ends it as `engine_error`.
    """

    name = "tree_of_thoughts"
    settings = TreeOfThoughtsSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: TreeOfThoughtsSettings) -> Attempt:
        dialect = get_dialect(settings.dialect, self.name, task, engine, settings.system)
        return await self.search(problem, task, engine, settings, dialect).run()

    def search(
        self, problem: Problem, task: Task, engine: Engine, settings: TreeOfThoughtsSettings, dialect: Dialect
    ) -> Search:
        return Search(self.name, problem, task, engine, settings, dialect)


class Search:
    """One attempt at work."""

    def __init__(
        self,
        method: str,
        problem: Problem,
        task: Task,
        engine: Engine,
        settings: TreeOfThoughtsSettings,
        dialect: Dialect,
    ) -> None:
        self.method, self.problem, self.task, self.settings, self.dialect = method, problem, task, settings, dialect
        self.recorder = Recorder(engine)
        self.seed = attempt_seed(settings, problem)
        self.level = 0
        self.depth = min(settings.depth, dialect.depth)

    async def run(self) -> Attempt:
        kept = [Candidate("0", ())]
        while self.level < self.depth:
            self.level += 1
            found = await self.grow(kept)
            best = sorted(found, key=lambda candidate: -candidate.score)[: self.settings.breadth]
            judged = tuple(Wait(call.id) for call in self.calls if call.stage == self.level)
            kept = [replace(one, after=judged) for one in best or kept]
            if self.failed or not found:
                break
            kept = await self.combine(kept)
        self.level += 1
        return await self._conclude(kept)

    @property
    def calls(self) -> list[Call]:
        """All calls in the order of their levels and ids, whichever ended first."""
        return sorted(self.recorder.calls, key=lambda call: (call.stage, call.id))

    @property
    def failed(self) -> bool:
        return any(call.finish == "error" for call in self.recorder.calls)

    # --- a level: what a graph of thoughts does otherwise

    async def grow(self, kept: Sequence[Candidate]) -> list[Candidate]:
        """All new thoughts of a level, judged."""

        async def branch(parent: Candidate) -> list[Candidate]:
            return await self.judge(await self.propose(parent))

        return flat(await asyncio.gather(*map(branch, kept)))

    async def combine(self, kept: list[Candidate]) -> list[Candidate]:
        """What a level makes of the thoughts that it keeps."""
        return kept

    # --- calls

    async def propose(self, parent: Candidate) -> list[Candidate]:
        """The thoughts that follow one."""
        ask = self.dialect.propose(self.problem, parent.thought, self.settings.proposals)
        call = await self.ask(ask, f"P{self.level}.{parent.id}", "proposer", parent.after)
        found = self.dialect.proposals(self.problem, parent.thought, call.completion)[: self.settings.proposals]
        after = (Wait(call.id),)
        return [Candidate(f"{parent.id}.{place}", thought, after) for place, thought in enumerate(found, 1)]

    async def judge(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The same with their scores."""

        async def judged(one: Candidate) -> Candidate:
            ask = self.dialect.value(self.problem, one.thought)
            ids = [f"V{self.level}.{one.id}~{number}" for number in range(1, self.settings.values + 1)]
            calls = await asyncio.gather(*(self.ask(ask, id_, "evaluator", one.after) for id_ in ids))
            verdicts = [self.dialect.valued(self.problem, one.thought, call.completion) for call in calls]
            return replace(one, score=sum(SCORES[verdict] for verdict in verdicts))

        return list(await asyncio.gather(*map(judged, candidates)))

    async def ask(self, ask: Ask, id_: str, role: str, waits: tuple[Wait, ...]) -> Call:
        settings = self.settings
        seed = stable_seed(self.seed, id_)
        request = Request(ask.prompt, settings.max_tokens, settings.temperature, ask.stop, seed)
        return await self.recorder.ask(request, Call(id=id_, role=role, stage=self.level, waits=waits))

    # --- the answer

    async def _conclude(self, kept: Sequence[Candidate]) -> Attempt:
        """Ask the best thought, or all kept ones, for the answer."""
        finished = [
            (one, ask) for one in kept if one.thought and (ask := self.dialect.answer(self.problem, one.thought))
        ]
        if self.settings.answers == "first" or self.failed:
            finished = finished[: 0 if self.failed else 1]
        asking = (self.ask(ask, f"A{place}", "answerer", one.after) for place, (one, ask) in enumerate(finished, 1))
        calls = await asyncio.gather(*asking)
        thoughts = [one.thought for one, _ in finished]
        finals = [self.dialect.answered(t, call.completion) for t, call in zip(thoughts, calls, strict=True)]
        right = (place for place, final in enumerate(finals) if self.task.grade(self.problem, final).correct)
        chosen = next(right, 0) if self.settings.answers == "any" else 0
        cut = any(call.finish == "length" for call in self.recorder.calls)
        status = ENDS[calls[chosen].finish] if calls else "truncated" if cut else "refused"
        final = finals[chosen] if finals else ""
        return conclude(
            self.problem,
            self.task,
            method=self.method,
            sample=self.settings.sample,
            status="engine_error" if self.failed else status,
            final=final,
            text="\n".join([*(thoughts[chosen] if thoughts else ()), final]),
            calls=tuple(self.calls),
            wall_seconds=self.recorder.seconds(),
            note="; ".join([*self.recorder.errors, *([ANY] if self.settings.answers == "any" else [])]),
        )


def flat(lists: Iterable[Iterable[Candidate]]) -> list[Candidate]:
    """The candidates of several lists in one."""
    return [one for part in lists for one in part]
