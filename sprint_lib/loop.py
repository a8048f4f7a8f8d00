"""The rolling-horizon loop: plan, execute in parallel, sync (paper, sections 3.1 and A.1)."""

from __future__ import annotations

from collections.abc import Sequence

from sprint_lib.trajectory import Prompt, Stage, render_execution_block, render_plan

FINAL_OPEN = "<Final_answer>\n"
STOP = ("</Execution_", "</Plan_", "</Final_answer>", "</execution_")


# --- contexts: what inference shows a call, and therefore what training shows it --------


def planner_context(question: str, stages: Sequence[Stage]) -> str:
    """What a planner continues: the question and every complete stage, in order.

    The planner itself writes `<Plan_i>` or `<Final_answer>` next. Every planner
    context is a prefix of the next one's.
    """
    return question + "".join(render_plan(stage) + render_execution_block(stage) for stage in stages)


def executor_context(question: str, stages: Sequence[Stage], stage: int, plan_so_far: str, prompt: Prompt) -> str:
    """What the executor of one prompt continues; it sees nothing of its siblings.

    `stages` are the complete ones before stage number `stage`; `plan_so_far` is
    that stage's plan from `<Plan_i>` up to and including the prompt's closing tag.
    """
    return f"{planner_context(question, stages)}{plan_so_far}\n<execution_{stage}.{prompt.index}>\n"
