"""Supervised fine-tuning with TRL's SFTTrainer: one function for RFT and SPRINT (paper, section 3.2 and A.3).

Only completions are trained, all weights are, the budget is a number of tokens, and a killed run goes on from its
last checkpoint to the same result.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprint_lib import store
from sprint_lib.curation.samples import Sample, read_samples
from sprint_lib.training.trees import Tree, collate, lay_out
from sprint_lib.wording import unknown

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerFast

PAD_MULTIPLE = 64  # lengths are padded to it: on a CPU a kernel is compiled for every new shape
_COMPLETE = "complete"  # marks a checkpoint that was written to its end; holds the seconds trained so far


class SftError(ValueError):
    """A job that cannot be trained: its settings, samples or base model; the message names the place."""


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
    emphasis: Mapping[str, float] = field(default_factory=dict)  # start of a line -> loss weight of that line
    save_steps: int = 200
    log_steps: int = 20
    bf16: bool = True
    seed: int = 0
    threads: int = 2

    @staticmethod
    def from_json(data: Any) -> SftConfig:
        """Raises SftError on an unknown key or a value of the wrong kind."""
        for key, value in _known_keys(data, SftConfig, "config: ").items():
            if not _is_like(value, default := getattr(SftConfig(), key)):
                kind = "words with numbers" if isinstance(default, dict) else type(default).__name__
                raise SftError(f"config: {key!r} is {value!r}, it must be {kind}")
            if key in ("tokens", "batch_tokens", "save_steps", "log_steps", "threads") and value < 1:
                raise SftError(f"config: {key!r} is {value}, it must be 1 or more")
        return SftConfig(**data)


@dataclass(frozen=True)
class Job:
    """Samples (JSON lines), the base model's folder, the folder to write to, and the recipe."""

    samples: Path
    base: Path
    out: Path
    config: SftConfig = field(default_factory=SftConfig)

    @staticmethod
    def from_json(data: Any) -> Job:
        """A job from {"samples": PATH, "base": PATH, "out": PATH, "config": {...}}, `config` as far as wanted.

        Raises:
            SftError: on a key that is missing, unknown or of the wrong kind.
        """
        given = {**_known_keys(data, Job, ""), "config": SftConfig.from_json(data.get("config", {}))}
        for key in ("samples", "base", "out"):
            value = given.get(key)
            if not isinstance(value, str) or not value:
                raise SftError(f"{key!r} is {value!r}, it must be a path" if key in given else f"{key!r} is missing")
            given[key] = Path(value)
        return Job(**given)


def _known_keys(data: Any, kind: type, where: str) -> Mapping[str, Any]:
    names = [f.name for f in fields(kind)]
    if not isinstance(data, Mapping):
        raise SftError(f"{where}expected the keys {', '.join(names)}")
    if said := unknown(data, names):
        raise SftError(f"{where}{said}")
    return data


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, dict):
        return isinstance(value, Mapping) and all(type(number) in (int, float) for number in value.values())
    return type(value) is type(default) or (isinstance(default, float) and type(value) is int)


@dataclass(frozen=True)
class Progress:
    """A point of the loss curve: mean loss since the last point."""

    step: int
    steps: int
    loss: float
    lr: float
    seconds: float


def printer(name: str, every: float = 15.0) -> Callable[[Progress], None]:
    """A report that prints one plain line at most every so many seconds."""
    next_time = time.monotonic() + every

    def report(progress: Progress) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            print(f"{name} {progress.step}/{progress.steps}, loss {progress.loss:.3f}", flush=True)
            next_time = time.monotonic() + every

    return report


# --- samples to sequences -------------------------------------------------------------


