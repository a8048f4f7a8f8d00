"""Exact token counts: `counter` turns the name of a tokenizer into a function from a text to its number of tokens,
offline from a folder or from Qwen2.5's vocabulary file, or from the Hugging Face hub. The reasoning tags are one
token each in all of them, as in the distilled models that SPRINT fine-tunes (arXiv 2506.05745, A.3); SPRINT's own
tags are ordinary text.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sprint_lib.needs import VOCABULARY

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REASONING_TAGS = ("<think>", "</think>")

_QWEN_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
_QWEN_BYTES = 2_561_218
# How Qwen2.5's tokenizer.json normalises (NFC), cuts a text into words, and what it never cuts.
_QWEN_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)

# tiktoken overflows on a million blanks and is quadratic in long words, so a text is given to it in pieces.
_LONGEST_PIECE = 100_000
_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")

Count = Callable[[str], int]


class TokenizerError(ValueError):
    """A tokenizer that is not there or cannot be used."""


def counter(name: str | Path) -> Count:
    """A function that counts the tokens of a text; what a chat template adds is not counted.

    `name` is a folder with `tokenizer.json` or that file, a `.tiktoken` file of Qwen2.5's vocabulary, a shipped
    model, or a name on the hub with its owner (`Qwen/Qwen2.5-7B`), the only one that may use the network. For
    Qwen2.5, file and hub give the same counts. Time is linear in the text. Lone surrogates count as question marks.

    Raises:
        TokenizerError: if there is no such tokenizer, or a file is damaged or another vocabulary.
    """
    path = Path(name)
    if path.suffix == ".tiktoken":
        return _qwen(path)
    if path.exists():
        return _from_file(path / "tokenizer.json" if path.is_dir() else path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return _from_hub(str(name))
    from sprint_lib import models

    try:
        return _from_file(models.path(str(name)) / "tokenizer.json")
    except FileNotFoundError as error:
        raise TokenizerError(f"{error}, or a .tiktoken file, or a name on the hub such as Qwen/Qwen2.5-7B") from error


def at_hand(name: str) -> str:
    """What stands for a tokenizer of the hub where `needs.VOCABULARY` names Qwen2.5's vocabulary file: that file.

    It gives the counts of every tokenizer of the paper's models. Any other name stays as it is.
    """
    given = os.environ.get(VOCABULARY)
    return given if given and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else name


def _from_file(path: Path) -> Count:
    from tokenizers import Tokenizer

    try:
        return _with_tags(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path}: not a tokenizer: {error}; name another folder with --tokenizer") from error


def _from_hub(name: str) -> Count:
    from tokenizers import Tokenizer

    try:
        return _with_tags(Tokenizer.from_pretrained(name))
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise TokenizerError(
            f"{name}: neither a folder here nor had from the hub ({why}); "
            "name a folder with tokenizer.json or a .tiktoken file, or run this once where the hub can be reached"
        ) from error


def _with_tags(tokenizer: Tokenizer) -> Count:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in REASONING_TAGS])
    tokenizer.no_truncation()  # what a file may ask for would cap the counts
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(_encodable(text), add_special_tokens=False).ids)


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


# --- Qwen2.5's vocabulary from a file ---------------------------------------------------


def _qwen(path: Path) -> Count:
    try:
        with path.open("rb") as file:
            data = file.read(_QWEN_BYTES + 1)
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}; name another file with --tokenizer") from error
    if hashlib.sha256(data).hexdigest() != _QWEN_SHA256:
        raise TokenizerError(
            f"{path}: not Qwen2.5's vocabulary (SHA-256 {_QWEN_SHA256[:12]}…); the package dashscope has it as "
            "resources/qwen.tiktoken, or take Qwen/Qwen2.5-7B from the hub"
        )
    ranks = {base64.b64decode(token): int(rank) for token, _, rank in (row.partition(b" ") for row in data.split(b"\n"))
             if token}  # fmt: skip
    return _qwen_counter(ranks)


def _qwen_counter(ranks: dict[bytes, int]) -> Count:
    """Count as Qwen2.5's tokenizer does, with these merges: bytes of a token to its rank."""
    from tiktoken import Encoding
    from tokenizers.normalizers import NFC

    encoding = Encoding("qwen2.5", pat_str=_QWEN_WORD, mergeable_ranks=ranks, special_tokens={})
    special = re.compile("|".join(map(re.escape, (*_QWEN_SPECIAL, *REASONING_TAGS))))
    normalizer = NFC()  # Python's own is quadratic in runs of combining marks

    def ordinary(text: str) -> int:
        pieces = (piece if piece.isascii() else normalizer.normalize_str(piece) for piece in _pieces(text))
        return sum(len(encoding.encode_ordinary(piece)) for piece in pieces)

    def count(text: str) -> int:
        parts = special.split(_encodable(text))
        return len(parts) - 1 + sum(map(ordinary, parts))

    return count


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most `_LONGEST_PIECE` characters, cut where no token lies across.

    That is before a blank between two Latin letters: the word before it ends there whatever follows, and the next
    one begins with the blank whatever precedes. A piece whose second half has no such place is cut at its end,
    which may change its count by a few tokens: 50,000 characters without two words are no text of a model.
    """
    start = 0
    while len(text) - start > _LONGEST_PIECE:
        end = start + _LONGEST_PIECE
        places = [match.start() for match in _BETWEEN_WORDS.finditer(text, start + _LONGEST_PIECE // 2, end)]
        end = places[-1] if places else end
        yield text[start:end]
        start = end
    yield text[start:]
