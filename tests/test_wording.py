"""Numbers and advice as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from sprint_lib.wording import kind_of, readable, unknown


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""),
        (float("nan"), ""),
        (True, "yes"),
        (12345, "12,345"),
        (1234.5, "1,234"),
        (999.96, "1,000"),
        (-999.96, "-1,000"),
        (999.94, "999.9"),
        (10.04, "10.0"),
        (9.996, "10.0"),
        (9.994, "9.99"),
        (0.01234, "0.0123"),
        ("word", "word"),
    ],
)
def test_numbers_are_short_and_rounded_before_they_are_laid_out(value: Any, said: str) -> None:
    assert readable(value) == said


def test_an_unknown_word_gets_its_neighbour_or_all_there_are() -> None:
    assert unknown(["seed"], ["seed", "width"]) == ""
    assert unknown(["sed"], ["seed", "width"]) == "unknown key 'sed' (did you mean 'seed'?)"
    assert unknown(["zzz"], ["seed", "width"], "field") == "unknown field 'zzz' (there are: seed, width)"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("step 4: folded, 2 lines", "folded"),
        ("line 5 was in 2 places; step 1, the first, keeps it", "line … was in … places"),
        (
            "part from line 401, counted from there: step 3: 'a: 5' is no range of lines; left out",
            "… is no range of lines",
        ),
        ("traces.jsonl, row 7: not JSON", "not JSON"),
        ("no reply: server: down (3 attempts)", "no reply"),
        ("fewer than 1.5 steps a stage", "fewer than 1.5 steps a stage"),
        ("step 2: lines [4, 5] moved to the plan", "lines … moved to the plan"),
        ("it doesn't end: cut", "it doesn't end"),
        ("12: ", "…"),
        ("", ""),
        ("x" * 10_000, "x" * 100),
    ],
)
def test_reasons_of_one_kind_count_as_one(said: str, kind: str) -> None:
    assert kind_of(said) == kind
