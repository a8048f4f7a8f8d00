"""Where a text ends: stop strings are found in it as it arrives, and what may be the beginning of one is held back."""

from __future__ import annotations


class StopCutter:
    """Takes a text piece by piece and cuts it off at the stop string that is completed first, however it is cut into
    pieces; `text` is what is certain so far.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._starts = tuple({string[:n] for string in stop for n in range(1, len(string))})
        self._sure: list[str] = []
        self._pending = ""  # may be the beginning of a stop string

    @property
    def text(self) -> str:
        return "".join(self._sure)

    def take(self, piece: str) -> tuple[str, bool]:
        """Add text; returns what is now certain to be kept, and whether a stop string was completed."""
        self._pending += piece
        found = [(at + len(string), at) for string in self._stop if (at := self._pending.find(string)) >= 0]
        cut = min(found)[1] if found else len(self._pending) - self._held()
        sure, self._pending = self._pending[:cut], self._pending[cut:]
        self._sure.append(sure)
        return sure, bool(found)

    def flush(self) -> str:
        """The held back text, when no stop string can come any more."""
        rest, self._pending = self._pending, ""
        self._sure.append(rest)
        return rest

    def _held(self) -> int:
        if not self._pending.endswith(self._starts):
            return 0
        return max(len(start) for start in self._starts if self._pending.endswith(start))
