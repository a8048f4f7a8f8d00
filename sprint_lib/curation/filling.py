"""Filling: the last stage of a packed Countdown trace made as wide as a plan, by executions that the base model writes.

A sampled trace stops at its first success, and so does the last stage it is packed into. A planner cannot know where
that will be: it plans a whole stage, several of its tasks may succeed, and no trace shows how to answer then. So the
moves that come next in the search's order are executed, too, each as if the trace had come to it in place of its
success. The answer becomes the last solution of the stage, as in the base's language where a search goes on past a hit.

**Where ours differs.** The paper's stages hold steps of the trace only (section 3.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sprint_lib import models
from sprint_lib.calls import Call
from sprint_lib.curation import Packed
from sprint_lib.engines import Engine, Request, open_engine
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.serving import engine_for
from sprint_lib.store import RecordLog, hash_model
from sprint_lib.tasks.countdown import Move, moves, numbers_of, verify
from sprint_lib.trajectory import Execution, Prompt, Stage, parse

MAX_TOKENS = 1000  # of one execution; the longest of a first move has about 400
_END = ("Try", "Answer")  # what follows the search of one first move
_SOLVED = "Solved "


async def fill(
    packed: Sequence[Packed],
    log: Path | str,
    *,
    base: str,
    width: int,
    engine: Mapping[str, Any],
    temperature: float,
    seed: int,
) -> list[Packed]:
    """The same traces, in order, their last stages with `width` tasks, or all moves there are if that is fewer.

    A stage is filled as a whole or not at all: it stays as it was, with a change that says why, if an execution does
    not end, claims a solution that arithmetic does not confirm or holds tags. What is written goes to `log`; a killed
    call goes on where it stopped. With no `base` ("") nothing is filled.

    Args:
        base: a shipped model, a folder or one of the hub; `engine` as `serving.engine_for` takes it.

    Raises:
        ValueError: if a trace is not of Countdown.
        ServingError, EngineError: if the model cannot be had or started.
    """
    if not base:
        return list(packed)
    folder = models.find(base)
    missing = {item.annotated.trace.id: _missing(item, width) for item in packed}
    key = {"model": hash_model(folder), "engine": dict(engine), "temperature": temperature, "seed": seed}
    with RecordLog(log, key) as records:
        asked = {_id(item, move): _prompt(item, move) for item in packed for move in missing[item.annotated.trace.id]}
        asked = {id_: prompt for id_, prompt in asked.items() if id_ not in records}
        if asked:
            with engine_for(folder, engine) as spec:
                await _execute(asked, open_engine(spec), records, temperature, seed)
        return [_filled(item, missing[item.annotated.trace.id], records) for item in packed]


def _missing(item: Packed, width: int) -> list[Move]:
    """The next moves in the search's order that no plan has, as many as the last one lacks."""
    stages, trace = item.packing.trajectory.stages, item.annotated.trace
    planned = {prompt.text for stage in stages for prompt in stage.prompts}
    try:
        numbers, _ = numbers_of(trace.problem)
    except ValueError:
        raise ValueError(f"trace {trace.id}: not of Countdown, whose moves alone are known; leave fill empty") from None
    further = [move for move in moves(numbers) if f"Try {move.task}" not in planned]
    return further[: max(0, width - len(stages[-1].prompts))]


def _id(item: Packed, move: Move) -> str:
    return f"{item.annotated.trace.id} {move.task}"


async def _execute(asked: Mapping[str, str], engine: Engine, records: RecordLog, temperature: float, seed: int) -> None:
    """Have an execution written for every prompt, all at once; what failed is not recorded. Closes the engine."""
    recorder = Recorder(engine)

    async def write(id_: str, prompt: str) -> None:
        request = Request(prompt, MAX_TOKENS, temperature, _END, stable_seed(seed, id_))
        call = await recorder.ask(request, Call(id=id_, role="executor"))
        if call.finish != "error":
            records.append(id_, {"text": call.completion, "finish": call.finish})

    try:
        async with asyncio.TaskGroup() as group:
            for id_, prompt in asked.items():
                group.create_task(write(id_, prompt))
    finally:
        await engine.close()


def _opened(item: Packed, move: Move) -> str:
    """How the execution of a move begins: up to where its second moves do."""
    left = " ".join(map(str, move.left))
    _, target = numbers_of(item.annotated.trace.problem)
    return f"Try {move.task}\n = {move.result}\nLeft {left} -> {target}\n"


def _prompt(item: Packed, move: Move) -> str:
    """The trace without its last first move, then this one."""
    trace = item.annotated.trace
    return trace.question + trace.text[: trace.text.rindex("Try ")] + _opened(item, move)


def _filled(item: Packed, missing: Sequence[Move], records: RecordLog) -> Packed:
    """The trace with these moves in its last stage, if all of them were executed as they should be."""
    packing, trajectory = item.packing, item.packing.trajectory
    numbers, target = numbers_of(item.annotated.trace.problem)
    texts, hits = [], []
    for move in missing:
        record = records.records.get(_id(item, move), {"text": "", "finish": "error"})
        texts.append(_opened(item, move) + record["text"])
        claims = [line.removeprefix(_SOLVED) for line in texts[-1].splitlines() if line.startswith(_SOLVED)]
        if record["finish"] != "stop":
            return _as_it_was(item, f"Try {move.task}: {record['finish']}")
        if not all(verify(claim, numbers, target).correct for claim in claims):
            return _as_it_was(item, f"Try {move.task}: claims what is not so")
        hits += claims
    stages = (*trajectory.stages[:-1], _widened(trajectory.stages[-1], missing, texts))
    filled = replace(trajectory, stages=stages, final=f"Answer {hits[-1]}\n" if hits else trajectory.final)
    if parse(filled.render()) != filled:
        return _as_it_was(item, "does not read back as written")
    changes = (*packing.changes, f"{len(texts)} tasks added to the last stage") if texts else packing.changes
    return replace(item, packing=replace(packing, trajectory=filled, changes=changes), filled=True)


def _as_it_was(item: Packed, why: str) -> Packed:
    return replace(item, packing=replace(item.packing, changes=(*item.packing.changes, f"not filled, {why}")))


def _widened(stage: Stage, missing: Sequence[Move], texts: Sequence[str]) -> Stage:
    first = len(stage.prompts) + 1
    prompts = [Prompt(stage.number, at, f"Try {move.task}") for at, move in enumerate(missing, first)]
    executions = [Execution(stage.number, at, text) for at, text in enumerate(texts, first)]
    plan = [part for prompt in prompts for part in (prompt, "\n")]
    return replace(stage, plan=(*stage.plan, *plan), executions=(*stage.executions, *executions))
