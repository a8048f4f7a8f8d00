"""Longhand: problems with a real split, worked solutions that are right line by line, a verifier not to be fooled."""

from __future__ import annotations

import math
import random
import re

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasoning_gym.arithmetic.products import ProductsConfig, ProductsDataset

from sprint_lib.tasks import NO_ANSWER, Problem, check_unique, get_task, longhand
from sprint_lib.tasks.longhand import DIGITS, LABELS, TERMS, Longhand, draw_term, places, problem, question, split_of

terms_ = st.lists(st.tuples(st.integers(1000, 9999), st.integers(100, 999)), min_size=1, max_size=len(LABELS))


def _number(text: str) -> int:
    """The value of places as they are written, ticks left out; each stands where it should."""
    parts = text.split()
    for power, part in enumerate(parts):
        assert re.fullmatch(rf"[0-9]0{{{power}}}'?", part)
    return sum(int(part.strip("'")) for part in parts)


# --- problems ---------------------------------------------------------------------------


def test_problems_are_distinct_and_the_same_for_the_same_seed() -> None:
    task = get_task("longhand")
    found = task.load(200, split="test", seed=3)
    check_unique(found)
    assert found == task.load(200, split="test", seed=3)
    assert found[:50] == task.load(50, split="test", seed=3)
    assert found != task.load(200, split="test", seed=4)
    assert {len(p.meta["terms"]) for p in found} == set(range(TERMS[0], TERMS[1] + 1))
    for p in found:
        assert task.difficulty(p) == len(p.meta["terms"])  # type: ignore[attr-defined]
        assert p.id == "+".join(f"{a}*{b}" for a, b in p.meta["terms"])
        assert p.answer == str(sum(math.prod(term) for term in p.meta["terms"]))
        assert all(len(str(n)) == digits for term in p.meta["terms"] for n, digits in zip(term, DIGITS, strict=True))


def test_every_product_of_a_test_problem_is_held_out() -> None:
    task = Longhand()
    products = {
        split: {frozenset(term) for p in task.load(300, split=split, seed=0) for term in p.meta["terms"]}
        for split in ("train", "test")
    }
    assert not products["train"] & products["test"]
    for split, found in products.items():
        assert {split_of((min(term), max(term))) for term in found} == {split}
    assert split_of((5347, 582)) == split_of((582, 5347))
    rng = random.Random(0)
    share = sum(split_of((rng.randint(1000, 9999), rng.randint(100, 999))) == "test" for _ in range(4000)) / 4000
    assert share == pytest.approx(1 / longhand.TEST_SHARE, abs=0.02)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no split 'dev'; there are: train, test"):
        Longhand().load(1, split="dev", seed=0)


# --- the worked solution ----------------------------------------------------------------


@given(st.integers(0, 10**8 - 1))
def test_places_give_the_number_back(number: int) -> None:
    assert _number(places(number, 8)) == number


@given(terms_)
def test_every_line_of_a_worked_solution_is_right(terms: list[tuple[int, int]]) -> None:
    grade = Longhand().grade(problem(terms), longhand.trace(terms))
    assert grade.correct
    total, results, factors, label = 0, {}, (), ""
    for line in longhand.trace(terms).splitlines():
        word, *rest = line.split()
        if word == "Work":
            label, total = rest[0], 0
            first, second = " ".join(rest[1:]).split("*")
            factors = (_number(" ".join(reversed(first.split()))), _number(" ".join(reversed(second.split()))))
        elif word == "Result":
            results[label] = _number(" ".join(rest[1:]))
            assert rest[0] == label
            assert results[label] == total == math.prod(factors)
            total = 0
        elif word == "Add":
            added = results.pop(rest[0])
            assert _number(" ".join(rest[1:])) == added
            total += added
        elif word == ":":
            assert _number(" ".join(rest)) == total
        elif word == "Total":
            assert _number(" ".join(reversed(rest))) == total
        elif word not in ("Sum", "Answer:"):
            b, a, part, sums = re.fullmatch(r" (\d+) \* (\d+) = (\d+) :((?: [\d']+)+)", line).groups()  # type: ignore[union-attr]
            assert int(a) * int(b) == int(part)
            total += int(part)
            assert _number(sums) == total
    assert not results  # all were added


