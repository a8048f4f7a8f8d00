"""Curation: lines, steps, graph, packing, samples, each by hand-made cases and by properties of random ones."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import networkx as nx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sprint_lib.curation import (
    Annotated,
    Packed,
    Sifted,
    Trace,
    annotate_dependencies,
    annotate_steps,
    curate,
    pack_traces,
)
from sprint_lib.curation.graph import dependency_graph, reduced
from sprint_lib.curation.lines import MAX_FORMULA, number_lines
from sprint_lib.curation.packing import PAPER, TIDY, Packing, Rules, assign_stages, pack
from sprint_lib.curation.rules import CountdownAnnotator
from sprint_lib.curation.samples import Sample, read_samples, rft_samples, sprint_samples, write_samples
from sprint_lib.curation.steps import AnnotationError, Step, check_steps
from sprint_lib.engines import Completion, OnText, Request
from sprint_lib.loop import LoopSettings, run_loop
from sprint_lib.released import find
from sprint_lib.tasks import countdown
from sprint_lib.trajectory import Prompt, Trajectory, parse

QUESTION = "What now?\n"


# --- lines ----------------------------------------------------------------------------

PIECES = [
    *("a", "b", ".", "!", "?", "。", "।", "؟", " ", "\t", '"', "\n", "\r", "\u2028", "\x00", "\ud800", "A. ", "e.g. "),
    *("$", "$$", "\\", "\\[", "\\]", "\\(", "\\)", "\\begin{a}", "\\end{a}", "`", "\n```\n", "1. ", "5! ", "- ", "**"),
]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text())
@settings(max_examples=300)
@example("\n \n  indented. And on.\n\n  indented\n   ")
def test_lines_give_the_text_back(text: str) -> None:
    lines = number_lines(text)
    assert "".join(lines) == text
    assert all(lines)
    assert all(line.strip() for line in lines[:1]) or not text.strip()


@pytest.mark.parametrize(
    "lines",
    [
        ("one\n\n", " two\n", "three"),
        ("A sentence. ", "Another one! ", "A third?! ", "Right?\n\n", "New."),
        ("\n\nBlank lines first.\r\n\r\n", "Then this.\u2028", "And this."),
        ("He says “go.” ", "She goes... ", "And goes… "),
        ("See e.g. Fig. 3 or Dr. Who, i.e. him. ", "It costs 3.14 or more, approx. five. ", "Yes."),
        (
            "J. R. R. Tolkien wrote it. ",
            "So did J. Smith. ",
            "The center is O. ",
            "Then the vertex is A. ",
            "So be it.",
        ),
        ("No. ", "It is Eq. (2) in No. 5. ", "Fine."),
        ("1. Take it.\n", "2. Leave it. ", "It stays.\n", "- **a.** The first.\n", "(b). The second.\n"),
        ("Step 1. Begin here. ", "Case 2. It is odd."),
        ("It is 5! = 120, and 3! 2! = 12. ", "So it is 5! ", "Wow! ", "And n! ", "Then 3! 4."),
        ("Is it x? ", "yes. ", "So x is 5."),
        ("The sum $a. B$ is $1.$ ", "Then \\(c. D\\) follows. ", "It costs $5. ", "The other costs $7. ", "Both."),
        (
            "We have\n",
            "\\[\na = 1. B\n\n= 2.\n\\]\n",
            "So it is. ",
            "\\begin{a}\nX. Y\n\\begin{a} Z. \\end{a}\n\\end{a} .",
        ),
        ("$$\nx. Y\n$$\n", "Open $ here. ", "Open \\( there. ", "Open \\[ too. ", "End."),
        (
            "Run `a. B` now. ",
            "Like so:\n",
            "```python\n",
            "x = 1. # So. It is.\n\n",
            "y = $x\n",
            "```\n",
            "Done. ",
            "$z$ is.",
        ),
        ("```\n", "Never. ", "Closed."),
        ("他说好。", "“是吗？”", "对！\n", "यह है। ", "वह है॥ ", "هل هذا صحيح؟ ", "نعم. ", "لا."),
        ("Это т. е. то. ", "Да."),
        ("It ends here.   \n", "  - so. "),
    ],
)
def test_lines_are_sentences_items_and_rows(lines: tuple[str, ...]) -> None:
    assert number_lines("".join(lines)) == lines


def test_lines_of_a_search_trace_are_its_rows() -> None:
    for trace in solver_traces(20):
        assert number_lines(trace.text) == tuple(trace.text.splitlines(keepends=True))


def test_long_formulas_are_none() -> None:
    inside = "It is. So be it. " * (MAX_FORMULA // 10)
    assert len(number_lines(f"\\[ {inside} \\] $$ {inside} $$")) > 500


HOSTILE = (
    *(
        '."',
        ".",
        '"',
        "a",
        "\n \t",
        "a. ",
        "$",
        "$a ",
        "\\[",
        "\\(a",
        "\\begin{a}",
        "\\end{b}\\begin{b}",
        "`",
        "\n```\n",
    ),
    *("! ", "1. ", "A. ", "e.g. ", "。", "\\", "\r", " ", ". \n", "$$x$$ ", ".)", "?*", "~~~\n```\n"),
)


def test_numbering_a_hostile_text_is_linear() -> None:
    """These take hundredths of a second; minutes if it were quadratic."""
    for piece in HOSTILE:
        text = piece * (200_000 // len(piece))
        started = time.thread_time()
        assert "".join(number_lines(f".{text}x")) == f".{text}x"
        assert time.thread_time() - started < 1, piece


released = pytest.mark.skipif(
    not os.environ.get("SPRINT_RELEASED_DIR"), reason="SPRINT_RELEASED_DIR names no folder of the released data"
)


@released
def test_lines_of_all_released_runs_give_them_back() -> None:
    data = find()
    runs = [*data.rft(), *data.rft_control()]
    assert len(runs) == 998
    for run in runs:
        lines = number_lines(run.text)
        assert "".join(lines) == run.text
        assert len(lines) > 5


# --- steps ----------------------------------------------------------------------------

LINES = ("think\n", "do\n", "done\n", "remark\n", "so\n")
GOOD = (Step("a", plan=(1,), prompt="do it", execution=(2, 3), comment=(4,)), Step("end", plan=(5,), final=True))


def test_steps_cover_every_line_once() -> None:
    check_steps(GOOD, LINES)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((replace(GOOD[0], comment=()), GOOD[1]), "line 4 is in no step"),
        ((replace(GOOD[0], comment=(3, 4)), GOOD[1]), "line 3 is in 2 places"),
        ((replace(GOOD[0], comment=(4, 6)), GOOD[1]), "line 6 does not exist"),
        ((replace(GOOD[0], plan=(2,), execution=(1, 3)), GOOD[1]), "not in order"),
        ((replace(GOOD[0], prompt=" "), GOOD[1]), "has an execution but no prompt"),
        ((replace(GOOD[0], final=True), GOOD[1]), "gives the final answer but is not the last"),
        ((Step("a", plan=(5,)), replace(GOOD[0])), "not in the order of their first lines"),
        ((Step("all", plan=(1, 2, 3, 4, 5), final=True),), "no step"),
        ((*GOOD[:1], Step("nothing"), GOOD[1]), "step 2: has no lines"),
        ((), "no step"),
    ],
)
def test_steps_that_are_refused(steps: tuple[Step, ...], reason: str) -> None:
    with pytest.raises(AnnotationError, match=reason):
        check_steps(steps, LINES)


# --- graph ----------------------------------------------------------------------------


def test_edges_go_from_parents_to_children() -> None:
    graph = dependency_graph(3, {1: [], 2: [1], 3: [1, 2]})
    assert sorted(graph.edges) == [(1, 2), (1, 3), (2, 3)]


def test_reduced_leaves_out_what_follows() -> None:
    graph = dependency_graph(4, {1: [], 2: [1], 3: [1, 2], 4: [1, 2, 3]})
    assert sorted(reduced(graph).edges) == [(1, 2), (2, 3), (3, 4)]
    assert len(graph.edges) == 6


@given(st.data())
@settings(max_examples=150)
def test_reduced_changes_no_stage(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    executes = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    parents = {
        n: data.draw(st.lists(st.integers(1, max(1, n - 1)), unique=True)) if n > 1 else [] for n in range(1, count + 1)
    }
    steps = [Step("s", (n,), "p" * runs, (n,) * runs) for n, runs in enumerate(executes, 1)]
    graph = dependency_graph(count, parents)
    cap = data.draw(st.none() | st.integers(1, 3))
    assert assign_stages(steps, reduced(graph), cap) == assign_stages(steps, graph, cap)
    assert nx.transitive_closure_dag(reduced(graph)).edges == nx.transitive_closure_dag(graph).edges


@pytest.mark.parametrize(
    ("parents", "reason"),
    [
        ({1: [], 2: [1]}, "dependencies of step 3 are missing"),
        ({1: [], 2: [], 3: [], 4: []}, "step 4 does not exist"),
        ({1: [], 2: [], 3: [9]}, "needs step 9, which does not exist"),
        ({1: [2], 2: [1], 3: []}, "step 1 needs step 2, which does not come before it"),
        ({1: [], 2: [2], 3: []}, "step 2 needs step 2, which does not come before it"),
    ],
)
def test_graphs_that_are_refused(parents: dict[int, list[int]], reason: str) -> None:
    with pytest.raises(AnnotationError, match=reason):
        dependency_graph(3, parents)


# --- packing --------------------------------------------------------------------------


def trace_of(
    executions: list[int], comments: list[int] | None = None, tasks: list[str] | None = None
) -> tuple[tuple[str, ...], list[Step]]:
    """Lines and steps: step n thinks one line, executes so many lines and remarks so many; then the answer."""
    lines: list[str] = []
    steps: list[Step] = []

    def add(kind: str, number: int, count: int) -> tuple[int, ...]:
        lines.extend(f"{kind} {number} line {k}.\n" for k in range(count))
        return tuple(range(len(lines) - count + 1, len(lines) + 1))

    for number, count in enumerate(executions, 1):
        plan = add("idea", number, 1)
        task = tasks[number - 1] if tasks else f"task {number}"
        execution = add("work", number, count)
        comment = add("remark", number, (comments or [0] * len(executions))[number - 1])
        steps.append(Step(f"step {number}", plan, task if count else "", execution, comment))
    steps.append(Step("answer", add("answer", 0, 1), final=True))
    return tuple(lines), steps


def packed(
    executions: list[int],
    parents: dict[int, list[int]],
    *,
    cap: int | None = None,
    comments: list[int] | None = None,
    tasks: list[str] | None = None,
    rules: Rules = TIDY,
) -> Packing:
    lines, steps = trace_of(executions, comments, tasks)
    check_steps(steps, lines)
    everyone = {n: parents.get(n, []) for n in range(1, len(steps))} | {len(steps): list(range(1, len(steps)))}
    return pack(QUESTION, lines, steps, dependency_graph(len(steps), everyone), cap=cap, rules=rules)


def test_a_chain_takes_a_stage_a_step() -> None:
    packing = packed([3, 3, 3], {2: [1], 3: [2]})
    assert packing.stage_of == {1: 1, 2: 2, 3: 3}
    assert packing.ratio == 1


def test_a_diamond_takes_three_stages() -> None:
    packing = packed([3, 3, 3, 3], {2: [1], 3: [1], 4: [2, 3]})
    assert packing.stage_of == {1: 1, 2: 2, 3: 2, 4: 3}
    assert packing.trajectory.render() == (
        "What now?\n"
        "<Plan_1>\nidea 1 line 0.\n<prompt_1.1>task 1</prompt_1.1>\n</Plan_1>\n"
        "<Execution_1>\n"
        "<execution_1.1>\nwork 1 line 0.\nwork 1 line 1.\nwork 1 line 2.\n</execution_1.1>\n</Execution_1>\n"
        "<Plan_2>\nBased on execution_1.1:\nidea 2 line 0.\n<prompt_2.1>task 2</prompt_2.1>\n-----\n"
        "Based on execution_1.1:\nidea 3 line 0.\n<prompt_2.2>task 3</prompt_2.2>\n</Plan_2>\n"
        "<Execution_2>\n<execution_2.1>\nwork 2 line 0.\nwork 2 line 1.\nwork 2 line 2.\n</execution_2.1>\n"
        "<execution_2.2>\nwork 3 line 0.\nwork 3 line 1.\nwork 3 line 2.\n</execution_2.2>\n</Execution_2>\n"
        "<Plan_3>\nBased on execution_2.1, execution_2.2:\nidea 4 line 0.\n<prompt_3.1>task 4</prompt_3.1>\n</Plan_3>\n"
        "<Execution_3>\n"
        "<execution_3.1>\nwork 4 line 0.\nwork 4 line 1.\nwork 4 line 2.\n</execution_3.1>\n</Execution_3>\n"
        "<Final_answer>\nanswer 0 line 0.\n</Final_answer>\n"
    )


def test_a_child_shares_the_stage_of_a_parent_that_only_plans() -> None:
    packing = packed([0, 3], {2: [1]})
    assert packing.stage_of == {1: 1, 2: 1}
    assert packing.trajectory.stages[0].plan[0] == "idea 1 line 0.\n-----\nidea 2 line 0.\n"


def test_short_executions_are_folded_into_their_plans() -> None:
    packing = packed([2, 3], {2: [1]})
    assert packing.folded == (1,)
    assert packing.stage_of == {1: 1, 2: 1}  # the first step only plans now
    assert "idea 1 line 0.\nwork 1 line 0.\nwork 1 line 1.\n" in packing.trajectory.render()
    assert "task 1" not in packing.trajectory.render()


def test_what_does_not_fit_moves_on_with_its_children() -> None:
    parents = {4: [3], 5: [1]}
    assert packed([3] * 5, parents).stage_of == {1: 1, 2: 1, 3: 1, 4: 2, 5: 2}
    assert packed([3] * 5, parents, cap=2).stage_of == {1: 1, 2: 1, 3: 2, 4: 3, 5: 2}
    with pytest.raises(ValueError, match="cap is 0"):
        packed([3], {}, cap=0)


def test_comments_open_the_next_plan_or_the_answer() -> None:
    packing = packed([3, 3], {2: [1]}, comments=[1, 1], rules=PAPER)
    first, second = packing.trajectory.stages
    assert "remark" not in str(first)
    assert second.plan[0] == (
        "Based on execution_1.1:\nremark 1 line 0.\n-----\nBased on execution_1.1:\nidea 2 line 0.\n"
    )
    assert packing.trajectory.final == "Based on execution_2.1:\nremark 2 line 0.\nanswer 0 line 0.\n"


def test_comments_are_carried_to_the_first_plan_that_rests_on_them() -> None:
    packing = packed([3, 3, 3, 0, 3], {3: [1], 4: [1], 5: [2, 3]}, comments=[1, 1, 1, 1, 2])
    assert packing.stage_of == {1: 1, 2: 1, 3: 2, 4: 2, 5: 3}
    _, second, third = packing.trajectory.stages
    assert second.plan == (
        "Based on execution_1.1:\nremark 1 line 0.\nidea 3 line 0.\n",
        Prompt(2, 1, "task 3"),
        "\n-----\nBased on execution_1.1:\nidea 4 line 0.\nremark 4 line 0.\n",
    )
    assert third.plan[0] == (
        "Based on execution_1.2, execution_2.1:\nremark 2 line 0.\nremark 3 line 0.\nidea 5 line 0.\n"
    )
    answer = "Based on execution_3.1:\nremark 5 line 0.\nremark 5 line 1.\nanswer 0 line 0.\n"
    assert packing.trajectory.final == answer
    assert packing.changes == (
        "step 1: remarks carried to the plan of step 3, 1 line",
        "step 2: remarks carried to the plan of step 5, 1 line",
        "step 3: remarks carried to the plan of step 5, 1 line",
        "step 5: remarks carried to the final answer, 2 lines",
    )


def test_comments_that_no_plan_rests_on_open_the_next_one() -> None:
    packing = packed([3, 3, 3], {3: [1]}, comments=[0, 1, 0])
    assert packing.trajectory.stages[1].plan[0] == (
        "Based on execution_1.2:\nremark 2 line 0.\n-----\nBased on execution_1.1:\nidea 3 line 0.\n"
    )
    assert packing.changes == ("step 2: remarks carried to the plan of stage 2, 1 line",)


def test_based_on_leaves_out_what_went_into_another_result() -> None:
    def based(*args: Any) -> list[str]:
        return [line for line in packed(*args).trajectory.render().splitlines() if line.startswith("Based on")]

    assert based([3, 3, 3], {2: [1], 3: [1, 2]}) == ["Based on execution_1.1:", "Based on execution_2.1:"]
    assert based([3, 0, 3, 3], {2: [1], 3: [2], 4: [1, 3]})[1:] == ["Based on execution_2.1:"]  # through a plan, too
    needed = ["Based on execution_1.1:"] * 2  # the plan between them has no result that could stand for it
    assert based([3, 0, 3], {2: [1], 3: [1, 2]}) == needed
    assert packed([3, 0, 3], {2: [1], 3: [1, 2]}).stage_of == {1: 1, 2: 2, 3: 2}


def test_equal_tasks_of_a_stage_have_one_executor() -> None:
    tasks = ["find  it", "do that", "find it ", "find it"]
    packing = packed([3, 3, 4, 3, 3], {4: [2], 5: [1, 3]}, tasks=[*tasks, "end"], comments=[0, 0, 1, 0, 0])
    first, second = packing.trajectory.stages
    assert [prompt.text for prompt in first.prompts] == ["find  it", "do that"]
    assert [execution.text.split("\n")[0] for execution in first.executions] == ["work 1 line 0.", "work 2 line 0."]
    assert first.plan[-1] == "\n-----\nidea 3 line 0.\n"
    assert second.plan[2] == "\n-----\nBased on execution_1.1:\nremark 3 line 0.\nidea 5 line 0.\n"
    assert packing.step_of == {(1, 1): 1, (1, 2): 2, (2, 1): 4, (2, 2): 5}
    assert packing.changes[0] == ("step 3: merged with step 1, the same task in stage 1; 4 lines of execution left out")
    assert len(packed([3, 3], {}, tasks=["a", "a"], rules=PAPER).trajectory.stages[0].prompts) == 2


def test_a_last_stage_without_prompts_becomes_part_of_the_answer() -> None:
    packing = packed([3, 3, 0, 2, 3], {3: [1], 4: [2]}, comments=[1, 0, 1, 0, 0])
    assert packing.stage_of == {1: 1, 2: 1, 5: 1}
    assert len(packing.trajectory.stages) == 1
    assert packing.trajectory.final == (
        "Based on execution_1.1:\nremark 1 line 0.\nidea 3 line 0.\nremark 3 line 0.\n"
        "Based on execution_1.2:\nidea 4 line 0.\nwork 4 line 0.\nwork 4 line 1.\nanswer 0 line 0.\n"
    )
    assert packing.changes == (
        "step 4: folded, 2 lines",
        "step 1: remarks carried to the plan of step 3, 1 line",
        "stage 2: merged into the final answer, it had no prompt; steps 3, 4",
    )
    assert packed([3, 0], {2: [1]}, rules=PAPER).stage_of == {1: 1, 2: 2}


def test_nothing_to_execute_is_refused() -> None:
    with pytest.raises(AnnotationError, match="no step has an execution"):
        packed([0, 2], {2: [1]})
    assert len(packed([0, 2], {2: [1]}, rules=PAPER).trajectory.stages) == 1


def test_what_is_moved_for_room_is_reported() -> None:
    assert packed([3] * 3, {3: [2]}, cap=1).changes == (
        "step 2: stage 2 instead of 1, because of the cap of 1",
        "step 3: stage 3 instead of 2, because of the cap of 1",
    )
    assert packed([3] * 3, {}, cap=3).changes == ()


def test_other_rules_fold_more_and_leave_remarks_out() -> None:
    rules = Rules(fold_below=4, comments=False)
    packing = packed([3, 4], {2: [1]}, comments=[1, 1], rules=rules)
    assert packing.folded == (1,)
    assert packing.stage_of == {1: 1, 2: 1}
    assert "remark" not in packing.trajectory.render()
    assert (packing.ratio, packing.width) == (2, 1)


def test_joined_steps_are_one_line_of_thought() -> None:
    """Dashes stand where a step of the trace is left out of a plan; what a plan rests on is said when it changes."""
    parents = {2: [1], 3: [1], 5: [1], 6: [3], 7: [3], 8: [5], 9: [1]}
    packing = packed([3, 0, 3, 3, 0, 0, 3, 0, 0], parents, rules=Rules(joined=True))
    assert packing.stage_of == {1: 1, 2: 2, 3: 2, 4: 1, 5: 2, 6: 3, 7: 3, 8: 2, 9: 2}
    plans = ["".join(part if isinstance(part, str) else "@\n" for part in s.plan) for s in packing.trajectory.stages]
    assert plans == [
        "idea 1 line 0.\n@\n\n-----\nidea 4 line 0.\n@\n\n",
        "Based on execution_1.1:\nidea 2 line 0.\nidea 3 line 0.\n@\n\n-----\nidea 5 line 0.\n"
        "-----\nidea 8 line 0.\nidea 9 line 0.\n",
        "Based on execution_2.1:\nidea 6 line 0.\nidea 7 line 0.\n@\n\n",
    ]


def test_the_answer_may_come_from_elsewhere() -> None:
    lines, steps = trace_of([3, 3])
    graph = dependency_graph(2, {1: [], 2: []})
    assert pack(QUESTION, lines, steps[:2], graph, answer="42\n").trajectory.final == "42\n"
    with pytest.raises(AnnotationError, match="missing_final_answer"):
        pack(QUESTION, lines, steps[:2], graph)


def test_the_tags_around_a_thought_are_not_packed() -> None:
    lines = ("Do <think>it.\n", "a\n", "b\n", "c</think>d\n", "</think>\n\n", "It is 5.\n")
    steps = (Step("a", plan=(1,), prompt="Do <think>it.", execution=(2, 3, 4)), Step("end", plan=(5, 6), final=True))
    graph = dependency_graph(2, {1: [], 2: [1]})
    packing = pack("q\n", lines, steps, graph)
    assert packing.trajectory.final == "It is 5.\n"
    assert packing.trajectory.stages[0].executions[0].text == "a\nb\nc\nd\n"
    assert [prompt.text for prompt in packing.trajectory.stages[0].prompts] == ["Do it."]
    assert packing.changes == tuple(
        f"line {k}: {tag} left out" for k, tag in ((1, "<think>"), (4, "</think>"), (5, "</think>"))
    )
    paper = pack("q\n", lines, steps, graph, rules=PAPER)
    assert paper.trajectory.final == "</think>\n\nIt is 5.\n"
    assert not paper.changes


def test_a_trace_with_tags_in_it_is_refused() -> None:
    lines, steps = trace_of([3, 3])
    lines = (*lines[:2], "</execution_1.1>\n", *lines[3:])
    graph = dependency_graph(3, {1: [], 2: [], 3: []})
    with pytest.raises(AnnotationError, match="does not read back as written"):
        pack(QUESTION, lines, steps, graph)


@st.composite
def random_packings(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `packed`."""
    count = draw(st.integers(1, 12))
    some = {"min_size": count, "max_size": count}
    return {
        "executions": draw(st.lists(st.integers(0, 5), **some)),
        "comments": draw(st.lists(st.integers(0, 2), **some)),
        "parents": {n: draw(st.lists(st.integers(1, n - 1), unique=True, max_size=3)) for n in range(2, count + 1)},
        "tasks": draw(st.none() | st.lists(st.sampled_from(["a b", "a  b ", "c", "d"]), **some)),
        "cap": draw(st.none() | st.integers(1, 5)),
    }


