"""Longhand: a sum of four to eight products, worked place by place. Every subtask is needed.

The second embedded task of the suite. In Countdown a search may end at its first success, so parallel executors do work
that one line of thought would have been spared; here nothing can be left out, which is where parallel work pays most.
This module generates problems with a real train/test split, verifies answers strictly, and writes the worked solution
that the base model learns. A number is the list of its places, zeros written out: ` 200 00 3`, or where it is added to,
the lowest first, ` 3 00 200`.

    Add these products:                                       the question
    A 5000 300 40 7 * 500 80 2
    B 1000 200 00 8 * 900 40 6
    ...
    Work A 5000 300 40 7 * 500 80 2                           a product ...
     2 * 7 = 14 : 4 10 000 0000 00000 000000 0000000          ... each place by each place, and the sum so far ...
     2 * 40 = 80 : 4 90 000 0000 00000 000000 0000000
     2 * 300 = 600 : 4 90 600 0000 00000 000000 0000000
     2 * 5000 = 10000 : 4 90 600 0000 10000 000000 0000000
     80 * 7 = 560 : 4 50' 200' 1000 10000 000000 0000000      ... where a tick is a carry to the next place
    ...
    Result A 4 50 900 1000 10000 100000 3000000
    Work B 1000 200 00 8 * 900 40 6
    ...
    Sum                                                       each result, and the sum so far
    Add A 4 50 900 1000 10000 100000 3000000 00000000
    Add B 8 60 700 2000 40000 100000 1000000 00000000
     : 2' 20' 700' 4000 50000 200000 4000000 00000000
    ...
    Total 10000000 2000000 400000 70000 1000 800 40 5         the highest place first
    Answer: 12471845

Problems are generated here, not by reasoning-gym: that package pulls in a solver, puzzles and maps for one line of
arithmetic. The tests compare with its scorer.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from sprint_lib.tasks import NO_ANSWER, Grade, Problem

LABELS = "ABCDEFGH"
TERMS = (4, 8)  # inclusive range of the number of products in a problem
DIGITS = (4, 3)  # of the two factors
PLACES = sum(DIGITS)  # of a product
SUM_PLACES = PLACES + 1  # of up to eight products
TEST_SHARE = 10  # one product in so many is held out
HEADER = "Add these products:\n"

Term = tuple[int, int]

# --- numbers in places ----------------------------------------------------------------


def place(digit: int, power: int, carry: int = 0) -> str:
    """The text of a digit at a place, with the carry it sends to the next one: `place(5, 1, carry=1)` is ` 50'`."""
    return f" {digit}{'0' * power}{chr(39) * carry}"


def places(number: int, count: int) -> str:
    """The lowest `count` places of a number, the lowest first: `places(203, 4)` is ` 3 00 200 0000`."""
    return "".join(place(number // 10**power % 10, power) for power in range(count))


def _added(numbers: Sequence[int], count: int) -> str:
    """The places of a sum, with the carries that arise on the way."""
    out, carry = [], 0
    for power in range(count):
        carry, digit = divmod(sum(number // 10**power % 10 for number in numbers) + carry, 10)
        out.append(place(digit, power, carry))
    return "".join(out)


# --- the worked solution --------------------------------------------------------------


def question(terms: Sequence[Term], labels: str = LABELS) -> str:
    """The problem as text; a product goes by its label."""
    return HEADER + "".join(f"{label}{_factors(term)}\n" for label, term in zip(labels, terms, strict=False))


def worked_product(label: str, term: Term) -> str:
    """One product worked longhand: what an executor writes."""
    first, second = (_places_of(factor) for factor in term)
    lines, total = [f"Work {label}{_factors(term)}\n"], 0
    for b, q in second:
        for a, p in first:
            part = a * b * 10 ** (p + q)
            sums = _added([total, part], PLACES)
            lines.append(f"{place(b, q)} *{place(a, p)} = {part} :{sums}\n")
            total += part
    return "".join([*lines, result(label, term)])


def result(label: str, term: Term) -> str:
    """The line that closes a worked product."""
    return f"Result {label}{places(math.prod(term), PLACES)}\n"


def _factors(term: Term) -> str:
    """A product in its places, the highest first: ` 5000 300 40 7 * 500 80 2`."""
    return " *".join("".join(place(*digit) for digit in reversed(_places_of(factor))) for factor in term)


def _places_of(number: int) -> list[tuple[int, int]]:
    return [(int(digit), power) for power, digit in enumerate(reversed(str(number)))]


def worked_sum(terms: Sequence[Term], labels: str = LABELS) -> str:
    """The results added one by one, the places of the total from the highest down, and the answer."""
    total, lines = 0, ["Sum\n"]
    for number, (label, term) in enumerate(zip(labels, terms, strict=False)):
        product = math.prod(term)
        lines.append(f"Add {label}{places(product, SUM_PLACES)}\n")
        if number:
            lines.append(f" :{_added([total, product], SUM_PLACES)}\n")
        total += product
    descending = "".join(place(total // 10**power % 10, power) for power in reversed(range(SUM_PLACES)))
    return "".join([*lines, f"Total{descending}\n", f"Answer: {total}\n"])


def trace(terms: Sequence[Term], labels: str = LABELS) -> str:
    """The whole solution in one line of thought; see the module's example."""
    work = (worked_product(label, term) for label, term in zip(labels, terms, strict=False))
    return "".join(work) + worked_sum(terms, labels)


