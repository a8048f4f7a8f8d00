"""Where things lie on disk and how they get there: whole files appear by renaming, long work is appended
record by record and survives a kill at any moment, hashes say what is up to date, and `provenance` says what
made it. Every notebook writes through this module, into the folders of one `Workspace`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

OUTPUTS_VARIABLE = "SPRINT_OUTPUTS"
_FORMAT = "sprint-log-1"
_MODEL_FILES = (
    *("*.safetensors", "pytorch_model*.bin", "*config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.jinja"),
)
_PACKAGES = (
    *("torch", "transformers", "trl", "datasets", "numpy", "papermill", "networkx", "matplotlib", "pandas"),
    *("tokenizers", "tiktoken", "math-verify", "sympy", "antlr4-python3-runtime"),
)

Record = dict[str, Any]


# --- whole files ----------------------------------------------------------------------


def write_bytes(path: Path | str, data: bytes) -> Path:
    """Write a file under a temporary name and rename it: a reader sees the old or the new, never a half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path | str, text: str) -> Path:
    """`write_bytes` of UTF-8 text. Lone surrogates, which model text may hold, become question marks."""
    return write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON that every program can read, keys in the order given.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have (write None instead).
    """
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; JSON has no NaN or infinity, write None instead") from error
    return write_text(path, text + "\n")


# --- hashes ---------------------------------------------------------------------------


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form: the same for equal values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: Path | str) -> str:
    """SHA-256 of a file, or of a folder by the names and contents of its files.

    Hidden files (locks, temporary files) and `__pycache__` do not count.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
    """
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = (p for p in path.rglob("*") if p.is_file() and not _ignored(p.relative_to(path)))
    return hash_json({p.relative_to(path).as_posix(): hash_path(p) for p in files})


def hash_model(folder: Path | str) -> str:
    """SHA-256 of what decides a model's output in a folder: weights, configuration and tokenizer.

    Its card and its training record do not count: a word in them must not train or run anything again.

    Raises:
        FileNotFoundError: if there is no config.json in `folder`.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model here (no config.json)")
    files = {path.name: path for pattern in _MODEL_FILES for path in folder.glob(pattern)}
    return hash_json({name: hash_path(path) for name, path in files.items() if not name.startswith(".")})


def _ignored(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


# --- record logs ----------------------------------------------------------------------


class LogError(RuntimeError):
    """A record log that cannot be read or written as asked."""


class RecordLog:
    """An append-only file of JSON records, one a line, unique by id, that a kill at any moment leaves usable.

    The first line holds the `key`: what the records depend on. A log found under another key is set aside
    (`.aside/name.<hash of its key>.jsonl`) and comes back when that key does, so nothing computed is lost.
    A last line without its newline was cut by a kill: it was never reported as written and is dropped. Records
    lie in the order in which they were appended. One process writes at a time (a lock that dies with it).

    Raises:
        LogError: if another process keeps writing for `wait` seconds, or a line inside the log is damaged.
    """

    def __init__(self, path: Path | str, key: Any, *, wait: float = 10.0) -> None:
        self.path = Path(path)
        self.key = json.loads(json.dumps(key))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self.path, wait)
        try:
            self._swap_in()
            self._records, self._end = self._load()
        except BaseException:
            os.close(self._lock)
            raise
        self._file = os.open(self.path, os.O_WRONLY)

    @property
    def records(self) -> Mapping[str, Record]:
        """All records by id, in the order of the file."""
        return self._records

    def __contains__(self, id_: str) -> bool:
        return id_ in self._records

    def __len__(self) -> int:
        return len(self._records)

    def append(self, id_: str, record: Record) -> None:
        """Add one record; on return it is on the disk."""
        self.extend([(id_, record)])

    def extend(self, records: Iterable[tuple[str, Record]]) -> None:
        """Add records with one write and one sync.

        Raises:
            ValueError: if an id is there already; nothing is written then.
        """
        new: dict[str, Record] = {}
        for id_, record in records:
            if id_ in self._records or id_ in new:
                raise ValueError(f"{self.path}: there is a record {id_!r} already")
            new[id_] = record
        data = b"".join(_line({"id": id_, "record": record}) for id_, record in new.items())
        try:
            _write_all(self._file, data, self._end)
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, self._end)  # a full disk must not leave a torn line inside the log
            raise
        self._end += len(data)
        self._records.update(new)

    def discard(self, ids: Iterable[str]) -> None:
        """Take records out, by writing the log anew and renaming it."""
        gone = set(ids) & set(self._records)
        if not gone:
            return
        kept = {id_: record for id_, record in self._records.items() if id_ not in gone}
        lines = [_header(self.key), *(_line({"id": id_, "record": record}) for id_, record in kept.items())]
        write_bytes(self.path, b"".join(lines))
        os.close(self._file)
        self._file = os.open(self.path, os.O_WRONLY)
        self._records, self._end = kept, sum(map(len, lines))

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._file)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _swap_in(self) -> None:
        """Make `self.path` the log of `self.key`: set another one aside, bring this one back."""
        found = log_key(self.path)
        if found is not None and found[0] == self.key:
            return
        if found is not None:
            self._aside(found[0]).parent.mkdir(exist_ok=True)
            self.path.replace(self._aside(found[0]))
        if self._aside(self.key).exists():
            self._aside(self.key).replace(self.path)
        else:
            write_bytes(self.path, _header(self.key))

    def _aside(self, key: Any) -> Path:
        return self.path.parent / ".aside" / f"{self.path.stem}.{hash_json(key)[:12]}{self.path.suffix}"

    def _load(self) -> tuple[dict[str, Record], int]:
        """Records by id and the length of the sound part; what follows it is cut off."""
        sound = _sound_part(self.path)
        if len(sound) < self.path.stat().st_size:
            os.truncate(self.path, len(sound))
        return _parse(self.path, sound), len(sound)


