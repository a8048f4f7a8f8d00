"""MATH-500 and GPQA as tasks: what they load from a file and ask of the hub, and how they grade."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sprint_lib.tasks import NO_ANSWER, Grade, Problem, check_unique, difficulty, get_task, title
from sprint_lib.tasks.countdown import first_moves_tried, numbers_of
from sprint_lib.tasks.gpqa import LABELS, SOURCE, Gpqa
from sprint_lib.tasks.math500 import Math500

MATH = [
    {"unique_id": f"test/algebra/{i}.json", "problem": f"What is {i} + {i}?", "answer": str(2 * i)}
    | {"subject": "Algebra", "level": 1 + i % 5, "solution": "Add."}
    for i in range(20)
]
OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
SCIENCE = [
    {"Record ID": f"rec{i}", "Question": f"Which is the\nnumber {i}? ", "Subdomain": "Numbers"}
    | {column: f" {i + k}, say\n" for k, column in enumerate(OPTIONS)}
    for i in range(12)
]


@pytest.fixture
def math_file(tmp_path: Path) -> Path:
    path = tmp_path / "math.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MATH))
    return path


@pytest.fixture
def science_file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "gpqa_diamond.csv", SCIENCE)


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_math500_loads_the_same_problems_for_the_same_seed(math_file: Path) -> None:
    task = Math500(math_file)
    found = task.load(8, split="test", seed=3)
    assert found == task.load(8, split="test", seed=3)
    assert found[:5] == task.load(5, split="test", seed=3)
    assert found != task.load(8, split="test", seed=4)
    everything = task.load(20, split="test", seed=0)
    check_unique(everything)
    assert {p.id for p in everything} == {row["unique_id"] for row in MATH}
    assert Problem("test/algebra/3.json", "What is 3 + 3?\n", "6", {"level": 4, "subject": "Algebra"}) in everything
    with pytest.raises(ValueError, match="math500: 21 problems asked for, there are 20"):
        task.load(21, split="test", seed=0)
    with pytest.raises(ValueError, match="math500: no split 'train'; there is: test"):
        task.load(1, split="train", seed=0)


def test_math500_grades_boxes() -> None:
    task = get_task("math500")
    problem = Problem("x", "?", r"\frac{1}{2}")
    assert task.grade(problem, r"It is $\boxed{0.5}$.") == Grade(True, "0.5")
    assert task.grade(problem, "It is 0.5.") == Grade(False, "", NO_ANSWER)


def test_tasks_take_the_file_that_the_environment_names(math_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRINT_MATH500", str(math_file))
    assert len(get_task("math500").load(20, split="test", seed=0)) == 20
    monkeypatch.setenv("SPRINT_GPQA", str(math_file.with_name("absent.csv")))
    with pytest.raises(FileNotFoundError, match=r"gpqa: .*absent\.csv: no such file; .*gated.*set SPRINT_GPQA"):
        get_task("gpqa").load(1, split="test", seed=0)


def test_bad_files_name_the_place(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(MATH[0]) + "\n{cut\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: not a row"):
        Math500(bad).load(1, split="test", seed=0)
    bad.write_text(json.dumps(MATH[0]) + "\n" + json.dumps({**MATH[1], "answer": ""}) + "\n")
    with pytest.raises(
        ValueError, match=r"math500: .*bad\.jsonl, row 2: no 'answer'; is this HuggingFaceH4/MATH-500\?"
    ):
        Math500(bad).load(1, split="test", seed=0)
    other = write_csv(tmp_path / "other.csv", [{"Question": "?", "Answer": "!"}])
    with pytest.raises(ValueError, match=r"gpqa: .*other\.csv, row 1: no 'Record ID'"):
        Gpqa(other).load(1, split="test", seed=0)
    other.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(ValueError, match=r"decode|no .Record ID|not a CSV"):
        Gpqa(other).load(1, split="test", seed=0)


def test_gpqa_shuffles_options_by_seed_and_problem(science_file: Path) -> None:
    task = Gpqa(science_file)
    found = task.load(12, split="test", seed=1)
    assert found == task.load(12, split="test", seed=1)
    assert {p.answer for p in found} == set(LABELS)
    for problem in found:
        number = int(problem.id.removeprefix("rec"))
        options = problem.meta["options"]
        assert sorted(options) == sorted(f"{number + k}, say" for k in range(4))
        assert options[LABELS.index(problem.answer)] == f"{number}, say"
        assert problem.question == "\n".join(
            [
                f"Which is the\nnumber {number}?",
                "",
                *(f"{label}) {o}" for label, o in zip(LABELS, options, strict=True)),
                "",
            ]
        )
    again = {p.id: p.answer for p in task.load(12, split="test", seed=2)}
    assert again != {p.id: p.answer for p in found}
    assert {p.id: p.answer for p in task.load(3, split="test", seed=1)}.items() <= {
        p.id: p.answer for p in found
    }.items()


def test_gpqa_grades_the_label() -> None:
    task = get_task("gpqa")
    problem = Problem("x", "?", "C", {"options": ["1", "2", "3", "4"]})
    assert task.grade(problem, r"\boxed{\text{(C)}}") == Grade(True, "C")
    assert task.grade(problem, "The answer is B.") == Grade(False, "B", "another option")
    assert task.grade(problem, r"\boxed{3}") == Grade(False, "", NO_ANSWER)


def test_the_hub_is_asked_for_a_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*what: Any, **how: Any) -> list[dict[str, str]]:
        asked.append((what, how))
        return SCIENCE

    monkeypatch.delenv(SOURCE.variable, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert len(Gpqa().load(12, split="test", seed=0)) == 12
    assert asked == [(("Idavidrein/gpqa", "gpqa_diamond"), {"split": "train", "revision": SOURCE.revision})]
    assert len(SOURCE.revision) == 40


def test_without_hub_and_file_the_error_says_what_to_get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPRINT_GPQA", raising=False)
    monkeypatch.delenv("SPRINT_MATH500", raising=False)
    with pytest.raises(FileNotFoundError, match=r"Idavidrein/gpqa: .*gated.*log in.*or set SPRINT_GPQA to a file"):
        Gpqa().load(1, split="test", seed=0)
    with pytest.raises(FileNotFoundError, match=r"HuggingFaceH4/MATH-500: .*; set SPRINT_MATH500 to a file"):
        Math500().load(1, split="test", seed=0)


def test_difficulty_is_a_level_where_the_data_have_one(math_file: Path) -> None:
    task = Math500(math_file)
    found = task.load(5, split="test", seed=0)
    assert difficulty(task, found) == ({p.id: float(p.meta["level"]) for p in found}, "level {}")
    assert difficulty(get_task("gpqa"), []) is None
    countdown = get_task("countdown")
    [problem] = countdown.load(1, split="test", seed=0)
    assert difficulty(countdown, [problem]) == (
        {problem.id: first_moves_tried(*numbers_of(problem.id))},
        "{} first moves",
    )
    assert set(task.all_questions()) >= {p.question for p in found}
    assert [title(name) for name in ("countdown", "math500", "gpqa")] == ["Countdown", "MATH-500", "GPQA-diamond"]
