"""Countdown: reach a target with four numbers, each used exactly once.

The embedded task of the suite (Adaptive Parallel Reasoning, arXiv 2504.15466,
and SPRINT, Table 2). This module generates problems with a real train/test
split, verifies answers strictly and without `eval`, and holds the symbolic
solver whose depth-first search traces are the language the base model learns:

    Numbers: 3 4 5 7
    Target: 24
    Try 3 + 4                               one first move ...
     = 7
    Left 5 7 7 -> 24                        ... the subproblem it leaves ...
     5 + 7 = 12 ; 7 12 = 19 5 84 -> 24 no   ... each second move, and what the last two numbers give ...
    None                                    ... to the end, then backtrack
    Try 3 * 5
     = 15
    Left 4 7 15 -> 24
     4 + 7 = 11 ; 11 15 = 26 4 -> 24 no
     7 - 4 = 3 ; 3 15 = 18 12 45 5 -> 24 no
    ...
    Solved 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24
    Answer 3 * 4 = 12 ; 5 + 7 = 12 ; 12 + 12 = 24
"""

from __future__ import annotations

import ast
import hashlib
import operator
import random
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from sprint_lib.tasks import NO_ANSWER, Grade, Problem

MAX_VALUE = 100  # largest intermediate result in a search trace; one token each
MAX_NUMBER = 12  # numbers of a question are 1 to this; APR has 99, more than a model of this size learns
TARGETS = (10, 100)  # inclusive range of targets (APR, section 4)
TEST_SHARE = 10  # one problem in so many is held out
DIFFICULTIES = (5, 11, 10**9)  # most first moves tried in an easy, a middling and a hard problem of the train split
_MAX_EXPRESSION = 200  # characters; longer answers are malformed
_FRUITLESS = 2_000  # draws without a new problem after which a split is taken to be exhausted

State = tuple[int, ...]
Tries = tuple[()] | tuple[int] | tuple[int, int]  # how many first moves, and at most how many second moves of each


@dataclass(frozen=True)
class Move:
    """`a op b = result`, leaving the sorted numbers `left`."""

    a: int
    op: str
    b: int
    result: int
    left: State

    @property
    def task(self) -> str:
        return f"{self.a} {self.op} {self.b}"

    def __str__(self) -> str:
        return f"{self.a} {self.op} {self.b} = {self.result}"


def moves(state: State, max_value: int = MAX_VALUE) -> list[Move]:
    """All moves of a sorted state in canonical order: pairs left to right, then + - * /.

    Differences are larger minus smaller, divisions exact (APR, section 4). Moves
    that only repeat another (the same pair of values, `x / 1`, `x - 0`), products
    with 0 and results above `max_value` are left out, so that a problem which only
    they solve counts as unsolvable and is never posed.
    """
    found: list[Move] = []
    seen: set[tuple[int, int]] = set()
    for i, low in enumerate(state):
        for j in range(i + 1, len(state)):
            high = state[j]
            if (low, high) in seen:
                continue
            seen.add((low, high))
            rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
            for a, op, b, result in _results(low, high):
                if result <= max_value:
                    found.append(Move(a, op, b, result, tuple(sorted((*rest, result)))))
    return found


def _results(low: int, high: int) -> Iterator[tuple[int, str, int, int]]:
    yield low, "+", high, low + high
    if low == 0:
        return
    yield high, "-", low, high - low
    yield low, "*", high, low * high
    if low > 1 and high % low == 0:
        yield high, "/", low, high // low


def finishing_move(pair: State, target: int) -> Move | None:
    """The first move of a pair of numbers that gives the target, or None."""
    return next((m for m in moves(pair, max_value=10**9) if m.result == target), None)


def solve(state: State, target: int, max_value: int = MAX_VALUE) -> list[Move] | None:
    """Depth-first search in canonical order; the first solution as a chain of moves, or None."""
    if len(state) == 2:
        last = finishing_move(state, target)
        return [last] if last else None
    for move in moves(state, max_value):
        rest = solve(move.left, target, max_value)
        if rest:
            return [move, *rest]
    return None


