"""The same texts under every grader: how much of an accuracy, and of a difference, is a matter of grading.

`grade` gives a `Matrix` of graders x systems x problems; its frames say how accurate each system is by each grader,
with the unanswered problems in the denominator and without, whether two systems differ (McNemar), on which problems,
and on which texts two graders differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sprint_lib.evaluation import statistics
from sprint_lib.evaluation.statistics import NONE, Estimate
from sprint_lib.tables import bounded
from sprint_lib.tasks import NO_ANSWER, Grade, Problem, check_unique
from sprint_lib.tasks.graders import GRADERS, UNDECIDED, get_grader

DENOMINATORS = ("all", "answered")  # whether a problem without an answer counts as wrong or not at all


@dataclass(frozen=True)
class Matrix:
    """Grades by grader, system and problem id; `references` by problem id."""

    references: Mapping[str, str]
    grades: Mapping[str, Mapping[str, Mapping[str, Grade]]]

    def accuracy(self) -> pd.DataFrame:
        """One row a grader, system and denominator: n, accuracy in percent with Wilson's bounds, what was not graded.

        `unanswered` are texts in which the grader found no answer, `undecided` those on which it gave up; these count
        as wrong in both denominators.
        """
        rows = []
        for grader, systems in self.grades.items():
            for system, graded in systems.items():
                reasons = [grade.reason for grade in graded.values()]
                rows += [
                    {
                        "grader": grader,
                        "system": system,
                        "denominator": denominator,
                        **bounded("accuracy", _share(_counted(graded.values(), denominator)).scaled(100)),
                        "n": len(_counted(graded.values(), denominator)),
                        "unanswered": reasons.count(NO_ANSWER),
                        "undecided": reasons.count(UNDECIDED),
                    }
                    for denominator in DENOMINATORS
                ]
        return pd.DataFrame(rows)

    def comparison(self, base: str, other: str) -> pd.DataFrame:
        """One row a grader and denominator: `other` against `base` on the problems that both have.

        Difference of accuracy in points (Newcombe's bounds), who alone is right how often, and McNemar's exact p. With
        the denominator "answered" a problem counts that both answered.
        """
        rows = []
        for grader in self.grades:
            for denominator in DENOMINATORS:
                pairs = [
                    (first.correct, second.correct)
                    for _, first, second in self._pairs(grader, base, other)
                    if denominator == "all" or NO_ANSWER not in (first.reason, second.reason)
                ]
                rows.append({"grader": grader, "denominator": denominator, **_compared(pairs)})
        return pd.DataFrame(rows)

    def discordant(self, grader: str, base: str, other: str) -> pd.DataFrame:
        """One row a problem that only one of two systems solved by a grader: the reference and both answers."""
        return pd.DataFrame(
            [
                {"problem": id_, "reference": self.references[id_], "right": base if first.correct else other}
                | {base: first.answer, other: second.answer}
                for id_, first, second in self._pairs(grader, base, other)
                if first.correct != second.correct
            ],
            columns=["problem", "reference", "right", base, other],
        )

    def disputed(self, first: str, second: str) -> pd.DataFrame:
        """One row a text that only one of two graders takes as right: the reference and the answer that each found."""
        rows = [
            {
                "system": system,
                "problem": id_,
                "reference": self.references[id_],
                "right_by": first if one.correct else second,
            }
            | {first: one.answer, second: two.answer}
            for system, graded in self.grades[first].items()
            for id_, one in graded.items()
            if one.correct != (two := self.grades[second][system][id_]).correct
        ]
        return pd.DataFrame(rows, columns=["system", "problem", "reference", "right_by", first, second])

    def _pairs(self, grader: str, base: str, other: str) -> list[tuple[str, Grade, Grade]]:
        one, two = self.grades[grader][base], self.grades[grader][other]
        return [(id_, grade, two[id_]) for id_, grade in one.items() if id_ in two]


def grade(
    problems: Sequence[Problem], systems: Mapping[str, Mapping[str, str]], graders: Sequence[str] = tuple(GRADERS)
) -> Matrix:
    """Grade texts by problem id of several systems; a system need not have every problem.

    Raises:
        ValueError: if two problems have one id, or a text has a problem's id that is not there.
        KeyError: if there is no such grader.
        SymbolicError: if a grader's packages are missing.
    """
    check_unique(problems)
    references = {problem.id: problem.answer for problem in problems}
    for name, texts in systems.items():
        if odd := set(texts) - set(references):
            raise ValueError(f"{name}: {len(odd)} texts of problems that are not there, such as {min(odd)!r}")
    grades = {
        grader: {
            name: {id_: judge(reference, texts[id_]) for id_, reference in references.items() if id_ in texts}
            for name, texts in systems.items()
        }
        for grader, judge in {name: get_grader(name) for name in graders}.items()
    }
    return Matrix(references, grades)


def nearest(accuracy: pd.DataFrame, reported: Mapping[str, float], texts: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Which graders, denominators and texts come closest to reported accuracies; several rows where equally close.

    Columns: those of `accuracy` (`system` names the texts), and before them `reported_as` (the system that was
    reported), `paper` (percent), and `possible`: the accuracies next to it that can come about if every problem counts.

    Args:
        accuracy: the frame of `Matrix.accuracy`.
        reported: accuracies in percent by system.
        texts: by reported system the systems of `accuracy` whose texts may have been graded for it.
    """
    found = []
    for name, paper in reported.items():
        part = accuracy[accuracy["system"].isin(texts[name])]
        off = (part["accuracy"] - paper).abs()
        best = part[off <= off.min() + 1e-9].reset_index(drop=True)
        possible = _possible(paper, int(part.loc[part["denominator"] == "all", "n"].max()))
        best.insert(0, "possible", " or ".join(f"{share:.1f}" for share in possible))
        best.insert(0, "paper", paper)
        best.insert(0, "reported_as", name)
        found.append(best)
    return pd.concat(found, ignore_index=True)


def _possible(percent: float, n: int) -> list[float]:
    """The shares of n, in percent, that are next to this one; only this one if it is a share of n."""
    hits = round(percent * n / 100, 6)
    return sorted({100 * k / n for k in (math.floor(hits), math.ceil(hits))})


def _counted(grades: Iterable[Grade], denominator: str) -> list[bool]:
    return [grade.correct for grade in grades if denominator == "all" or grade.reason != NO_ANSWER]


def _share(outcomes: Sequence[bool]) -> Estimate:
    return statistics.proportion(outcomes) if outcomes else NONE


def _compared(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    test = statistics.mcnemar(first, second)
    difference = statistics.accuracy_difference(first, second).scaled(100) if pairs else NONE
    return {
        **bounded("difference", difference),
        "n": len(pairs),
        "only_base": test.only_base,
        "only_other": test.only_other,
        "p": test.p,
    }
