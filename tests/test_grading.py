r"""Graders prove themselves: on hard pairs as a person sees them, on hostile text, in threads, and on all references.

Each hard pair says what a person would say, and which graders say "the same": s(trict), m(ath_verify), r(eleased),
l(atex, the released one with SymPy). Where a grader is wrong, the pair says so.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import hostile
import pytest

from sprint_lib import released
from sprint_lib.evaluation import grading, statistics
from sprint_lib.tasks import NO_ANSWER, Grade, Problem, boxed, symbolic
from sprint_lib.tasks.boxed import boxes, first_box, last_box, last_run, normalised, option_label
from sprint_lib.tasks.graders import GRADERS, UNDECIDED, get_grader

LETTERS = {"s": "strict", "m": "math_verify", "r": "released", "l": "released_latex"}
HARD_PAIRS = [
    # fractions, decimals, mixed numbers: math-verify rounds to six places
    (r"\frac{3}{8}", r"0.375", True, "mrl"),
    (r"\frac38", r"\dfrac{3}{8}", True, "sml"),  # r reads 3 in one and 38 in the other
    (r"\frac{2}{3}", r"0.667", False, ""),
    (r"\frac{3}{8}", r"3/8", True, "mrl"),
    (r"\frac{3}{8}", r"\frac{38}{1}", False, ""),
    (r"2\frac{1}{4}", r"\frac{9}{4}", True, "m"),
    (r"2\frac{1}{4}", r"2.25", True, "m"),
    (r"2\frac{1}{4}", r"\frac{2}{4}", False, "l"),  # SymPy reads a product
    (r".25", r"0.25", True, "mrl"),
    (r"3.0", r"3", True, "mrl"),
    (r"6\pi", r"18.85", False, ""),
    # percent, degrees, units, money, thousands
    (r"40", r"40\%", True, "mrl"),
    (r"40\%", r"40", True, "mrl"),
    (r"40\%", r"0.4", True, "m"),
    (r"0.4", r"40\%", True, "m"),
    (r"40\%", r"0.04", False, ""),
    (r"65^\circ", r"65", True, "mrl"),
    (r"65^\circ", r"65°", True, "smrl"),
    (r"65^\circ", r"65^{\circ}", True, "smrl"),
    (r"7", r"7\text{ cm}", True, "mrl"),
    (r"7\text{ cm}", r"7\text{ km}", False, "mrl"),  # all but s leave units off
    (r"7\text{ cm}^2", r"7\,\mathrm{cm}^2", True, "smrl"),
    (r"12500", r"12,500", True, "mrl"),
    (r"12500", r"12{,}500", True, "mrl"),
    (r"12,500", r"12", False, ""),
    (r"\$4.50", r"4.50", True, "mrl"),
    (r"4.5", r"\$4.50", True, "m"),
    # words and choices
    (r"\text{Maria}", r"Maria", True, "smrl"),
    (r"\text{Maria}", r"\text{Mario}", False, ""),
    (r"\text{(B)}", r"B", True, "mrl"),
    (r"\text{(B)}", r"\text{C}", False, ""),
    (r"\text{odd}", r"\text{even}", False, ""),
    (r"\emptyset", r"\text{none}", True, ""),  # nobody knows the word
    # pairs, lists, sets, intervals: r and l leave brackets and commas off, and SymPy reads a list up to its first comma
    (r"(1,4)", r"\left( 1, 4 \right)", True, "smrl"),
    (r"(1,4)", r"(4,1)", False, ""),
    (r"(1,4)", r"[1,4]", False, "rl"),
    (r"(1,4]", r"(1, 4]", True, "smrl"),
    (r"(1,4)", r"1, 4", False, "mrl"),  # math-verify lets an open interval be a list
    (r"(1,4)", r"\{1, 4\}", False, "mrl"),
    (r"\{1,4\}", r"\{4, 1\}", True, "m"),
    (r"1, 4", r"4, 1", True, "m"),
    (r"1, 4", r"4", False, "rl"),
    (r"1, 4", r"14", False, "rl"),
    (r"x \in [0,3]", r"[0,3]", True, "m"),
    (r"x > 3", r"(3, \infty)", True, "m"),
    (r"(3,\infty)", r"[3,\infty)", False, "rl"),
    (r"(-\infty,0)\cup(2,\infty)", r"(-\infty, 0) \cup (2, \infty)", True, "smrl"),
    (r"\infty", r"-\infty", False, "rl"),
    (r"2\pm\sqrt{7}", r"2+\sqrt{7}, 2-\sqrt{7}", True, "mrl"),
    (r"2\pm\sqrt{7}", r"2+\sqrt{7}", False, "rl"),
    (r"2\pm\sqrt{7}", r"-2\pm\sqrt{7}", False, "rl"),
    # equations
    (r"x=9", r"9", True, "mrl"),
    (r"9", r"x = 9", True, "mrl"),
    (r"x=9", r"y=9", False, "rl"),
    (r"y=3x-2", r"3x-2", True, "mrl"),
    (r"y=3x-2", r"3x - y = 2", True, "m"),
    # matrices
    (r"\begin{pmatrix} 3 \\ -1 \end{pmatrix}", r"\begin{bmatrix} 3 \\ -1 \end{bmatrix}", True, "mrl"),
    (r"\begin{pmatrix} 3 \\ -1 \end{pmatrix}", r"\begin{pmatrix} 3 \\ 1 \end{pmatrix}", False, "rl"),
    (r"\begin{pmatrix} 3 \\ -1 \end{pmatrix}", r"\begin{pmatrix} 3 & -1 \end{pmatrix}", False, "rl"),
    # bases: math-verify does not see them, `same_by_math_verify` does
    (r"61_7", r"61_{7}", True, "sm"),
    (r"61_7", r"61", True, "m"),
    (r"61_7", r"61_9", False, ""),
    (r"61_7", r"43", False, ""),
    # algebra: r and l leave signs off, and find the number in front enough
    (r"-6", r"6", False, "rl"),
    (r"6", r"\frac{12}{2}", True, "mrl"),
    (r"\sqrt{12}", r"2\sqrt{3}", True, "ml"),
    (r"2\sqrt{3}", r"2\sqrt{30}", False, "rl"),
    (r"3\sqrt{5}+3", r"3(1+\sqrt{5})", True, "mrl"),
    (r"x^2-9", r"(x-3)(x+3)", True, "ml"),
    (r"x^{2}", r"x_2", False, ""),
    (r"4-3i", r"-3i+4", True, "ml"),
    (r"4-3i", r"4+3i", False, "rl"),
    (r"\frac{a+2}{b}", r"(2+a)/b", True, "ml"),
    (r"6\pi", r"6π", True, "smrl"),
    (r"5", r"5.", True, "smrl"),
    (r"4:3", r"\frac{4}{3}", True, "ml"),
    (r"10^{5}", r"100000", True, "ml"),
    (r"\binom{6}{2}", r"15", True, "ml"),
]


def says(grader: str, reference: str, answer: str) -> bool:
    return GRADERS[grader](reference, f"So the answer is $\\boxed{{{answer}}}$.").correct


def need_parse_latex() -> None:
    try:
        symbolic.check_parse_latex()
    except symbolic.SymbolicError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("letter", ["s", "m", "r"])
def test_hard_pairs(letter: str) -> None:
    found = {(a, b): says(LETTERS[letter], a, b) for a, b, _, _ in HARD_PAIRS}
    assert found == {(a, b): letter in graders for a, b, _, graders in HARD_PAIRS}


def test_hard_pairs_with_parse_latex() -> None:
    need_parse_latex()
    found = {(a, b): says("released_latex", a, b) for a, b, _, _ in HARD_PAIRS}
    assert found == {(a, b): "l" in graders for a, b, _, graders in HARD_PAIRS}


def test_strict_is_never_too_kind_and_math_verify_seldom_wrong() -> None:
    assert not [(a, b) for a, b, truth, graders in HARD_PAIRS if "s" in graders and not truth]
    wrong = [(a, b) for a, b, truth, graders in HARD_PAIRS if ("m" in graders) != truth]
    assert len(wrong) == 4


def test_without_the_right_antlr_parse_latex_is_not_silently_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "version", lambda name: "4.13.2")
    with pytest.raises(symbolic.SymbolicError, match=r"antlr4-python3-runtime 4\.11 \(installed: 4\.13\.2\); pip"):
        get_grader("released_latex")
    with pytest.raises(KeyError, match="did you mean 'math_verify'"):
        get_grader("mathverify")


FAKE = """
def parse(text, **_): return [text]
def verify(gold, target, **_): return gold == target
"""


def test_parsers_that_do_not_fit_grade_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where antlr is of a version that they do not know: every text is itself, and nothing else is the same."""
    (tmp_path / "math_verify.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(symbolic, "_helper", symbolic._Helper())
    for answer in ("0.5", "0.75"):
        with pytest.raises(symbolic.SymbolicError, match=r"math_verify: wrong about formulas .*pip install"):
            says("math_verify", r"\frac{71}{142}", answer)
    assert says("math_verify", "0.5", "0.5")  # for which no formula is read


def test_a_comparison_that_breaks_down_is_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    def verified(reference: str, answer: str) -> bool:
        raise TypeError("cannot compare")

    monkeypatch.setattr(symbolic, "_verified", verified)
    assert symbolic._answer("math_verify", "1", "2") is None
    monkeypatch.setattr(symbolic, "same", lambda method, *texts: symbolic._answer(method, *texts))
    assert GRADERS["math_verify"]("1", r"\boxed{2}") == Grade(False, "2", UNDECIDED)
    assert GRADERS["math_verify"]("1", r"\boxed{1}").correct
    row = grading.grade([Problem("0", "?", "1")], {"one": {"0": r"\boxed{2}"}}, ["math_verify"]).accuracy().iloc[0]
    assert (row.accuracy, row.undecided, row.unanswered) == (0, 1, 0)


# --- where the answer stands --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "last", "run"),
    [
        (r"$\boxed{4}$", "4", "4", "4"),
        (r"\boxed{1} or rather \boxed{2}", "1", "2", "2"),
        (r"$\boxed{3}$, $\boxed{5}$, and $\boxed{7}$.", "3", "7", "3, 5, 7"),
        (r"\(x=\boxed{1}\), and \(x = \boxed{-2}\)", "1", "-2", "1, -2"),
        (r"\boxed{9}. Check: \boxed{3} and \boxed{5}", "9", "5", "3, 5"),
        (r"is \boxed{6}, that is, \boxed{6}", "6", "6", "6"),
        (r"\boxed{6}, \boxed{6}", "6", "6", "6"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}", r"\frac{1}{\sqrt{2}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{1,2\right.}", r"\left\{1,2\right.", r"\left\{1,2\right.", r"\left\{1,2\right."),
        (r"\boxed{a \boxed{b}} c", r"a \boxed{b}", r"a \boxed{b}", r"a \boxed{b}"),
        (r"\fbox{2}", "2", "2", "2"),
        (r"\boxed {2}", "2", "2", "2"),
        (r"\boxed{4} and then \boxed{5", "4", "4", "4"),
        (r"{ \boxed{4}", "4", "4", "4"),
        (r"} \boxed{4} }", "4", "4", "4"),
        (r"\boxed{} \boxed{ }", None, None, None),
        (r"\boxed{4", None, None, None),
        (r"boxed{4} \box{4} \\boxed{4}", None, None, None),
        ("", None, None, None),
    ],
)
def test_boxes(text: str, first: str | None, last: str | None, run: str | None) -> None:
    assert (first_box(text), last_box(text), last_run(text)) == (first, last, run)


def test_graders_take_different_answers() -> None:
    text = r"First $\boxed{1}$, no: the roots are $\boxed{2}$ and $\boxed{3}$."
    answers = {name: GRADERS[name]("2,3", text) for name in ("math_verify", "first_box", "released")}
    assert {name: (g.correct, g.answer) for name, g in answers.items()} == {
        "math_verify": (True, "2, 3"),
        "first_box": (False, "1"),
        "released": (False, "3"),
    }
    prose = "Adding up, we get 12 apples. So the answer is 33."
    assert GRADERS["math_verify"]("33", prose) == Grade(False, "", NO_ANSWER)
    assert GRADERS["prose"]("33", prose) == Grade(True, "33")
    assert GRADERS["prose"](r"\frac{2}{3}", "Therefore the answer is 2/3.\n</think>").correct
    assert GRADERS["prose"]("33", r"The answer is 33, I mean \boxed{34}.") == Grade(False, "34", "another answer")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (r"\boxed{B}", "B"),
        (r"$\boxed{\text{(B)}}$", "B"),
        (r"\boxed{\textbf{B}}", "B"),
        (r"\boxed{B. \text{four}}", "B"),
        (r"\boxed{\text{Option C}}", "C"),
        (r"\boxed{(D) 4\,\text{eV}}", "D"),
        (r"A is wrong, \boxed{A}; no, \boxed{C}", "C"),
        (r"The answer is (D).", "D"),
        (r"**Answer: B**", "B"),
        (r"The correct answer is option A.", "A"),
        (r"answer: A ... so the final answer is $C$", "C"),
        (r"The answer is \(B\).", "B"),
        (r"So the answer is \[\text{(C)}\]", "C"),
        (r"The answer is \textbf{B}", "B"),
        (r"the final answer is: $\mathbf{D}$", "D"),
        (r"answer: **\text{Option A}**", "A"),
        (r"The answer is $A\cdot 5$", None),
        (r"The answer is \frac{A}{B}", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{A and B}", None),
        (r"\boxed{E}", None),
        (r"\boxed{4}", None),
        (r"\boxed{ABC}", None),
        (r"The answer is A good one.", None),
        (r"I cannot tell.", None),
        (r"\boxed{B", None),
    ],
)
def test_option_label(text: str, label: str | None) -> None:
    assert option_label(text, "ABCD") == label


# --- hostile text -------------------------------------------------------------------------

FRAGMENTS = [
    *(r"\boxed{", r"\fbox{", "{", "}", r"\{", r"\}", r"\frac", r"\text{", r"\left(", r"\right.", r"\pm"),
    *("$", ",", "and", "1", "x", "^", "_", "%", ".", " ", "\n", "answer is"),
]
SAMPLES = [
    r"so $\boxed{\frac{1}{2}}$ and $\boxed{x^{2}-1}$.",
    r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}} the answer is (B).",
]
BOMBS = [r"9^{9^{9^9}}", r"10^{10^{10}}", "{" * 140 + "1" + "}" * 140, r"\frac{1}{" * 30 + "1" + "}" * 30]


def test_finding_an_answer_is_fast_on_any_text() -> None:
    def find(text: str) -> object:
        return first_box(text), last_run(text), normalised(text), option_label(text, "ABCD")

    assert hostile.slowest(find, hostile.strings(400, 1, SAMPLES, FRAGMENTS)) < 0.1
    for piece in (r"\boxed{", "{", "}", r"\boxed{1}, ", r"\text{", r"\frac{1", ".", "answer is ", r"\{", " ", "\\"):
        assert hostile.slowest(find, iter([piece * (100_000 // len(piece))])) < 1, piece
    nested = r"\boxed{" * 100_000 + "1" + "}" * 100_000
    assert len(boxes(nested)) == 1


@pytest.mark.parametrize("grader", sorted(GRADERS))
def test_no_text_makes_a_grader_raise(grader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if grader == "released_latex":
        need_parse_latex()
    monkeypatch.setattr(symbolic, "SECONDS", 0.5)
    for text in hostile.strings(40, 2, SAMPLES, FRAGMENTS):
        for whole in (text, f"\\boxed{{{text}}}"):
            grade = GRADERS[grader]("7", whole)
            assert isinstance(grade.correct, bool)
            assert grade.correct == (not grade.reason)
            assert GRADERS[grader](text, r"\boxed{7}").answer in ("7", "")


def test_bombs_end_in_bounded_time_and_are_said_not_to_be_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "SECONDS", 0.5)
    before = _children_seconds()
    grades = [GRADERS["math_verify"]("-5", f"\\boxed{{{bomb}}}") for bomb in BOMBS]
    assert [grade.reason for grade in grades[:2]] == [UNDECIDED, UNDECIDED]
    assert not any(grade.correct for grade in grades)
    assert _children_seconds() - before < len(BOMBS) * 10  # at most half a second each, and helpers starting
    assert GRADERS["math_verify"]("5", "\\boxed{" + "1" * 1_000_000 + "}").reason == UNDECIDED
    assert GRADERS["math_verify"]("0.5", r"\boxed{\frac12}").correct


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _anywhere(work: Callable[[], bool]) -> list[bool]:
    """What `work` says in a thread, in an event loop and in a forked process."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()

    async def in_loop() -> bool:
        return work()

    found.append(asyncio.run(in_loop()))
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    return [*found, os.waitpid(child, 0)[1] == 0]


def test_grades_in_threads_event_loops_and_forked_processes() -> None:
    def work() -> bool:
        symbolic._ask.cache_clear()
        return says("math_verify", r"\frac{1}{2}", "0.5") and not says("math_verify", r"\frac{1}{2}", "0.6")

    assert _anywhere(work) == [True, True, True]


def test_a_helper_that_was_killed_is_replaced() -> None:
    assert says("math_verify", "0.5", r"\frac{2}{4}")
    assert symbolic._helper.process
    os.kill(symbolic._helper.process.pid, signal.SIGKILL)
    symbolic._helper.process.wait()
    assert says("math_verify", "0.5", r"\frac{3}{6}")


def test_a_helper_that_cannot_start_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "_helper", symbolic._Helper())
    monkeypatch.setattr(symbolic.sys, "executable", "/bin/false")
    with pytest.raises(symbolic.SymbolicError, match="did not start"):
        says("math_verify", "0.5", r"\frac{31}{62}")


# --- the matrix ---------------------------------------------------------------------------

PROBLEMS = [Problem(str(i), "?", answer) for i, answer in enumerate((r"\frac{1}{2}", "7", "-3", "x", "40", "(1,2)"))]
SYSTEMS = {
    "base": dict(
        zip("012345", (r"\boxed{0.5}", r"\boxed{7}", r"\boxed{3}", r"\boxed{x}", "no box", r"\boxed{9}"), strict=True)
    ),
    "other": dict(
        zip("01234", (r"\boxed{0.6}", r"\boxed{7}", r"\boxed{-3}", "cut \\boxed{", r"\boxed{40}"), strict=True)
    ),
}


@pytest.fixture(scope="module")
def matrix() -> grading.Matrix:
    return grading.grade(PROBLEMS, SYSTEMS, ("math_verify", "strict", "released"))


def test_accuracy_has_both_denominators(matrix: grading.Matrix) -> None:
    frame = matrix.accuracy().set_index(["grader", "system", "denominator"])
    row = frame.loc["math_verify", "base", "all"]
    wilson = statistics.proportion([True] * 3 + [False] * 3).scaled(100)
    assert (row.accuracy, row.accuracy_low, row.accuracy_high) == (wilson.value, wilson.low, wilson.high)
    assert (row.n, row.unanswered, row.undecided) == (6, 1, 0)
    assert frame.loc["math_verify", "base", "answered"].accuracy == 60
    assert frame.loc["math_verify", "other", "answered"].to_list()[:1] == [75]
    assert frame.loc["strict", "base", "all"].accuracy == pytest.approx(100 / 3)
    assert frame.loc["released", "base", "all"].accuracy == pytest.approx(100 * 4 / 6)  # 3 for -3


def test_comparison_is_paired_on_the_problems_of_both(matrix: grading.Matrix) -> None:
    frame = matrix.comparison("base", "other").set_index(["grader", "denominator"])
    row = frame.loc["math_verify", "all"]
    assert (row.n, row.only_base, row.only_other, row.difference) == (5, 2, 2, 0)
    assert row.p == statistics.mcnemar([1, 1, 0, 1, 0], [0, 1, 1, 0, 1]).p == 1
    row = frame.loc["math_verify", "answered"]
    assert (row.n, row.only_base, row.only_other) == (3, 1, 1)


def test_nearest_to_what_was_reported(matrix: grading.Matrix) -> None:
    frame, texts = matrix.accuracy(), {"ours": ["base"], "theirs": ["other", "base"]}
    ours, theirs = grading.nearest(frame, {"ours": 61.0, "theirs": 50.0}, texts).to_dict("records")
    assert [ours[key] for key in ("reported_as", "system", "grader", "denominator")] == [
        *("ours", "base", "math_verify", "answered"),
    ]
    assert (ours["accuracy"], ours["n"], ours["possible"]) == (60, 5, "50.0 or 66.7")
    assert (theirs["system"], theirs["grader"], theirs["accuracy"]) == ("base", "math_verify", 50)
    assert theirs["possible"] == "50.0"


def test_discordant_and_disputed(matrix: grading.Matrix) -> None:
    frame = matrix.discordant("math_verify", "base", "other")
    assert frame.to_dict("records")[:2] == [
        {"problem": "0", "reference": r"\frac{1}{2}", "right": "base", "base": "0.5", "other": "0.6"},
        {"problem": "2", "reference": "-3", "right": "other", "base": "3", "other": "-3"},
    ]
    assert list(frame.problem) == ["0", "2", "3", "4"]
    disputed = matrix.disputed("math_verify", "released")
    assert disputed.to_dict("records") == [
        {
            "system": "base",
            "problem": "2",
            "reference": "-3",
            "right_by": "released",
            "math_verify": "3",
            "released": "3",
        }
    ]


def test_matrix_refuses_what_it_cannot_grade() -> None:
    with pytest.raises(ValueError, match=r"base: 1 texts of problems that are not there, such as '9'"):
        grading.grade(PROBLEMS, {"base": {"9": ""}})
    with pytest.raises(ValueError, match="two problems have the id '0'"):
        grading.grade([PROBLEMS[0], PROBLEMS[0]], {})
    with pytest.raises(KeyError, match="unknown grader 'stric'"):
        grading.grade(PROBLEMS, {}, ("stric",))
    silent = grading.grade(PROBLEMS, {"mute": {"0": ""}, "absent": {}}, ("strict",))
    assert list(silent.accuracy().n) == [1, 0, 0, 0]
    assert math.isnan(silent.accuracy().accuracy[1])
    assert list(silent.comparison("mute", "absent").n) == [0, 0]


# --- the reference answers of MATH-500 ------------------------------------------------------


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    if released.VARIABLE not in os.environ:
        pytest.skip(f"needs MATH-500: set {released.VARIABLE}")
    return released.find().problems()


@pytest.mark.parametrize("grader", sorted(GRADERS))
def test_every_reference_is_right_and_a_wrong_constant_is_not(grader: str, problems: list[Problem]) -> None:
    if grader == "released_latex":
        need_parse_latex()
    judge, same = GRADERS[grader], GRADERS[grader].same
    assert len(problems) == 500
    assert [p.id for p in problems if not same(p.answer, p.answer)] == []
    assert [p.id for p in problems if not judge(p.answer, f"Hence it is \\[\\boxed{{{p.answer}}}.\\]").correct] == []
    wrong = [judge(p.answer, r"Hence it is $\boxed{-98765.4321}$.") for p in problems]
    assert not any(grade.correct or grade.reason == UNDECIDED for grade in wrong)


def test_math_verify_reads_formulas_where_no_text_is_the_same(problems: list[Problem]) -> None:
    in_braces = [(p.answer, rf"\boxed{{{{{p.answer}}}}}") for p in problems]
    assert sum(GRADERS["math_verify"](*pair).correct for pair in in_braces) > 450  # 28 without a parser of LaTeX
    assert not any(GRADERS["strict"](*pair).correct for pair in in_braces)


def test_longest_reference_is_within_the_limit(problems: list[Problem]) -> None:
    assert max(len(p.answer) for p in problems) * 5 < symbolic.LONGEST
    assert all(boxed.last_run(f"\\boxed{{{p.answer}}}") == p.answer.strip() for p in problems)
