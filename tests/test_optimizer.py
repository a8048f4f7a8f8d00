"""Muon as this project steps it, against torch's own, and the precision that training computes in."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sprint_lib.training.optimizer import MuonAdamW
from sprint_lib.training.precision import has_bfloat16


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))


def train(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, steps: int) -> None:
    ids = torch.arange(40).remainder(7).reshape(2, 20)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def inner(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name}


def test_matrices_move_as_torchs_own_muon_would_move_them_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, torchs = tiny(), tiny()
    rates = {"lr": 0.01, "weight_decay": 0.1}
    train(ours, MuonAdamW(ours, rates["lr"], 0.0, rates["weight_decay"]), 3)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    train(torchs, torch.optim.Muon(inner_parameters(torchs), adjust_lr_fn="match_rms_adamw", **rates), 3)
    for name, before in inner(tiny()).items():
        torch.testing.assert_close(inner(ours)[name], inner(torchs)[name], msg=name)
        assert (inner(ours)[name] - before).abs().max() > 1e-3


def inner_parameters(model: LlamaForCausalLM) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if name in inner(model)]


def test_a_step_is_the_same_whatever_shares_its_shape() -> None:
    together, alone = tiny(), tiny()
    train(together, MuonAdamW(together, 0.01, 0.0, 0.0), 1)
    for name, matrix in alone.named_parameters():
        matrix.requires_grad = name == "model.layers.1.self_attn.k_proj.weight"
    train(alone, MuonAdamW(alone, 0.01, 0.0, 0.0), 1)
    moved = together.model.layers[1].self_attn.k_proj.weight, alone.model.layers[1].self_attn.k_proj.weight
    torch.testing.assert_close(*moved)
    assert not torch.equal(moved[0], tiny().model.layers[1].self_attn.k_proj.weight)


@pytest.mark.parametrize(
    ("instructions", "has"),
    [({"avx2": True}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({}, False)],
)
def test_bfloat16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], has: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert has_bfloat16("cpu") is has
