"""Supervised fine-tuning with TRL's SFTTrainer: one function for RFT and SPRINT (paper, section 3.2 and A.3).

Only completions are trained, all weights are, the budget is a number of tokens, and a killed run goes on from its
last checkpoint to the same result. `python -m sprint_lib.training.sft CONFIG.json` runs one as a process of its
own, so that two models can be trained side by side.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprint_lib import store
from sprint_lib.curation.samples import Sample, read_samples
from sprint_lib.training.trees import Tree, collate, lay_out

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerFast

PAD_MULTIPLE = 64  # lengths are padded to it: on a CPU a kernel is compiled for every new shape
_COMPLETE = "complete"  # marks a checkpoint that was written to its end


@dataclass(frozen=True)
class SftConfig:
    """The recipe, the same for every model that is to be compared.

    `tokens` is the budget: tokens trained, those of contexts left out, so that RFT and SPRINT learn from the same
    traces equally often.
    """

    tokens: int = 2_000_000
    batch_tokens: int = 2048  # a step, padding included
    lr: float = 1e-3
    warmup_share: float = 0.05  # of the steps; then linear decay to zero
    weight_decay: float = 0.05
    clip: float = 1.0
    emphasis: Mapping[str, float] = field(default_factory=dict)  # first word of a line -> loss weight of that line
    save_steps: int = 200
    log_steps: int = 20
    bf16: bool = True
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Progress:
    """A point of the loss curve: mean loss since the last point."""

    step: int
    steps: int
    loss: float
    lr: float
    seconds: float


# --- samples to sequences -------------------------------------------------------------


def encode(
    sample: Sample, tokenizer: PreTrainedTokenizerFast, emphasis: Mapping[str, float]
) -> tuple[list[int], list[float]]:
    """Token ids and loss weights of one call: 0 on the context, 1 or an emphasis on the completion."""
    context = tokenizer(sample.context, add_special_tokens=False)["input_ids"]
    coded = tokenizer(sample.completion, add_special_tokens=False, return_offsets_mapping=True)
    per_character: list[float] = []
    for line in sample.completion.splitlines(keepends=True):
        per_character += [emphasis.get(line.split(" ", 1)[0].strip(), 1.0)] * len(line)
    weights = [per_character[start] for start, _ in coded["offset_mapping"]]
    end = tokenizer(sample.stop, add_special_tokens=False)["input_ids"]
    end += [tokenizer.eos_token_id] if sample.ends else []
    return [*context, *coded["input_ids"], *end], [*[0.0] * len(context), *weights, *[1.0] * len(end)]


def to_trees(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast, emphasis: Mapping[str, float]
) -> list[Tree]:
    """One tree for each trace, in the order of their first samples."""
    paths: dict[str, list[tuple[list[int], list[float]]]] = {}
    for sample in samples:
        paths.setdefault(sample.trace, []).append(encode(sample, tokenizer, emphasis))
    return [lay_out(calls) for calls in paths.values()]


def padded(length: int) -> int:
    return math.ceil(length / PAD_MULTIPLE) * PAD_MULTIPLE


def plan_batches(sequences: Sequence[Tree], tokens: int, batch_tokens: int, seed: int) -> list[list[int]]:
    """Batches of indices until `tokens` are trained: every epoch shuffled, each batch of one padded length.

    A batch is full before it is used and what is left over stays for the next epoch, so that there is one shape for
    each padded length.
    """
    batches: list[list[int]] = []
    trained = [tree.trained for tree in sequences]
    for batch in _epochs_by_length([len(tree.tokens) for tree in sequences], batch_tokens, seed):
        batches.append(batch)
        tokens -= sum(trained[index] for index in batch)
        if tokens <= 0:
            break
    return batches


def _epochs_by_length(lengths: Sequence[int], batch_tokens: int, seed: int) -> Iterator[list[int]]:
    rng = random.Random(seed)
    waiting: dict[int, list[int]] = {}
    while True:
        for index in rng.sample(range(len(lengths)), len(lengths)):
            width = padded(lengths[index])
            bucket = waiting.setdefault(width, [])
            bucket.append(index)
            if len(bucket) >= max(1, batch_tokens // width):
                yield waiting.pop(width)


# --- training -------------------------------------------------------------------------


def train_sft(
    samples: Sequence[Sample],
    base: Path | str,
    out: Path | str,
    config: SftConfig,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune the model in folder `base` on samples and save it to `out`.

    `out` gets the model in bf16, its tokenizer and, last, training.json (key, settings, numbers, loss curve). If
    that is there with the same key (hash of samples, base and settings), nothing is done. Returns its content.

    Raises:
        ValueError: if there are no samples.
    """
    if not samples:
        raise ValueError(f"{out}: no samples to train on; look at the reasons in the curation report")
    base, out = Path(base), Path(out)
    key = training_key(samples, base, config)
    done = _finished(out, key)
    if done is not None:
        return done
    summary = {"key": key, "base": store.hash_path(base), "config": asdict(config)}
    summary |= _train(samples, base, out, config, key, report or (lambda _: None))
    store.write_json(out / "training.json", summary)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return summary


