"""Runs of several models on several tasks: names, one server a model, nothing started for what is done, the index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from completions_server import completions

from sprint_lib import models, prompts, serving
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation import campaign
from sprint_lib.evaluation.campaign import CampaignError, Planned
from sprint_lib.evaluation.runs import RunSpec
from sprint_lib.store import Workspace

HERE = {"dtype": "float32", "max_batch": 4}


def planned(n: int = 3) -> list[Planned]:
    staged = {"max_stages": 2, "max_plan_tokens": 40, "max_execution_tokens": 20}
    linear = {"max_tokens": 30}
    return [
        Planned("sprint", RunSpec(name="sprint", method="sprint", n=n, settings=staged)),
        Planned("rft", RunSpec(name="rft", method="sequential", n=n, settings=linear)),
        Planned("rft", RunSpec(name="clock-rft", method="sequential", n=2, settings=linear, concurrency=1), alone=True),
    ]


def test_models_in_this_process_and_what_the_later_notebooks_read(tmp_path: Path) -> None:
    workspace = Workspace("x", tmp_path)
    folders = {"rft": models.path("countdown-base"), "sprint": "countdown-sprint"}
    runs = campaign.run_models(planned(), folders, HERE, workspace)
    assert {name: len(attempts) for name, attempts in runs.items()} == {"sprint": 3, "rft": 3, "clock-rft": 2}
    campaign.write_index(workspace, planned(), "countdown")
    found = campaign.read(workspace)
    assert (found.task, found.others) == ("countdown", [])
    assert found.attempts() == {
        "sprint": runs["sprint"],
        "rft": runs["rft"],
    }  # the clock's runs have names of their own
    assert [problem.id for problem in found.problems("rft")] == [a.problem for a in runs["rft"]]


class Counted:
    """Stands for a server that is started: counts how often."""

    def __init__(self) -> None:
        self.started = self.stopped = 0

    def __enter__(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1


def test_one_server_a_model_and_none_for_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, folders = Workspace("x", tmp_path), {"rft": "a", "sprint": "b"}
    servers: dict[str, Counted] = {}
    with completions("Answer 1 + 2") as there:

        def engine_for(model: str, given: Any, log: Path) -> serving.ModelEngine:
            spec = EngineSpec(kind="server", model=f"m-{model}", urls=(there.url,))
            return serving.ModelEngine(spec, servers.setdefault(model, Counted()))  # type: ignore[arg-type]

        monkeypatch.setattr(campaign, "engine_for", engine_for)
        first = campaign.run_models(planned(), folders, {"kind": "vllm"}, workspace)
        asked = len(there.bodies)
        again = campaign.run_models(planned(), folders, {"kind": "vllm"}, workspace)
        assert first == again
        assert len(there.bodies) == asked
        assert {model: (s.started, s.stopped) for model, s in servers.items()} == {"a": (1, 1), "b": (1, 1)}
        names = [body["model"] for body in there.bodies]
        assert names == sorted(names, reverse=True)  # all of one model's runs, then the other's
        campaign.run_models(planned(n=4), folders, {"kind": "vllm"}, workspace)
        assert {s.started for s in servers.values()} == {2}


def test_further_tasks_are_the_same_runs_under_names_of_their_own() -> None:
    others = [{"task": "gpqa", "problems": 7}, {"task": "math500", "problems": 5, "max_tokens": 9}]
    found = campaign.other_runs(others, planned()[:2])
    assert [(one.model, one.spec.name, one.spec.task, one.spec.n) for one in found] == [
        ("sprint", "gpqa-sprint", "gpqa", 7),
        ("rft", "gpqa-rft", "gpqa", 7),
        ("sprint", "math500-sprint", "math500", 5),
        ("rft", "math500-rft", "math500", 5),
    ]
    assert [one.spec.settings.get("max_tokens") for one in found] == [None, 30, None, 9]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"task": "gpqa", "problem": 3}, "unknown key 'problem' .did you mean 'problems'"),
        ({"task": "gpqa"}, "needs task and problems"),
        ({"task": "countdown", "problems": 3}, "the task 'countdown' is there twice"),
    ],
)
def test_further_tasks_refused(other: dict[str, Any], said: str) -> None:
    with pytest.raises(CampaignError, match=said):
        campaign.other_runs([other], planned())


def test_what_a_model_is_told_goes_by_method_and_task(tmp_path: Path) -> None:
    runs = planned()[:2]
    runs += campaign.other_runs([{"task": "gpqa", "problems": 1}], runs)
    assert campaign.asked(runs, "") == runs
    told = {one.spec.name: one.spec.settings["system"] for one in campaign.asked(runs, "shipped")}
    assert "<Plan_1>" in told["sprint"]
    assert "<Plan_1>" in told["gpqa-sprint"]
    assert "<Plan_1>" not in told["rft"]
    assert "four options" in told["gpqa-rft"]
    assert all(text.endswith("Problem:\n") for text in told.values())
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "sprint.md").write_text("Plan!\n")
    assert prompts.read(str(own), "sprint", "longhand") == "Plan!\n\nProblem:\n"
    assert prompts.read(str(own), "sequential", "countdown") == told["rft"]
    whole = own / "sprint.md"
    assert prompts.read(str(whole), "sprint", "gpqa") == "Plan!\n\n"
    assert prompts.read(str(whole), "sequential", "gpqa") == told["gpqa-rft"]
    with pytest.raises(prompts.PromptError, match=r"shiped: no such folder or file \(did you mean 'shipped'"):
        prompts.read("shiped", "sprint", "gpqa")


def test_an_index_that_cannot_be_read_names_the_notebook(tmp_path: Path) -> None:
    workspace = Workspace("x", tmp_path)
    with pytest.raises(CampaignError, match="run notebook 06 again"):
        campaign.read(workspace)
    workspace.data.mkdir(parents=True)
    (workspace.data / campaign.INDEX).write_text("[]")
    with pytest.raises(CampaignError, match="run notebook 06 again"):
        campaign.read(workspace)