@given(random_packings(), st.sampled_from([PAPER, TIDY]))
@settings(max_examples=300)
def test_packing_keeps_every_line_and_every_order(case: dict[str, Any], rules: Rules) -> None:
    executions, parents, cap = case["executions"], case["parents"], case["cap"]
    executed = {n for n, count in enumerate(executions, 1) if count >= 3}
    if rules.tidy and not executed:
        with pytest.raises(AnnotationError, match="no step has an execution"):
            packed(**case, rules=rules)
        return
    packing = packed(**case, rules=rules)
    trajectory, text = packing.trajectory, packing.trajectory.render()
    assert parse(text) == trajectory  # which has no defects
    merged = {int(change[5 : change.index(":")]) for change in packing.changes if "merged with" in change}
    assert not merged or (rules.tidy and case["tasks"])
    lines, steps = trace_of(executions, case["comments"], case["tasks"])
    left_out = {line for n in merged for line in steps[n - 1].execution}
    assert [text.count(line) for line in lines] == [number not in left_out for number in range(1, len(lines) + 1)]
    assert all(
        f"{len(steps[n - 1].execution)} lines of execution left out" in " ".join(packing.changes) for n in merged
    )
    assert set(packing.step_of.values()) == executed - merged
    for stage in trajectory.stages:
        assert cap is None or len(stage.prompts) <= cap
        assert not rules.tidy or stage.prompts
        for prompt, execution in zip(stage.prompts, stage.executions, strict=True):
            step = packing.step_of[stage.number, prompt.index]
            assert packing.stage_of[step] == stage.number
            assert execution.text.startswith(f"work {step} ")
            assert not rules.tidy or [p.text.split() for p in stage.prompts].count(prompt.text.split()) == 1
    assert sorted(set(packing.stage_of.values())) == [stage.number for stage in trajectory.stages]
    in_answer = set(range(1, len(executions) + 1)) - set(packing.stage_of)
    assert not in_answer or (rules.tidy and not in_answer & executed)
    last = len(trajectory.stages) + 1
    for child, needed in parents.items():
        for parent in needed:
            distance = packing.stage_of.get(child, last) - packing.stage_of.get(parent, last)
            assert distance >= (1 if parent in executed else 0)


