"""The models shipped with the package: small enough for the repository, usable before anything was trained.

Each is a folder beside this file in Hugging Face's layout (config, safetensors,
tokenizer) with a `README.md` as its model card. A model is added by adding its
folder.
"""

from __future__ import annotations

import re
from pathlib import Path

_HERE = Path(__file__).parent
ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # a name on the hub, with its owner


def names() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted(config.parent.name for config in _HERE.glob("*/config.json"))


def find(name: str) -> Path:
    """The folder of a model: a shipped one by its name, a folder, or one of the hub (`owner/name`), fetched if need be.

    Raises:
        FileNotFoundError: if there is none; the message says what to do.
    """
    if name in names():
        return path(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if not ON_HUB.fullmatch(name):
        raise FileNotFoundError(
            f"{name}: no model here; give a folder, owner/name on the hub, or a shipped one ({', '.join(names())})"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.pth", "*.gguf", "original/*"]))
    except Exception as error:  # no network, no such name, no access, no space: a dozen types
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"{name}: cannot be had from the hub: {said}; `hf download {name}` elsewhere, or name a folder"
        ) from error


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