def first_moves_tried(numbers: Sequence[int], target: int) -> int:
    """How many first moves the solver tries, the one that succeeds included: a problem's difficulty.

    All of them if there is no solution.
    """
    first = moves(tuple(sorted(numbers)))
    tried = (place for place, move in enumerate(first, 1) if solve(move.left, target))
    return next(tried, len(first))


def question(numbers: Sequence[int], target: int, tries: Tries = ()) -> str:
    """The problem as text; with `tries`, a third line says how far to search before the answer."""
    asked = f"Numbers: {' '.join(map(str, sorted(numbers)))}\nTarget: {target}\n"
    return f"{asked}Try {' '.join(map(str, tries))}\n" if tries else asked


def chain_text(chain: Sequence[Move]) -> str:
    return " ; ".join(map(str, chain))


def check(pair: State, target: int) -> str:
    """The line that says what a pair of numbers gives, within the largest value, and whether it is the target."""
    results = [move.result for move in moves(pair)]
    verdict = "yes" if target in results else "no"
    return f"{pair[0]} {pair[1]} = {' '.join(map(str, results))} -> {target} {verdict}\n"


def _subsearch(
    state: State, target: int, before: list[Move], out: list[str], width: int | None, past_hits: bool = False
) -> bool:
    """Write the search of a two- or three-number state, `width` moves wide; True if it solved the problem."""
    out.append(f"Left {' '.join(map(str, state))} -> {target}\n")
    solved = False
    for move in moves(state)[:width] if len(state) == 3 else [None]:
        pair = move.left if move else state
        out.append((f" {move} ; " if move else " ") + check(pair, target))
        last = finishing_move(pair, target)
        if last:
            out.append(f"Solved {chain_text([*before, *([move] if move else []), last])}\n")
            solved = True
            if not past_hits:
                break
    if not solved:
        out.append("None\n")
    return solved


def search_trace(numbers: Sequence[int], target: int, tries: Tries = ()) -> str:
    """The solver's whole search as text, two to four numbers; see the module's example.

    With `tries` (how many first moves; of four numbers also how many second moves of each, at most) it goes on to
    the next first move after a hit, until all are tried, and answers with its last hit.

    Raises:
        ValueError: if `tries` names moves that so few numbers do not have.
    """
    if len(tries) > max(0, len(numbers) - 2):
        raise ValueError(f"{len(numbers)} numbers: no search to be limited by {tries}")
    state = tuple(sorted(numbers))
    first, second = (*tries, None, None)[:2]
    out: list[str] = []
    if len(state) <= 3:
        _subsearch(state, target, [], out, first, past_hits=bool(tries))
    else:
        for move in moves(state)[:first]:
            out.append(f"Try {move.task}\n = {move.result}\n")
            if _subsearch(move.left, target, [move], out, second) and not tries:
                break
    hit = next((line for line in reversed(out) if line.startswith("Solved ")), "none\n")
    out.append(f"Answer {hit.removeprefix('Solved ')}")
    return "".join(out)


# --- problems -------------------------------------------------------------------------


def split_of(numbers: Sequence[int], target: int) -> str:
    """Train or test, decided by the problem itself, so that no order of drawing can leak."""
    key = f"{' '.join(map(str, sorted(numbers)))}|{target}"
    return "test" if hashlib.sha256(key.encode()).digest()[0] % TEST_SHARE == 0 else "train"


def draw(rng: random.Random, split: str, *, count: int = 4, max_number: int = MAX_NUMBER) -> tuple[State, int]:
    """One (sorted numbers, target) of a split, uniform; not necessarily solvable."""
    while True:
        numbers = tuple(sorted(rng.randint(1, max_number) for _ in range(count)))
        target = rng.randint(*TARGETS)
        if split_of(numbers, target) == split:
            return numbers, target


