"""A lean Llama/Qwen2 decoder over a Hugging Face folder, with its key/value cache.

One forward pass takes any mix of rows that decode one token and prompts that are
read in, laid end to end as one list of tokens: matrix products see all of them at
once and nothing is padded there; only attention goes span by span. It reads
`config.json` and the safetensors itself, because importing a modelling library
takes longer than many a run; the tests hold its logits against transformers'.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprint_lib.engines import EngineError

if TYPE_CHECKING:
    import torch

ARCHITECTURES = ("llama", "qwen2")
Attention = Callable[[int, "torch.Tensor", int], "torch.Tensor"]
_PADDED = 16  # half precision compiles its products for every new number of tokens, so there are to be few
_GROWTH = 1024  # positions by which the cache grows, at least
_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which `mmap` knows from Python 3.13 on


@dataclass(frozen=True)
class Span:
    """Some tokens of a pass whose rows attend together: `rows` neighbours in the cache, `queries` tokens each."""

    slot: int
    rows: int
    queries: int
    length: int  # of the longest row, these tokens included


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, from its config.json."""

    layers: int
    hidden: int
    intermediate: int  # of the feed-forward part
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    eps: float
    rope_theta: float

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads


def read_shape(config: dict[str, Any], where: Path) -> Shape:
    """Sizes from a config; EngineError for anything but a plain Llama or Qwen2 decoder."""
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    odd = {
        "model_type": config["model_type"] not in ARCHITECTURES,
        "rope_type": rope.get("rope_type", "default") != "default",
        "hidden_act": config["hidden_act"] != "silu",
        "layer_types": any(kind != "full_attention" for kind in config.get("layer_types") or ()),
        "attention_bias": config["model_type"] == "llama" and bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
    }
    if any(odd.values()):
        found = ", ".join(f"{key} {config.get(key, rope.get(key))!r}" for key, is_odd in odd.items() if is_odd)
        raise EngineError(
            f"{where}: the embedded engine runs plain {' and '.join(ARCHITECTURES)} decoders, not {found}; "
            "serve this model with vLLM or another OpenAI-compatible server"
        )
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        eps=config["rms_norm_eps"],
        rope_theta=rope["rope_theta"],
    )


