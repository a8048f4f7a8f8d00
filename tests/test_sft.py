"""Fine-tuning: the tree layout is exact, batches keep the budget, a killed run resumes to the same weights."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprint_lib.cli import main
from sprint_lib.curation import Trace, curate
from sprint_lib.curation.rules import CountdownAnnotator
from sprint_lib.curation.samples import Sample, rft_samples, sprint_samples, write_samples
from sprint_lib.tasks import countdown
from sprint_lib.training import sft
from sprint_lib.training.base import BaseConfig, build_model, build_tokenizer
from sprint_lib.training.sft import (
    Job,
    SftConfig,
    SftError,
    encode,
    padded,
    plan_batches,
    share,
    to_trees,
    train_sft,
    training_key,
)
from sprint_lib.training.trees import Tree, collate, lay_out

TINY = BaseConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=64)
FAST = SftConfig(tokens=8_000, batch_tokens=512, save_steps=4, log_steps=2, bf16=False, lr=1e-2, threads=1)
Paths = list[tuple[list[int], list[float]]]


def traces(n: int) -> list[Trace]:
    problems = countdown.Countdown().load(n, split="train", seed=7)
    return [Trace(p.id, p.question, countdown.search_trace(p.meta["numbers"], p.meta["target"])) for p in problems]


def samples_of(n: int, width: int | None = None) -> list[Sample]:
    report = asyncio.run(curate(traces(n), CountdownAnnotator(), cap=3))
    return [
        sample
        for item in report.kept
        for sample in sprint_samples(
            item.annotated.trace.question, item.packing.trajectory, item.annotated.trace.id, width
        )
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer()
    build_model(TINY, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- trees ----------------------------------------------------------------------------


def seen_by(tree: Tree, index: int) -> list[int]:
    return [i for i in range(index + 1) if index <= tree.last[i]]


@st.composite
def call_paths(draw: st.DrawFn) -> Paths:
    """Contexts and completions over two tokens, so that they share much."""
    calls = draw(st.lists(st.tuples(st.text("ab", min_size=1, max_size=6), st.text("ab", max_size=6)), max_size=6))
    return [([ord(c) for c in context + text], [0.0] * len(context) + [1.0] * len(text)) for context, text in calls]


@given(call_paths())
def test_a_tree_shows_each_trained_token_what_its_call_shows(paths: Paths) -> None:
    tree = lay_out(paths)
    expected = {tuple(tokens[: at + 1]) for tokens, weights in paths for at, weight in enumerate(weights) if weight}
    found = []
    for index, weight in enumerate(tree.weights):
        seen = seen_by(tree, index)
        assert [tree.positions[i] for i in seen] == list(range(len(seen)))  # one token a depth, as in its call
        if weight:
            found.append(tuple(tree.tokens[i] for i in seen))
            assert seen[-2] == index - 1  # the shift by one predicts it from its own parent
    assert sorted(found) == sorted(expected)  # every trained token once


def test_calls_share_their_contexts() -> None:
    tree = lay_out(
        [([1, 2, 3, 4], [0, 0, 1, 1]), ([1, 2, 3, 5, 6], [0, 0, 0, 0, 1]), ([1, 2, 3, 4, 7], [0, 0, 0, 0, 2])]
    )
    assert tree.tokens == [1, 2, 3, 4, 7, 5, 6]
    assert tree.weights == [0, 0, 1, 1, 2, 0, 1]
    assert tree.positions == [0, 1, 2, 3, 4, 3, 4]
    assert tree.last == [6, 6, 6, 4, 4, 6, 6]
    assert not tree.is_chain
    assert lay_out([([1, 2], [0, 1])]).is_chain


def negative_log_likelihood(model: Any, trees: Sequence[Tree]) -> Any:
    import torch

    batch = collate(trees, padded(max(len(tree.tokens) for tree in trees)), pad=0)
    weights = batch.pop("weights")
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1]
    picked = torch.log_softmax(logits, -1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return -(picked * weights[:, 1:]).sum()


def test_a_tree_gives_the_loss_and_gradient_of_its_calls(base: Path) -> None:
    """Calls of one trace as one tree, against each call alone; norms and rotations are in single precision."""
    import torch

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(TINY, tokenizer).double()
    samples = samples_of(4)
    trees = to_trees(samples, tokenizer, {"Solved": 3.0})
    assert any(len(tree.tokens) > 400 and not tree.is_chain for tree in trees)
    negative_log_likelihood(model, trees).backward()
    together = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    alone = [lay_out([encode(sample, tokenizer, {"Solved": 3.0})]) for sample in samples]
    for tree in alone:
        negative_log_likelihood(model, [tree]).backward()
    for one, other in zip(together, model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-3, atol=1e-4)
    assert sum(len(tree.tokens) for tree in trees) < 0.6 * sum(len(tree.tokens) for tree in alone)


def test_encoding_weighs_completions_only() -> None:
    tokenizer = build_tokenizer()
    sample = Sample("Numbers: 2 3\nTarget: 5\n", "Try 2 + 3\nSolved 2 + 3 = 5\n", "planner", "t", "</Plan_", ends=True)
    tokens, weights = encode(sample, tokenizer, {"Solved": 3.0})
    assert tokenizer.decode(tokens) == sample.context + sample.completion + "</Plan_<|end|>"
    context = len(tokenizer.encode(sample.context))
    assert weights == [0.0] * context + [1.0] * 5 + [3.0] * 7 + [1.0] * 2
    assert tokens[:context] == tokenizer.encode(sample.context)


# --- batches --------------------------------------------------------------------------


def chain(length: int) -> Tree:
    return lay_out([(list(range(length)), [0.0] + [1.0] * (length - 1))])


def test_batches_keep_the_budget_and_few_shapes() -> None:
    sequences = [chain(n) for n in [30, 60, 64, 65, 120, 300, 700] * 5]
    batches = plan_batches(sequences, tokens=20_000, batch_tokens=512, seed=1)
    trained = [sum(sequences[i].trained for i in batch) for batch in batches]
    assert sum(trained) >= 20_000 > sum(trained[:-1])
    shapes = {(len(batch), *{padded(len(sequences[i].tokens)) for i in batch}) for batch in batches}
    assert shapes == {(8, 64), (4, 128), (1, 320), (1, 704)}
    uses = [sum(batch.count(i) for batch in batches) for i in range(len(sequences))]
    assert max(uses) - min(uses) <= 2  # every epoch takes all; a few wait for their batch to fill
    assert batches == plan_batches(sequences, tokens=20_000, batch_tokens=512, seed=1)
    assert batches != plan_batches(sequences, tokens=20_000, batch_tokens=512, seed=2)


def test_batches_of_so_many_rows_for_so_many_epochs() -> None:
    sequences = [chain(n) for n in (30, 300, 700, 65, 120)]
    batches = plan_batches(sequences, tokens=1, batch_tokens=1, seed=1, epochs=3, rows=4)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]  # 15 sequences and one more
    uses = [index for batch in batches for index in batch]
    assert all(sorted(uses[epoch * 5 : epoch * 5 + 5]) == list(range(5)) for epoch in range(3))
    by_length = plan_batches(sequences * 20, tokens=1, batch_tokens=512, seed=1, epochs=2)
    assert 200 <= sum(map(len, by_length)) < 200 + 8
    assert len({(padded(len(sequences[i % 5].tokens)), len(batch)) for batch in by_length for i in batch}) == 4


@given(st.lists(st.integers(2, 300), min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 600))
def test_processes_share_a_batch(lengths: list[int], processes: int, batch_tokens: int) -> None:
    batch = [chain(length) for length in lengths]
    shares = [share(batch, process, processes, batch_tokens, pad=0) for process in range(processes)]
    assert len({len(pieces) for pieces in shares}) == 1  # all take part in each
    for pieces in shares:
        for piece in pieces:
            rows, width = piece["input_ids"].shape
            assert rows == 1 or rows * width <= batch_tokens
    trained = [int((piece["weights"] > 0).sum()) for pieces in shares for piece in pieces]
    assert sum(trained) == sum(tree.trained for tree in batch)  # every row once
    portions = [float(piece["weights"].sum()) / piece["divisor"] for pieces in shares for piece in pieces]
    assert sum(portions) / processes == pytest.approx(1)


def test_the_mean_gradient_of_the_processes_is_that_of_the_whole_batch(base: Path) -> None:
    import torch

    torch.manual_seed(0)
    model = build_model(TINY, build_tokenizer()).double()
    batch = to_trees(samples_of(3), build_tokenizer(), {"Solved": 3.0})

    def gradients(process: int, processes: int, batch_tokens: int) -> list[Any]:
        model.zero_grad()
        for piece in share(batch, process, processes, batch_tokens, pad=0):
            inputs = {key: value for key, value in piece.items() if key not in ("labels", "weights", "divisor")}
            picked = torch.log_softmax(model(**inputs).logits[:, :-1], -1)
            picked = picked.gather(-1, piece["input_ids"][:, 1:, None])[..., 0]
            (-(picked * piece["weights"][:, 1:]).sum() / piece["divisor"]).backward()
        return [p.grad.clone() for p in model.parameters()]

    whole, parts = gradients(0, 1, 10_000), [gradients(process, 4, 1) for process in range(4)]  # one has no row
    for one, *several in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(several).mean(0), one, rtol=1e-3, atol=1e-5)


# --- training -------------------------------------------------------------------------


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def test_training_learns_saves_and_is_skipped_when_done(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    samples = [s for t in traces(12) for s in rft_samples(t.question, t.text, t.id)]
    longer = replace(FAST, tokens=16_000)  # search traces are long: enough steps to learn something
    points: list[Any] = []
    out = tmp_path / "out"
    summary = train_sft(samples, base, out, longer, points.append)
    assert summary == json.loads((out / "training.json").read_text())
    assert [point.step for point in points] == [row["step"] for row in summary["curve"]]
    assert points[-1].loss < 0.8 * points[0].loss
    assert points[-1].steps == summary["steps"]
    assert longer.tokens <= summary["tokens"] < longer.tokens + 1024
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "training.json"),
    ]
    assert {str(tensor.dtype) for tensor in weights_of(out).values()} == {"torch.bfloat16"}
    assert (
        AutoTokenizer.from_pretrained(out).eos_token_id == AutoModelForCausalLM.from_pretrained(out).config.eos_token_id
    )

    points.clear()
    assert train_sft(samples, base, out, longer, points.append) == summary
    assert not points  # nothing was done

    job: dict[str, Any] = {"samples": str(write_samples(tmp_path / "samples.jsonl", samples)), "config": vars(longer)}
    job |= {"base": str(base), "out": str(out)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert main(["train", "sft", str(tmp_path / "job.json")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == summary["steps"]

    with pytest.raises(ValueError, match="no samples"):
        train_sft([], base, out, longer)
    with pytest.raises(ValueError, match="nothing to train"):
        train_sft([Sample("Try", "", "planner", "t")], base, out, longer)


def test_what_is_trained_is_the_text_of_the_call_to_its_closing_tag() -> None:
    """No part of it is a token that the vocabulary lacks, which a model could learn but no loop understand."""
    tokenizer = build_tokenizer()
    for sample in samples_of(8):
        ids, weights = encode(sample, tokenizer, {})
        trained = [id_ for id_, weight in zip(ids, weights, strict=True) if weight]
        end = tokenizer.eos_token if sample.ends else ""
        assert tokenizer.decode(trained) == sample.completion + sample.stop + end
        assert sample.stop.endswith(">")
    with pytest.raises(ValueError, match="trace 't': the base model's tokenizer has no token"):
        encode(Sample("Try", "</execution_", "executor", "t"), tokenizer, {})


def small_job(base: Path, tmp_path: Path) -> tuple[list[Sample], Path, Path, SftConfig]:
    """A training of very few steps."""
    samples = [s for t in traces(4) for s in rft_samples(t.question, t.text, t.id)]
    return samples, base, tmp_path / "out", replace(FAST, tokens=1500, log_steps=1)


@pytest.mark.parametrize("damage", ["missing", "other", "unfinished", "record"])
def test_a_model_that_is_not_the_one_that_was_trained_is_trained_again(base: Path, tmp_path: Path, damage: str) -> None:
    job = small_job(base, tmp_path)
    out = job[2]
    first, weights = train_sft(*job), out / "model.safetensors"
    content = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    elif damage == "other":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "unfinished":
        weights.write_bytes(content[:1000])
    else:
        (out / "training.json").write_text("{")
    points: list[Any] = []
    again = train_sft(*job, report=points.append)
    assert points
    assert weights.read_bytes() == content
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    points.clear()
    assert train_sft(*job, report=points.append) == again
    assert not points


def test_the_key_knows_what_decides_the_result_and_nothing_else(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    samples = [Sample("Try", "a", "planner", "t")]
    key = training_key(samples, copy, FAST)
    (copy / "README.md").write_text("a word")
    (copy / "training.json").write_text("{}")
    assert training_key(samples, copy, FAST) == key == training_key(samples, base, FAST)
    assert training_key(samples, copy, replace(FAST, seed=9)) != key
    assert training_key([replace(samples[0], stop="x")], copy, FAST) != key
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content + b" ")
        assert training_key(samples, copy, FAST) != key, name
        (copy / name).write_bytes(content)
    code = tmp_path / "training"
    shutil.copytree(Path(sft.__file__).parent, code)
    monkeypatch.setattr(sft, "__file__", str(code / "sft.py"))
    assert training_key(samples, copy, FAST) == key
    for name in ("sft.py", "trees.py", "optimizer.py", "precision.py"):
        content = (code / name).read_bytes()
        (code / name).write_bytes(content + b"#")
        assert training_key(samples, copy, FAST) != key, name
        (code / name).write_bytes(content)


JOB = {"samples": "s.jsonl", "base": "b", "out": "o"}


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ([], "expected the keys samples, base, out, config"),
        ({"samples": "s.jsonl", "out": "o"}, "'base' is missing"),
        ({**JOB, "out": 3}, "'out' is 3, it must be a path"),
        ({**JOB, "bases": "b"}, r"unknown key 'bases' \(did you mean 'base'\?\)"),
        ({**JOB, "config": 3}, "config: expected the keys tokens, "),
        ({**JOB, "config": {"token": 3}}, r"config: unknown key 'token' \(did you mean 'tokens'\?\)"),
        ({**JOB, "config": {"tokens": "many"}}, "config: 'tokens' is 'many', it must be int"),
        ({**JOB, "config": {"tokens": True}}, "config: 'tokens' is True, it must be int"),
        ({**JOB, "config": {"tokens": 0}}, "config: 'tokens' is 0, it must be 1 or more"),
        ({**JOB, "config": {"emphasis": {"Solved": "x"}}}, "it must be words with numbers"),
        ({**JOB, "config": {"processes": 0}}, "config: 'processes' is 0, it must be 1 or more"),
        ({**JOB, "config": {"max_length": -1}}, "config: 'max_length' is -1, it must be 0 or more"),
        ({**JOB, "config": {"eval_share": 1}}, "config: 'eval_share' is 1, it must be 0 or more and less than 1"),
        ({**JOB, "config": {"optimizer": "sgd"}}, "config: 'optimizer' is 'sgd', it must be one of muon, adamw"),
        ({**JOB, "config": {"sharding": "fsdp", "optimizer": "adamw"}}, "'sharding' needs 'processes' of 2 or more"),
        ({**JOB, "config": {"sharding": "fsdp", "processes": 2}}, "'muon' needs whole matrices; .* take 'adamw'"),
    ],
)
def test_a_job_is_refused_by_its_key(job: Any, said: str) -> None:
    with pytest.raises(SftError, match=said):
        Job.from_json(job)


def test_a_job_may_leave_its_recipe_out() -> None:
    assert Job.from_json(JOB) == Job(Path("s.jsonl"), Path("b"), Path("o"), SftConfig())
    assert Job.from_json({**JOB, "config": {"lr": 1, "bf16": False}}).config == SftConfig(lr=1, bf16=False)


def test_a_killed_run_resumes_to_the_same_weights(base: Path, tmp_path: Path) -> None:
    """kill -9 half way, run again: weights and loss curve are those of an undisturbed run."""
    import torch

    config = SftConfig(**{**vars(FAST), "tokens": 12_000})
    samples = samples_of(8, width=3)
    whole = train_sft(samples, base, tmp_path / "whole", config)

    arguments = (samples, base, tmp_path / "killed", config)
    process = multiprocessing.get_context("fork").Process(target=train_sft, args=arguments)
    process.start()
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoints/*/checkpoint-*/complete")):
        assert process.is_alive(), "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "training.json").exists()
    checkpoints = next((tmp_path / "killed" / "checkpoints").iterdir())
    for mark in checkpoints.glob("*/complete"):
        assert 0 < float(mark.read_text()) <= 120
        mark.write_text("1000.0")  # as if it had taken long until then
    (checkpoints / "checkpoint-999").mkdir()  # as if the kill had come while this one was written

    resumed = train_sft(*arguments)
    assert 0 < resumed["resumed_at"] < resumed["steps"]
    assert 1000 < resumed["seconds"] < 1120  # of both runs together
    own = {"seconds", "resumed_at"}
    assert {k: v for k, v in resumed.items() if k not in own} == {k: v for k, v in whole.items() if k not in own}
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())  # with one thread: to the bit
    untrained = weights_of(base)
    assert any((untrained[name].float() - tensor.float()).abs().max() > 0.01 for name, tensor in expected.items())


PAPER = {"optimizer": "adamw", "lr_scheduler": "cosine", "gradient_checkpointing": True, "batch_rows": 3}


def test_the_weights_with_the_least_loss_on_what_was_held_out_are_kept(base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    samples = samples_of(8, width=3)
    trees = to_trees(samples, build_tokenizer(), {})
    longest = sorted(len(tree.tokens) for tree in trees)[-2]
    config = SftConfig(**{**vars(FAST), **PAPER, "lr": 3.0, "epochs": 4.0, "eval_share": 0.3, "eval_steps": 2})
    config = replace(config, max_length=longest, warmup_share=1.0)  # so that the last steps go astray
    summary = train_sft(samples, base, tmp_path / "out", config)
    assert (summary["left_out"], summary["sequences"]) == (1, len(trees) - 1 - int(0.3 * (len(trees) - 1)))
    assert summary["epochs"] == pytest.approx(4, abs=3 / summary["sequences"])
    losses = {row["step"]: row["loss"] for row in summary["evaluations"]}
    assert list(losses) == [*range(2, summary["steps"], 2), summary["steps"]]
    assert summary["kept_step"] == min(losses, key=lambda step: losses[step]) < summary["steps"]

    _, held_out, _ = sft._sequences(samples, build_tokenizer(), config)
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        loss = float(negative_log_likelihood(kept, held_out)) / sum(tree.trained for tree in held_out)
    assert loss == pytest.approx(losses[summary["kept_step"]], rel=0.02)  # saved in bfloat16
    assert loss != pytest.approx(losses[summary["steps"]], rel=0.02)

    with pytest.raises(SftError, match="longer than 10"):
        train_sft(samples, base, tmp_path / "none", replace(config, max_length=10, eval_share=0.0))
    with pytest.raises(SftError, match=r"an 'eval_share' of 0.01 of \d+ sequences is none"):
        train_sft(samples, base, tmp_path / "none", replace(config, eval_share=0.01))


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    """A tiny untrained model that is to Llama what the paper's is: biases in attention, no tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    kind = {"attention_bias": True, "tie_word_embeddings": False, "max_position_embeddings": 4096}
    config = LlamaConfig(vocab_size=len(tokenizer), intermediate_size=64, **kind, **sizes, **tokens)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    tokenizer.save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


