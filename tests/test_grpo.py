"""Reinforcement learning: the arithmetic by hand, a problem with a known optimum, what a kill leaves."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sprint_lib import models, serving, tasks
from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Completion, Engine, EngineError, OnText, Request
from sprint_lib.tasks import Grade, Problem
from sprint_lib.training import grpo, rollouts
from sprint_lib.training.base import BaseConfig, build_model, build_tokenizer
from sprint_lib.training.grpo import GrpoConfig, GrpoError, advantages, objective, train_grpo, weigh
from sprint_lib.training.rollouts import Reward, Rollout, TaskRollouts

CONFIG = GrpoConfig(steps=12, inner=2, lr=0.03, warmup=1, kl=0.0, bf16=False, threads=1)


# --- the arithmetic, by hand ----------------------------------------------------------


def test_advantages() -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0]) == pytest.approx([1, -1, -1, 1], rel=1e-3)
    mean, deviation = 0.5, math.sqrt((0.25 + 0.0 + 0.25) / 3)
    assert advantages([1.0, 0.5, 0.0]) == pytest.approx([(r - mean) / (deviation + 1e-4) for r in (1, 0.5, 0)])
    assert advantages([0.7, 0.7, 0.7]) == [0, 0, 0]
    assert advantages([1.0, 0.9], 0.2) == pytest.approx([0.05 / 0.2001, -0.05 / 0.2001])  # else 1 and -1
    assert advantages([1.0, 0.0], 0.2) == pytest.approx([1, -1], rel=1e-3)
    assert advantages([0.1 + 0.2, 0.3]) == [0, 0]  # the same but for rounding


def test_objective() -> None:
    """Ratios 1.5, 0.5, 1.1 with both signs of the advantage, clip 0.2; divergence exp(d) - d - 1."""
    log_probs = torch.log(torch.tensor([1.5, 0.5, 1.1, 1.5, 0.5, 1.1]))
    old, reference = torch.zeros(6), log_probs + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, math.log(2)])
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    gain, divergence, clipped = objective(log_probs, old, reference, advantage, clip=0.2, kl=0.5)
    assert divergence.tolist() == pytest.approx([0, 0, 0, 0, 0, 2 - math.log(2) - 1], abs=1e-6)
    assert gain.tolist() == pytest.approx([1.2, 0.5, 1.1, -1.5, -0.8, -1.1 - 0.5 * (1 - math.log(2))], abs=1e-6)
    assert clipped.tolist() == [True, False, False, False, True, False]


def test_a_token_that_became_all_but_impossible_does_not_outpull_all_others() -> None:
    log_probs = torch.tensor([-120.0, -3.0], requires_grad=True)
    still = log_probs.detach()
    gain, divergence, _ = objective(log_probs, still, torch.tensor([-1.0, -1.0]), torch.zeros(2), clip=0.2, kl=1.0)
    assert divergence.tolist() == pytest.approx([10, math.exp(2) - 3])
    gain.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([0, math.exp(2) - 1])


def test_an_attempt_weighs_one_each_call_the_same_and_each_token_the_same_of_its_call() -> None:
    """A planner of two tokens, two executors of one and three that go on from it."""
    (tree,) = weigh([((1, 2), (3, 4)), ((1, 2, 3), (5,)), ((1, 2, 3, 4), (6, 7, 8))])
    found = dict(zip(tree.tokens, tree.weights, strict=True))
    assert found[1] == found[2] == 0
    assert found[5] == pytest.approx(1 / 3)
    assert [found[k] for k in (6, 7, 8)] == pytest.approx([1 / 9] * 3)
    assert sum(tree.weights) == pytest.approx(1.0)
    # 3 is written by the planner and read by the executors; 4 is followed by one of them
    assert sorted(w for t, w in zip(tree.tokens, tree.weights, strict=True) if t in (3, 4) and w) == pytest.approx(
        [1 / 6, 1 / 6]
    )


def test_two_samples_that_wrote_the_same_count_twice() -> None:
    (tree,) = weigh([((1,), (2, 3)), ((1,), (2, 4))])
    weights = dict(zip(tree.tokens, tree.weights, strict=True)) | {2: max(tree.weights)}
    assert weights == pytest.approx({1: 0, 2: 0.5, 3: 0.25, 4: 0.25})


def test_calls_share_a_tree_only_where_that_costs_less() -> None:
    """Children that share a short line are apart, executors of a long plan together, each from an end of its own."""
    children = [(tuple(range(20)), tuple(range(100 * k, 100 * k + 200))) for k in range(1, 9)]
    assert [len(tree.tokens) for tree in weigh(children)] == [220] * 8
    executors = [(tuple(range(900)), tuple(range(1000 * k, 1000 * k + 40))) for k in range(1, 9)]
    assert [len(tree.tokens) for tree in weigh(executors)] == [900 + 8 * 40 + 7]
    for calls in (children, executors):
        assert sum(sum(tree.weights) for tree in weigh(calls)) == pytest.approx(1.0)


def rollout(reward: float, *calls: grpo.Written) -> Rollout:
    return Rollout(Attempt("p", "m", "ok", reward > 0, "", ""), calls, reward)


def test_gradients_of_what_was_not_written_are_zero() -> None:
    """Contexts, padding, and what was joined between two calls: exactly zero, whatever the numbers."""
    groups = [[rollout(1.0, ((5, 6), (7, 8)), ((5, 6, 7, 8, 9, 9), (3,))), rollout(0.0, ((5, 6), (4,)))]]
    (piece,) = grpo._pieces(groups, CONFIG, context=64, pad=0)
    log_probs = torch.randn(piece.weights.shape)
    piece.old, piece.reference = torch.randn_like(log_probs), torch.randn_like(log_probs)
    log_probs[piece.weights == 0] = 200.0  # exp of the way to the others overflows
    piece.old[piece.weights == 0] = piece.reference[piece.weights == 0] = -200.0
    log_probs.requires_grad_()
    piece.loss(log_probs, replace(CONFIG, kl=0.1, clip=100.0))[0].backward()
    gradient = log_probs.grad
    assert gradient is not None
    following = piece.inputs["input_ids"][:, 1:]
    written = piece.weights > 0
    assert sorted(following[written].tolist()) == [3, 4, 7, 8]
    assert (gradient[~written] == 0).all()
    assert (gradient[written] != 0).all()


def test_the_loss_of_a_step_by_hand() -> None:
    """Three attempts: one of two calls above its group's mean, one below, and a tied group of one, which has no
    advantage but counts: each token has advantage times 1/3 of an attempt, by calls, by tokens."""
    groups = [[rollout(1.0, ((5,), (7, 8)), ((5, 9), (3,))), rollout(0.0, ((6,), (4,)))], [rollout(1.0, ((5,), (2,)))]]
    pieces = grpo._pieces(groups, CONFIG, context=64, pad=0)
    losses = [piece.loss(torch.zeros_like(piece.weights, requires_grad=True), CONFIG)[0] for piece in pieces]
    assert sum(losses).item() == pytest.approx(0.0)  # advantages 1 and -1, each attempt's weights together 1/3
    share = {}
    for piece in pieces:
        log_probs = torch.zeros_like(piece.weights, requires_grad=True)
        piece.loss(log_probs, CONFIG)[0].backward()
        following = piece.inputs["input_ids"][:, 1:]
        share |= {int(following[at]): float(log_probs.grad[at]) for at in map(tuple, piece.weights.nonzero())}
    assert share == pytest.approx({7: -1 / 12, 8: -1 / 12, 3: -1 / 6, 4: 1 / 3}, rel=1e-3)


def test_log_probabilities_are_at_the_temperature_of_the_attempts(untrained: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(untrained, dtype=torch.float32)
    (piece,) = grpo._pieces([[rollout(1.0, ((5,), (7, 8))), rollout(0.0, ((5,), (7, 9)))]], CONFIG, 64, 0)
    found, entropy = grpo._log_probs(model, piece, replace(CONFIG, temperature=0.5))
    logits = model(torch.tensor([[5, 7]])).logits[0] / 0.5
    assert found[0, 0].item() == pytest.approx(torch.log_softmax(logits[0], -1)[7].item(), abs=1e-5)
    assert 0 < entropy.item() < math.log(logits.shape[-1])


def test_a_group_without_differences_is_not_computed() -> None:
    same = [rollout(1.0, ((1,), (2,))), rollout(1.0, ((1,), (3,)))]
    assert grpo._pieces([same], CONFIG, 64, 0) == []


def test_a_call_longer_than_the_model_takes_is_refused() -> None:
    groups = [[rollout(1.0, ((1,) * 60, (2,) * 9)), rollout(0.0, ((1,), (2,)))]]
    with pytest.raises(GrpoError, match="more than the 64 tokens"):
        grpo._pieces(groups, CONFIG, 64, 0)


# --- rewards --------------------------------------------------------------------------


def attempt(correct: bool, status: str = "ok", path: int = 100, beside: int = 0) -> Attempt:
    calls = (Call("P1", "planner", completion_tokens=path), Call("P1/E1", "executor", completion_tokens=beside))
    return Attempt("p", "m", status, correct, "", "", calls)


def test_rewards() -> None:
    shaped = Reward(latency=0.4, work=0.1, typical_path=200, typical_tokens=250)
    assert shaped(attempt(True, path=100, beside=25)) == pytest.approx(1 - 0.4 * 0.5 - 0.1 * 0.5)
    assert shaped(attempt(True, path=10_000)) == 0.1
    assert shaped(attempt(False)) == 0
    assert shaped(attempt(False, "malformed")) == -0.1
    assert Reward()(attempt(True, path=10_000)) == 1


def test_typical_lengths_are_those_of_right_answers() -> None:
    found = Reward(latency=1).measured([attempt(True, path=80, beside=40), attempt(False, path=999)])
    assert (found.typical_path, found.typical_tokens) == (80, 120)


# --- a problem with a known optimum ---------------------------------------------------

ARM = frozenset(f" {n}" for n in range(0, 101, 2))


class Arms:
    """Two arms: an even number or anything else, in one token."""

    name = "arms"

    def load(self, n: int, *, split: str, seed: int) -> list[Problem]:
        return [Problem(f"p{k}", "Try", "", {}) for k in range(n)]

    def grade(self, problem: Problem, text: str) -> Grade:
        return Grade(text in ARM, text)


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> TaskRollouts:
    monkeypatch.setitem(tasks.TASKS, "arms", f"{__name__}:Arms")
    settings = {"temperature": 1.0, "max_tokens": 1}
    return TaskRollouts("sequential", settings, "arms", problems=2, group=16, pool=4, engine={"max_batch": 32})


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = BaseConfig(hidden=32, layers=1, heads=1, kv_heads=1, ffn=32, context=64)
    build_model(config, tokenizer).save_pretrained(tmp_path / "untrained")
    tokenizer.save_pretrained(tmp_path / "untrained")
    return tmp_path / "untrained"


def of_one_token(attempt: Attempt) -> float:
    """These attempts are all cut at their one token; that is no fault."""
    return float(attempt.correct)


def test_the_better_arm_is_learnt(arms: TaskRollouts, untrained: Path, tmp_path: Path) -> None:
    found = train_grpo(untrained, tmp_path / "out", arms, CONFIG, of_one_token)
    accuracy = [row["accuracy"] for row in found["curve"]]
    assert accuracy[0] < 0.5
    assert min(accuracy[-2:]) > 0.9
    assert found["curve"][0]["kl"] < 0.1 < max(row.get("kl", 0) for row in found["curve"])
    assert not (tmp_path / "out" / "policy").exists()
    assert train_grpo(untrained, tmp_path / "out", arms, CONFIG, of_one_token) == found  # not trained again


@pytest.mark.slow
def test_the_better_arm_is_learnt_through_a_server_that_takes_new_weights(
    arms: TaskRollouts, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts get better only if the server, started once, writes with the weights of each step."""
    try:
        serving.environment()
    except serving.ServingError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    served = replace(arms, engine={"kind": "vllm", "dtype": "float32"})
    started: list[serving.ModelEngine] = []

    def engine_for(model: Path, given: Mapping[str, Any], **more: Any) -> serving.ModelEngine:
        started.append(serving.engine_for(model, given, **more))
        return started[-1]

    monkeypatch.setattr(rollouts, "engine_for", engine_for)
    found = train_grpo(untrained, tmp_path / "out", served, CONFIG, of_one_token)
    accuracy = [row["accuracy"] for row in found["curve"]]
    assert accuracy[0] < 0.5
    assert min(accuracy[-2:]) > 0.9
    server = started[0].server
    assert len(started) == 1
    assert server
    assert server.log.read_text().count('"POST /resume HTTP/1.1" 200') == CONFIG.steps - 1
    assert server.process
    assert server.process.returncode is not None  # ended with the training