@given(random_packings())
@settings(max_examples=150)
def test_every_needed_result_is_named_or_went_into_one_that_is(case: dict[str, Any]) -> None:
    assume(any(count >= 3 for count in case["executions"]))
    packing = packed(**{**case, "tasks": None})
    steps = {f"execution_{i}.{j}": step for (i, j), step in packing.step_of.items()}
    graph = dependency_graph(len(case["executions"]), {1: [], **case["parents"]})
    text = packing.trajectory.render()
    for child, needed in case["parents"].items():
        passage = re.split(r"-----\n|<", text[: text.index(f"idea {child} ")])[-1]
        said = re.findall(r"Based on ([^\n:]+):", passage)[-1:]
        based = [steps[name] for name in ", ".join(said).split(", ") if name]
        assert set(needed) & set(steps.values()) <= set(based).union(*(nx.ancestors(graph, step) for step in based))


# --- Countdown ------------------------------------------------------------------------


def solver_traces(n: int) -> list[Trace]:
    problems = countdown.Countdown().load(n, split="train", seed=5)
    return [Trace(p.id, p.question, countdown.search_trace(p.meta["numbers"], p.meta["target"])) for p in problems]


def curated(traces: list[Trace], **options: Any) -> Sifted[Packed]:
    return asyncio.run(curate(traces, CountdownAnnotator(), **options))


