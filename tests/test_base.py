"""Training of the base model: its data, that it learns, and that a run that was cut goes on."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sprint_lib import cli, models
from sprint_lib.tasks import countdown, longhand
from sprint_lib.training.base import BaseConfig, _positions, _update, build_model, build_tokenizer, train_base
from sprint_lib.training.languages import (
    LANGUAGES,
    CountdownBase,
    CountdownChains,
    CountdownDeep,
    CountdownNear,
    LonghandBase,
    LonghandMany,
    LonghandSums,
    LonghandWhole,
    get_language,
)

TINY = CountdownBase(
    hidden=32,
    layers=1,
    heads=2,
    kv_heads=1,
    ffn=64,
    shares=(1.0, 0.0, 0.0),
    tokens=120_000,
    batch_tokens=512,
    threads=1,
)


SHIPPED = {
    "countdown-base": [CountdownBase],
    "countdown-deep": [CountdownNear, CountdownChains, CountdownDeep],
    "longhand-base": [LonghandMany, LonghandWhole, LonghandSums, LonghandBase],
}


class Cut(Exception):
    """What ends a run at a moment of the test's choice."""


def test_examples_are_of_the_train_split_in_the_shares_asked_for() -> None:
    rng = random.Random(0)
    config = CountdownBase(shares=(0.5, 0.3, 0.2), fixed_tries=0.5, narrow=0.5, few_hits=(1.0, 1.0))
    counts: Counter[int] = Counter()
    tries_of: Counter[int] = Counter()
    for _ in range(400):
        question, trace = config.draw(rng)
        numbers = [int(word) for word in question.splitlines()[0].split()[1:]]
        target = int(question.splitlines()[1].split()[1])
        tries: Any = next((tuple(map(int, line.split()[1:])) for line in question.splitlines()[2:]), ())
        assert countdown.split_of(numbers, target) == "train"
        assert trace == countdown.search_trace(numbers, target, tries)
        tries_of[len(tries)] += 1
        counts[len(numbers)] += 1
    assert counts[2] == pytest.approx(200, abs=50)
    assert counts[3] == pytest.approx(120, abs=45)
    assert counts[4] == pytest.approx(80, abs=40)
    assert tries_of[0] == pytest.approx(counts[2] + 0.5 * (counts[3] + counts[4]), abs=35)
    assert tries_of[2] == pytest.approx(0.25 * counts[4], abs=20)


def test_positions_jump_after_lines_and_all_that_came_before_is_still_seen() -> None:
    torch.manual_seed(0)
    end = 7
    ids = torch.randint(8, (40, 60))
    positions = _positions(ids, torch.tensor([end]), replace(TINY, jump_share=0.5, most_jump=3))
    steps = positions.diff(dim=1)
    assert (positions[:, 0] == 0).all()
    assert (steps[ids[:, :-1] != end] == 1).all()
    assert set(steps[ids[:, :-1] == end].tolist()) == {1, 2, 3, 4}

    model = build_model(TINY, build_tokenizer())
    still: Any = torch.optim.SGD(model.parameters(), lr=0.0)
    weights = torch.zeros(1, 20)
    weights[0, -1] = 1.0
    losses = []
    for first in (10, 20):  # with the same jumps, what came before them is still seen
        ids = torch.full((1, 20), end)
        ids[0, 0] = first
        torch.manual_seed(1)
        far = _positions(ids, torch.tensor([end]), replace(TINY, jump_share=1.0))
        assert (far.diff(dim=1) > 1).any()
        losses.append(_update(model, still, ids, weights, far))
    assert losses[0] != losses[1]


