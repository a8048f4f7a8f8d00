"""The models shipped with the package: small enough for the repository, usable before anything was trained.

Each is a folder beside this file in Hugging Face's layout (config, safetensors,
tokenizer) with a `README.md` as its model card. A model is added by adding its
folder.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted(config.parent.name for config in _HERE.glob("*/config.json"))


def path(name: str) -> Path:
    """Return the folder of the shipped model `name`.

    Raises:
        FileNotFoundError: if no such model is shipped; the message lists those that are.
    """
    if name not in names():
        there_are = ", ".join(names()) or "none"
        raise FileNotFoundError(
            f"{_HERE}: no shipped model {name!r} (there are: {there_are}); give a model of your own by its folder"
        )
    return _HERE / name
