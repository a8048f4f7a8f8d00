"""The embedded engine against transformers, against itself in other company, and in every way it can end."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sprint_lib.engines import Completion, EngineError, EngineSpec, Request, embedded, open_engine
from sprint_lib.engines import decoder as decoder_module
from sprint_lib.engines.decoder import Decoder, Span
from sprint_lib.engines.embedded import EmbeddedEngine

torch = pytest.importorskip("torch")
CONTEXT = 160
QUESTION = "Numbers: 2 3 4 17\nTarget: 85\n"


def _save(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A tiny random model whose next tokens are far from equally probable, with the Countdown tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from sprint_lib.training.base import build_tokenizer

    tokenizer = build_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "initializer_range": 0.4,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        **changes,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" in name or "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(folder: Path) -> Iterator[EmbeddedEngine]:
    opened = EmbeddedEngine(EngineSpec(model=str(folder), dtype="float64", max_batch=4))
    yield opened
    asyncio.run(opened.close())


def _all(folder: Path, requests: list[Request], *, together: bool = True, **spec: Any) -> list[Completion]:
    """Completions of requests sent to one engine at once, or one after the other."""

    async def go() -> list[Completion]:
        engine = open_engine(EngineSpec(model=str(folder), **{"dtype": "float64", "max_batch": 40, **spec}))
        if together:
            done = await asyncio.gather(*map(engine.complete, requests))
        else:
            done = [await engine.complete(request) for request in requests]
        await engine.close()
        return done

    return asyncio.run(go())


def _run(work: Coroutine[Any, Any, Completion]) -> Completion:
    async def limited() -> Completion:
        return await asyncio.wait_for(work, timeout=30)

    return asyncio.run(limited())


def _prompts() -> list[str]:
    lines = ["Try 2 + 3\n", "Left 4 5 17 -> 85\n", " 4 + 5 = 9 ; 9 17 = 26 8 -> 85 no\n", "None\n", "Try 3 - 2\n"]
    return [QUESTION + "".join(lines[:n]) for n in range(len(lines) + 1)]


# --- the same model as transformers' ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("llama", {"tie_word_embeddings": False, "head_dim": 16}), ("qwen2", {"rope_theta": 1e6})],
)
def test_logits_equal_those_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    folder = _save(tmp_path, kind, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = [3 + (7 * i * i) % 200 for i in range(30)]
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0]
        decoder = Decoder(folder, "float64", slots=4)
        decoder.reserve(40)
        # 20 tokens in slot 2 and 5 in slot 1 read together, then two rows of different length decoded together
        spans = [Span(1, 1, 5, 5), Span(2, 1, 20, 20)]
        laid = ids[:5] + ids[:20], [*range(5), *range(20)], [1] * 5 + [2] * 20
        got = decoder.forward(*laid, spans, range(25))
        one_step = decoder.forward([ids[5], ids[20]], [5, 20], [1, 2], [Span(1, 2, 1, 21)], [0, 1])
    # transformers norms in float32 whatever the model's dtype is
    assert torch.allclose(got, torch.cat([wanted[:5], wanted[:20]]), atol=2e-4)
    assert torch.allclose(one_step, wanted[[5, 20]], atol=2e-4)
    assert wanted.std() > 1


def test_half_precision_is_close(folder: Path) -> None:
    logits = {}
    for dtype in ("float64", "bfloat16"):
        decoder = Decoder(folder, dtype, slots=3)
        decoder.reserve(40)
        spans = [Span(0, 2, 1, 1), Span(2, 1, 21, 21)]
        laid = [5, 6, *range(30, 51)], [0, 0, *range(21)], [0, 1] + [2] * 21
        with torch.inference_mode():
            logits[dtype] = decoder.forward(*laid, spans, [0, 1, 22]).double()
    error = (logits["bfloat16"] - logits["float64"]).abs().max() / logits["float64"].std()
    assert 0 < error < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="others promise more memory than there is")
def test_a_cache_may_have_room_for_more_than_the_machine_has(folder: Path) -> None:
    decoder = Decoder(folder, "float32", slots=1)
    decoder.reserve(40)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    decoder = Decoder(folder, "float32", slots=2 * memory // decoder.kv_cache.nbytes)
    decoder.reserve(40)
    assert decoder.kv_cache.nbytes > 1.9 * memory
    assert not decoder.kv_cache[-1, -1].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_greedy_equals_generate(folder: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    done = _all(folder, [Request(prompt, 50) for prompt in _prompts()], dtype=dtype)
    for prompt, completion in zip(_prompts(), done, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=50, do_sample=False)[0, ids.shape[1] :]
        assert completion.text == tokenizer.decode(new, skip_special_tokens=True)
        assert (completion.prompt_tokens, completion.completion_tokens) == (ids.shape[1], len(new))


def test_a_growing_cache_keeps_what_it_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request(prompt, 80) for prompt in _prompts()]
    before = _all(folder, requests)
    monkeypatch.setattr(decoder_module, "_GROWTH", 8)
    assert [c.text for c in _all(folder, requests)] == [c.text for c in before]


def test_drawing_follows_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -30.0]])
    n, temperature = 4000, 0.7
    uniforms = [(i + 0.5) / n for i in range(n)]
    drawn = torch.tensor(embedded._sample(logits.expand(n, -1), [temperature] * n, uniforms))
    share = torch.bincount(drawn, minlength=5) / n
    assert torch.allclose(share, torch.softmax(logits[0] / temperature, -1), atol=1 / n)
    assert embedded._sample(logits.expand(2, -1), [0.0, temperature], [0.0, 0.0]) == [3, 0]


# --- the company a request keeps does not matter -------------------------------------------


def test_text_does_not_depend_on_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = itertools.cycle(_prompts())
    requests = [Request(next(prompts), 20 + i, temperature=i % 2, seed=i // 4) for i in range(40)]
    alone = _all(folder, requests, together=False)
    batch = _all(folder, requests)
    queued = _all(folder, requests, max_batch=7)
    monkeypatch.setattr(embedded._Slots, "_longest_prefix", lambda self, ids: (0, 0))
    unshared = _all(folder, requests)

    def essence(done: list[Completion]) -> list[tuple[str, int, str]]:
        return [(c.text, c.completion_tokens, c.finish) for c in done]

    assert essence(alone) == essence(batch) == essence(queued) == essence(unshared)
    assert len({c.text for c in alone}) > 20
    assert sum(c.cached_tokens for c in alone) > 0 == sum(c.cached_tokens for c in unshared)


def test_seed_decides_the_draw(folder: Path) -> None:
    texts = [c.text for c in _all(folder, [Request(QUESTION, 30, temperature=1, seed=s) for s in (1, 2, 1)])]
    assert texts[0] == texts[2] != texts[1]


def test_prefix_is_taken_from_live_and_finished_rows(engine: EmbeddedEngine) -> None:
    async def go() -> None:
        first = await engine.complete(Request(QUESTION, 12))
        prompt = QUESTION + first.text + "None\n"
        again = await engine.complete(Request(prompt, 1))
        assert first.cached_tokens == 0
        # all of the first row but its last token, which was drawn and never read in
        assert again.cached_tokens == first.prompt_tokens + first.completion_tokens - 1
        fresh = "Target: 99\n"
        one = asyncio.create_task(engine.complete(Request(fresh + "Try 2 + 3\n", 100)))
        while not one.done() and not len(engine._slots):
            await asyncio.sleep(0.001)
        two = await engine.complete(Request(fresh + "Try 2 - 3\n", 1))
        assert two.cached_tokens == engine.count_tokens(fresh + "Try 2")
        await one

    asyncio.run(go())


# --- text: stops, limits, streams ----------------------------------------------------------


def test_stop_strings_end_at_their_first_token(folder: Path) -> None:
    [whole] = _all(folder, [Request(QUESTION, 60)])
    texts = [c.text for c in _all(folder, [Request(QUESTION, n) for n in range(1, 61)])]  # after each token
    stops = [(whole.text[at : at + size], whole.text[at + 3 : at + 9]) for at in range(5, 90, 7) for size in (1, 4, 13)]
    stops = [pair for pair in stops if all(pair)]
    done = _all(folder, [Request(QUESTION, 60, stop=pair) for pair in stops])
    assert len(stops) > 10
    for pair, completion in zip(stops, done, strict=True):
        first = next(n for n, text in enumerate(texts, 1) if any(stop in text for stop in pair))
        _, cut = min((at + len(stop), at) for stop in pair if (at := texts[first - 1].find(stop)) >= 0)
        assert (completion.finish, completion.completion_tokens) == ("stop", first)
        assert completion.text == texts[first - 1][:cut]


def test_stream_adds_up_and_comes_in_order(engine: EmbeddedEngine) -> None:
    heard: list[tuple[str, int]] = []
    threads = set()

    def on_text(text: str, tokens: int) -> None:
        heard.append((text, tokens))
        threads.add(threading.current_thread())

    whole = _run(engine.complete(Request(QUESTION, 40)))
    stop = whole.text[30:40]
    done = _run(engine.complete(Request(QUESTION, 40, stop=(stop, "never at all")), on_text))
    assert done.text == "".join(text for text, _ in heard) == whole.text.split(stop)[0]
    counts = [tokens for _, tokens in heard]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] <= done.completion_tokens
    assert threads == {threading.main_thread()}
    assert done.started < done.first_token < done.ended


def test_limits(engine: EmbeddedEngine) -> None:
    short = _run(engine.complete(Request(QUESTION, 3)))
    assert (short.finish, short.completion_tokens) == ("length", 3)
    full = _run(engine.complete(Request(QUESTION, 10_000)))
    assert full.finish in ("length", "stop")
    tokens = full.prompt_tokens + full.completion_tokens
    assert tokens == CONTEXT if full.finish == "length" else tokens <= CONTEXT
    over = _run(engine.complete(Request(QUESTION * 30, 5)))
    assert (over.finish, over.text, over.completion_tokens) == ("length", "", 0)
    assert over.prompt_tokens == engine.count_tokens(QUESTION * 30) > CONTEXT


def test_end_token_ends_the_text(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(engine.complete(Request(QUESTION, 20)))
    token = engine._tokenizer.encode(whole.text).ids[9]
    monkeypatch.setattr(engine, "_ends", frozenset([token]))
    done = _run(engine.complete(Request(QUESTION, 20)))
    first = engine._tokenizer.encode(whole.text).ids.index(token) + 1
    assert (done.finish, done.completion_tokens) == ("stop", first)


# --- ends before the end -------------------------------------------------------------------


def test_cancelled_request_leaves_its_row(folder: Path) -> None:
    async def go() -> None:
        engine = EmbeddedEngine(EngineSpec(model=str(folder), max_batch=1))
        begun = asyncio.Event()
        long = asyncio.create_task(engine.complete(Request(QUESTION, 140, temperature=1), lambda *_: begun.set()))
        queued = asyncio.create_task(engine.complete(Request(QUESTION, 140)))
        await begun.wait()
        queued.cancel()
        long.cancel()
        done = await engine.complete(Request(QUESTION, 2))
        assert done.completion_tokens == 2
        assert long.cancelled()
        assert len(engine._slots) == 0
        await engine.close()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_error_of_a_listener_is_its_callers(engine: EmbeddedEngine) -> None:
    def broken(text: str, tokens: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run(engine.complete(Request(QUESTION, 20), broken))
    assert _run(engine.complete(Request(QUESTION, 2))).completion_tokens == 2


def test_closed_engine_refuses(folder: Path) -> None:
    async def go() -> None:
        engine = open_engine(EngineSpec(model=str(folder), max_batch=1))
        calls = [asyncio.create_task(engine.complete(Request(QUESTION, 140))) for _ in range(3)]
        await asyncio.sleep(0)
        await engine.close()
        for ended in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(ended, EngineError)
            assert "closed" in str(ended)
        with pytest.raises(EngineError, match="closed"):
            await engine.complete(Request(QUESTION, 1))
        await engine.close()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_failure_in_the_worker_reaches_every_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no room")

    async def go() -> None:
        engine = EmbeddedEngine(EngineSpec(model=str(folder), max_batch=2))
        monkeypatch.setattr(engine._decoder, "forward", broken)
        ended = await asyncio.gather(*(engine.complete(Request(QUESTION, 5)) for _ in range(5)), return_exceptions=True)
        for error in ended:
            assert isinstance(error, EngineError)
            assert "MemoryError: no room" in str(error)
            assert isinstance(error.__cause__, MemoryError)
        with pytest.raises(EngineError, match="no room"):
            await engine.complete(Request(QUESTION, 5))
        await engine.close()

    asyncio.run(asyncio.wait_for(go(), 30))


@pytest.mark.parametrize(
    "request_",
    [Request("", 5), Request(QUESTION, 0), Request(QUESTION, 5, temperature=-1), Request(QUESTION, 5, stop=("",))],
)
def test_impossible_requests_are_refused(engine: EmbeddedEngine, request_: Request) -> None:
    with pytest.raises(EngineError):
        _run(engine.complete(request_))


def test_models_it_cannot_run_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no config\.json"):
        open_engine(EngineSpec(model=str(tmp_path)))
    with pytest.raises(EngineError, match="float32"):
        open_engine(EngineSpec(model=str(folder), dtype="int8"))
    with pytest.raises(EngineError, match="embedded"):
        open_engine(EngineSpec(kind="magic", model=str(folder)))
    odd = _save(tmp_path / "odd", "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with pytest.raises(EngineError, match="layer_types"):
        open_engine(EngineSpec(model=str(odd)))
