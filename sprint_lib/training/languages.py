"""The languages that base models are trained in, one for each embedded task: words, examples, weights.

Each is the settings of a training (`training.base.BaseConfig`) with what the task adds to them. Examples are drawn on
the fly from the train split of the task; the trainer knows nothing else of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sprint_lib.tasks import countdown, longhand
from sprint_lib.training.base import BaseConfig
from sprint_lib.wording import unknown

MOST_TRIES, MOST_SECOND = 8, 4  # first moves, and second moves of each, that a question asks for

# --- Countdown ------------------------------------------------------------------------


@dataclass(frozen=True)
class CountdownBase(BaseConfig):
    """The solver's searches, whole problems and the subproblems that an executor is asked."""

    max_number: int = countdown.MAX_NUMBER
    shares: tuple[float, float, float] = (0.25, 0.25, 0.5)  # of problems with 2, 3 and 4 numbers
    unsolvable: tuple[float, float, float] = (0.3, 0.3, 0.02)  # of those drawn, how many are kept
    fixed_tries: float = 0.7  # share of three and four numbers with a given number of first moves before the answer
    narrow: float = 0.8  # share of those of four numbers with few second moves, too
    few_hits: tuple[float, float] = (0.1, 0.5)  # of all these, how many of those with no hit and with one are kept
    chain_weight: float = 3.0  # weight of the tokens of a solution chain in the loss
    hit_weight: float = 2.0  # weight of the verdict before it: one line in forty, and all depends on it
    answer_weight: float = 10.0  # weight of an answer that may be far from its hit

    WORDS: ClassVar[Sequence[str]] = (
        *("Numbers:", "\nTarget:", "Try", "Left", "None", "Solved", "Answer", " none", " ->", " ;", " ="),
        *(" +", " -", " *", " /", " no\n", " yes\n", "\n", "-----\n", "Based on execution_"),
        *(f" {n}" for n in range(countdown.MAX_VALUE + 1)),
    )

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """(question, trace) of the train split: whole problems, and the subproblems that an executor is asked.

        Short problems are dense in hits: they teach the verdict, one line in forty of a long trace. A given number of
        first moves puts the answer far from its hit: it teaches to look for it, where otherwise the line before would
        do. With few second moves such a trace is short, and there is more of that in the same number of tokens; with
        none it only lists first moves.
        """
        (count,) = rng.choices((2, 3, 4), weights=self.shares)
        while True:
            numbers, target = countdown.draw(rng, "train", count=count, max_number=self.max_number)
            if rng.random() >= self.unsolvable[count - 2] and not countdown.solve(numbers, target):
                continue
            tries = self._draw_tries(rng, count)
            trace = countdown.search_trace(numbers, target, tries)
            kept = (*self.few_hits, 1.0)[min(2, trace.count("Solved"))]
            if not tries or tries[1:] == (0,) or rng.random() < kept:
                return countdown.question(numbers, target, tries), trace

    def _draw_tries(self, rng: random.Random, count: int) -> countdown.Tries:
        if count == 2 or rng.random() >= self.fixed_tries:
            return ()
        first = rng.randint(2, MOST_TRIES)
        return (first, rng.randint(0, MOST_SECOND)) if count == 4 and rng.random() < self.narrow else (first,)

    def weigh(self, words: Sequence[str], start: int) -> list[float]:
        """More on chains and the verdicts before them, most on an answer that was asked for far from its hit."""
        weights = [0.0] * start + [1.0] * (len(words) - start)
        for at in (at for at, word in enumerate(words) if word in ("Solved", "Answer")):
            far = words[at] == "Answer" and "Try" in words[:start]
            end = words.index("\n", at) + 1
            weights[at:end] = [self.answer_weight if far else self.chain_weight] * (end - at)
            if words[at] == "Solved":
                weights[at - 1] = self.hit_weight
        return weights


@dataclass(frozen=True)
class CountdownDeep(CountdownBase):
    """As many weights in four times the layers, half as wide: behind a server on a CPU more of a step is then what each
    layer costs however many sequences there are, so that those beside cost the one that is waited for less.
    """

    hidden: int = 128
    layers: int = 16
    heads: int = 2
    kv_heads: int = 2
    ffn: int = 352
    lr: float = 4e-3


@dataclass(frozen=True)
class CountdownChains(CountdownDeep):
    """The second leg, from a model of the first: chains that end in a subtraction or a division.

    Only these put the larger number first, and they are few among all lines. Where the product was looked at, too
    (`22 - 1 = 21` after ` 1 22 = 23 21 22 -> 21 yes`), the first leg leaves 13 % of 53 differences wrong.
    """

    tokens: int = 4_000_000
    lr: float = 2e-3
    embedding_lr: float = 1e-3
    decay_share: float = 0.9
    chain_weight: float = 20.0
    others: float = 0.3  # of the traces not all kept (`KEPT`), how many are

    KEPT: ClassVar[re.Pattern[str]] = re.compile(r"^Solved .* [-/] \d+ = \d+$", re.MULTILINE)

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """(question, trace) of the train split."""
        while True:
            question, trace = super().draw(rng)
            if self.KEPT.search(trace) or rng.random() < self.others:
                return question, trace


