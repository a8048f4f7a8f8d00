"""Token-exact contexts: what a model wrote goes back to it as the very tokens it wrote.

The loop hands over texts, and each prompt of a problem begins with an earlier one and what was written on it. A text
tokenised anew may get other tokens than the model wrote, and then nothing behind the first of them is found in the
server's prefix cache. So what was sent and written is kept as tokens, and a new prompt takes them over. `tokenise`
says what is guaranteed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from sprint_lib import models

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

T = TypeVar("T")

_TAIL = 8  # tokens that a decoder needs before the first one to write it as it stands there
_WINDOW = 64  # characters before a joint that are tokenised again, to see where tokens end there


def tokenizer_file(given: str) -> Path:
    """The tokenizer of a model's folder or of a shipped model.

    Raises:
        FileNotFoundError: if there is none.
    """
    folder = models.path(given) if given in models.names() else Path(given).expanduser()
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"engine: tokenizer: {folder}: no tokenizer.json in it; give the folder of the served model (one of "
            "the hub is fetched by `hf download`), or leave it out: then prompts go out as text"
        )
    return folder / "tokenizer.json"


class Context:
    """A text as tokens; it grows while a model writes on it."""

    def __init__(self, tokenizer: Tokenizer, text: str, ids: array[int], ends: array[int], counts: array[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._texts, self._length = [text], len(text)
        self.ids = ids
        self.ends, self.counts = ends, counts  # where in the text some token ends, and how many tokens are until there
        self._stream = DecodeStream(ids[-_TAIL:].tolist(), skip_special_tokens=True)

    @property
    def text(self) -> str:
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        return self._texts[0]

    def write(self, ids: Sequence[int]) -> None:
        """Take on tokens that a model wrote."""
        for id_ in ids:
            self.ids.append(id_)
            if piece := self._stream.step(self._tokenizer, id_):  # none: a part of a character, or a special token
                self._texts.append(piece)
                self._length += len(piece)
                self.ends.append(self._length)
                self.counts.append(len(self.ids))

    def ends_until(self, position: int) -> dict[int, int]:
        """Where tokens end in the last `_WINDOW` characters and a little more before a position: tokens until there."""
        last = bisect_right(self.ends, position)
        first = max(0, bisect_left(self.ends, max(0, position - _WINDOW), hi=last) - 1)
        return dict(zip(self.ends[first:last], self.counts[first:last], strict=True))


def tokenise(tokenizer: Tokenizer, text: str, known: Context | None = None) -> Context:
    """A text as tokens, those of a known context kept.

    The two texts agree up to some joint. The tokens are the known ones up to the last place at or before the joint
    where a token ends both in the known context and in the text's own tokenisation; from there they are the text's
    own. If nobody ever wrote otherwise than the tokenizer would, they are therefore those of the whole text, whatever
    is known; and a text that goes on where the known one ended keeps all its tokens but for, at most, those that
    the tokenizer would have merged at the joint.
    """
    if known is not None and (made := _extended(tokenizer, text, known)):
        return made
    encoding = tokenizer.encode(text)
    ends, counts = _columns(_ends(encoding))
    return Context(tokenizer, text, array("I", encoding.ids), ends, counts)


def _extended(tokenizer: Tokenizer, text: str, known: Context) -> Context | None:
    ends = known.ends_until(_common(known.text, text))
    if len(ends) < 2:
        return None
    start = min(ends)
    rest = tokenizer.encode(text[start:], add_special_tokens=False)
    own = {start + end: count for end, count in _ends(rest)}
    joint = max(ends.keys() & own.keys(), default=None)
    if joint is None:  # also where a tokenizer changes the beginning of what it is given
        return None
    kept, dropped = ends[joint], own[joint]
    before = bisect_right(known.ends, joint)
    new, counts = _columns([(end, kept + count - dropped) for end, count in own.items() if end > joint])
    ids = known.ids[:kept] + array("I", rest.ids[dropped:])
    return Context(tokenizer, text, ids, known.ends[:before] + new, known.counts[:before] + counts)


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[array[int], array[int]]:
    return array("I", [end for end, _ in pairs]), array("I", [count for _, count in pairs])


def _ends(encoding: Encoding) -> list[tuple[int, int]]:
    """(Characters, tokens) up to each place where one token ends and another begins, or the last one ends.

    Where a tokenizer's offsets leave gaps or overlap (parts of one character, spaces it does not count) is none.
    """
    offsets = [*encoding.offsets, (encoding.offsets[-1][1], 0)] if encoding.offsets else []
    return [(a[1], number) for number, (a, b) in enumerate(pairwise(offsets), 1) if a[1] == b[0] > a[0]]


class Prefixes(Generic[T]):
    """Values by text, of which the longest that another text begins with is found; the longest unused are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, T] = OrderedDict()
        self._sorted: list[str] = []

    def __len__(self) -> int:
        return len(self._values)

    def put(self, text: str, value: T) -> None:
        if text not in self._values:
            insort(self._sorted, text)
        self._values[text] = value
        self._values.move_to_end(text)
        if len(self._values) > self._most:
            oldest, _ = self._values.popitem(last=False)
            del self._sorted[bisect_left(self._sorted, oldest)]

    def longest(self, text: str) -> T | None:
        """The value of the longest text that this one begins with."""
        while True:
            at = bisect_right(self._sorted, text)
            if not at:
                return None
            before = self._sorted[at - 1]
            if text.startswith(before):
                self._values.move_to_end(before)
                return self._values[before]
            # Every text that this one begins with sorts before it, so `before` begins with it, too.
            text = text[: _common(text, before)]


def _common(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
