"""The released curation: reading it, packing it again, and scoring annotations against each other."""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprint_lib.curation import Annotated, Trace
from sprint_lib.curation.agreement import Agreement, annotate, boundary_scores, edge_scores, pooled, scores, summary
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.packing import PAPER, RELEASE
from sprint_lib.curation.replay import (
    COMPARED,
    DEFECTS,
    MAX_CHARACTERS,
    MAX_COMPONENTS,
    MAX_LINES,
    VARIANTS,
    Example,
    differences,
    read_example,
    read_range,
    replay,
    tried,
)
from sprint_lib.curation.rules import CountdownAnnotator
from sprint_lib.curation.steps import AnnotationError, Step
from sprint_lib.released import Curated, find
from sprint_lib.trajectory import parse

# --- a made-up example in the manner of the release -----------------------------------


def component(number: int, header: str, plan: str, execution: str, comment: str = "Lines not found") -> str:
    return (
        f"### Component {number} ({header})\n- **Description:** About {number}.\n- **Plan:** {plan}\n"
        f"- **Prompt:** Do {number}.\n- **Execution:** {execution}\n- **Comment:** {comment}\n\n"
    )


def inline(number: int, plan: str, execution: str) -> str:
    return (
        f"### Component {number}\n<description>\nAbout {number}.\n</description>\n\n<plan>\n{plan}\n</plan>\n\n"
        f"<prompt>\nDo {number}.\n</prompt>\n\n<execution>\n{execution}\n</execution>\n\n\n"
    )


SEPARATION = (
    component(1, "Lines 1-2", "Lines 1-2", "Lines not found")
    + component(2, "Lines 3-7", "Line 3", "Lines 4-7")
    + component(3, "Lines 8-12", "Line 8", "Lines 9-12")
    + component(4, "Lines 13-16", "Line 13", "Lines 14-16")
    + component(5, "Lines 17-21", "Lines not found", "Lines 17 -- 20", "Line 21")
    + component(6, "Lines 22-26", "Line 23", "Lines 23-26")
)
INLINE = (
    inline(1, "We want the sum. It has two parts.", "None")
    + inline(2, "Take the first.", "One.\n\nTwo. Three.\n\nFour.")
    + inline(3, "Take the second.", "Five.\nSix.\nSeven.\nEight.")
    + inline(4, "Add them.", "Nine. Ten. Eleven.")
    + inline(5, "None", "A. B. C. D.")
    + inline(6, "Is it so?", "Is it so?\nYes.\nYes.\nYes.")
)
PARENTS = {1: [], 2: [1], 3: [1], 4: [2], 5: [2, 4], 6: [3]}
PACKED = """<Question>
How much?
</Question>

<Plan_1>
We want the sum. It has two parts.

Take the first.

<prompt_1.1> Do 2. </prompt_1.1>

Take the second.

<prompt_1.2> Do 3. </prompt_1.2>
</Plan_1>

<Execution_1>
<execution_1.1>
One.

Two. Three.

Four.
</execution_1.1>

<execution_1.2>
Five.
Six.
Seven.
Eight.
</execution_1.2>
</Execution_1>

<Plan_2>
Based on execution_1.1:
Add them.
Nine. Ten. Eleven.

<prompt_2.1> Do 5. </prompt_2.1>

Based on execution_1.2:
Is it so?

<prompt_2.2> Do 6. </prompt_2.2>
</Plan_2>

<Execution_2>
<execution_2.1>
A. B. C. D.
</execution_2.1>

<execution_2.2>
Is it so?
Yes.
Yes.
Yes.
</execution_2.2>
</Execution_2>

<Final_answer>
Therefore 42.
</Final_answer>"""
CURATED = Curated(9, SEPARATION, INLINE, PARENTS, PACKED)


NONE: dict[str, list[int]] = {kind: [] for kind in COMPARED}  # no differences


def kinds(curated: Curated) -> Counter[str]:
    return Counter(defect.kind for defect in read_example(curated).defects)


def test_steps_and_lines_are_read() -> None:
    example = read_example(CURATED)
    assert example.steps[1] == Step("About 2.", (3,), "Do 2.", (4, 5, 6, 7))
    assert example.steps[4] == Step("About 5.", (), "Do 5.", (17, 18, 19, 20), (21,))
    assert example.parents == PARENTS
    assert len(example.lines) == 26
    assert example.lines[:7] == (
        *("We want the sum. ", "It has two parts.\n", "Take the first.\n"),
        *("One.\n\n", "Two. ", "Three.\n\n", "Four.\n"),
    )
    assert [n for n, line in enumerate(example.lines, 1) if not line] == [21, 22]  # a remark, and in no component
    assert example.released == parse(PACKED)


