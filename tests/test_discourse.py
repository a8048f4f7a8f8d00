"""The rule annotator for natural language: markers, parts of a step, prompts, dependencies, and any text at all."""

from __future__ import annotations

import asyncio
import os
import time
from statistics import median

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprint_lib.curation import Annotated, Sifted, Trace, annotate_dependencies, annotate_steps, curate
from sprint_lib.curation.discourse import LEAST, MAX_PARENTS, MAX_PROMPT, USUAL, DiscourseAnnotator, kind
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.samples import sprint_samples
from sprint_lib.trajectory import parse

QUESTION = "A field is 12 m by 35 m. How long is its diagonal?\n"
THOUGHT = """Okay, a field of 12 m by 35 m. The diagonal is wanted.

First, the theorem of Pythagoras. I square both sides. The square of 12 is 144. The square of 35 is 1225. \
They add up to 1369. So that seems right.

Now I should take the root of this sum. It is near 40. And 37 times 37 is 1369. So the diagonal is 37 m. Good.

Alternatively, I can look for a known triple. One has 12 and 35. Its sides have no common factor. The hypotenuse is 37.

Wait, let me check that 37 fits. The square of 37 is 1369. Take away 144. That leaves 1225. It is the square of 35.

So the answer is 37 m.
"""


def annotated(text: str, question: str = QUESTION) -> Annotated:
    found = asyncio.run(annotate_steps([Trace("t", question, text)], DiscourseAnnotator()))
    return asyncio.run(annotate_dependencies(found.kept, DiscourseAnnotator())).kept[0]


def curated(texts: list[str], **options: float) -> Sifted:
    traces = [Trace(str(n), QUESTION, text) for n, text in enumerate(texts)]
    return asyncio.run(curate(traces, DiscourseAnnotator(), **options))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("**Final Answer**\n", "heading"),
        ("## Step 2: the root\n", "heading"),
        ("**Not** all of it is bold.\n", "none"),
        ("Alternatively, use the sines. ", "other"),
        ("Hmm, maybe another way works. ", "other"),
        ("Let me try a different approach. ", "other"),
        ("What if x is odd? ", "other"),
        ("Wait, let me check that. ", "check"),
        ("But I should double-check the sum. ", "check"),
        ("Checking the second one: ", "check"),
        ("2. Take the root.\n", "part"),
        ("- (b) The rest.\n", "part"),
        ("Case 2: x is even. ", "part"),
        ("Similarly, the other side. ", "part"),
        ("Okay, so next I need its root. ", "next"),
        ("Now, x is even. ", "next"),
        ("Wait, that is not it. ", "turn"),
        ("Hmm. ", "turn"),
        ("The sum is 5. ", "none"),
        ("So it is 5. ", "none"),
        ("Nowhere is it odd. ", "none"),
        ("2.5 is the mean. ", "none"),
        ("", "none"),
    ],
)
def test_kinds_of_lines(line: str, expected: str) -> None:
    assert kind(line) == expected


def test_markers_begin_steps() -> None:
    item = annotated(THOUGHT)
    openings = [item.lines[min(step.lines) - 1].split()[0] for step in item.steps]
    assert openings == ["Okay,", "First,", "Now", "Alternatively,", "Wait,", "So"]
    assert [step.final for step in item.steps] == [False] * 5 + [True]


def test_a_step_plans_executes_and_remarks() -> None:
    item = annotated(THOUGHT)
    setup, first, *_ = item.steps
    assert (setup.plan, setup.prompt, setup.execution) == ((1, 2), "", ())
    assert [[item.lines[n - 1].strip() for n in part] for part in (first.plan, first.execution, first.comment)] == [
        ["First, the theorem of Pythagoras."],
        ["I square both sides.", "The square of 12 is 144.", "The square of 35 is 1225.", "They add up to 1369."],
        ["So that seems right."],
    ]
    assert [step.prompt for step in item.steps] == [
        "",
        "The theorem of Pythagoras.",
        "Take the root of this sum.",
        "Look for a known triple.",
        "Check that 37 fits.",
        "",
    ]


