"""More words for a base model: tokens that its vocabulary keeps in reserve get a name, its weights stay what they are.

A way of writing that fine-tuning is to teach may need words that the base never saw (`<spawn>`, `<promise>`). All
models that are to be compared start from the same weights, so none is added: one of the tokens that stand for nothing
(`base.vocabulary`) becomes the word. A tokenizer that can write any text, as those of large models, needs none of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from sprint_lib import store
from sprint_lib.training.base import UNKNOWN, split_pattern

_RESERVED = "<|reserved_"


def with_words(base: Path, words: Sequence[str], out: Path) -> Path:
    """A folder with the model of `base` whose tokenizer has a token for each of `words`, in their order.

    That is `base` itself if its tokenizer has no token for what is unknown, and so can write any text; else a copy in
    `out`, made anew each time. A word counts before the parts it is made of: longer ones are looked for first.

    Raises:
        ValueError: if a word is one of the base's already, or there are more words than tokens in reserve.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.unk_token != UNKNOWN:
        return base
    data = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = data["model"]["vocab"]
    if known := [word for word in words if word in vocabulary]:
        raise ValueError(f"{base}: its tokenizer has {known[0]!r} already")
    reserve = [word for word in vocabulary if word.startswith(_RESERVED)]
    if len(words) > len(reserve):
        raise ValueError(f"{base}: {len(words)} words asked for, {len(reserve)} tokens in reserve")
    renamed = dict(zip(reserve, words, strict=False))
    data["model"]["vocab"] = every = {renamed.get(word, word): id_ for word, id_ in vocabulary.items()}
    data["pre_tokenizer"]["pattern"]["Regex"] = split_pattern(every)
    out.mkdir(parents=True, exist_ok=True)
    for path in base.iterdir():
        if path.is_file() and path.name not in ("README.md", "training.json", "tokenizer.json"):
            shutil.copyfile(path, out / path.name)
    store.write_json(out / "tokenizer.json", data)
    return out
