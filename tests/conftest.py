"""What every test runs under: one thread, fixed seeds, no network."""

from __future__ import annotations

import os
import random
import sys

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
