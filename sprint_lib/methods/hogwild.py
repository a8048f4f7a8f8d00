"""Hogwild!-style workers over one shared key/value cache (Rodionov et al., arXiv 2504.06261).

Several copies of one model write at the same time, a token each in every decode step, and each sees what the others
have written so far: the question and the common history, the others' current steps, its own last. A step that has
ended moves to the history; the first worker whose finished step holds an answer ends the attempt. Nothing is trained.

Where ours differs: the texts around the steps are settings, and by default those that a model of Countdown's search
language can read, in place of the paper's instructions, names and examples: a divider that looks like the end of a
search step, steps that all open with the same word, and workers that begin a few tokens one after the other, so that
each sees what those before it took on. With more than two workers the others' steps come in the order in which they
began. A step is whole when it moves (the authors read its last token behind the move), and headings are computed
behind the prompt (the authors compute theirs alone). There is no forced answer when the tokens run out. And `sees` may
be `earlier`: then a worker sees, of the others' current steps, those that began before its own. An untrained model that
finds a solution and sees a step begun after its own may write down that step's first move instead of its own.

A call is one step of one worker, made from what the engine reports: a team is one request. It waits for what the worker
saw when it began: its own last step, steps of others that have ended since, and the first tokens of those under way.
All workers write one token at a time together, so the longest path is the number of decode steps up to the answer,
whichever worker gives it; what a worker sees later in its step is never later than its own tokens. Without partial
waits, as `serial_tokens` counts, the steps come nearly one after the other: nobody could look on. Steps under way when
the answer came are `cancelled`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import Engine, EngineError
from sprint_lib.engines.team import Step, TeamRequest, TeamResult, Workers
from sprint_lib.loop import stable_seed
from sprint_lib.methods import MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import NO_ANSWER, Problem, Task
from sprint_lib.wording import at_least


@dataclass(frozen=True)
class HogwildSettings(MethodSettings):
    r"""How many workers, and the texts around their steps; see `TeamRequest`, which says what they are.

    For a language model as in the paper: `step_end` of `[.?!]\s*\n\n`, `opening` of `Worker {worker}, step {step}: `,
    `stagger` 0, `heading` and `divider` that name the others' and one's own work in progress, the rules of working
    together as `system`, and as `check`, with `check_every` 256, a question whether the work is redundant, to be
    answered at once.
    """

    workers: int = 2
    temperature: float = 0.6
    max_tokens: int = 2048  # a worker's
    system: str = ""  # put before the question
    step_end: str = r"[.?!…]\s*\n\n|\bNone\n"
    heading: str = ""
    divider: str = "\nNone\n"
    opening: str = "Try"
    check: str = ""
    check_every: int = 0
    sees: str = "all"
    stagger: int = 6

    def __post_init__(self) -> None:
        at_least(self, "hogwild", workers=1)
        self.request("-", 0, lambda text: False)

    def request(self, question: str, seed: int, answered: Callable[[str], bool]) -> TeamRequest:
        """What is asked of the engine; each worker's random stream depends on the seed and the worker alone."""
        return TeamRequest(
            prompt=self.system + question,
            seeds=tuple(stable_seed(seed, f"W{worker}") for worker in range(1, self.workers + 1)),
            max_tokens=self.max_tokens,
            step_end=self.step_end,
            answered=answered,
            temperature=self.temperature,
            heading=self.heading,
            divider=self.divider,
            opening=self.opening,
            check=self.check,
            check_every=self.check_every,
            sees=self.sees,
            stagger=self.stagger,
        )


class Hogwild:
    """Workers on one problem; `Attempt.text` is the history in its order, then the steps under way, without the
    question. Needs an engine that has teams (`engines.team.Workers`): the embedded one.
    """

    name = "hogwild"
    settings = HogwildSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: HogwildSettings) -> Attempt:
        origin, result, note = time.monotonic(), TeamResult((), 0), ""

        def answered(text: str) -> bool:
            return task.grade(problem, text).reason != NO_ANSWER

        try:
            result = await _team(engine)(settings.request(problem.question, attempt_seed(settings, problem), answered))
            calls = tuple(_call(step, origin) for step in result.steps)
        except EngineError as error:
            note = f"W1.1: {error}"
            calls = (Call("W1.1", "worker", 1, 1, ended=time.monotonic() - origin, finish="error"),)
        text = "".join(map(_text, result.steps))
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status="engine_error" if note else _status(result),
            final=_text(result.answer) if result.answer else text,
            text=text,
            calls=calls,
            wall_seconds=time.monotonic() - origin,
            note=note,
        )


def _team(engine: Engine) -> Callable[[TeamRequest], Awaitable[TeamResult]]:
    if not isinstance(engine, Workers):
        raise EngineError(
            f"{type(engine).__name__} has no workers over one cache; hogwild needs an engine in this process "
            "(kind: embedded)"
        )
    return engine.workers


def _call(step: Step, origin: float) -> Call:
    started = step.started - origin
    ended = max(started, step.ended - origin)
    return Call(
        id=_id(step.worker, step.number),
        role="worker",
        stage=step.number,
        index=step.worker,
        waits=tuple(Wait(_id(seen.worker, seen.number), seen.tokens) for seen in step.seen),
        completion=step.text,
        prompt_tokens=step.prompt_tokens,
        cached_tokens=step.prompt_tokens - step.read,
        completion_tokens=step.tokens,
        started=started,
        first_token=step.first_token - origin if step.tokens else ended,
        ended=ended,
        finish=step.finish,
    )


def _id(worker: int, number: int) -> str:
    return f"W{worker}.{number}"


def _text(step: Step) -> str:
    return step.opening + step.text


def _status(result: TeamResult) -> str:
    """Cut off where a worker was (or could not begin) and none answered; `conclude` sees the rest."""
    cut = not result.steps or any(step.finish == "length" for step in result.steps)
    return "truncated" if cut and result.answer is None else "ok"
