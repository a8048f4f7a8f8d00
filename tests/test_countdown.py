"""Countdown: problems, solver, search traces, and a verifier that agrees with reasoning_gym's and cannot be fooled."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from fractions import Fraction

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasoning_gym.games.countdown import CountdownConfig, CountdownDataset

from sprint_lib.tasks import Problem, check_unique, countdown, get_task, verifier
from sprint_lib.tasks.countdown import (
    MAX_NUMBER,
    MAX_VALUE,
    TARGETS,
    Countdown,
    chain_text,
    chain_to_expression,
    draw,
    extract_answer,
    moves,
    numbers_of,
    question,
    search_trace,
    solve,
    split_of,
    verify,
)

# --- problems ---------------------------------------------------------------------------


def test_problems_are_distinct_solvable_and_the_same_for_the_same_seed() -> None:
    task = get_task("countdown")
    problems = task.load(60, split="test", seed=4)
    assert problems == task.load(60, split="test", seed=4)
    assert problems[:40] == task.load(40, split="test", seed=4)
    assert {p.id for p in problems} != {p.id for p in task.load(60, split="test", seed=5)}
    check_unique(problems)
    for problem in problems:
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        assert len(numbers) == 4
        assert 1 <= min(numbers) <= max(numbers) <= MAX_NUMBER
        assert TARGETS[0] <= target <= TARGETS[1]
        assert problem.question == f"Numbers: {' '.join(map(str, sorted(numbers)))}\nTarget: {target}\n"
        assert verify(problem.answer, numbers, target).correct
        assert numbers_of(problem.id) == (tuple(numbers), target)
        assert countdown.problem(numbers[::-1], target) == problem


def test_a_problem_without_a_solution_has_no_answer() -> None:
    made = countdown.problem([4, 1, 1, 1], 99)
    assert made == Problem("1-1-1-4=99", "Numbers: 1 1 1 4\nTarget: 99\n", "", {"numbers": [1, 1, 1, 4], "target": 99})


def test_no_problem_is_in_both_splits() -> None:
    task = Countdown()
    train = {p.id for seed in range(2) for p in task.load(150, split="train", seed=seed)}
    test = {p.id for seed in range(2) for p in task.load(150, split="test", seed=seed)}
    assert not train & test
    assert min(len(train), len(test)) > 250


@given(st.lists(st.integers(1, 99), min_size=2, max_size=4), st.integers(*TARGETS), st.randoms())
def test_the_split_is_the_problem_s_own_whatever_the_order_of_its_numbers(
    numbers: list[int], target: int, rng: random.Random
) -> None:
    shuffled = rng.sample(numbers, len(numbers))
    assert split_of(numbers, target) == split_of(shuffled, target)


def test_one_problem_in_ten_is_held_out() -> None:
    rng = random.Random(0)
    splits = Counter(split_of([rng.randint(1, 20) for _ in range(4)], rng.randint(*TARGETS)) for _ in range(5000))
    assert 0.08 < splits["test"] / 5000 < 0.12


def test_drawn_problems_are_of_the_split_asked_for() -> None:
    rng = random.Random(0)
    for split in ("train", "test"):
        assert {split_of(*draw(rng, split, count=3)) for _ in range(50)} == {split}


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no split 'validation'; there are: train, test"):
        Countdown().load(1, split="validation", seed=0)
    with pytest.raises(ValueError, match="only 0 test problems found with numbers up to 1, 5 asked for"):
        Countdown().load(5, split="test", seed=0, max_number=1)


# --- moves, solver, traces --------------------------------------------------------------

_states = st.lists(st.integers(0, 20), min_size=2, max_size=4).map(lambda numbers: tuple(sorted(numbers)))


@given(_states)
def test_moves_are_exact_and_leave_what_they_say(state: tuple[int, ...]) -> None:
    found = moves(state)
    assert len({(move.a, move.op, move.b) for move in found}) == len(found)
    for move in found:
        exact = {"+": move.a + move.b, "-": move.a - move.b, "*": move.a * move.b}.get(move.op)
        assert move.result == (exact if exact is not None else Fraction(move.a, move.b))
        assert 0 <= move.result <= MAX_VALUE
        rest = Counter(state) - Counter([move.a, move.b])
        assert Counter(move.left) == rest + Counter([move.result])


def test_moves_come_in_their_order() -> None:
    assert [str(move) for move in moves((2, 6, 6))] == [
        *("2 + 6 = 8", "6 - 2 = 4", "2 * 6 = 12", "6 / 2 = 3"),
        *("6 + 6 = 12", "6 - 6 = 0", "6 * 6 = 36", "6 / 6 = 1"),
    ]
    assert [str(move) for move in moves((0, 60))] == ["0 + 60 = 60"]
    assert [str(move) for move in moves((1, 100))] == ["100 - 1 = 99", "1 * 100 = 100"]


def _reachable(numbers: tuple[int, ...]) -> set[int]:
    """Every result of using all numbers up; products with 0 and, on the way, results above MAX_VALUE left out."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, j in itertools.combinations(range(len(numbers)), 2):
        low, high = sorted((numbers[i], numbers[j]))
        rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        results = [low + high, high - low, *([low * high] if low else [])]
        results += [high // low] if low and high % low == 0 else []
        for result in results:
            if len(numbers) == 2 or result <= MAX_VALUE:
                found |= _reachable((*rest, result))
    return found


def test_the_solver_finds_a_solution_if_there_is_one() -> None:
    rng = random.Random(2)
    solved = 0
    for _ in range(60):
        state = tuple(sorted(rng.randint(1, 12) for _ in range(rng.randint(2, 4))))
        reachable = _reachable(state)
        for target in rng.sample(range(*TARGETS), 8):
            chain = solve(state, target)
            assert (chain is not None) == (target in reachable), (state, target)
            if chain:
                solved += 1
                assert verify(chain_text(chain), state, target).correct
    assert solved > 50


def test_train_problems_are_easy_middling_and_hard_in_turn() -> None:
    problems = Countdown().load(60, split="train", seed=3)
    tried = [countdown.first_moves_tried(p.meta["numbers"], p.meta["target"]) for p in problems]
    assert [1 if t <= 5 else 2 if t <= 11 else 3 for t in tried] == [1, 2, 3] * 20
    assert problems[:7] == Countdown().load(7, split="train", seed=3)
    few = Countdown().load(10, split="train", seed=3, max_number=3)  # no hard ones with numbers so small
    assert len({p.id for p in few}) == 10


@pytest.mark.parametrize("count", [2, 3, 4])
def test_traces_of_the_solver_are_graded_right_exactly_if_there_is_a_solution(count: int) -> None:
    rng = random.Random(count)
    outcomes = Counter[bool]()
    for _ in range(150):
        numbers, target = draw(rng, "train", count=count)
        if rng.random() < 0.5:  # two numbers seldom make a random target
            target = numbers[0] + numbers[1] + sum(numbers[2:])
        problem = Problem("p", question(numbers, target), "", {"numbers": list(numbers), "target": target})
        grade = Countdown().grade(problem, search_trace(numbers, target))
        assert grade.correct == (solve(numbers, target) is not None)
        outcomes[grade.correct] += 1
    assert min(outcomes.values()) > 5


def test_a_trace_is_the_solver_s_search() -> None:
    assert search_trace((2, 3, 17), 85) == (
        "Left 2 3 17 -> 85\n"
        " 2 + 3 = 5 ; 5 17 = 22 12 85 -> 85 yes\n"
        "Solved 2 + 3 = 5 ; 5 * 17 = 85\n"
        "Answer 2 + 3 = 5 ; 5 * 17 = 85\n"
    )
    trace = search_trace((3, 4, 5, 7), 24)
    assert trace.startswith("Try 3 + 4\n = 7\nLeft 5 7 7 -> 24\n 5 + 7 = 12 ; 7 12 = 19 5 84 -> 24 no\n")
    assert trace.endswith("Answer 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24\n")
    assert trace.count("Try ") == trace.count("\nNone\n") + 1
    assert search_trace((1, 1, 1, 1), 99).endswith("None\nAnswer none\n")


def test_a_given_number_of_first_moves_is_tried_hits_or_not() -> None:
    """The answer is the last hit, wherever it was; without one it is `none`."""
    assert countdown.question((2, 3, 4, 17), 85, (3,)) == "Numbers: 2 3 4 17\nTarget: 85\nTry 3\n"
    trace = search_trace((2, 3, 4, 17), 85, (3,))
    assert trace.startswith(search_trace((2, 3, 4, 17), 85).partition("Answer")[0])
    assert [line for line in trace.splitlines() if line.startswith("Try")] == ["Try 2 + 3", "Try 3 - 2", "Try 2 * 3"]
    assert trace.endswith("Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n")
    assert search_trace((2, 3, 4, 17), 85, (1,)).endswith("None\nAnswer none\n")
    assert search_trace((2, 3, 17), 85, (2,)) == (
        "Left 2 3 17 -> 85\n"
        " 2 + 3 = 5 ; 5 17 = 22 12 85 -> 85 yes\n"
        "Solved 2 + 3 = 5 ; 5 * 17 = 85\n"
        " 3 - 2 = 1 ; 1 17 = 18 16 17 -> 85 no\n"
        "Answer 2 + 3 = 5 ; 5 * 17 = 85\n"
    )
    hits = [line for line in search_trace((2, 3, 4, 6), 24, (8,)).splitlines() if line.startswith("Solved ")]
    assert len(hits) > 1
    assert search_trace((2, 3, 4, 6), 24, (8,)).endswith(hits[-1].replace("Solved", "Answer") + "\n")


def test_a_search_is_not_limited_in_what_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="3 numbers: no search to be limited by"):
        search_trace((2, 3, 17), 85, (2, 1))


