"""What a notebook needs that does not come with this project, such as the authors' released outputs. Its metadata
names it; where it is not at hand, the suite leaves the notebook out and says what to do. A notebook with a parameter
`source` needs it only where that is what the parameter says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sprint_lib import store

if TYPE_CHECKING:
    from sprint_lib.params import Step

NEEDS = ("released",)  # what `needs` in a notebook's metadata may say
VOCABULARY = "SPRINT_QWEN_TIKTOKEN"  # names a file with Qwen2.5's vocabulary, which comes before any other tokenizer


def lacking(step: Step) -> str:
    """What a step needs and is not at hand, and the way out; "" if nothing lacks.

    Only looks whether the files are there: the notebook reads them, and says what is wrong with them.
    """
    if not _needed(step):
        return ""
    from sprint_lib import released

    try:
        released.find(_folder(step))
    except released.ReleasedError as error:
        return str(error)
    return _no_tokenizer(step)


def state(step: Step) -> dict[str, str]:
    """What stands for the needed files in a fingerprint: a hash by name, empty if they are not at hand.

    Names and sizes count, so that this takes milliseconds. Two files with one tokenizer's vocabulary count alike.
    """
    if not _needed(step) or lacking(step):
        return {}
    from sprint_lib import released

    root = released.find(_folder(step)).root
    files = (path for part in released.PARTS for path in part.files(root))
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    return {step.notebook.needs: store.hash_json(sizes)}


def environment() -> dict[str, str]:
    """The variables that name needed files, as absolute paths: a notebook is executed in its own folder."""
    from sprint_lib import released

    given = {name: os.environ.get(name) for name in (released.VARIABLE, VOCABULARY)}
    return {name: str(Path(path).expanduser().absolute()) for name, path in given.items() if path}


def _needed(step: Step) -> bool:
    needs = step.notebook.needs
    return bool(needs) and step.parameters.get("source", needs) == needs


def _folder(step: Step) -> Path | None:
    given: str = step.parameters.get("released", "")
    return _beside(step, given) if given else None


def _beside(step: Step, path: str) -> Path:
    """A path as the notebook's kernel reads it."""
    return step.notebook.path.parent / Path(path).expanduser()


def _no_tokenizer(step: Step) -> str:
    """Why the tokenizer that a notebook would count with is not at hand, "" if it is."""
    name: str = step.parameters.get("tokenizer", "")
    if name and (given := os.environ.get(VOCABULARY)):
        there = Path(given).expanduser().is_file()
        return "" if there else f"{given}: no such file; set {VOCABULARY} to Qwen2.5's vocabulary file"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or _beside(step, name).exists():
        return ""
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "tokenizer.json"), str):
        return ""
    return (
        f"the tokenizer {name} is not at hand: `hf download {name} tokenizer.json` gets it over the network, "
        f"or set {VOCABULARY} to Qwen2.5's vocabulary file"
    )