def test_far_from_the_start_costs(arms: TaskRollouts, untrained: Path, tmp_path: Path) -> None:
    kept = {
        kl: train_grpo(untrained, tmp_path / str(kl), arms, replace(CONFIG, steps=8, kl=kl), of_one_token)["curve"]
        for kl in (0.0, 5.0)
    }
    assert max(row["kl"] for row in kept[5.0]) < max(row.get("kl", 0) for row in kept[0.0]) / 2


class Killed(Exception):
    pass


def test_a_cut_run_goes_on_to_the_same_curve(arms: TaskRollouts, untrained: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=6, kl=0.01)
    whole = train_grpo(untrained, tmp_path / "whole", arms, config, of_one_token)

    def kill(row: Mapping[str, float]) -> None:
        if row["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train_grpo(untrained, tmp_path / "cut", arms, config, of_one_token, kill)
    (tmp_path / "cut" / "training_state.pt.partial").write_bytes(b"half a file")  # as a kill while saving leaves it
    again = train_grpo(untrained, tmp_path / "cut", arms, config, of_one_token)
    assert (again["resumed_at"], again["steps"]) == (3, 6)
    for row, expected in zip(again["curve"], whole["curve"], strict=True):
        clocks = {"sampling_seconds", "training_seconds"}
        assert {k: row[k] for k in row.keys() - clocks} == pytest.approx(
            {k: expected[k] for k in expected.keys() - clocks}, rel=1e-3, abs=1e-5
        )
    assert json.loads((tmp_path / "cut" / "training.json").read_text()) == again


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
def test_kills_in_the_middle_of_steps(arms: TaskRollouts, untrained: Path, tmp_path: Path) -> None:
    """kill -9 a little after each of three saved steps, wherever that is: the curve is that of an undisturbed run."""
    config, out = replace(CONFIG, steps=8, kl=0.01), tmp_path / "killed"
    whole = train_grpo(untrained, tmp_path / "whole", arms, config, of_one_token)
    step = sum(row["sampling_seconds"] + row["training_seconds"] for row in whole["curve"]) / len(whole["curve"])
    for part in (0.2, 0.5, 0.8):
        before = stamp(out / grpo._STATE)
        arguments = (untrained, out, arms, config, of_one_token)
        process = multiprocessing.get_context("fork").Process(target=train_grpo, args=arguments)
        process.start()
        while stamp(out / grpo._STATE) == before:
            assert process.is_alive(), "the run ended before it was killed"
            time.sleep(0.001)
        time.sleep(part * step)
        process.kill()
        process.join()
        assert not (out / "training.json").exists()
    again = train_grpo(untrained, out, arms, config, of_one_token)
    assert 3 <= again["resumed_at"] < again["steps"] == 8
    for key in ("accuracy", "reward", "kl"):
        assert [row.get(key, -1) for row in again["curve"]] == pytest.approx(
            [row.get(key, -1) for row in whole["curve"]], rel=1e-3, abs=1e-5
        )


def test_the_state_of_another_run_is_refused(arms: TaskRollouts, untrained: Path, tmp_path: Path) -> None:
    def kill(row: Mapping[str, float]) -> None:
        raise Killed

    with pytest.raises(Killed):
        train_grpo(untrained, tmp_path / "out", arms, CONFIG, of_one_token, kill)
    with pytest.raises(GrpoError, match="other settings"):
        train_grpo(untrained, tmp_path / "out", arms, replace(CONFIG, lr=0.01), of_one_token)


# --- attempts of many calls -----------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings"), [("sprint", {"max_stages": 2}), ("apr", {"max_tokens": 300}), ("sos", {"max_tokens": 64})]
)
def test_what_the_loop_s_calls_read_and_wrote_is_kept(method: str, settings: dict[str, Any]) -> None:
    """Every call of an attempt is there, prompt and text token by token, and its tree sees what it saw."""
    model = models.path(f"countdown-{method}")
    sampled = TaskRollouts(method, {**settings, "temperature": 1.0}, problems=2, group=2, pool=8)
    groups = sampled.sample(3, model)
    assert [len(group) for group in groups] == [2, 2]
    tokenizer = build_tokenizer()
    for found in (rollout for group in groups for rollout in group):
        calls = found.attempt.calls
        assert len(found.calls) == len(calls) > (method != "sos")
        by_text = {(len(prompt), len(ids)) for prompt, ids in found.calls}
        assert by_text == {(call.prompt_tokens, call.completion_tokens) for call in calls}
        for prompt, ids in found.calls:
            assert list(prompt) == tokenizer(tokenizer.decode(prompt))["input_ids"]
            assert tokenizer(tokenizer.decode([*prompt, *ids]))["input_ids"] == [*prompt, *ids]
        assert sum(sum(tree.weights) for tree in weigh(found.calls)) == pytest.approx(1.0)
    assert [r.attempt.problem for r in groups[0]] == [groups[0][0].attempt.problem] * 2
    again = sampled.sample(3, model)
    assert [[r.calls for r in group] for group in again] == [[r.calls for r in group] for group in groups]