@given(terms_)
def test_ticks_are_the_carries(terms: list[tuple[int, int]]) -> None:
    sums = [line for line in longhand.worked_sum(terms).splitlines() if line.startswith(" :")]
    assert len(sums) == len(terms) - 1
    before = math.prod(terms[0])
    for line, term in zip(sums, terms[1:], strict=True):
        carry = 0
        for power, word in enumerate(line.split()[1:]):
            column = before // 10**power % 10 + math.prod(term) // 10**power % 10 + carry
            carry = word.count("'")
            assert (column // 10, column % 10) == (carry, int(word[0]))
        before += math.prod(term)


# --- the verifier -----------------------------------------------------------------------

ONE = problem([(5347, 582), (1208, 946)])


@pytest.mark.parametrize(
    ("text", "correct", "reason"),
    [
        ("Answer: 4254722", True, ""),
        ("Answer: 1\nso\nAnswer: 4254722\n", True, ""),
        (r"The sum is \boxed{4254722}.", True, ""),
        ("Answer: 4254722\nAnswer: 4254723", False, "another sum"),
        ("Answer: 04254722", False, "malformed: not an integer"),
        ("Answer: 4254722.0", False, "malformed: not an integer"),
        ("Answer: 4,254,722", False, "malformed: not an integer"),
        ("Answer: 5347*582+1208*946", False, "malformed: not an integer"),
        ("Answer: ٤٢٥٤٧٢٢", False, "malformed: not an integer"),
        ("Answer: " + "9" * 90, False, "malformed: not an integer"),
        ("Answer: -4254722", False, "malformed: not an integer"),
        ("Answer: 4254722 4254723", False, "malformed: not an integer"),
        ("the Answer: 4254722", False, NO_ANSWER),
        ("4254722", False, NO_ANSWER),
        ("", False, NO_ANSWER),
    ],
)
def test_answers(text: str, correct: bool, reason: str) -> None:
    grade = Longhand().grade(ONE, text)
    assert (grade.correct, grade.reason) == (correct, reason)


@given(st.text(st.characters(), max_size=300) | st.text("Answer: 0123456789\n\\boxed{}", max_size=200))
def test_any_text_is_graded(text: str) -> None:
    grade = Longhand().grade(ONE, text)
    assert not grade.correct or "4254722" in text


@pytest.mark.parametrize("unit", ["Answer: ", "\nAnswer: 1", "\\boxed{", "\n \t", "9", "{", "\nAnswer: " + "9" * 99])
def test_long_texts_take_little_time(unit: str) -> None:
    texts = iter([unit * (200_000 // len(unit))])
    assert hostile.slowest(lambda text: Longhand().grade(ONE, text), texts) < 1


def test_graded_as_reasoning_gym_does() -> None:
    gym = ProductsDataset(ProductsConfig(min_terms=2, max_terms=2, min_digits=3, max_digits=4, size=50, seed=1))
    rng = random.Random(0)
    for entry in gym:
        mine = Problem("", entry["question"], entry["answer"])
        for answer in (entry["answer"], str(rng.randrange(10**6)), "", entry["answer"] + "0"):
            theirs = gym.score_answer(answer, entry) == 1.0
            assert Longhand().grade(mine, f"Answer: {answer}").correct == theirs


def test_a_question_names_its_products() -> None:
    assert question([(5347, 582), (1208, 946)]) == (
        "Add these products:\nA 5000 300 40 7 * 500 80 2\nB 1000 200 00 8 * 900 40 6\n"
    )
    assert split_of(draw_term(random.Random(0), "test")) == "test"
