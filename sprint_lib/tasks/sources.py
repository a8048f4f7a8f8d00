"""The problems of a published data set: from a file on this machine, or from the hub by a pinned revision."""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprint_lib.tasks import Problem

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a task's problems come from.

    `variable` names the environment variable that may hold the path of a file (.jsonl or .csv); without one the data
    set `dataset` is taken from the hub. `columns` must be there in each row. `note` says what else a user must do.
    """

    task: str
    variable: str
    dataset: str
    config: str | None
    split: str
    revision: str
    columns: tuple[str, ...]
    note: str = ""

    def problems(self, make: Callable[[Row], Problem], path: Path | str | None = None) -> list[Problem]:
        """All rows, each made into a problem, from `path`, the file that the environment names, or the hub.

        What `make` reads of a row is text or a number, and not empty.

        Raises:
            FileNotFoundError: if there is no such file, or the data set cannot be had; the message says what to do.
            ValueError: if a row cannot be read, lacks a column, or `make` refuses it; the message has file and row.
        """
        given = path or os.environ.get(self.variable)
        found = []
        for number, row in enumerate(self._file(Path(given)) if given else self._hub(), 1):
            try:
                found.append(make(self._checked(row)))
            except ValueError as error:
                where = f"{self.task}: {given or self.dataset}, row {number}"
                raise ValueError(f"{where}: {error}; is this {self.dataset}?") from error
        return found

    def _checked(self, row: Row) -> Row:
        for column in self.columns:
            value = row.get(column)
            if value is None or not str(value).strip():
                raise ValueError(f"no {column!r}")
            if not isinstance(value, str | int | float):
                raise ValueError(f"{column!r} is neither text nor a number")
        return row

    def _file(self, path: Path) -> list[Row]:
        if not path.is_file():
            raise FileNotFoundError(f"{self.task}: {path}: no such file; {self._way_out()}")
        try:
            if path.suffix == ".csv":
                with path.open(encoding="utf-8-sig", newline="") as file:
                    return list(csv.DictReader(file))
            lines = path.read_bytes().splitlines()
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.task}: {path}: not a CSV file in UTF-8: {error}; {self._way_out()}") from error
        except OSError as error:
            raise FileNotFoundError(f"{self.task}: {path}: {error.strerror}; {self._way_out()}") from error
        return [self._decoded(path, number, line) for number, line in enumerate(lines, 1) if line]

    def _decoded(self, path: Path, number: int, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{self.task}: {path}:{number}: not a row of JSON lines; {self._way_out()}")
        return row

    def _hub(self) -> list[Row]:
        import datasets

        try:
            found = datasets.load_dataset(self.dataset, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # no network, no access, no space: a dozen types, of which none says what to do
            raise FileNotFoundError(f"{self.task}: {self.dataset}: {error}; {self._way_out()}") from error
        return list(found)

    def _way_out(self) -> str:
        return f"{self.note}set {self.variable} to a file with the data, or let the hub be reached"


def choose(task: str, problems: Sequence[Problem], n: int, *, split: str, seed: int) -> list[Problem]:
    """The first `n` of the problems in an order that the seed decides: more problems are the fewer and some more.

    Raises:
        ValueError: if the split is not "test", the only one such data has, or there are fewer than `n`.
    """
    if split != "test":
        raise ValueError(f"{task}: no split {split!r}; there is: test")
    if n > len(problems):
        raise ValueError(f"{task}: {n} problems asked for, there are {len(problems)}")
    return random.Random(f"{task} {seed}").sample(problems, len(problems))[:n]