EXAMPLE = Trace(
    "2-3-4-17=85",
    "Numbers: 2 3 4 17\nTarget: 85\n",
    "Try 2 + 3\n = 5\nLeft 4 5 17 -> 85\n 4 + 5 = 9 ; 9 17 = 26 8 -> 85 no\nNone\n"
    "Try 3 - 2\n = 1\nLeft 1 4 17 -> 85\n 1 + 4 = 5 ; 5 17 = 22 12 85 -> 85 yes\n"
    "Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"
    "Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n",
)


def test_a_search_becomes_parallel_first_moves() -> None:
    report = curated([EXAMPLE])
    assert not report.aside
    assert report.kept[0].annotated.parents == {1: [], 2: [], 3: [2]}
    assert report.kept[0].packing.trajectory.render() == (
        "Numbers: 2 3 4 17\nTarget: 85\n"
        "<Plan_1>\n<prompt_1.1>Try 2 + 3</prompt_1.1>\n<prompt_1.2>Try 3 - 2</prompt_1.2>\n</Plan_1>\n"
        "<Execution_1>\n"
        "<execution_1.1>\nTry 2 + 3\n = 5\nLeft 4 5 17 -> 85\n 4 + 5 = 9 ; 9 17 = 26 8 -> 85 no\nNone\n"
        "</execution_1.1>\n"
        "<execution_1.2>\nTry 3 - 2\n = 1\nLeft 1 4 17 -> 85\n 1 + 4 = 5 ; 5 17 = 22 12 85 -> 85 yes\n"
        "Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n</execution_1.2>\n"
        "</Execution_1>\n"
        "<Final_answer>\nAnswer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n</Final_answer>\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "stage", "reason"),
    [
        ("Try 2 + 3\n", "", "steps", "does not begin with a first move"),
        ("Answer", "Answer 1\nAnswer", "steps", "goes on after its answer"),
        ("Answer", "Answr", "steps", "does not end with its answer"),
        ("Try 3 - 2", "Try 2 + 3", "steps", "tries a first move again"),
        ("Solved 3", "Solved 4", "graph", "no step found the answer"),
        ("None\n", "<Plan_3>\nNone\n", "packing", "does not read back as written: stray_tag"),
    ],
)
def test_traces_without_the_structure_are_set_aside(old: str, new: str, stage: str, reason: str) -> None:
    assert EXAMPLE.text.count(old) == 1
    report = curated([replace(EXAMPLE, text=EXAMPLE.text.replace(old, new))])
    assert not report.kept
    assert [(a.stage, a.reason) for a in report.aside] == [(stage, reason)]