def test_second_moves_can_be_limited_too() -> None:
    assert countdown.question((2, 3, 4, 17), 85, (2, 1)) == "Numbers: 2 3 4 17\nTarget: 85\nTry 2 1\n"
    assert search_trace((2, 3, 4, 17), 85, (2, 1)) == (
        "Try 2 + 3\n = 5\nLeft 4 5 17 -> 85\n 4 + 5 = 9 ; 9 17 = 26 8 -> 85 no\nNone\n"
        "Try 3 - 2\n = 1\nLeft 1 4 17 -> 85\n 1 + 4 = 5 ; 5 17 = 22 12 85 -> 85 yes\n"
        "Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"
        "Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"
    )


# --- grading ----------------------------------------------------------------------------


def test_answers_in_every_form() -> None:
    numbers, target = [3, 4, 5, 7], 24
    right = [
        "3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24",
        "3*4+5+7",
        " (3 * 4) + (5 + 7) = 24 ",
        "7--5+3*4",
        "-(3*-4) +5+7",
    ]
    for answer in right:
        assert verify(answer, numbers, target).correct, answer
        assert (
            Countdown()
            .grade(Problem("p", "", "", {"numbers": numbers, "target": target}), f"...\nAnswer {answer}")
            .correct
        )
    wrong = {
        "3 * 4 + 5 + 8": "other numbers used",
        "3 * 4 + 12": "other numbers used",
        "3 + 4 + 5 + 7": "misses the target",
        "3 * 4 + 5 + 7 = 25": "malformed",
        "3 * 4 = 13 ; 5 + 7 = 12 ; 13 + 12 = 25": "malformed",
        "3 * 4 = 12 ; 5 + 7 = 12": "malformed",  # two results, neither used
        "3 * 4 = 12 ; 12 + 12 = 24": "other numbers used",
        "3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24 ;": "malformed",
        "": "malformed",
        "none": "malformed",
        "24": "other numbers used",
    }
    for answer, reason in wrong.items():
        grade = verify(answer, numbers, target)
        assert not grade.correct, answer
        assert grade.reason.startswith(reason), (answer, grade)