def _trainings() -> list[psutil.Process]:
    """The children of this process that train, not others (a resource tracker of `multiprocessing`, say)."""
    return [child for child in psutil.Process().children() if "".join(child.cmdline()[-1:]).endswith(".job.json")]


@pytest.mark.slow
def test_sharding_processes_of_which_one_is_killed_give_the_model_of_one(untied: Path, tmp_path: Path) -> None:
    """FSDP2 between two CPU processes; process 1 dies half way, which ends both, and two new ones go on."""
    samples = samples_of(8, width=3)
    paper = {**PAPER, "epochs": 5.0, "eval_share": 0.2, "eval_steps": 2, "log_steps": 1, "lr": 3e-3}
    one = SftConfig(**{**vars(FAST), **paper})
    two = replace(one, processes=2, sharding="fsdp")
    expected = train_sft(samples, untied, tmp_path / "one", one)

    out, points = tmp_path / "two", list[sft.Progress]()
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(train_sft, samples, untied, out, two, points.append)
        while not list(out.glob("checkpoints/*/checkpoint-*/complete")):
            assert not cut.done(), cut.exception()
            time.sleep(0.005)
        first, second = sorted(_trainings(), key=lambda child: child.cmdline()[-1])
        second.kill()
        with pytest.raises(SftError, match="'process 1' ended with exit status -9"):
            cut.result(timeout=60)
    assert not first.is_running()
    assert not _trainings()
    assert not (out / "training.json").exists()

    found = train_sft(samples, untied, out, two, points.append)
    assert 0 < found["resumed_at"] < found["steps"] == points[-1].step
    assert found == json.loads((out / "training.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "one").iterdir())
    same = {"parameters", "sequences", "steps", "kept_step", "tokens", "epochs"}
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    for name in ("curve", "evaluations"):
        for row, as_one in zip(found[name], expected[name], strict=True):
            assert row == pytest.approx(as_one, rel=2e-3)
    assert (out / "config.json").read_text() == (tmp_path / "one" / "config.json").read_text()
    whole = weights_of(tmp_path / "one")
    assert weights_of(out).keys() == whole.keys()
    for name, tensor in weights_of(out).items():
        assert tensor.dtype == whole[name].dtype
        assert float((tensor.float() - whole[name].float()).abs().mean()) < 1e-3, name


def test_an_end_token_that_is_also_the_unknown_one_is_only_refused_in_a_text() -> None:
    tokenizer = build_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token
    ids, weights = sft.encode(Sample("", "Try 2 + 3\n", "x", "t", ends=True), tokenizer, {})
    assert ids[-1] == tokenizer.eos_token_id
    assert len(ids) == len(weights)
    with pytest.raises(ValueError, match="no token for a part of its text"):
        sft.encode(Sample("", f"Try 2 + 3{tokenizer.eos_token}\n", "x", "t", ends=True), tokenizer, {})


def test_printer_says_little(capsys: pytest.CaptureFixture[str]) -> None:
    point = sft.Progress(1, 9, 0.5, 0.1, 2.0)
    sft.printer("rft", every=60)(point)
    sft.printer("sprint", every=0)(point)
    assert capsys.readouterr().out == "sprint 1/9, loss 0.500\n"


def test_the_longest_start_of_a_line_decides_its_weight() -> None:
    text = "Try 2 + 3\n = 5\nSolved 2 + 3 = 5\n"
    sample = Sample("", text, "executor", "t", stop="</execution_1.2>")
    _, weights = sft.encode(sample, build_tokenizer(), {"<": 4.0, "So": 2.0, "Solved": 3.0})
    assert weights == [*[1.0] * 8, *[3.0] * 7, *[4.0] * 2]
