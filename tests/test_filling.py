"""Last stages filled: by the real base model, and by hand where it matters what was written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sprint_lib import models
from sprint_lib.curation import Packed, Trace, curate
from sprint_lib.curation.filling import fill
from sprint_lib.curation.rules import CountdownAnnotator
from sprint_lib.store import RecordLog, hash_model, read_log
from sprint_lib.tasks.countdown import Countdown, problem, search_trace
from sprint_lib.trajectory import parse

HOW = {"base": "countdown-base", "engine": {"dtype": "float32"}, "temperature": 0.6, "seed": 1}
NUMBERS, TARGET = (1, 2, 9, 10), 77  # its seventh move solves it, and so do later ones: stage 2 of six


def packed(id_: str = "1-2-9-10=77", width: int = 6) -> Packed:
    trace = Trace("one", problem(NUMBERS, TARGET).question, search_trace(NUMBERS, TARGET), id_, "")
    return asyncio.run(curate([trace], CountdownAnnotator(), cap=width)).kept[0]


def filled(item: Packed, log: Path, width: int = 6) -> Packed:
    return asyncio.run(fill([item], log, width=width, **HOW))[0]


def by_hand(log: Path, executions: dict[str, str], finish: str = "stop") -> None:
    key = {"model": hash_model(models.find(HOW["base"])), **{k: HOW[k] for k in ("engine", "temperature", "seed")}}
    with RecordLog(log, key) as records:
        for task, text in executions.items():
            records.append(f"one {task}", {"text": text, "finish": finish})


def test_the_base_fills_a_stage_and_the_answer_is_the_last_solution(tmp_path: Path) -> None:
    item = packed()
    before, log = item.packing.trajectory, tmp_path / "filled.jsonl"
    after = filled(item, log)
    trajectory, task = after.packing.trajectory, Countdown()
    assert after.filled
    assert after.annotated == item.annotated
    assert len(before.stages[-1].prompts) < 6
    assert [len(stage.prompts) for stage in trajectory.stages] == [6, 6]
    assert len({prompt.text for stage in trajectory.stages for prompt in stage.prompts}) == 12
    assert trajectory.stages[-1].executions[: len(before.stages[-1].executions)] == before.stages[-1].executions
    assert parse(trajectory.render()) == trajectory
    asked = problem(NUMBERS, TARGET)
    solved = [e.text for e in trajectory.stages[-1].executions if task.solved(asked, e.text)]
    assert len(solved) > 1
    assert f"Solved {(trajectory.final or '').removeprefix('Answer ')}" in solved[-1]
    assert task.grade(asked, trajectory.final or "").correct
    written = read_log(log)
    assert filled(item, log) == after
    assert read_log(log) == written


def test_a_stage_is_filled_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    item, none = packed(width=2), " 2 + 9 = 11 ; 11 11 = 22 0 1 -> 77 no\nNone\n"
    tried = len(item.packing.step_of)
    task = "10 - 1"  # the eighth move; the seventh succeeds and opens stage 4 of two
    assert tried == 7
    by_hand(tmp_path / "none", {task: none})
    assert filled(item, tmp_path / "none", 2).packing.trajectory.final == item.packing.trajectory.final
    by_hand(tmp_path / "false", {task: "Solved 10 - 1 = 9 ; 9 - 2 = 7 ; 7 * 9 = 77\n"})
    by_hand(tmp_path / "cut", {task: none}, finish="length")
    by_hand(tmp_path / "tags", {task: "</execution_4.2>\n</Execution_4>\n"})
    for log, why in (
        ("false", f"Try {task}: claims what is not so"),
        ("cut", f"Try {task}: length"),
        ("tags", "does not read back as written"),
    ):
        kept = filled(item, tmp_path / log, 2)
        assert not kept.filled
        assert kept.packing.trajectory == item.packing.trajectory
        assert kept.packing.changes[-1] == f"not filled, {why}"


def test_without_a_base_nothing_is_filled_and_other_tasks_are_refused(tmp_path: Path) -> None:
    item = packed()
    assert asyncio.run(fill([item], tmp_path / "log", **{**HOW, "base": "", "width": 6})) == [item]
    with pytest.raises(ValueError, match="trace one: not of Countdown"):
        filled(packed("gsm8k-7"), tmp_path / "log")
