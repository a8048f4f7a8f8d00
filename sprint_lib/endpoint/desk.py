"""What is served: models with their engines and settings, the questions under way, the trajectories that were made."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from sprint_lib.accounting import costs
from sprint_lib.calls import Call
from sprint_lib.endpoint.requests import Limits, Question, Refusal, ServeError
from sprint_lib.endpoint.teller import Show, Tell, Teller, counted
from sprint_lib.engines import Engine, EngineSpec, Request, open_engine
from sprint_lib.loop import Recorder, run_loop, stable_seed
from sprint_lib.methods.sequential import SequentialSettings
from sprint_lib.methods.sprint import SprintSettings
from sprint_lib.wording import unknown

BASELINE = "/sequential"  # after a model's name
_S = TypeVar("_S", SprintSettings, SequentialSettings)


@dataclass(frozen=True)
class Served:
    """An engine with the settings of the method that answers on it: SPRINT's or the baseline's."""

    engine: Engine
    settings: SprintSettings | SequentialSettings


def open_desk(config: Mapping[str, Any], *, key: str = "") -> Desk:
    """The desk that a description says, its engines started (`Desk.close` ends them).

    Args:
        config: `name`; `engine` (an `EngineSpec`'s fields) and `settings` (SPRINT's); `sequential`, the baseline's
            `engine` (default: the same one) and `settings`; `limits` (those of `Limits`).
        key: what clients must send; "": nothing.

    Raises:
        ServeError: on an unknown key or an impossible value.
        EngineError: if an engine cannot start.
    """
    config = _mapping(config, ("name", "engine", "settings", "sequential", "limits"), "the description")
    baseline = _mapping(config.get("sequential", {}), ("engine", "settings"), "sequential")
    name = config.get("name")
    if not isinstance(name, str) or not name.strip() or name.endswith(BASELINE):
        raise ServeError(f"name is {name!r}; expected what requests are to call the model, without {BASELINE}")
    specs = {"": _spec(config.get("engine", {}), "engine")}
    specs[BASELINE] = _spec(baseline["engine"], "sequential: engine") if "engine" in baseline else specs[""]
    limits = Limits(**_mapping(config.get("limits", {}), [field.name for field in fields(Limits)], "limits"))
    settings: dict[str, SprintSettings | SequentialSettings] = {
        "": _settings(SprintSettings, config.get("settings", {})),
        BASELINE: _settings(SequentialSettings, baseline.get("settings", {})),
    }
    if getattr(settings[""], "sync", "all") == "first_success":
        raise ServeError(
            "settings: sync first_success needs a task that verifies executions; a served question has none"
        )
    engines = {spec: open_engine(spec) for spec in dict.fromkeys(specs.values())}
    models = {name + suffix: Served(engines[specs[suffix]], settings[suffix]) for suffix in specs}
    return Desk(models, limits, key)


def _mapping(given: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ServeError(f"{where} is {given!r}; expected keys with values")
    if said := unknown(given, known):
        raise ServeError(f"{where}: {said}")
    return dict(given)


def _spec(given: Any, where: str) -> EngineSpec:
    try:
        return EngineSpec(**_mapping(given, [field.name for field in fields(EngineSpec)], where))
    except (TypeError, ValueError) as error:
        raise ServeError(f"{where}: {error}") from error


def _settings(kind: type[_S], given: Any) -> _S:
    known = [field.name for field in fields(kind) if field.name not in ("seed", "sample")]  # those are the request's
    try:
        return kind.from_dict(_mapping(given, known, "settings"))
    except (TypeError, ValueError) as error:
        raise ServeError(str(error)) from error


@dataclass(frozen=True)
class Solved:
    """A question with its answer: `finish` is `stop` or `length`; `status` is the attempt's (see `methods`)."""

    answer: str
    finish: str
    status: str
    text: str  # the rendered trajectory, or what the baseline wrote
    calls: tuple[Call, ...]
    seconds: float
    note: str = ""


