"""A model's chat template, so that an instruction-tuned model behind plain text completion is asked as it was trained:
the template's text around a user's message, and after it the beginning of the reply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

Template = Callable[[str, str], str]  # (message, beginning of the reply) -> what the engine continues


@cache
def chat_template(folder: str) -> Template | None:
    """The template in a model's or tokenizer's folder; None if there is none.

    Special tokens in a message or a reply are taken out: what a model wrote cannot end the message it is quoted in.

    Raises:
        OSError, ValueError: if the folder's files cannot be read.
    """
    if not folder or not _has_template(Path(folder).expanduser()):
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(Path(folder).expanduser()))
    marks = re.compile("|".join(map(re.escape, sorted(tokenizer.all_special_tokens, key=len, reverse=True))) or r"(?!)")
    begins = tokenizer.bos_token if tokenizer.encode("") else None  # then it is put before every text anyway

    def plain(text: str) -> str:
        while (less := marks.sub("", text)) != text:  # taking one out may make another
            text = less
        return text

    def render(message: str, begun: str) -> str:
        said = [{"role": "user", "content": plain(message)}]
        text = str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        return (text.removeprefix(begins) if begins else text) + plain(begun)

    return render


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
