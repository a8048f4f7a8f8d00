"""The annotator that asks a language model for the steps of a trace and for what needs what (paper, A.2).

The model points at numbered lines and never repeats text. What it answers is hostile input: it is read within bounds,
checked, and asked for again with what was wrong with it; what is wrong then is repaired where that is sound, with
every repair told, or the trace is set aside.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sprint_lib import store
from sprint_lib.chat import Chat, ChatError, Endpoint, EndpointError, Ledger, Limits, Message, Prices, Sampling
from sprint_lib.curation.steps import AnnotationError, Repaired, Step, silent, wrong_steps
from sprint_lib.wording import unknown

T = TypeVar("T")

PROMPTS = Path(__file__).parent / "prompts"
ASKS = 3  # the first question and two more with the error
LINES_PER_REQUEST = 400  # a longer trace is annotated in parts
STEP_CHARACTERS = 1_500  # of a step's text that the question for dependencies shows: its beginning and its end

MAX_STEPS = 1_000
MAX_WORDS = 2_000  # characters of a description or a prompt
_MAX_OBJECTS = 100  # places in a reply where an object may begin
_MAX_DEPTH = 8  # of lists and objects in each other
_MAX_SHOWN = 12  # errors in a message
_MAX_REPEATED = 20_000  # characters of a reply that are shown to the model again
_PARTS = ("plan", "execution", "comment")
_RANGE = re.compile(r"(?:lines? )?([0-9]{1,7})(?: ?[-–—] ?([0-9]{1,7}))?", re.IGNORECASE)
_NUMBER = re.compile(r"(?:step )?([0-9]{1,7})", re.IGNORECASE)

_LINES = {"type": "array", "items": {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"}}
_STEP = {
    "description": {"type": "string"},
    "plan": _LINES,
    "prompt": {"type": "string"},
    "execution": _LINES,
    "comment": _LINES,
    "final": {"type": "boolean"},
}
_NEED = {"step": {"type": "integer"}, "needs": {"type": "array", "items": {"type": "integer"}}}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


STEPS_SCHEMA = _object({"steps": {"type": "array", "items": _object(_STEP)}})
DEPENDENCIES_SCHEMA = _object({"dependencies": {"type": "array", "items": _object(_NEED)}})


# --- prompts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """A prompt file: what the model is told first, what it is asked, and what it is told of an answer's errors."""

    system: str
    user: str
    again: str

    @staticmethod
    def read(path: Path, needed: Mapping[str, Sequence[str]]) -> Prompt:
        """Read a file with its three headings, in which all names that are `needed` under each of them occur.

        Raises:
            ValueError: with the file and what is wrong with it.
        """
        try:
            pieces = re.split(r"^## (System|User|Again)[ \t]*$", path.read_text(encoding="utf-8"), flags=re.M)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
        found = {name.lower(): text.strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}
        if len(pieces) != 7 or len(found) != 3:
            raise ValueError(f"{path}: needs the headings '## System', '## User' and '## Again', each once")
        known = {name for names in needed.values() for name in names}
        for part, text in found.items():
            names = set(_MARK.findall(text))
            if said := unknown(sorted(names - known), sorted(known), "name in double braces"):
                raise ValueError(f"{path}: {part}: {said}")
            if lacking := sorted(_VITAL & set(needed.get(part, ())) - names):
                raise ValueError(f"{path}: {part}: lacks {{{{{lacking[0]}}}}}, without which the model sees too little")
        return Prompt(found["system"], found["user"], found["again"])

    def messages(self, **values: object) -> list[Message]:
        user = fill(self.user, values)
        return [{"role": "system", "content": fill(self.system, values)}, {"role": "user", "content": user}]


_MARK = re.compile(r"\{\{(\w+)\}\}")
_VITAL = {"question", "lines", "steps", "errors"}


def fill(template: str, values: Mapping[str, object]) -> str:
    """A template with its names in double braces filled in; what is filled in is not looked at again."""
    return _MARK.sub(lambda match: str(values.get(match[1], match[0])), template)


