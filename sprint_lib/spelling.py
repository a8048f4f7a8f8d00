"""What to say of a word that is not known: the nearest one that is, or all there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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
