from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sprint_lib import models
from sprint_lib.calls import Attempt
from sprint_lib.evaluation.runs import read_attempts
from sprint_lib.store import Workspace
from sprint_lib.tasks import get_task
from sprint_lib.tasks.countdown import problem
from sprint_lib.training import rounds
from sprint_lib.training.rounds import Round, own_samples
from sprint_lib.training.sft import SftConfig, SftError

QUESTION = "Numbers: 2 3 4\nTarget: 24\n"
PLAN = "<Plan_1>\n<prompt_1.1>Try 2 * 3</prompt_1.1>\n<prompt_1.2>Try 3 * 4</prompt_1.2>\n</Plan_1>\n"
DONE = (
    "<Execution_1>\n<execution_1.1>\nSolved 2 * 3 = 6 ; 4 + 6 = 24\n</execution_1.1>\n"  # a sum that is wrong
    "<execution_1.2>\nSolved 3 * 4 = 12 ; 2 * 12 = 24\n</execution_1.2>\n</Execution_1>\n"
)
FINAL = "<Final_answer>\nAnswer 3 * 4 = 12 ; 2 * 12 = 24\n</Final_answer>\n"
TASK, PROBLEMS = get_task("countdown"), {"2-3-4=24": problem((2, 3, 4), 24)}
RIGHT = Attempt("2-3-4=24", "sprint", "ok", True, "(2 * (3 * 4))", QUESTION + PLAN + DONE + FINAL)


def test_of_a_right_trajectory_plan_answer_and_the_executions_that_solved_it_are_learned() -> None:
    plan, execution, final = own_samples([RIGHT], TASK, PROBLEMS, system="Think. ")
    assert plan.context == "Think. " + QUESTION
    assert (execution.role, execution.completion) == ("executor", "Solved 3 * 4 = 12 ; 2 * 12 = 24\n")
    assert execution.context == "Think. " + QUESTION + PLAN.removesuffix("</Plan_1>\n") + "<execution_1.2>\n"
    assert plan.completion + plan.stop + "\n" == PLAN  # all of it, its end too: no plan knew what came of it
    assert final.context == "Think. " + QUESTION + PLAN + DONE  # in the order in which the model saw it
    assert final.completion + final.stop + "\n" == FINAL
    assert (plan.trace, final.ends) == (final.trace, True)


def test_of_a_right_line_all_is_learned_and_of_a_wrong_attempt_nothing() -> None:
    line = replace(RIGHT, method="sequential", text="Answer 2 * 3 = 6 ; 4 * 6 = 24\n")
    (sample,) = own_samples([replace(line, correct=False), line], TASK, PROBLEMS)
    assert (sample.context, sample.completion, sample.ends) == (QUESTION, line.text, True)
    assert own_samples([replace(RIGHT, correct=False)], TASK, PROBLEMS) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"problem": 3}, r"rounds: .*'problem' \(did you mean 'problems'\?\)"),
        ({"problems": 0}, "rounds: problems is 0, it must be a number more than 0"),
        ({"lr": "4e-4"}, "rounds: lr is '4e-4', it must be a number more than 0"),  # what YAML takes for text
        ({"settings": {"rtf": {}}}, r"rounds: unknown model 'rtf' \(did you mean 'rft'\?\)"),
    ],
)
def test_a_round_that_cannot_be_is_refused(given: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Round.from_json(given)


def test_a_round_tries_learns_and_is_not_repeated(tmp_path: Path) -> None:
    workspace = Workspace("own", tmp_path)
    places = {"sprint": (models.path("countdown-sprint"), rounds.folder(workspace, "sprint", 1, 1))}
    one = Round(problems=6, seed=1, tokens=300, settings={"sprint": {"temperature": 0.0, "max_stages": 2}})

    def go() -> dict:
        return rounds.learn_on(one, places, SftConfig(batch_tokens=1024), workspace, task="countdown", engine={})

    trained = go()["sprint"]
    attempts = read_attempts(workspace.attempts("own-countdown-sprint"))
    assert len(attempts) == 6
    assert trained["sequences"] == sum(attempt.correct for attempt in attempts) > 0
    assert trained["tokens"] >= 300
    assert trained["config"]["lr"] == one.lr
    assert json.loads((workspace.models / "sprint" / "training.json").read_text())["key"] == trained["key"]
    before = (workspace.models / "sprint" / "model.safetensors").stat().st_mtime_ns
    assert go()["sprint"] == trained
    assert (workspace.models / "sprint" / "model.safetensors").stat().st_mtime_ns == before


def test_a_model_that_is_never_right_has_nothing_to_learn(tmp_path: Path) -> None:
    workspace = Workspace("own", tmp_path)
    places = {"sprint": (models.path("countdown-base"), workspace.models / "sprint")}  # it knows no tags
    one = Round(problems=1, settings={"sprint": {"max_plan_tokens": 4, "retries": 0}})
    with pytest.raises(SftError, match="countdown-base: none of its 1 attempts is right"):
        rounds.learn_on(one, places, SftConfig(), workspace, task="countdown", engine={})