def test_a_number_counts_as_often_as_it_is_there() -> None:
    assert verify("6 + 6 + 6 + 6", [6, 6, 6, 6], 24).correct
    assert not verify("6 + 6 + 6 + 6", [6, 6, 6, 4], 24).correct
    assert not verify("6 * 4", [6, 6, 4, 4], 24).correct


def test_chains_and_their_expressions_are_graded_alike() -> None:
    for problem in Countdown().load(100, split="train", seed=9):
        expression = chain_to_expression(problem.answer)
        assert expression is not None
        for answer in (problem.answer, expression, f"{expression} = {problem.meta['target']}"):
            assert verify(answer, problem.meta["numbers"], problem.meta["target"]).correct
            assert not verify(answer, problem.meta["numbers"], problem.meta["target"] + 1).correct
            assert not verify(answer, problem.meta["numbers"][1:], problem.meta["target"]).correct


def test_a_chain_may_use_a_number_and_a_result_of_the_same_value() -> None:
    assert verify("3 + 4 = 7 ; 7 - 5 = 2 ; 2 * 7 = 14", [3, 4, 5, 7], 14).correct
    assert not verify("3 + 4 = 7 ; 7 - 5 = 2 ; 2 * 7 = 14", [3, 4, 5, 2], 14).correct


