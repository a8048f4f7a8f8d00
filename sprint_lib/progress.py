"""How far long work is. One line a notebook while a suite runs: state, cell k of n, elapsed, remaining; on a terminal
the line is rewritten in place twice a second, anywhere else a line is printed when something changes, and once a
minute. `Every` is for work that prints lines of its own.
"""

from __future__ import annotations

import shutil
import threading
import time
from types import TracebackType
from typing import Self, TextIO

_LIVE_EVERY, _PLAIN_EVERY = 0.5, 60.0  # seconds


def duration(seconds: float) -> str:
    """`0:07`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """An estimate as text: `< 1 min`, `about 12 min`, `about 3.5 h`."""
    if seconds < 60:
        return "< 1 min"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


class Every:
    """Says when it is time for a line: called whenever there is something new, true at most every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def __call__(self, now: bool = False) -> bool:
        """Whether the time has come; `now`: it has, whenever the last line was."""
        due = now or time.monotonic() >= self._next
        if due:
            self._next = time.monotonic() + self._seconds
        return due


class Progress:
    """The lines of one run of `total` notebooks; a context manager, whose thread repeats the line at work.

    `later` is the estimate, in seconds, for the notebooks after the one at work.
    """

    def __init__(self, stream: TextIO, total: int, width: int) -> None:
        self._stream, self._total, self._width = stream, total, width
        self._live = stream.isatty()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._name: str | None = None
        self._index = self._cell = self._cells = 0
        self._estimate = self._later = self._started = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            if self._live and self._name is not None:
                self._stream.write("\n")

    def say(self, index: int, name: str, state: str, note: str = "") -> None:
        """Print the final line of a notebook, in place of the one at work."""
        with self._lock:
            self._name = None
            clear = "\r\x1b[K" if self._live else ""
            self._write(f"{clear}{self._head(index, name)}{state:<11}{note}".rstrip() + "\n")

    def start(self, index: int, name: str, cells: int, estimate: float, later: float) -> None:
        """A notebook of `cells` code cells starts; `estimate` and `later` in seconds."""
        with self._lock:
            self._index, self._name, self._cell, self._cells = index, name, 0, cells
            self._estimate, self._later, self._started = estimate, later, time.monotonic()
            self._show()

    def cell(self, number: int) -> None:
        """The notebook has come to its code cell `number`, counted from 1."""
        with self._lock:
            self._cell = number
            if self._live:
                self._show()

    def _repeat(self) -> None:
        while not self._stop.wait(_LIVE_EVERY if self._live else _PLAIN_EVERY):
            with self._lock:
                if self._name is not None:
                    self._show()

    def _show(self) -> None:
        assert self._name is not None
        elapsed = time.monotonic() - self._started
        state = f"running    cell {self._cell}/{self._cells}" if self._cell else "starting"
        text = f"{self._head(self._index, self._name)}{state:<22}  {duration(elapsed):>5}{self._remaining(elapsed)}"
        if self._live:
            columns = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[K{text[: columns - 1]}")
        else:
            self._write(text + "\n")

    def _remaining(self, elapsed: float) -> str:
        if not self._estimate:
            return ""
        left = self._estimate - elapsed
        here = f"~{duration(left)} left" if left > 0 else "longer than estimated"
        return f", {here}" + (f" (all: ~{duration(max(0.0, left) + self._later)})" if self._later else "")

    def _head(self, index: int, name: str) -> str:
        return f"[{index:>2}/{self._total}] {name:<{self._width}}  "

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
