"""What a method is: one way of letting a model solve a problem, from one completion to a whole loop.

A method is one file with a settings dataclass and one coroutine, and a line in
`METHODS`. All of them end through `conclude`, so that every attempt is graded and
classified in the same way, whatever the model wrote:

    ok            the model ended by itself and gave an answer, right or wrong
    truncated     the call the answer was to come from was cut at its limit
    refused       the model ended by itself, but gave nothing to grade: a blank final text, a final
                  text in which the task finds no answer, or none of the tags the method asks for
    malformed     it wrote the method's tags in a way that leads nowhere
    engine_error  the engine failed; the note says how
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pkgutil import resolve_name
from typing import Any, ClassVar, Protocol, Self

from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Engine, OnText, Request
from sprint_lib.loop import Recorder, busy_seconds, stable_seed
from sprint_lib.tasks import NO_ANSWER, Problem, Task
from sprint_lib.wording import unknown


@dataclass(frozen=True)
class MethodSettings:
    """What every method's settings have: the seed of a run and the number of this sample of a problem."""

    seed: int = 0
    sample: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings from plain data.

        Raises:
            ValueError: on a key that is no setting; the message names the nearest one that is.
            TypeError: on a value of another type than the setting's default.
        """
        defaults = {field.name: field.default for field in fields(cls)}
        if said := unknown(values, defaults, "setting"):
            raise ValueError(f"{cls.__name__}: {said}")
        for key, value in values.items():
            wanted = type(defaults[key])
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise TypeError(f"{cls.__name__}: {key} is {value!r}, it must be of type {wanted.__name__}")
        return cls(**values)


class Method(Protocol):
    """The contract of a method module's class."""

    name: str
    settings: ClassVar[type[MethodSettings]]

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: Any) -> Attempt:
        """Try a problem once. Engine failures and hostile text end as an attempt, never as an exception."""
        ...


METHODS: dict[str, str] = {
    "apr": "sprint_lib.methods.apr:Apr",
    "best_of_n": "sprint_lib.methods.best_of_n:BestOfN",
    "graph_of_thoughts": "sprint_lib.methods.graph_of_thoughts:GraphOfThoughts",
    "hogwild": "sprint_lib.methods.hogwild:Hogwild",
    "pasta": "sprint_lib.methods.pasta:Pasta",
    "self_consistency": "sprint_lib.methods.self_consistency:SelfConsistency",
    "sequential": "sprint_lib.methods.sequential:Sequential",
    "skeleton_of_thought": "sprint_lib.methods.skeleton_of_thought:SkeletonOfThought",
    "sos": "sprint_lib.methods.sos:Sos",
    "sprint": "sprint_lib.methods.sprint:Sprint",
    "tree_of_thoughts": "sprint_lib.methods.tree_of_thoughts:TreeOfThoughts",
}

# An attempt's status by how the call ended that its answer comes from.
ENDS = {"stop": "ok", "length": "truncated", "error": "engine_error", "cancelled": "engine_error"}


def get_method(name: str) -> Method:
    """Return the method called `name`; `get_method(name).settings.from_dict(...)` makes its settings.

    Raises:
        KeyError: if there is no such method; the message lists those there are.
    """
    if name not in METHODS:
        raise KeyError(f"no method {name!r}; there are: {', '.join(sorted(METHODS))}")
    method: Method = resolve_name(METHODS[name])()
    return method


def attempt_seed(settings: MethodSettings, problem: Problem) -> int:
    """The seed of one attempt; with a call's id it gives the seed of that call (`loop.stable_seed`)."""
    return stable_seed(settings.seed, problem.id, settings.sample)


async def ask_within(
    recorder: Recorder, request: Request, call: Call, window: int, on_text: OnText | None = None
) -> Call:
    """`recorder.ask` within a context window: prompt and completion have at most `window` tokens together (0: any).

    A call whose prompt fills the window is not sent; it ends as `length`, without text.
    """
    if window:
        prompt = recorder.engine.count_tokens(request.prompt)
        if prompt >= window:
            now = recorder.seconds()
            made = replace(call, prompt_tokens=prompt, finish="length", started=now, first_token=now, ended=now)
            recorder.calls.append(made)
            return made
        request = replace(request, max_tokens=min(request.max_tokens, window - prompt))
    return await recorder.ask(request, call, on_text)


def conclude(
    problem: Problem,
    task: Task,
    *,
    method: str,
    sample: int,
    status: str,
    final: str,
    text: str,
    calls: tuple[Call, ...],
    wall_seconds: float,
    note: str = "",
) -> Attempt:
    """Grade the final text and put the attempt together; `ok` without an answer becomes `refused`.

    The note is what the engine noted and, unless it failed, why the grade is what it is.
    """
    grade = task.grade(problem, final)
    if status == "ok" and (not final.strip() or grade.reason == NO_ANSWER):
        status = "refused"
    return Attempt(
        problem=problem.id,
        method=method,
        status=status,
        correct=grade.correct,
        answer=grade.answer,
        text=text,
        calls=calls,
        wall_seconds=wall_seconds,
        engine_seconds=busy_seconds(calls),
        sample=sample,
        note="; ".join(filter(None, (note, grade.reason if status != "engine_error" or not note else ""))),
    )
