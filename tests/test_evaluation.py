"""Runs: resumable, complete, in problem order, honest about failures, and gone when their parent is."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sprint_lib import engines, store
from sprint_lib.calls import Attempt
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation import runs
from sprint_lib.evaluation.runs import Progress, RunError, RunSpec
from sprint_lib.store import LogError, RecordLog, Workspace
from sprint_lib.tasks import countdown, get_task

# An engine that solves by symbolic search. Children get it as `sitecustomize`, this process as a module.
FAKE = """
import asyncio, os, time
from sprint_lib import engines
from sprint_lib.engines import Completion, EngineError
from sprint_lib.tasks import countdown

class Fake:
    asked, running, most = 0, 0, 0

    async def complete(self, request, on_text=None):
        Fake.asked += 1
        dead = Fake.asked > int(os.environ.get("FAKE_LIMIT", "1000000"))
        Fake.running += 1
        Fake.most = max(Fake.most, Fake.running)
        began = time.monotonic()
        try:
            if Fake.asked > int(os.environ.get("FAKE_HANGS", "1000000")):
                await asyncio.sleep(100)
            await asyncio.sleep(float(os.environ.get("FAKE_SECONDS", "0")) * (1 + request.seed % 3))
        finally:
            Fake.running -= 1
        if dead:
            raise EngineError("out of memory")
        numbers, target = request.prompt.splitlines()
        state = tuple(map(int, numbers.split()[1:]))
        text = "Answer " + countdown.chain_text(countdown.solve(state, int(target.split()[1])))
        return Completion(text, 10, 0, 20 + request.seed % 50, "stop", began, began, time.monotonic())

    def count_tokens(self, text): return len(text.split())
    async def close(self): Fake.closed = True

if os.environ.get("FAKE_CRASH"):
    raise SystemExit("boom at start")
engines.open_engine = lambda spec: Fake()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake engine's class, in place of every engine, here and in children."""
    place = tmp_path / "python" / "sitecustomize.py"
    store.write_text(place, FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place.parent), str(Path(store.__file__).parents[1])]))
    monkeypatch.setattr(engines, "open_engine", engines.open_engine)
    found = importlib.util.spec_from_file_location("fake_engine", place)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.Fake


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace("test", tmp_path / "outputs")


def spec_of(**changes: Any) -> RunSpec:
    spec = RunSpec("rft", "sequential", n=12, seed=3, engine=EngineSpec("fake", "tiny"), concurrency=4)
    return replace(spec, **changes)


def outcomes(attempts: list[Attempt]) -> list[tuple[str, str, bool, int]]:
    return [(a.problem, a.text, a.correct, a.calls[0].completion_tokens) for a in attempts]