def test_what_is_odd_is_named() -> None:
    example = read_example(CURATED)
    notes = [(defect.kind, defect.note) for defect in example.defects]
    assert notes == [
        ("lost_comment", "component 5: comment"),
        ("wrong_header", "component 6: (Lines 22-26) for 23-26"),
        ("shared_lines", "component 6: 1 line from 23 to 23"),
        ("uncovered_lines", "component 6: 1 line from 22 to 22"),
    ]
    assert SEPARATION[example.defects[-1].at :].startswith("### Component 6")


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("### Component 3", "### Component 7", "wrong_number"),
        ("- **Prompt:** Do 3.\n", "", "missing_field"),
        ("- **Prompt:** Do 3.\n", "- **Prompt:** Do 3.\n- **Prompt:** Or 4.\n", "doubled_field"),
        ("- **Plan:** Line 8", "- **Plan:** the first ones", "odd_range"),
        ("- **Plan:** Line 8", f"- **Plan:** Lines 8-{MAX_LINES + 1}", "odd_range"),
        ("- **Plan:** Line 8", "- **Plan:** Line 2", "out_of_order"),
        ("- **Execution:** Lines 9-12", "- **Execution:** Lines 9-11", "line_count"),
        ("- **Execution:** Lines 9-12", "- **Execution:** None", "text_without_lines"),
        ("- **Plan:** Line 8", "- **Plan:** Line 7", "other_text"),
        ("- **Plan:** Line 8\n- **Prompt:** Do 3.\n- **Execution:** Lines 9-12", "", "no_lines"),
        ("### Component 3", "### Comment 3", "doubled_field"),
    ],
)
def test_defects_of_the_annotator(old: str, new: str, kind: str) -> None:
    assert SEPARATION.count(old) == 1
    assert kind in kinds(replace(CURATED, separation=SEPARATION.replace(old, new))) - kinds(CURATED)
    assert kind in DEFECTS


def test_defects_of_the_text_and_of_the_parents() -> None:
    assert kinds(replace(CURATED, inline=""))["missing_text"] == 10
    assert kinds(replace(CURATED, separation="nothing"))["no_component"] == 1
    example = read_example(replace(CURATED, parents={2: [9, 1, 1], 3: [4], 4: [4], 7: [1]}))
    found = Counter(defect.kind for defect in example.defects) - kinds(CURATED)
    assert found == {"unknown_step": 2, "backward_edge": 2, "missing_parents": 3}
    assert example.parents == {1: [], 2: [1], 3: [], 4: [], 5: [], 6: []}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Lines 1-3", (1, 2, 3)),
        ("Line 18", (18,)),
        ("Lines 5", (5,)),
        ("lines 3, 5 to 6 and 8", (3, 5, 6, 8)),
        ("Lines 2–4", (2, 3, 4)),
        ("Lines not found", ()),
        ("None", ()),
        ("", ()),
        ("Lines 3-1", None),
        ("Line 0", None),
        ("Lines 1-999999", None),
        ("Line 12345678901", None),
        ("all of them", None),
    ],
)
def test_ranges(text: str, lines: tuple[int, ...] | None) -> None:
    assert read_range(text) == lines


def test_reading_is_bounded() -> None:
    flood = "".join(component(n, "Lines 1-2", "Lines 1-20000", "Lines 1-20000") for n in range(1, 400))
    example = read_example(Curated(0, flood, INLINE, {}, None))
    assert len(example.steps) == MAX_COMPONENTS
    assert sum(len(step.lines) for step in example.steps) <= 3 * MAX_LINES
    assert {"too_many", "odd_range"} <= {defect.kind for defect in example.defects}
    example = read_example(Curated(0, SEPARATION + "x" * MAX_CHARACTERS, "", {}, None))
    assert "too_long" in {defect.kind for defect in example.defects}


def test_no_text_raises_or_takes_long() -> None:
    fragments = [*SEPARATION.split("\n"), *INLINE.split("\n"), "Lines 1-20000,", "- **Plan", " " * 50, "\n"]

    def read(text: str) -> None:
        example = read_example(Curated(0, text, text, PARENTS, text))
        assert all(defect.kind in DEFECTS for defect in example.defects)
        with suppress(AnnotationError):
            replay(example)

    assert hostile.slowest(read, hostile.strings(400, 7, [SEPARATION, INLINE], fragments)) < 1
    assert hostile.slowest(read, iter(["- **Plan" + " " * 200_000, "### Component 1" + " " * 200_000 + "x"])) < 1


# --- packing it again -----------------------------------------------------------------


def test_the_made_up_release_is_packed_as_its_authors_would() -> None:
    example = read_example(CURATED)
    packing = replay(example)
    assert example.released is not None
    assert differences(packing.trajectory, example.released) == NONE
    assert packing.stage_of == {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 2}
    assert packing.folded == (4,)
    assert (packing.ratio, packing.width) == (3, 2)
    assert packing.trajectory.final == "Therefore 42.\n"


