"""Samples: what fine-tuning sees, one for each call that the loop would make for a trajectory.

Contexts come from the very functions that the loop uses, so training sees what inference sees: a planner has no
look at later stages, an executor none at its siblings.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sprint_lib import store
from sprint_lib.loop import FINAL_OPEN, executor_context, planner_context
from sprint_lib.methods.pasta import BODY_CLOSE, SYNC, Segment, body_context, main_context, promise_tag
from sprint_lib.trajectory import Prompt, Stage, Trajectory, render_part, render_plan

FINAL_CLOSE = "</Final_answer>"


@dataclass(frozen=True)
class Sample:
    """One call: the model sees `context`, writes `completion` and then what ends the call.

    That is the closing tag `stop` ("": the end of the call is not learned), followed by the tokenizer's end token if
    the whole text is over (`ends`). The loop stops a call at the tag's first characters; the whole tag is learned,
    because a tokenizer may have no token that is just those. Samples of one `trace` share contexts, which training
    makes use of.
    """

    context: str
    completion: str
    role: str
    trace: str
    stop: str = ""
    ends: bool = False


def rft_samples(question: str, text: str, trace: str) -> list[Sample]:
    """The original text of a trace as one sample, for the control model (paper, section 4: RFT)."""
    return [Sample(question, text, "sequential", trace, ends=True)]


def sprint_samples(question: str, trajectory: Trajectory, trace: str, width: int | None = None) -> list[Sample]:
    """The loop's calls for a trajectory: planner and executors stage by stage, then the final answer.

    `question` is what the loop puts first, a system prompt included.

    A search trace ends at its first success, which no planner can know in advance. `width`, the number of prompts
    that plans are meant to have, keeps two things from being learned that hold in such traces only: to close the
    last plan early (that is not trained), and that the last execution is the one that succeeded (the final answer
    sees the last stage in random order; its tasks do not depend on each other).
    """
    rng = random.Random(trace)
    samples: list[Sample] = []
    stages = trajectory.stages
    for done, stage in enumerate(stages):
        before = stages[:done]
        hindsight = width is not None and done == len(stages) - 1 and len(stage.prompts) < width
        close = f"</Plan_{stage.number}>"
        plan = render_plan(stage).removesuffix(f"{close}\n")
        stop = "" if hindsight else close
        samples.append(Sample(planner_context(question, before), plan, "planner", trace, stop))
        samples += _executor_samples(question, before, stage, trace)
    if trajectory.final is not None:
        seen = stages if width is None else (*stages[:-1], *(_shuffled(stage, rng) for stage in stages[-1:]))
        context = planner_context(question, seen)
        samples.append(Sample(context, FINAL_OPEN + trajectory.final, "planner", trace, FINAL_CLOSE, ends=True))
    return samples


def _shuffled(stage: Stage, rng: random.Random) -> Stage:
    """The stage with its tasks in random order; as it is if its plan says more than its prompts."""
    if any(isinstance(part, str) and part != "\n" for part in stage.plan) or len(stage.executions) != len(
        stage.prompts
    ):
        return stage
    tasks = list(zip(stage.prompts, stage.executions, strict=True))
    rng.shuffle(tasks)
    plan: list[str | Prompt] = []
    for index, (prompt, _) in enumerate(tasks, 1):
        plan += [replace(prompt, index=index), "\n"]
    executions = tuple(replace(execution, index=index) for index, (_, execution) in enumerate(tasks, 1))
    return replace(stage, plan=tuple(plan), executions=executions)


def _executor_samples(question: str, before: tuple[Stage, ...], stage: Stage, trace: str) -> Iterator[Sample]:
    bodies = {execution.index: execution.text for execution in stage.executions}
    so_far = f"<Plan_{stage.number}>\n"
    for part in stage.plan:
        so_far += render_part(part)
        if not isinstance(part, str) and part.index in bodies:
            context = executor_context(question, before, stage.number, so_far, part)
            close = f"</execution_{stage.number}.{part.index}>"
            yield Sample(context, bodies[part.index], "executor", trace, close)


def pasta_samples(
    question: str, trajectory: Trajectory, trace: str, count: Callable[[str], int], width: int | None = None
) -> list[Sample]:
    """The calls of PASTA-style promises (`methods.pasta`) for a trajectory: a stage's plan with promises in place of
    prompts, then a sync; each execution the body of its promise; the final answer as the main thread's end.

    `count` gives the tokens of a text, for the estimates. `width` is as in `sprint_samples`, with one thing more: how
    long the trace's last execution is, that it ended in success tells, and no main thread can know; its estimate is the
    median of the others'. References by an execution's number stay as they stand, though promises have none.
    """
    stages = trajectory.stages
    tokens = {execution.text: count(execution.text) for stage in stages for execution in stage.executions}
    if width is not None and len(tokens) > 1:
        *others, last = tokens
        tokens[last] = round(statistics.median(tokens[text] for text in others))
    samples: list[Sample] = []
    before: list[Segment] = []
    for stage in stages:
        segment, so_far = _promised(stage, tokens)
        hindsight = width is not None and stage is stages[-1] and len(segment.bodies) < width
        context = main_context(question, before)
        samples.append(Sample(context, segment.text, "main", trace, "" if hindsight else SYNC))
        for text, body in zip(so_far, segment.bodies, strict=True):
            samples.append(Sample(body_context(question, before, text), body, "async", trace, BODY_CLOSE))
        before.append(segment)
    if trajectory.final is not None:
        if width is not None and stages:
            before[-1], _ = _promised(_shuffled(stages[-1], random.Random(trace)), tokens)
        samples.append(Sample(main_context(question, before), trajectory.final, "main", trace, ends=True))
    return samples


def _promised(stage: Stage, tokens: Mapping[str, int]) -> tuple[Segment, list[str]]:
    """A stage as the main thread writes it, and what of it each body sees; without prompts that have no execution."""
    bodies = {execution.index: execution.text for execution in stage.executions}
    text, so_far, found = "", [], []
    for part in stage.plan:
        if isinstance(part, str):
            text += part
        elif part.index in bodies:
            text += promise_tag(part.text, tokens[bodies[part.index]])
            so_far.append(text)
            found.append(bodies[part.index])
    return Segment(text, tuple(found)), so_far


def write_samples(path: Path | str, samples: Iterable[Sample]) -> Path:
    """Write samples as JSON lines."""
    return store.write_text(path, "".join(json.dumps(asdict(sample)) + "\n" for sample in samples))


def read_samples(path: Path | str) -> list[Sample]:
    return [Sample(**json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]
