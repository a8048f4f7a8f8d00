r"""Whether two LaTeX answers mean the same, by math-verify and SymPy, in a process of its own.

Both can compute for hours on a line such as `9^{9^{9^9}}`, and neither can be stopped from a thread: math-verify's
own limit is an alarm signal, which Python hands to the main thread alone. So they run in one helper process that is
started when it is first needed. Each question has a limit of processor time, at which the system ends the helper,
and one of memory; the next question starts another. This holds in a notebook, a thread, an event loop and a worker
process alike, and does not depend on how busy the machine is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

LONGEST = 300  # characters of an answer that is looked at; the longest reference of MATH-500 has 53
TAIL = 1_000  # characters at the end of a text in which an answer in prose is looked for
SECONDS = 3.0  # of processor time a question may take
MEMORY = 2 << 30  # bytes of address space of the helper
_ANTLR = "4.11"  # the only one with which SymPy's parse_latex works; with others it raises ImportError
_UNFIT = "unfit"  # key of an answer that says which method does not work


class SymbolicError(RuntimeError):
    """The helper cannot work on this machine; the message says what is missing."""


def same(method: str, reference: str, answer: str) -> bool | None:
    """Whether `answer` means what `reference` means; None if that cannot be decided, or not within the limits.

    Args:
        method: "math_verify": both as formulas, by math-verify as it is recommended;
            "bare": both as they are: math-verify takes them for prose and looks for a number in it first of all;
            "parse_latex": SymPy's own parser, then a difference that simplifies to 0.

    Raises:
        SymbolicError: if the packages for it are missing, or do not fit each other.
    """
    if max(len(reference), len(answer)) > LONGEST:
        return None
    return _ask(method, reference, answer)


def extract(text: str) -> str | None:
    """What math-verify takes for the answer in the last characters (`TAIL`) of a text; None if it finds nothing."""
    return _ask("extract", text[-TAIL:], "")


def check_parse_latex() -> None:
    """Raise SymbolicError unless SymPy's `parse_latex` works with the antlr runtime that is installed.

    In code that catches every exception it is otherwise absent without a word.
    """
    try:
        installed = version("antlr4-python3-runtime")
    except PackageNotFoundError:
        installed = "none"
    if not installed.startswith(_ANTLR):
        raise SymbolicError(
            f"SymPy's parse_latex needs antlr4-python3-runtime {_ANTLR} (installed: {installed}); "
            f"pip install 'antlr4-python3-runtime=={_ANTLR}.*'"
        )


# --- this side ------------------------------------------------------------------------


@lru_cache(maxsize=20_000)
def _ask(method: str, first: str, second: str) -> Any:
    if method == "parse_latex":
        check_parse_latex()
    with _lock:
        return _helper.ask({"method": method, "first": first, "second": second, "seconds": SECONDS})


class _Helper:
    """The helper process as seen from this side; one question at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, question: dict[str, str | float]) -> Any:
        """The helper's answer; None if it died over the question, or found none.

        Raises:
            SymbolicError: if it does not start, or the method does not work as it should.
        """
        process = self.process if self.process and self.process.poll() is None else self._start()
        assert process.stdin
        assert process.stdout
        line = b""
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            pass  # it has died just now
        finally:  # also if interrupted: the answer to this question must not be taken for the next one's
            if not line.endswith(b"\n"):
                _end(process)
        answer = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(answer, dict):
            raise SymbolicError(
                f"{answer[_UNFIT]}: wrong about formulas that are known to be the same or not, so it grades nothing; "
                "see whether math-verify, SymPy and antlr4-python3-runtime fit each other: "
                "pip install --force-reinstall 'math-verify[antlr4-11-0]'"
            )
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "sprint_lib.tasks.symbolic"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONHASHSEED": "0"},
        )
        assert process.stdout
        if process.stdout.readline() != b"ready\n":
            _end(process)
            raise SymbolicError("the process that compares answers did not start; see its message above")
        self.process = process
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _fresh() -> None:
    """After a fork: the helper and the lock are the parent's."""
    global _helper, _lock
    _helper, _lock = _Helper(), threading.Lock()


_helper, _lock = _Helper(), threading.Lock()
os.register_at_fork(after_in_child=_fresh)


# --- the helper -----------------------------------------------------------------------


def _serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer one question a line until there are no more: the parent has ended."""
    import math_verify  # noqa: F401 - what is missing shows before anything is asked

    answers.write("ready\n")
    answers.flush()
    for line in questions:
        question = json.loads(line)
        if _fit(question["method"]):
            signal.setitimer(signal.ITIMER_PROF, question.pop("seconds"))
            answer = _answer(**question)
            signal.setitimer(signal.ITIMER_PROF, 0)
        else:
            answer = {_UNFIT: question["method"]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# First and second text of a question whose answer is known, by method; a formula is equal to another one, which only
# mathematics shows: with an antlr runtime that the parsers do not know they read nothing and find everything unequal.
_KNOWN: dict[str, dict[tuple[str, str], Any]] = {
    "math_verify": {(r"\frac{x^2-1}{4}", r"0.25(x-1)(x+1)"): True, (r"\frac{x^2}{3}", "x+1"): False},
    "bare": {(r"\frac{3}{8}", "0.375"): True, ("7", "8"): False},
    "parse_latex": {(r"\frac{x^2-1}{4}", r"\frac{(x-1)(x+1)}{4}"): True, (r"\frac{x^2}{3}", "x+1"): False},
    "extract": {("So the answer is $7$.", ""): "7"},
}


@cache
def _fit(method: str) -> bool:
    """Whether a method answers as it should where the answer is known.

    What it imports and builds for that takes longer than most questions, and so does not count in their time.
    """
    return all(_answer(method, *texts) == known for texts, known in _KNOWN[method].items())


def _answer(method: str, first: str, second: str) -> Any:
    try:
        if method == "extract":
            return _extract(first)
        if method == "parse_latex":
            return _difference_is_zero(first, second)
        if method == "math_verify":
            first, second = _formula(first), _formula(second)
        return _verified(first, second)
    except Exception:  # whatever SymPy raises on what it cannot read or compare: that is no answer, not even "no"
        return None


def _verified(reference: str, answer: str) -> bool:
    from math_verify import verify

    return bool(verify(_parsed(reference), _parsed(answer), timeout_seconds=None, raise_on_error=True))


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=None, raise_on_error=True))


def _formula(answer: str) -> str:
    """An answer as a formula in one line: as plain text, and even in a box, math-verify reads less of it."""
    return "$" + re.sub(r"(?<!\\)\$|\s", " ", answer) + "$"


def _extract(text: str) -> str | None:
    found = [part.rstrip(" .,;:") for part in _parsed(text) if isinstance(part, str)]
    return (found[-1] or None) if found else None


def _difference_is_zero(reference: str, answer: str) -> bool:
    from sympy import simplify
    from sympy.parsing.latex import parse_latex

    return bool(simplify(parse_latex(reference) - parse_latex(answer)) == 0)


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the messages
    logging.disable()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent
    with suppress(ValueError, OSError):  # a system that does not limit it, such as macOS
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