class Decoder:
    """Weights, key/value cache of `slots` sequences, and the forward pass over both."""

    def __init__(self, folder: Path, dtype: str, slots: int) -> None:
        import torch
        from safetensors.torch import load_file

        self.shape = shape = read_shape(json.loads((folder / "config.json").read_text()), folder)
        self.dtype: torch.dtype = getattr(torch, dtype)
        half = self.dtype == torch.bfloat16
        self.padding = half
        # torch's half precision attention prefers one query a head, its others one head with several queries
        self.query_groups = (shape.heads, 1) if half else (shape.kv_heads, shape.group)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise EngineError(f"{folder}: no *.safetensors in it; save the model with save_pretrained")
        raw = {name: w.to(self.dtype) for file in files for name, w in load_file(file).items()}
        embedding = raw["model.embed_tokens.weight"]
        self.embedding = embedding.float() if half else embedding
        self.head = _fold_norm(raw.get("lm_head.weight", embedding), raw["model.norm.weight"])
        self.layers = [_layer(raw, f"model.layers.{i}.", shape) for i in range(shape.layers)]
        self.slots = slots
        self.capacity = 0
        self.kv_cache = torch.zeros(0)
        self.rotary = _rotary(shape, 0, self.dtype)

    def reserve(self, length: int, filled: Sequence[int] = ()) -> None:
        """Make room for sequences of `length` tokens; `filled` says how many positions of each slot are to survive.

        Memory is only touched where it is used.
        """
        if length <= self.capacity:
            return
        s, old = self.shape, self.kv_cache
        self.capacity = min(s.context, max(length, 2 * self.capacity, _GROWTH))
        self.kv_cache = _untouched((self.slots, s.layers, 2, s.kv_heads, self.capacity, s.head_dim), self.dtype)
        for slot, used in enumerate(filled):
            if used:
                self.kv_cache[slot, :, :, :, :used] = old[slot, :, :, :, :used]
        self.rotary = _rotary(s, self.capacity, self.dtype)

    def forget(self) -> None:
        """Give the memory of the cache back."""
        self.kv_cache, self.capacity = self.kv_cache.new_zeros(0), 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        self.kv_cache[target, :, :, :, :length] = self.kv_cache[source, :, :, :, :length]

    def forward(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        spans: Sequence[Span],
        last: Sequence[int],
    ) -> torch.Tensor:
        """Logits [len(last), vocab] of the tokens at indices `last`; keys and values of all tokens are stored.

        `ids`, `positions` and `slots` say for each token what and where it is;
        `spans` cover them in order, those of one token a row first.
        """
        import torch

        s = self.shape
        at, rows = torch.tensor(positions), torch.tensor(slots)
        rotary = self.rotary[at]
        works = _attention_works(spans, self.kv_cache, at)

        def attend(index: int, h: torch.Tensor, tokens: int) -> torch.Tensor:
            h = _rotate(h.view(len(h), -1, s.head_dim // 2, 2), rotary)
            self.kv_cache[rows, index, :, :, at] = h[:, s.heads :].view(-1, 2, s.kv_heads, s.head_dim)
            return _attend(h[:, : s.heads], works, index, tokens, self.query_groups)

        return self.through(ids, attend, last)

    def through(self, ids: Sequence[int], attend: Attention, last: Sequence[int]) -> torch.Tensor:
        """Logits [len(last), vocab] of the tokens at indices `last`, whatever attention is: its layer's number, the
        tokens' queries, keys and values [tokens, (heads + 2 kv_heads) * size], not yet rotated, and the number of rows
        to give back [rows, heads * size], zeros after the tokens.
        """
        import torch
        from torch.nn.functional import embedding, silu

        s, n = self.shape, len(ids)
        x = embedding(torch.tensor(ids), self.embedding)
        if self.padding:
            x = torch.nn.functional.pad(x, (0, 0, 0, -n % _PADDED))
        for index, layer in enumerate(self.layers):
            h = _linear(self._unit(x), layer.qkv, layer.qkv_bias)[:n]
            x = x + attend(index, h, len(x)) @ layer.out
            h = self._unit(x) @ layer.gate_up
            x = x + silu(h[:, : s.intermediate]).mul_(h[:, s.intermediate :]) @ layer.down
        if len(last) != len(x):
            x = x[torch.tensor(last)]
        return (self._unit(x) @ self.head).to(x.dtype)

    def _unit(self, x: torch.Tensor) -> torch.Tensor:
        """Rows scaled to length one: an RMS norm but for its weights and the root of the width, see `_fold_norm`."""
        import torch

        size = torch.linalg.vecdot(x, x).add_(self.shape.eps * self.shape.hidden).rsqrt_()
        return (x * size.unsqueeze(1)).to(self.dtype)


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take no memory before they are written to; those of torch and numpy take it at once.

    Zeros because what masked positions hold is multiplied by zero, and must not be NaN. Linux is told to reserve
    nothing either: it refuses to promise more than the machine has, of which most is never used.
    """
    import mmap

    import torch

    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NO_RESERVE if sys.platform == "linux" else 0)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer, input dimension first; products over one input joined, its norm folded in."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


def _layer(raw: dict[str, torch.Tensor], at: str, shape: Shape) -> _Layer:
    import torch

    def joined(kind: str) -> torch.Tensor:
        q, k, v = (raw[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv")
        return torch.cat([_interleave(q, shape.head_dim), _interleave(k, shape.head_dim), v])

    gate_up = torch.cat([raw[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up")])
    return _Layer(
        qkv=_fold_norm(joined("weight"), raw[f"{at}input_layernorm.weight"]),
        qkv_bias=joined("bias") if f"{at}self_attn.q_proj.bias" in raw else None,
        out=raw[f"{at}self_attn.o_proj.weight"].t().contiguous(),
        gate_up=_fold_norm(gate_up, raw[f"{at}post_attention_layernorm.weight"]),
        down=raw[f"{at}mlp.down_proj.weight"].t().contiguous(),
    )


def _fold_norm(weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Input-first weight of a product that follows an RMS norm: takes `_unit` vectors instead of normed ones."""
    return (weight * (norm * math.sqrt(len(norm)))).t().contiguous()


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x @ weight if bias is None else bias.addmm(x, weight)


def _interleave(w: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder each head's outputs from (first half, second half) to pairs, so that a rotation is a complex product.

    Queries and keys are reordered alike, which leaves their products as they were.
    """
    return w.view(-1, 2, head_dim // 2, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def _rotary(shape: Shape, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Rotary embedding of each position's heads as complex numbers, [length, heads + 2 kv_heads, head_dim / 2].

    Values stay as they are: their numbers are ones. So one product serves all heads.
    """
    import torch

    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float64), shape.rope_theta**-half)
    turned = torch.polar(torch.ones_like(angles), angles).unsqueeze(1).expand(-1, shape.heads + shape.kv_heads, -1)
    rotary = torch.cat([turned, torch.ones_like(turned[:, : shape.kv_heads])], dim=1)
    return rotary if dtype == torch.float64 else rotary.to(torch.complex64)


def _rotate(pairs: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, head_dim / 2, 2] and flatten the pairs again."""
    import torch

    wide = pairs.to(rotary.real.dtype)  # complex numbers have no half precision
    return torch.view_as_real(torch.view_as_complex(wide) * rotary).flatten(-2).to(pairs.dtype)


@dataclass(frozen=True)
class _Work:
    """One call of attention per layer: its tokens, keys and values by layer, and what to add to the scores."""

    start: int
    end: int
    queries: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    bias: torch.Tensor


def _attention_works(spans: Sequence[Span], kv_cache: torch.Tensor, at: torch.Tensor) -> list[_Work]:
    singles = [span for span in spans if span.queries == 1]
    longest = max((span.length for span in singles), default=0)
    shared = _bias(at[: sum(span.rows for span in singles)], longest, kv_cache.dtype)
    works, start = [], 0
    for span in spans:
        end = start + span.rows * span.queries
        held = kv_cache[span.slot : span.slot + span.rows, :, :, :, : span.length]
        if span.queries == 1:
            bias = shared[start:end, None, None, : span.length]
        else:
            bias = _bias(at[start:end], span.length, kv_cache.dtype)[None, None]
        keys, values = zip(*(layer.unbind(1) for layer in held.unbind(1)), strict=True)
        works.append(_Work(start, end, span.queries, keys, values, bias))
        start = end
    return works


def _bias(at: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """[tokens, length]: minus infinity after a token's own position, else 0."""
    import torch

    later = torch.arange(length) > at.unsqueeze(1)
    return torch.zeros(later.shape, dtype=dtype).masked_fill_(later, -math.inf)


def _attend(
    queries: torch.Tensor, works: Sequence[_Work], index: int, tokens: int, query_groups: tuple[int, int]
) -> torch.Tensor:
    """Attention [tokens, heads * size] of queries [n <= tokens, heads, size] in one layer, zero beyond n.

    For rows of one token, the query heads that share keys can go as the queries of
    one head (`query_groups`: heads, queries), which reads the keys once.
    """
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    n, heads, size = queries.shape
    out = queries.new_zeros(tokens, *query_groups, size) if tokens > n else queries.new_empty(n, *query_groups, size)
    single = queries.view(n, *query_groups, size)
    for work in works:
        start, end = work.start, work.end
        keys, values = work.keys[index], work.values[index]
        if work.queries == 1:
            out[start:end] = sdpa(single[start:end], keys, values, attn_mask=work.bias, enable_gqa=True)
        else:
            q = queries[start:end].transpose(0, 1).unsqueeze(0)
            got = sdpa(q, keys, values, attn_mask=work.bias, enable_gqa=True)[0].transpose(0, 1)
            out[start:end] = got.reshape(end - start, *query_groups, size)
    return out.view(tokens, heads * size)
