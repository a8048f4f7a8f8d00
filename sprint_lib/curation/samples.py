"""Samples: what fine-tuning sees, one for each call that the loop would make for a trajectory.

Contexts come from the very functions that the loop uses, so training sees what inference sees: a planner has no
look at later stages, an executor none at its siblings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sprint_lib import store
from sprint_lib.loop import FINAL_OPEN, executor_context, planner_context
from sprint_lib.trajectory import Stage, Trajectory, render_part, render_plan

PLAN_STOP, EXECUTION_STOP, FINAL_STOP = "</Plan_", "</execution_", "</Final_answer>"


@dataclass(frozen=True)
class Sample:
    """One call: the model sees `context`, writes `completion` and then what ends the call.

    That is the stop string `stop` ("": the end of the call is not learned), followed by the tokenizer's end token if
    the whole text is over (`ends`). Samples of one `trace` share contexts, which training makes use of.
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

    `question` is what the loop puts first, a system prompt included. A search trace ends at its first success, so
    its last plan is often narrower than `width` prompts, for a reason that no planner can know in advance; with
    `width`, the model does not learn to close such a plan there.
    """
    samples: list[Sample] = []
    stages = trajectory.stages
    for done, stage in enumerate(stages):
        before = stages[:done]
        hindsight = width is not None and done == len(stages) - 1 and len(stage.prompts) < width
        plan = render_plan(stage).removesuffix(f"{PLAN_STOP}{stage.number}>\n")
        stop = "" if hindsight else PLAN_STOP
        samples.append(Sample(planner_context(question, before), plan, "planner", trace, stop))
        samples += _executor_samples(question, before, stage, trace)
    if trajectory.final is not None:
        context = planner_context(question, stages)
        samples.append(Sample(context, FINAL_OPEN + trajectory.final, "planner", trace, FINAL_STOP, ends=True))
    return samples


def _executor_samples(question: str, before: tuple[Stage, ...], stage: Stage, trace: str) -> Iterator[Sample]:
    bodies = {execution.index: execution.text for execution in stage.executions}
    so_far = f"<Plan_{stage.number}>\n"
    for part in stage.plan:
        so_far += render_part(part)
        if not isinstance(part, str) and part.index in bodies:
            context = executor_context(question, before, stage.number, so_far, part)
            yield Sample(context, bodies[part.index], "executor", trace, EXECUTION_STOP)


def write_samples(path: Path | str, samples: Iterable[Sample]) -> Path:
    """Write samples as JSON lines."""
    return store.write_text(path, "".join(json.dumps(asdict(sample)) + "\n" for sample in samples))


def read_samples(path: Path | str) -> list[Sample]:
    return [Sample(**json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]
