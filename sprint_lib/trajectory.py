"""The text format of a SPRINT trajectory: stages of a plan and its executions, then the final answer.

    Numbers: 2 3 4 17                          the question, up to the first tag
    Target: 85
    <Plan_1>
    <prompt_1.1>Try 2 + 3</prompt_1.1>         a plan is free text with prompts in it
    </Plan_1>
    <Execution_1>
    <execution_1.1>
    Try 2 + 3 ...
    </execution_1.1>
    </Execution_1>
    <Final_answer>
    Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85
    </Final_answer>

`parse` and `Trajectory.render` are inverse on well-formed text. Any other string parses
too: what can be understood becomes stages, and what is wrong becomes `Defect`s with kind
and place. A tag that has no business where it stands stays there as text. Both take
time linear in the text. The tags are those of SPRINT (arXiv 2506.05745, section 3.1, A.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

DEFECTS: dict[str, str] = {
    "bare_tag": "a tag without its number",
    "odd_tag": "almost a tag; read as text",
    "doubled_tag": "a tag that was open already",
    "stray_tag": "a tag that has no business where it stands",
    "wrong_number": "a tag whose number is not the next one, or not its opening tag's",
    "prompt_in_execution": "a prompt tag inside an execution, where nobody reads it",
    "prompt_outside_plan": "a prompt written after its plan was closed",
    "execution_in_plan": "an execution tag inside a plan",
    "none_plan": "a passage of a plan that only says None",
    "nothing_to_execute": "an execution block without executions; what it says instead is left out",
    "prompt_without_execution": "a prompt that has no execution",
    "execution_without_prompt": "an execution that has no prompt",
    "unknown_reference": "'Based on' an execution that no earlier stage has",
    "missing_plan": "an execution block without a plan before it",
    "missing_block": "an execution outside an execution block",
    "missing_final_answer": "no final answer",
    "unclosed_plan": "a plan that ends without its closing tag",
    "unclosed_prompt": "a prompt that ends without its closing tag; read as text",
    "unclosed_block": "an execution block that ends without its closing tag",
    "unclosed_execution": "an execution cut before its closing tag",
    "unclosed_final_answer": "a final answer cut before its closing tag",
    "text_outside": "text between blocks; it belongs to nothing and is left out",
    "text_after_final": "text after the final answer; left out",
}


@dataclass(frozen=True)
class Prompt:
    """A task of a plan, for one executor; numbered as its tag says."""

    stage: int
    index: int
    text: str


@dataclass(frozen=True)
class Execution:
    """What the executor of prompt `stage.index` wrote."""

    stage: int
    index: int
    text: str


@dataclass(frozen=True)
class Stage:
    """A plan, as text and prompts in their order, and its executions."""

    number: int
    plan: tuple[str | Prompt, ...]
    executions: tuple[Execution, ...] = ()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(part for part in self.plan if isinstance(part, Prompt))


@dataclass(frozen=True)
class Defect:
    """Something wrong with a text: a kind of `DEFECTS`, a character offset, and what is there."""

    kind: str
    at: int
    note: str


@dataclass(frozen=True)
class Trajectory:
    """A parsed text; `final` is None if there is no final answer."""

    question: str
    stages: tuple[Stage, ...]
    final: str | None
    defects: tuple[Defect, ...] = ()

    def render(self) -> str:
        """The canonical text. `parse` gives the same trajectory back."""
        stages = "".join(render_plan(stage) + render_execution_block(stage) for stage in self.stages)
        final = "" if self.final is None else f"<Final_answer>\n{self.final}</Final_answer>\n"
        return self.question + stages + final

    def to_json(self) -> dict[str, Any]:
        """Plain data: a plan is a list of {"text"} and {"prompt", "stage", "index"} objects."""
        return {
            "question": self.question,
            "stages": [_stage_json(stage) for stage in self.stages],
            "final": self.final,
            "defects": [{"kind": d.kind, "at": d.at, "note": d.note} for d in self.defects],
        }


def _stage_json(stage: Stage) -> dict[str, Any]:
    plan: list[dict[str, Any]] = [
        {"text": part} if isinstance(part, str) else {"prompt": part.text, "stage": part.stage, "index": part.index}
        for part in stage.plan
    ]
    executions = [{"stage": e.stage, "index": e.index, "text": e.text} for e in stage.executions]
    return {"number": stage.number, "plan": plan, "executions": executions}


def render_plan(stage: Stage) -> str:
    """`<Plan_i>` to `</Plan_i>`, with the line break after it."""
    return f"<Plan_{stage.number}>\n{''.join(map(render_part, stage.plan))}</Plan_{stage.number}>\n"


def render_part(part: str | Prompt) -> str:
    """A piece of a plan: text as it is, a prompt in its tags."""
    if isinstance(part, str):
        return part
    number = f"{part.stage}.{part.index}"
    return f"<prompt_{number}>{part.text}</prompt_{number}>"


def render_execution_block(stage: Stage) -> str:
    """`<Execution_i>` to `</Execution_i>`, with the line break after it; empty without executions."""
    if not stage.executions:
        return ""
    executions = "".join(f"{render_execution(execution)}\n" for execution in stage.executions)
    return f"<Execution_{stage.number}>\n{executions}</Execution_{stage.number}>\n"


def render_execution(execution: Execution) -> str:
    """`<execution_i.j>` to `</execution_i.j>`."""
    number = f"{execution.stage}.{execution.index}"
    return f"<execution_{number}>\n{execution.text}</execution_{number}>"


# --- tags -----------------------------------------------------------------------------

_TAG = re.compile(r"<(/?)(Plan|Execution|Final_answer|prompt|execution)(_[^<>\n]{0,24})?>")
_LONGEST_TAG = len("</Final_answer_>") + 24
_NUMBERS = re.compile(r"_([1-9][0-9]{0,5})(?:\.([1-9][0-9]{0,5}))?")
_COUNT = {"Plan": 1, "Execution": 1, "Final_answer": 0, "prompt": 2, "execution": 2}


class _Tag(NamedTuple):
    name: str
    closes: bool
    numbers: tuple[int, ...]  # () if the tag has none
    odd: bool
    start: int
    end: int

    @property
    def bare(self) -> bool:
        return len(self.numbers) < _COUNT[self.name]


def _tags(text: str) -> Iterator[_Tag]:
    for match in _TAG.finditer(text):
        slash, name, suffix = match.groups()
        numbers: tuple[int, ...] = ()
        odd = False
        if suffix is not None:
            found = _NUMBERS.fullmatch(suffix)
            numbers = tuple(int(n) for n in found.groups() if n) if found else ()
            odd = len(numbers) != _COUNT[name] or not numbers
        yield _Tag(name, slash == "/", numbers, odd, match.start(), match.end())


def _in_plan(tag: _Tag, stage: int) -> str:
    """What a tag does while the plan of `stage` is open: ask | asked | close | leave | text."""
    if tag.odd or tag.name == "execution":
        return "text"
    if tag.name == "prompt":
        return "asked" if tag.closes else "ask"
    if tag.name == "Plan" and not tag.closes:
        return "leave" if tag.numbers and tag.numbers[0] > stage else "text"
    if tag.closes:
        return "close" if tag.name == "Plan" else "text"
    return "leave"


# --- parsing --------------------------------------------------------------------------

_BASED_ON = re.compile(r"\b[Bb]ased on (execution_[0-9][^\n:]{0,400})")
_REFERENCE = re.compile(r"execution_([0-9]{1,6})(?:\.([0-9]{1,6}))?")
_NONE_PASSAGE = re.compile(
    r"(?:\A|\n[ \t]*\n|^-{3,}[ \t]*\n|^Based on [^\n]*:\n)[ \t]*(None)[ \t]*(?=\n[ \t]*\n|\n-{3}|\n?\Z|\n?<)",
    re.MULTILINE,
)


def parse(text: str) -> Trajectory:
    """Read a trajectory from any string, in linear time; never raises.

    Defects come in the order of their places. A text without defects whose layout is
    canonical renders to itself; blank lines between blocks are no defects.
    """
    return _Parser(text).run()


@dataclass
class _Open:
    """A stage being read, with the places of what is in it."""

    number: int
    plan: list[str | Prompt] = field(default_factory=list)
    prompts: dict[tuple[int, int], int] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    executed: dict[tuple[int, int], int] = field(default_factory=dict)
    last_prompt: int = 0
    last_execution: int = 0
    block_at: int | None = None
    said: list[Defect] = field(default_factory=list)  # text in its block before any execution


class _Parser:
    """A state machine over the tags: question, top, plan, block, execution, final, end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tags = list(_tags(text))
        self.own_close = _own_closes(self.tags)
        self.defects: list[Defect] = []
        self.stages: list[_Open] = []
        self.known: set[tuple[int, ...]] = set()  # executions so far, and the stages that have one
        self.state = "question"
        self.at = 0  # where the text that nothing has taken yet begins
        self.body = 0  # where the open body begins
        self.question = text
        self.final: str | None = None
        self.prompt: _Tag | None = None
        self.execution: tuple[int, int] = (0, 0)
        self.until = 0  # the open execution's own closing tag; 0 if it has none

    def run(self) -> Trajectory:
        for i, tag in enumerate(self.tags):
            if self.state == "end":
                break
            if tag.odd:
                if self.state != "question":
                    self._defect("odd_tag", tag)
            else:
                getattr(self, f"_{self.state}")(tag, i)
        self._finish()
        stages = tuple(Stage(s.number, tuple(s.plan), tuple(s.executions)) for s in self.stages)
        return Trajectory(self.question, stages, self.final, tuple(sorted(self.defects, key=lambda d: d.at)))

    # --- one method a state: what a tag does there

    def _question(self, tag: _Tag, i: int) -> None:
        if tag.closes or tag.name in ("prompt", "execution"):
            return self._stray(tag)
        self.question, self.at, self.state = self.text[: tag.start], tag.start, "top"
        self._top(tag, i)

    def _top(self, tag: _Tag, i: int) -> None:
        if self._outside_prompt(tag):
            return
        self._outside(tag)
        if tag.closes:
            return self._stray(tag)
        if tag.name == "Plan":
            self._open_stage(tag)
            self._body(tag, "plan")
        elif tag.name == "Execution":
            self._open_block(tag)
        elif tag.name == "Final_answer":
            self._close_stage()
            self._body(tag, "final")
        elif tag.name == "execution":
            if self.state == "top":
                self._defect("missing_block", tag)
            self._open_execution(tag, i)
        else:
            self._defect("prompt_outside_plan", tag)
            self.prompt = tag

    def _block(self, tag: _Tag, i: int) -> None:
        if self._outside_prompt(tag):
            return
        if tag.closes and tag.name == "Execution":
            self._outside(tag)
            self._check_number(tag, (self.stages[-1].number,))
            self.state = "top"
            return
        if not tag.closes and tag.name in ("Plan", "Final_answer"):
            self._defect("unclosed_block", tag)
        self._top(tag, i)

    def _plan(self, tag: _Tag, i: int) -> None:
        stage = self.stages[-1]
        action = _in_plan(tag, stage.number)
        if action == "text" or (action == "asked" and not self.prompt):
            return self._stray(tag)
        if action == "asked":
            self._close_prompt(tag)
            return
        if self.prompt:
            self._defect("unclosed_prompt", self.prompt)
            self.prompt = None
        if action == "ask":
            self.prompt = tag
            return
        if action == "close":
            self._check_number(tag, (stage.number,))
        else:
            self._defect("unclosed_plan", tag)
        self._close_plan(tag.start)
        self.at, self.state = tag.end, "top"
        if action == "leave":
            self.at = tag.start
            self._top(tag, i)

    def _execution(self, tag: _Tag, i: int) -> None:
        if tag.start < self.until or not self._ends_execution(tag):
            return self._stray(tag)
        self._close_execution(tag.start)
        self.at, self.state = tag.end, "block"
        if tag.closes and tag.name == "execution":
            return self._check_number(tag, self.execution)
        self._defect("unclosed_execution", tag)
        self.at = tag.start
        self._block(tag, i)

    def _ends_execution(self, tag: _Tag) -> bool:
        if tag.closes:
            return tag.name in ("execution", "Execution")
        if tag.name == "execution":
            return tag.numbers != self.execution and not tag.bare
        if tag.name == "Plan":
            return not tag.bare and tag.numbers[0] > self.stages[-1].number
        if tag.name == "Execution":
            return not tag.bare and tag.numbers[0] != self.stages[-1].number
        return tag.name == "Final_answer"

    def _final(self, tag: _Tag, i: int) -> None:
        if tag.name != "Final_answer":
            return self._stray(tag)
        if not tag.closes:
            return self._defect("doubled_tag", tag)
        self._close_final(tag.start)
        self.at, self.state = tag.end, "end"

    # --- opening and closing

    def _body(self, tag: _Tag, state: str) -> None:
        """Begin the body of a tag; one line break belongs to the tag."""
        self.at = self.body = tag.end + self.text.startswith("\n", tag.end)
        self.state = state

    def _open_stage(self, tag: _Tag) -> None:
        self._close_stage()
        expected = self.stages[-1].number + 1 if self.stages else 1
        self._check_number(tag, (expected,))
        self.stages.append(_Open(tag.numbers[0] if tag.numbers else expected))

    def _open_block(self, tag: _Tag) -> None:
        stage = self.stages[-1] if self.stages else None
        if stage is None or (stage.block_at is not None and tag.numbers and tag.numbers[0] != stage.number):
            self._defect("missing_plan", tag)
            self._open_stage(tag)
            stage = self.stages[-1]
        elif stage.block_at is not None:
            self._defect("doubled_tag", tag)
        else:
            self._check_number(tag, (stage.number,))
        if stage.block_at is None:
            stage.block_at = tag.start
        self._body(tag, "block")

    def _open_execution(self, tag: _Tag, i: int) -> None:
        stage = self.stages[-1]
        if stage.block_at is None:
            stage.block_at = tag.start
        number, index = tag.numbers or (stage.number, stage.last_execution + 1)
        if tag.bare:
            self._defect("bare_tag", tag)
        elif number != stage.number or index <= stage.last_execution:
            self._defect("wrong_number", tag)
        stage.last_execution = index
        stage.executed.setdefault((number, index), tag.start)
        self.execution = (number, index)
        self.until = self.own_close.get(i, 0)
        self._body(tag, "execution")

    def _close_prompt(self, tag: _Tag) -> None:
        assert self.prompt is not None
        stage, opened = self.stages[-1], self.prompt
        number, index = opened.numbers or (stage.number, stage.last_prompt + 1)
        self._check_number(opened, (stage.number, stage.last_prompt + 1))
        self._check_number(tag, (number, index))
        if self.state == "plan" and opened.start > self.at:
            stage.plan.append(self.text[self.at : opened.start])
        stage.plan.append(Prompt(number, index, self.text[opened.end : tag.start]))
        stage.prompts.setdefault((number, index), opened.start)
        stage.last_prompt = index
        self.prompt, self.at = None, tag.end

    def _close_plan(self, end: int) -> None:
        stage = self.stages[-1]
        if end > self.at:
            stage.plan.append(self.text[self.at : end])
        for match in _NONE_PASSAGE.finditer(self.text[self.body : end]):
            self._note("none_plan", self.body + match.start(1), f"<Plan_{stage.number}>")
        self._check_references(end)

    def _close_execution(self, end: int) -> None:
        self.stages[-1].executions.append(Execution(*self.execution, self.text[self.at : end]))
        self.known |= {self.execution, self.execution[:1]}

    def _close_stage(self) -> None:
        """The last stage is complete: compare its prompts with its executions."""
        if not self.stages:
            return
        stage = self.stages[-1]
        if stage.block_at is not None and not stage.executions:
            self._note("nothing_to_execute", stage.block_at, f"<Execution_{stage.number}>")
        if stage.executions or stage.prompts:  # else it says that there is nothing to do
            self.defects += stage.said
        for (number, index), at in stage.prompts.items():
            if (number, index) not in stage.executed:
                self._note("prompt_without_execution", at, f"<prompt_{number}.{index}>")
        for (number, index), at in stage.executed.items():
            if (number, index) not in stage.prompts:
                self._note("execution_without_prompt", at, f"<execution_{number}.{index}>")

    def _close_final(self, end: int) -> None:
        self.final = self.text[self.at : end]
        self._check_references(end)

    def _finish(self) -> None:
        """The text is over, in whatever state."""
        end = len(self.text)
        if self.prompt:
            self._defect("unclosed_prompt", self.prompt)
        if self.state == "plan":
            self._close_plan(end)
        elif self.state == "execution":
            self._close_execution(end)
        elif self.state == "final":
            self._close_final(end)
        elif self.state in ("top", "block"):
            self._text_outside("text_outside", end)
        elif self.state == "end":
            self._text_outside("text_after_final", end)
        unclosed = {"execution": "unclosed_execution", "final": "unclosed_final_answer"}
        if self.state in ("plan", "block", *unclosed):
            self._note(unclosed.get(self.state, f"unclosed_{self.state}"), end, "end of the text")
        if self.final is None:
            self._close_stage()
            self._note("missing_final_answer", end, "end of the text")

    # --- prompts and text outside plans

    def _outside_prompt(self, tag: _Tag) -> bool:
        """True if the tag closed a prompt that was opened outside its plan."""
        if not self.prompt:
            return False
        if tag.closes and tag.name == "prompt":
            self._close_prompt(tag)
            return True
        self._defect("unclosed_prompt", self.prompt)
        self.at, self.prompt = self.prompt.start, None
        return False

    def _outside(self, tag: _Tag) -> None:
        self._text_outside("text_outside", tag.start)
        self.at = tag.end

    def _text_outside(self, kind: str, end: int) -> None:
        found = self.text[self.at : end].strip()
        if found and found != "</think>":
            defect = Defect(kind, self.text.index(found[0], self.at), found[:60])
            instead = self.state == "block" and not self.stages[-1].executions
            (self.stages[-1].said if instead else self.defects).append(defect)

    # --- defects

    def _check_references(self, end: int) -> None:
        """A plan or final answer may rest on executions of the stages before it only."""
        for passage in _BASED_ON.finditer(self.text, self.body, end):
            for match in _REFERENCE.finditer(self.text, passage.start(1), passage.end(1)):
                if tuple(int(n) for n in match.groups() if n) not in self.known:
                    self._note("unknown_reference", match.start(), match.group())

    def _note(self, kind: str, at: int, note: str) -> None:
        self.defects.append(Defect(kind, at, note))

    def _defect(self, kind: str, tag: _Tag) -> None:
        self._note(kind, tag.start, self.text[tag.start : tag.end])

    def _check_number(self, tag: _Tag, expected: tuple[int, ...]) -> None:
        if tag.bare:
            self._defect("bare_tag", tag)
        elif tag.numbers != expected:
            self._defect("wrong_number", tag)

    def _stray(self, tag: _Tag) -> None:
        if tag.bare:
            kind = "bare_tag"
        elif self._is_doubled(tag):
            kind = "doubled_tag"
        elif self.state == "execution" and tag.name == "prompt":
            kind = "prompt_in_execution"
        elif self.state == "plan" and tag.name == "execution":
            kind = "execution_in_plan"
        else:
            kind = "stray_tag"
        self._defect(kind, tag)

    def _is_doubled(self, tag: _Tag) -> bool:
        """The tag opens what is open already, or closes what has just been closed."""
        if tag.name == "execution":
            return self.state == ("block" if tag.closes else "execution") and tag.numbers == self.execution
        if tag.name == "prompt" or not self.stages:
            return False
        here = ("top",) if tag.closes else ("plan", "execution")
        return self.state in here and tag.numbers == (self.stages[-1].number,)