def test_a_cut_run_goes_on_and_learns(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows: list[dict[str, Any]] = []

    def cut(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == 200:
            raise Cut

    with pytest.raises(Cut):
        train_base(tmp_path, TINY, cut, save_minutes=0)
    with pytest.raises(ValueError, match="other settings"):
        train_base(tmp_path, replace(TINY, seed=1), cut)
    summary = train_base(tmp_path, TINY, rows.append, save_minutes=0)
    assert [row["step"] for row in rows[:4]] == [100, 200, 200, 300]  # it went on, and did not begin again
    assert summary["tokens"] >= TINY.tokens
    assert summary["curve"][-1]["loss"] < 0.5 * rows[0]["loss"]
    assert json.loads((tmp_path / "training.json").read_text())["config"]["seed"] == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() == summary["parameters"]
    assert not (tmp_path / "training_state.pt").exists()
    assert train_base(tmp_path, replace(TINY, threads=2), cut) == summary  # finished: not repeated


@pytest.mark.parametrize(("name", "legs"), SHIPPED.items())
def test_the_shipped_models_were_trained_by_these_recipes_and_their_cards_say_so(
    name: str, legs: Sequence[type[BaseConfig]]
) -> None:
    folder = models.path(name)
    shipped = leg = json.loads((folder / "training.json").read_text())
    card = (folder / "README.md").read_text()
    for recipe in legs:
        ours = json.loads(json.dumps(asdict(recipe())))
        assert {**leg["config"], "threads": 0} == {**ours, "threads": 0}
        assert f"{leg['tokens']:,} in {leg['steps']:,} steps" in card
        leg = leg.get("start")
    assert leg is None
    assert f"{shipped['parameters'] / 1e6:.1f} million parameters" in card
    tokenizer = build_tokenizer(legs[0].WORDS)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("task", LANGUAGES)
def test_a_tokenizer_knows_every_word_of_its_language_and_of_the_format(task: str) -> None:
    config = LANGUAGES[task]()
    tokenizer = build_tokenizer(config.WORDS)
    tags = "<Plan_1>\n<prompt_12.24></prompt_12.24>\n</Plan_1>\n<Execution_12>\n<execution_1.1>\n</execution_1.1>\n"
    rng = random.Random(3)
    for question, trace in (config.draw(rng) for _ in range(30)):
        text = question + tags + trace + "<Final_answer>\n</Final_answer>\n"
        ids = tokenizer.encode(text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_countdown_weighs_chains_and_the_verdicts_before_them() -> None:
    config = CountdownBase()
    tokenizer = build_tokenizer()

    def weighed(numbers: list[int], target: int, tries: Any = ()) -> list[tuple[str, float]]:
        state = tuple(sorted(numbers))
        question = countdown.question(state, target, tries)
        words = tokenizer.convert_ids_to_tokens(
            tokenizer.encode(question + countdown.search_trace(state, target, tries))
        )
        start = len(tokenizer.encode(question))
        assert config.weigh(words, start)[:start] == [0.0] * start
        return list(zip(words, config.weigh(words, start), strict=True))[start:]

    near = weighed([3, 4], 12)
    assert [weight for word, weight in near if word == " yes\n"] == [config.hit_weight]
    assert [weight for word, weight in near if word in ("Solved", "Answer")] == [config.chain_weight] * 2
    assert near[0] == ("Left", 1.0)
    far = dict(weighed([2, 3, 4], 24, (3,)))
    assert far["Answer"] == config.answer_weight


def test_later_legs_have_more_of_what_goes_wrong_most() -> None:
    def counts(config: BaseConfig) -> tuple[int, int, int]:
        """Of 300 traces: chains that end in a subtraction or division, near their larger number, after others."""
        rng, larger_first, near, further = random.Random(0), 0, 0, 0
        for _ in range(300):
            chains = re.findall(r"Solved (?:.*; )?(\d+) ([-+*/]) (\d+) = \d+$", config.draw(rng)[1], re.MULTILINE)
            larger_first += sum(sign in "-/" for _, sign, _ in chains)
            near += sum(sign in "+-" and min(int(a), int(b)) <= 6 for a, sign, b in chains)
            further += max(0, len(chains) - 1)
        return larger_first, near, further

    first, second, third = map(counts, (CountdownDeep(), CountdownChains(), CountdownNear()))
    assert second[0] > 2 * first[0]
    assert third[1] > 2 * first[1]
    assert third[2] > 2 * first[2]


def test_longhand_examples_are_of_the_train_split_with_any_labels() -> None:
    rng = random.Random(0)
    config = LonghandBase()
    firsts: Counter[str] = Counter()
    for _ in range(200):
        question, trace = config.draw(rng)
        lines = question.splitlines()[1:]
        labels = "".join(line[0] for line in lines)
        factors = [[sum(map(int, places.split())) for places in line[1:].split("*")] for line in lines]
        terms = [(a, b) for a, b in factors]
        assert {longhand.split_of(term) for term in terms} == {"train"}
        assert trace == longhand.trace(terms, labels)
        assert labels == "".join(sorted(labels))
        firsts[labels[0]] += 1
    assert len(firsts) >= 6


def test_given_results_are_added_as_in_whole_problems() -> None:
    rng = random.Random(0)
    config = LonghandSums(sums=1.0)
    for question, trace in (config.draw(rng) for _ in range(50)):
        assert {line.split()[0] for line in question.splitlines()} == {"Result"}
        labels = [line.split()[1] for line in question.splitlines()]
        results = {line.split()[1]: sum(map(int, line.split()[2:])) for line in question.splitlines()}
        assert [line.split()[1] for line in trace.splitlines() if line.startswith("Add")] == labels
        assert trace.endswith(f"Answer: {sum(results.values())}\n")
    assert LonghandSums(sums=0.0).draw(random.Random(1))[0].startswith(longhand.HEADER)


def test_a_model_goes_on_from_a_finished_one(tmp_path: Path) -> None:
    tiny = replace(TINY, tokens=1_000)
    first = train_base(tmp_path / "first", tiny)
    second = train_base(tmp_path / "second", replace(tiny, lr=0.0, embedding_lr=0.0), start=tmp_path / "first")
    assert second["start"] == first
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "second")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_longhand_weighs_what_looks_far_back() -> None:
    config = LonghandBase()
    words = [
        "A",
        " 2",
        "\n",
        "Work ",
        "A",
        "\n",
        " 2",
        " =",
        "\n",
        "Result ",
        "A",
        "\n",
        "Sum",
        "\n",
        "Add ",
        "A",
        "\n",
    ]
    head, total = config.head_weight, config.sum_weight
    assert config.weigh(words, 3) == [0.0] * 3 + [head] * 3 + [1.0] * 3 + [head] * 3 + [total] * 5


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown language 'longhnd' \(did you mean 'longhand'\?\)"):
        get_language("longhnd")


def test_the_command_refuses_what_it_cannot_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["train", "base", "--task", "longhnd", "--out", out]) == 2
    assert "did you mean 'longhand'?" in capsys.readouterr().err
    assert cli.main(["train", "base", "--task", "longhand-sums", "--start", str(tmp_path), "--out", out]) == 2
    assert f"{tmp_path}: no finished base model here" in capsys.readouterr().err
