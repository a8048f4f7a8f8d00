"""Reinforcement learning with groups (GRPO, arXiv 2402.03300) for attempts of many calls, as APR does it (arXiv
2504.15466, section 3.3): the attempts at one problem are a group, an attempt's advantage is its reward against its
group's, and every sequence of the attempt, planners, executors, parents, children, is trained with it.

TRL's GRPOTrainer takes a `rollout_func`, but one completion for a prompt, and a reward a completion; an attempt is a
graph of calls with one reward. Its AsyncGRPOTrainer (in the pinned 1.16) does take rows of many calls from a worker of
one's own, but counts every token alike, so that attempts of many calls weigh most, passes over them once, knows no
reference model, and shares prefixes by a GPU's kernels. So the arithmetic is here and the rest is the suite's own:
attempts come from `rollouts`, the calls of an attempt are prefix trees (`trees`), as in fine-tuning, the optimizer is
plain AdamW.

    advantage      A = (reward - mean of the group) / (the larger of its standard deviation and `least_spread`, + 1e-4)
    of a token     min(r A, clip(r, 1 - clip, 1 + clip) A) - kl * (exp(q - p) - (q - p) - 1)
                   where p, q, o are the token's log probabilities by the model, the one it started from, and the one
                   that wrote it, at the temperature it was written with, and r = exp(p - o); the divergence counts
                   up to 10
    of an attempt  the mean over its calls of the mean over what the call wrote
    of a step      the mean over all attempts; one update for each of `inner` passes over them

The first pass writes down o, since no update comes between it and the rollouts. What has no advantage is not computed,
such as a group whose attempts have all the same reward. In standard deviations small differences of length count as
much as right and wrong wherever all attempts of a group are right, whatever latency weighs: `least_spread` is against
that. The state is saved after each step, before anything is done with it; a run that was cut goes on from there.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprint_lib import accounting, store
from sprint_lib.accounting import sequential_tokens, spawned, total_tokens
from sprint_lib.calls import STATUSES, Attempt
from sprint_lib.training.precision import has_bfloat16
from sprint_lib.training.rollouts import Reward, Rollout, Rollouts, TaskRollouts, Written
from sprint_lib.training.sft import padded
from sprint_lib.training.trees import Tree, collate, grouped, lay_out

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_STATE, _POLICY = "training_state.pt", "policy"
_SMALL = 1e-4  # beside a group's standard deviation
_FAR = 10.0  # a token's divergence at most, as in verl: one that became all but impossible must not outpull all others


class GrpoError(ValueError):
    """A training that cannot be: its settings, or the state of another one in its folder."""


@dataclass(frozen=True)
class GrpoConfig:
    """The recipe. APR: 150 steps of 64 problems x 5 attempts, inner 2, lr 1e-5, clip 0.2, kl 0.001 (0.01 for SoS+).

    `temperature` is the one that attempts are sampled with; it belongs to the method's settings, too.
    """

    steps: int = 30
    inner: int = 2
    lr: float = 1e-5
    warmup: int = 2  # steps
    clip: float = 0.2
    kl: float = 0.001
    temperature: float = 1.0
    least_spread: float = 0.0  # of a group's rewards, in which advantages are counted
    max_norm: float = 1.0  # of the gradients
    weight_decay: float = 0.0
    batch_tokens: int = 8192  # computed at once, padding included
    bf16: bool = True  # where the processor has it (`training.precision`), else float32
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "inner", "lr", "clip", "temperature", "max_norm", "batch_tokens", "threads"):
            if not getattr(self, name) > 0:
                raise GrpoError(f"{name!r} is {getattr(self, name)}, it must be more than 0")
        for name in ("kl", "least_spread", "warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise GrpoError(f"{name!r} is {getattr(self, name)}, it must be 0 or more")


Report = Callable[[Mapping[str, float]], None]  # takes the row of a step


# --- the arithmetic -------------------------------------------------------------------


def advantages(rewards: Sequence[float], least_spread: float = 0.0) -> list[float]:
    """Rewards of a group against its mean, in standard deviations (of the population); 0 if all are the same."""
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    scale = max(deviation, least_spread) + _SMALL
    return [(reward - mean) / scale if deviation > 1e-9 else 0.0 for reward in rewards]


def weigh(calls: Sequence[Written]) -> list[Tree]:
    """The calls of an attempt as trees, in which all that was written weighs 1 together.

    Each call has the same share, and each token the same share of its call's. Where two calls of a tree wrote the same
    after the same, the token has both shares.
    """
    paths = []
    for prompt, ids in calls:
        share = 1 / (len(ids) * len(calls))
        paths.append(([*prompt, *ids], [*[0.0] * len(prompt), *[share] * len(ids)]))
    return [lay_out(group, operator.add) for group in grouped(paths)]


def objective(
    log_probs: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantage: torch.Tensor, clip: float, kl: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is to be maximised, for each token; its divergence from the reference (k3, never negative); whether it was
    clipped. All of one shape; see the module's text for the formula."""
    import torch

    ratio = torch.exp(log_probs - old)
    held = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage, held * advantage)
    away = (reference - log_probs).clamp(-2 * _FAR, 2 * _FAR)  # exp must not overflow
    divergence = (torch.exp(away) - away - 1).clamp(max=_FAR)
    return gain - kl * divergence, divergence, (ratio * advantage > held * advantage)