def _own_closes(tags: list[_Tag]) -> dict[int, int]:
    """For each opening execution tag (by its place in the list) where its own closing tag begins.

    It has none if an Execution block closes, or the same execution opens again, before
    it. One pass from the back, so that many unclosed executions cost no more.
    """
    found: dict[int, int] = {}
    ahead: dict[tuple[int, ...], int] = {}
    for i in range(len(tags) - 1, -1, -1):
        tag = tags[i]
        if tag.odd or tag.bare:
            continue
        if tag.name == "Execution" and tag.closes:
            ahead.clear()
        elif tag.name == "execution" and tag.closes:
            ahead[tag.numbers] = tag.start
        elif tag.name == "execution" and tag.numbers in ahead:
            found[i] = ahead.pop(tag.numbers)
    return found


# --- streaming ------------------------------------------------------------------------


class PromptScanner:
    """Finds prompts while a plan is still being written, so that executors can start at once.

    However a text is cut into pieces, the prompts are those of `parse` on the whole:
    for well-formed text, and for whatever a planner writes until its plan ends. Time is
    linear in the text. `ends` holds, for each prompt found, the offset after its tag.
    """

    def __init__(self) -> None:
        self.ends: list[int] = []
        self._tail = ""  # may be the beginning of a tag
        self._offset = 0  # of the tail in the whole text
        self._state = "out"  # out | plan | final
        self._stage = 0
        self._last = 0  # index of the stage's last prompt
        self._number: tuple[int, ...] = ()  # of the open prompt
        self._pieces: list[str] = []

    def feed(self, text: str) -> list[Prompt]:
        """Take the next piece of text; returns the prompts whose closing tag is in it."""
        text = self._tail + text
        whole = _without_partial_tag(text)
        found: list[Prompt] = []
        at = 0
        for tag in _tags(text[:whole]):
            action = self._action(tag)
            if action == "asked" and self._number:
                stage, self._last = self._number
                found.append(Prompt(stage, self._last, "".join([*self._pieces, text[at : tag.start]])))
                self.ends.append(self._offset + tag.end)
            if action != "text":
                self._number = (tag.numbers or (self._stage, self._last + 1)) if action == "ask" else ()
                self._pieces, at = [], tag.end
        if self._number:
            self._pieces.append(text[at:whole])
        self._tail = text[whole:]
        self._offset += whole
        return found

    def _action(self, tag: _Tag) -> str:
        """Follow the tag; what it does to an open prompt."""
        action = _in_plan(tag, self._stage) if self._state == "plan" else "leave"
        if action == "close":
            self._state = "out"
        elif action == "leave" and self._state != "final" and not tag.odd and not tag.closes:
            self._enter(tag)
        return action

    def _enter(self, tag: _Tag) -> None:
        if tag.name == "Plan":
            self._state, self._last = "plan", 0
            self._stage = tag.numbers[0] if tag.numbers else self._stage + 1
        elif tag.name in ("Execution", "Final_answer"):
            self._state = "out" if tag.name == "Execution" else "final"


def _without_partial_tag(text: str) -> int:
    """Length of the text without what may be the beginning of a tag at its end."""
    at = text.rfind("<", max(0, len(text) - _LONGEST_TAG))
    return at if at >= 0 and not {">", "\n"} & set(text[at:]) else len(text)
