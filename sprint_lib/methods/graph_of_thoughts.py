"""Graph-of-Thoughts: a tree of thoughts whose branches may meet again (Besta et al., arXiv 2308.09687).

Thoughts from which the same can follow become one (in Countdown: the same numbers left, by whatever moves). It has one
judgement for all that it was made of, after all of these were proposed, and takes one place among the kept. Where the
dialect has words for it (English has), each level but the last ends with one more call that makes a single thought of
all that were kept; it goes into the next level beside them.

**Where ours differs.** The paper writes the graph of operations by hand for each of its tasks (sorting, counting,
merging documents); here it is Tree-of-Thoughts' own with these two ways to merge, so that one table can tell what
merging brings. Which thoughts are the same is known only when all of a level are proposed, so every judgement waits for
all proposals of its level: visible in the call graph, and the price of merging.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sprint_lib.calls import Wait
from sprint_lib.engines import Engine
from sprint_lib.methods.tree_of_thoughts import Candidate, Search, TreeOfThoughts, TreeOfThoughtsSettings, flat
from sprint_lib.tasks import Problem, Task
from sprint_lib.tasks.dialects import Dialect


@dataclass(frozen=True)
class GraphOfThoughtsSettings(TreeOfThoughtsSettings):
    """As Tree-of-Thoughts, and at most one more call a level."""


class GraphOfThoughts(TreeOfThoughts):
    """Breadth-first search over thoughts that may meet again; ends as `TreeOfThoughts` does."""

    name = "graph_of_thoughts"
    settings = GraphOfThoughtsSettings

    def search(
        self, problem: Problem, task: Task, engine: Engine, settings: TreeOfThoughtsSettings, dialect: Dialect
    ) -> Search:
        return _Merging(self.name, problem, task, engine, settings, dialect)


class _Merging(Search):
    async def grow(self, kept: Sequence[Candidate]) -> list[Candidate]:
        proposed = flat(await asyncio.gather(*map(self.propose, kept)))
        after = tuple(Wait(call.id) for call in self.calls if call.stage == self.level)
        first: dict[str, Candidate] = {}
        for one in proposed:
            first.setdefault(self.dialect.same(self.problem, one.thought), replace(one, after=after))
        return await self.judge(list(first.values()))

    async def combine(self, kept: list[Candidate]) -> list[Candidate]:
        last = self.level == self.depth
        ask = self.dialect.merge(self.problem, [one.thought for one in kept]) if len(kept) > 1 and not last else None
        if ask is None:
            return kept
        call = await self.ask(ask, f"M{self.level}", "aggregator", kept[0].after)
        after = (*kept[0].after, Wait(call.id))
        thought = self.dialect.merged(call.completion)
        made = [Candidate(f"M{self.level}", thought)] if thought else []
        return [replace(one, after=after) for one in (*kept, *made)]