def read_log(path: Path | str) -> dict[str, Record]:
    """The finished records of a log by id, without locking it; also while another process writes.

    Raises:
        FileNotFoundError: if there is no such log.
        LogError: if a line inside it is damaged.
    """
    return _parse(Path(path), _sound_part(Path(path)))


def log_key(path: Path | str) -> tuple[Any] | None:
    """The key of the log at `path`, in a tuple of one; None if there is no log or only its torn first line.

    Raises:
        LogError: if the file is no record log.
    """
    path = Path(path)
    if not path.exists():
        return None
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    header = _decode(path, 1, line)
    if header.get("format") != _FORMAT:
        raise LogError(f"{path}: not a record log; move the file away and run again")
    return (header.get("key"),)


def _header(key: Any) -> bytes:
    return _line({"format": _FORMAT, "key": key})


def _line(value: Record) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _sound_part(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def _parse(path: Path, data: bytes) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for number, line in enumerate(data.splitlines()[1:], start=2):
        entry = _decode(path, number, line)
        if not isinstance(entry.get("id"), str) or not isinstance(entry.get("record"), dict):
            raise LogError(f"{path}:{number}: not a record; delete that line and run again")
        if entry["id"] in records:
            raise LogError(f"{path}:{number}: a second record {entry['id']!r}; delete that line and run again")
        records[entry["id"]] = entry["record"]
    return records


def _decode(path: Path, number: int, line: bytes) -> Record:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LogError(f"{path}:{number}: damaged line; delete it and run again, what it held is computed anew")
    return value


def _take_lock(path: Path, wait: float) -> int:
    """Lock `path` through a file beside it, which stays: the log itself may be renamed."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise LogError(f"{path}: another process is writing this log; wait for it or stop it") from None
            time.sleep(0.05)


def _write_all(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written


# --- the workspace --------------------------------------------------------------------


def repository_root(start: Path | None = None) -> Path:
    """The folder with `params/` and `notebooks/` that holds `start` (by default the working directory).

    Raises:
        FileNotFoundError: if there is none; the message names the way out.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise FileNotFoundError(
        f"{start}: not inside the repository (no params/ and notebooks/ here or above); "
        f"change into it, or set {OUTPUTS_VARIABLE} to the folder that shall hold the outputs"
    )


@dataclass(frozen=True)
class Workspace:
    """The output folders of one profile: `outputs/<profile>/` of the repository, or under `SPRINT_OUTPUTS`."""

    profile: str
    outputs: Path | None = None

    def __post_init__(self) -> None:
        if not self.profile or self.profile.startswith(".") or set(self.profile) & set("/\\"):
            raise ValueError(f"profile {self.profile!r}: a plain name is needed, such as 'laptop'")

    @cached_property
    def root(self) -> Path:
        given = self.outputs or os.environ.get(OUTPUTS_VARIABLE)
        return (Path(given).resolve() if given else repository_root() / "outputs") / self.profile

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def claims(self) -> Path:
        return self.root / "claims.json"

    def attempts(self, name: str) -> Path:
        """The record log of the run called `name`."""
        return self.data / "attempts" / f"{name}.jsonl"


# --- provenance -----------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """What a result was made with: versions, state of the code, machine. JSON-ready, quick, never raises."""
    return {
        "python": platform.python_version(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name))},
        "git": _git_state(Path(__file__).parent),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "gpus": _gpus(),
        "threads": _threads(),
    }


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout and whether tracked files differ from it; None outside a checkout."""
    commit = output(["git", "rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(output(["git", "status", "--porcelain", "-uno"], folder))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    return (output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "").splitlines()


def _threads() -> int | None:
    """Threads of torch in this process, if it is loaded; importing it for this alone would take seconds."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else None


def output(command: Sequence[str], folder: Path | None = None) -> str | None:
    """What a program prints, stripped; None if it is not there, fails or takes longer than 20 seconds."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
