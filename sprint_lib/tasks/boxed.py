r"""Where the answer of a text stands, in its boxes or on the label of an option; and when two answers are one text.

    "so the roots are $\boxed{-1}$ and $\boxed{\dfrac12}$."      boxes: -1, \dfrac12
                                                                  last_run: -1, \dfrac12
                                                                  normalised: -1,\frac{1}{2}

Nothing here knows mathematics (that is `symbolic`), and everything takes time linear in the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_MATH = r"(?:\$\$?|\\[()\[\]])"  # either end of a formula
_JOINED = re.compile(  # all that may stand between two boxes of one answer, such as `$, and $y = `
    rf"\s*{_MATH}?\s*(?:[,;]\s*(?:and|or)?|and|or|\\text\{{\s*(?:and|or)\s*\}})\s*{_MATH}?\s*(?:[A-Za-z]\s*=\s*)?"
)
_LONGEST_JOIN = 40  # characters


@dataclass(frozen=True)
class Box:
    """What a `\\boxed{...}` or `\\fbox{...}` holds, and where in the text it begins and ends."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    r"""The boxes of a text in their order; of boxes in a box the outermost.

    Braces are matched as TeX does (`\{` is no brace). A box that is empty or never closed is none: a text cut in its
    answer has not answered.
    """
    waiting: list[tuple[int, int] | None] = []  # open braces: start and content of a box, None for any other
    closed: list[tuple[int, int, int]] = []
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            opened = waiting.pop() if waiting else None
            if opened:
                while closed and closed[-1][0] > opened[0]:
                    closed.pop()
                closed.append((*opened, match.end()))
        elif match[0] == "{":
            waiting.append(None)
        elif match[0].endswith("{") and len(match[0]) > 2:
            waiting.append((match.start(), match.end()))
    found = (Box(start, end, text[content : end - 1].strip()) for start, content, end in closed)
    return [box for box in found if box.content]


def first_box(text: str) -> str | None:
    found = boxes(text)
    return found[0].content if found else None


def last_box(text: str) -> str | None:
    found = boxes(text)
    return found[-1].content if found else None


def last_run(text: str) -> str | None:
    """The last box together with those right before it that are listed with it, as one list; None without a box.

    Boxes are listed where only a comma, a semicolon, "and" or "or" stands between them.
    """
    found = boxes(text)
    run = found[-1:]
    for before, box in reversed(list(pairwise(found))):
        gap = text[before.end : min(box.start, before.end + _LONGEST_JOIN + 1)]
        if len(gap) > _LONGEST_JOIN or not _JOINED.fullmatch(gap):
            break
        run.append(before)
    return ", ".join(dict.fromkeys(box.content for box in reversed(run))) if run else None


# --- the same text --------------------------------------------------------------------

_SIGNS = str.maketrans({"°": r"^\circ", "−": "-", "×": r"\times ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup "})
_TYPOGRAPHY = (
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?"), ""),
    (re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:displaystyle|quad|qquad)(?![a-zA-Z])|\\[,;:!\s]|(?<!\\)\$|[\s~]"), ""),
    (re.compile(r"\\frac([0-9a-zA-Z])([0-9a-zA-Z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac(?:([0-9a-zA-Z])\{([^{}]*)\}|\{([^{}]*)\}([0-9a-zA-Z]))"), r"\\frac{\1\3}{\2\4}"),
    (re.compile(r"\\sqrt([0-9a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"([_^])\{([0-9a-zA-Z]|\\circ)\}"), r"\1\2"),
)


def in_commands(answer: str) -> str:
    """An answer with LaTeX's commands for `°`, `π` and a few other signs."""
    return answer.translate(_SIGNS)


def normalised(answer: str) -> str:
    r"""An answer without what is only typography: two answers that differ in it alone become one string.

    Spaces and `$` go, `\left` and `\right` go, `\text{...}` and its like leave their content, fractions are
    `\frac{a}{b}` however they were written, one character needs no braces as an exponent or an index, signs are
    commands (`in_commands`), and a full stop at the end goes. Units, order and values stay as they are.
    """
    answer = in_commands(answer)
    for pattern, replacement in _TYPOGRAPHY:
        answer = pattern.sub(replacement, answer)
    return answer.rstrip(".")


# --- options --------------------------------------------------------------------------

# `(B)`, or `B` where it is no word of a sentence.
_LABEL = r"(?:\(([A-Z])\)(?!\w)|([A-Z])(?=[.,:;)*$}\s]|\\[)\]]|$)(?!\s[a-z]))"
_BEFORE = r"(?:(?i:option|choice|answer|is)\b[\s:]{0,5}){0,3}"
# What a formula or a word in bold begins with.
_OPENED = r"(?:[*$\s{]|\\[(\[]|\\(?:text|math)(?:bf|it|rm|sf|normal)?(?![a-zA-Z])){0,6}"
_IN_BOX = re.compile(rf"{_BEFORE}{_LABEL}(?!\s*(?:,|(?:and|or)\b))")
_SAID = re.compile(rf"(?i:\banswer)\b[\s:*]{{0,5}}{_BEFORE}{_OPENED}{_BEFORE}{_LABEL}")


def option_label(text: str, labels: Sequence[str]) -> str | None:
    r"""The label of the option that a text chooses: that of its last box, or without a box of its last "answer is ...".

    `\boxed{B}`, `\boxed{\text{(B)}}`, `\boxed{B. four}` and "the answer is \textbf{B}" choose B; `\boxed{A, B}` none.
    """
    box = last_box(text)
    if box is not None:
        found = [_IN_BOX.match(re.sub(r"\\[a-zA-Z]+\s*|[{}$]", "", box[:200]).strip())]
    else:
        found = [*_SAID.finditer(text)]
    chosen = found[-1] if found else None
    label = (chosen[1] or chosen[2]) if chosen else ""
    return label if label and label in labels else None