def test_the_last_answer_of_a_text_counts() -> None:
    assert extract_answer("Answer 1 + 1\nmore\nAnswer: 2 + 2 \nend") == "2 + 2"
    assert extract_answer("Answer 1 + 1\nso \\boxed{3 + 3}") == "3 + 3"
    assert extract_answer("\\boxed{3 + 3}\n  Answer 1 + 1") == "1 + 1"
    assert extract_answer("the Answer 1 + 1") is None
    assert extract_answer("Answer\n1 + 1") is None
    assert extract_answer("") is None


HOSTILE = [
    "9" * 100_000,
    *("(" * 99 + inner + ")" * 99 for inner in ("3", "3 4", "")),
    "3*(" * 49 + "3 4" + ")" * 49,
    "(3" * 100,
    "-" * 199 + "3",
    "3 ** 4 ** 5 ** 7",
    "3 // 4",
    "1e9",
    "3.0 + 4",
    "0x10",
    "03 + 4 + 5 + 7",
    "00 + 3 + 4 + 5 + 7",
    "3 + 4 + 5 + 7 + 0000000",
    "1000000 + 3",
    "1_9",
    "٣ + 4 + 5 + 7",
    "٣ + 4 = 7 ; 7 + 5 = 12 ; 12 + 7 = 19",
    "3 + 4 = 7 ; " * 15,
    "3 / (4 - 4) + 5 + 7",
    "3 / 0",
    "__import__('os').system('true')",
    "exec('1')",
    "999999 * 999999 * 999999 * 999999",
    "3, 4, 5, 7",
    "3 + 4) + (5 + 7",
    "()",
    "3 4 5 7",
    "3(4)(5)(7)",
    "3 +\n4 + 5 + 7",
    "\ud800",
    "=" * 200,
    ";" * 200,
    "= 19",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: repr(answer[:20]))
def test_hostile_answers_are_wrong_with_a_reason(answer: str) -> None:
    for target in (19, 0, 1):
        grade = verify(answer, [3, 4, 5, 7], target)
        assert not grade.correct
        assert grade.reason


_PIECES = [
    *"0123456789+-*/()=;. ",
    " + ",
    " ; ",
    " = ",
    "Answer ",
    "\nAnswer: ",
    "\\boxed{",
    "}",
    "24",
    "(((",
    ")))",
    "3 * 4 = 12",
]


def _fuzz(n: int) -> None:
    problem = Problem("p", "", "", {"numbers": [3, 4, 5, 7], "target": 24})

    def check(text: str) -> None:
        verify(text, [3, 4, 5, 7], 24)
        verify(text[:200], [3, 4, 5, 7], 24)
        Countdown().grade(problem, text)
        Countdown().grade(problem, f"Answer {text}")

    samples = [
        "Answer 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24",
        "(3 * 4) + (5 + 7) = 24",
        search_trace((3, 4, 5, 7), 24),
        *HOSTILE[1:],
    ]
    assert hostile.slowest(check, hostile.strings(n, 1, samples, _PIECES)) < 0.05 * hostile.slowness()


def test_no_string_raises_or_is_slow() -> None:
    _fuzz(10_000)


@pytest.mark.slow
def test_no_string_raises_or_is_slow_of_a_hundred_thousand() -> None:
    _fuzz(100_000)


# --- against reasoning_gym's scorer -----------------------------------------------------


def _expression(rng: random.Random, numbers: list[int]) -> str:
    """A random expression on the numbers in their order; brackets often, but not only, where they matter."""
    if len(numbers) == 1:
        return f"{rng.choice(['', '', '', '', '-'])}{numbers[0]}"
    cut = rng.randrange(1, len(numbers))
    sides = (_expression(rng, numbers[:cut]), _expression(rng, numbers[cut:]))
    left, right = (f"({side})" if rng.random() < 0.6 else side for side in sides)
    space = rng.choice(["", " "])
    return f"{left}{space}{rng.choice('+-*/')}{space}{right}"