def test_other_rules_are_told_from_the_release() -> None:
    example = read_example(CURATED)
    assert example.released is not None
    three = differences(replay(example, replace(RELEASE, fold_below=3)).trajectory, example.released)
    assert three["stages"] == [3]
    assert three["prompts"] == [2]
    paper = differences(replay(example, PAPER).trajectory, example.released)
    assert paper["plans"] == [1, 2]
    ending = replay(example, last_is_final=True).trajectory
    assert ending.final == "Is it so?\nIs it so?\nYes.\nYes.\nYes.\n"
    last = differences(ending, example.released)
    assert last == {"stages": [], "prompts": [2], "references": [2], "plans": [2], "executions": [2]}
    comments = differences(replay(example, replace(RELEASE, comments=True)).trajectory, example.released)
    assert comments == NONE  # the only remark is empty, and it follows the last stage


def test_rules_are_tried_one_at_a_time() -> None:
    example = read_example(CURATED)
    rows = {row["rule"]: row for row in tried([example, replace(example, released=None)])}
    assert list(rows) == list(VARIANTS)
    first, paper, *_ = rows.values()
    assert {key: first[key] for key in ("exact", "n", "differs", "of", *COMPARED)} == {
        **{"exact": 1, "n": 1, "differs": 0, "of": 2},
        **dict.fromkeys(COMPARED, 0),
    }
    assert (paper["exact"], paper["differs"], paper["stages"], paper["prompts"]) == (0, 2, 1, 1)  # stages 2 and 3


def test_without_steps_there_is_nothing_to_replay() -> None:
    with pytest.raises(AnnotationError, match="released 3: no step to pack"):
        replay(read_example(Curated(3, "", "", {}, None)))


# --- agreement ------------------------------------------------------------------------


def annotated(starts: list[int], parents: dict[int, list[int]], lines: int) -> Annotated:
    ends = [*starts[1:], lines + 1]
    steps = tuple(Step("s", tuple(range(a, b))) for a, b in zip(starts, ends, strict=True))
    return Annotated(Trace("t", "", ""), steps, parents)


REFERENCE = annotated([1, 5, 9, 13], {1: [], 2: [1], 3: [1], 4: [2, 3]}, 16)


def test_boundaries_by_hand() -> None:
    other = annotated([1, 5, 8, 13, 15], {n: [] for n in range(1, 6)}, 16)
    score = boundary_scores(REFERENCE, other)
    assert score == Agreement(hits=2, found=4, wanted=3)


def test_edges_by_hand() -> None:
    chain = replace(REFERENCE, parents={1: [], 2: [1], 3: [2], 4: [3]})
    assert edge_scores(REFERENCE, chain) == Agreement(hits=2, found=3, wanted=4)
    assert edge_scores(REFERENCE, chain, "closure") == Agreement(hits=5, found=6, wanted=5)
    shortcut = replace(REFERENCE, parents={1: [], 2: [1], 3: [1], 4: [1, 2, 3]})
    assert edge_scores(REFERENCE, shortcut) == Agreement(hits=4, found=5, wanted=4)


def test_all_scores_of_several_traces() -> None:
    chain = replace(REFERENCE, parents={1: [], 2: [1], 3: [2], 4: [3]})
    assert scores([REFERENCE, REFERENCE], [REFERENCE, chain]) == {
        "boundaries": [Agreement(3, 3, 3)] * 2,
        "edges": [Agreement(4, 4, 4), Agreement(2, 3, 4)],
        "order": [Agreement(5, 5, 5), Agreement(5, 6, 5)],
    }
    with pytest.raises(ValueError, match="shorter"):
        scores([REFERENCE], [])


def test_edges_between_different_steps_go_by_shared_lines() -> None:
    """Steps 1-3, 4-6 and 7-16 stand for 1, 2 (two of its lines) and 3 (as many as 4, but first)."""
    other = annotated([1, 4, 7], {1: [], 2: [1], 3: [2]}, 16)
    assert edge_scores(REFERENCE, other) == Agreement(hits=1, found=2, wanted=4)
    halves = annotated([1, 3], {1: [], 2: [1]}, 4)  # both inside the first step
    assert edge_scores(REFERENCE, halves) == Agreement(hits=0, found=0, wanted=4)
    beyond = annotated([1, 17], {1: [], 2: [1]}, 20)  # no line in common
    assert edge_scores(REFERENCE, beyond) == Agreement(hits=0, found=1, wanted=4)


