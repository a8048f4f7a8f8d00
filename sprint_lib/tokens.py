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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sprint_lib import models
from sprint_lib.accounting import Count

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REASONING_TAGS = ("<think>", "</think>")
_STAGE_TAG = re.compile(r"</?\w+_\d+[.>]?")  # one token where it is known, and so where only its number is too high
VOCABULARY = "SPRINT_QWEN_TIKTOKEN"  # names a file with Qwen2.5's vocabulary

_QWEN = re.compile(r"Qwen/Qwen2\.5-(?:Math-|Coder-)?\d[\w.-]*")  # names of models that have this one tokenizer
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


class TokenizerError(ValueError):
    """A tokenizer that is not there or cannot be used."""


class UnknownWords(TokenizerError):
    """A text with words that a tokenizer does not have: a count of it would mean nothing."""


def counter(name: str | Path) -> Count:
    """A function that counts the tokens of a text; what a chat template adds is not counted.

    `name` is a folder with `tokenizer.json` or that file, a `.tiktoken` file of Qwen2.5's vocabulary, a shipped
    model, or a name on the hub with its owner (`Qwen/Qwen2.5-7B`), the only one that may use the network: `vocabulary`
    comes before it and gives the same counts. Time is linear in the text. Lone surrogates count as question marks.

    Raises:
        TokenizerError: if there is no such tokenizer, or a file is damaged or another vocabulary. The function
            raises it for a text with words that the tokenizer does not know: a sentence may be one unknown token.
    """
    path = Path(name)
    if path.suffix == ".tiktoken":
        return _qwen(path)
    if path.exists():
        return _from_file(path / "tokenizer.json" if path.is_dir() else path)
    if given := vocabulary(name):
        return _qwen(given)
    if on_hub(name):
        return _from_hub(str(name))
    from sprint_lib import models

    try:
        return _from_file(models.path(str(name)) / "tokenizer.json")
    except FileNotFoundError as error:
        raise TokenizerError(f"{error}, or a .tiktoken file, or a name on the hub such as Qwen/Qwen2.5-7B") from error


def vocabulary(name: str | Path) -> Path | None:
    """The file that stands for a tokenizer of this name: what SPRINT_QWEN_TIKTOKEN says, if the name is Qwen2.5's.

    Whatever the file is called, `counter` takes it only if it is that vocabulary.
    """
    given = os.environ.get(VOCABULARY)
    return Path(given).expanduser() if given and is_qwen(name) else None


def is_qwen(name: str | Path) -> bool:
    """Whether this is the name on the hub of a model that has Qwen2.5's tokenizer."""
    return _QWEN.fullmatch(str(name)) is not None


def on_hub(name: str | Path) -> bool:
    """Whether this is a name on the hub, with its owner."""
    return models.ON_HUB.fullmatch(str(name)) is not None


def _from_file(path: Path) -> Count:
    from tokenizers import Tokenizer

    try:
        return _with_tags(Tokenizer.from_file(str(path)), path.parent.name)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path}: not a tokenizer: {error}; name another folder with --tokenizer") from error


def _from_hub(name: str) -> Count:
    from tokenizers import Tokenizer

    try:
        return _with_tags(Tokenizer.from_pretrained(name), name)
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise TokenizerError(
            f"{name}: neither a folder here nor had from the hub ({why}); "
            "name a folder with tokenizer.json or a .tiktoken file, or run this once where the hub can be reached"
        ) from error


def _with_tags(tokenizer: Tokenizer, name: str) -> Count:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in REASONING_TAGS])
    tokenizer.no_truncation()  # what a file may ask for would cap the counts
    tokenizer.no_padding()
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")

    def count(text: str) -> int:
        found = tokenizer.encode(encodable(text), add_special_tokens=False)
        if unknown is not None and unknown in found.ids:
            spans = (span for id_, span in zip(found.ids, found.offsets, strict=True) if id_ == unknown)
            words = (encodable(text)[start:end] for start, end in spans)
            if strange := next((word for word in words if not _STAGE_TAG.fullmatch(word)), None):
                raise UnknownWords(
                    f"the tokenizer {name} does not know {strange[:60]!r} and cannot count this text; "
                    "name the one of the model that is to read it, such as Qwen/Qwen2.5-7B"
                )
        return len(found.ids)

    return count


def encodable(text: str) -> str:
    """Text that can be counted and printed: lone surrogates, which JSON and file names may hold, as question marks."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


# --- Qwen2.5's vocabulary from a file ---------------------------------------------------


def read_vocabulary(path: Path) -> bytes:
    """Qwen2.5's vocabulary from its file, whatever that is called.

    Raises:
        TokenizerError: if there is no such file, or it is not that vocabulary (by its hash).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_QWEN_BYTES + 1)
    except OSError as error:
        raise TokenizerError(
            f"{path}: {error.strerror}; name another file with --tokenizer, or in {VOCABULARY} if that names it"
        ) from error
    if hashlib.sha256(data).hexdigest() != _QWEN_SHA256:
        raise TokenizerError(
            f"{path}: not Qwen2.5's vocabulary (SHA-256 {_QWEN_SHA256[:12]}…); the package dashscope has it as "
            "resources/qwen.tiktoken, or take Qwen/Qwen2.5-7B from the hub"
        )
    return data


def _qwen(path: Path) -> Count:
    rows = (row.partition(b" ") for row in read_vocabulary(path).split(b"\n"))
    return _qwen_counter({base64.b64decode(token): int(rank) for token, _, rank in rows if token})


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
        parts = special.split(encodable(text))
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
