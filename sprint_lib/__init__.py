"""sprint: parallel reasoning (SPRINT, APR) replicated in the open."""

import warnings

__version__ = "0.1.0"

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's bars for notebooks are shown nowhere here