def test_a_step_rests_on_the_results_it_uses_or_on_what_its_marker_says() -> None:
    """The triple needs neither square nor root; the check needs the triple's 37 and the squares."""
    assert annotated(THOUGHT).parents == {1: [], 2: [1], 3: [2], 4: [1], 5: [2, 4], 6: [4, 5]}


def test_such_a_trace_is_parallel() -> None:
    report = curated([THOUGHT])
    packing = report.kept[0].packing
    assert packing.stage_of == {1: 1, 2: 1, 3: 2, 4: 1, 5: 2}
    assert packing.ratio == 2.5
    assert "Based on execution_1.1:\nSo that seems right.\n\nNow I should" in packing.trajectory.render()


PARTS = """The sum has three parts.

For the first part, count the odd ones. They are 1, 3 and 5. Each is seen 11 times. The total is 99.

For the second part, count the even ones. They are 2 and 4. Each is seen 13 times. The total is 78.

For the third part, count the rest. There is only 6. It is seen 17 times. The total is 102.

Now add up 99 and 78 and 102. First the small ones. They give 177. With the other it is 279. That is all.

The answer is 279.
"""


def test_parts_do_not_rest_on_each_other_but_their_sum_does() -> None:
    item = annotated(PARTS, "Add them up.")
    assert item.parents == {1: [], 2: [1], 3: [1], 4: [1], 5: [2, 3, 4], 6: [5]}


def test_equations_and_names_link_steps() -> None:
    text = (
        "There are two unknowns.\n\n"
        "First, let r be the radius. The circle is given. Its area is known. So r^2 = 2s. (1)\n\n"
        "Alternatively, take the square. It has four sides. They are equal. So x_1 = s.\n\n"
        "Let me check that in (1) the area fits. It is fine. It is short. It is done.\n\n"
        "Next, use x_1 once more. It is fine. It is short. It is done.\n\n"
        "The answer is s.\n"
    )
    assert annotated(text, "").parents == {1: [], 2: [1], 3: [1], 4: [2], 5: [3, 4], 6: [5]}


def test_links_are_bounded() -> None:
    results = [f"Alternatively, use the rule number {n}. So it goes. The value is {100 + n}." for n in range(20)]
    text = (
        "Begin.\n\n" + "\n\n".join(results) + "\n\nNow add " + ", ".join(str(100 + n) for n in range(20)) + ".\n\nOk.\n"
    )
    item = annotated(text, "")
    assert max(len(parents) for parents in item.parents.values()) <= MAX_PARENTS + 1


def test_markers_inside_a_paragraph_count_less_where_paragraphs_are_seen() -> None:
    text = "It begins. Here. And here. And there. Now this. And that. Now what? Well. It is 5.\n\nThe answer is 5.\n"
    lines = number_lines(text)
    with_layout = asyncio.run(DiscourseAnnotator().steps("", lines))
    without = asyncio.run(DiscourseAnnotator().steps("", [f"{line.strip()}\n" for line in lines]))
    assert len(with_layout) <= len(without)
    assert LEAST["other"] < LEAST["next"] < LEAST["none"]


@pytest.mark.parametrize(
    ("ending", "first"),
    [
        ("It is 5.\nTherefore, the final answer is 5.\n</think>", "Therefore,"),
        ("It is 5.\n</think>\n\nThe sum of both is 5.\nIt is \\boxed{5}.\n", "</think>"),
        ("It is 5.\n**Final Answer**\n\\boxed{5}\n", "**Final"),
        ("It is 5.\nHence \\boxed{5}.\nDone.\n", "Hence"),
        ("It is 5.", "It"),
    ],
)
def test_where_the_answer_begins(ending: str, first: str) -> None:
    text = "We add. Now 2 and 3. Take both. Add them. Be quick. Think of it. It goes. And goes.\n" * 2 + ending
    item = annotated(text)
    assert item.lines[item.steps[-1].plan[0] - 1].split()[0] == first


