"""The annotator that asks a model, and `sprint curate`, against a scripted server over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import slowest, strings
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Answer, Say, ScriptedServer, Status, Trouble

from sprint_lib import cli
from sprint_lib.chat import Chat, Endpoint, EndpointError, Limits, Sampling
from sprint_lib.curation import Trace, annotate_dependencies, annotate_steps, corpus, curate
from sprint_lib.curation.annotators import get_annotator
from sprint_lib.curation.dataset import DatasetError
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.lines import number_lines
from sprint_lib.curation.llm import PROMPTS, SETTINGS, ModelAnnotator, read_prompts
from sprint_lib.curation.replies import DEPENDENCIES_SCHEMA, STEPS_SCHEMA, ReplyError, first_object
from sprint_lib.curation.steps import AnnotationError, Step, check_steps

KEY = "sk-test-0123456789abcdef"
QUICK = Limits(retries=2, first_wait=0.01, longest_wait=0.1)
QUESTION = "What is left?\n"
LINES = (
    *("First, one way.\n", "Add two and three.\n", "That gives five.\n", "Five it is.\n", "Hm, five.\n"),
    *("Now the other way.\n", "Take six.\n", "Subtract one.\n", "Five again.\n", "Both agree.\n"),
    "So the answer is $\\boxed{5}$.\n",
)


def step(plan: Any = (), execution: Any = (), comment: Any = (), **more: Any) -> dict[str, Any]:
    parts = {"plan": list(plan), "execution": list(execution), "comment": list(comment)}
    return {"description": "a way", "prompt": "Do it." if execution else "", "final": False, **parts, **more}


ONE, TWO, END = step(["1"], ["2-4"], ["5"]), step(["6"], ["7-10"]), step(["11"], final=True)
GOOD = [ONE, TWO, END]
READ = [
    Step("a way", (1,), "Do it.", (2, 3, 4), (5,)),
    Step("a way", (6,), "Do it.", (7, 8, 9, 10)),
    Step("a way", (11,), final=True),
]
NEEDS = {1: [], 2: [], 3: [1, 2]}


def steps_json(steps: list[Any]) -> str:
    return json.dumps({"steps": steps})


def needs_json(needs: dict[int, list[Any]]) -> str:
    return json.dumps({"dependencies": [{"step": step, "needs": some} for step, some in needs.items()]})


def annotator(server: ScriptedServer, folder: Path, limits: Limits = QUICK, **options: Any) -> ModelAnnotator:
    return ModelAnnotator(Chat(Endpoint("m", server.url), folder / "cache", limits=limits), **options)


def read_steps(folder: Path, *texts: str | Answer, lines: tuple[str, ...] = LINES) -> tuple[list[Step], list[str], int]:
    """Steps from answers one after the other, repairs, and how often the model was asked."""
    repairs: list[str] = []
    answers = [Say(text) if isinstance(text, str) else text for text in texts]
    with ScriptedServer(answers) as server:
        found = asyncio.run(annotator(server, folder).steps(QUESTION, lines, repairs.append))
    check_steps(found, lines)
    return found, repairs, len(server.asked)


def read_needs(folder: Path, *texts: str) -> tuple[dict[int, list[int]], list[str], int]:
    repairs: list[str] = []
    with ScriptedServer([Say(text) for text in texts]) as server:
        found = asyncio.run(annotator(server, folder).dependencies(QUESTION, LINES, READ, repairs.append))
    dependency_graph(3, found)
    return found, repairs, len(server.asked)


# --- prompts --------------------------------------------------------------------------


def test_the_model_sees_all_of_it(tmp_path: Path) -> None:
    with ScriptedServer([Say(steps_json(GOOD)), Say(needs_json(NEEDS))]) as server:
        asked = annotator(server, tmp_path)

        async def work() -> dict[int, list[int]]:
            return await asked.dependencies(QUESTION, LINES, await asked.steps(QUESTION, LINES))

        assert asyncio.run(work()) == NEEDS
    first, second = (request.body for request in server.asked)
    text = first["messages"][1]["content"]
    assert all(f"\n{n}: {line.strip()}" in text for n, line in enumerate(LINES, 1))
    assert QUESTION.strip() in text
    assert first["response_format"]["json_schema"]["schema"] == STEPS_SCHEMA
    text = second["messages"][1]["content"]
    assert all(line in text for line in LINES[:-1])
    assert "Step 2: a way\nTask: Do it.\nNow the other way.\n" in text
    assert second["response_format"]["json_schema"]["schema"] == DEPENDENCIES_SCHEMA
    assert not any("{{" in message["content"] for body in (first, second) for message in body["messages"])


def test_prompts_can_be_replaced(tmp_path: Path) -> None:
    shipped = read_prompts()
    folder = tmp_path / "prompts"
    folder.mkdir()
    assert read_prompts(folder) == shipped
    text = (PROMPTS / "steps.md").read_text().replace("You mark up", "Please mark up")
    (folder / "steps.md").write_text(text)
    other = read_prompts(folder)
    assert other.steps.system.startswith("Please mark up")
    assert other.dependencies == shipped.dependencies
    assert other.version != shipped.version


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("{{lines}}", ""), r"lacks \{\{lines\}\}"),
        (("{{errors}}", ""), r"lacks \{\{errors\}\}"),
        (("{{question}}", "{{qestion}}"), "did you mean 'question'"),
        (("## Again", "## Once more"), "needs the headings"),
        (("## Again", "## User"), "needs the headings"),
    ],
)
def test_prompts_that_are_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    (tmp_path / "steps.md").write_text((PROMPTS / "steps.md").read_text().replace(*change))
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        read_prompts(tmp_path / "none")


def test_what_a_trace_says_is_not_filled_in(tmp_path: Path) -> None:
    lines = ("{{question}} {{lines}}\n", *LINES[1:])
    with ScriptedServer([Say(steps_json(GOOD))]) as server:
        asyncio.run(annotator(server, tmp_path).steps("{{errors}}", lines))
    text = server.asked[0].body["messages"][1]["content"]
    assert "1: {{question}} {{lines}}" in text
    assert "{{errors}}" in text


# --- objects in text ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 1}',
        'Sure, here {it} is:\n```json\n{"x": 1}\n``` {"x": 2}',
        '<think>{"x": 7} or so</think>{"x": 1}',
        '{"y": {}} {"y": [{"z": 0}]} {"x": 1}',
        '{"x": 1',
        '{"x": 1} trailing {"',
    ],
)
def test_the_first_object_with_the_key(text: str) -> None:
    if text == '{"x": 1':
        with pytest.raises(ReplyError):
            first_object(text, "x")
    else:
        assert first_object(text, "x")["x"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        '["x"]',
        '{"x": NaN}',
        f'{{"x": {"9" * 5000}}}',
        '{"x": ' * 100_000,
        '{"x": ' + "[" * 100_000,
        '{"x": ' + "[" * 20 + "]" * 20 + "}",
        "{" * 1_000_000,
        '{"' * 500_000,
        '{"a":"' * 100_000,
        '{"a":[1' + ",1" * 400_000,
    ],
)
def test_hostile_objects_are_refused_soon(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(ReplyError):
        first_object(text, "x")
    assert time.thread_time() - started < 2


def test_no_text_raises_anything_else() -> None:
    def look(text: str) -> None:
        with contextlib.suppress(ReplyError):
            first_object(text, "x")

    samples = ['{"x": [{"y": "z"}]}', 'so {"x": {}}']
    assert slowest(look, strings(2_000, 3, samples, ['"x"', ":", "{", "}", "[", "]", '{"x":', "\\", "1e999"])) < 0.5


# --- steps ----------------------------------------------------------------------------


def test_good_answers_are_read(tmp_path: Path) -> None:
    assert read_steps(tmp_path, steps_json(GOOD)) == (READ, [], 1)


@pytest.mark.parametrize(
    "text",
    [
        f"Here you are:\n```json\n{steps_json(GOOD)}\n```\nThat is all.",
        f"<think>Maybe {steps_json([END])}?</think>\n{steps_json(GOOD)}",
        steps_json([step([1], [[2, 4]], ["5"]), {**TWO, "plan": "6", "execution": "lines 7-8, 9–10"}, END]),
        json.dumps({"note": [], "steps": [{**one, "extra": 1} for one in GOOD]}),
    ],
)
def test_other_forms_are_read(tmp_path: Path, text: str) -> None:
    assert read_steps(tmp_path, text) == (READ, [], 1)


WRONG = {
    "truncated": (Say(steps_json(GOOD)[:80], finish="length"), "cut off"),
    "prose": (Say("I think there are three steps."), "no complete JSON object"),
    "empty": (Say(""), "no complete JSON object"),
    "no list": (Say('{"steps": {}}'), "must be a list"),
    "uncovered": (Say(steps_json([step(["1"], ["2-4"]), TWO, END])), "line 5 is in no step"),
    "overlap": (Say(steps_json([ONE, step(["5-6"], ["7-10"]), END])), "line 5 is in 2 places"),
    "out of range": (Say(steps_json([ONE, TWO, step(["11-900"], final=True)])), "not all there, only 1-11"),
    "no range": (Say(steps_json([ONE, TWO, step(["11", "all"], final=True)])), "'all' is no range"),
    "out of order": (Say(steps_json([TWO, ONE, END])), "not in the order"),
    "mixed parts": (Say(steps_json([step(["1", "4"], ["2-3"], ["5"]), TWO, END])), "not in order"),
    "no prompt": (Say(steps_json([{**ONE, "prompt": ""}, TWO, END])), "no prompt"),
    "no lines": (Say(steps_json([ONE, step(), TWO, END])), "has no lines"),
    "final too early": (Say(steps_json([ONE, {**TWO, "final": True}, END])), "is not the last"),
    "no final": (Say(steps_json([ONE, TWO, {**END, "final": False}])), "final: true"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_model_is_asked_again_with_the_error(tmp_path: Path, case: str) -> None:
    answer, said = WRONG[case]
    with ScriptedServer([answer, Say(steps_json(GOOD))]) as server:
        assert asyncio.run(annotator(server, tmp_path).steps(QUESTION, LINES)) == READ
    first, second = (request.body["messages"] for request in server.asked)
    assert second[:2] == first
    assert second[2]["role"] == "assistant"
    assert said in second[3]["content"]


REPAIRED = {
    "uncovered": ({}, "line 5 was in no step; joined to step 1"),
    "overlap": ({0: ONE, 1: TWO}, "line 5 was in 2 places; step 1, the first, keeps it"),
    "out of range": ({}, "the rest left out"),
    "no range": ({}, "is no range of lines; left out"),
    "out of order": ({}, "in the order of their first lines"),
    "mixed parts": ({0: step(["1"], ["2-4"], ["5"])}, "lines [4] moved to the execution"),
    "no prompt": ({}, "step 1: had no prompt; its description taken for it"),
    "no lines": ({}, "step 2: had no lines of its own; left out"),
    "final too early": ({}, "the other marks are taken off"),
    "no final": ({}, "no step gave the final answer"),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_what_stays_wrong_is_repaired_and_told(tmp_path: Path, case: str) -> None:
    found, repairs, asked = read_steps(tmp_path, WRONG[case][0])
    assert asked == 3
    assert any(REPAIRED[case][1] in repair for repair in repairs), repairs
    assert [one.lines for one in found] == [one.lines for one in READ]
    if case == "no prompt":
        assert found[0].prompt == "a way"
    if case == "uncovered":
        assert found[0].execution == (2, 3, 4, 5)
    assert [one.final for one in found] == [False, False, True]


def test_an_answer_that_is_given_again_is_asked_for_in_new_words(tmp_path: Path) -> None:
    with ScriptedServer([WRONG["prose"][0], WRONG["prose"][0], WRONG["prose"][0], Say(steps_json(GOOD))]) as server:
        assert asyncio.run(annotator(server, tmp_path, asks=4).steps(QUESTION, LINES)) == READ
    told = [request.body["messages"][-1]["content"] for request in server.asked]
    assert len(set(told)) == 4
    assert ["given this very answer" in text for text in told] == [False, False, True, True]
    assert "3 times" in told[3]


def test_a_long_list_in_a_string_is_read_whole(tmp_path: Path) -> None:
    lines = tuple(f"Line {n}.\n" for n in range(1, 301))
    whole = ", ".join(map(str, range(2, 300)))
    found, repairs, _ = read_steps(tmp_path, steps_json([step(["1"], [whole]), step(["300"], final=True)]), lines=lines)
    assert not repairs
    assert found[0].execution == tuple(range(2, 300))


def test_a_flood_of_ranges_is_bounded(tmp_path: Path) -> None:
    flood = step(["1"], ["x,"] * 50_000, [",".join("y" * 50_000)])
    found, repairs, _ = read_steps(tmp_path, steps_json([flood, TWO, END]))
    assert len(repairs) < 100
    assert any("more ranges than there are lines" in repair for repair in repairs)
    assert found[0].plan[0] == 1


def test_what_the_schemas_allow_is_bounded() -> None:
    def unbounded(schema: dict[str, Any]) -> list[str]:
        kind = schema["type"]
        bounds = {"array": {"maxItems"}, "string": {"maxLength", "pattern"}}.get(kind, {"type"})
        inner = [*schema.get("properties", {}).values(), *([schema["items"]] if kind == "array" else [])]
        return [str(schema)] * (not bounds & set(schema)) + [one for some in inner for one in unbounded(some)]

    assert unbounded(STEPS_SCHEMA) == []
    assert unbounded(DEPENDENCIES_SCHEMA) == []


def test_a_step_may_own_several_ranges(tmp_path: Path) -> None:
    steps = [step(["1"], ["2-4", "8-10"]), step(["5-6"], ["7"]), END]
    found, repairs, _ = read_steps(tmp_path, steps_json(steps))
    assert not repairs
    assert found[0].execution == (2, 3, 4, 8, 9, 10)


def test_an_ending_is_cut_off_where_no_step_has_it(tmp_path: Path) -> None:
    found, repairs, _ = read_steps(tmp_path, steps_json([ONE, step(["6"], ["7-11"])]))
    assert [one.lines for one in found] == [one.lines for one in READ]
    assert found[-1].final
    assert len(repairs) == 1


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        (Say(None, refusal="I will not."), "refusal: I will not.", 1),
        (Say(None, finish="content_filter"), "truncated: .*content filter", 1),
        (Say(steps_json(GOOD)[:80], finish="length"), "truncated: .*asked 3 times", 3),
        (Say("Well."), "malformed: .*asked 3 times", 3),
        (Say('{"steps": [{"plan": "x"}]}'), "malformed: no step has lines", 3),
        (Say(steps_json([step(["1-11"], final=True)])), "no step", 3),
        (Status(500, "down"), "no reply: server: .*down.*3 attempts", 3),
        (Status(400, "maximum context length is 10 tokens"), "no reply: too_long", 1),
        (Trouble("drop"), "no reply: connection", 3),
        (Trouble("hang"), "no reply: timeout", 3),
    ],
)
def test_what_cannot_be_repaired_is_set_aside(tmp_path: Path, answer: Answer, reason: str, asked: int) -> None:
    limits = replace(QUICK, read_seconds=0.3) if answer == Trouble("hang") else QUICK
    with ScriptedServer([answer]) as server:
        model = annotator(server, tmp_path, limits)
        sifted = asyncio.run(annotate_steps([Trace("t", QUESTION, "".join(LINES))], model))
    assert not sifted.kept
    assert re.match(reason, sifted.aside[0].reason), sifted.aside
    assert len(server.asked) == asked


def test_a_wrong_key_stops_all(tmp_path: Path) -> None:
    traces = [Trace(str(n), QUESTION, "".join(LINES)) for n in range(50)]
    with ScriptedServer([Status(401, "who?")]) as server, pytest.raises(EndpointError, match="who"):
        asyncio.run(annotate_steps(traces, annotator(server, tmp_path)))
    assert len(server.asked) <= QUICK.concurrency


def _in_parts(body: dict[str, Any], before: int) -> Answer:
    """A good answer for any number of lines: two steps, and the last line as the end."""
    text = body["messages"][1]["content"]
    n = int(re.findall(r"Lines 1 to (\d+):", text)[-1])
    if "these are part" in text and "the text goes on" in text:
        return Say(steps_json([step(["1"], [f"2-{n}"])]))
    return Say(steps_json([step(["1"], [f"2-{n - 1}"]), step([str(n)], final=True)]))


def test_a_long_trace_is_annotated_in_parts(tmp_path: Path) -> None:
    lines = tuple(f"Line {n}.\n" for n in range(1, 26))
    with ScriptedServer(_in_parts) as server:
        found = asyncio.run(annotator(server, tmp_path, lines_per_request=10).steps(QUESTION, lines))
    assert len(server.asked) == 3
    assert [one.lines[0] for one in found] == [1, 10, 19, 25]
    assert [one.final for one in found] == [False] * 3 + [True]
    check_steps(found, lines)
    assert "part 2 of 3" in server.asked[1].body["messages"][1]["content"]


def test_long_steps_are_shown_by_their_ends(tmp_path: Path) -> None:
    lines = ("plan\n", *("x" * 99 + "\n" for _ in range(400)), "so\n")
    steps = [Step("long", (1,), "Do.", tuple(range(2, 402))), Step("end", (402,), final=True)]
    with ScriptedServer([Say(needs_json({1: [], 2: [1]}))]) as server:
        asyncio.run(annotator(server, tmp_path).dependencies(QUESTION, lines, steps))
    assert len(server.asked[0].body["messages"][1]["content"]) < 6_000


_ranges = st.lists(
    st.one_of(
        st.integers(-2, 14),
        st.from_regex(r"[0-9]{1,2}(-[0-9]{1,2})?", fullmatch=True),
        st.lists(st.integers(0, 14), min_size=2, max_size=2),
        st.text(max_size=5),
        st.none(),
    ),
    max_size=4,
)
_odd_step = st.fixed_dictionaries(
    {"plan": _ranges, "execution": _ranges, "comment": _ranges},
    optional={
        "description": st.text(max_size=5) | st.integers(),
        "prompt": st.text(max_size=5) | st.none(),
        "final": st.booleans() | st.just("yes"),
    },
)


class _Parrot(Chat):
    """Says one thing, without a server."""

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__(Endpoint("m", "http://nowhere/v1"), folder)
        self.text = text

    async def ask(self, messages: Any, schema: Any = None, *, version: str = "") -> Any:
        from sprint_lib.chat import Reply

        return Reply(self.text, "ok", "stop", "text")


@given(st.lists(_odd_step | st.none() | st.integers(), max_size=6))
@settings(max_examples=100)
def test_any_steps_are_repaired_or_set_aside(steps: list[Any]) -> None:
    repairs: list[str] = []
    model = ModelAnnotator(_Parrot(steps_json(steps), Path("unused")))
    try:
        found = asyncio.run(model.steps(QUESTION, LINES, repairs.append))
    except AnnotationError:
        return
    check_steps(found, LINES)
    assert found[-1].final


_values = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
_names = st.sampled_from(["step", "needs", "steps", "dependencies", "plan"])


@given(st.recursive(_values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner)))
@settings(max_examples=100)
def test_any_answer_is_read_or_set_aside(value: Any) -> None:
    for key in ("steps", "dependencies"):
        model = ModelAnnotator(_Parrot(json.dumps({key: value}), Path("unused")))
        try:
            if key == "steps":
                check_steps(asyncio.run(model.steps(QUESTION, LINES)), LINES)
            else:
                dependency_graph(3, asyncio.run(model.dependencies(QUESTION, LINES, READ)))
        except AnnotationError:
            pass


# --- dependencies ---------------------------------------------------------------------


def test_good_dependencies_are_read(tmp_path: Path) -> None:
    assert read_needs(tmp_path, needs_json(NEEDS)) == (NEEDS, [], 1)
    by_name = json.dumps({"dependencies": {"1": [], "2": [], "3": ["1", "step 2", 1]}})
    assert read_needs(tmp_path / "2", f"So: {by_name}") == (NEEDS, [], 1)


@pytest.mark.parametrize(
    ("needs", "said", "found"),
    [
        ({1: [3], 2: [], 3: [1, 2]}, "step 1 needs step 3, which does not come before it; left out", NEEDS),
        ({1: [], 2: [2], 3: [1, 2]}, "step 2 needs step 2, which does not come before it", NEEDS),
        ({1: [2], 2: [1], 3: [1, 2]}, "step 1 needs step 2", {1: [], 2: [1], 3: [1, 2]}),
        ({1: [], 2: [], 3: [1, 2, 9]}, "step 3 needs a step that does not exist (9)", NEEDS),
        ({1: [], 2: [], 3: [1, 2, True]}, "step that does not exist (None)", NEEDS),
        ({1: [], 2: [], 3: [1, 2], 8: []}, "is no entry for a step from 1 to 3", NEEDS),
        ({1: [], 3: [1, 2]}, "step 2 has no entry; taken to need the step before it", {1: [], 2: [1], 3: [1, 2]}),
    ],
)
def test_wrong_dependencies(
    tmp_path: Path, needs: dict[int, list[Any]], said: str, found: dict[int, list[int]]
) -> None:
    assert read_needs(tmp_path / "a", needs_json(needs), needs_json(NEEDS)) == (NEEDS, [], 2)
    read, repairs, asked = read_needs(tmp_path / "b", needs_json(needs))
    assert read == found
    assert asked == 3
    assert len(repairs) == 1
    assert said in repairs[0]


def test_repairs_go_with_the_trace(tmp_path: Path) -> None:
    bad = {1: [3], 2: [], 3: [1, 2]}

    def script(body: dict[str, Any], before: int) -> Answer:
        return Say(needs_json(bad)) if "dependencies" in body["messages"][1]["content"] else WRONG["uncovered"][0]

    traces = [Trace("t", QUESTION, "".join(LINES), "p", "5")]
    with ScriptedServer(script) as server:
        model = annotator(server, tmp_path)

        async def work() -> Any:
            return await annotate_dependencies((await annotate_steps(traces, model)).kept, model)

        [item] = asyncio.run(work()).kept
    assert [repair.partition(";")[0] for repair in item.repairs] == [
        "line 5 was in no step",
        "step 1 needs step 3, which does not come before it",
    ]
    stored = type(item).from_json(json.loads(json.dumps(item.to_json())))
    assert (stored.trace, stored.steps, stored.repairs) == (item.trace, item.steps, item.repairs)
    old = {key: value for key, value in item.to_json().items() if key not in ("repairs", "problem", "answer")}
    assert type(item).from_json(old).repairs == ()


def test_annotators_by_name(tmp_path: Path) -> None:
    model = get_annotator("model", model="m", base_url="http://x/v1", cache=tmp_path, concurrency=3, asks=2)
    assert isinstance(model, ModelAnnotator)
    assert (model.asks, model.chat.limits.concurrency, model.chat.endpoint.model) == (2, 3, "m")
    for name, given_, said in (
        ("modell", {}, "did you mean 'model'"),
        ("countdown", {"model": "m"}, "takes no settings"),
        ("model", {"cache": tmp_path, "model": "m", "base_url": "http://x/v1", "retrys": 1}, "did you mean 'retries'"),
        ("model", {"cache": tmp_path, "base_url": "http://x/v1"}, "model is missing"),
    ):
        with pytest.raises(ValueError, match=said):
            get_annotator(name, **given_)


# --- sprint curate --------------------------------------------------------------------


def write_traces(folder: Path, n: int) -> Path:
    """Traces that differ in their first line; every tenth has another answer than its reference."""
    rows = []
    for i in range(n):
        text = "".join((f"First, one way for case {i}.\n", *LINES[1:]))
        answer = "7" if i % 10 == 9 else "5"
        rows.append({"id": f"t{i}", "question": f"What is left in case {i}?", "text": text, "answer": answer})
    path = folder / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_spec(folder: Path, url: str, n: int = 10, **more: Any) -> Path:
    spec = {
        **{"source": str(write_traces(folder, n)), "out": str(folder / "out"), "annotator": "model", "model": "m"},
        **{"base_url": url, "key_variable": "SPRINT_TEST_KEY", "retries": 4, "first_wait": 0.01, "longest_wait": 0.2},
        **{"prices": {"input": 2.5, "output": 10}, **more},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def good(body: dict[str, Any]) -> Say:
    shape = body["response_format"]["json_schema"]["schema"]
    return Say(steps_json(GOOD) if shape == STEPS_SCHEMA else needs_json(NEEDS))


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())
    return found


def test_curate_from_file_to_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPRINT_TEST_KEY", KEY)
    with ScriptedServer(lambda body, before: good(body)) as server:
        spec = str(write_spec(tmp_path, server.url))
        assert cli.main(["curate", spec, "--dry-run", "--json"]) == 0
        before = json.loads(capsys.readouterr().out)
        assert not server.asked
        assert not (tmp_path / "out").exists()
        assert cli.main(["curate", spec]) == 0
        assert "10 traces: 9 kept (0 of them repaired), 1 set aside" in capsys.readouterr().out
        assert cli.main(["curate", spec, "--dry-run", "--json"]) == 0
        after = json.loads(capsys.readouterr().out)
        assert cli.main(["curate", spec, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
    assert len(server.asked) == 18
    assert (before["traces"], before["right"], before["calls"], before["cached"]) == (10, 9, 18, 0)
    assert before["money"] > 0
    assert (after["calls"], after["cached"], after["money"]) == (0, 18, 0)
    assert (again["kept"], again["ledger"]["asked"]["calls"], again["ledger"]["cached"]["calls"]) == (9, 0, 18)
    report = report_of(tmp_path)
    assert [(row["id"], row["state"]) for row in report["outcomes"]][-1] == ("t9", "aside")
    assert report["outcomes"][-1]["reason"] == "another answer"
    assert report["outcomes"][0]["stages"] == 1
    import datasets

    found = datasets.load_dataset(str(tmp_path / "out" / "dataset"))
    assert sum(len(split) for split in found.values()) == 9
    assert KEY not in capsys.readouterr().err


def test_what_would_be_paid_is_unknown_without_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = yaml.safe_load(write_spec(tmp_path, "http://127.0.0.1:9/v1").read_text())
    del spec["prices"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    assert cli.main(["curate", str(tmp_path / "spec.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "18 calls to make (0 are in the cache)" in said
    assert "characters / 4 (an estimate)" in said
    assert "price: price unknown (no prices in the file)" in said or "price unknown" in said


def test_rules_need_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"source": str(write_traces(tmp_path, 5)), "out": str(tmp_path / "out")}))
    assert cli.main(["curate", str(path), "--dry-run"]) == 0
    assert "0 calls to make" in capsys.readouterr().out
    assert cli.main(["curate", str(path)]) == 0
    report = report_of(tmp_path)
    assert report["traces"] == 5
    assert report["ledger"] is None
    assert Counter(row["state"] for row in report["outcomes"]).total() == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modle": "m"}, "did you mean 'model'"),
        ({"annotator": "modl"}, "did you mean 'model'"),
        ({"annotator": "discourse"}, "only for 'annotator: model'"),
        ({"source": None}, "'source' is of type NoneType"),
        ({"limit": "5"}, "'limit' is of type str; it must be int"),
        ({"limit": True}, "'limit' is of type bool"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"model": ""}, "model is missing"),
        ({"base_url": "localhost"}, "base_url must be an address"),
        ({"key_variable": KEY}, "key_variable must be the name"),
        ({"prices": {"input": 1}}, "output is missing"),
        ({"prices": {"input": 1, "output": -1}}, "a number from 0 on"),
        ({"prices": {"input": 1, "outptu": 1}}, "did you mean 'output'"),
        ({"prompts": "nowhere"}, "no such folder"),
        ({"format": "chats"}, "did you mean 'chat'"),
        ({"validation": 1.0}, "a share from 0 to below 1"),
        ({"cap": 0}, "cap is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"model_seed": "x"}, "'model_seed' is of type str; it must be int or null"),
        ({"min_ratio": -1}, "min_ratio is -1"),
        ({"prices": 5}, "'prices' is of type int; it must be dict or null"),
        ({"batch": 1}, "'batch' is of type int; it must be bool"),
        ({"read_seconds": True}, "'read_seconds' is of type bool; it must be float"),
        ({"key_variable": "gsk_0123456789abcdef"}, "key_variable must be the name"),
        ({"api_key": KEY}, "unknown key 'api_key'"),
    ],
)
def test_specs_that_are_refused(
    tmp_path: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, "http://x/v1", 1, **change)
    assert cli.main(["curate", str(spec)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert KEY not in told
    assert "gsk_" not in told
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_fails_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPRINT_TEST_KEY", KEY)
    with ScriptedServer([Status(401, f"bad key {KEY}")]) as server:
        assert cli.main(["curate", str(write_spec(tmp_path, server.url))]) == 1
    told = capsys.readouterr()
    assert "bad key [key]" in told.err
    assert KEY not in told.err + told.out
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["unanswered"] >= 1


def test_every_key_is_in_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["curate", "--example"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "a.yaml").write_text(text)
    given_ = corpus.read_spec(tmp_path / "a.yaml")
    whole = re.sub(r"^# (\w+:.*)$", r"\1", text.replace("annotator: discourse", "", 1).replace("# \n", ""), flags=re.M)
    (tmp_path / "b.yaml").write_text(re.sub(r"^# +#.*$", "", whole, flags=re.M))
    spec = corpus.read_spec(tmp_path / "b.yaml")
    assert set(spec.settings) == set(corpus.MODEL_KEYS)
    assert set(yaml.safe_load((tmp_path / "b.yaml").read_text())) == {*corpus.KEYS, *corpus.MODEL_KEYS}
    own = {key: value for key, value in vars(spec).items() if key != "settings"}
    assert own == {key: value for key, value in vars(given_).items() if key != "settings"}  # the defaults are true
    defaults = {**vars(Endpoint("m", "http://x")), **vars(Sampling()), **vars(Limits())}
    shown = {name: value for name, value in spec.of_model.items() if name in defaults}
    assert shown == {**defaults, **{name: shown[name] for name in ("model", "base_url", "key_variable")}}
    assert {*corpus.MODEL_KEYS.values(), "cache"} == set(SETTINGS)
    assert cli.main(["curate"]) == 2
    assert "--example" in capsys.readouterr().err


def test_another_split_pays_for_nothing_again(tmp_path: Path) -> None:
    os.environ.setdefault("SPRINT_TEST_KEY", KEY)
    with ScriptedServer(lambda body, before: good(body)) as server:
        for seed in (0, 7):
            asyncio.run(corpus.run(corpus.read_spec(write_spec(tmp_path, server.url, 4, seed=seed)), show=False))
        assert len(server.asked) == 8
        assert {request.body["seed"] for request in server.asked} == {0}
        for seed_, sent in ((5, 5), (None, None)):
            asyncio.run(corpus.run(corpus.read_spec(write_spec(tmp_path, server.url, 4, model_seed=seed_)), show=False))
            assert server.asked[-1].body.get("seed") == sent
    assert len(server.asked) == 24


def test_nothing_is_pushed_where_this_run_kept_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed: list[Path] = []
    monkeypatch.setattr("sprint_lib.curation.dataset.push", lambda folder, name: pushed.append(folder))
    monkeypatch.setenv("SPRINT_TEST_KEY", KEY)
    with ScriptedServer(lambda body, before: good(body)) as server:
        spec = write_spec(tmp_path, server.url, 3)
        assert cli.main(["curate", str(spec), "--push", "me/set"]) == 0
        assert pushed == [tmp_path / "out" / "dataset"]
        for _ in range(2):
            spec = write_spec(tmp_path, server.url, 3, min_ratio=99)
            assert cli.main(["curate", str(spec), "--push", "me/set"]) == 1
            assert "kept no trace" in capsys.readouterr().err
    assert len(pushed) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("cache", "dataset.old", "ledger.json", "report.json")
    ]


def test_there_is_no_report_on_a_data_set_that_was_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise DatasetError("the disk is full")

    monkeypatch.setenv("SPRINT_TEST_KEY", KEY)
    monkeypatch.setattr(corpus, "save", full)
    with ScriptedServer(lambda body, before: good(body)) as server:
        assert cli.main(["curate", str(write_spec(tmp_path, server.url, 1))]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cache", "ledger.json"]


def test_a_tokenizer_without_the_words_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPRINT_TEST_KEY", KEY)
    with ScriptedServer(lambda body, before: good(body)) as server:
        assert cli.main(["curate", str(write_spec(tmp_path, server.url, 1, tokenizer="countdown-base"))]) == 2
    assert "does not know" in capsys.readouterr().err
    assert not server.asked


def test_two_traces_with_one_id_are_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sprint_lib.curation import sources

    row = sources.Row("a", "What?", "".join(LINES), "5", "p")
    monkeypatch.setattr(corpus, "read", lambda *_, **__: iter([row, replace(row, defect="row 2: odd")]))
    with ScriptedServer([Say("")]) as server:
        assert cli.main(["curate", str(write_spec(tmp_path, server.url))]) == 2
    assert "two traces have the id 'a'" in capsys.readouterr().err
    assert not server.asked


def test_a_dry_run_knows_what_is_asked_again_and_writes_nothing(tmp_path: Path) -> None:
    os.environ.setdefault("SPRINT_TEST_KEY", KEY)
    with ScriptedServer([WRONG["uncovered"][0], Status(400, "no more")]) as server:
        spec = corpus.read_spec(write_spec(tmp_path, server.url, 1))
        first = asyncio.run(corpus.estimate(spec))
        asyncio.run(corpus.run(spec, show=False))  # the question again gets no reply
        again = asyncio.run(corpus.estimate(spec))
    assert (again["calls"], again["cached"], first["calls"]) == (2, 1, 2)  # about steps again, and about what they need
    assert again["completion_tokens"] == first["completion_tokens"]
    [path] = (tmp_path / "out" / "cache").glob("??/*.json")
    path.write_bytes(b"{")
    before = sorted(tmp_path.rglob("*"))
    assert asyncio.run(corpus.estimate(spec))["calls"] == 2
    assert sorted(tmp_path.rglob("*")) == before
    assert path.read_bytes() == b"{"


def test_a_card_says_nothing_of_this_machine(tmp_path: Path) -> None:
    os.environ.setdefault("SPRINT_TEST_KEY", KEY)
    with ScriptedServer(lambda body, before: good(body)) as server:
        spec = corpus.read_spec(write_spec(tmp_path, server.url, 3, model_revision="2", cap=3))
        report = asyncio.run(corpus.run(spec, show=False))
        card = (tmp_path / "out" / "dataset" / "README.md").read_text()
        for private in (str(tmp_path), server.url, "127.0.0.1", "SPRINT_TEST_KEY", "first_wait", "retries"):
            assert private not in card
    for public in ("traces.jsonl", "model: m", "revision: '2'", read_prompts().version, "cap: 3", "min_ratio"):
        assert public in card
    assert "SPRINT_TEST_KEY" not in json.dumps(report)
    assert "SPRINT_TEST_KEY" not in (tmp_path / "out" / "report.json").read_text()


# --- a thousand traces ----------------------------------------------------------------

FAULTS: tuple[Answer | str, ...] = (
    *("prose", "truncated", "ranges", "overlap", "edges", "unknown", "nothing"),
    *(Say(None, refusal="No."), Status(429, headers={"Retry-After": "0.02"}), Status(500)),
    *(Trouble("drop"), Trouble("half"), Trouble("hang")),
)


def _faulty(kind: str, body: dict[str, Any]) -> Say:
    """A faulty reply to one of the two questions."""
    text = good(body).text
    assert text is not None
    about_steps = text == steps_json(GOOD)
    wrong = {
        "prose": f"Sure {{here}}:\n{text}\nDone.",
        "truncated": text[: len(text) // 2],
        "nothing": "",
        "ranges": steps_json([ONE, TWO, step(["11-99"], final=True)]) if about_steps else '{"dependencies": 3}',
        "overlap": WRONG["overlap"][0].text if about_steps else needs_json({1: [], 2: [], 3: [1, 1, 2]}),  # type: ignore[union-attr]
        "edges": needs_json({1: [3], 2: [1], 3: [2]}) if not about_steps else WRONG["out of order"][0].text,  # type: ignore[union-attr]
        "unknown": needs_json({1: [], 2: [9], 3: [2]}) if not about_steps else WRONG["uncovered"][0].text,  # type: ignore[union-attr]
    }[kind]
    return Say(wrong, finish="length" if kind == "truncated" else "stop")


def one_in_five(body: dict[str, Any], before: int) -> Answer:
    """A fifth of all answers faulty, the same ones for the same requests; a case in fifty stays so for good."""
    first = body["messages"][1]["content"]
    lasting = random.Random(first)
    rng = lasting if lasting.random() < 0.02 else random.Random(f"{json.dumps(body['messages'])} {before}")
    if rng is not lasting and rng.random() >= 0.2:
        return good(body)
    fault = rng.choice(FAULTS[:8] if rng is lasting else FAULTS)
    return _faulty(fault, body) if isinstance(fault, str) else fault


def _stored(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "out" / "cache").glob("??/*.json")}


@pytest.mark.slow
def test_a_thousand_traces_with_faults_killed_and_resumed(tmp_path: Path) -> None:
    environment = {**os.environ, "SPRINT_TEST_KEY": KEY, "PYTHONUNBUFFERED": "1"}
    with ScriptedServer(one_in_five) as server:
        spec = write_spec(tmp_path, server.url, 1000, concurrency=16, read_seconds=5)
        command = [sys.executable, "-m", "sprint_lib", "curate", str(spec)]
        outputs = []
        kept: list[tuple[int, set[str]]] = []  # requests so far, and what is stored of their replies
        for calls in (400, 1200):
            child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            while len(server.asked) < calls and child.poll() is None:
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
            outputs.append(child.communicate()[0].decode())
            assert child.returncode == -signal.SIGKILL
            kept.append((len(server.asked), _stored(tmp_path)))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        asked = list(server.asked)
    report = report_of(tmp_path)
    _check_outcomes(report)
    _check_nothing_was_repeated(server.url, tmp_path, asked, kept)
    leaks = [*outputs, done.stdout, done.stderr]
    leaks += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in leaks if KEY in text]


def _check_outcomes(report: dict[str, Any]) -> None:
    """Every trace ends in one place, with a reason or with its repairs."""
    rows = report["outcomes"]
    assert sorted(row["id"] for row in rows) == sorted(f"t{i}" for i in range(1000))
    states = Counter(row["state"] for row in rows)
    assert states == {state: report[state] for state in states}
    assert states["kept"] > 700
    assert states["repaired"] >= 3
    assert states["aside"] > 100  # the hundred with another answer, and some refusals
    assert all(row["reason"] for row in rows if row["state"] == "aside")
    assert all(row["repairs"] for row in rows if row["state"] == "repaired")
    assert sum(row.get("reason") == "another answer" for row in rows) == 100


def _check_nothing_was_repeated(url: str, folder: Path, asked: list[Any], kept: list[tuple[int, set[str]]]) -> None:
    """No call that was stored when the process was killed came again, and no finished one twice but for the kills."""
    chat = Chat(Endpoint("m", url), folder)
    version = read_prompts().version
    keys = [
        chat.request(one.body["messages"], one.body["response_format"]["json_schema"]["schema"], version).key
        for one in asked
    ]
    for calls, stored in kept:
        assert len(stored) > calls / 3
        assert not stored.intersection(keys[calls:])
    finished = Counter(key for key, one in zip(keys, asked, strict=True) if isinstance(one.answer, Say))
    assert sum(times - 1 for times in finished.values()) <= 2 * 16  # answered, and killed before it was stored
    assert set(finished) == _stored(folder)


def test_a_few_traces_with_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [Trace(str(n), f"Case {n}?", "".join(LINES)) for n in range(60)]

    def script(body: dict[str, Any], before: int) -> Answer:
        answer = one_in_five(body, before)
        return Status(500) if answer == Trouble("hang") else answer

    with ScriptedServer(script) as server:
        model = annotator(server, tmp_path)
        report = asyncio.run(curate(traces, model))
    assert len(report.kept) + len(report.aside) == 60
    assert len(report.kept) > 50
    assert number_lines("".join(LINES)) == LINES
