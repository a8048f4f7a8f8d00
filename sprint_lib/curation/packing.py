"""Packing: steps and their dependencies become stages of a plan and parallel executions (paper, section 3.2, A.2).

A step without parents belongs to stage 1, any other to the largest over its parents of the parent's stage, plus one
if the parent has an execution: what rests on a result must wait for it, what rests on a thought alone need not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from sprint_lib.curation.steps import AnnotationError, Step
from sprint_lib.trajectory import Execution, Prompt, Stage, Trajectory, parse

MIN_EXECUTION_LINES = 3  # shorter executions are folded into their plans (A.2)
MIN_RATIO = 1.5  # steps a stage; traces below it are not parallel enough to learn from (section 3.2)
SEPARATOR = "-----\n"  # between two lines of thought in one plan (A.1)


@dataclass(frozen=True)
class Packing:
    """A packed trace and what was done to it; steps go by their numbers from 1, the final step is in none of them."""

    trajectory: Trajectory
    stage_of: dict[int, int]
    folded: tuple[int, ...]  # steps whose execution was too short for an executor

    @property
    def ratio(self) -> float:
        """Steps a stage; the final answer is no step."""
        return len(self.stage_of) / len(self.trajectory.stages)


@dataclass(frozen=True)
class _Passage:
    """A line of thought in a plan."""

    step: int
    text: str
    prompt: str = ""

    @property
    def bare(self) -> bool:
        return not self.text


@dataclass
class _Draft:
    """A stage in the making."""

    passages: list[_Passage] = field(default_factory=list)
    executions: list[str] = field(default_factory=list)


def pack(
    question: str, lines: Sequence[str], steps: Sequence[Step], graph: nx.DiGraph, *, cap: int | None = None
) -> Packing:
    """Pack checked steps (`check_steps`) with their dependencies (`dependency_graph`) into a trajectory.

    With `cap`, a stage has at most so many prompts; what does not fit goes to the next stage and takes what rests on
    it along. Comments open the plan of the next stage, or the final answer if there is none.

    Raises:
        AnnotationError: if the text holds tags, so that the trajectory does not read back as it was written.
    """
    folded = tuple(n for n, s in enumerate(steps, 1) if 0 < len(s.execution) < MIN_EXECUTION_LINES and not s.final)
    steps = [_fold(step) if number in folded else step for number, step in enumerate(steps, 1)]
    stage_of = assign_stages(steps, graph, cap)
    trajectory = _write(question, lines, steps, graph, stage_of)
    read = parse(trajectory.render())
    if read != trajectory:
        kinds = sorted({defect.kind for defect in read.defects}) or ["other text"]
        raise AnnotationError(f"does not read back as written: {', '.join(kinds)}")
    return Packing(trajectory, stage_of, folded)


def assign_stages(steps: Sequence[Step], graph: nx.DiGraph, cap: int | None = None) -> dict[int, int]:
    """The stage of every step but the final one."""
    if cap is not None and cap < 1:
        raise ValueError(f"packing: cap is {cap}; a stage needs room for at least one prompt")
    stage_of: dict[int, int] = {}
    prompts: Counter[int] = Counter()
    for number, step in enumerate(steps, 1):
        if step.final:
            continue
        stage = max((stage_of[p] + bool(steps[p - 1].execution) for p in graph.predecessors(number)), default=1)
        while step.execution and cap is not None and prompts[stage] >= cap:
            stage += 1
        prompts[stage] += bool(step.execution)
        stage_of[number] = stage
    return stage_of


def _fold(step: Step) -> Step:
    return replace(step, plan=step.plan + step.execution, execution=(), prompt="")


def _write(
    question: str, lines: Sequence[str], steps: Sequence[Step], graph: nx.DiGraph, stage_of: dict[int, int]
) -> Trajectory:
    drafts = [_Draft() for _ in range(max(stage_of.values(), default=0))]
    names: dict[int, str] = {}  # step -> execution_i.j
    final = ""
    for number, step in enumerate(steps, 1):
        if step.final:
            final += _text(lines, step.lines)
            continue
        stage = stage_of[number]
        parents = [names[p] for p in graph.predecessors(number) if p in names and stage_of[p] < stage]
        based = f"Based on {', '.join(parents)}:\n" if parents else ""
        prompt = step.prompt if step.execution else ""
        drafts[stage - 1].passages.append(_Passage(number, based + _text(lines, step.plan), prompt))
        if step.execution:
            drafts[stage - 1].executions.append(_text(lines, step.execution))
            names[number] = f"execution_{stage}.{len(drafts[stage - 1].executions)}"
        if step.comment:
            comment = _text(lines, step.comment)
            if not step.execution:
                drafts[stage - 1].passages.append(_Passage(number, comment))
            elif stage < len(drafts):
                drafts[stage].passages.append(_Passage(number, f"Based on {names[number]}:\n{comment}"))
            else:
                final += f"Based on {names[number]}:\n{comment}"
    stages = tuple(_stage(number, draft) for number, draft in enumerate(drafts, 1))
    return Trajectory(question, stages, final or None)


def _stage(number: int, draft: _Draft) -> Stage:
    plan: list[str | Prompt] = []
    before: _Passage | None = None
    index = 0
    for passage in sorted(draft.passages, key=lambda p: p.step):
        apart = before is not None and not (before.bare and passage.bare)
        _append(plan, (SEPARATOR if apart else "") + passage.text)
        if passage.prompt:
            index += 1
            plan.append(Prompt(number, index, passage.prompt))
            _append(plan, "\n")
        before = passage
    executions = tuple(Execution(number, j, text) for j, text in enumerate(draft.executions, 1))
    return Stage(number, tuple(plan), executions)


def _append(plan: list[str | Prompt], text: str) -> None:
    """Add text to a plan, in one piece with the text before it, as `parse` reads it."""
    if plan and isinstance(plan[-1], str):
        plan[-1] += text
    elif text:
        plan.append(text)


def _text(lines: Sequence[str], numbers: Sequence[int]) -> str:
    text = "".join(lines[number - 1] for number in numbers)
    return text if text.endswith("\n") or not text else f"{text}\n"
