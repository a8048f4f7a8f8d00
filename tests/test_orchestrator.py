"""What the loop behind servers costs its own process, and what becomes of a run when a real server is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fast_server import calls, fast_server
from hostile import YARDSTICK

from sprint_lib.engines import open_engine, server
from sprint_lib.engines.contexts import tokenizer_file
from sprint_lib.evaluation import runs
from sprint_lib.evaluation.runs import Progress, RunSpec
from sprint_lib.serving import Server
from sprint_lib.store import Workspace

SHIPPED = "countdown-sprint"
HERE = Path(__file__).parent


def measured(url: str, model: str, *numbers: int) -> dict[str, Any]:
    """See `orchestrator.py`."""
    command = [sys.executable, str(HERE / "orchestrator.py"), url, model, *map(str, numbers)]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def own_milliseconds(found: Mapping[str, Any]) -> float:
    """Of CPU for a call: the least of the rounds (other work only adds), of the loop less the replay of its bytes."""
    loop, replay = (min(cpu for cpu, _ in found[name]) for name in ("loops", "replays"))
    return 1000 * (loop - replay) / float(found["calls"])


@pytest.mark.slow
@pytest.mark.parametrize(("problems", "concurrency"), [(20, 1), (100, 50)])
def test_own_time_of_a_call(problems: int, concurrency: int) -> None:
    """At most 3 ms of this process's CPU for a call beyond moving its bytes: prompt to tokens, request, reading the
    stream (a planner's token by token), dispatch, record. On a slower machine, as much more as other work takes there.
    """
    with fast_server(tokenizer_file(SHIPPED), 0.001) as url:
        found = measured(url, "m", 2, problems, concurrency, 3)
    assert found["calls"] == problems * calls(2)
    assert own_milliseconds(found) <= 3 * max(1.0, median(found["yardsticks"]) / YARDSTICK)


@pytest.mark.slow
def test_a_thousand_problems_in_flight() -> None:
    """Four thousand streams at once, in less than 1 GB and without a call that fails."""
    with fast_server(tokenizer_file(SHIPPED), 0.1) as url:
        found = measured(url, "m", 1, 1000, 1000, 0)
    assert found["calls"] == 1000 * calls(1)
    assert found["memory"] < 1000


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_run(
    vllm_pair: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every problem ends, no token is counted twice, and who looks at the notes sees what was lost."""
    engine = {"kind": "server", "model": SHIPPED, "urls": [one.url for one in vllm_pair], "tokenizer": SHIPPED}
    settings = {"temperature": 0.0}
    spec = RunSpec.from_json(
        {"name": "far", "method": "sprint", "n": 20, "concurrency": 10, "engine": engine, "settings": settings}
    )
    victim, dead = vllm_pair[0].process, vllm_pair[0].url
    assert victim
    done, take = 0, server._Call.take
    ends: list[asyncio.Task[None]] = []

    def count(progress: Mapping[str, Progress]) -> None:
        nonlocal done
        done = progress["far"].done

    async def end(call: server._Call) -> None:
        """Stop the victim, read what it has sent, and kill it, unless the call had ended by then."""
        os.killpg(victim.pid, signal.SIGSTOP)
        before = -1
        while before < call.written:
            before = call.written
            await asyncio.sleep(0.3)
        os.killpg(victim.pid, signal.SIGCONT if call.finish else signal.SIGKILL)

    def watched(call: server._Call, data: Any, now: float) -> Any:
        """Take a piece; if it is one of the first of a planner's call to the victim, the victim's end is tried."""
        failure = take(call, data, now)
        early = call.on_text and 0 < call.written < 5 and call.known.server and call.known.server.url == dead
        if early and done >= 3 and all(task.done() for task in ends) and victim.poll() is None:
            ends.append(asyncio.create_task(end(call)))
        return failure

    space = Workspace("smoke", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(server._Call, "take", watched)
        found = runs.run(spec, space, count)
    assert victim.wait(10) == -signal.SIGKILL
    assert len({attempt.problem for attempt in found}) == len(found) == spec.n
    assert "engine_error" not in {attempt.status for attempt in found}
    survivor = vllm_pair[1].url
    alone = RunSpec.from_json({**spec.to_json(), "name": "alone", "engine": {**engine, "urls": [survivor]}})
    same = [a.text == b.text for a, b in zip(found, runs.run(alone, space), strict=True)]
    assert sum(same) >= 0.9 * spec.n  # float32: what is decoded together changes rounding
    counter = open_engine(spec.engine)
    made = [call for attempt in found for call in attempt.calls]
    assert {call.completion_tokens - counter.count_tokens(call.completion) for call in made} == {1}  # what ended it
    notes = [attempt.note for attempt in found if f"{dead}: " in attempt.note and "which are kept" in attempt.note]
    assert notes, "some call was in the middle"
    assert all(f"{survivor} went on, having read" in note for note in notes)
    executors = re.findall(r"/E\S+: \S+: [^;]* which are kept(; up to \d+ not sent yet are lost)?", "; ".join(notes))
    assert all(executors), "they are sent in pieces, the last of which may not have come"
