"""Packing: steps and their dependencies become stages of a plan and parallel executions (paper, section 3.2, A.2).

A step without parents belongs to stage 1, any other to the largest over its parents of the parent's stage, plus one
if the parent has an execution: what rests on a result must wait for it, what rests on a thought alone need not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from sprint_lib.curation.graph import reduced
from sprint_lib.curation.steps import AnnotationError, Step
from sprint_lib.trajectory import Execution, Prompt, Stage, Trajectory, parse

MIN_RATIO = 1.5  # steps a stage; traces below it are not parallel enough to learn from (section 3.2)
SEPARATOR = "-----\n"  # between two lines of thought in one plan (A.1)
_THOUGHT = re.compile(r"(?P<between>(?<=\S)</?think>(?=\S))|</?think>")


@dataclass(frozen=True)
class Rules:
    """What packing does where the paper, the examples its authors released and this project differ.

    The defaults are the paper's.

    Attributes:
        fold_below: executions of fewer lines are folded into their plans (A.2).
        comments: remarks are kept; if not, they are left out.
        joined: steps next to each other in the trace are one line of thought in a plan, without dashes between them,
            and `Based on` is said again only when it changes.
        tidy: remarks go to the first plan that rests on what they are about, not to whichever plan comes next; equal
            tasks of a stage have one executor; a stage without prompts becomes part of the final answer;
            `Based on` leaves out a result that went into another one it names; and the tags around the thought of
            the trace are left out, which is no longer one thought.
        references: `Based on` lines say which results a line of thought rests on; if not, they are left out.
    """

    fold_below: int = 3
    comments: bool = True
    joined: bool = False
    tidy: bool = False
    references: bool = True


PAPER = Rules()
RELEASE = Rules(fold_below=4, comments=False, joined=True)  # found by replaying it (curation.replay)
TIDY = Rules(tidy=True)


@dataclass(frozen=True)
class Packing:
    """A packed trace and what was done to it; steps go by their numbers from 1.

    Attributes:
        stage_of: the stage of every step whose plan is in one; the others are in the final answer.
        folded: steps whose execution was too short for an executor.
        step_of: the step whose execution `execution_i.j` is, by (i, j).
        changes: what was changed on the way, one line each.
    """

    trajectory: Trajectory
    stage_of: dict[int, int]
    folded: tuple[int, ...]
    step_of: dict[tuple[int, int], int]
    changes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Steps a stage; what is in the final answer is no step."""
        return len(self.stage_of) / len(self.trajectory.stages)

    @property
    def width(self) -> float:
        """Executions a stage: what the release was filtered by, in place of the ratio."""
        return len(self.step_of) / len(self.trajectory.stages)


@dataclass(frozen=True)
class _Passage:
    """A line of thought in a plan."""

    step: int
    text: str
    prompt: str = ""
    based: str = ""  # the executions it rests on

    @property
    def bare(self) -> bool:
        return not self.based and not self.text


@dataclass
class _Draft:
    """A stage in the making."""

    passages: list[_Passage] = field(default_factory=list)
    executions: list[str] = field(default_factory=list)


def pack(
    question: str,
    lines: Sequence[str],
    steps: Sequence[Step],
    graph: nx.DiGraph,
    *,
    cap: int | None = None,
    rules: Rules = TIDY,
    answer: str = "",
) -> Packing:
    """Pack checked steps (`check_steps`) with their dependencies (`dependency_graph`) into a trajectory.

    With `cap`, a stage has at most so many prompts; what does not fit goes to the next stage and takes what rests on
    it along. Remarks that no plan rests on open the plan of the next stage, or the final answer if there is none.
    `answer` is text of the final answer that no step gives. Every line of the steps is in one place of the
    trajectory, but for those that `Packing.changes` says were left out.

    Raises:
        AnnotationError: if the text holds tags, so that the trajectory does not read back as it was written, or if
            (tidy) no step has an execution.
    """
    folded = tuple(n for n, s in enumerate(steps, 1) if 0 < len(s.execution) < rules.fold_below and not s.final)
    changes = [f"step {n}: folded, {_count(steps[n - 1].execution)}" for n in folded]
    steps = [_fold(step) if number in folded else step for number, step in enumerate(steps, 1)]
    if rules.tidy:
        changes += [f"line {n}: {tag} left out" for n, line in enumerate(lines, 1) for tag in _tags(line)]
        lines = [_untagged(line) for line in lines]
        steps = [replace(step, prompt=_untagged(step.prompt)) for step in steps]
    stage_of = assign_stages(steps, graph, cap)
    changes += _moved(stage_of, assign_stages(steps, graph), cap) if cap else ()
    written = _Writer(lines, steps, graph, stage_of, rules, changes)
    trajectory = written.trajectory(question, answer)
    read = parse(trajectory.render())
    if read != trajectory:
        kinds = sorted({defect.kind for defect in read.defects}) or ["other text"]
        raise AnnotationError(f"does not read back as written: {', '.join(kinds)}")
    return Packing(trajectory, written.stage_of, folded, written.step_of, tuple(changes))


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