def _value(expression: str) -> Fraction | None:
    """By Python itself; the expression is our own."""
    try:
        return Fraction(eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction}))
    except ZeroDivisionError:
        return None


@pytest.fixture(scope="module")
def gym() -> CountdownDataset:
    sizes = {"min_numbers": 4, "max_numbers": 4, "min_value": 1, "max_value": 20}
    return CountdownDataset(CountdownConfig(seed=5, size=100, min_target=TARGETS[0], max_target=TARGETS[1], **sizes))


def _agree(gym: CountdownDataset, answer: str, numbers: list[int], target: int) -> bool:
    """Both verdicts on an answer are the same; returns it."""
    entry = {"metadata": {"numbers": numbers, "target": target}}
    theirs = gym.score_answer(answer, entry) == 1.0
    assert verify(answer, numbers, target).correct == theirs, (answer, numbers, target)
    return theirs


def test_reasoning_gym_s_own_answers_are_accepted(gym: CountdownDataset) -> None:
    for entry in gym:
        assert _agree(gym, entry["answer"], entry["metadata"]["numbers"], entry["metadata"]["target"])


def test_our_answers_are_accepted_by_reasoning_gym(gym: CountdownDataset) -> None:
    for problem in Countdown().load(80, split="test", seed=8):
        expression = chain_to_expression(problem.answer)
        assert expression is not None
        assert _agree(gym, expression, problem.meta["numbers"], problem.meta["target"])


def test_right_and_wrong_expressions_are_judged_as_reasoning_gym_judges_them(gym: CountdownDataset) -> None:
    rng = random.Random(11)
    verdicts = Counter[bool]()
    for i in range(2500):
        numbers = [rng.randint(1, 20) for _ in range(4)]
        answer = _expression(rng, numbers)
        value = _value(answer)
        target = int(value) if value is not None and value.denominator == 1 else rng.randint(*TARGETS)
        if i % 4 == 0:
            target += rng.choice((-1, 1))
        if i % 5 == 0:
            numbers = [*numbers[1:], rng.choice((numbers[0], numbers[1], 21))]
        if i % 7 == 0:
            at = rng.randrange(len(answer))
            answer = answer[:at] + answer[at + rng.randrange(2) :]  # nothing, or a character lost
        verdicts[_agree(gym, answer, rng.sample(numbers, 4), target)] += 1
    assert min(verdicts.values()) > 500


def test_where_we_are_stricter_than_reasoning_gym(gym: CountdownDataset) -> None:
    """Its scorer compares floats and knows more operations; ours is exact, and + - * / is all."""
    for answer, numbers, target in (
        ("24 + 1 / (97 * 98)", [24, 1, 97, 98], 24),
        ("2 ** 3 + 4 * 4", [2, 3, 4, 4], 24),
        ("50 // 2 - 3 + 2", [50, 2, 3, 2], 24),
    ):
        assert gym.score_answer(answer, {"metadata": {"numbers": numbers, "target": target}}) == 1.0
        assert not verify(answer, numbers, target).correct


# --- executions that solve a problem ----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "solved"),
    [
        ("Try 2 + 6\n = 8\nSolved 2 + 6 = 8 ; 8 - 7 = 1 ; 1 * 10 = 10\n", True),
        ("Solved 2 + 6 = 8 ; 8 - 7 = 1 ; 1 * 10 = 11\n", False),  # a wrong sum
        ("Solved 2 + 7 = 9 ; 9 + 10 = 19\n", False),  # not all numbers
        ("Left 7 8 10 -> 10\n 10 + 0 -> 10 yes\n", False),  # says so, and has no chain
        ("not Solved 2 + 6 = 8 ; 8 - 7 = 1 ; 1 * 10 = 10\n", False),
        ("Solved \nSolved 2 + 6 = 8 ; 8 - 7 = 1 ; 1 * 10 = 10", True),
        ("", False),
        ("Solved " + "(" * 10_000, False),
    ],
)
def test_an_execution_solves_a_problem_by_a_chain_that_holds(text: str, solved: bool) -> None:
    posed = countdown.problem((2, 6, 7, 10), 10)
    assert Countdown().solved(posed, text) is solved
    check = verifier(Countdown(), posed)
    assert check is not None
    assert check(text) is solved


def test_a_task_that_cannot_tell_has_no_verifier() -> None:
    task = get_task("math500")
    assert verifier(task, Problem("a", "?", "1")) is None
