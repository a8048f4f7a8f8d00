"""Supervised fine-tuning with TRL's SFTTrainer: one function for RFT and SPRINT (paper, section 3.2 and A.3).

Only completions are trained, all weights are, the budget is a number of tokens, and a killed run goes on from its
last checkpoint to the same result. With `processes` the same batches are shared out among so many, one a GPU where
there are any (gloo between CPUs), and the loss is of the whole step, so that the number of processes changes
rounding and nothing else. `train_sft` starts them itself (`several`); under torchrun or `accelerate launch`, on one
machine or several with a common folder, each process calls it.

The paper's recipe on 8 GPUs of 40 GB, for a model of 7.6 billion parameters (28 layers of width 3,584, 18,944 inside
the feed-forward, 152,064 words): `processes=8, sharding="fsdp", gradient_checkpointing=True, max_length=7168,
batch_rows=8, batch_tokens=7168, epochs=5, lr=1e-5, weight_decay=1e-4, optimizer="adamw", eval_share=0.05,
eval_steps=100`. Estimated, not measured, a GPU then holds in GB (billions of bytes):

    weights, gradients and AdamW's two moments in float32, an eighth of each      15.2
    two layers of weights gathered in bfloat16, and two of gradients               1.9
    embedding and head gathered in bfloat16, the head's gradient, too              3.3
    inputs of 28 layers that checkpointing keeps, 7,168 tokens in bfloat16         1.4
    one layer computed again: about 34 times the width and 6 times the inside
        a token, in bfloat16                                                       3.4
    a tree mask as attention's bias, and a chunk of the head's scores              1.2

together about 26; the rest is for what allocators and NCCL take. For less: a smaller `max_length`, or more
processes. A longer `max_length` costs about 0.7 for each further 1,000 tokens. On the host, process 0 alone reads
the weights (30 GB in float32); a checkpoint takes 91 GB of disk, and up to three are kept while the next is written.
"""

from __future__ import annotations

import functools
import json
import math
import os
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
from sprint_lib.progress import Every
from sprint_lib.training.precision import has_bfloat16
from sprint_lib.training.trees import Tree, collate, lay_out
from sprint_lib.wording import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD_MULTIPLE = 64  # lengths are padded to it: on a CPU a kernel is compiled for every new shape
_CHOICES = {"optimizer": ("muon", "adamw"), "lr_scheduler": ("linear", "cosine"), "sharding": ("", "fsdp")}
_POSITIVE = ("tokens", "batch_tokens", "save_steps", "eval_steps", "log_steps", "processes", "threads")
_COMPLETE = "complete"  # marks a checkpoint that was written to its end; holds the seconds trained so far


class SftError(ValueError):
    """A job that cannot be trained: its settings, samples or base model; the message names the place."""