class Desk:
    """What is served: models by name, limits, the questions under way and the latest trajectories."""

    def __init__(self, models: Mapping[str, Served], limits: Limits | None = None, key: str = "") -> None:
        self.models, self.limits, self._key = dict(models), limits or Limits(), key
        self.created = int(time.time())
        self.running: set[asyncio.Task[Solved]] = set()
        self.trajectories: OrderedDict[str, dict[str, Any]] = OrderedDict()

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    def admits(self, authorization: str) -> bool:
        """Whether a header has the key, if one is needed; takes as long for one that is nearly right."""
        given = authorization.removeprefix("Bearer ").strip()
        return not self._key or hmac.compare_digest(given.encode(errors="replace"), self._key.encode())

    def start(self, question: Question, show: Show, tell: Tell) -> asyncio.Task[Solved]:
        """Begin to solve; cancelling the task cancels every call under way.

        Raises:
            Refusal: on an unknown model, and while too many questions are under way.
        """
        served = self.models.get(question.model)
        if served is None:
            there_are = ", ".join(self.models)
            said = f"no model {question.model[:100]!r}; there are: {there_are}"
            raise Refusal(404, said, param="model", code="model_not_found")
        if len(self.running) >= self.limits.concurrency:
            said = f"{len(self.running)} questions are under way, which is all that this server takes; try again"
            raise Refusal(429, said, code="rate_limit_exceeded", headers={"Retry-After": "1"})
        task = asyncio.create_task(self._solve(served, question, show, tell))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    async def _solve(self, served: Served, question: Question, show: Show, tell: Tell) -> Solved:
        solve = _sprint if isinstance(served.settings, SprintSettings) else _sequential
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await solve(served, question, self.limits, show, tell)
        except TimeoutError:
            said = f"no answer within {self.limits.seconds:.0f} s, the limit of this server"
            raise Refusal(504, said, code="timeout", headers={"X-Should-Retry": "false"}) from None

    async def close(self) -> None:
        """Close the engines."""
        for engine in {id(served.engine): served.engine for served in self.models.values()}.values():
            await engine.close()

    def keep(self, id_: str, question: Question, solved: Solved, created: int) -> dict[str, Any]:
        """Keep a trajectory for clients to fetch, and return it; the oldest goes when there are too many."""
        self.trajectories[id_] = made = {
            **{"id": id_, "object": "trajectory", "created": created, "model": question.model, "seed": question.seed},
            **{"question": question.text, "answer": solved.answer, "text": solved.text},
            **{"status": solved.status, "finish_reason": solved.finish, "note": solved.note},
            **{"seconds": solved.seconds, "tokens": costs(solved.calls)},
            "calls": [call.to_json() for call in solved.calls],
        }
        while len(self.trajectories) > self.limits.trajectories:
            self.trajectories.popitem(last=False)
        return made

    def usage(self, question: Question, solved: Solved) -> dict[str, Any]:
        """Tokens as OpenAI counts them: the question's, and everything generated for it; the rest under `sprint`."""
        spent = costs(solved.calls)
        answer = counted(self.models[question.model].engine, solved.answer)
        prompt, total = solved.calls[0].prompt_tokens if solved.calls else 0, int(spent["total"])
        own = {f"{name}_tokens": spent[name] for name in ("sequential", "prefill", "cached")}
        return {
            **{"prompt_tokens": prompt, "completion_tokens": total, "total_tokens": prompt + total},
            **({} if answer is None else {"completion_tokens_details": {"reasoning_tokens": max(0, total - answer)}}),
            "sprint": {**own, "calls": spent["calls"], "stages": spent["stages"]},
        }


async def _sprint(served: Served, question: Question, limits: Limits, show: Show, tell: Tell) -> Solved:
    assert isinstance(served.settings, SprintSettings)
    settings = replace(served.settings, seed=question.seed, temperature=_temperature(served.settings, question))
    teller = Teller(
        served.engine,
        budget=question.max_tokens or limits.tokens,
        stop=question.stop,
        max_stages=settings.max_stages,
        show=show,
        tell=tell,
    )
    result = await run_loop(served.engine, question.text, settings, teller)
    answer = teller.finish(result.trajectory.final)
    length = result.status == "truncated" and teller.ended != "stop"  # at a stop string there may be no answer yet
    return Solved(
        answer,
        "length" if length else "stop",
        result.status,
        result.trajectory.render(),
        result.calls,
        teller.seconds(),
        result.note,
    )


async def _sequential(served: Served, question: Question, limits: Limits, show: Show, tell: Tell) -> Solved:
    assert isinstance(served.settings, SequentialSettings)
    settings = served.settings
    request = Request(
        settings.system + question.text,
        question.max_tokens or min(settings.max_tokens, limits.tokens),
        _temperature(settings, question),
        question.stop,
        stable_seed(question.seed, "S1"),
    )
    recorder, shown = Recorder(served.engine), 0

    def listen(new: str, tokens: int) -> None:
        nonlocal shown
        shown += len(new)
        show(new)

    call = await recorder.ask(request, Call(id="S1", role="sample"), listen)
    tell(call)
    show(call.completion[shown:])
    status = {"stop": "ok", "length": "truncated"}.get(call.finish, "engine_error")
    finish = "length" if call.finish == "length" else "stop"
    note = "; ".join(recorder.errors)
    return Solved(call.completion, finish, status, call.completion, (call,), recorder.seconds(), note)


def _temperature(settings: Any, question: Question) -> float:
    return float(settings.temperature if question.temperature is None else question.temperature)
