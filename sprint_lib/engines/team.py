"""A team: workers that write at the same time, each seeing what the others have written (Hogwild! Inference,
arXiv 2504.06261).

This is its bookkeeping in text and counts, without a tensor: what each worker reads next, when a step of its work ends
and becomes common history, when the team is done, and what every step had seen when it began. `engines/shared.py` puts
a model and its cache below it, the tests a script.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from sprint_lib.wording import at_least

SEES = ("all", "earlier")
_LOOK_BACK = 64  # characters before new text in which the mark of a step's end may begin


@dataclass(frozen=True)
class TeamRequest:
    """What is asked of a team; there are as many workers as seeds.

    A worker sees, in this order: the prompt and all finished steps as they ended, `heading`, the other workers'
    current steps as they began with `divider` behind each, and its own current step, which begins with `opening` (in
    it `{worker}` and `{step}` stand for numbers from 1). When the workers have written `check_every` tokens since the
    last time (0: never), the next step to begin has `check` behind its opening.
    """

    prompt: str
    seeds: tuple[int, ...]  # one random stream a worker
    max_tokens: int  # that a worker writes at most
    step_end: str  # a regular expression; a step ends with the token that completes a match
    answered: Callable[[str], bool]  # whether a step that has ended gives the answer; called in the engine's thread
    temperature: float = 0.0
    heading: str = ""
    divider: str = ""
    opening: str = ""
    check: str = ""
    check_every: int = 0
    sees: str = "all"  # or earlier: of the others' current steps only those that began before its own
    stagger: int = 0  # a worker begins so many decode steps after the one before it

    def __post_init__(self) -> None:
        at_least(self, "team", max_tokens=1, temperature=0, check_every=0, stagger=0)
        if self.sees not in SEES:
            raise ValueError(f"team: no sees {self.sees!r}; there are: {', '.join(SEES)}")
        if not self.seeds:
            raise ValueError("team: no seeds; there is one a worker, and at least one")
        if self.stagger and not self.opening:
            raise ValueError("team: stagger needs an opening: a worker that begins later has to have something to read")
        try:
            re.compile(self.step_end)
        except re.error as error:
            raise ValueError(f"team: step_end {self.step_end!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class Seen:
    """The first `tokens` tokens of a step (None: all of it)."""

    worker: int
    number: int
    tokens: int | None = None


@dataclass(frozen=True)
class Step:
    """What one worker wrote from one move to the common history to the next.

    `tokens` are those it wrote, without the opening, the token that ended the step or the worker included.
    `prompt_tokens` are all it saw when it began, `read` those of them that were read in for it. `seen` is what it
    waited for: its own last step, steps of others that ended since that began, and theirs that were under way.
    Times are `time.monotonic()` seconds. `finish` is `stop`, `length` (the worker's or the model's limit) or
    `cancelled` (under way when another worker gave the answer).
    """

    worker: int
    number: int
    opening: str = ""
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    read: int = 0
    seen: tuple[Seen, ...] = ()
    started: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    finish: str = "cancelled"


@dataclass(frozen=True)
class TeamResult:
    """Steps in the order in which they ended, those still under way last, and how many decode steps it took in all.

    `answer` is the step that gave the answer, None if no worker did before all had ended.
    """

    steps: tuple[Step, ...]
    decode_steps: int
    answer: Step | None = None


@runtime_checkable
class Workers(Protocol):
    """An engine that has teams, beside `complete`."""

    async def workers(self, request: TeamRequest) -> TeamResult:
        """Let a team work until a worker has the answer or all have ended. Cancelling the awaiting task ends the work.

        Raises:
            EngineError: if the engine fails or cannot hold so many workers.
        """
        ...


@dataclass
class Worker:
    """A worker: its step so far, and whether that has ended and is to be moved to the history."""

    index: int  # from 0
    step: Step
    at_work: bool = False
    moving: bool = False
    spent: int = 0  # tokens it wrote in all steps
    length: int = 0  # of its current step, opening included, in tokens that are read or will be


@dataclass
class Team:
    """The state of a team. Whoever drives it does the following again and again until it is `over`:

    the last token of every worker that is `writing` is read (the first time: what is `put_in`); `turn` moves steps that
    have ended and tells the openings of those that begin, which are read; for every worker that is `writing` now a
    token is drawn and given to `write`; `settle` looks for the answer.
    """

    request: TeamRequest
    count: Callable[[str], int]  # tokens of a text that is put in
    put_in: tuple[int, int, int]  # tokens of the prompt, of the heading and of the divider
    context: int  # positions that the model has
    decode_steps: int = 0
    history: list[Step] = field(default_factory=list)
    answer: Step | None = None

    def __post_init__(self) -> None:
        self._end = re.compile(self.request.step_end)
        self._common = self.put_in[0]
        self._unchecked = 0  # tokens since the last check
        self._handed_over = time.monotonic()
        self.workers = [Worker(n, Step(n + 1, 0)) for n in range(len(self.request.seeds))]
        self._order: list[Worker] = []  # those with a current step, by when it began
        self._known = [0] * len(self.workers)  # how long the history was when a worker's step began

    @property
    def writing(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.at_work]

    @property
    def over(self) -> bool:
        if self.answer is not None or self._length() + max(1, len(self.writing)) > self.context:
            return True
        return not any(worker.at_work or not worker.step.number for worker in self.workers)

    def others(self, worker: Worker) -> list[Worker]:
        """Those whose current steps a worker sees, in the order in which it sees them."""
        if self.request.sees == "earlier":
            return self._order[: self._order.index(worker)]
        return [other for other in self._order if other is not worker]

    def turn(self, move: Callable[[Worker], None]) -> dict[int, str]:
        """Move ended steps to the history (`move` is called for each) and let the next ones begin: index, opening."""
        next_ = self._due()
        for worker in self.workers:
            if worker.moving:
                move(worker)
                self._common, worker.length, worker.moving = self._common + worker.length, 0, False
                self._order.remove(worker)
                self.history.append(worker.step)
                next_ += [worker] if worker.at_work else []
        for worker in next_:
            self._begin(worker)
        for worker in next_:  # all openings are read at once, so they see each other
            prompt, heading, divider = self.put_in if worker.step.number == 1 else (0, 0, 0)
            read = worker.length + (divider if worker.index else prompt + heading)
            worker.step = replace(worker.step, prompt_tokens=self._length(), read=read)
        self.decode_steps += 1
        return {worker.index: worker.step.opening for worker in next_}

    def write(self, worker: Worker, piece: str, *, last: bool) -> None:
        """Take a worker's next token as text; `last` if it is the model's end token, which is never read."""
        before, now = len(worker.step.text), time.monotonic()
        worker.step = step = replace(
            worker.step,
            text=worker.step.text + piece,
            tokens=worker.step.tokens + 1,
            first_token=worker.step.first_token or now,
            ended=now,
        )
        worker.spent += 1
        self._unchecked += 1
        worker.at_work = not last and worker.spent < self.request.max_tokens
        worker.length += worker.at_work  # a worker's very last token is never read
        worker.moving = last or any(
            match.end() > before for match in self._end.finditer(step.text, max(0, before - _LOOK_BACK))
        )
        if worker.moving or not worker.at_work:
            worker.step = replace(step, finish="stop" if worker.moving else "length")

    def settle(self) -> None:
        """When all have written: see whether one of the steps that have ended gives the answer."""
        for worker in self.workers:
            if worker.moving and self.answer is None:
                step = worker.step
                self.answer = step if self.request.answered(step.opening + step.text) else None

    def result(self) -> TeamResult:
        steps = [*self.history, *(worker.step for worker in self._order)]
        if self.answer is None:  # then what is under way was not given up, but cut off at the model's context
            steps = [replace(step, finish="length") if step.finish == "cancelled" else step for step in steps]
        return TeamResult(tuple(steps), self.decode_steps, self.answer)

    def _length(self) -> int:
        """Positions that every worker's view takes."""
        _, heading, divider = self.put_in
        dividers = divider * max(0, len(self._order) - 1)
        return self._common + heading + dividers + sum(worker.length for worker in self.workers)

    def _due(self) -> list[Worker]:
        """Those whose first step begins now; nobody waits where nobody works."""
        waiting = [worker for worker in self.workers if not worker.step.number]
        due = [worker for worker in waiting if self.decode_steps >= worker.index * self.request.stagger]
        return due or (waiting[:1] if not self.writing else [])

    def _begin(self, worker: Worker) -> None:
        asked, number = self.request, worker.step.number + 1
        opening = asked.opening.replace("{worker}", str(worker.index + 1)).replace("{step}", str(number))
        if asked.check_every and self._unchecked >= asked.check_every:
            opening, self._unchecked = opening + asked.check, 0
        ended = self.history[self._known[worker.index] :]
        seen = [Seen(step.worker, step.number) for step in ended]
        seen += [Seen(w.step.worker, w.step.number, w.step.tokens) for w in self._order if w.step.tokens]
        self._known[worker.index] = len(self.history)
        started = time.monotonic() if self.decode_steps else self._handed_over  # reading the prompt is work, too
        worker.step = Step(worker.index + 1, number, opening, seen=tuple(seen), started=started)
        worker.at_work, worker.length = True, self.count(opening) if opening else 0
        self._order.append(worker)