def training_key(samples: Sequence[Sample], base: Path, config: SftConfig) -> str:
    """Hash of all that the result depends on."""
    values = [list(vars(s).values()) for s in samples]
    return store.hash_json([values, store.hash_path(base), asdict(config)])


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    path = out / "training.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    return summary if summary.get("key") == key else None


def _train(
    samples: Sequence[Sample], base: Path, out: Path, config: SftConfig, key: str, report: Callable[[Progress], None]
) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from transformers.utils.logging import disable_progress_bar

    from sprint_lib.training.optimizer import MuonAdamW

    disable_progress_bar()
    torch.set_num_threads(config.threads)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    sequences = to_trees(samples, tokenizer, config.emphasis)
    _check_lengths(sequences, model.config.max_position_embeddings)
    batches = plan_batches(sequences, config.tokens, config.batch_tokens, config.seed)
    checkpoints = out / "checkpoints" / key[:16]
    started = time.monotonic()
    trainer = _trainer_class()(
        model=model,
        args=_arguments(checkpoints, config, len(batches)),
        train_dataset=Dataset.from_list([vars(tree) for tree in sequences]),
        processing_class=tokenizer,
        data_collator=lambda rows: _collate(rows, tokenizer.pad_token_id),
        callbacks=[_callback(report, started)],
        optimizers=(MuonAdamW(model, config.lr, config.lr, config.weight_decay), None),
    )
    trainer.batches = batches
    trainer.remove_callback(PrinterCallback)
    last = _last_checkpoint(checkpoints)
    result = trainer.train(resume_from_checkpoint=last and str(last))
    (out / "training.json").unlink(missing_ok=True)  # it would vouch for weights that are about to be replaced
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    used = [sequences[index] for batch in batches for index in batch]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": len(samples),
        "sequences": len(sequences),
        "epochs": round(len(used) / len(sequences), 3),
        "steps": result.global_step,
        "tokens": sum(tree.trained for tree in used),
        "computed_tokens": sum(len(tree.tokens) for tree in used),
        "resumed_at": _step(last) if last else 0,
        "seconds": round(time.monotonic() - started, 1),  # since it was resumed
        "curve": [
            {"step": row["step"], "loss": row["loss"], "lr": row["learning_rate"]}
            for row in trainer.state.log_history
            if "loss" in row
        ],
    }


def _check_lengths(sequences: Sequence[Tree], context: int) -> None:
    if not any(tree.trained for tree in sequences):
        raise ValueError("the samples have nothing to train: every token has weight 0")
    longest = max(max(tree.positions) for tree in sequences) + 1
    if longest > context:
        raise ValueError(f"a sample has {longest} tokens, the base model takes {context}; set longer ones aside")


def _arguments(checkpoints: Path, config: SftConfig, steps: int) -> Any:
    import torch
    from trl import SFTConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a name that TRL still uses and transformers is about to drop
        return SFTConfig(
            output_dir=str(checkpoints),
            max_steps=steps,
            learning_rate=config.lr,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(config.warmup_share * steps),
            max_grad_norm=config.clip,
            bf16=config.bf16,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            seed=config.seed,
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=config.log_steps,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )


def _collate(rows: list[dict[str, Any]], pad: int) -> dict[str, Any]:
    batch = [Tree(**row) for row in rows]
    return dict(collate(batch, padded(max(len(tree.tokens) for tree in batch)), pad))


def _trainer_class() -> Any:
    """SFTTrainer with planned batches and weighted tokens; a function because TRL is slow to import."""
    from torch.utils.data import DataLoader
    from trl import SFTTrainer

    class PlannedTrainer(SFTTrainer):
        batches: list[list[int]]

        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            weights = inputs.pop("weights")[:, 1:]
            log_probs = model(**inputs, use_cache=False, fused_lm_head=True).log_probs
            return -(log_probs * weights).sum() / weights.sum()

    return PlannedTrainer


def _callback(report: Callable[[Progress], None], started: float) -> Any:
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
        ) -> None:
            if logs and "loss" in logs:
                seconds = time.monotonic() - started
                report(Progress(state.global_step, state.max_steps, logs["loss"], logs["learning_rate"], seconds))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

    return Callback()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; those that were not are removed."""
    found: list[Path] = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE).exists():
            found.append(path)
        else:
            shutil.rmtree(path)
    return max(found, key=_step, default=None)


def main(arguments: Sequence[str]) -> int:
    """Train as a JSON file says: {"samples": PATH, "base": PATH, "out": PATH, "config": {...}}."""
    if len(arguments) != 1:
        print("usage: python -m sprint_lib.training.sft CONFIG.json", file=sys.stderr)
        return 2
    job = json.loads(Path(arguments[0]).read_text())
    summary = train_sft(
        read_samples(job["samples"]),
        job["base"],
        job["out"],
        SftConfig(**job["config"]),
        lambda point: print(json.dumps(asdict(point)), flush=True),
    )
    print(json.dumps({k: summary[k] for k in ("steps", "tokens", "computed_tokens", "seconds")}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