def test_every_solver_trace_is_kept_or_filtered_for_its_ratio() -> None:
    traces = solver_traces(60)
    report = curated(traces, cap=4)
    assert {(a.stage, a.reason) for a in report.aside} == {("filter", "fewer than 1.5 steps a stage")}
    assert len(report.kept) + len(report.aside) == 60
    for item in report.kept:
        assert item.packing.ratio >= 1.5
        tries = item.annotated.trace.text.count("Try ")
        assert sum(len(stage.prompts) for stage in item.packing.trajectory.stages) == tries
        assert len(item.packing.trajectory.stages) == -(-tries // 4)
    assert len(curated(traces, cap=4, min_ratio=1).kept) == 60


@given(st.lists(st.sampled_from(EXAMPLE.text.splitlines(keepends=True)), max_size=14), st.text(max_size=5))
@settings(max_examples=100)
def test_no_trace_raises(lines: list[str], rest: str) -> None:
    report = curated([Trace("t", EXAMPLE.question, "".join(lines) + rest)], cap=2, min_ratio=1)
    assert len(report.kept) + len(report.aside) == 1
    for item in report.kept:
        assert parse(item.packing.trajectory.render()) == item.packing.trajectory


def test_stages_of_curation_one_by_one_give_the_same() -> None:
    traces, annotator = solver_traces(20), CountdownAnnotator()
    steps = asyncio.run(annotate_steps(traces, annotator))
    stored = [Annotated.from_json(json.loads(json.dumps(item.to_json()))) for item in steps.kept]
    assert stored == steps.kept
    with pytest.raises(ValueError, match="run annotate_dependencies first"):
        pack_traces(stored)
    graphs = asyncio.run(annotate_dependencies(stored, annotator))
    stored = [Annotated.from_json(json.loads(json.dumps(item.to_json()))) for item in graphs.kept]
    trajectories = [item.packing.trajectory for item in pack_traces(stored, cap=6).kept]
    assert trajectories == [item.packing.trajectory for item in curated(traces, cap=6).kept]


# --- samples --------------------------------------------------------------------------


class ReplayEngine:
    """Answers each request with the sample that has its context, a few characters at a time."""

    def __init__(self, samples: list[Sample]) -> None:
        self.by_context = {sample.context: sample for sample in samples}
        self.requests: list[str] = []

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        sample = self.by_context[request.prompt]
        assert sample.stop.startswith(request.stop)
        assert not any(stop in sample.completion for stop in request.stop)
        self.requests.append(request.prompt)
        for start in range(0, len(sample.completion), 7):
            await asyncio.sleep(0)
            if on_text:
                on_text(sample.completion[start : start + 7], start // 7 + 1)
        now = time.monotonic()
        return Completion(sample.completion, 1, 0, len(sample.completion), "stop", now, now, now)

    def count_tokens(self, text: str) -> int:
        return len(text)

    async def close(self) -> None:
        pass


def trajectories() -> list[Trajectory]:
    rng = random.Random(0)
    found = [item.packing.trajectory for item in curated(solver_traces(8), cap=3).kept]
    for _ in range(4):
        executions = [rng.choice((0, 2, 3, 4)) for _ in range(7)]
        parents = {n: rng.sample(range(1, n), min(n - 1, rng.randint(0, 2))) for n in range(2, 8)}
        found.append(packed(executions, parents, comments=[rng.randint(0, 1) for _ in range(7)], cap=2).trajectory)
    return found


@pytest.mark.parametrize("dispatch", ["streamed", "after_plan"])
def test_samples_are_exactly_the_calls_of_the_loop(dispatch: str) -> None:
    for trajectory in trajectories():
        samples = sprint_samples(trajectory.question, trajectory, "t")
        engine = ReplayEngine(samples)
        result = asyncio.run(run_loop(engine, trajectory.question, LoopSettings(dispatch=dispatch)))
        assert result.status == "ok"
        assert result.trajectory == trajectory
        assert sorted(engine.requests) == sorted(sample.context for sample in samples)
        assert sorted(call.completion for call in result.calls) == sorted(sample.completion for sample in samples)


def test_no_executor_sees_a_sibling() -> None:
    seen = 0
    for trajectory in trajectories():
        executors = [s for s in sprint_samples(trajectory.question, trajectory, "t") if s.role == "executor"]
        for stage in trajectory.stages:
            mine = [
                s for s in executors if s.context.endswith(tuple(f"<execution_{stage.number}.{j}>\n" for j in range(9)))
            ]
            assert [s.completion for s in mine] == [e.text for e in stage.executions]
            assert not any(f"<Execution_{stage.number}>" in s.context for s in mine)
            seen += len(mine)
    assert seen > 20


def test_planner_contexts_grow() -> None:
    """Each is a prefix of the next, with what the planner wrote in between: training makes one sequence of them."""
    for trajectory in trajectories():
        planner = [s for s in sprint_samples(trajectory.question, trajectory, "t") if s.role == "planner"]
        for before, after in pairwise(planner):
            assert after.context.startswith(before.context + before.completion + before.stop)
        last = planner[-1]
        assert f"{last.context}{last.completion}{last.stop}\n" == trajectory.render()
        assert last.ends
        assert not any(s.ends for s in planner[:-1])


def test_the_end_of_a_narrow_last_plan_is_not_learned() -> None:
    trajectory = curated([EXAMPLE]).kept[0].packing.trajectory
    stops = [s.stop for s in sprint_samples(QUESTION, trajectory, "t", width=3) if s.role == "planner"]
    assert stops == ["", "</Final_answer>"]
    stops = [s.stop for s in sprint_samples(QUESTION, trajectory, "t", width=2) if s.role == "planner"]
    assert stops == ["</Plan_1>", "</Final_answer>"]


def test_the_final_answer_does_not_learn_that_the_last_execution_succeeded() -> None:
    places = []
    for item in curated(solver_traces(40), cap=8).kept:
        trajectory, id_ = item.packing.trajectory, item.annotated.trace.id
        final = sprint_samples(trajectory.question, trajectory, id_, width=8)[-1]
        assert final == sprint_samples(trajectory.question, trajectory, id_, width=8)[-1]
        shown = parse(final.context + final.completion + final.stop)
        assert not shown.defects
        assert shown.stages[:-1] == trajectory.stages[:-1]
        tasks = [
            [(p.text, e.text) for p, e in zip(s.prompts, s.executions, strict=True)]
            for s in (shown.stages[-1], trajectory.stages[-1])
        ]
        assert sorted(tasks[0]) == sorted(tasks[1])
        hits = ["Solved" in execution for _, execution in tasks[0]]
        assert hits.count(True) == 1
        if len(hits) > 2:
            places.append((hits.index(True) + 1) / len(hits))
    assert len(places) > 10
    assert 0.3 < sum(places) / len(places) < 0.8


def test_plans_that_say_more_than_prompts_stay_in_order() -> None:
    trajectory = packed([3, 3, 3], {}).trajectory
    assert sprint_samples(QUESTION, trajectory, "t", width=3) == sprint_samples(QUESTION, trajectory, "t")


def test_samples_are_stored(tmp_path: Any) -> None:
    samples = [*rft_samples(QUESTION, "Try\u2028 it\n", "a"), Sample("c", "d", "executor", "b", "</execution_")]
    assert read_samples(write_samples(tmp_path / "samples.jsonl", samples)) == samples
    assert samples[0] == Sample(QUESTION, "Try\u2028 it\n", "sequential", "a", "", True)