def test_an_attempt_of_which_a_server_failed_is_dropped_and_the_others_are_learnt_from(
    arms: TaskRollouts, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four attempts one has text without tokens, as after a failover, and one no text at all."""
    asked = 0

    class Failing:
        def __init__(self, engine: Engine) -> None:
            self.count_tokens, self.close, self._complete = engine.count_tokens, engine.close, engine.complete

        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            nonlocal asked
            number = asked = asked + 1
            if number == 2:
                raise EngineError("nobody is there")
            done = await self._complete(request, on_text)
            broken = replace(done, ids=(), prompt_ids=(), completion_tokens=1, note="another went on")
            return broken if number == 3 else done

    opened = rollouts.open_engine
    monkeypatch.setattr(rollouts, "open_engine", lambda spec: Failing(opened(spec)))
    groups = replace(arms, problems=2, group=2).sample(0, untrained)
    failed = [r.attempt for group in groups for r in group if r.attempt.status == "engine_error"]
    assert sorted(attempt.note for attempt in failed) == ["S1: nobody is there", "another went on"]
    assert sum(map(len, grpo._kept(groups))) == 2


def test_configs_that_cannot_be() -> None:
    with pytest.raises(GrpoError, match="'lr' is 0"):
        GrpoConfig(lr=0)


def test_rewards_are_told_apart(arms: TaskRollouts, untrained: Path, tmp_path: Path) -> None:
    """A run that was cut is not taken for that of another reward, and one whose text is not known is refused."""
    config = replace(CONFIG, steps=1)
    first = train_grpo(untrained, tmp_path / "out", arms, config, lambda attempt: float(attempt.correct))
    second = train_grpo(untrained, tmp_path / "out", arms, config, lambda attempt: -float(attempt.correct))
    assert first["key"] != second["key"]

    def times(factor: float) -> Callable[[Attempt], float]:
        return lambda attempt: factor * float(attempt.correct)

    half, two = (train_grpo(untrained, tmp_path / "out", arms, config, times(factor)) for factor in (0.5, 2.0))
    assert half["key"] != two["key"]
    with pytest.raises(GrpoError, match="with plain values if it brings any"):
        train_grpo(untrained, tmp_path / "out", arms, config, times(object()))  # type: ignore[arg-type]
    with pytest.raises(GrpoError, match="a function that stands in a file or a cell"):
        train_grpo(untrained, tmp_path / "out", arms, config, partial(of_one_token))


def test_engines_that_attempts_cannot_be_made_with() -> None:
    with pytest.raises(ValueError, match="keeps the weights it has"):
        TaskRollouts("sprint", {}, engine={"kind": "server", "urls": ["http://127.0.0.1:1/v1"]})
    with pytest.raises(ValueError, match="did you mean 'threads'"):
        TaskRollouts("sprint", {}, engine={"thraeds": 2})