@pytest.mark.parametrize(
    ("text", "stage", "reason"),
    [
        ("", "steps", "has no words"),
        ("\n \n...\n", "steps", "has no words"),
        ("Just this.", "steps", "nothing comes before the answer"),
        ("One.\nTwo.\n", "packing", "no step has an execution that is long enough for an executor"),
        (THOUGHT.replace("The square of 12", "</Plan_1> The square of 12"), "packing", "does not read back as written"),
    ],
)
def test_what_is_set_aside_and_why(text: str, stage: str, reason: str) -> None:
    report = curated([text])
    assert not report.kept
    assert [aside.stage for aside in report.aside] == [stage]
    assert reason in report.aside[0].reason


def test_longer_traces_have_longer_steps_not_more_of_them() -> None:
    for times in (10, 100, 1_000, 10_000):
        lines = number_lines("Go on.\n" + "**A**\nAlternatively, this.\nIt is so.\n" * times)
        steps = asyncio.run(DiscourseAnnotator().steps("", lines))
        assert min(times, USUAL // 4) <= len(steps) <= USUAL + 2


FRAGMENTS = [
    *("Wait, ", "Alternatively, ", "Let me check ", "First, ", "So ", "1. ", "**Final Answer**\n", "## A\n", "\n\n"),
    *("x = 12", "is 34. ", "5! ", "$a.$ ", "\\[ ", "\\]\n", "```\n", "\\boxed{5}", "</think>", "</Plan_1>", "None\n"),
    *(
        "Based on execution_1.1:\n",
        "<prompt_1.1>",
        "。",
        "\u2028",
        "\r\n",
        "It is so. ",
        "Now 1225 and 77. ",
        "-----\n",
    ),
]


@given(st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=80).map("".join), st.text(max_size=20))
@settings(max_examples=200)
def test_every_text_ends_kept_or_aside(text: str, question: str) -> None:
    report = asyncio.run(curate([Trace("t", question, text)], DiscourseAnnotator(), min_ratio=1))
    assert len(report.kept) + len(report.aside) == 1
    assert all(aside.reason for aside in report.aside)
    for item in report.kept:
        trajectory = item.packing.trajectory
        assert parse(trajectory.render()) == trajectory
        assert all(0 < len(prompt.text) <= MAX_PROMPT for stage in trajectory.stages for prompt in stage.prompts)


def test_hostile_texts_take_no_time() -> None:
    def read(text: str) -> None:
        curated([text])

    assert hostile.slowest(read, hostile.strings(200, 3, [THOUGHT, PARTS], FRAGMENTS)) < 0.5
    long = [
        *("Wait, " * 20_000, "maybe " * 20_000 + ".", "1. " * 40_000, "**" * 60_000, "is 12 " * 20_000),
        *("let me just " * 10_000, "x_1 = " * 20_000, "1,000" * 20_000, "a. " * 40_000, "Hmm\n" * 30_000),
    ]
    assert hostile.slowest(read, iter(long)) < 2


# --- the released runs ----------------------------------------------------------------

released = pytest.mark.skipif(
    not os.environ.get("SPRINT_RELEASED_DIR"), reason="SPRINT_RELEASED_DIR names no folder of the released data"
)


@released
@pytest.mark.slow
def test_released_runs_are_read_in_seconds() -> None:
    """500 real traces from text to samples, the issue's bound being two minutes."""
    from sprint_lib.released import find

    data = find()
    questions = [problem.question for problem in data.problems()]
    traces = [Trace(str(run.index), questions[run.index], run.text) for run in data.rft()]
    started = time.thread_time()
    report = asyncio.run(curate(traces, DiscourseAnnotator()))
    done = [(item.annotated.trace, item.packing.trajectory) for item in report.kept]
    samples = [list(sprint_samples(trace.question, trajectory, trace.id)) for trace, trajectory in done]
    assert time.thread_time() - started < 60
    assert all(len(some) > 2 for some in samples)
    assert not [trajectory for _, trajectory in done if "think>" in trajectory.render()]
    assert all("</think>" in trace.text for trace, _ in done)
    assert len(report.kept) + len(report.aside) == len(traces) == 500
    assert len(report.kept) > 250
    assert 1.5 <= median(item.packing.ratio for item in report.kept) < 5
    assert {aside.stage for aside in report.aside} <= {"steps", "packing", "filter"}
