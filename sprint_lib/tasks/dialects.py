r"""Dialects: in what words a model is asked for a skeleton, a next step or a judgement, and how its reply is read.

Skeleton-of-Thought, Tree-of-Thoughts and Graph-of-Thoughts are the same search whatever the model speaks. `instruct` is
English for any instruction-tuned model, in a chat template where the engine knows one; its texts are files of
`sprint_lib/prompts`. A task whose base model speaks a language of its own brings a dialect in that language: an
attribute `dialect`, the name of its class.

A thought is the steps until now, each a line of text. What a model wrote is read with bounds on its length and number,
and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Protocol

from sprint_lib import prompts
from sprint_lib.engines import Engine, as_chat
from sprint_lib.tasks import Problem, Task
from sprint_lib.wording import did_you_mean

INSTRUCT = "instruct"
ROUTES = {"a": "list", "b": "dependent", "c": "none"}  # how a problem is best answered: independent points, or not
VERDICTS = ("sure", "likely", "impossible")
_LONGEST = 1_000  # characters of a point or a step; what goes on beyond is cut

Thought = tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """What is asked of the engine: the text it continues and where it stops."""

    prompt: str
    stop: tuple[str, ...] = ()


class Dialect(Protocol):
    """One way to ask and to read. `None` instead of an `Ask`: it cannot be asked."""

    depth: int  # levels of thoughts that make sense at most

    def sequential(self, problem: Problem) -> Ask:
        """The problem by itself, where a router finds nothing to do side by side."""

    def route(self, problem: Problem) -> Ask | None:
        """Whether the answer is a list of independent points; None: the language cannot say."""

    def routed(self, reply: str) -> str:
        """`list`, `dependent`, `none`, or "" where the reply says none of these."""

    def skeleton(self, problem: Problem, count: int) -> Ask:
        """A list of points, `count` at most."""

    def points(self, problem: Problem, reply: str) -> list[str]:
        """The points of a skeleton, in order, each once."""

    def point(self, problem: Problem, points: Sequence[str], place: int) -> Ask:
        """The order to work out one point."""

    def joined(self, problem: Problem, points: Sequence[str], replies: Sequence[str]) -> str:
        """All points worked out, as one text in order."""

    def propose(self, problem: Problem, thought: Thought, count: int) -> Ask:
        """Next steps of a thought, about `count`."""

    def proposals(self, problem: Problem, thought: Thought, reply: str) -> list[Thought]:
        """The thought with each of the proposed steps, each once."""

    def value(self, problem: Problem, thought: Thought) -> Ask:
        """How promising a thought is."""

    def valued(self, problem: Problem, thought: Thought, reply: str) -> str:
        """One of `VERDICTS`, or "" where the reply says none."""

    def answer(self, problem: Problem, thought: Thought) -> Ask | None:
        """The problem's answer from a finished thought; None: it is not finished."""

    def answered(self, thought: Thought, reply: str) -> str:
        """The text to be graded."""

    def same(self, problem: Problem, thought: Thought) -> str:
        """Equal for thoughts from which the same can follow; only these may become one."""

    def merge(self, problem: Problem, thoughts: Sequence[Thought]) -> Ask | None:
        """One thought of several different ones; None: the language has no words for it."""

    def merged(self, reply: str) -> Thought | None:
        """The thought that was made of several; None: none was."""


def get_dialect(name: str, method: str, task: Task, engine: Engine, system: str) -> Dialect:
    """The dialect of that name; `system` is the text of its prompts ("": the shipped ones).

    Raises:
        ValueError: if the task has no such dialect, or the prompts lack a part.
        PromptError: if there are no shipped prompts for the method.
    """
    if name == INSTRUCT:
        return Instruct(engine, system or prompts.read(prompts.SHIPPED, method, task.name))
    own = getattr(task, "dialect", "")
    if name != task.name or not own:
        known = [INSTRUCT, *([task.name] if own else [])]
        said = f"{did_you_mean(name, known)}; there are for {task.name}: {', '.join(known)}"
        raise ValueError(f"{method}: no dialect {name!r}{said}")
    dialect: Dialect = resolve_name(own)()
    return dialect


# --- English ----------------------------------------------------------------------------

