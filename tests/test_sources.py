"""Sources of traces: every layout of columns, bad rows among good ones, refusals that name the way out, and grading."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sprint_lib import released
from sprint_lib.calls import STATUSES
from sprint_lib.curation import Annotated, Aside, Trace
from sprint_lib.curation.sources import (
    LONGEST_TRACE,
    NO_REFERENCE,
    Candidate,
    Row,
    SourceError,
    by_boxes,
    graded,
    judged,
    load,
    load_annotated,
    load_aside,
    public_name,
    read,
    write,
    write_annotated,
    write_aside,
)
from sprint_lib.curation.steps import Step
from sprint_lib.tasks import NO_ANSWER, Grade
from sprint_lib.tasks.graders import UNDECIDED

GOOD = {"question": "1 + 1?", "text": r"Adding. \boxed{2}", "answer": "2"}


def lines(path: Path, rows: Iterable[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def one(path: Path, row: dict[str, Any], **options: Any) -> Row:
    (found,) = read(lines(path, [row]), **options)
    return found


# --- layouts --------------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "OpenThoughts": {
        "problem": "Q", "deepseek_reasoning": "thinking\n", "deepseek_solution": "so 2", "ground_truth_solution": "A",
        "domain": "math", "source": "x", "test_cases": None, "starter_code": None,
    },
    "OpenThoughts, conversations": {
        "system": "think first",
        "conversations": [
            {"from": "user", "value": "Q"},
            {"from": "assistant", "value": "<|begin_of_thought|>\n\nthinking\n\n<|end_of_thought|>\n\n"
             "<|begin_of_solution|>\n\nso 2\n\n<|end_of_solution|>"},
        ],
        "answer": "A",
    },
    "messages": {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "<think>\nthinking\n</think>\n\nso 2"},
        ],
        "answer": "A",
    },
    "OpenThoughts-math": {
        "source": "math", "problem": "Q", "solution": "A", "messages": [{"role": "user", "content": "no"}],
        "system": "", "generated_token_count": 3,
        "conversations": [
            {"from": "user", "value": "Return it in a box. Q"},
            {"from": "assistant", "value": "<think>\nthinking\n</think>\n\nso 2"},
        ],
    },
    "s1K": {
        "question": "Q", "solution": "A", "cot_type": "math", "source_type": "x", "metadata": "{}", "cot": None,
        "thinking_trajectories": ["thinking"], "attempt": "so 2",
    },
    "s1K-1.1": {
        "question": "Q", "solution": "A", "gemini_thinking_trajectory": "no", "gemini_attempt": "no",
        "deepseek_thinking_trajectory": "thinking", "deepseek_attempt": "so 2",
    },
    "LIMO": {"question": "Q", "solution": "thinking\n</think>\n\nso 2", "answer": "A"},
    "plain, text": {"question": "Q", "text": "thinking\n</think>\n\nso 2", "answer": "A"},
    "plain, trace": {"question": "Q", "trace": "thinking\n</think>\n\nso 2", "answer": "A", "solution": "another"},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_columns_are_recognised(name: str, tmp_path: Path) -> None:
    row = one(tmp_path / "rows.jsonl", LAYOUTS[name])
    assert (row.question, row.text, row.answer) == ("Q", "thinking\n</think>\n\nso 2", "A")
    assert (row.id, row.defect, row.right) == ("rows-1", "", None)


def test_several_traces_a_problem_with_what_the_source_says_of_each(tmp_path: Path) -> None:
    row = {
        "problem": "Q", "solution": "S", "answer": "A", "uuid": "u", "generations": ["<think>\na", "b", "c"],
        "is_reasoning_complete": [True, True, False], "correctness_math_verify": [False, True, True],
        "correctness_llama": None, "messages": [{"role": "user", "content": "other"}],
    }  # fmt: skip
    found = list(read(lines(tmp_path / "r1.jsonl", [row])))
    assert [(r.id, r.text, r.right) for r in found] == [("u#1", "a", False), ("u#2", "b", True), ("u#3", "c", True)]
    assert [bool(r.defect) for r in found] == [False, False, True]
    assert "cut before its end" in found[2].defect
    assert len({r.problem for r in found}) == 1


def test_the_same_question_is_the_same_problem(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "question": " 1 +  1?\n"}, {**GOOD, "question": "1 + 2?"}]
    first, second, third = read(lines(tmp_path / "rows.jsonl", rows))
    assert first.problem == second.problem != third.problem


def test_columns_of_other_names_are_named(tmp_path: Path) -> None:
    row = {"prompt": "Q", "reply": "T", "gold": 7, "group": "g"}
    columns = {"question": "prompt", "text": "reply", "answer": "gold", "problem": "group"}
    found = one(tmp_path / "rows.jsonl", row, columns=columns)
    assert (found.question, found.text, found.answer, found.problem) == ("Q", "T", "7", "g")


# --- where they lie -------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("kind", ["parquet", "saved", "saved splits", "folder"])
def test_files_and_folders_of_datasets_give_the_same_rows(kind: str, cache: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list([{**LAYOUTS["s1K"], "question": f"Q{k}"} for k in range(3)])
    where = cache / "kept"
    if kind == "parquet":
        where = cache / "kept.parquet"
        data.to_parquet(str(where))
    elif kind == "saved":
        data.save_to_disk(str(where))
    elif kind == "saved splits":
        datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(where))
    else:
        (where / "data").mkdir(parents=True)
        data.to_parquet(str(where / "data" / "train-0.parquet"))
    rows = list(read(str(where)))
    assert [row.question for row in rows] == ["Q0", "Q1", "Q2"]
    assert {row.text for row in rows} == {"thinking\n</think>\n\nso 2"}
    if "splits" in kind:
        assert [row.question for row in read(str(where), split="test")] == ["Q0"]
        with pytest.raises(SourceError, match=r"no split 'tset' \(did you mean 'test'\?\); there are: train, test"):
            list(read(str(where), split="tset"))


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", [GOOD] * 3)
    rows = read(path, limit=2)
    assert next(rows).id == "rows-1"
    with Path(path).open("w") as file:  # what comes later has not been looked at
        file.write("")
    assert len(list(rows)) <= 1
    assert len(list(read(lines(tmp_path / "rows.jsonl", [GOOD] * 3), limit=2))) == 2


def test_the_examples_are_graded_as_they_were_meant() -> None:
    candidates = list(judged(read("examples"), by_boxes, len))
    assert [c.id for c in candidates if not c.correct] == ["quadrilateral-area"]
    assert len(candidates) == 6
    assert all(25 <= c.text.count("\n") + 1 <= 80 and c.status == "ok" and c.tokens == len(c.text) for c in candidates)
    sifted = graded(read("examples"), by_boxes)
    assert sifted.aside == [Aside("quadrilateral-area", "traces", "another answer")]


def test_the_released_runs_are_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(released.VARIABLE, str(tmp_path))
    with pytest.raises(SourceError, match="`sprint released fetch` gets them"):
        list(read("released"))


def test_all_released_runs_have_a_problem() -> None:
    try:
        released.find()
    except released.ReleasedError as error:
        pytest.skip(str(error))
    rows = list(read("released"))
    assert len(rows) == len({row.id for row in rows}) == 500
    assert all(row.question and row.text and row.answer and not row.defect for row in rows)


# --- what is wrong --------------------------------------------------------------------


def test_a_bad_row_does_not_lose_the_others(tmp_path: Path) -> None:
    bad = [
        "{broken", "[1]", "", {**GOOD, "text": None}, {**GOOD, "question": "  "}, {**GOOD, "text": {"a": 1}}, {"x": 1},
        "[" * 100_000, {**GOOD, "text": "x" * (LONGEST_TRACE + 1)}, {**GOOD, "text": []},
    ]  # fmt: skip
    rows = list(read(lines(tmp_path / "rows.jsonl", [GOOD, *bad, {**GOOD, "answer": "3"}])))
    assert [row.id for row in rows if not row.defect] == ["rows-1", "rows-12"]
    assert len(rows) == 11  # the empty line is none
    assert rows[1].defect == "rows.jsonl, row 2: not JSON"
    assert "row 5: 'text' is empty or no text" in rows[3].defect
    sifted = graded(rows, by_boxes)
    assert [t.id for t in sifted.kept] == ["rows-1"]
    assert len(sifted.kept) + len(sifted.aside) == len(rows)


def test_ids_are_unique_and_text_can_be_written(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": "a"}, {**GOOD, "id": "a"}, {**GOOD, "text": "\ud800 \\boxed{2}"}]
    found = list(read(lines(tmp_path / "rows.jsonl", rows)))
    assert len({row.id for row in found}) == 3
    assert "a second trace with this id, 'a'" in found[1].defect
    assert found[2].text == "? \\boxed{2}"


def test_made_up_ids_are_those_of_no_other_row(tmp_path: Path) -> None:
    ids = ["rows-2", None, "rows-4 (b)", "b", "b", "rows-7"]
    rows = [*({**GOOD, "id": id_} if id_ else GOOD for id_ in ids), "{broken", {**GOOD, "id": "b"}]
    found = list(read(lines(tmp_path / "rows.jsonl", rows)))
    assert len(found) == len({row.id for row in found}) == len(rows)
    assert [row.id for row in found if not row.defect] == ["rows-2", "rows-2 (rows-2)", "rows-4 (b)", "b", "rows-7"]


@pytest.mark.parametrize(
    ("source", "name"),
    [("examples", "examples"), ("/home/me/secret/rows.jsonl", "rows.jsonl"), ("owner/name:main", "owner/name:main")],
)
def test_a_source_is_called_without_where_it_lies(source: str, name: str) -> None:
    assert public_name(source) == name


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({"quesion": "Q", "text": "T", "answer": "A"}, None, r"row 1: no columns.*'question' \(did you mean 'quesion'"),
        ({"foo": 1}, None, r"there are: foo\. Known are those of OpenR1-Math"),
        (GOOD, {"text": "txet"}, r"row 1: no column 'txet' \(did you mean 'text'\?\); there are: question, text"),
        (GOOD, {"qestion": "question"}, r"unknown column 'qestion' \(did you mean 'question'\?\)"),
    ],
)
def test_columns_that_are_not_known_are_refused(row: Any, columns: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=said):
        list(read(lines(tmp_path / "rows.jsonl", [row]), columns=columns))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("exmaples", r"no such file \(did you mean 'examples'\?\)"),
        ("no/such.jsonl", "no such file"),
        ("rows.csv", r"read are \.jsonl and \.parquet"),
        ("empty.jsonl", "no rows"),
        ("damaged.parquet", "damaged.parquet: cannot be"),
        ("somebody/something", "cannot be had.*where the hub can be reached"),
    ],
)
def test_sources_that_cannot_be_read(source: str, said: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)
    for name in ("rows.csv", "empty.jsonl", "damaged.parquet"):
        Path(name).write_text("x" if "empty" not in name else "")
    with pytest.raises(SourceError, match=said):
        list(read(source))


def test_a_revision_is_for_the_hub_and_a_limit_is_a_number_of_traces(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a revision is for data sets on the hub"):
        list(read(lines(tmp_path / "rows.jsonl", [GOOD]), revision="main"))
    with pytest.raises(SourceError, match="limit is 0"):
        read("examples", limit=0)


def test_only_rows_with_these_values(tmp_path: Path) -> None:
    rows = [{**GOOD, "source": name, "level": k} for k, name in enumerate(("math", "olympiads", "math", "math"))]
    file = lines(tmp_path / "rows.jsonl", rows)
    assert len(list(read(file, where={"source": "math"}))) == 3
    assert len(list(read(file, where={"source": "math"}, limit=2))) == 2
    assert len(list(read(file, where={"source": "math", "level": "3"}))) == 1
    with pytest.raises(SourceError, match=r"row 1: where: no column 'sourc'; there are: .*source"):
        list(read(file, where={"sourc": "math"}))
    with pytest.raises(SourceError, match="released: has no columns"):
        read("released", where={"source": "math"})


# --- grading --------------------------------------------------------------------------


def test_a_reference_may_be_a_whole_solution() -> None:
    assert by_boxes(r"By symmetry it is $\boxed{\frac12}$.", r"so \boxed{0.5}").correct
    assert not by_boxes("a proof without an answer", r"\boxed{0.5}").correct
    assert by_boxes("2", "no box").reason == NO_ANSWER


@pytest.mark.parametrize(
    ("row", "grade", "status", "correct", "reason"),
    [
        (Row("a", "Q", "T", "2"), Grade(True, "2"), "ok", True, ""),
        (Row("a", "Q", "T", "2"), Grade(False, "3", "another answer"), "ok", False, "another answer"),
        (Row("a", "Q", "T", "2", right=True), Grade(False, "3", "another answer"), "ok", False, "another answer"),
        (Row("a", "Q", "T", "2"), Grade(False, "", NO_ANSWER), "refused", False, NO_ANSWER),
        (Row("a", "Q", "T", "2"), Grade(False, "3", UNDECIDED), "ok", False, UNDECIDED),
        (Row("a", "Q", "T", "2", right=True), Grade(False, "3", UNDECIDED), "ok", True, ""),
        (Row("a", "Q", "T", ""), Grade(True, "2"), "ok", False, NO_REFERENCE),
        (Row("a", "Q", "T", "", right=True), Grade(False, ""), "ok", True, ""),
        (Row("a", "Q", "T", "2", defect="bad"), Grade(True, "2"), "malformed", False, "bad"),
    ],
)
def test_what_becomes_of_a_row(row: Row, grade: Grade, status: str, correct: bool, reason: str) -> None:
    (candidate,) = judged([row], lambda reference, text: grade)
    assert (candidate.status, candidate.correct, candidate.reason) == (status, correct, reason)
    assert candidate.status in STATUSES
    sifted = graded([row], lambda reference, text: grade)
    assert (len(sifted.kept), [a.reason for a in sifted.aside]) == ((1, []) if correct else (0, [reason]))


def test_grading_does_not_take_for_ever() -> None:
    hostile = Row("a", "Q", r"\boxed{9^{9^{9^{9^9}}}}", "4")
    assert not next(judged([hostile], by_boxes)).correct


def test_candidates_are_kept_in_one_file_and_count_as_attempts(tmp_path: Path) -> None:
    candidates = list(judged(read("examples"), by_boxes, len))
    assert load(write(tmp_path / "traces.jsonl", candidates)) == candidates
    attempt = candidates[0].attempt
    assert (attempt.problem, attempt.correct, attempt.calls[0].completion_tokens) == (
        candidates[0].problem,
        True,
        len(candidates[0].text),
    )
    odd = Candidate("a", "p", "Q\u2028", "T\x85", "", "ok", True)
    assert load(write(tmp_path / "traces.jsonl", [odd])) == [odd]
    aside = [Aside("a", "steps", "why\u2028not")]
    assert load_aside(write_aside(tmp_path / "aside.jsonl", aside)) == aside
    steps = (Step("a\u2028", plan=(1,), prompt="b", execution=(2, 3)), Step("end", plan=(4,), final=True))
    item = Annotated(Trace("a", "Q", "T\x85"), steps, {1: (), 2: (1,)}, repairs=("mended",))
    assert load_annotated(write_annotated(tmp_path / "steps.jsonl", [item])) == [item]
