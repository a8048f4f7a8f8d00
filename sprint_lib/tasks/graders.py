r"""Graders by name: what they take for a text's answer, and when that is the reference.

The paper says "boxed answer, math-verify and SymPy equivalence" (section 4). That leaves open which box, and what is
done where one of the two fails; each grader here is one way to read it. `strict` forgives typography alone, so it is
a lower bound; `released` and `released_latex` follow the authors' released code, which accepts most. None raises on
any text, and none takes longer than `symbolic` allows for.

    GRADERS["math_verify"](r"\frac{1}{2}", r"... the answer is $\boxed{0.5}$.")   Grade(correct=True, answer="0.5")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sprint_lib.tasks import NO_ANSWER, Grade, symbolic
from sprint_lib.tasks.boxed import first_box, in_commands, last_box, last_run, normalised
from sprint_lib.wording import unknown

UNDECIDED = "not decided"  # the reason of a grade where a comparison was given up or broke down; not correct
DEFAULT = "math_verify"


@dataclass(frozen=True)
class Grader:
    """A convention: `find` takes the answer from a text, `same` compares it with the reference."""

    about: str
    find: Callable[[str], str | None]
    same: Callable[[str, str], bool | None]

    def __call__(self, reference: str, text: str) -> Grade:
        """Grade a text against the reference answer. Never raises on any two strings.

        Raises:
            SymbolicError: if the packages for it are missing.
        """
        answer = self.find(text)
        if not answer:
            return Grade(False, "", NO_ANSWER)
        same = self.same(reference, answer)
        if same is None:
            return Grade(False, answer, UNDECIDED)
        return Grade(same, answer, "" if same else "another answer")


def get_grader(name: str) -> Grader:
    """Return the grader called `name`.

    Raises:
        KeyError: if there is no such grader; the message names the nearest.
        SymbolicError: if this machine has not what it needs.
    """
    if name not in GRADERS:
        raise KeyError(unknown([name], GRADERS, "grader"))
    if name == "released_latex":
        symbolic.check_parse_latex()
    return GRADERS[name]


def same_text(reference: str, answer: str) -> bool:
    return normalised(reference) == normalised(answer)


# --- math-verify ----------------------------------------------------------------------

_BASED = re.compile(r"[0-9a-zA-Z,.]+_([0-9]+)")  # 52_8, normalised
_PERCENTAGE = re.compile(r"^(-?[0-9.,]+)\\?%$")


def same_by_math_verify(reference: str, answer: str) -> bool | None:
    """The same text, or the same by math-verify 0.9, which two kinds of answers need help with.

    Numbers in different bases differ, what it does not see; and a percentage is its hundredth, what it sees with some
    versions of antlr. (That the sign may be left off, as a unit may, it knows.)
    """
    first, second = normalised(reference), normalised(answer)
    if first == second:
        return True
    bases = [match[1] for text in (first, second) if (match := _BASED.fullmatch(text))]
    if len(bases) == 2 and bases[0] != bases[1]:
        return False
    verdict = symbolic.same("math_verify", in_commands(reference), in_commands(answer))
    hundredths = [_PERCENTAGE.sub(r"\\frac{\1}{100}", text) for text in (first, second)]
    if not verdict and (hundredths[0] == first) != (hundredths[1] == second):
        return symbolic.same("math_verify", *hundredths)
    return verdict


def _box_or_prose(text: str) -> str | None:
    return last_run(text) or symbolic.extract(text)


# --- the authors' code ----------------------------------------------------------------

_LOOSE = re.compile(r"\\text\{([^}]*)\}|\\left(\()|\\right(\))|(?<=\d)[,_](?=\d)")


def same_as_released(reference: str, answer: str) -> bool | None:
    r"""The comparison of the released code: the first of three steps that says yes.

    `\text` and sized brackets are taken off, underscores and commas between digits dropped. Then: equal but for
    spaces; equal by math-verify, as plain text; equal in letters and digits alone, so that a sign, a fraction bar or
    the kind of a bracket does not count. A further step, SymPy's `parse_latex`, raises with the antlr version that is
    pinned beside it, which is caught: see `same_as_released_with_latex`. Not as their pinned packages run it: theirs
    has math-verify 0.7, here it is the one that is installed.
    """
    return _first_yes(reference, answer, "bare")


def same_as_released_with_latex(reference: str, answer: str) -> bool | None:
    """`same_as_released` with its fourth step, as it runs where the antlr version is SymPy's."""
    return _first_yes(reference, answer, "bare", "parse_latex")


def _first_yes(reference: str, answer: str, *methods: str) -> bool | None:
    first, second = (_LOOSE.sub(r"\1\2\3", text) for text in (reference, answer))
    if first.replace(" ", "") == second.replace(" ", "") or _word_characters(first, second):
        return True
    verdicts = [symbolic.same(method, first, second) for method in methods]
    return True if True in verdicts else verdicts[0]


def _word_characters(first: str, second: str) -> bool:
    left, right = (re.sub(r"[^\w\s]| ", "", text) for text in (first, second))
    return bool(left) and left == right


GRADERS: dict[str, Grader] = {
    "math_verify": Grader("last boxes, math-verify", last_run, same_by_math_verify),
    "strict": Grader("last boxes, the same text but for typography", last_run, same_text),
    "first_box": Grader("first box, math-verify", first_box, same_by_math_verify),
    "prose": Grader("last boxes, without any what math-verify finds in the text", _box_or_prose, same_by_math_verify),
    "released": Grader("last box, the authors' comparison, SymPy absent", last_box, same_as_released),
    "released_latex": Grader("last box, the authors' comparison with SymPy", last_box, same_as_released_with_latex),
}
