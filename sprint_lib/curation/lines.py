"""A trace as numbered lines, so that an annotator can point at text instead of repeating it.

A line is a sentence, or what stands on a line of its own: a list item, a heading, a row of code. Formulas are never
cut, and neither is what only looks like the end of a sentence: abbreviations, initials, list numbers, factorials.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

MAX_FORMULA = 4_000  # characters; what opens a formula and is not closed within them opens none

_NEWLINES = "\r\n\u2028\u2029"
_NEWLINE = r"(?:\r\n?|[\n\u2028\u2029])"
_CLOSERS = r"(?:[)\]}\"'”’»」』）】*_$]|\\[)\]])*+"
# Where a line may end. Nothing is looked at twice: runs are taken whole, and only from their first character.
_BREAK = re.compile(
    rf"{_NEWLINE}(?:[ \t]*+{_NEWLINE})*+"  # blank lines belong to the line before them
    rf"|(?P<mark>(?<![.!?…])[.!?…]++){_CLOSERS}[^\S{_NEWLINES}]++(?=(?P<next>.{{0,12}}))"
    rf"|(?P<other>[。！？｡।॥؟۔։።។]++){_CLOSERS}[^\S{_NEWLINES}]*+"
)


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LABELLED = "cases? steps? parts? methods? options? approach examples? questions? problems?"
# A list number, or the name and number of a part, with nothing before it.
_ENUMERATOR = re.compile(
    rf"[\s*_#>•(-]*+(?:(?:{'|'.join(_LABELLED.split())}) ?)?(?:[0-9]{{1,3}}|[a-z]|[ivx]{{1,5}})[)*_]*+", re.IGNORECASE
)
_ABBREVIATIONS = _words("e.g i.e c.f cf vs viz w.r.t a.k.a dr mr mrs ms prof jr sr approx resp incl")
_LABELS = _words("fig figs eq eqs eqn eqns sec ch thm lem cor prop def tab no nos vol p pp ex ref")
_STARTERS = _words(  # words that begin a sentence after `point A.`, where another word is a name after `J.`
    "A After All Also An And Another Any As At Because But By Each Finally First For From Given Hence Here Hmm How If "
    "In Is It Let Maybe My Next No Not Now Okay On Once One Or Our Second Similarly Since So Some Still That The Then "
    "There Therefore These They This Those Thus To Two Using Wait We What When Where Which While With Yes You"
)
_GOES_ON = "=+/×·÷^<>≤≥≈≠,;:)]}|&%"  # what no sentence begins with
_WORD = re.compile(r"\W*[^\W\d_]{2,}")
_LETTERS = re.compile(r"[^\W\d_]+")


def number_lines(text: str) -> tuple[str, ...]:
    """Lines of a trace, line 1 first; joined they give the text back byte for byte (paper, A.2). Linear in the text."""
    formulas, code = _spans(text)
    lines: list[str] = []
    start, first = 0, len(text) - len(text.lstrip())
    for match in _BREAK.finditer(text):
        end = match.end()
        if end <= first or formulas.around(end):
            continue
        if match.lastgroup and (text[end : end + 1] in _NEWLINES or code.around(match.start() + 1)):
            continue
        if match["mark"] and not _ends_sentence(text, start, match):
            continue
        lines.append(text[start:end])
        start = end
    return (*lines, text[start:]) if start < len(text) else tuple(lines)


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the marks that matched end the sentence that began at `start`."""
    mark, after, at = match["mark"], match["next"], match.start()
    if after[0] in _GOES_ON or (after[0] in "*-" and after[1:2].isspace()):
        return False
    if "?" in mark:
        return True
    if after[0].islower():
        return False
    words = text[max(start, at - 24) : at].split()
    word = words[-1].lstrip("([{\"'“‘*_$") if words else ""
    if mark[0] == "!":
        factorial = len(word) == 1 or word[-1:].isdigit() or word.endswith(")")
        return not factorial or _WORD.match(after) is not None
    if mark != ".":
        return True
    if at - start <= 40 and _ENUMERATOR.fullmatch(text, start, at):
        return False
    return not (word.lower() in _ABBREVIATIONS or _is_label(word, after) or _is_initial(word, after))


def _is_label(word: str, after: str) -> bool:
    return word.lower() in _LABELS and (after[0].isdigit() or after[0] in "($")


def _is_initial(word: str, after: str) -> bool:
    """Whether a capital is followed by another one or by a name."""
    name = _LETTERS.match(after)
    if len(word) != 1 or not word.isupper() or not name or not after[0].isupper():
        return False
    return after[1:2] == "." or (len(name[0]) > 1 and name[0] not in _STARTERS)


# --- what is not cut ------------------------------------------------------------------

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)
_MARK = re.compile(
    r"\\(?:(?P<bracket>[\[\]()])|(?P<side>begin|end)\{(?P<name>[A-Za-z]{1,20}\*?)\}|.)"
    r"|(?P<dollar>\$\$?)|(?P<tick>(?<!`)`(?!`))|(?P<line>\n(?P<blank>[ \t]*+\n)?)",
    re.DOTALL,
)


class _Spans:
    """Stretches of a text, joined where they overlap; by start."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        for start, end in sorted(spans):
            if self.ends and start < self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
            else:
                self.starts.append(start)
                self.ends.append(end)

    def around(self, at: int) -> bool:
        """Whether a cut before character `at` would go through one."""
        place = bisect_left(self.starts, at) - 1
        return place >= 0 and at < self.ends[place]


def _spans(text: str) -> tuple[_Spans, _Spans]:
    """Formulas (with code inside a line), which are not cut at all, and fenced code, whose rows are not."""
    if not any(sign in text for sign in "\\$`~"):
        return _Spans([]), _Spans([])
    code = _Spans(list(_fences(text)))
    return _Spans([(a, b) for a, b in _formulas(text, code) if b - a <= MAX_FORMULA]), code


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """Fenced code; a fence that is never closed opens none."""
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1] == opened[1]:
            yield opened.start(), fence.end()
            opened = None


def _formulas(text: str, code: _Spans) -> Iterator[tuple[int, int]]:
    r"""What stands between two delimiters that belong together: $ $, $$ $$, \( \), \[ \], \begin \end, ` `."""
    opened: dict[str, int] = {}
    environments: dict[str, list[int]] = {}
    for mark in _MARK.finditer(text):
        kind, start, end = mark.lastgroup, mark.start(), mark.end()
        if kind is None or code.around(start + 1):
            continue
        if kind == "line":
            opened.pop("`", None)
            if mark["blank"]:  # no formula inside a line goes on after it
                opened.pop("$", None)
                opened.pop("(", None)
        elif kind == "name":
            stack = environments.setdefault(mark["name"], [])
            if mark["side"] == "begin":
                stack.append(start)
            elif stack:
                yield stack.pop(), end
        elif kind == "bracket" and mark[0][1] in "[(":
            opened[mark[0][1]] = start
        else:
            sign = {"]": "[", ")": "("}.get(mark[0][1:], mark[0])
            if end - opened.get(sign, -MAX_FORMULA) <= MAX_FORMULA and _closes(text, sign, start, end):
                yield opened.pop(sign), end
            elif kind != "bracket" and _opens(text, sign, end):
                opened[sign] = start


def _closes(text: str, sign: str, start: int, end: int) -> bool:
    """A single dollar is a price's unless it touches what it closes and no digit follows."""
    return sign != "$" or not (text[start - 1].isspace() or text[end : end + 1].isdigit())


def _opens(text: str, sign: str, end: int) -> bool:
    return sign != "$" or not text[end : end + 1].isspace()
