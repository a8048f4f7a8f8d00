"""Random and mutated strings, the same for the same seed: what a model may write on a bad day."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

YARDSTICK = 0.14  # seconds of CPU that `yardstick` takes on the machine that the tests' limits are of

_ODD = [
    "",
    "\x00",
    "\ud800",
    "\u202e",
    "e\u0301",
    "𝟛",
    "٣",
    "²",
    "\r\n",
    "\u2028",
    "\\",
    "{",
    "}",
    "<",
    ">",
    "</",
    "/>",
]


def strings(n: int, seed: int, samples: Sequence[str], fragments: Sequence[str]) -> Iterator[str]:
    """Yield `n` strings of up to about 4,000 characters: noise, fragments shuffled, one repeated, samples mutated."""
    rng = random.Random(seed)
    for i in range(n):
        kind = i % 4
        if kind == 0:
            yield "".join(
                chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(rng.randrange(60))
            )
        elif kind == 1:
            yield "".join(rng.choices([*fragments, *_ODD], k=rng.randrange(60)))
        elif kind == 2:
            yield rng.choice(fragments) * rng.randrange(200) + rng.choice(fragments)
        else:
            yield _mutated(rng, rng.choice(samples), fragments)


def _mutated(rng: random.Random, text: str, fragments: Sequence[str]) -> str:
    for _ in range(rng.randrange(1, 6)):
        i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        piece = text[i:j]
        text = rng.choice(
            (
                text[:i] + text[j:],
                text[:j] + piece[:500] + text[j:],
                text[:i] + rng.choice([*fragments, *_ODD]) + text[i:],
                text[:i] + piece[::-1] + text[j:],
                text[j:] + text[:i],
                text[:j],
                text[:i] + piece.swapcase() + text[j:],
            )
        )[:4000]
    return text


def slowest(function: Callable[[str], object], texts: Iterator[str]) -> float:
    """Call `function` on each text; the most seconds of processor time one call took, of two tries if it is much."""
    worst = 0.0
    for text in texts:
        seconds = _seconds(function, text)
        if seconds > 0.02:
            seconds = min(seconds, _seconds(function, text))
        worst = max(worst, seconds)
    return worst


def _seconds(function: Callable[[str], object], text: str) -> float:
    start = time.thread_time()
    function(text)
    return time.thread_time() - start


def yardstick() -> float:
    """CPU seconds of what a stream is made of: texts to JSON and back, cut and counted."""
    began = time.process_time()
    found: dict[str, int] = {}
    for number in range(20_000):
        event = json.dumps({"choices": [{"text": f"Try {number} + 3\n", "token_ids": [number, 3, 7]}]})
        for piece in f"{event}\n{event}".split("\n"):
            for word in json.loads(piece)["choices"][0]["text"].split():
                found[word] = found.get(word, 0) + 1
    return time.process_time() - began


def slowness() -> float:
    """How many times slower this machine is now than the one that the tests' limits are of; at least 1."""
    return max(1.0, median(yardstick() for _ in range(3)) / YARDSTICK)
