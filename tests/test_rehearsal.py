"""The paper profile from end to end with stand-ins, and, quick, that the stand-ins are what they stand for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import rehearsal

from sprint_lib import serving
from sprint_lib.calls import STATUSES
from sprint_lib.curation import annotate_dependencies, annotate_steps, pack_traces, sources
from sprint_lib.curation.annotators import get_annotator
from sprint_lib.curation.collecting import BaseSampling, collect
from sprint_lib.evaluation import campaign
from sprint_lib.store import Workspace
from sprint_lib.tasks.gpqa import Gpqa
from sprint_lib.tasks.math500 import Math500


def test_problems_have_the_columns_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rehearsal.math_rows()))
    found = Math500(tmp_path / "m.jsonl").load(20, split="test", seed=0)
    assert {problem.meta["level"] for problem in found} == {1, 2, 3, 4, 5}
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rehearsal.science_rows()))
    assert len(Gpqa(tmp_path / "g.jsonl").load(20, split="test", seed=0)) == 20


def test_traces_go_through_annotation_and_packing_with_every_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in (("traces", rehearsal.trace_rows()), ("math", rehearsal.math_rows())):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("SPRINT_MATH500", str(tmp_path / "math.jsonl"))
    how = BaseSampling("math500", "countdown-base", {}, 0, 0.0, 1, 0, 1)
    read = {"limit": 40, "licence": "", "tokenizer": "countdown-base", "where": {"source": "math"}}
    monkeypatch.setattr("sprint_lib.curation.collecting.tokens.counter", lambda name: lambda text: len(text) // 4)
    collected = collect(str(tmp_path / "traces.jsonl"), Workspace("x", tmp_path), how, held_out=["math500"], **read)  # type: ignore[arg-type]
    assert len(collected.candidates) == 40
    assert all(candidate.question.endswith("?\n") for candidate in collected.candidates)
    reasons = Counter(candidate.reason for candidate in collected.candidates)
    assert reasons["a test problem of MATH-500"] == rehearsal.HELD_OUT
    right = sources.right(collected.candidates)
    assert 0 < len(right.kept) < 40 - rehearsal.HELD_OUT

    async def curated() -> None:
        with rehearsal.ScriptedServer(rehearsal.script) as server:
            settings = {"model": "gpt-4o", "base_url": server.url, "cache": str(tmp_path / "replies")}
            annotator = get_annotator("model", **settings)
            steps = await annotate_steps(right.kept, annotator)
            graphs = await annotate_dependencies(steps.kept, annotator)
        assert [aside.reason for aside in steps.aside] == ["refusal: I would rather not."]
        assert {type(asked.answer).__name__ for asked in server.asked} == {"Say", "Status"}
        packed = pack_traces(graphs.kept, cap=None, min_ratio=1.5)
        assert packed.kept
        assert packed.aside  # where every kind of things needs the one before, nothing is parallel
        assert max(len(stage.prompts) for one in packed.kept for stage in one.packing.trajectory.stages) == 5

    asyncio.run(curated())


@pytest.mark.slow
def test_the_paper_profile_runs_to_its_last_figure(tmp_path: Path) -> None:
    """Every branch of it; a random model writes nonsense, so what is held is that each attempt ends classified."""
    try:
        serving.environment()
    except serving.ServingError as error:
        pytest.skip(str(error))
    environment = {**os.environ, "SPRINT_OUTPUTS": str(tmp_path / "outputs"), "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
    done = subprocess.run(
        [sys.executable, str(Path(rehearsal.__file__))], env=environment, capture_output=True, text=True, timeout=2700
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    workspace = Workspace("rehearsal", tmp_path / "outputs")
    found = campaign.read(workspace)
    assert list(found.logs) == ["math500", "gpqa", "countdown"]
    for task in found.logs:
        for method, attempts in found.attempts(task=task).items():
            assert len(attempts) == 20, (task, method)
            assert {attempt.status for attempt in attempts} <= set(STATUSES) - {"engine_error"}
    statuses = Counter(row["verdict"] for row in json.loads(workspace.claims.read_text()))
    assert statuses.total() - statuses["not run"] > 30
    manifest = json.loads(workspace.manifest.read_text())
    assert not manifest["failures"]
    for entry in manifest["notebooks"].values():
        assert all(entry["outputs"].values())
    page = (workspace.report / "index.html").read_text(encoding="utf-8")
    assert "figure-6" in page
    written = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert not [path for path in written if b"stand-in" in path.read_bytes()]  # the annotator's key
