"""GPQA-diamond: 198 multiple-choice questions of graduate science (Rein et al. 2023), graded by the option's label.

An out-of-distribution task of SPRINT (Table 2). The order of a question's options is drawn from the seed and its id.
"""

from __future__ import annotations

import random
from pathlib import Path

from sprint_lib.tasks import NO_ANSWER, Grade, Problem
from sprint_lib.tasks.boxed import option_label
from sprint_lib.tasks.sources import Row, Source, choose

LABELS = "ABCD"
_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
SOURCE = Source(
    task="gpqa",
    variable="SPRINT_GPQA",
    dataset="Idavidrein/gpqa",
    config="gpqa_diamond",
    split="train",  # the only one there; nobody trains on it
    revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
    columns=("Record ID", "Question", *_OPTIONS),
    note="it is gated: accept its terms on its page on the hub and log in with `hf auth login`, then run again; or ",
)


class Gpqa:
    """GPQA-diamond as a task; the problems of `path` (gpqa_diamond.csv), of SPRINT_GPQA, or of the hub (gated)."""

    name = "gpqa"

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = path

    def load(self, n: int, *, split: str, seed: int) -> list[Problem]:
        """Return `n` problems, the same for the same seed; the answer is a label, `meta` holds the options in order.

        Raises:
            FileNotFoundError, ValueError: see `Source.problems` and `choose`.
        """
        problems = SOURCE.problems(lambda row: _problem(row, seed), self.path)
        return choose(self.name, problems, n, split=split, seed=seed)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade the label that a final text chooses. Never raises on any string."""
        label = option_label(text, LABELS)
        if label is None:
            return Grade(False, "", NO_ANSWER)
        return Grade(label == problem.answer, label, "" if label == problem.answer else "another option")


def _problem(row: Row, seed: int) -> Problem:
    order = random.Random(f"gpqa {seed} {row['Record ID']}").sample(range(len(LABELS)), len(LABELS))
    options = [str(row[_OPTIONS[place]]).strip() for place in order]
    lines = [f"{label}) {option}" for label, option in zip(LABELS, options, strict=True)]
    question = "\n".join([str(row["Question"]).strip(), "", *lines])
    return Problem(str(row["Record ID"]), f"{question}\n", LABELS[order.index(0)], {"options": options})