@dataclass(frozen=True)
class CountdownNear(CountdownChains):
    """The third leg, from a model of the second: chains that end near their larger number, above it or below.

    There sum, difference and product are hardest to tell apart, and the second leg was given more differences. Traces
    with several chains stay, too, and the answer that is the last of them weighs more: without them a model of these
    legs mixes the chains when it answers.
    """

    tokens: int = 4_000_000
    answer_weight: float = 30.0
    others: float = 0.15

    KEPT: ClassVar[re.Pattern[str]] = re.compile(
        r"^Solved (?:.*; )?(?:[1-6] \+ \d+|\d+ - [1-6]|\d+ / \d+) = \d+$|^Solved [^S]*^Solved ", re.MULTILINE
    )


# --- longhand -------------------------------------------------------------------------


def _longhand_words() -> tuple[str, ...]:
    digits, carries, powers = range(10), range(2), range(longhand.SUM_PLACES)
    numbers = [longhand.place(digit, power, carry) for power in powers for digit in digits for carry in carries]
    products = {a * b for a in digits for b in digits}
    numbers += [f" {product}{'0' * power}" for power in range(longhand.PLACES - 1) for product in sorted(products)]
    lines = ("Work ", "Result ", "Sum", "Add ", "Total", "Answer: ", "-----\n", "Based on execution_")
    marks = (*lines[:6], " *", " =", " :", "\n", *lines[6:])
    return tuple(dict.fromkeys([longhand.HEADER, *marks, *longhand.LABELS, *map(str, digits), *numbers]))


@dataclass(frozen=True)
class LonghandBase(BaseConfig):
    """Sums of products worked place by place."""

    hidden: int = 192
    heads: int = 3
    kv_heads: int = 3
    ffn: int = 512
    tokens: int = 4_500_000
    batch_tokens: int = 2048
    jump_share: float = 0.03
    terms: tuple[float, ...] = (10, 6, 3, 2, 1, 1, 1, 1)  # shares of examples with 1, 2, ... products
    head_weight: float = 2.0  # weight of the lines that open and close a product
    sum_weight: float = 4.0  # weight of the sum: few tokens, and all depends on them

    WORDS: ClassVar[Sequence[str]] = _longhand_words()

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """(question, trace) of the train split: mostly few products, of any labels: short examples teach all."""
        (count,) = rng.choices(range(1, len(self.terms) + 1), weights=self.terms)
        terms = [longhand.draw_term(rng, "train") for _ in range(count)]
        labels = "".join(sorted(rng.sample(longhand.LABELS, count)))
        return longhand.question(terms, labels), longhand.trace(terms, labels)

    def weigh(self, words: Sequence[str], start: int) -> list[float]:
        """More on lines that look far back: those that open and close a product, and the sum."""
        starts = {"Work ": self.head_weight, "Result ": self.head_weight}
        starts |= dict.fromkeys(("Sum", "Add ", " :", "Total", "Answer: "), self.sum_weight)
        weights, weight = [0.0] * start, 1.0
        for at in range(start, len(words)):
            if words[at - 1].endswith("\n"):
                weight = starts.get(words[at], 1.0)
            weights.append(weight)
        return weights


@dataclass(frozen=True)
class LonghandSums(LonghandBase):
    """The second leg, from a model of the first: sums of results that are given, among whole problems.

    Sums are few lines of a whole problem, and the first leg leaves some of their places wrong.
    """

    tokens: int = 1_600_000
    decay_share: float = 0.5
    jump_share: float = 0.0
    sums: float = 0.93  # share of examples that are sums only; they are short

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """(question, trace) of the train split: given results to be added, or a whole problem."""
        if rng.random() >= self.sums:
            return super().draw(rng)
        labels = sorted(rng.sample(longhand.LABELS, rng.randint(2, len(longhand.LABELS))))
        terms = [longhand.draw_term(rng, "train") for _ in labels]
        given = "".join(longhand.result(label, term) for label, term in zip(labels, terms, strict=True))
        return given, longhand.worked_sum(terms, "".join(labels))


@dataclass(frozen=True)
class LonghandWhole(LonghandSums):
    """The third leg, from a model of the second: results that stand far from their sum, as in problems of any size."""

    tokens: int = 2_400_000
    lr: float = 2e-3
    embedding_lr: float = 1e-3
    decay_share: float = 0.7
    sum_weight: float = 8.0
    terms: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1)
    sums: float = 0.4


@dataclass(frozen=True)
class LonghandMany(LonghandWhole):
    """The fourth leg, from a model of the third: problems of many products, whose sums go wrong most often."""

    tokens: int = 3_000_000
    terms: tuple[float, ...] = (1, 1, 1, 2, 2, 3, 3, 3)
    sums: float = 0.2


LANGUAGES: dict[str, type[BaseConfig]] = {
    "countdown": CountdownBase,
    "countdown-deep": CountdownDeep,
    "countdown-chains": CountdownChains,
    "countdown-near": CountdownNear,
    "longhand": LonghandBase,
    "longhand-sums": LonghandSums,
    "longhand-whole": LonghandWhole,
    "longhand-many": LonghandMany,
}


def get_language(task: str) -> type[BaseConfig]:
    """The settings of a base model for `task`, to be called with those that are not the defaults.

    Raises:
        ValueError: if there is no base model for it; the message names the nearest.
    """
    if said := unknown([task], LANGUAGES, "language"):
        raise ValueError(said)
    return LANGUAGES[task]
