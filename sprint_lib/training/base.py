"""The base reasoning model: a tiny Llama trained from scratch on sequential traces of one task.

It never sees a parallel tag: fine-tuning has to teach those, as in the paper
(section 3.2). What is a task's own, its words, its stream of problems and the
weights of decisive tokens, is its language (`training.languages`); nothing
held out is ever drawn. `sprint train base` runs this; the results are shipped
as `sprint_lib/models/<task>-base`, each with a model card.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sprint_lib import store
from sprint_lib.training.precision import has_bfloat16

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from sprint_lib.training.optimizer import MuonAdamW

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
MAX_STAGES, MAX_PROMPTS = 12, 24
_STATE = "training_state.pt"  # what a run that was cut goes on from


@dataclass(frozen=True)
class BaseConfig:
    """Size of the model and its training. A task's language is a subclass, with settings of its own.

    The shipped models' settings are in their training.json.
    """

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    ffn: int = 704
    context: int = 4096
    tokens: int = 18_000_000  # seen in training, padding left out
    batch_tokens: int = 3072
    lr: float = 3e-3  # of the matrices
    embedding_lr: float = 2e-3  # of embeddings and norms
    warmup: int = 100  # steps
    decay_share: float = 0.6  # the last part of training, over which the rate falls to zero
    weight_decay: float = 0.05
    jump_share: float = 0.2  # of line ends after which positions jump
    most_jump: int = 8  # positions left out by a jump, at most
    seed: int = 0
    threads: int = 2

    WORDS: ClassVar[Sequence[str]] = ()  # of the language, in the order of their ids; the tags come after them

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """(question, trace) of the train split."""
        raise NotImplementedError

    def weigh(self, words: Sequence[str], start: int) -> list[float]:
        """Weights in the loss of all words of a question and its trace, which begins at `start`; 0 before it."""
        raise NotImplementedError


def vocabulary(words: Sequence[str]) -> list[str]:
    """Every token of a language of these words, the stage tags of SPRINT included."""
    stages = range(1, MAX_STAGES + 1)
    tags = [f"<{slash}{kind}_" for kind in ("Plan", "Execution") for slash in ("", "/")]
    tags += [f"<{slash}{kind}_{i}." for kind in ("prompt", "execution") for slash in ("", "/") for i in stages]
    tags += ["<Final_answer>", "</Final_answer>", *(f"{j}>" for j in range(1, MAX_PROMPTS + 1))]
    every = [PAD, END, UNKNOWN, *words, *tags]
    return every + [f"<|reserved_{k}|>" for k in range(-len(every) % 64)]


def split_pattern(words: Iterable[str]) -> str:
    """The regular expression that cuts a text into words, the longest that fits first."""
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))


def build_tokenizer(words: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `vocabulary(words)`, by default Countdown's; decoding is plain concatenation."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from sprint_lib.training.languages import CountdownBase

    every = vocabulary(CountdownBase.WORDS if words is None else words)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(every)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(split_pattern(every)), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def build_model(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.ffn,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _batches(
    config: BaseConfig, tokenizer: PreTrainedTokenizerFast, start: int
) -> Iterator[list[tuple[list[int], int]]]:
    """Endless batches of (token ids, length of the question), all of one padded length each.

    A run that goes on at step `start` draws from another random stream than its first leg did. Few distinct shapes
    matter on a CPU: a kernel is compiled for every new one.
    """
    rng = random.Random(f"{config.seed} {start}")
    buckets: dict[int, list[tuple[list[int], int]]] = {}
    while True:
        question, trace = config.draw(rng)
        ids = [*tokenizer.encode(question + trace), tokenizer.eos_token_id]
        bucket = buckets.setdefault(_padded(len(ids)), [])
        bucket.append((ids, len(tokenizer.encode(question))))
        if len(bucket) >= max(1, config.batch_tokens // _padded(len(ids))):
            yield buckets.pop(_padded(len(ids)))


def _padded(length: int) -> int:
    return math.ceil(length / 64) * 64


def _collate(
    batch: list[tuple[list[int], int]], tokenizer: PreTrainedTokenizerFast, config: BaseConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids [rows, length] and loss weights, zero on question and padding."""
    import torch

    width = _padded(max(len(ids) for ids, _ in batch))
    ids_out = torch.zeros(len(batch), width, dtype=torch.long)
    weights = torch.zeros(len(batch), width)
    for row, (ids, start) in enumerate(batch):
        ids_out[row, : len(ids)] = torch.tensor(ids)
        weights[row, : len(ids)] = torch.tensor(config.weigh(tokenizer.convert_ids_to_tokens(ids), start))
    return ids_out, weights


def _positions(ids: torch.Tensor, line_ends: torch.Tensor, config: BaseConfig) -> torch.Tensor:
    """Positions [rows, length] that leave some out after some lines.

    What a line needs from an earlier one must then be found by what it says, not by how far back it stands: in
    trajectories, tags stand between.
    """
    import torch

    jumps = torch.randint(1, config.most_jump + 1, ids.shape) * (torch.rand(ids.shape) < config.jump_share)
    steps = 1 + (jumps * torch.isin(ids, line_ends)).roll(1, dims=1)
    steps[:, 0] = 0
    return steps.cumsum(1)


