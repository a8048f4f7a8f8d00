"""What every test runs under: one thread, fixed seeds, no network."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

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