# --- one step's sequences -------------------------------------------------------------


@dataclass
class _Piece:
    """Trees of one step that are computed at once, with what is found out about their tokens."""

    inputs: dict[str, Any]  # as `collate` gives them
    weights: torch.Tensor  # [rows, width - 1], of each token that is predicted, over all attempts of the step
    advantage: torch.Tensor  # [rows, 1]
    old: torch.Tensor | None = None  # log probabilities of the same tokens by the model that wrote them
    reference: torch.Tensor | None = None

    def loss(self, log_probs: torch.Tensor, config: GrpoConfig) -> tuple[torch.Tensor, float, float]:
        """The loss; the mean divergence of the trained tokens, and the share of them that was clipped. The first log
        probabilities that come are those of the model that wrote the tokens."""
        import torch

        trained = self.weights > 0
        self.old = log_probs.detach() if self.old is None else self.old
        log_probs = torch.where(trained, log_probs, self.old)  # elsewhere exp could overflow, and 0 * inf is no number
        reference = self.old if self.reference is None else torch.where(trained, self.reference, self.old)
        gain, divergence, clipped = objective(log_probs, self.old, reference, self.advantage, config.clip, config.kl)
        return (
            -(gain * self.weights).sum(),
            divergence[trained].mean().item(),
            clipped[trained].float().mean().item(),
        )


