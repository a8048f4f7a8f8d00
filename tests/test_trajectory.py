"""The text format: parse and render are inverse, every defect is found in its place, nothing is slow or raises."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprint_lib.trajectory import DEFECTS, Execution, Prompt, PromptScanner, Stage, Trajectory, parse

EXAMPLE = """\
Numbers: 2 3 4 17
Target: 85
<Plan_1>
First moves.
<prompt_1.1> 2 + 3</prompt_1.1>
<prompt_1.2> 3 - 2</prompt_1.2>
</Plan_1>
<Execution_1>
<execution_1.1>
Left 4 5 17 -> 85
 4 + 5 = 9 ; 9 17 = 26 8 -> 85 no
None
</execution_1.1>
<execution_1.2>
Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85
</execution_1.2>
</Execution_1>
<Plan_2>
Based on execution_1.2: done.
</Plan_2>
<Final_answer>
Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85
</Final_answer>
"""

_TAG_PIECES = [
    "<",
    "</",
    ">",
    "Plan",
    "prompt",
    "Execution",
    "execution",
    "Final_answer",
    "_1",
    "_2",
    "_1.1",
    "_1.2",
    "_2.1",
]
_TAGS = [
    f"<{slash}{name}{number}>"
    for slash in ("", "/")
    for name, numbers in {
        "Plan": ("", "_1", "_2", "_9", "_x"),
        "Execution": ("", "_1", "_2"),
        "prompt": ("", "_1.1", "_1.2", "_2.1", "_1", "_2.1.1", "_999999.1", "_9999999.1"),
        "execution": ("", "_1.1", "_1.2", "_2.1", "_01.1"),
        "Final_answer": ("", "_1"),
    }.items()
    for number in numbers
]
_WORDS = [
    "a",
    "\n",
    " ",
    "\n\n",
    "None",
    "-----\n",
    "Based on execution_1.1:\n",
    "Based on execution_2.7, execution_3",
    "<think>",
]
FRAGMENTS = [*_TAG_PIECES, *_TAGS, *_WORDS]


# --- inverse on well-formed text --------------------------------------------------------

_bodies = st.lists(
    st.sampled_from(["x", "\n", " ", "<", ">", "<b>", "é", "a < b > c", "</p>", "\t", "-----\n"]), max_size=8
)
_text = _bodies.map("".join)


@st.composite
def _stages(draw: st.DrawFn, number: int) -> Stage:
    plan: list[str | Prompt] = []
    for index in range(1, draw(st.integers(0, 3)) + 1):
        plan += [draw(_text), Prompt(number, index, draw(_text))]
    plan.append(draw(_text))
    executions = [Execution(part.stage, part.index, draw(_text)) for part in plan if isinstance(part, Prompt)]
    return Stage(number, tuple(part for part in plan if part != ""), tuple(executions))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    stages = tuple(draw(_stages(number)) for number in range(1, draw(st.integers(0, 3)) + 1))
    return Trajectory(draw(_text), stages, draw(_text))


@given(trajectories())
def test_parse_gives_back_what_was_rendered(trajectory: Trajectory) -> None:
    assert parse(trajectory.render()) == trajectory


@st.composite
def _well_formed_texts(draw: st.DrawFn) -> str:
    """Canonical text, written out here independently of `render`."""
    text = draw(_text)
    for i in range(1, draw(st.integers(0, 3)) + 1):
        prompts = draw(st.integers(0, 3))
        text += f"<Plan_{i}>\n{draw(_text)}"
        for j in range(1, prompts + 1):
            text += f"<prompt_{i}.{j}>{draw(_text)}</prompt_{i}.{j}>{draw(_text)}"
        text += f"</Plan_{i}>\n"
        if prompts:
            text += f"<Execution_{i}>\n"
            for j in range(1, prompts + 1):
                text += f"<execution_{i}.{j}>\n{draw(_text)}</execution_{i}.{j}>\n"
            text += f"</Execution_{i}>\n"
    return f"{text}<Final_answer>\n{draw(_text)}</Final_answer>\n"


@given(_well_formed_texts())
def test_render_gives_back_what_was_parsed(text: str) -> None:
    found = parse(text)
    assert found.defects == ()
    assert found.render() == text


def test_the_example_is_understood() -> None:
    found = parse(EXAMPLE)
    assert found.defects == ()
    assert found.render() == EXAMPLE
    assert found.question == "Numbers: 2 3 4 17\nTarget: 85\n"
    assert [prompt.text for prompt in found.stages[0].prompts] == [" 2 + 3", " 3 - 2"]
    assert found.stages[0].plan[0] == "First moves.\n"
    assert found.stages[0].executions[1].text == "Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"
    assert found.stages[1] == Stage(2, ("Based on execution_1.2: done.\n",))
    assert found.final == "Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"


def test_blank_lines_between_blocks_and_a_closing_think_tag_are_no_defects() -> None:
    loose = (
        EXAMPLE.replace("</Plan_1>\n", "</Plan_1>\n\n").replace("</execution_1.1>\n", "</execution_1.1>\n \n")
        + "</think>\n"
    )
    assert parse(loose) == parse(EXAMPLE)


def test_json_form() -> None:
    found = json.loads(json.dumps(parse(EXAMPLE.replace("</Plan_2>", "")).to_json()))
    assert found["question"] == "Numbers: 2 3 4 17\nTarget: 85\n"
    assert found["stages"][0]["number"] == 1
    assert found["stages"][0]["plan"][1] == {"prompt": " 2 + 3", "stage": 1, "index": 1}
    assert found["stages"][0]["executions"][0]["index"] == 1
    assert found["final"].startswith("Answer")
    assert found["defects"] == [
        {"kind": "unclosed_plan", "at": EXAMPLE.index("</Plan_2>") + 1, "note": "<Final_answer>"}
    ]


# --- malformed text ---------------------------------------------------------------------

P1 = "<Plan_1>\nx<prompt_1.1> t</prompt_1.1>\n</Plan_1>\n"
E1 = "<Execution_1>\n<execution_1.1>\ny\n</execution_1.1>\n</Execution_1>\n"
F = "<Final_answer>\nz\n</Final_answer>\n"
STAGE = Stage(1, ("x", Prompt(1, 1, " t"), "\n"), (Execution(1, 1, "y\n"),))

# Each text, with the defects it has: kind, and the text that stands in their place.
MALFORMED: dict[str, list[tuple[str, str]]] = {
    "Q\n<Plan>\nx<prompt_1.1> t</prompt_1.1>\n</Plan>\n" + E1 + F: [("bare_tag", "<Plan>"), ("bare_tag", "</Plan>")],
    "Q\n<Plan_1>\nx<prompt> t</prompt>\n</Plan_1>\n" + E1 + F: [("bare_tag", "<prompt>"), ("bare_tag", "</prompt>")],
    "Q\n" + P1 + E1.replace("_1.1", "") + F: [("bare_tag", "<execution>"), ("bare_tag", "</execution>")],
    "Q\n" + P1.replace("x", "<prompt_1.1续>") + E1 + F: [("odd_tag", "<prompt_1.1续>")],
    "Q\n<Plan_1>\n" + P1 + E1 + F: [("doubled_tag", "<Plan_1>\nx")],
    "Q\n" + P1 + "</Plan_1>\n" + E1 + F: [("doubled_tag", "</Plan_1>\n<E")],
    "Q\n" + P1 + "<Execution_1>\n" + E1 + F: [("doubled_tag", "<Execution_1>\n<execution_1.1>")],
    "Q\n" + P1 + E1.replace("y\n", "y\n</execution_1.1>\n") + F: [("doubled_tag", "</execution_1.1>\n</E")],
    "Q\n" + P1 + E1.replace("y", "<execution_1.1>\ny") + F: [("doubled_tag", "<execution_1.1>\ny")],
    "Q\n" + P1 + E1 + "<Final_answer>\n" + F: [("doubled_tag", "<Final_answer>\nz")],
    "Q\n" + P1.replace("x", "x</prompt_1.2>") + E1 + F: [("stray_tag", "</prompt_1.2>")],
    "Q\n" + P1 + E1 + F.replace("z", "z<Plan_2>"): [("stray_tag", "<Plan_2>")],
    "Q</Plan_1>\n" + P1 + E1 + F: [("stray_tag", "</Plan_1>")],
    "Q\n" + P1.replace("</prompt_1.1", "</prompt_1.2") + E1 + F: [("wrong_number", "</prompt_1.2>")],
    "Q\n" + P1 + E1.replace("</execution_1.1", "</execution_1.2") + F: [("wrong_number", "</execution_1.2>")],
    "Q\n" + P1.replace("</Plan_1", "</Plan_2") + E1 + F: [("wrong_number", "</Plan_2>")],
    "Q\n" + P1 + E1 + "<Plan_3>\nw</Plan_3>\n" + F: [("wrong_number", "<Plan_3>")],
    "Q\n" + P1 + E1.replace("y", "y <prompt_1.2> u</prompt_1.2>") + F: [
        ("prompt_in_execution", "<prompt_1.2>"),
        ("prompt_in_execution", "</prompt_1.2>"),
    ],
    "Q\n<Plan_1>\nx</Plan_1>\n<prompt_1.1> t</prompt_1.1>\n" + E1 + F: [("prompt_outside_plan", "<prompt_1.1>")],
    "Q\n" + P1.replace("x", "<execution_1.1>") + E1 + F: [("execution_in_plan", "<execution_1.1>\x00")],
    "Q\n" + P1.replace("x", "w\n\nNone\n\n") + E1 + F: [("none_plan", "None")],
    "Q\n" + P1 + E1 + "<Plan_2>\nBased on execution_1.1:\nNone\n</Plan_2>\n" + F: [("none_plan", "None")],
    "Q\n<Plan_1>\nx</Plan_1>\n<Execution_1>\n</Execution_1>\n" + F: [("nothing_to_execute", "<Execution_1>")],
    "Q\n<Plan_1>\nx</Plan_1>\n<Execution_1>\nThere is no task.\n</Execution_1>\n" + F: [
        ("nothing_to_execute", "<Execution_1>")
    ],
    "Q\n" + P1 + "<Execution_1>\nan answer without its tag\n</Execution_1>\n" + F: [
        ("nothing_to_execute", "<Execution_1>"),
        ("text_outside", "an answer"),
        ("prompt_without_execution", "<prompt_1.1>"),
    ],
    "Q\n<Plan_1>\nx</Plan_1>\n" + E1.replace("<e", "noise <e", 1) + F: [
        ("text_outside", "noise"),
        ("execution_without_prompt", "<execution_1.1>"),
    ],
    "Q\n" + P1 + F: [("prompt_without_execution", "<prompt_1.1>")],
    "Q\n<Plan_1>\nx</Plan_1>\n" + E1 + F: [("execution_without_prompt", "<execution_1.1>")],
    "Q\n" + P1 + E1 + "<Plan_2>\nBased on execution_1.1, execution_1.2: w</Plan_2>\n" + F: [
        ("unknown_reference", "execution_1.2:")
    ],
    "Q\n" + P1.replace("x", "Based on execution_1.1:") + E1 + F: [("unknown_reference", "execution_1.1:")],
    "Q\n" + P1 + E1 + F.replace("z", "Based on execution_2, z"): [("unknown_reference", "execution_2,")],
    "Q\n" + E1 + F: [("missing_plan", "<Execution_1>"), ("execution_without_prompt", "<execution_1.1>")],
    "Q\n" + P1 + "<execution_1.1>\ny\n</execution_1.1>\n</Execution_1>\n" + F: [("missing_block", "<execution_1.1>")],
    "Q\n" + P1 + E1: [("missing_final_answer", "")],
    "": [("missing_final_answer", "")],
    "Q\n" + P1.replace("</Plan_1>\n", "") + E1 + F: [("unclosed_plan", "<Execution_1>")],
    "Q\n<Plan_1>\n<prompt_1.2> s" + P1.removeprefix("<Plan_1>\n") + E1 + F: [("unclosed_prompt", "<prompt_1.2>")],
    "Q\n" + P1 + E1.replace("</Execution_1>\n", "") + F: [("unclosed_block", "<Final_answer>")],
    "Q\n" + P1 + E1.replace("</execution_1.1>\n", "") + F: [("unclosed_execution", "</Execution_1>")],
    "Q\n" + P1 + E1.replace("</execution_1.1>\n", "").replace("</Execution_1>\n", "") + F: [
        ("unclosed_execution", "<Final_answer>"),
        ("unclosed_block", "<Final_answer>"),
    ],
    "Q\n" + P1 + E1 + "<Final_answer>\nz\n": [("unclosed_final_answer", "")],
    "Q\n" + P1 + "noise" + E1 + F: [("text_outside", "noise")],
    "Q\n" + P1 + E1 + F + "and more <Plan_2>": [("text_after_final", "and more")],
}


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: "+".join(kind for kind, _ in MALFORMED[text]))
def test_defects_have_kind_and_place(text: str) -> None:
    found = parse(text)
    expected = [(kind, text.index(here.rstrip("\x00")) if here else len(text)) for kind, here in MALFORMED[text]]
    assert sorted((defect.kind, defect.at) for defect in found.defects) == sorted(expected)


def test_every_kind_of_defect_is_tested() -> None:
    assert {kind for defects in MALFORMED.values() for kind, _ in defects} == set(DEFECTS)


def test_malformed_text_keeps_what_can_be_understood() -> None:
    for text in (
        "Q\n<Plan>\nx<prompt_1.1> t</prompt_1.1>\n</Plan>\n" + E1 + F,
        "Q\n" + P1 + "</Plan_1>\n" + E1 + F,
        "Q\n" + P1.replace("</Plan_1>\n", "") + E1 + F,
        "Q\n" + P1 + E1.replace("</execution_1.1>\n", "") + F,
        "Q\n" + P1 + E1.replace("</execution_1.1>\n", "").replace("</Execution_1>\n", "") + F,
        "Q\n" + P1 + "<execution_1.1>\ny\n</execution_1.1>\n</Execution_1>\n" + F,
        "Q\n" + P1 + "noise" + E1 + F + "more",
    ):
        found = parse(text)
        assert (found.question, found.stages, found.final) == ("Q\n", (STAGE,), "z\n"), text


def test_an_execution_that_quotes_tags_ends_at_its_own_closing_tag() -> None:
    quote = "y <Final_answer> <Plan_7> <execution_1.2> <prompt_1.1> 3</prompt_1.1>\n"
    found = parse("Q\n" + P1 + E1.replace("y\n", quote) + F)
    assert found.stages[0].executions == (Execution(1, 1, quote),)
    assert (len(found.stages), found.final) == (1, "z\n")


def test_an_execution_cut_at_its_limit_ends_where_the_next_begins() -> None:
    cut = "<Execution_1>\n<execution_1.1>\ny<execution_1.2>\nw\n</execution_1.2>\n</Execution_1>\n"
    found = parse("Q\n" + P1 + cut + F)
    assert [execution.text for execution in found.stages[0].executions] == ["y", "w\n"]


def test_a_prompt_cut_at_the_limit_is_text() -> None:
    found = parse("Q\n<Plan_1>\nx<prompt_1.1> t")
    assert found.stages == (Stage(1, ("x<prompt_1.1> t",)),)
    assert [defect.kind for defect in found.defects] == ["unclosed_prompt", "unclosed_plan", "missing_final_answer"]


_soup = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=40).map("".join)


@settings(max_examples=200)
@given(_soup)
def test_rendering_any_text_loses_nothing_that_was_understood(text: str) -> None:
    found = parse(text)
    assert all(defect.kind in DEFECTS and 0 <= defect.at <= len(text) for defect in found.defects)
    assert [defect.at for defect in found.defects] == sorted(defect.at for defect in found.defects)
    assert replace(parse(found.render()), defects=()) == replace(found, defects=())
    json.dumps(found.to_json())


# --- streaming --------------------------------------------------------------------------


def _scan(text: str, cuts: list[int]) -> tuple[PromptScanner, list[Prompt]]:
    scanner, found = PromptScanner(), []
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        found += scanner.feed(text[start:end])
    return scanner, found


_cuts = st.lists(st.integers(0, 10_000), max_size=30)


@given(_well_formed_texts(), _cuts)
def test_a_streamed_text_has_the_prompts_of_the_whole(text: str, cuts: list[int]) -> None:
    scanner, found = _scan(text, cuts)
    assert found == [prompt for stage in parse(text).stages for prompt in stage.prompts]
    assert [
        text[:end].endswith(f"</prompt_{p.stage}.{p.index}>") for end, p in zip(scanner.ends, found, strict=True)
    ] == [True] * len(found)


@settings(max_examples=200)
@given(_soup, _cuts, st.sampled_from(["<Plan_1>\n", "<Plan_2>", "<Plan>", ""]))
def test_a_streamed_plan_has_the_prompts_of_parse_whatever_the_planner_writes(
    text: str, cuts: list[int], head: str
) -> None:
    """The loop stops a planner at the first closing Plan or execution tag, so the text ends there at the latest."""
    text = head + text
    for stop in ("</Plan", "</Execution", "</execution", "<Execution"):
        text = text.partition(stop)[0]
    _, found = _scan(text, cuts)
    assert found == [prompt for stage in parse(text).stages for prompt in stage.prompts]


def test_a_prompt_is_found_at_the_very_character_that_closes_it() -> None:
    scanner = PromptScanner()
    found = {i: prompt for i, character in enumerate(EXAMPLE) for prompt in scanner.feed(character)}
    assert [EXAMPLE[: i + 1].endswith(f"</prompt_1.{p.index}>") for i, p in found.items()] == [True, True]
    assert scanner.ends == [i + 1 for i in found]


# --- time -------------------------------------------------------------------------------

ADVERSARIAL = [
    *_TAGS,
    "<",
    "\n",
    "-",
    "Based on ",
    "Based on execution_1",
    "\n \nNone",
    "<Plan_1>\n" + "<prompt_1.1>" * 3,
    P1 + E1,
]


@pytest.mark.parametrize("piece", ["<execution_1.{}>", "<Plan_{}>", "<Plan_{}>\n<prompt_1.1>", "<prompt_1.{}>"])
def test_time_is_linear_in_tags_that_never_close(piece: str) -> None:
    head = (
        "<Plan_1>\n</Plan_1>\n<Execution_1>\n"
        if "execution" in piece
        else "<Plan_1>\n"
        if "prompt_1.{" in piece
        else ""
    )
    _assert_linear(lambda n: head + "".join(piece.format(i) for i in range(1, n)))


@pytest.mark.parametrize("piece", ADVERSARIAL, ids=repr)
def test_time_is_linear_in_a_repeated_piece(piece: str) -> None:
    _assert_linear(lambda n: "<Plan_1>\n" + piece * n)


def _assert_linear(make: Callable[[int], str]) -> None:
    """Sixteen times the text takes less than sixty times as long; a quadratic parser takes 256 times."""

    def seconds(text: str) -> float:
        start = time.thread_time()
        parse(text)
        return time.thread_time() - start

    short, long = make(250), make(4000)
    fast = max(min(seconds(short) for _ in range(5)), 2e-4)
    assert any(seconds(long) < 60 * fast for _ in range(3))  # a pause of the machine hits once


def test_streaming_is_linear_too() -> None:
    def seconds(n: int) -> float:
        scanner, text = PromptScanner(), "<Plan_1>\n<prompt_1.1>" + "a <b " * n
        start = time.thread_time()
        for character in text:
            scanner.feed(character)
        return time.thread_time() - start

    assert seconds(16_000) < 60 * max(min(seconds(1000) for _ in range(3)), 2e-4)


def test_parsing_reaches_five_megabytes_a_second() -> None:
    body = "So the sum of x and y is 12, which is < 15 and > 3; try the next one then.\n" * 20
    text = "Q\n" + "".join(
        f"<Plan_{i}>\n{body}<prompt_{i}.1> t</prompt_{i}.1>\n</Plan_{i}>\n"
        f"<Execution_{i}>\n<execution_{i}.1>\n{body}</execution_{i}.1>\n</Execution_{i}>\n"
        for i in range(1, 300)
    )

    def seconds() -> float:
        start = time.thread_time()
        parse(text)
        return time.thread_time() - start

    rate = len(text) / min(seconds() for _ in range(3))  # a pause of the machine hits once
    assert rate * hostile.slowness() > 5e6


def _fuzz(n: int) -> None:
    def check(text: str) -> None:
        found = parse(text)
        scanner = PromptScanner()
        for at in range(0, len(text), 97):
            scanner.feed(text[at : at + 97])
        assert all(defect.kind in DEFECTS for defect in found.defects)

    rng = random.Random(1)
    samples = [EXAMPLE, P1 + E1 + F, "".join(rng.choices(FRAGMENTS, k=200)), *MALFORMED]
    assert hostile.slowest(check, hostile.strings(n, 0, samples, FRAGMENTS)) < 0.05 * hostile.slowness()


def test_no_string_raises_or_is_slow() -> None:
    _fuzz(10_000)


@pytest.mark.slow
def test_no_string_raises_or_is_slow_of_a_hundred_thousand() -> None:
    _fuzz(100_000)
