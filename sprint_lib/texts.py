"""Trajectories and attempts from files, for `sprint parse` and `sprint tokens`: plain text, JSON lines and record
logs are read alike. What was recorded with its calls is counted by them, any other text by its tags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprint_lib import accounting
from sprint_lib.calls import Attempt
from sprint_lib.trajectory import parse

SUFFIXES = (".txt", ".jsonl")


class TextError(ValueError):
    """A file that holds no trajectories."""


@dataclass(frozen=True)
class Item:
    """One text of a file; `record` is its id in the file ("" for a plain text file), `attempt` if one was stored."""

    file: str
    record: str
    text: str
    attempt: Attempt | None = None


def read_items(path: Path) -> Iterator[Item]:
    """All texts of a file, or of the `.txt` and `.jsonl` files of a folder, in the order of their names.

    Raises:
        TextError: if there is nothing to read at `path`, or a line of a `.jsonl` file holds no text.
    """
    files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()) if path.is_dir() else [path]
    if not files:
        raise TextError(f"{path}: no {' or '.join(SUFFIXES)} file in this folder")
    for file in files:
        try:
            content = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise TextError(f"{file}: {error.strerror}") from error
        if file.suffix == ".jsonl":
            yield from _json_lines(file, content)
        else:
            yield Item(str(file), "", content)


def _json_lines(file: Path, content: str) -> Iterator[Item]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise TextError(f"{file}:{number}: not JSON") from None
        if number == 1 and isinstance(value, dict) and "format" in value:
            continue  # the header of a record log
        yield _item(file, number, value)


def _item(file: Path, number: int, value: Any) -> Item:
    """An attempt or a text, alone or in the record of a log."""
    id_, record = str(number), value
    if isinstance(record, dict) and "record" in record:
        id_, record = str(record.get("id", number)), record["record"]
    if isinstance(record, dict) and "attempt" in record:
        record = record["attempt"]
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise TextError(f"{file}:{number}: a record without a 'text'")
    if "calls" not in record:
        return Item(str(file), id_, record["text"])
    try:
        return Item(str(file), id_, record["text"], Attempt.from_json(record))
    except (TypeError, ValueError, AttributeError) as error:
        raise TextError(f"{file}:{number}: a damaged attempt: {error}") from error


def outline(item: Item) -> dict[str, Any]:
    """What a text holds, JSON-ready: the parsed trajectory, with its place."""
    return {"file": item.file, "record": item.record, **parse(item.text).to_json()}


def costs(item: Item, count: Callable[[str], int], *, tags: bool = False) -> dict[str, Any]:
    """Tokens of a text, JSON-ready: from the recorded calls if there are any, else `accounting.tokens_of`.

    A text without a tag counts as one call.
    """
    place = {"file": item.file, "record": item.record, "recorded": item.attempt is not None}
    if item.attempt is not None:
        return {**place, **accounting.costs(item.attempt)}
    trajectory = parse(item.text)
    if trajectory.stages or trajectory.final is not None:
        return {**place, **accounting.tokens_of(trajectory, count, tags=tags)}
    whole = count(item.text)
    return {**place, "sequential": whole, "formula": whole, "serial": whole, "total": whole, "calls": 1, "stages": 0}
