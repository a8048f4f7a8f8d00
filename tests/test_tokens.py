"""Token counters: exact on Qwen2.5's vocabulary, the same from a file and from a tokenizer.json, in linear time."""

from __future__ import annotations

import os
import random
import string
import time
from pathlib import Path

import hostile
import pytest

from sprint_lib import models, tokens
from sprint_lib.accounting import Count
from sprint_lib.tokens import TokenizerError, counter

BYTES = {bytes([i]): i for i in range(256)}
MERGES = (b"th", b" t", b" th", b"the", b" the", b"in", b"ing", b"  ", b"    ", b"\n\n")  # a vocabulary in small
SMALL = BYTES | {token: 256 + i for i, token in enumerate(MERGES)}
TEXTS = [
    "",
    "Wait, let me check: $\\frac{3}{4} + 0.25 = 1$.\n\nSo x = 12345, isn't it?\n",
    "<think>\nOkay.\n</think>\n\n<Plan_1>\n<prompt_1.1> a </prompt_1.1>\n</Plan_1>\n",
    "<think><think></think>x</think>y <|im_end|><|endoftext|> <tool_call>",
    "   indented\n\t\tmore\r\n  \n trailing   ",
    "√2 ≤ π, θ → ∞; 汉字 и текст; naïve naïve; 😀😀 ٣",
    "IT'S they'LL we'd x'S '' 'tis",
    "a" * 300 + " " * 300 + "!" * 300 + "\n" * 300,
]


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    given = os.environ.get("SPRINT_QWEN_TIKTOKEN")
    if not given:
        pytest.skip("SPRINT_QWEN_TIKTOKEN names no qwen.tiktoken")
    return Path(given)


@pytest.fixture(scope="module")
def by_file(vocabulary: Path) -> Count:
    return counter(vocabulary)


