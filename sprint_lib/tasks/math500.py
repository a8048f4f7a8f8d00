"""MATH-500: 500 competition problems with a short answer each (Hendrycks et al. 2021; Lightman et al. 2023).

The in-distribution task of SPRINT (Table 2, Figures 4 to 6). Answers are LaTeX; `graders` compares them.
"""

from __future__ import annotations

import re
from pathlib import Path

from sprint_lib.tasks import Grade, Problem
from sprint_lib.tasks.graders import DEFAULT, GRADERS
from sprint_lib.tasks.sources import Row, Source, choose

SOURCE = Source(
    task="math500",
    variable="SPRINT_MATH500",
    dataset="HuggingFaceH4/MATH-500",
    config=None,
    split="test",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    columns=("unique_id", "problem", "answer", "subject", "level"),
)
_LEVEL = re.compile(r"(?:Level )?([1-5])")  # the original data say `Level 5`


class Math500:
    """MATH-500 as a task; the problems of `path` (JSON lines as on the hub), of SPRINT_MATH500, or of the hub."""

    name = "math500"
    difficulty_of = "level {}"

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = path

    def load(self, n: int, *, split: str, seed: int) -> list[Problem]:
        """Return `n` problems, the same for the same seed; `meta` holds `level` (1 to 5) and `subject`.

        Raises:
            FileNotFoundError, ValueError: see `Source.problems` and `choose`.
        """
        return choose(self.name, SOURCE.problems(_problem, self.path), n, split=split, seed=seed)

    def difficulty(self, problem: Problem) -> float:
        """The level that the data set gives, 1 to 5 (Figure 5)."""
        return float(problem.meta["level"])

    def all_questions(self) -> list[str]:
        """Every question, for keeping them out of training."""
        return [problem.question for problem in SOURCE.problems(_problem, self.path)]

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade the last boxes of a final text by math-verify. Never raises on any string."""
        return GRADERS[DEFAULT](problem.answer, text)


def _problem(row: Row) -> Problem:
    level = _LEVEL.fullmatch(str(row["level"]).strip())
    if level is None:
        raise ValueError(f"level {str(row['level'])[:60]!r} is none of 1 to 5")
    texts = {column: str(row[column]) for column in ("unique_id", "problem", "answer", "subject")}
    meta = {"level": int(level[1]), "subject": texts["subject"]}
    return Problem(texts["unique_id"], f"{texts['problem'].strip()}\n", texts["answer"], meta)
