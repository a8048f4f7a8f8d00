"""The annotator that asks a language model for the steps of a trace and for what needs what (paper, A.2).

The model points at numbered lines and never repeats text. It is asked again with what was wrong with its answer; what
is wrong then is repaired where that is sound (`replies`), with every repair told, or the trace is set aside.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from sprint_lib import store
from sprint_lib.chat import Chat, ChatError, Endpoint, EndpointError, Ledger, Limits, Message, Prices, Sampling
from sprint_lib.curation.replies import (
    DEPENDENCIES_SCHEMA,
    STEPS_SCHEMA,
    Draft,
    ReplyError,
    first_object,
    read_dependencies,
    read_steps,
    repaired_steps,
    shifted,
)
from sprint_lib.curation.steps import AnnotationError, Repaired, Step, silent, wrong_steps
from sprint_lib.wording import unknown

T = TypeVar("T")

PROMPTS = Path(__file__).parent / "prompts"
ASKS = 3  # the first question and two more with the error
LINES_PER_REQUEST = 400  # a longer trace is annotated in parts
STEP_CHARACTERS = 1_500  # of a step's text that the question for dependencies shows: its beginning and its end

_MAX_SHOWN = 12  # errors in a message
_MAX_REPEATED = 20_000  # characters of a reply that are shown to the model again


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
                judge = partial(read_steps, count=len(part), ends=ends, alone=len(starts) == 1)
                messages = self.step_messages(question, lines, start)
                names = {"first": 1, "last": len(part)}
                draft = await self._asked(messages, STEPS_SCHEMA, judge, self.prompts.steps.again, names)
                told = partial(_tell, repaired, start)
                steps = repaired_steps(draft, len(part), ends, told) if draft.faults else draft.value
                found += [shifted(step, start) for step in steps]
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
            judge, names = partial(read_dependencies, count=len(steps)), {"count": len(steps)}
            draft = await self._asked(messages, DEPENDENCIES_SCHEMA, judge, self.prompts.dependencies.again, names)
        for said in draft.dropped:
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
        judge: Callable[[Mapping[str, Any]], Draft[T]],
        again: str,
        names: Mapping[str, object],
    ) -> Draft[T]:
        """An answer with nothing wrong, or after all questions the one with least wrong. Raises AnnotationError."""
        best: Draft[T] | None = None
        question, said = messages, ""
        given: list[str] = []
        for _ in range(self.asks):
            text, finish = await self._reply(question, schema)
            try:
                draft = judge(first_object(text, next(iter(schema["properties"]))))
                wrong = draft.faults
            except ReplyError as error:
                cut = "truncated: the answer was cut off" if finish == "length" else "malformed"
                said = f"{cut}: {error}"
                wrong = [said]
            else:
                if not wrong:
                    return draft
                best = draft if best is None or len(wrong) <= len(best.faults) else best
            given.append(text)
            told = fill(again, {**names, "errors": "\n".join(f"- {line}" for line in _bounded(wrong))})
            if (times := given.count(text)) > 1:  # an equal question would have an equal answer, from the cache at that
                told += f"\n\nYou have given this very answer {times} times; it cannot be right."
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
    if said := unknown(settings, SETTINGS, "setting"):
        raise ValueError(f"annotator 'model': {said}")
    for needed in ("model", "base_url"):
        if not settings.get(needed):
            raise ValueError(f"annotator 'model': {needed} is missing; name a model and the address of its server")
    if isinstance(prices, Mapping):
        prices = read_prices(prices)
    endpoint, sampling, limits = (
        kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
        for kind in (Endpoint, Sampling, Limits)
    )
    asked = chat(endpoint, cache, sampling=sampling, limits=limits, prices=prices, batch=batch)
    return ModelAnnotator(asked, prompts=prompts, asks=asks, lines_per_request=lines_per_request)


def _settings() -> dict[str, Any]:
    hints = {name: hint for kind in (Endpoint, Sampling, Limits) for name, hint in get_type_hints(kind).items()}
    own = get_type_hints(open_annotator)
    return hints | {name: own[name] for name in own if name not in ("chat", "settings", "return")}


SETTINGS = _settings()  # the type of each, by name


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


def _tell(repaired: Repaired, start: int, said: str) -> None:
    repaired(f"part from line {start + 1}, counted from there: {said}" if start else said)


def _bounded(wrong: Sequence[str]) -> list[str]:
    more = [f"and {len(wrong) - _MAX_SHOWN} more"] if len(wrong) > _MAX_SHOWN else []
    return [*wrong[:_MAX_SHOWN], *more]


def _joined(wrong: Sequence[str]) -> str:
    return "; ".join(_bounded(wrong))