@pytest.fixture(scope="module")
def by_json(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Count:
    return counter(_converted(vocabulary, tmp_path_factory.mktemp("qwen")))


def _converted(vocabulary: Path, folder: Path) -> Path:
    """A folder with a tokenizer.json that transformers made from the vocabulary, with its own settings for Qwen2.5."""
    from tokenizers import AddedToken, normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    made = TikTokenConverter(str(vocabulary), pattern=PRETOKENIZE_REGEX).converted()
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken(token, normalized=False) for token in tokens._QWEN_SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def characters(tmp_path: Path) -> Path:
    """A folder with a tokenizer to which a character is a token, and which asks to be cut at four of them."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers
    from tokenizers import models as kinds

    known = {letter: k for k, letter in enumerate(["<unknown>", *string.printable])}
    made = Tokenizer(kinds.WordLevel(known, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    made.enable_truncation(4)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


# --- Qwen2.5 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello world", 2),
        ("12345", 5),
        ("<think>\n</think>", 3),
        ("<|im_end|>", 1),
        ("<Plan_1>", 5),
        (" ", 1),
        ("e\u0301", 1),
        ("\u00e9", 1),
        ("\ud800", 1),
    ],
)
def test_known_counts(by_file: Count, text: str, expected: int) -> None:
    assert by_file(text) == expected


def test_file_and_tokenizer_json_count_the_same(by_file: Count, by_json: Count) -> None:
    fragments = ["<think>", "</think>", "<Plan_1>", "<|im_end|>", " ", "\n", "\t", "don't", "x^2", "¬", "é"]
    for text in [*TEXTS, *hostile.strings(800, 3, TEXTS, fragments)]:
        assert by_file(text) == by_json(text), repr(text)


def test_file_and_tokenizer_json_count_the_same_on_released_texts(by_file: Count, by_json: Count) -> None:
    from sprint_lib import released

    if not os.environ.get(released.VARIABLE):
        pytest.skip(f"{released.VARIABLE} names no folder of released logs")
    found = released.find()
    for run in [*found.sprint()[::10], *found.rft()[::10], *found.rft_control()[::10]]:
        assert by_file(run.text) == by_json(run.text), run.index


def test_file_and_hub_count_the_same(by_file: Count) -> None:
    try:
        by_hub = tokens._from_hub("Qwen/Qwen2.5-7B")
    except TokenizerError:
        pytest.skip("Qwen/Qwen2.5-7B is not in the hub's cache here")
    assert [by_file(text) for text in TEXTS] == [by_hub(text) for text in TEXTS]


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tiktoken"
    path.write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(TokenizerError, match=r"other\.tiktoken: not Qwen2\.5's vocabulary .* take Qwen/Qwen2\.5-7B"):
        counter(path)
    with pytest.raises(TokenizerError, match=r"none\.tiktoken: No such file"):
        counter(tmp_path / "none.tiktoken")


# --- the vocabulary that the environment names ----------------------------------------------


def test_the_named_file_stands_for_qwen_whatever_it_is_called(
    vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_bytes(vocabulary.read_bytes())
    monkeypatch.setenv(tokens.VOCABULARY, str(tmp_path / "words.txt"))
    assert counter("Qwen/Qwen2.5-7B")("hello world") == counter("Qwen/Qwen2.5-Math-1.5B-Instruct")("hello world") == 2


def test_the_named_file_is_refused_if_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setenv(tokens.VOCABULARY, str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not Qwen2\.5's vocabulary"):
        counter("Qwen/Qwen2.5-7B")
    monkeypatch.setenv(tokens.VOCABULARY, str(tmp_path / "none"))
    with pytest.raises(TokenizerError, match=r"none: No such file or directory; .* SPRINT_QWEN_TIKTOKEN"):
        counter("Qwen/Qwen2.5-7B")


def test_the_named_file_stands_for_no_other_tokenizer(characters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.VOCABULARY, "/nowhere/qwen.tiktoken")
    assert counter(characters)("abc") == 3
    assert counter("countdown-base")("Numbers: 2 3\n") > 0
    for name in ("Qwen/Qwen2-7B", "Qwen/Qwen2.5-Omni-7B", "else/Qwen2.5-7B"):
        assert tokens.vocabulary(name) is None
        with pytest.raises(TokenizerError, match="neither a folder here nor had from the hub"):
            counter(name)
    monkeypatch.chdir(characters)
    (characters / "Qwen/Qwen2.5-7B").mkdir(parents=True)
    (characters / "tokenizer.json").rename("Qwen/Qwen2.5-7B/tokenizer.json")
    assert counter("Qwen/Qwen2.5-7B")("abc") == 3  # a folder that is there


# --- long and hostile texts ---------------------------------------------------------------


def test_special_tokens_and_words() -> None:
    count = tokens._qwen_counter(SMALL)
    assert count("the thing") == len(["the", " th", "ing"])
    assert count("the<think>the</think>") == 4
    assert count("<thin k>") == 8 - 2  # as text: "th", "in" are tokens
    assert count("e\u0301") == len("\u00e9".encode())


def test_pieces_are_cut_where_no_token_lies_across(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    words = ["the", "thing", "12", "(x)", "in", "\n\n", "it's", "-", "", "Tying\n", "é"]
    texts = [" ".join(rng.choices(words, k=2000)) for _ in range(10)]
    count = tokens._qwen_counter(SMALL)
    whole = [count(text) for text in texts]
    monkeypatch.setattr(tokens, "_LONGEST_PIECE", 600)
    for text, expected in zip(texts, whole, strict=True):
        pieces = list(tokens._pieces(text))
        assert "".join(pieces) == text
        assert max(map(len, pieces)) <= 600
        assert len(pieces) > 10
        assert count(text) == expected


@pytest.mark.parametrize("unit", ["a", " ", "汉", "\u0301\u0323", "<think>"])
def test_a_million_characters_take_seconds(unit: str) -> None:
    count = tokens._qwen_counter(BYTES | {b"  ": 256, b"aa": 257})
    text = unit * (1_000_000 // len(unit))
    start = time.thread_time()
    found = count(text)
    assert time.thread_time() - start < 6 * hostile.slowness()
    assert found >= len(text) // len("<think>")


def test_a_million_characters_of_the_whole_vocabulary(by_file: Count) -> None:
    start = time.thread_time()
    assert by_file(" " * 1_000_000) == pytest.approx(1_000_000 / 128, rel=0.01)
    assert by_file("a" * 1_000_000) == pytest.approx(1_000_000 / 8, rel=0.01)
    assert time.thread_time() - start < 6 * hostile.slowness()


# --- other tokenizers ----------------------------------------------------------------------


def test_folder_and_file_of_a_tokenizer(characters: Path) -> None:
    for name in (characters, str(characters), characters / "tokenizer.json"):
        count = counter(name)
        assert count("abcdefgh") == 8  # not cut at four
        assert count("<think>ab</think>") == 4
        assert count("<Plan_1>") == 8
        assert count("\ud800") == 1
        assert count("") == 0


def test_shipped_tokenizer() -> None:
    assert counter("countdown-base")("Numbers: 2 3\n") == counter(models.path("countdown-base"))("Numbers: 2 3\n") > 3


def test_a_text_with_unknown_words_is_not_counted(characters: Path) -> None:
    with pytest.raises(TokenizerError, match=r"does not know 'é' and cannot count this text"):
        counter(characters)("café")
    with pytest.raises(TokenizerError, match=r"countdown-base does not know 'Wait.* such as Qwen/Qwen2\.5-7B"):
        counter("countdown-base")("Wait, let me check this.")
    assert counter("countdown-base")("<prompt_99.") == counter("countdown-base")("<prompt_1.") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none-such", "no shipped model 'none-such' .* or a .tiktoken file"),
        ("nobody/no-such-tokenizer", "nobody/no-such-tokenizer: neither a folder here nor had from the hub"),
        ("../no/such/folder", "no shipped model"),
        ("", "not a tokenizer"),
    ],
)
def test_unknown_tokenizers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError, match=said):
        counter(name)


def test_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer"):
        counter(tmp_path)