def _moved(stage_of: Mapping[int, int], uncapped: Mapping[int, int], cap: int) -> list[str]:
    return [
        f"step {number}: stage {stage} instead of {uncapped[number]}, because of the cap of {cap}"
        for number, stage in stage_of.items()
        if stage != uncapped[number]
    ]


def _tags(line: str) -> list[str]:
    return [match[0] for match in _THOUGHT.finditer(line)]


def _untagged(line: str) -> str:
    """A line without the tags around a thought; nothing is left of one that holds nothing else."""
    if "think>" not in line:
        return line
    bare = _THOUGHT.sub(lambda tag: "\n" if tag["between"] else "", line)
    return bare if bare.strip() else ""


def _fold(step: Step) -> Step:
    return replace(step, plan=step.plan + step.execution, execution=(), prompt="")


class _Writer:
    """Writes steps into the stages they were assigned to, and says in `changes` what does not stay where it was."""

    def __init__(
        self,
        lines: Sequence[str],
        steps: Sequence[Step],
        graph: nx.DiGraph,
        stage_of: dict[int, int],
        rules: Rules,
        changes: list[str],
    ) -> None:
        self.lines, self.steps, self.graph, self.rules, self.changes = lines, steps, graph, rules, changes
        self.closure = nx.transitive_closure_dag(graph) if rules.tidy else graph
        self.stage_of = dict(stage_of)
        self.step_of: dict[tuple[int, int], int] = {}
        self.names: dict[int, str] = {}  # step -> execution_i.j
        self._name()
        self.executors = set(self.step_of.values())
        self.needs = {number: self._needs(number) for number in stage_of}
        self.children: dict[int, int] = {}  # step -> the first one that rests on its result
        for child in sorted(stage_of, key=lambda number: (stage_of[number], number)):
            for parent in self.needs[child]:
                self.children.setdefault(parent, child)
        self.drafts = [_Draft() for _ in range(max(stage_of.values(), default=0))]
        self.final: list[_Passage] = []
        self.carried: dict[int, str] = {}  # step -> remarks that its plan opens with

    def trajectory(self, question: str, answer: str) -> Trajectory:
        for number, step in enumerate(self.steps, 1):
            if step.comment:
                self._place_comment(number, step)
        for number, step in enumerate(self.steps, 1):
            self._place(number, step)
        if self.rules.tidy:
            self._drop_bare_stage()
        stages = tuple(_stage(number, draft, self.rules) for number, draft in enumerate(self.drafts, 1))
        given = any(step.final for step in self.steps) or answer
        final = "".join(p.based + p.text for p in sorted(self.final, key=lambda p: p.step)) + answer
        return Trajectory(question, stages, final if given else None)

    def _name(self) -> None:
        """Name the executions; a task that its stage has already shares the name."""
        tasks: dict[tuple[int, str], int] = {}
        indices: Counter[int] = Counter()
        for number, stage in self.stage_of.items():
            step = self.steps[number - 1]
            if not step.execution:
                continue
            task = (stage, " ".join(step.prompt.split()))
            if self.rules.tidy and (first := tasks.setdefault(task, number)) != number:
                self.names[number] = self.names[first]
                left = f"{_count(step.execution)} of execution left out"
                self._say(f"step {number}: merged with step {first}, the same task in stage {stage}; {left}")
                continue
            indices[stage] += 1
            self.names[number] = f"execution_{stage}.{indices[stage]}"
            self.step_of[stage, indices[stage]] = number

    def _needs(self, number: int) -> list[int]:
        """The steps whose results `Based on` names: direct parents with an execution.

        Tidy, without those that went into others of them, by whatever way. To reduce the whole graph instead would
        lose a parent that a plan between the two rests on, too: a plan has no result to be named in its place.
        """
        needed = [parent for parent in self.graph.predecessors(number) if parent in self.names]
        if self.rules.tidy and len(needed) > 1:
            needed = sorted(reduced(self.closure.subgraph([*needed, number])).predecessors(number))
        return needed

    def _based(self, steps: Iterable[int]) -> str:
        names = ", ".join(dict.fromkeys(self.names[step] for step in steps)) if self.rules.references else ""
        return f"Based on {names}:\n" if names else ""

    # --- where a text goes

    def _place(self, number: int, step: Step) -> None:
        """Put a step's plan and execution where they belong."""
        if step.final:
            self.final.append(_Passage(number, _text(self.lines, step.lines)))
            return
        draft = self.drafts[self.stage_of[number] - 1]
        comment = "" if step.execution or not self.rules.comments else _text(self.lines, step.comment)
        text = self.carried.get(number, "") + _text(self.lines, step.plan) + (comment if self.rules.tidy else "")
        runs = number in self.executors
        draft.passages.append(_Passage(number, text, step.prompt if runs else "", self._based(self.needs[number])))
        if runs:
            draft.executions.append(_text(self.lines, step.execution))
        if comment and not self.rules.tidy:
            draft.passages.append(_Passage(number, comment))

    def _place_comment(self, number: int, step: Step) -> None:
        """Carry remarks on a result to a place where it is known; those on a plan stay with it."""
        if not self.rules.comments:
            self._say(f"step {number}: remarks left out, {_count(step.comment)}")
        elif step.execution and not step.final:
            text, stage = _text(self.lines, step.comment), self.stage_of[number]
            passage = _Passage(number, text, based=self._based([number]))
            if self.rules.tidy and (child := self.children.get(number)):
                self.carried[child] = self.carried.get(child, "") + text
                where = f"the plan of step {child}"
            elif stage < len(self.drafts):
                self.drafts[stage].passages.append(passage)
                where = f"the plan of stage {stage + 1}"
            else:
                self.final.append(passage)
                where = "the final answer"
            self._say(f"step {number}: remarks carried to {where}, {_count(step.comment)}")

    def _drop_bare_stage(self) -> None:
        """Only the last stage can be without prompts: a later one waits for executions of the one before it."""
        last = len(self.drafts)
        if not last or self.drafts[-1].executions:
            return
        if last == 1:
            raise AnnotationError("no step has an execution that is long enough for an executor")
        self.final += self.drafts.pop().passages
        moved = [number for number, stage in self.stage_of.items() if stage == last]
        self.stage_of = {number: stage for number, stage in self.stage_of.items() if stage < last}
        self._say(f"stage {last}: merged into the final answer, it had no prompt; steps {', '.join(map(str, moved))}")

    def _say(self, change: str) -> None:
        self.changes.append(change)