def test_run_is_complete_bounded_and_in_problem_order(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.01")
    seen: list[Progress] = []
    attempts = runs.run(spec_of(), space, lambda named: seen.append(named["rft"]))
    assert [a.problem for a in attempts] == [p.id for p in get_task("countdown").load(12, split="test", seed=3)]
    assert all(a.correct and a.status == "ok" and a.wall_seconds >= 0.01 for a in attempts)
    assert fake.most == 4
    assert fake.closed
    assert [p.done for p in seen] == list(range(13))
    assert (seen[-1].correct, seen[-1].new, seen[-1].left) == (12, 12, 0)
    assert list(store.read_log(space.attempts("rft"))) != [a.problem for a in attempts]  # the log is in order of ending
    assert 0.03 < runs.run_seconds(space.attempts("rft")) < 5


def test_second_run_starts_no_engine_and_other_settings_start_anew(fake: Any, space: Workspace) -> None:
    first = runs.run(spec_of(), space)
    assert runs.run(spec_of(), space) == first
    assert fake.asked == 12
    control = runs.run(spec_of(name="control", sample=1), space)
    assert fake.asked == 24
    assert [a.calls[0].completion_tokens for a in control] != [a.calls[0].completion_tokens for a in first]
    assert {a.sample for a in control} == {1}
    runs.run(spec_of(settings={"temperature": 0.5}), space)
    assert fake.asked == 36
    assert runs.run(spec_of(), space) == first
    assert fake.asked == 36


def test_key_knows_weights_but_not_the_folder(tmp_path: Path) -> None:
    keys = []
    for folder, weights in (("a", "x"), ("b", "x"), ("c", "y")):
        store.write_text(tmp_path / folder / "config.json", "{}")
        store.write_text(tmp_path / folder / "model.safetensors", weights)
        store.write_text(tmp_path / folder / "training.json", folder)
        keys.append(runs.run_key(spec_of(engine=EngineSpec("fake", str(tmp_path / folder)))))
    assert keys[0] == keys[1] != keys[2]
    store.write_text(tmp_path / "a" / "README.md", "a word")
    assert keys[0] == runs.run_key(spec_of(name="x", engine=EngineSpec("fake", str(tmp_path / "a"))))
    with pytest.raises(FileNotFoundError, match="train it first"):
        runs.run_key(spec_of(engine=EngineSpec("fake", str(tmp_path))))


@pytest.mark.parametrize("name", ["calls", "loop", "trajectory", "methods", "tasks"])
def test_key_knows_the_code_that_decides(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    before = runs.run_key(spec_of())
    module = getattr(runs, name)
    changed = store.write_text(tmp_path / "changed.py", Path(module.__file__).read_text() + "#")
    monkeypatch.setattr(module, "__file__", str(changed))
    assert runs.run_key(spec_of()) != before


def test_specs_refuse_what_they_do_not_know() -> None:
    spec = spec_of(settings={"temperature": 0.5})
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    with pytest.raises(ValueError, match="did you mean 'concurrency'"):
        RunSpec.from_json({"name": "x", "method": "sequential", "concurency": 3})
    with pytest.raises(ValueError, match=r"engine: unknown key 'modell' \(did you mean 'model'"):
        RunSpec.from_json({"name": "x", "method": "sequential", "engine": {"modell": "y"}})
    for wrong in ({"name": "../x"}, {"n": 0}, {"settings": {"seed": 1}}):
        with pytest.raises(ValueError, match=r"file name|1 or more|belongs to the run"):
            spec_of(**wrong)


def test_dead_engine_stops_the_run_and_the_next_run_tries_again(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_LIMIT", "5")
    with pytest.raises(RunError, match=r"5 attempts in a row.*out of memory"):
        runs.run(spec_of(n=40), space)
    kept = runs.read_attempts(space.attempts("rft"))
    assert [a.status for a in kept].count("ok") == 5
    assert 5 <= [a.status for a in kept].count("engine_error") < 15
    monkeypatch.setenv("FAKE_LIMIT", "1000")
    before = fake.asked
    finished = runs.run(spec_of(n=40), space)
    assert [a.status for a in finished] == ["ok"] * 40
    assert fake.asked == before + 35
    assert set(outcomes([a for a in kept if a.status == "ok"])) <= set(outcomes(finished))


def test_single_engine_errors_count_as_attempts(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_LIMIT", "10")
    attempts = runs.run(spec_of(), space, allowed_errors=2)
    assert len(attempts) == 12
    assert sum(a.status == "engine_error" for a in attempts) == 2
    assert not any(a.correct for a in attempts if a.status == "engine_error")


def test_engine_errors_end_a_run_when_all_else_is_done(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_LIMIT", "10")
    said = r"run 'rft': 2 of 12 attempts failed in the engine \(.*out of memory\); run again: finished records are kept"
    with pytest.raises(RunError, match=said):
        runs.run(spec_of(), space)
    assert len(store.read_log(space.attempts("rft"))) == 12
    monkeypatch.setenv("FAKE_LIMIT", "11")  # the two that failed are tried again; they are the 13th and 14th asked
    with pytest.raises(RunError, match="2 of 12"):
        runs.run(spec_of(), space)
    monkeypatch.setenv("FAKE_LIMIT", "1000")
    assert [a.status for a in runs.run(spec_of(), space)] == ["ok"] * 12
    assert fake.asked == 12 + 2 + 2


def test_engine_errors_of_one_run_do_not_stop_the_others(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_LIMIT", "10")  # of each process
    specs = [spec_of(), spec_of(name="control", sample=1), spec_of(name="short", n=10)]
    with pytest.raises(RunError, match=r"'rft': 2 of 12 .*'control': 2 of 12 .*run again") as caught:
        runs.run_many(specs, space)
    assert "short" not in str(caught.value)
    assert [len(store.read_log(space.attempts(spec.name))) for spec in specs] == [12, 12, 10]
    monkeypatch.setenv("FAKE_LIMIT", "1000")
    found = runs.run_many(specs, space)
    assert {a.status for attempts in found.values() for a in attempts} == {"ok"}


def test_run_whose_every_attempt_failed_is_an_error(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_LIMIT", "0")
    with pytest.raises(RunError, match="every attempt failed"):
        runs.run(spec_of(n=3), space)


def test_bug_in_a_method_is_not_recorded_as_a_result(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    async def broken(*_: Any) -> Attempt:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sprint_lib.methods.sequential.Sequential.solve", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        runs.run(spec_of(), space)
    assert "run 'rft', problem " in caught.value.__notes__[0]
    assert runs.read_attempts(space.attempts("rft")) == []
    assert fake.closed


def test_run_works_inside_a_running_event_loop(fake: Any, space: Workspace) -> None:
    async def notebook() -> list[Attempt]:
        return runs.run(spec_of(n=3), space)

    assert len(asyncio.run(notebook())) == 3


def test_interrupted_cell_stops_its_run(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    monkeypatch.setenv("FAKE_SECONDS", "0.02")

    def interrupt(named: Mapping[str, Progress]) -> None:
        if named["rft"].new == 3:
            os.kill(os.getpid(), signal.SIGINT)

    async def notebook() -> None:
        runs.run(spec_of(n=100, concurrency=1), space, interrupt)

    event_loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        event_loop.run_until_complete(notebook())
    event_loop.close()
    signal.signal(signal.SIGINT, before)
    assert fake.closed
    with RecordLog(space.attempts("rft"), runs.run_key(spec_of(n=100, concurrency=1)), wait=0) as log:
        assert 3 <= len(log) < 100


def test_kill_at_any_moment_loses_and_doubles_nothing(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    expected = outcomes(runs.run(spec_of(name="undisturbed", n=40), space))
    monkeypatch.setenv("FAKE_SECONDS", "0.01")
    spec = store.write_json(space.root / "spec.json", described(spec_of(name="killed", n=40), space))
    log = space.attempts("killed")
    before: dict[str, Any] = {}
    for target, most in ((3, 9), (11, 12), (25, 14)):  # no child does more than `most`, however late it is killed
        monkeypatch.setenv("FAKE_HANGS", str(most))
        command = [sys.executable, "-m", "sprint_lib.evaluation.runs", str(spec)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
            wait_until(lambda target=target: log.exists() and len(store.read_log(log)) >= target)
            child.kill()
        now = store.read_log(log)
        assert before.items() <= now.items()
        assert len(now) < 40
        before = now
    monkeypatch.delenv("FAKE_HANGS")
    assert outcomes(runs.run(spec_of(name="killed", n=40), space)) == expected
    assert before.items() <= store.read_log(log).items()
    assert {record["session"] for record in store.read_log(log).values()} == {1, 2, 3, 4}


def test_many_runs_at_once(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    seen: list[Mapping[str, Progress]] = []
    specs = [spec_of(), spec_of(name="control", sample=1)]
    found = runs.run_many(specs, space, report=seen.append)
    assert {name: len(attempts) for name, attempts in found.items()} == {"rft": 12, "control": 12}
    assert {name: (p.done, p.correct) for name, p in seen[-1].items()} == {"rft": (12, 12), "control": (12, 12)}
    assert outcomes(found["rft"]) == outcomes(runs.run(replace(specs[0], name="alone"), space))
    before = store.hash_path(space.attempts("rft"))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", None)  # complete runs start no process
        assert runs.run_many(specs, space) == found
    assert store.hash_path(space.attempts("rft")) == before
    with pytest.raises(ValueError, match="one name"):
        runs.run_many([specs[0], specs[0]], space)


def test_failing_child_is_reported_with_its_last_lines(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_CRASH", "1")
    with pytest.raises(RunError, match=r"(?s)'rft' ended with exit status.*boom at start"):
        runs.run_many([spec_of()], space)
    monkeypatch.delenv("FAKE_CRASH")
    monkeypatch.setenv("FAKE_LIMIT", "0")
    monkeypatch.setenv("FAKE_HANGS", "1")
    slow = spec_of(name="slow", n=200, concurrency=1)
    with pytest.raises(RunError, match=r"(?s)error: run 'rft': every attempt failed.*out of memory"):
        runs.run_many([spec_of(n=1), slow], space)
    with RecordLog(space.attempts("slow"), runs.run_key(slow), wait=20) as log:  # free again
        assert len(log) < 2  # it was stopped, and did not come to its own end, which is after two errors


PARENT = """
import json, sys
from pathlib import Path
from sprint_lib.evaluation.runs import RunSpec, run_many
from sprint_lib.store import Workspace
specs = [RunSpec.from_json(s) for s in json.loads(sys.argv[1])]
run_many(specs, Workspace("test", Path(sys.argv[2])))
"""


def test_killed_parent_leaves_no_child_writing(fake: Any, space: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.02")
    specs = [spec_of(n=500, concurrency=1), spec_of(name="control", n=500, sample=1, concurrency=1)]
    given = json.dumps([spec.to_json() for spec in specs])
    logs = [space.attempts(spec.name) for spec in specs]
    with subprocess.Popen([sys.executable, "-c", PARENT, given, str(space.root.parent)]) as parent:
        wait_until(lambda: all(log.exists() and len(store.read_log(log)) >= 2 for log in logs))
        with pytest.raises(LogError, match="another process"):
            RecordLog(logs[0], "x", wait=0)
        parent.send_signal(signal.SIGKILL)
    for log, spec in zip(logs, specs, strict=True):
        with RecordLog(log, runs.run_key(spec), wait=20) as held:
            assert 2 <= len(held) < 500


def test_printer_says_little(capsys: pytest.CaptureFixture[str]) -> None:
    report = runs.printer(every=60)
    for done in range(1, 11):
        report({"rft": Progress(10, done, done, done // 2, float(done)), "sprint": Progress(10, done)})
    assert capsys.readouterr().out == "rft 10/10, 50% right · sprint 10/10, 0% right · 10 s\n"
    assert runs.describe({"rft": Progress(10, 4, 2, 1, 3.0)}) == "rft 4/10, 25% right · 3 s, about 9 s left"
    many = {name: Progress(10, 10 * (name < "c"), 0, 0, 5.0) for name in "abcde"} | {"c": Progress(10, 4, 0, 1, 5.0)}
    assert runs.describe(many) == "2 of 5 done · c 4/10, 25% right · 5 s"


def described(spec: RunSpec, space: Workspace) -> dict[str, Any]:
    return {"profile": space.profile, "outputs": str(space.root.parent), "run": spec.to_json()}


def wait_until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"nothing happened in {seconds} s; {os.getpid()}"
        time.sleep(0.01)


def test_where_answers_go_counts_what_the_executions_had_found() -> None:
    from sprint_lib import tables
    from sprint_lib.calls import Call

    task = get_task("countdown")
    problem = task.load(1, split="test", seed=2)[0]
    solution = f"Try\nSolved {countdown.chain_text(countdown.solve(*countdown.numbers_of(problem.id)))}\n"

    def attempt(correct: bool, *stages: tuple[str, ...]) -> Attempt:
        calls = [Call("P9", "planner", 9, 0, (), "Answer 1 + 1 = 2\n" + solution, 1, 0, 1, 0.0, 0.0, 0.0)]
        calls += [
            Call(f"P{stage}/E{k}", "executor", stage, k, (), text, 1, 0, 1, 0.0, 0.0, 0.0)
            for stage, texts in enumerate(stages, 1)
            for k, text in enumerate(texts, 1)
        ]
        return Attempt(problem.id, "sprint", "ok", correct, "", "", tuple(calls))

    none = "Try\nSolved 1 + 1 = 3\n"
    attempts = [
        *[attempt(correct, (none, solution, solution)) for correct in (True, False, False, True)],
        attempt(True, (none,), (solution,)),
        *[attempt(False, (none,), (none,), (none,), (none,))] * 2,
        attempt(False),
    ]
    frame = tables.where_answers_go(attempts, [problem], task)
    assert frame[["stages", "executions_that_solve", "n", "wrong"]].to_numpy().tolist() == [
        ["0", "none", 1, 1], ["1", "several", 4, 2], ["2", "one", 1, 0], ["3 or more", "none", 2, 2]
    ]  # fmt: skip
    assert frame["share (%)"].tolist() == [100, 50, 0, 100]
    blind = get_task("longhand")  # cannot tell of an execution whether it solves all
    (asked,) = blind.load(1, split="test", seed=2)
    row = tables.where_answers_go([replace(attempts[0], problem=asked.id)], [asked], blind).iloc[0]
    assert (row["executions_that_solve"], row["n"]) == ("the task cannot tell", 1)