def test_nothing_gives_no_number_and_no_hits_give_zero() -> None:
    nothing = Annotated(Trace("t", "", ""), (), {})
    for score in (boundary_scores, edge_scores):
        pairs = ((REFERENCE, nothing), (nothing, REFERENCE), (nothing, nothing))
        missed, invented, neither = (
            {name: estimate.value for name, estimate in pooled([score(*pair)]).items()} for pair in pairs
        )
        assert math.isnan(missed["precision"])
        assert (missed["recall"], missed["f1"]) == (0, 0)
        assert math.isnan(invented["recall"])
        assert (invented["precision"], invented["f1"]) == (0, 0)
        assert math.isnan(neither["f1"])


@st.composite
def annotations(draw: st.DrawFn) -> Annotated:
    starts = sorted(draw(st.sets(st.integers(2, 30), max_size=8)))
    parents = {n: sorted(draw(st.sets(st.integers(1, max(1, n - 1)), max_size=3))) for n in range(2, len(starts) + 2)}
    return annotated([1, *starts], {1: [], **parents}, 30)


@given(annotations(), annotations())
@settings(max_examples=100)
def test_scores_are_those_of_sets(one: Annotated, two: Annotated) -> None:
    same = boundary_scores(one, one)
    assert same.hits == same.found == same.wanted == len(one.steps) - 1
    there, back = boundary_scores(one, two), boundary_scores(two, one)
    assert (there.hits, there.found, there.wanted) == (back.hits, back.wanted, back.found)
    for relation in ("edges", "closure"):
        identical = edge_scores(one, one, relation)
        assert identical.hits == identical.found == identical.wanted
        score = edge_scores(one, two, relation)
        assert score.hits <= min(score.found, score.wanted)


def test_traces_are_pooled_by_their_items() -> None:
    found = pooled([Agreement(1, 2, 4), Agreement(3, 3, 4), Agreement(2, 5, 2)])
    assert {name: round(e.value, 6) for name, e in found.items()} == {"precision": 0.6, "recall": 0.6, "f1": 0.6}
    assert all(e.n == 3 and e.low < e.value < e.high for e in found.values())
    row = summary([Agreement(1, 2, 4), Agreement(3, 3, 4), Agreement(2, 5, 2)])
    assert {key: row[key] for key in ("n", "wanted", "found", "hits")} == {"n": 3, "wanted": 10, "found": 10, "hits": 6}
    assert row["f1_low"] == 100 * found["f1"].low < row["f1"] == pytest.approx(60)
    silent = pooled([Agreement(0, 0, 4), Agreement(0, 0, 2)])
    assert math.isnan(silent["precision"].value)
    assert (silent["recall"].value, silent["f1"].value) == (0, 0)
    with pytest.raises(ValueError, match="no problems"):
        pooled([])


def test_an_annotator_reads_the_lines_of_the_reference() -> None:
    search = ("Try 2 + 3\n", " = 5\n", "Solved 2 + 3 = 5\n", "Answer 2 + 3 = 5\n")
    found = asyncio.run(annotate(CountdownAnnotator(), [Example(Trace("t", "", ""), (), {}, search)]))[0]
    assert [step.lines for step in found.steps] == [(1, 2, 3), (4,)]
    assert found.parents == {1: [], 2: [1]}


def test_what_an_annotator_cannot_read_has_no_steps() -> None:
    found = asyncio.run(annotate(CountdownAnnotator(), [Annotated(Trace("t", "", "I want the area."), ())]))
    assert [(item.steps, item.parents) for item in found] == [((), {})]


# --- the release itself ---------------------------------------------------------------

released = pytest.mark.skipif(
    not os.environ.get("SPRINT_RELEASED_DIR"), reason="SPRINT_RELEASED_DIR names no folder of the released data"
)


@released
def test_every_released_trajectory_is_replayed_exactly() -> None:
    examples = [read_example(curated) for curated in find().curated()]
    assert [len(example.steps) for example in examples] == [11, 16, 10, 15, 14, 16]
    packed = [example for example in examples if example.released]
    assert [example.trace.id for example in packed] == ["released 1", "released 2", "released 5"]
    for example in packed:
        assert example.released is not None
        assert not example.released.defects
        assert differences(replay(example).trajectory, example.released) == NONE


@released
def test_the_release_was_filtered_by_executions_a_stage() -> None:
    """Steps a stage, the paper's rule, would have kept one trace more."""
    packings = {example.trace.id: replay(example) for example in map(read_example, find().curated())}
    assert [id_ for id_, p in packings.items() if p.width >= 1.5] == ["released 1", "released 2", "released 5"]
    assert "released 0" in [id_ for id_, p in packings.items() if p.ratio >= 1.5]


@released
def test_defects_of_the_release_are_known() -> None:
    examples = [read_example(curated) for curated in find().curated()]
    found = Counter(defect.kind for example in examples for defect in example.defects)
    assert found == {
        **{"shared_lines": 3, "uncovered_lines": 7, "wrong_header": 8, "lost_comment": 15, "line_count": 16},
    }
    for example in examples:
        dependency_graph(len(example.steps), example.parents or {})