@dataclass(frozen=True)
class Prompts:
    """The two prompts; `version` is a hash of them, which goes into the cache's keys."""

    steps: Prompt
    dependencies: Prompt
    version: str


def read_prompts(folder: Path | str | None = None) -> Prompts:
    """The prompts of a folder, those that it lacks as shipped; all as shipped without one.

    Raises:
        ValueError: if the folder or a file cannot be used.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; it shall hold steps.md and dependencies.md, or leave prompts out")
    paths = [Path(folder or PROMPTS) / name for name in ("steps.md", "dependencies.md")]
    first, second = (path if path.exists() else PROMPTS / path.name for path in paths)
    ends = ("first", "last")
    steps = Prompt.read(first, {"user": ("question", "lines", "part", "ending", *ends), "again": ("errors", *ends)})
    needs = Prompt.read(second, {"user": ("question", "steps", "count"), "again": ("errors", "count")})
    return Prompts(steps, needs, store.hash_json([vars(steps), vars(needs)])[:16])


# --- the annotator --------------------------------------------------------------------


@dataclass(frozen=True)
class _Draft(Generic[T]):
    """What an answer says as far as it can be read, and what is wrong with it, in words."""

    value: T
    wrong: list[str]


class ModelAnnotator:
    """Asks a chat model. Replies come from the chat's cache where they are in it.

    Args:
        prompts: a folder with files that replace the shipped prompts.
        asks: questions in all before what is wrong is repaired.
        lines_per_request: a longer trace is annotated in parts of at most so many lines; steps end with their part.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        prompts: Path | str | None = None,
        asks: int = ASKS,
        lines_per_request: int = LINES_PER_REQUEST,
    ) -> None:
        if asks < 1 or lines_per_request < 2:
            raise ValueError(f"asks is {asks} (1 or more), lines_per_request {lines_per_request} (2 or more)")
        self.chat, self.asks, self.lines_per_request = chat, asks, lines_per_request
        self.prompts = read_prompts(prompts)
        self._room: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    @property
    def ledger(self) -> Ledger:
        return self.chat.ledger

    async def steps(self, question: str, lines: Sequence[str], repaired: Repaired = silent) -> list[Step]:
        """The steps of a trace. Raises AnnotationError if there are none, EndpointError if no call can succeed."""
        if not lines:
            raise AnnotationError("no lines")
        found: list[Step] = []
        async with self._place():
            starts = self.starts(lines)
            for start in starts:
                part = lines[start : start + starts.step]
                ends = start + len(part) == len(lines)
                judge = partial(_read_steps, count=len(part), ends=ends, alone=len(starts) == 1)
                messages = self.step_messages(question, lines, start)
                names = {"first": 1, "last": len(part)}
                draft = await self._asked(messages, STEPS_SCHEMA, judge, self.prompts.steps.again, names)
                steps = draft.value
                if draft.wrong:
                    steps = _repaired_steps(draft, len(part), ends, lambda said, at=start: repaired(_shown(said, at)))  # type: ignore[misc]
                found += [_shifted(step, start) for step in steps]
        if wrong := wrong_steps(found, lines):
            raise AnnotationError(_joined(wrong))
        return found

    async def dependencies(
        self, question: str, lines: Sequence[str], steps: Sequence[Step], repaired: Repaired = silent
    ) -> dict[int, list[int]]:
        """What each step needs. Raises as `steps` does."""
        if len(steps) == 1:
            return {1: []}
        async with self._place():
            messages = self.dependency_messages(question, lines, steps)
            judge, names = partial(_read_needs, count=len(steps)), {"count": len(steps)}
            draft = await self._asked(messages, DEPENDENCIES_SCHEMA, judge, self.prompts.dependencies.again, names)
        for said in draft.wrong:
            repaired(said)
        return draft.value

    def step_messages(self, question: str, lines: Sequence[str], start: int = 0) -> list[Message]:
        """The question for the steps of the lines from `start` on, which are numbered from 1 in it."""
        starts = self.starts(lines)
        part = lines[start : start + starts.step]
        numbered = "\n".join(f"{n}: {' '.join(line.splitlines())}" for n, line in enumerate(part, 1))
        parts, number = len(starts), starts.index(start) + 1
        return self.prompts.steps.messages(
            question=question.strip(),
            lines=numbered,
            part=f"; these are part {number} of {parts} of it" if parts > 1 else "",
            ending=" (there is none here: the text goes on after these lines)" if number < parts else "",
            first=1,
            last=len(part),
        )

    def starts(self, lines: Sequence[str]) -> range:
        """Where the parts of a trace begin, counted from 0; all parts are about as long."""
        parts = -(-len(lines) // self.lines_per_request)
        return range(0, len(lines), -(-len(lines) // parts))

    def dependency_messages(self, question: str, lines: Sequence[str], steps: Sequence[Step]) -> list[Message]:
        """The question for what the steps need."""
        shown = "\n\n".join(_described(number, step, lines) for number, step in enumerate(steps, 1))
        return self.prompts.dependencies.messages(question=question.strip(), steps=shown, count=len(steps))

    async def _asked(
        self,
        messages: list[Message],
        schema: Mapping[str, Any],
        judge: Callable[[Mapping[str, Any]], _Draft[T]],
        again: str,
        names: Mapping[str, object],
    ) -> _Draft[T]:
        """An answer with nothing wrong, or after all questions the one with least wrong. Raises AnnotationError."""
        best: _Draft[T] | None = None
        question, said = messages, ""
        for _ in range(self.asks):
            text, finish = await self._reply(question, schema)
            try:
                draft = judge(first_object(text, next(iter(schema["properties"]))))
                wrong = draft.wrong
            except ReplyError as error:
                cut = "truncated: the answer was cut off" if finish == "length" else "malformed"
                said = f"{cut}: {error}"
                wrong = [said]
            else:
                if not wrong:
                    return draft
                best = draft if best is None or len(wrong) <= len(best.wrong) else best
            told = fill(again, {**names, "errors": "\n".join(f"- {line}" for line in _bounded(wrong))})
            question = [
                *messages,
                {"role": "assistant", "content": text[:_MAX_REPEATED] or "(nothing)"},
                {"role": "user", "content": told},
            ]
        if best is None:
            raise AnnotationError(f"{said} (asked {self.asks} times)")
        return best

    async def _reply(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> tuple[str, str]:
        """Text and finish reason of a reply. Raises AnnotationError for one that asking again would not change."""
        try:
            reply = await self.chat.ask(messages, schema, version=self.prompts.version)
        except EndpointError:
            raise
        except ChatError as error:
            raise AnnotationError(f"no reply: {error}") from None
        if reply.kind == "refusal":
            raise AnnotationError(f"refusal: {' '.join(reply.text.split())[:200]}")
        if reply.finish == "content_filter":
            raise AnnotationError("truncated: the server's content filter stopped the answer")
        return reply.text, reply.finish

    def _place(self) -> AbstractAsyncContextManager[Any]:
        """A bound on the traces at work, whose messages lie in memory. A batch wants them all."""
        if self.chat.batch:
            return nullcontext()
        loop = asyncio.get_running_loop()
        if self._room is None or self._room[0] is not loop:
            self._room = loop, asyncio.Semaphore(2 * self.chat.limits.concurrency)
        return self._room[1]


def open_annotator(
    *,
    cache: Path | str,
    prompts: Path | str | None = None,
    asks: int = ASKS,
    lines_per_request: int = LINES_PER_REQUEST,
    prices: Mapping[str, Any] | Prices | None = None,
    batch: bool = False,
    chat: Callable[..., Chat] = Chat,
    **settings: Any,
) -> ModelAnnotator:
    """A model annotator from plain settings: beside these, the fields of Endpoint, Sampling and Limits by name.

    Raises:
        ValueError: for an unknown or unusable setting, with the nearest known one.
    """
    kinds: tuple[type, ...] = (Endpoint, Sampling, Limits)
    names = {kind: [field.name for field in fields(kind)] for kind in kinds}
    own = ("cache", "prompts", "asks", "lines_per_request", "prices", "batch")
    if said := unknown(settings, [*own, *(name for some in names.values() for name in some)], "setting"):
        raise ValueError(f"annotator 'model': {said}")
    for needed in ("model", "base_url"):
        if not settings.get(needed):
            raise ValueError(f"annotator 'model': {needed} is missing; name a model and the address of its server")
    if isinstance(prices, Mapping):
        prices = read_prices(prices)
    made = {kind: kind(**{n: settings[n] for n in names[kind] if n in settings}) for kind in kinds}
    asked = chat(
        made[Endpoint], cache, sampling=made[Sampling], limits=made[Limits], prices=prices, batch=batch
    )  # fmt: skip
    return ModelAnnotator(asked, prompts=prompts, asks=asks, lines_per_request=lines_per_request)


def read_prices(value: Mapping[str, Any]) -> Prices:
    """Prices by the names of their fields.

    Raises:
        ValueError: if one is unknown, missing or no price.
    """
    if said := unknown(value, [field.name for field in fields(Prices)], "price"):
        raise ValueError(f"prices: {said}")
    for name in ("input", "output"):
        if name not in value:
            raise ValueError(f"prices: {name} is missing; prices are per million tokens, input and output")
    for name, price in value.items():
        if name != "currency" and (isinstance(price, bool) or not isinstance(price, int | float) or price < 0):
            raise ValueError(f"prices: {name} is {price!r}; a price per million tokens is a number from 0 on")
    return Prices(**value)


def _described(number: int, step: Step, lines: Sequence[str]) -> str:
    text = "".join(lines[line - 1] for line in step.lines).strip()
    if len(text) > STEP_CHARACTERS:
        half = STEP_CHARACTERS // 2
        text = f"{text[:half].rstrip()}\n[...]\n{text[-half:].lstrip()}"
    task = f"\nTask: {step.prompt}" if step.prompt else ""
    answer = " (gives the final answer)" if step.final else ""
    return f"Step {number}: {step.description}{answer}{task}\n{text}"


def _shifted(step: Step, by: int) -> Step:
    parts = {name: tuple(line + by for line in getattr(step, name)) for name in _PARTS}
    return replace(step, **parts)  # type: ignore[arg-type]


def _shown(said: str, start: int) -> str:
    return f"part from line {start + 1}, counted from there: {said}" if start else said


def _bounded(wrong: Sequence[str]) -> list[str]:
    more = [f"and {len(wrong) - _MAX_SHOWN} more"] if len(wrong) > _MAX_SHOWN else []
    return [*wrong[:_MAX_SHOWN], *more]


def _joined(wrong: Sequence[str]) -> str:
    return "; ".join(_bounded(wrong))


# --- reading replies ------------------------------------------------------------------


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


def _read_steps(value: Mapping[str, Any], count: int, ends: bool, alone: bool) -> _Draft[list[Step]]:
    """Steps of an answer about `count` lines; `ends`: they end the trace, `alone`: they are all of it."""
    items = value["steps"]
    if not isinstance(items, list) or not items or len(items) > MAX_STEPS:
        raise ReplyError(f"'steps' must be a list of 1 to {MAX_STEPS} steps")
    wrong: list[str] = []
    steps: list[Step] = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            wrong.append(f"step {number}: is no object; left out")
            continue
        parts = {part: tuple(_read_lines(item.get(part), f"step {number}", count, wrong)) for part in _PARTS}
        words = {
            name: _read_words(item.get(name), f"step {number}: {name}", wrong) for name in ("description", "prompt")
        }
        steps.append(Step(**words, **parts, final=item.get("final") is True))  # type: ignore[arg-type]
    if not any(step.lines for step in steps):
        raise ReplyError("no step has lines")
    reasons = wrong_steps(steps, [""] * count)
    if ends and not steps[-1].final:
        reasons.append("the last step must state the final answer and have final: true")
    if not ends and steps[-1].final:
        reasons.append("no step is final, because the text goes on after these lines")
    return _Draft(steps, [*wrong, *(reason for reason in reasons if alone or reason != "no step")])


def _read_lines(value: Any, where: str, count: int, wrong: list[str]) -> list[int]:
    """Line numbers of a list of ranges; what is no line of the trace is left out and told."""
    numbers: list[int] = []
    for item in value if isinstance(value, list) else [] if value in (None, "") else [value]:
        if isinstance(item, list) and len(item) == 2:
            item = "-".join(map(str, item))
        for piece in str(item)[:200].split(","):
            match = _RANGE.fullmatch(piece.strip())
            if not match:
                wrong.append(f"{where}: {piece.strip()[:40]!r} is no range of lines; left out")
                continue
            first, last = sorted((int(match[1]), int(match[2] or match[1])))
            if first < 1 or last > count:
                wrong.append(f"{where}: lines {piece.strip()} are not all there, only 1-{count}; the rest left out")
            numbers += range(max(first, 1), min(last, count) + 1)
        if len(numbers) > 2 * count:
            wrong.append(f"{where}: its ranges hold more lines than there are; the rest left out")
            break
    return numbers


def _read_words(value: Any, where: str, wrong: list[str]) -> str:
    """Text on one line."""
    if value is not None and not isinstance(value, str):
        wrong.append(f"{where} is no text; left out")
        return ""
    text = " ".join((value or "").split())
    if len(text) > MAX_WORDS:
        wrong.append(f"{where} is longer than {MAX_WORDS} characters; cut")
    return text[:MAX_WORDS].encode("utf-8", errors="replace").decode()


def _read_needs(value: Mapping[str, Any], count: int) -> _Draft[dict[int, list[int]]]:
    """Dependencies of an answer; a bad one is left out and told, a step that is not named needs the one before it."""
    items = value["dependencies"]
    if isinstance(items, dict):
        items = [{"step": step, "needs": needs} for step, needs in items.items()]
    if not isinstance(items, list) or len(items) > 2 * MAX_STEPS:
        raise ReplyError("'dependencies' must be a list with an entry for each step")
    wrong: list[str] = []
    parents: dict[int, list[int]] = {}
    for item in items:
        step = _number(item.get("step")) if isinstance(item, dict) else None
        needs = item.get("needs") if isinstance(item, dict) else None
        if step is None or not 1 <= step <= count or not isinstance(needs, list):
            wrong.append(f"{json.dumps(item)[:80]} is no entry for a step from 1 to {count}; left out")
        elif step in parents:
            wrong.append(f"step {step} has two entries; the first counts")
        else:
            parents[step] = list(_read_parents(step, needs[: 2 * count], count, wrong))
    for step in range(1, count + 1):
        if step not in parents:
            wrong.append(f"step {step} has no entry; taken to need the step before it")
            parents[step] = [step - 1] if step > 1 else []
    return _Draft(dict(sorted(parents.items())), wrong)


def _read_parents(step: int, needs: Sequence[Any], count: int, wrong: list[str]) -> Iterator[int]:
    numbers = dict.fromkeys(_number(item) for item in needs)
    for number in numbers:
        if number is None or not 1 <= number <= count:
            wrong.append(f"step {step} needs a step that does not exist ({number}); left out")
        elif number >= step:
            wrong.append(f"step {step} needs step {number}, which does not come before it; left out")
        else:
            yield number


def _number(value: Any) -> int | None:
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value.strip())):
        return int(match[1])
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**7 else None


# --- repairs --------------------------------------------------------------------------


def _repaired_steps(draft: _Draft[list[Step]], count: int, ends: bool, repaired: Repaired) -> list[Step]:
    """Steps with every line in one place and in order, as near to the draft as can be.

    Raises:
        AnnotationError: if no step is left beside the final answer.
    """
    for said in draft.wrong:
        if said.endswith(("left out", "cut")):
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
