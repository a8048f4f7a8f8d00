"""Trajectories and attempts from files, for `sprint parse` and `sprint tokens`: plain text, JSON lines and record
logs are read alike. What was recorded with its calls is counted by them, any other text by its tags. A file or line
that cannot be read, or holds no text, is an item with a defect and does not keep the others from being read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sprint_lib import accounting
from sprint_lib.calls import Attempt
from sprint_lib.tokens import UnknownWords, encodable
from sprint_lib.trajectory import Defect, parse

SUFFIXES = (".txt", ".jsonl")
LONGEST_FILE = 2**28  # bytes; a folder of texts may hold anything

FILE_DEFECTS: dict[str, str] = {
    "unreadable": "a file that cannot be read, or a folder that cannot be looked into",
    "empty": "a file without any text",
    "not_text": "bytes that are no UTF-8 text, read as replacement characters, or zero bytes",
    "damaged_record": "lines of JSON that hold no text or attempt, as a kill in the middle of writing leaves one",
    "damaged_calls": "an attempt whose calls cannot be counted",
}
_COUNTS = ("sequential", "formula", "serial", "total", "calls", "stages")


class TextError(ValueError):
    """A file that cannot be read, or a folder without any."""


@dataclass(frozen=True)
class Item:
    """One text of a file; `record` is its id in the file ("" for a plain text file), `attempt` if one was stored.

    `defects` are those of `FILE_DEFECTS`; `text` is None where there was nothing to read.
    """

    file: str
    record: str
    text: str | None
    attempt: Attempt | None = None
    defects: tuple[Defect, ...] = ()


def read_items(path: Path) -> Iterator[Item]:
    """All texts of a file, or of the `.txt` and `.jsonl` files of a folder, in the order of their names.

    Raises:
        TextError: if a file given by its own name cannot be read, or if a folder has no such file.
    """
    if not path.is_dir():
        yield from _read(path, alone=True)
        return
    files = _files(path)
    if not files:
        raise TextError(f"{path}: no {' or '.join(SUFFIXES)} file in this folder")
    for file in files:
        yield from _read(file, alone=False)


def _files(folder: Path) -> list[Path]:
    """The files to read below a folder, and the folders that cannot be looked into."""
    closed: list[Path] = []
    walk = os.walk(folder, onerror=lambda error: closed.append(Path(error.filename)))
    files = [Path(parent, name) for parent, _, names in walk for name in names if Path(name).suffix in SUFFIXES]
    return sorted(files + closed)


def _read(file: Path, *, alone: bool) -> Iterator[Item]:
    """The items of a file; that it cannot be read is raised if it stands alone, else said in an item."""
    name = encodable(str(file))
    try:
        if not alone and not file.is_file():
            raise OSError(0, "no file that can be read")  # opening a pipe would wait for a writer
        with file.open("rb") as opened:
            data = opened.read(LONGEST_FILE + 1)
        if len(data) > LONGEST_FILE:
            raise OSError(0, f"longer than {LONGEST_FILE:,} bytes")
    except OSError as error:
        if alone:
            raise TextError(f"{file}: {error.strerror}") from error
        yield _broken(name, "", "unreadable", str(error.strerror))
        return
    text, defects = _decoded(data)
    if not text.strip():
        yield _broken(name, "", "empty", "no text")
    elif file.suffix == ".jsonl":
        yield from _json_lines(name, text, defects)
    else:
        yield Item(name, "", text, defects=defects)


def _broken(file: str, record: str, kind: str, note: str) -> Item:
    return Item(file, record, None, defects=(Defect(kind, 0, note),))


def _decoded(data: bytes) -> tuple[str, tuple[Defect, ...]]:
    """Text of a file with its line ends as \\n, and where the first thing stands that is no text."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    bad = text.find("\0")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        bad = min(place for place in (bad, text.find("\ufffd")) if place >= 0)
    if bad < 0:
        return text, ()
    count = text.count("\0") + text.count("\ufffd")
    return text, (Defect("not_text", bad, f"{count} such characters"),)


def _json_lines(file: str, content: str, defects: tuple[Defect, ...]) -> Iterator[Item]:
    damaged: list[tuple[int, str]] = []
    read = 0
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _decode(line)
            if number == 1 and isinstance(value, dict) and "format" in value:
                continue  # the header of a record log
            yield _item(file, number, value, defects)
            read += 1
        except ValueError as error:
            damaged.append((number, str(error)))
    if damaged:  # one item for all of them: a file that is no JSON at all may have a million lines
        number, note = damaged[0]
        more = f"; {len(damaged):,} such lines" if len(damaged) > 1 else ""
        yield _broken(file, str(number), "damaged_record", note + more)
    elif not read:
        yield _broken(file, "", "empty", "no record")


def _decode(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def _item(file: str, number: int, value: Any, defects: tuple[Defect, ...]) -> Item:
    """An attempt or a text, alone or in the record of a log; ValueError if it is neither."""
    id_, record = str(number), value
    if isinstance(record, dict) and "record" in record:
        id_, record = encodable(str(record.get("id", number))), record["record"]
    if isinstance(record, dict) and "attempt" in record:
        record = record["attempt"]
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError("a record without a 'text'")
    text = encodable(record["text"])
    if "calls" not in record:
        return Item(file, id_, text, defects=defects)
    try:
        return Item(file, id_, text, Attempt.from_json(record), defects)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a damaged attempt: {error}") from error


def outline(item: Item) -> dict[str, Any]:
    """What a text holds, JSON-ready: the parsed trajectory, with its place; defects of the file come first.

    Where there was nothing to read, the question is None.
    """
    found = parse(item.text or "").to_json()
    if item.text is None:
        found.update(question=None, defects=[])  # that nothing has no final answer goes without saying
    found["defects"] = [asdict(defect) for defect in item.defects] + found["defects"]
    return {"file": item.file, "record": item.record, **found}


def costs(item: Item, count: accounting.Count, *, tags: bool = False) -> dict[str, Any]:
    """Tokens of a text, JSON-ready: from the recorded calls if there are any, else `accounting.tokens_of`.

    A text without a tag counts as one call. `defects` are those of the file; counts are None where nothing could
    be counted, because nothing is there or the tokenizer is not one of such texts.
    """
    defects = list(item.defects)
    counts: dict[str, Any] = dict.fromkeys(_COUNTS)
    if item.attempt is not None:
        try:
            counts = accounting.costs(item.attempt)
        except (ValueError, TypeError, OverflowError) as error:
            defects.append(Defect("damaged_calls", 0, str(error)))
    elif item.text is not None:
        try:
            counts = _counted(item.text, count, tags)
        except UnknownWords as error:
            defects.append(Defect("not_counted", 0, str(error)))
    place = {"file": item.file, "record": item.record, "recorded": item.attempt is not None}
    return {**place, **counts, "defects": [asdict(defect) for defect in defects]}


def _counted(text: str, count: accounting.Count, tags: bool) -> dict[str, Any]:
    trajectory = parse(text)
    if trajectory.stages or trajectory.final is not None:
        return dict(accounting.tokens_of(trajectory, count, tags=tags))
    whole = count(text)
    return {"sequential": whole, "formula": whole, "serial": whole, "total": whole, "calls": 1, "stages": 0}
