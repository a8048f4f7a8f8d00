"""What every test runs under: one thread, fixed seeds, no network."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports torch or transformers.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
)

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from sprint_lib.serving import Server

SHIPPED = "countdown-sprint"

hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # importing it takes seconds that most tests need not spend
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model with the tokenizer of the real ones: what it writes is noise."""
    import torch

    from sprint_lib.training.base import BaseConfig, build_model, build_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    config = BaseConfig(hidden=16, layers=1, heads=2, kv_heads=1, ffn=16, context=512)
    build_model(config, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_pair() -> Iterator[list[Server]]:
    """Two vLLM servers of the shipped Countdown model; one test kills the first, so that others take the second."""
    from sprint_lib import serving

    try:
        serving.environment()
    except serving.ServingError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, taken at once, whatever is needed
        made = [serving.Server(serving.Settings(SHIPPED, port=0, dtype="float32", control=True)) for _ in range(2)]
        for one in made:
            stack.callback(one.stop)
        yield list(pool.map(lambda one: one.__enter__(), made))


@pytest.fixture
def vllm(vllm_pair: list[Server]) -> str:
    """The base URL of a vLLM server of the shipped Countdown model."""
    return vllm_pair[1].url
