"""Words that a base model gets from its reserve."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sprint_lib import models, store
from sprint_lib.training.words import with_words

WORDS = ("<spawn>\n", "</spawn>\n", "Left none")


def test_new_words_are_one_token_each_and_old_texts_stay_the_same(tmp_path: Path) -> None:
    base = models.path("countdown-base")
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(with_words(base, WORDS, tmp_path))
    ids = new(f"Try 3 + 4\n{WORDS[0]}Left none\n{WORDS[1]}")["input_ids"]
    assert new.decode(ids) == f"Try 3 + 4\n{WORDS[0]}Left none\n{WORDS[1]}"
    assert [token in WORDS for token in new.convert_ids_to_tokens(ids)] == [False] * 5 + [True, True, False, True]
    text = "Numbers: 3 4 5 7\nTarget: 24\nTry 3 + 4\n = 7\nLeft 5 7 7 -> 24\n"
    assert new(text)["input_ids"] == old(text)["input_ids"]
    assert len(new) == len(old)


def test_weights_are_the_base_s(tmp_path: Path) -> None:
    base = models.path("countdown-base")
    made = with_words(base, WORDS, tmp_path)
    assert store.hash_path(made / "model.safetensors") == store.hash_path(base / "model.safetensors")
    assert not (made / "training.json").exists()


@pytest.mark.parametrize(
    ("words", "said"), [(["Try"], "has 'Try' already"), ([f"w{k}" for k in range(99)], "in reserve")]
)
def test_refused(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        with_words(models.path("countdown-base"), words, tmp_path)
