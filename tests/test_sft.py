"""Fine-tuning: the tree layout is exact, batches keep the budget, a killed run resumes to the same weights."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprint_lib.curation import Trace, curate
from sprint_lib.curation.rules import CountdownAnnotator
from sprint_lib.curation.samples import Sample, rft_samples, sprint_samples, write_samples
from sprint_lib.tasks import countdown
from sprint_lib.training.base import BaseConfig, build_model, build_tokenizer
from sprint_lib.training.sft import SftConfig, encode, main, padded, plan_batches, to_trees, train_sft
from sprint_lib.training.trees import Tree, collate, lay_out

TINY = BaseConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=64)
FAST = SftConfig(tokens=8_000, batch_tokens=512, save_steps=4, log_steps=2, bf16=False, lr=1e-2)
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
    assert main([str(tmp_path / "job.json")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == summary["steps"]
    assert main([]) == 2

    with pytest.raises(ValueError, match="no samples"):
        train_sft([], base, out, longer)
    with pytest.raises(ValueError, match="nothing to train"):
        train_sft([Sample("Try", "", "planner", "t")], base, out, longer)


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
    torn = next((tmp_path / "killed" / "checkpoints").iterdir()) / "checkpoint-999"
    torn.mkdir()  # as if the kill had come while this one was written

    resumed = train_sft(*arguments)
    assert 0 < resumed["resumed_at"] < resumed["steps"] == whole["steps"]
    assert [row["step"] for row in resumed["curve"]] == [row["step"] for row in whole["curve"]]
    assert resumed["curve"][-1]["loss"] == pytest.approx(whole["curve"][-1]["loss"], rel=1e-4)
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-2, atol=1e-4)
    untrained = weights_of(base)
    assert any((untrained[name].float() - tensor.float()).abs().max() > 0.01 for name, tensor in expected.items())