def encode(
    sample: Sample, tokenizer: PreTrainedTokenizerFast, emphasis: Mapping[str, float]
) -> tuple[list[int], list[float]]:
    """Token ids and loss weights of one call: 0 on the context, 1 or an emphasis on the completion.

    Raises:
        ValueError: if the tokenizer has no token for a part of the text; the model would learn to write nonsense.
    """
    context = tokenizer(sample.context, add_special_tokens=False)["input_ids"]
    coded = tokenizer(sample.completion, add_special_tokens=False, return_offsets_mapping=True)
    per_character: list[float] = []
    for line in sample.completion.splitlines(keepends=True):
        per_character += [_weight(line, emphasis)] * len(line)
    weights = [per_character[start] for start, _ in coded["offset_mapping"]]
    end = tokenizer(sample.stop, add_special_tokens=False)["input_ids"]
    end += [tokenizer.eos_token_id] if sample.ends else []
    ids = [*context, *coded["input_ids"], *end]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise ValueError(f"trace {sample.trace!r}: the base model's tokenizer has no token for a part of its text")
    return ids, [*[0.0] * len(context), *weights, *[_weight(sample.stop, emphasis)] * len(end)]


def _weight(line: str, emphasis: Mapping[str, float]) -> float:
    """The weight of the longest start in `emphasis` that a line has, else 1."""
    start = max((start for start in emphasis if line.startswith(start)), key=len, default=None)
    return 1.0 if start is None else emphasis[start]


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
    that is there with the same key (hash of samples, base, settings and code) and vouches for the model that lies
    there, nothing is done. Returns its content.

    Raises:
        SftError: if there are no samples, or none that can be trained.
        FileNotFoundError: if there is no base model.
    """
    if not samples:
        raise SftError(f"{out}: no samples to train on; look at the reasons in the curation report")
    base, out = Path(base), Path(out)
    key = training_key(samples, base, config)
    done = _finished(out, key)
    if done is not None:
        return done
    summary = {"key": key, "base": store.hash_model(base), "config": asdict(config)}
    summary |= _train(samples, base, out, config, key, report or (lambda _: None))
    summary["model"] = store.hash_model(out)
    store.write_json(out / "training.json", summary)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return summary


def training_key(samples: Sequence[Sample], base: Path, config: SftConfig) -> str:
    """Hash of all that the result depends on: samples, base model, settings, and the code that trains."""
    values = [list(vars(s).values()) for s in samples]
    here = Path(__file__)
    code = [store.hash_path(path) for path in (here, here.with_name("trees.py"), here.with_name("optimizer.py"))]
    return store.hash_json([values, store.hash_model(base), asdict(config), code])


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    """What training.json says, if it is of this key and the model beside it is the one it was written for."""
    try:
        summary = json.loads((out / "training.json").read_text(encoding="utf-8"))
        known = summary["key"], summary["model"]
        return summary if known == (key, store.hash_model(out)) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


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
    last = _last_checkpoint(checkpoints)
    started = time.monotonic() - (_seconds(last) if last else 0.0)
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
        "seconds": round(time.monotonic() - started, 1),  # over all resumptions; what a kill lost is not in it
        "curve": [
            {"step": row["step"], "loss": row["loss"], "lr": row["learning_rate"]}
            for row in trainer.state.log_history
            if "loss" in row
        ],
    }


def _check_lengths(sequences: Sequence[Tree], context: int) -> None:
    if not any(tree.trained for tree in sequences):
        raise SftError("the samples have nothing to train: every token has weight 0")
    longest = max(max(tree.positions) for tree in sequences) + 1
    if longest > context:
        raise SftError(f"a sample has {longest} tokens, the base model takes {context}; set longer ones aside")


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
            seconds = time.monotonic() - started
            store.write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE, round(seconds, 1))

    return Callback()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _seconds(checkpoint: Path) -> float:
    return float(json.loads((checkpoint / _COMPLETE).read_text()))


def _last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; those that were not are removed."""
    found: list[Path] = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE).exists():
            found.append(path)
        else:
            shutil.rmtree(path)
    return max(found, key=_step, default=None)


def train_job(job: Job, report: Callable[[Progress], None]) -> dict[str, Any]:
    """`train_sft` as a job says; returns its summary.

    Raises:
        SftError: naming the key, if there are no such samples or no such base model.
    """
    if not (job.base / "config.json").is_file():
        raise SftError(f"'base': {job.base}: no model here (no config.json)")
    try:
        samples = read_samples(job.samples)
    except (OSError, ValueError, TypeError) as error:
        raise SftError(f"'samples': {job.samples}: not a file of samples: {error}") from error
    return train_sft(samples, job.base, job.out, job.config, report)
