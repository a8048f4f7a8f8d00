"""Numbers as people read them, what to say of a word or number that cannot be, and which reasons count as one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_QUOTED = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)|\[[^]]*\]""")
_PLACE = re.compile(r"^(?:[^:]*\d[^:]*: )+")
_NUMBERS = re.compile(r"\d+(?:[.,-]\d+)*")


def readable(value: Any) -> str:
    """One digit after the point from 10 on, none from 1,000 on, three in all below 10; yes or no; "" for None, NaN."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        size = abs(value)  # compared as it is after rounding
        return f"{value:,.0f}" if size >= 999.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the nearest of `words`, or nothing."""
    near = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def unknown(given: Iterable[object], known: Iterable[str], what: str = "key") -> str:
    """ "unknown key 'x' (did you mean 'y'?)" for the first word given that is not known, or nothing."""
    names = list(known)
    for word in given:
        if word not in names:
            return f"unknown {what} {word!r}" + (did_you_mean(str(word), names) or f" (there are: {', '.join(names)})")
    return ""


def kind_of(said: str) -> str:
    """A reason or a change without its place, its details and its whole numbers, so that equal kinds count as one.

    "step 4: lines 3-5 joined; ..." and "step 9: line 7 joined" become "lines … joined" and "line … joined".
    """
    text = _PLACE.sub("", _QUOTED.sub("…", " ".join(said[:1_000].split()))) or said
    first = re.split(r"[,;:](?: |$)", text)[0]
    return _NUMBERS.sub(lambda number: number[0] if re.fullmatch(r"\d+\.\d+", number[0]) else "…", first)[:100]


def at_least(settings: object, where: str, **least: float) -> None:
    """Raises ValueError with place, name and value if a field of `settings` is below its least value."""
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise ValueError(f"{where}: {name} is {getattr(settings, name)}; it must be at least {bound}")
