"""What a notebook needs that does not come with this project, such as the authors' released outputs. Its metadata
names it; where it is not at hand, or not what it should be, the suite leaves the notebook out and says what to do.
A notebook with a parameter `source` needs the released outputs only where that is what the parameter says, one with
`engine` a server's environment (`make server`) only where its kind is vllm.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sprint_lib.params import Step

NEEDS = ("released", "server")  # what `needs` in a notebook's metadata may say


def lacking(step: Step) -> str:
    """What a step needs and is not at hand, or not what was released, and the way out; "" if nothing lacks."""
    if not _needed(step):
        return ""
    if step.notebook.needs == "server":
        return _no_server()
    from sprint_lib import released

    try:
        released.find(_folder(step))
    except released.ReleasedError as error:
        return str(error)
    return _no_tokenizer(step)


def state(step: Step) -> dict[str, dict[str, str]]:
    """What stands for the needed files in a fingerprint: hashes by name, none if they are not at hand.

    Those of the released outputs are known: a copy with others counts as not at hand. Two files with one tokenizer's
    vocabulary count alike. For a server nothing stands: another version of it makes no measurement stale.
    """
    if step.notebook.needs == "server" or not _needed(step) or lacking(step):
        return {}
    from sprint_lib import released

    return {step.notebook.needs: {part.name: part.sha256 for part in released.PARTS}}


def environment() -> dict[str, str]:
    """The variables that name needed files, as absolute paths: a notebook is executed in its own folder."""
    from sprint_lib import released, tokens

    given = {name: os.environ.get(name) for name in (released.VARIABLE, tokens.VOCABULARY)}
    return {name: str(Path(path).expanduser().absolute()) for name, path in given.items() if path}


def _needed(step: Step) -> bool:
    needs = step.notebook.needs
    if needs == "server":
        return bool(step.parameters.get("engine", {}).get("kind") == "vllm")
    return bool(needs) and step.parameters.get("source", needs) == needs


def _no_server() -> str:
    from sprint_lib import serving

    try:
        serving.environment()
    except serving.ServingError as error:
        return str(error)
    return ""


def _folder(step: Step) -> Path | None:
    given: str = step.parameters.get("released", "")
    return _beside(step, given) if given else None


def _beside(step: Step, path: str) -> Path:
    """A path as the notebook's kernel reads it."""
    return step.notebook.path.parent / Path(path).expanduser()


def _no_tokenizer(step: Step) -> str:
    """Why the tokenizer that a notebook would count with is not at hand, "" if it is."""
    from sprint_lib import tokens

    name: str = step.parameters.get("tokenizer", "")
    if not tokens.on_hub(name) or _beside(step, name).exists():
        return ""
    if given := tokens.vocabulary(name):
        try:
            tokens.read_vocabulary(given)
        except tokens.TokenizerError as error:
            return str(error)
        return ""
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "tokenizer.json"), str):
        return ""
    also = f", or set {tokens.VOCABULARY} to Qwen2.5's vocabulary file" if tokens.is_qwen(name) else ""
    return f"the tokenizer {name} is not at hand: `hf download {name} tokenizer.json` gets it over the network{also}"