# --- problems -------------------------------------------------------------------------


def split_of(term: Term) -> str:
    """Train or test, decided by the product itself whichever factor comes first: no order of drawing can leak."""
    key = "*".join(map(str, sorted(term)))
    return "test" if hashlib.sha256(f"longhand {key}".encode()).digest()[0] % TEST_SHARE == 0 else "train"


def draw_term(rng: random.Random, split: str) -> Term:
    """One product of a split, uniform."""
    while True:
        a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for digits in DIGITS)
        if split_of((a, b)) == split:
            return a, b


def problem(terms: Sequence[Term]) -> Problem:
    """The problem of these products; its answer is their sum."""
    id_ = "+".join(f"{a}*{b}" for a, b in terms)
    return Problem(id_, question(terms), str(sum(math.prod(term) for term in terms)), {"terms": [[*t] for t in terms]})


def _problems(rng: random.Random, split: str) -> Iterator[Problem]:
    seen: set[str] = set()
    while True:
        drawn = problem([draw_term(rng, split) for _ in range(rng.randint(*TERMS))])
        if drawn.id not in seen:
            seen.add(drawn.id)
            yield drawn


class Longhand:
    """Sums of products as a task. Every product of a test problem is held out, not only their combination."""

    name = "longhand"
    difficulty_of = "{} products"

    def difficulty(self, problem: Problem) -> float:
        """A problem's difficulty: how many products it adds."""
        return float(len(problem.meta["terms"]))

    def load(self, n: int, *, split: str, seed: int) -> list[Problem]:
        """Return `n` distinct problems of a split, four to eight products each, the same for the same seed.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in ("train", "test"):
            raise ValueError(f"longhand: no split {split!r}; there are: train, test")
        return list(islice(_problems(random.Random(f"longhand {split} {seed}"), split), n))

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade the last `Answer: ...` line or box of a text: exactly the sum, in plain digits. Never raises."""
        answer = extract_answer(text)
        if answer is None:
            return Grade(False, "", NO_ANSWER)
        if not _INTEGER.fullmatch(answer):
            return Grade(False, "", "malformed: not an integer")
        return Grade(answer == problem.answer, answer, "" if answer == problem.answer else "another sum")


# --- grading --------------------------------------------------------------------------

_ANSWER = re.compile(r"(?:^|\n)[ \t]{0,9}Answer:[ \t]([^\n]{1,100})|\\boxed\{([^{}\n]{1,100})\}")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,14}")


def extract_answer(text: str) -> str | None:
    """What the last `Answer: ...` line or box of a text holds, or None."""
    found = None
    for match in _ANSWER.finditer(text):
        found = match
    return (found[1] or found[2]).strip() if found else None
