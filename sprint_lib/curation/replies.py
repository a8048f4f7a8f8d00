"""Reading what a language model answers about a trace, and repairing it.

Answers are hostile input: they are read within bounds, what cannot be read is left out and told, and what is wrong
with the rest is said in words that the model can act on. `repaired_steps` mends what stays wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sprint_lib.curation.steps import Repaired, Step, wrong_steps

T = TypeVar("T")

MAX_STEPS = 1_000
MAX_WORDS = 2_000  # characters of a description or a prompt
_MAX_OBJECTS = 100  # places in a reply where an object may begin
_MAX_DEPTH = 8  # of lists and objects in each other
_PARTS = ("plan", "execution", "comment")
_RANGE = re.compile(r"(?:lines? )?([0-9]{1,7})(?: ?[-–—] ?([0-9]{1,7}))?", re.IGNORECASE)
_NUMBER = re.compile(r"(?:step )?([0-9]{1,7})", re.IGNORECASE)

# What is asked for is bounded more tightly than what is read: without it a weak model runs on inside the JSON.
_LINES = {"type": "array", "items": {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"}, "maxItems": 50}
_STEP = {
    "description": {"type": "string", "maxLength": 200},
    "plan": _LINES,
    "prompt": {"type": "string", "maxLength": 1_000},
    "execution": _LINES,
    "comment": _LINES,
    "final": {"type": "boolean"},
}
_NEED = {"step": {"type": "integer"}, "needs": {"type": "array", "items": {"type": "integer"}, "maxItems": 50}}


def _object(name: str, properties: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The schema of an object with one list, called `name`, of at most so many objects."""
    closed = {"required": list(properties), "additionalProperties": False}
    items = {"type": "object", "properties": properties, **closed}
    listed = {name: {"type": "array", "items": items, "maxItems": most}}
    return {"type": "object", "properties": listed, "required": [name], "additionalProperties": False}


STEPS_SCHEMA = _object("steps", _STEP, 200)
DEPENDENCIES_SCHEMA = _object("dependencies", _NEED, MAX_STEPS)


@dataclass(frozen=True)
class Draft(Generic[T]):
    """What an answer says as far as it can be read; in words what was left out or assumed, and what else is wrong."""

    value: T
    dropped: list[str]
    wrong: list[str]

    @property
    def faults(self) -> list[str]:
        return [*self.dropped, *self.wrong]


def shifted(step: Step, by: int) -> Step:
    """The step with its lines so many further on."""
    parts = {name: tuple(line + by for line in getattr(step, name)) for name in _PARTS}
    return replace(step, **parts)  # type: ignore[arg-type]


# --- objects in text ------------------------------------------------------------------


class ReplyError(ValueError):
    """A reply without an object that could be read; the message is for the model."""


_DECODER = json.JSONDecoder(parse_constant=lambda name: _no_constant(name))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def first_object(text: str, key: str) -> dict[str, Any]:
    """The first JSON object in a text that has `key`, whatever stands around it; thinking aloud before it is passed.

    Takes time linear in the text for each of at most a hundred places where an object may begin.

    Raises:
        ReplyError: if there is none.
    """
    text = text.rpartition("</think>")[2]
    at = -1
    for _ in range(_MAX_OBJECTS):
        at = text.find("{", at + 1)
        if at < 0:
            break
        try:
            value, _ = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and key in value and _shallow(value, _MAX_DEPTH):
            return value
    raise ReplyError(f"there is no complete JSON object with the key {json.dumps(key)} in it")