_PART = re.compile(r"^## ([a-z]+)[ \t]*\n", re.MULTILINE)
_PLACE = re.compile(r"\{([a-z]+)\}")
_NUMBERED = re.compile(r"^[ \t]{0,9}\(?(?:\d{1,3}[.):]|[-*•])[ \t]+(\S[^\n]*)", re.MULTILINE)
_LETTER = re.compile(r"\b([ABC])\b(?!['’ \t]+[a-z])")  # not the article
_VERDICT = re.compile(rf"\b({'|'.join(VERDICTS)})\b", re.IGNORECASE)
_FIRST = "1."  # the beginning of a list, given to the model


class Instruct:
    """English prompts: a file of parts, `## route` and so on, each with places such as {question} that are filled in.

    {question}, {task} (what the task wants of an answer), {count}, {list}: the skeleton, the steps or the thoughts, one
    a line and numbered; {number} and {point}: the one to be worked out. Braces around anything else stay as they are.
    """

    depth = 100

    def __init__(self, engine: Engine, system: str) -> None:
        self.engine = engine
        pieces = _PART.split(system)
        self.parts = {name: text.strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}

    def _ask(self, part: str, problem: Problem, begun: str = "", **filled: object) -> Ask:
        if part not in self.parts:
            raise ValueError(f"prompts: no part '## {part}'; there are: {', '.join(self.parts) or 'none'}")
        values = {"question": problem.question.strip(), "task": self.parts.get("task", ""), **filled}
        text = _PLACE.sub(lambda place: str(values.get(place[1], place[0])), self.parts[part])
        return Ask(as_chat(self.engine, text.strip(), begun))

    def sequential(self, problem: Problem) -> Ask:
        return self._ask("sequential", problem)

    def route(self, problem: Problem) -> Ask | None:
        return self._ask("route", problem)

    def routed(self, reply: str) -> str:
        found = _LETTER.search(reply)
        return ROUTES[found[1].lower()] if found else ""

    def skeleton(self, problem: Problem, count: int) -> Ask:
        return self._ask("skeleton", problem, _FIRST, count=count)

    def points(self, problem: Problem, reply: str) -> list[str]:
        return _items(_FIRST + reply)

    def point(self, problem: Problem, points: Sequence[str], place: int) -> Ask:
        filled = {"list": _numbered(points), "number": place + 1, "point": points[place]}
        return self._ask("point", problem, f"{place + 1}. {points[place]}", **filled)

    def joined(self, problem: Problem, points: Sequence[str], replies: Sequence[str]) -> str:
        pairs = zip(points, replies, strict=True)
        return "\n".join(f"{number}. {point}{reply}" for number, (point, reply) in enumerate(pairs, 1))

    def propose(self, problem: Problem, thought: Thought, count: int) -> Ask:
        return self._ask("propose", problem, _FIRST, list=_numbered(thought), count=count)

    def proposals(self, problem: Problem, thought: Thought, reply: str) -> list[Thought]:
        return [(*thought, item) for item in _items(_FIRST + reply)]

    def value(self, problem: Problem, thought: Thought) -> Ask:
        return self._ask("value", problem, list=_numbered(thought))

    def valued(self, problem: Problem, thought: Thought, reply: str) -> str:
        found = _VERDICT.findall(reply)
        return found[-1].lower() if found else ""

    def answer(self, problem: Problem, thought: Thought) -> Ask | None:
        return self._ask("answer", problem, list=_numbered(thought))

    def answered(self, thought: Thought, reply: str) -> str:
        return reply

    def same(self, problem: Problem, thought: Thought) -> str:
        return "\n".join(re.sub(r"\W+", " ", step.casefold()).strip() or step for step in thought)

    def merge(self, problem: Problem, thoughts: Sequence[Thought]) -> Ask | None:
        return self._ask("merge", problem, list=_numbered([" ".join(thought) for thought in thoughts]))

    def merged(self, reply: str) -> Thought | None:
        text = " ".join(reply.split())[:_LONGEST]
        return (text,) if text else None


def _items(text: str) -> list[str]:
    """The items of a numbered or dotted list, each once and in one line."""
    found = (item.strip()[:_LONGEST] for item in _NUMBERED.findall(text))
    return list(dict.fromkeys(filter(None, found)))


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)) or "(none yet)"