def problem(numbers: Sequence[int], target: int) -> Problem:
    """The problem of these numbers and this target; its answer is the solver's, "" if there is none."""
    state = tuple(sorted(numbers))
    chain = solve(state, target)
    meta = {"numbers": list(state), "target": target}
    id_ = f"{'-'.join(map(str, state))}={target}"
    return Problem(id_, question(state, target), chain_text(chain) if chain else "", meta)


def numbers_of(id_: str) -> tuple[State, int]:
    """The numbers and the target of a problem, from its id."""
    numbers, _, target = id_.partition("=")
    return tuple(map(int, numbers.split("-"))), int(target)


def _solvable(rng: random.Random, split: str, max_number: int) -> Iterator[Problem]:
    """Distinct solvable problems as they are drawn, until no new one seems to be left."""
    seen: set[str] = set()
    fruitless = 0
    while fruitless < _FRUITLESS:
        fruitless += 1
        drawn = problem(*draw(rng, split, max_number=max_number))
        if drawn.answer and drawn.id not in seen:
            seen.add(drawn.id)
            fruitless = 0
            yield drawn


def _evenly(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems of every difficulty in turn, as far as there are any; what is left of the others comes last."""
    waiting: list[deque[Problem]] = [deque() for _ in DIFFICULTIES]
    turn = 0
    for drawn in problems:
        tried = first_moves_tried(drawn.meta["numbers"], drawn.meta["target"])
        waiting[sum(tried > most for most in DIFFICULTIES[:-1])].append(drawn)
        while waiting[turn]:
            yield waiting[turn].popleft()
            turn = (turn + 1) % len(DIFFICULTIES)
    for queue in waiting:
        yield from queue


class Countdown:
    """Countdown as a task: four numbers, all different problems, all solvable."""

    name = "countdown"
    dialect = "sprint_lib.tasks.countdown_dialect:CountdownDialect"
    difficulty_of = (
        "{} first moves"  # that the symbolic solver tries, in its fixed order, until one leads to a solution
    )

    def difficulty(self, problem: Problem) -> float:
        """A problem's difficulty, from its id alone (Figure 5)."""
        return float(first_moves_tried(*numbers_of(problem.id)))

    def load(self, n: int, *, split: str, seed: int, max_number: int = MAX_NUMBER) -> list[Problem]:
        """Return `n` distinct solvable problems of a split, the same for the same seed.

        Those of the test split as they are drawn. Those of the train split easy, middling and hard in turn
        (`DIFFICULTIES`): the long searches, which need several stages, would be rare otherwise.

        Raises:
            ValueError: if there is no such split, or it seems to have fewer than `n` problems.
        """
        if split not in ("train", "test"):
            raise ValueError(f"countdown: no split {split!r}; there are: train, test")
        drawn = _solvable(random.Random(f"countdown {split} {seed}"), split, max_number)
        found = list(islice(drawn if split == "test" else _evenly(drawn), n))
        if len(found) < n:
            have = f"only {len(found)} {split} problems found with numbers up to {max_number}"
            raise ValueError(f"countdown: {have}, {n} asked for: raise max_number or ask for fewer")
        return found

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade a final text against the problem's numbers and target. Never raises."""
        answer = extract_answer(text)
        if answer is None:
            return Grade(False, "", NO_ANSWER)
        return verify(answer, problem.meta["numbers"], problem.meta["target"])

    def check(self, problem: Problem, text: str) -> bool:
        """Whether a final text's answer is right, told by arithmetic alone; here that is the grade. Never raises."""
        return self.grade(problem, text).correct

    def solved(self, problem: Problem, text: str) -> bool:
        """Whether a line `Solved ...` of a search reaches the target with the problem's numbers. Never raises."""
        chains = (line.removeprefix("Solved ") for line in text.splitlines() if line.startswith("Solved "))
        return any(verify(chain, problem.meta["numbers"], problem.meta["target"]).correct for chain in chains)


# --- grading --------------------------------------------------------------------------

_ANSWER = re.compile(r"(?:^|\n)[ \t]*Answer:?[ \t]+([^\n]{1,400})")
_BOXED = re.compile(r"\\boxed\{([^{}\n]{1,400})\}")
_NUMBER = "(0|[1-9][0-9]{0,5})"  # as a question writes it; \d would take any script's digits
_EQUATION = re.compile(rf" *{_NUMBER} *([-+*/]) *{_NUMBER} *= *{_NUMBER} *")
_EXPRESSION = re.compile(rf"(?:[-+*/() \t]|\b{_NUMBER}\b)+", re.ASCII)
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def extract_answer(text: str) -> str | None:
    """The last `Answer ...` line or boxed expression of a text, or None."""
    found = None
    for pattern in (_BOXED, _ANSWER):
        for match in pattern.finditer(text):
            if found is None or match.start() > found.start():
                found = match
    return found.group(1).strip() if found else None


def verify(answer: str, numbers: Sequence[int], target: int) -> Grade:
    """Strict check of an answer: every number used exactly once, exact arithmetic.

    An answer is an expression of + - * / (a minus may be a sign: `-3 + 27`) and brackets,
    optionally followed by `= target`, or a chain of equations joined by `;` as in a search
    trace. Time is linear in the answer, which is bounded. Never raises.
    """
    if len(answer) > _MAX_EXPRESSION:
        return Grade(False, "", "malformed: too long")
    expression = chain_to_expression(answer) if ";" in answer else _left_of_equals(answer, target)
    if expression is None:
        return Grade(False, "", "malformed: not a chain of equations on the numbers in hand")
    try:
        value, used = _evaluate(expression)
    except (ValueError, ZeroDivisionError) as error:
        return Grade(False, "", f"malformed: {error}")
    if sorted(used) != sorted(numbers):
        return Grade(False, expression, "other numbers used")
    if value != target:
        return Grade(False, expression, "misses the target")
    return Grade(True, expression)


def _left_of_equals(answer: str, target: int) -> str | None:
    left, equals, right = answer.partition("=")
    if equals and right.strip() != str(target):
        return None
    return left.strip()


def chain_to_expression(chain: str) -> str | None:
    """`3 + 4 = 7 ; 5 * 7 = 35` as one bracketed expression; None if an equation is no equation.

    A later equation takes an earlier result where its value is at hand, else a
    number of the question; which numbers were used is checked by `verify`.
    """
    results: list[tuple[int, str]] = []
    for part in chain.split(";"):
        match = _EQUATION.fullmatch(part)
        if not match:
            return None
        a, op, b, result = match.groups()
        if not _holds(int(a), op, int(b), int(result)):
            return None
        text = f"({_take(results, int(a))} {op} {_take(results, int(b))})"
        results.append((int(result), text))
    if len(results) != 1:  # a result that nothing used
        return None
    return results[0][1]


def _take(results: list[tuple[int, str]], value: int) -> str:
    for index, (result, text) in enumerate(results):
        if result == value:
            del results[index]
            return text
    return str(value)


def _holds(a: int, op: str, b: int, result: int) -> bool:
    if op == "/":
        return b != 0 and b * result == a
    return {"+": a + b, "-": a - b, "*": a * b}[op] == result


def _evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Value and numbers of an expression; ValueError if it is none."""
    if not _EXPRESSION.fullmatch(expression):
        raise ValueError("not an expression")
    used: list[int] = []
    try:
        return _value(ast.parse(expression, mode="eval").body, used), used
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("not an expression") from error


def _value(node: ast.expr, used: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand, used)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, used)
        case ast.BinOp(op=op) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(node.left, used), _value(node.right, used))
    raise ValueError("not an expression")