def _shallow(value: Any, depth: int) -> bool:
    """Whether lists and objects lie in each other at most so deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_shallow(item, depth - 1) for item in inner)


# --- reading --------------------------------------------------------------------------


def read_steps(value: Mapping[str, Any], count: int, ends: bool, alone: bool) -> Draft[list[Step]]:
    """Steps of an answer about `count` lines; `ends`: they end the trace, `alone`: they are all of it.

    Raises:
        ReplyError: if there are none.
    """
    items = value["steps"]
    if not isinstance(items, list) or not items or len(items) > MAX_STEPS:
        raise ReplyError(f"'steps' must be a list of 1 to {MAX_STEPS} steps")
    dropped: list[str] = []
    steps: list[Step] = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            dropped.append(f"step {number}: is no object; left out")
            continue
        parts = {part: tuple(_read_lines(item.get(part), f"step {number}", count, dropped)) for part in _PARTS}
        words = {
            name: _read_words(item.get(name), f"step {number}: {name}", dropped) for name in ("description", "prompt")
        }
        steps.append(Step(**words, **parts, final=item.get("final") is True))  # type: ignore[arg-type]
    if not any(step.lines for step in steps):
        raise ReplyError("no step has lines")
    wrong = [reason for reason in wrong_steps(steps, [""] * count) if alone or reason != "no step"]
    if ends and not steps[-1].final:
        wrong.append("the last step must state the final answer and have final: true")
    if not ends and steps[-1].final:
        wrong.append("no step is final, because the text goes on after these lines")
    return Draft(steps, dropped, wrong)


def _read_lines(value: Any, where: str, count: int, dropped: list[str]) -> list[int]:
    """Line numbers of a list of ranges; what is no line of the trace is left out and told."""
    numbers: list[int] = []
    items = value if isinstance(value, list) else [] if value in (None, "") else [value]
    pairs = ["-".join(map(str, item)) if isinstance(item, list) and len(item) == 2 else str(item) for item in items]
    pieces = [piece.strip() for pair in pairs for piece in pair.split(",")]
    if len(pieces) > 2 * count:
        dropped.append(f"{where}: has more ranges than there are lines; the rest left out")
    for piece in pieces[: 2 * count]:
        match = _RANGE.fullmatch(piece)
        if not match:
            dropped.append(f"{where}: {piece[:40]!r} is no range of lines; left out")
            continue
        first, last = sorted((int(match[1]), int(match[2] or match[1])))
        if first < 1 or last > count:
            dropped.append(f"{where}: lines {piece} are not all there, only 1-{count}; the rest left out")
        numbers += range(max(first, 1), min(last, count) + 1)
        if len(numbers) > 2 * count:
            dropped.append(f"{where}: its ranges hold more lines than there are; the rest left out")
            break
    return numbers


def _read_words(value: Any, where: str, dropped: list[str]) -> str:
    """Text on one line."""
    if value is not None and not isinstance(value, str):
        dropped.append(f"{where} is no text; left out")
        return ""
    text = " ".join((value or "").split())
    if len(text) > MAX_WORDS:
        dropped.append(f"{where} is longer than {MAX_WORDS} characters; cut")
    return text[:MAX_WORDS].encode("utf-8", errors="replace").decode()


def read_dependencies(value: Mapping[str, Any], count: int) -> Draft[dict[int, list[int]]]:
    """Dependencies of an answer; a bad one is left out and told, a step that is not named needs the one before it.

    Raises:
        ReplyError: if there are none.
    """
    items = value["dependencies"]
    if isinstance(items, dict):
        items = [{"step": step, "needs": needs} for step, needs in items.items()]
    if not isinstance(items, list) or len(items) > 2 * MAX_STEPS:
        raise ReplyError("'dependencies' must be a list with an entry for each step")
    dropped: list[str] = []
    parents: dict[int, list[int]] = {}
    for item in items:
        step = _number(item.get("step")) if isinstance(item, dict) else None
        needs = item.get("needs") if isinstance(item, dict) else None
        if step is None or not 1 <= step <= count or not isinstance(needs, list):
            dropped.append(f"{json.dumps(item)[:80]} is no entry for a step from 1 to {count}; left out")
        elif step in parents:
            dropped.append(f"step {step} has two entries; the first counts")
        else:
            parents[step] = list(_read_parents(step, needs[: 2 * count], count, dropped))
    for step in range(1, count + 1):
        if step not in parents:
            dropped.append(f"step {step} has no entry; taken to need the step before it")
            parents[step] = [step - 1] if step > 1 else []
    return Draft(dict(sorted(parents.items())), dropped, [])


def _read_parents(step: int, needs: Sequence[Any], count: int, dropped: list[str]) -> Iterator[int]:
    numbers = dict.fromkeys(_number(item) for item in needs)
    for number in numbers:
        if number is None or not 1 <= number <= count:
            dropped.append(f"step {step} needs a step that does not exist ({number}); left out")
        elif number >= step:
            dropped.append(f"step {step} needs step {number}, which does not come before it; left out")
        else:
            yield number


def _number(value: Any) -> int | None:
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value.strip())):
        return int(match[1])
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**7 else None


# --- repairs --------------------------------------------------------------------------


def repaired_steps(draft: Draft[list[Step]], count: int, ends: bool, repaired: Repaired) -> list[Step]:
    """Steps with every line in one place and in order, as near to the draft as can be."""
    for said in draft.dropped:
        repaired(said)
    owners = _covered(_owners(draft.value, repaired), count, repaired)
    steps = []
    for number, step in enumerate(draft.value, 1):
        parts = {part: [line for line, owner in owners.items() if owner == (number, part)] for part in _PARTS}
        if any(parts.values()):
            steps.append(_mended(step, number, parts, repaired))
        else:
            repaired(f"step {number}: had no lines of its own; left out")
    ordered = sorted(steps, key=lambda step: min(step.lines))
    if ordered != steps:
        repaired("steps put in the order of their first lines")
    return _with_ending(ordered, count, ends, repaired)


def _owners(steps: Sequence[Step], repaired: Repaired) -> dict[int, tuple[int, str]]:
    """Step and part of every line; the first that claims a line keeps it."""
    owners: dict[int, tuple[int, str]] = {}
    claims: Counter[int] = Counter()
    for number, step in enumerate(steps, 1):
        for part in _PARTS:
            for line in getattr(step, part):
                owners.setdefault(line, (number, part))
                claims[line] += 1
    for line in sorted(line for line, times in claims.items() if times > 1):
        repaired(f"line {line} was in {claims[line]} places; step {owners[line][0]}, the first, keeps it")
    return dict(sorted(owners.items()))


def _covered(owners: dict[int, tuple[int, str]], count: int, repaired: Repaired) -> dict[int, tuple[int, str]]:
    """Owners of all lines: one that nobody claims joins the line before it, at the beginning the one after it."""
    whole: dict[int, tuple[int, str]] = {}
    before = owners[min(owners)]
    for line in range(1, count + 1):
        if line not in owners:
            repaired(f"line {line} was in no step; joined to step {before[0]}")
        before = whole[line] = owners.get(line, before)
    return whole


def _mended(step: Step, number: int, parts: dict[str, list[int]], repaired: Repaired) -> Step:
    """The step with its parts one after the other, and with a prompt if it has an execution."""
    plan, execution, comment = (parts[part] for part in _PARTS)
    first, last = (min(execution), max(execution)) if execution else (0, 0)
    if execution:
        moved = [line for line in plan if line > first] + [line for line in comment if line < last]
    else:
        moved = [line for line in comment if plan and line < max(plan)]
    if moved:
        into = "execution" if execution else "plan"
        repaired(f"step {number}: its parts were mixed up; lines {moved} moved to the {into}")
        plan, comment = ([line for line in part if line not in moved] for part in (plan, comment))
        execution, plan = (sorted(execution + moved), plan) if execution else ([], sorted(plan + moved))
    prompt = step.prompt
    if execution and not step.final and not prompt:
        prompt = step.description
        if prompt:
            repaired(f"step {number}: had no prompt; its description taken for it")
        else:
            repaired(f"step {number}: had neither prompt nor description; its execution joined to its plan")
            plan, execution = sorted(plan + execution), []
    return replace(step, prompt=prompt, plan=tuple(plan), execution=tuple(execution), comment=tuple(comment))


def _with_ending(steps: list[Step], count: int, ends: bool, repaired: Repaired) -> list[Step]:
    """Steps of which only the last may be final, and is if the trace ends with it."""
    marked = [step.final for step in steps]
    steps = [replace(step, final=ends and step.final and step is steps[-1]) for step in steps]
    if [step.final for step in steps] != marked:
        repaired("only the last step of the trace can give the final answer; the other marks are taken off")
    if ends and not steps[-1].final:
        owner = next(n for n, step in enumerate(steps) if count in step.lines)
        rest = {part: tuple(line for line in getattr(steps[owner], part) if line != count) for part in _PARTS}
        if any(rest.values()):
            steps[owner] = replace(steps[owner], **rest)  # type: ignore[arg-type]
            steps.append(Step("give the answer", plan=(count,), final=True))
        else:
            steps[-1] = replace(steps[-1], final=True)
        repaired("no step gave the final answer; the last line is taken for it")
    return [_with_prompt(step, number, repaired) for number, step in enumerate(steps, 1)]


def _with_prompt(step: Step, number: int, repaired: Repaired) -> Step:
    """A step that had no prompt because it was marked as the final one gets its description."""
    if not step.execution or step.final or step.prompt:
        return step
    repaired(f"step {number}: had no prompt; its description taken for it")
    return replace(step, prompt=step.description or "Carry out this step.")