@dataclass(frozen=True)
class SftConfig:
    """The recipe, the same for every model that is to be compared.

    `tokens` is the budget: tokens trained, those of contexts left out, so that RFT and SPRINT learn from the same
    traces equally often. The paper counts `epochs` and sequences a step (`batch_rows`) instead.

    Raises:
        SftError: if settings exclude each other, or one is none of its choices.
    """

    tokens: int = 2_000_000
    epochs: float = 0.0  # times that every sequence is trained, in place of `tokens`; 0: `tokens` is the budget
    batch_tokens: int = 2048  # at most, padding included, of a step; with batch_rows: that a process computes at once
    batch_rows: int = 0  # sequences of a step, whatever their lengths; 0: as many of one length as batch_tokens hold
    max_length: int = 0  # tokens; longer sequences are left out. 0: none is, and too long for the model is an error
    optimizer: str = "muon"  # or adamw
    lr: float = 1e-3
    lr_scheduler: str = "linear"  # or cosine: the way to zero after the warm-up
    warmup_share: float = 0.05  # of the steps
    weight_decay: float = 0.05
    clip: float = 1.0
    emphasis: Mapping[str, float] = field(default_factory=dict)  # start of a line -> loss weight of that line
    save_steps: int = 200
    log_steps: int = 20
    eval_share: float = 0.0  # of the sequences, held out; the weights with the least loss on them are kept
    eval_steps: int = 100  # between evaluations, each of which writes a checkpoint (then in place of save_steps)
    bf16: bool = True  # where the processor has it (`training.precision`), else float32
    gradient_checkpointing: bool = False  # activations are computed again, not kept: a third more time, far less memory
    processes: int = 1  # on all machines together
    sharding: str = ""  # fsdp: weights, gradients and moments are shared out among the processes, too (FSDP2)
    seed: int = 0
    threads: int = 2  # of each process

    def __post_init__(self) -> None:
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise SftError(f"config: {key!r} is {getattr(self, key)!r}, it must be one of {', '.join(known)}")
        if not 0 <= self.eval_share < 1:
            raise SftError(f"config: 'eval_share' is {self.eval_share}, it must be 0 or more and less than 1")
        if self.sharding and self.processes == 1:
            raise SftError("config: 'sharding' needs 'processes' of 2 or more")
        if self.sharding and self.optimizer == "muon":
            raise SftError("config: the optimizer 'muon' needs whole matrices; with 'sharding' take 'adamw'")

    @staticmethod
    def from_json(data: Any) -> SftConfig:
        """Raises SftError on an unknown key, a value of the wrong kind, or settings that exclude each other."""
        for key, value in _known_keys(data, SftConfig, "config: ").items():
            if not _is_like(value, default := getattr(SftConfig(), key)):
                kind = "words with numbers" if isinstance(default, dict) else type(default).__name__
                raise SftError(f"config: {key!r} is {value!r}, it must be {kind}")
            if key in _POSITIVE and value < 1:
                raise SftError(f"config: {key!r} is {value}, it must be 1 or more")
            if key in ("epochs", "batch_rows", "max_length") and value < 0:
                raise SftError(f"config: {key!r} is {value}, it must be 0 or more")
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
    due = Every(every)

    def report(progress: Progress) -> None:
        if due():
            print(f"{name} {progress.step}/{progress.steps}, loss {progress.loss:.3f}", flush=True)

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
    ids = [*context, *coded["input_ids"], *end]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise ValueError(f"trace {sample.trace!r}: the base model's tokenizer has no token for a part of its text")
    if sample.ends:  # after that look, for some tokenizers call their end token unknown, too
        end, ids = [*end, tokenizer.eos_token_id], [*ids, tokenizer.eos_token_id]
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


def plan_batches(
    sequences: Sequence[Tree], tokens: int, batch_tokens: int, seed: int, *, epochs: float = 0, rows: int = 0
) -> list[list[int]]:
    """Batches of indices until `tokens` are trained, or every sequence `epochs` times; every epoch is shuffled.

    With `rows` a batch is the next so many sequences. Without, each is of one padded length and full before it is
    used, and what is left over stays for the next epoch, so that there is one shape for each padded length.
    """
    lengths = [len(tree.tokens) for tree in sequences]
    batches: list[list[int]] = []
    left = epochs * len(sequences) if epochs else tokens
    for batch in _in_rows(len(lengths), rows, seed) if rows else _epochs_by_length(lengths, batch_tokens, seed):
        batches.append(batch)
        left -= len(batch) if epochs else sum(sequences[index].trained for index in batch)
        if left <= 0:
            break
    return batches


def _in_rows(count: int, rows: int, seed: int) -> Iterator[list[int]]:
    rng, waiting = random.Random(seed), list[int]()
    while True:
        waiting += rng.sample(range(count), count)
        while len(waiting) >= rows:
            yield waiting[:rows]
            waiting = waiting[rows:]


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


Step = list[dict[str, Any]]  # what one process computes for one step of all, in turn: batches for the model