def _stage(number: int, draft: _Draft, rules: Rules) -> Stage:
    plan: list[str | Prompt] = []
    before: _Passage | None = None
    index, based = 0, ""
    for passage in sorted(draft.passages, key=lambda p: p.step):
        said = rules.joined and passage.based == based
        text = ("" if said else passage.based) + passage.text
        _append(plan, (SEPARATOR if before and _apart(before, passage, rules) else "") + text)
        if passage.prompt:
            index += 1
            plan.append(Prompt(number, index, passage.prompt))
            _append(plan, "\n")
        before, based = passage, passage.based or based
    executions = tuple(Execution(number, j, text) for j, text in enumerate(draft.executions, 1))
    return Stage(number, tuple(plan), executions)


def _apart(before: _Passage, passage: _Passage, rules: Rules) -> bool:
    """Whether dashes stand between two passages of a plan."""
    return passage.step > before.step + 1 if rules.joined else not (before.bare and passage.bare)


def _append(plan: list[str | Prompt], text: str) -> None:
    """Add text to a plan, in one piece with the text before it, as `parse` reads it."""
    if plan and isinstance(plan[-1], str):
        plan[-1] += text
    elif text:
        plan.append(text)


def _text(lines: Sequence[str], numbers: Sequence[int]) -> str:
    text = "".join(lines[number - 1] for number in numbers)
    return text if text.endswith("\n") or not text else f"{text}\n"


def _count(lines: Sequence[int]) -> str:
    return f"{len(lines)} line{'s' * (len(lines) != 1)}"