def _pieces(
    groups: Sequence[Sequence[Rollout]], config: GrpoConfig, context: int, pad: int, device: str = "cpu"
) -> list[_Piece]:
    import torch

    rows: list[tuple[Tree, float]] = []
    for group in groups:
        given = advantages([rollout.reward for rollout in group], config.least_spread) if group else []
        rows += [(tree, a) for r, a in zip(group, given, strict=True) if a for tree in weigh(r.calls)]
    if any(max(tree.positions) >= context for tree, _ in rows):
        raise GrpoError(f"an attempt has a call of more than the {context} tokens that the model takes")
    rows.sort(key=lambda row: len(row[0].tokens))
    attempts = sum(map(len, groups))
    pieces: list[_Piece] = []
    while rows:
        width = padded(len(rows[-1][0].tokens))
        height = max(1, config.batch_tokens // width)
        taken, rows = rows[-height:], rows[:-height]
        inputs = {name: values.to(device) for name, values in collate([tree for tree, _ in taken], width, pad).items()}
        weights = inputs.pop("weights")[:, 1:] / attempts
        inputs.pop("labels")
        pieces.append(_Piece(inputs, weights, torch.tensor([[advantage] for _, advantage in taken], device=device)))
    return pieces


def _log_probs(model: PreTrainedModel, piece: _Piece, config: GrpoConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities [rows, width - 1] of the tokens that follow, and the mean entropy of those that are trained."""
    import torch

    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16 and has_bfloat16(model.device.type)):
        logits = model(**piece.inputs, use_cache=False).logits[:, :-1]
    scores = torch.log_softmax(logits.float() / config.temperature, dim=-1)
    following = piece.inputs["input_ids"][:, 1:, None]
    with torch.no_grad():
        spread = -(scores.exp() * scores).sum(-1)[piece.weights > 0]
    return scores.gather(-1, following)[..., 0], spread.mean()


# --- training -------------------------------------------------------------------------


def train_grpo(
    base: Path | str,
    out: Path | str,
    rollouts: Rollouts,
    config: GrpoConfig,
    reward: Callable[[Attempt], float] | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train the model in folder `base` on its own attempts and save it to `out`, with its curve in training.json.

    `reward` is of an attempt (default: `Reward()`). A `Reward` that weighs lengths is given the typical ones of the
    first step's attempts. `rollouts` are closed at the end, however it comes. Rows of the curve have means over the
    step's attempts, before its update. Computed on a GPU if there is one.

    Raises:
        GrpoError: if `out` holds the state of a run of other settings, or of a reward no source is known of.
        FileNotFoundError: if there is no base model.
    """
    import torch

    base, out = Path(base), Path(out)
    reward = reward or Reward()
    key = store.hash_json([store.hash_model(base), asdict(config), repr(rollouts), _shape(reward), _code(rollouts)])
    done = _finished(out, key)
    if done:
        return done
    torch.set_num_threads(config.threads)
    state = _State(base, out, key, config)
    with closing(rollouts):
        _steps(state, rollouts, state.reward or reward, report)
    return state.finish()


def _steps(state: _State, rollouts: Rollouts, reward: Callable[[Attempt], float], report: Report | None) -> None:
    """The steps that are left."""
    config = state.config
    while state.step < config.steps:
        began = time.monotonic()
        sampled = rollouts.sample(state.step, state.policy())
        groups = _kept(sampled)
        if state.step == 0 and isinstance(reward, Reward):
            reward = state.reward = reward.measured([rollout.attempt for group in groups for rollout in group])
        groups = [[replace(rollout, reward=reward(rollout.attempt)) for rollout in group] for group in groups]
        row = {"step": float(state.step), **_measures(groups)}
        row["engine_error"] = 1 - row["attempts"] / sum(map(len, sampled))
        row["sampling_seconds"] = time.monotonic() - began
        row |= _update(state, groups)
        row["training_seconds"] = time.monotonic() - began - row["sampling_seconds"]
        state.curve.append(row)
        state.step += 1
        state.save()
        if report:
            report(row)


def _kept(groups: Sequence[Sequence[Rollout]]) -> list[list[Rollout]]:
    """Without attempts that failed in the engine: they say nothing about the model."""
    return [[rollout for rollout in group if rollout.attempt.status != "engine_error"] for group in groups]


def _measures(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """Means over the attempts of a step."""
    found = [rollout for group in groups for rollout in group]
    attempts = [rollout.attempt for rollout in found]
    ended = Counter(attempt.status for attempt in attempts)
    told = [len({rollout.reward for rollout in group}) > 1 for group in groups]
    n = max(1, len(found))
    return {
        "attempts": float(len(found)),
        "reward": sum(rollout.reward for rollout in found) / n,
        "accuracy": sum(attempt.correct for attempt in attempts) / n,
        "sequential": sum(map(sequential_tokens, attempts)) / n,
        "total": sum(map(total_tokens, attempts)) / n,
        "threads": sum(map(spawned, attempts)) / n,
        "calls": sum(len(attempt.calls) for attempt in attempts) / n,
        "groups_told_apart": sum(told) / max(1, len(told)),
        **{status: ended[status] / n for status in STATUSES},
    }


def _update(state: _State, groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """`inner` updates on the attempts of a step; means over trained tokens of the last pass, entropy of the first."""
    import torch

    config = state.config
    pieces = _pieces(groups, config, state.context, state.pad, state.model.device.type)
    tokens = sum(int((piece.weights > 0).sum()) for piece in pieces)
    if not pieces:  # nothing is told apart, nothing is learnt
        return {"tokens": 0.0}
    found = {"tokens": float(tokens), "entropy": 0.0}
    with torch.no_grad():
        for piece in pieces:
            piece.reference = _log_probs(state.reference, piece, config)[0]
    for passed in range(config.inner):
        found |= {"kl": 0.0, "clipped": 0.0}
        for piece in pieces:
            log_probs, entropy = _log_probs(state.model, piece, config)
            loss, divergence, clipped = piece.loss(log_probs, config)
            loss.backward()
            share = float((piece.weights > 0).sum()) / tokens
            found["kl"] += divergence * share
            found["clipped"] += clipped * share
            found["entropy"] += entropy.item() * share * (passed == 0)
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.max_norm)
        found["gradient"] = norm.item()
        for group in state.optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (state.step + 1) / max(1, config.warmup))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
    return found


# --- what is kept ---------------------------------------------------------------------


def _code(rollouts: Rollouts) -> list[str]:
    here = Path(__file__)
    files = [*(here.with_name(name) for name in ("grpo.py", "rollouts.py", "trees.py")), Path(accounting.__file__)]
    attempts = [rollouts.code_hash()] if isinstance(rollouts, TaskRollouts) else []
    return [store.hash_path(file) for file in files] + attempts


def _shape(reward: Callable[[Attempt], float]) -> str:
    """What stands for a reward in the key of a training: a function's text and the values that it brought along."""
    if isinstance(reward, Reward):
        return repr(reward)
    try:
        brought = inspect.getclosurevars(reward).nonlocals if inspect.isfunction(reward) else {}
        said = repr([inspect.getsource(reward), brought, getattr(reward, "__defaults__", None)])
    except (TypeError, OSError):
        said = " at 0x"
    if " at 0x" in said:
        raise GrpoError(
            f"reward {reward!r}: give a Reward or a function that stands in a file or a cell, with plain values if it "
            "brings any along, so that a training that was cut is known by its text"
        )
    return said


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    try:
        summary: dict[str, Any] = json.loads((out / "training.json").read_text(encoding="utf-8"))
        return summary if (summary["key"], summary["model"]) == (key, store.hash_model(out)) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class _State:
    """Model, optimizer and curve of one training, and the one file that keeps them."""

    def __init__(self, base: Path, out: Path, key: str, config: GrpoConfig) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.base, self.out, self.key, self.config = base, out, key, config
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.pad: int = self.tokenizer.pad_token_id or 0
        torch.manual_seed(config.seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
        self.reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
        self.context: int = self.model.config.max_position_embeddings
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
        self.step, self.seconds, self.resumed = 0, 0.0, 0
        self.curve: list[dict[str, float]] = []
        self.reward: Reward | None = None
        self._began = time.monotonic()
        self._load()

    def policy(self) -> Path:
        """The folder with the weights as they are now, from which attempts are sampled."""
        folder = self.out / _POLICY
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def save(self) -> None:
        import torch

        kept = {"key": self.key, "step": self.step, "curve": self.curve, "reward": self.reward and asdict(self.reward)}
        kept |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        kept["seconds"] = self.seconds + time.monotonic() - self._began
        self.out.mkdir(parents=True, exist_ok=True)
        partial = self.out / f"{_STATE}.partial"
        with partial.open("wb") as file:
            torch.save(kept, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.out / _STATE)

    def _load(self) -> None:
        import torch

        path = self.out / _STATE
        if not path.exists():
            return
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept["key"] != self.key:
            raise GrpoError(
                f"{path}: a run of other settings was cut here; go back to them, or delete {path.parent} to begin anew"
            )
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.step, self.curve, self.seconds = kept["step"], kept["curve"], kept["seconds"]
        self.resumed, self.reward = kept["step"], Reward(**kept["reward"]) if kept["reward"] else None

    def finish(self) -> dict[str, Any]:
        """The model in bf16 beside its curve; the state is no longer needed then."""
        import shutil

        import torch

        (self.out / "training.json").unlink(missing_ok=True)
        self.model.to(torch.bfloat16).save_pretrained(self.out)
        self.tokenizer.save_pretrained(self.out)
        summary = {
            "key": self.key,
            "base": store.hash_model(self.base),
            "config": asdict(self.config),
            "reward": self.reward and asdict(self.reward),
            "steps": self.step,
            "resumed_at": self.resumed,
            "seconds": round(self.seconds + time.monotonic() - self._began, 1),
            "curve": self.curve,
            "model": store.hash_model(self.out),
        }
        store.write_json(self.out / "training.json", summary)
        (self.out / _STATE).unlink(missing_ok=True)
        shutil.rmtree(self.out / _POLICY, ignore_errors=True)
        return summary