def _rate(config: BaseConfig, steps_here: int, share: float) -> float:
    """What part of the full rate, after `share` of the training."""
    warm = min(1.0, (steps_here + 1) / config.warmup)  # after a resume, too
    return warm * min(1.0, (1.0 - share) / config.decay_share)


def train_base(
    out: Path,
    config: BaseConfig,
    report: Callable[[dict[str, Any]], None] = print,
    save_minutes: float = 10,
    start: Path | None = None,
) -> dict[str, Any]:
    """Train the base model and save it to `out` (bf16 safetensors, tokenizer, training.json).

    Weights are random at first, or those of the finished model in `start`, whose summary goes into this one's.

    The state is saved every few minutes, and a run that was cut goes on from it; one that is finished is not
    repeated. Returns what was trained and how long it took.

    Raises:
        ValueError: if `out` holds the state of a run of other settings.
    """
    import torch

    from sprint_lib.training.optimizer import MuonAdamW

    done = _finished(out, config)
    if done is not None:
        return done
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    tokenizer = build_tokenizer(config.WORDS)
    line_ends = torch.tensor(tokenizer.convert_tokens_to_ids([word for word in config.WORDS if word.endswith("\n")]))
    model = build_model(config, tokenizer)
    if start:
        model.load_state_dict(type(model).from_pretrained(start, dtype=torch.float32).state_dict())
    optimizer = MuonAdamW(model, config.lr, config.embedding_lr, config.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    state = _load_state(out, config, model, optimizer)
    seen, step, mean_loss, curve = state["seen"], state["step"], state["loss"], state["curve"]
    first_step, saved = step, time.monotonic()
    started = saved - state["seconds"]
    for batch in _batches(config, tokenizer, first_step):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _rate(config, step - first_step, seen / config.tokens)
        ids, weights = _collate(batch, tokenizer, config)
        value = _update(model, optimizer, ids, weights, _positions(ids, line_ends, config))
        seen += sum(len(ids) for ids, _ in batch)
        step += 1
        mean_loss = value if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * value
        if step % 100 == 0:
            seconds = time.monotonic() - started
            curve.append({"step": step, "tokens": seen, "loss": mean_loss, "seconds": seconds})
            report({**curve[-1], "tokens_per_second": seen / seconds})
        if time.monotonic() - saved > 60 * save_minutes:
            saved = time.monotonic()
            numbers = {"seen": seen, "step": step, "loss": mean_loss, "curve": curve, "seconds": saved - started}
            _save_state(out, config, model, optimizer, numbers)
        if seen >= config.tokens:
            break
    _save_model(model, tokenizer, out)
    (out / _STATE).unlink(missing_ok=True)
    summary = {
        "config": {**_settings(config), "threads": config.threads},
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": step,
        "tokens": seen,
        "seconds": round(time.monotonic() - started),
        "curve": curve,
    }
    if start:
        summary["start"] = json.loads((start / "training.json").read_text(encoding="utf-8"))
    store.write_json(out / "training.json", summary)
    return summary


def _update(
    model: LlamaForCausalLM, optimizer: MuonAdamW, ids: torch.Tensor, weights: torch.Tensor, positions: torch.Tensor
) -> float:
    """One step on a batch; returns its mean loss a token, weighted."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
        # Without a mask, transformers takes what comes after a jump for another sequence.
        everything = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=everything, position_ids=positions, use_cache=False).logits
    losses = cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    flat = weights[:, 1:].flatten()
    loss = (losses * flat).sum() / flat.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _settings(config: BaseConfig) -> dict[str, Any]:
    """What the result depends on, as JSON gives it back."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    del settings["threads"]
    return settings


def _finished(out: Path, config: BaseConfig) -> dict[str, Any] | None:
    path = out / "training.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"config": {}}
    return summary if {**summary["config"], "threads": None} == {**_settings(config), "threads": None} else None


def _load_state(out: Path, config: BaseConfig, model: LlamaForCausalLM, optimizer: MuonAdamW) -> dict[str, Any]:
    """Numbers to go on from; weights and optimizer are set if there is a state."""
    import torch

    path = out / _STATE
    if not path.exists():
        return {"seen": 0, "step": 0, "loss": math.nan, "curve": [], "seconds": 0.0}
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state.pop("settings") != _settings(config):
        raise ValueError(f"{path}: a run of other settings was cut here; delete it or give another folder")
    model.load_state_dict(state.pop("model"))
    optimizer.load_state_dict(state.pop("optimizer"))
    return state


def _save_state(
    out: Path, config: BaseConfig, model: LlamaForCausalLM, optimizer: MuonAdamW, numbers: dict[str, Any]
) -> None:
    import torch

    out.mkdir(parents=True, exist_ok=True)
    kept = {"settings": _settings(config), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    partial = out / (_STATE + ".partial")
    torch.save({**kept, **numbers}, partial)
    partial.replace(out / _STATE)


def _save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    import torch

    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