def share(batch: Sequence[Tree], process: int, processes: int, batch_tokens: int, pad: int) -> Step:
    """A process's part of a batch, in as many pieces of at most `batch_tokens` (or one row) as any process has.

    Each piece has `divisor`, by which its weighted losses are divided: processes average their gradients, and the
    average must be that of the whole batch. A piece without a row of its own is one token of padding: processes that
    compute with each other's weights must all take part.
    """
    total = sum(math.fsum(tree.weights[1:]) for tree in batch)  # nothing predicts the first token
    height = max(1, batch_tokens // padded(max(len(tree.tokens) for tree in batch)))
    mine = batch[process::processes]
    pieces = [mine[k : k + height] for k in range(0, math.ceil(len(batch) / processes), height)]
    return [{**_collate(piece, pad), "divisor": (total or 1.0) / processes} for piece in pieces]


def _collate(trees: Sequence[Tree], pad: int) -> dict[str, Any]:
    trees = trees or [Tree([pad], [0.0], [0], [0])]
    return dict(collate(trees, padded(max(len(tree.tokens) for tree in trees)), pad))


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
    there, nothing is done. Returns its content. With `processes` they are started here and end when this one does,
    unless this is one of them already (under torchrun, say).

    Raises:
        SftError: if there are no samples, or none that can be trained; if one of several processes fails.
        FileNotFoundError: if there is no base model.
    """
    if not samples:
        raise SftError(f"{out}: no samples to train on; look at the reasons in the curation report")
    base, out, report = Path(base), Path(out), report or (lambda _: None)
    key = training_key(samples, base, config)
    done = _finished(out, key)
    if done is not None:
        return done
    checkpoints = out / "checkpoints" / key[:16]
    if config.processes > 1 and "WORLD_SIZE" not in os.environ:
        from sprint_lib.training.several import train_together

        return train_together(samples, Job(checkpoints / "samples.jsonl", base, out, config), report)
    summary = {"key": key, "base": store.hash_model(base), "config": asdict(config)}
    summary |= _train(samples, base, out, checkpoints, config, report)
    if _is_first():
        summary["model"] = store.hash_model(out)
        store.write_json(out / "training.json", summary)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return summary


def training_key(samples: Sequence[Sample], base: Path, config: SftConfig) -> str:
    """Hash of all that the result depends on: samples, base model, settings, and the code that trains."""
    values = [list(vars(s).values()) for s in samples]
    here = Path(__file__)
    code = [store.hash_path(here.with_name(name)) for name in ("sft.py", "trees.py", "optimizer.py", "precision.py")]
    return store.hash_json([values, store.hash_model(base), asdict(config), code])


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    """What training.json says, if it is of this key and the model beside it is the one it was written for."""
    try:
        summary = json.loads((out / "training.json").read_text(encoding="utf-8"))
        known = summary["key"], summary["model"]
        return summary if known == (key, store.hash_model(out)) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_first() -> bool:
    """Whether this is the only process or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def _train(
    samples: Sequence[Sample],
    base: Path,
    out: Path,
    checkpoints: Path,
    config: SftConfig,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    import torch
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(config.threads)
    tokenizer = AutoTokenizer.from_pretrained(base)
    sequences, held_out, left_out = _sequences(samples, tokenizer, config)
    plan = plan_batches(
        sequences, config.tokens, config.batch_tokens, config.seed, epochs=config.epochs, rows=config.batch_rows
    )
    arguments = _arguments(checkpoints, config, len(plan))
    state = PartialState()
    if state.num_processes != config.processes:
        raise SftError(f"config: 'processes' is {config.processes}, but {state.num_processes} were started")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    _check_lengths(sequences, model.config.max_position_embeddings)
    with state.main_process_first():
        last = _last_checkpoint(checkpoints)
    started = time.monotonic() - (_seconds(last) if last else 0.0)
    shares = functools.partial(
        share,
        process=state.process_index,
        processes=state.num_processes,
        batch_tokens=config.batch_tokens,
        pad=tokenizer.pad_token_id,
    )
    trainer = _trainer(model, arguments, tokenizer, config, [_callback(report, started)])
    trainer.steps = [functools.partial(shares, [sequences[index] for index in batch]) for batch in plan]
    trainer.evaluations = [functools.partial(shares, [tree]) for tree in held_out]
    result = trainer.train(resume_from_checkpoint=last and str(last))
    _save(trainer, tokenizer, checkpoints / "model", out)
    used = [sequences[index] for batch in plan for index in batch]
    history = trainer.state.log_history
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": len(samples),
        "sequences": len(sequences),
        "left_out": left_out,
        "epochs": round(len(used) / len(sequences), 3),
        "steps": result.global_step,
        "kept_step": trainer.state.best_global_step or result.global_step,
        "tokens": sum(tree.trained for tree in used),
        "computed_tokens": sum(len(tree.tokens) for tree in used),
        "resumed_at": _step(last) if last else 0,
        "precision": "bfloat16" if arguments.bf16 else "float32",  # of products, since the last resumption
        "seconds": round(time.monotonic() - started, 1),  # over all resumptions; what a kill lost is not in it
        "curve": [
            {"step": row["step"], "loss": row["loss"], "lr": row["learning_rate"]} for row in history if "loss" in row
        ],
        "evaluations": [{"step": row["step"], "loss": row["eval_loss"]} for row in history if "eval_loss" in row],
    }


def _sequences(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast, config: SftConfig
) -> tuple[list[Tree], list[Tree], int]:
    """What is trained, what is held out, and how many sequences were too long."""
    laid_out = to_trees(samples, tokenizer, config.emphasis)
    fitting = [tree for tree in laid_out if not config.max_length or len(tree.tokens) <= config.max_length]
    held_out = set(random.Random(config.seed).sample(range(len(fitting)), int(config.eval_share * len(fitting))))
    if config.eval_share and not held_out:
        raise SftError(f"config: an 'eval_share' of {config.eval_share} of {len(fitting)} sequences is none")
    trained = [tree for index, tree in enumerate(fitting) if index not in held_out]
    if not any(tree.trained for tree in trained):
        long = f", and {len(laid_out) - len(fitting)} are longer than {config.max_length}" if config.max_length else ""
        raise SftError(f"the samples have nothing to train: every token has weight 0{long}")
    return trained, [fitting[index] for index in sorted(held_out)], len(laid_out) - len(fitting)


def _check_lengths(sequences: Sequence[Tree], context: int) -> None:
    longest = max(max(tree.positions) for tree in sequences) + 1
    if longest > context:
        raise SftError(f"a sample has {longest} tokens, the base model takes {context}; set 'max_length'")


def _arguments(checkpoints: Path, config: SftConfig, steps: int) -> Any:
    import torch
    from trl import SFTConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a name that TRL still uses and transformers is about to drop
        arguments = SFTConfig(
            output_dir=str(checkpoints),
            max_steps=steps,
            learning_rate=config.lr,
            lr_scheduler_type=config.lr_scheduler,
            warmup_steps=math.ceil(config.warmup_share * steps),
            weight_decay=config.weight_decay,
            optim="adamw_torch",
            max_grad_norm=config.clip,
            bf16=_in_bfloat16(config),
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=config.gradient_checkpointing and not config.sharding,
            seed=config.seed,
            save_steps=config.eval_steps if config.eval_share else config.save_steps,
            save_total_limit=2,
            logging_steps=config.log_steps,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **_evaluated(config),
            **_sharded(config),
        )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one GPU: TRL cannot take several in one
    return arguments


def _in_bfloat16(config: SftConfig) -> bool:
    import torch

    return config.bf16 and has_bfloat16("cuda" if torch.cuda.is_available() else "cpu")


def _evaluated(config: SftConfig) -> dict[str, Any]:
    if not config.eval_share:
        return {}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    return {"eval_strategy": "steps", "eval_steps": config.eval_steps, **best}


def _sharded(config: SftConfig) -> dict[str, Any]:
    if not config.sharding:
        return {}
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # with the next one: process 0 alone reads the weights
    settings = {
        "version": 2,
        "cpu_ram_efficient_loading": True,
        "activation_checkpointing": config.gradient_checkpointing,
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    return {"fsdp": True, "fsdp_config": settings}


def _trainer(model: Any, arguments: Any, tokenizer: Any, config: SftConfig, callbacks: list[Any]) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback

    from sprint_lib.training.optimizer import MuonAdamW

    own = MuonAdamW(model, config.lr, config.lr, config.weight_decay) if config.optimizer == "muon" else None
    nothing = Dataset.from_list([{"step": 0}])  # the data set that is asked for; what is trained is planned
    trainer = _trainer_class()(
        model=model,
        args=arguments,
        train_dataset=nothing,
        eval_dataset=nothing if config.eval_share else None,
        processing_class=tokenizer,
        data_collator=list,
        callbacks=callbacks,
        optimizers=(own, None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _trainer_class() -> Any:
    """SFTTrainer with planned batches and weighted tokens; a function because TRL is slow to import."""
    import torch
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType
    from torch.utils.data import DataLoader
    from trl import SFTTrainer

    class PlannedTrainer(SFTTrainer):
        is_fsdp_enabled: bool
        control: Any
        steps: list[Callable[[], Step]]
        evaluations: list[Callable[[], Step]]

        def create_accelerator_and_postprocess(self) -> None:
            """accelerate takes its FSDP plugin for accelerators only; between CPUs it works as well."""
            super().create_accelerator_and_postprocess()
            if self.args.fsdp_plugin_args and not self.is_fsdp_enabled:
                plugin, state = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args), self.accelerator.state
                if self.args.bf16:
                    plugin.set_mixed_precision("bf16")
                state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP
                self.is_fsdp_enabled = True

        def get_train_dataloader(self) -> DataLoader[Any]:
            steps = [[index] for index in range(len(self.steps))]
            planned: Any = self.steps  # a list will do for a data set
            return DataLoader(planned, batch_sampler=steps, collate_fn=lambda rows: {"pieces": rows[0]()})

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            """Losses and gradients of this process's share of a step."""
            model.train()
            losses = []
            for piece in self._prepare_inputs(inputs)["pieces"]:
                with self.compute_loss_context_manager():
                    losses.append(self._loss(model, piece) / piece["divisor"])
                self.accelerator.backward(losses[-1])
                losses[-1] = losses[-1].detach()
            return torch.stack(losses).sum()

        def _loss(self, model: Any, piece: dict[str, Any]) -> Any:
            inputs = {key: value for key, value in piece.items() if key not in ("weights", "divisor")}
            log_probs = model(**inputs, use_cache=False, fused_lm_head=True).log_probs
            return -(log_probs * piece["weights"][:, 1:]).sum()

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            self.model.eval()
            total = torch.zeros(2, device=self.args.device)
            with torch.no_grad(), self.compute_loss_context_manager():
                for step in self.evaluations:
                    for piece in self._prepare_inputs({"pieces": step()})["pieces"]:
                        total += torch.stack([self._loss(self.model_wrapped, piece), piece["weights"][:, 1:].sum()])
            loss, weight = self.accelerator.reduce(total, "sum").tolist()
            metrics = {"eval_loss": loss / weight}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

    return PlannedTrainer


def _save(trainer: Any, tokenizer: Any, folder: Path, out: Path) -> None:
    """The model in bf16 and its tokenizer: written to `folder`, then moved to `out` file by file."""
    import torch
    from transformers import AutoModelForCausalLM

    model, weights = trainer.accelerator.unwrap_model(trainer.model), None
    if trainer.is_fsdp_enabled:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        gathered = StateDictOptions(full_state_dict=True, cpu_offload=True)  # on process 0; accelerate's leaves shards
        whole: dict[str, Any] = get_model_state_dict(trainer.model, options=gathered)
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in whole.items()}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model.config)
    if _is_first():
        model.to(torch.bfloat16).save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / "training.json").unlink(missing_ok=True)  # it would vouch for weights that are about to be replaced
        for old in out.glob("*.safetensors*"):
            old.unlink()
        for path in folder.iterdir():
            path.replace(out / path.name)
    trainer.accelerator.wait_for_everyone()


def _callback(report: Callable[[Progress], None], started: float) -> Any:
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
        ) -> None:
            if logs and "loss" in logs and _is_first():
                seconds = time.monotonic() - started
                report(Progress(state.global_step, state.max_steps, logs["loss"], logs["learning_rate"], seconds))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            PartialState().wait_for_everyone()  # each writes its own part
            if state.best_global_step:  # transformers asks whether the folder is there before another one made it
                state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")
            if _is_first():
                seconds = round(time.monotonic() - started, 1)
                store.write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE, seconds)

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
