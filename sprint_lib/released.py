"""The outputs that the authors of SPRINT released (arXiv 2506.05745), read from a copy on this machine: SPRINT and RFT
runs on MATH-500, and curation examples. `fetch` makes the copy, and `find` takes one only if its hashes are the known
ones; none of it comes with this project.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

from sprint_lib import store
from sprint_lib.tasks import Problem

VARIABLE = "SPRINT_RELEASED_DIR"

_SPRINT = "logs_full_trajectory/SPRINT/MATH-500_default/planner_trajectory_*.txt"
_RFT = "logs_base_model/RFT/MATH500/base_model_output.csv"
_CONTROL = "logs_base_model/base_model_output_RFT/MATH-500_default/base_model_trajectory_*.txt"
_PROBLEMS = "math500_test.jsonl"
_TRACES = "Orig-R1-Thoughts-correct_math"
_SEPARATION = f"logs/component_separation_output_gpt-4o/{_TRACES}/component_separation_[0-5].txt"
_INLINE = f"logs/component_inline_gpt-4o/{_TRACES}/component_inline_[0-5].txt"
_PARENTS = f"logs/created_dags_gpt-4o/{_TRACES}/created_dag_[0-5].json"
_TRAJECTORY = f"logs/trajectory_data/{_TRACES}/trajectory_data_[0-5].txt"

_COLUMNS = ["ProblemIdx", "PredictedFinalAnswer", "TrueFinalAnswer", "ElapsedTime", "Question", "ModelResponse"]
# The problems for which the second set of RFT runs has no file.
_GAPS = ("test_counting_and_probability_731", "test_intermediate_algebra_1510")
_LONGEST_DOWNLOAD = 16 * 2**20


class ReleasedError(RuntimeError):
    """Released files that are not there, cannot be had, or are not what was released."""


@dataclass(frozen=True)
class Part:
    """Files of the release that belong together, by patterns of their paths, and one hash over their names and bytes.

    `commit` is that of the authors' repository; a part without one is downloaded from `Source.problems`.
    """

    name: str
    commit: str
    patterns: tuple[str, ...]
    sha256: str

    def files(self, root: Path) -> list[Path]:
        return sorted(path for pattern in self.patterns for path in root.glob(pattern))

    def digest(self, root: Path, hash_file: Callable[[Path], str] = store.hash_path) -> str:
        """SHA-256 of the file itself, or of the names and hashes of several."""
        files = {path.relative_to(root).as_posix(): path for path in self.files(root)}
        if tuple(files) == self.patterns:
            return hash_file(root / self.patterns[0])
        return store.hash_json({name: hash_file(path) for name, path in files.items()})


_PINNED, _OLDER = "e33d18a", "005f0d3d546c42bd8fa1d0a4a506a97c966978c8"
PARTS = (
    Part("sprint", _PINNED, (_SPRINT,), "052225e57c43c9ac36c106c59d473a3f3fb18d14affc966afb8cc01dbf799a6e"),
    Part("rft", _OLDER, (_RFT,), "1c21a74036e7344b0d9072a6d4c568e7ed69ef12450224de91294b88bf0fd37e"),
    Part("rft_control", _PINNED, (_CONTROL,), "a8871486c73f90ce8a86dadaa4cbab58ca9bcd19ccd9713fe6dbaef1560a29cd"),
    Part(
        "curated",
        _PINNED,
        (_SEPARATION, _INLINE, _PARENTS, _TRAJECTORY),
        "7f16befe9cf405a6995733d219def620b5ba7da71e8de217d7536e51bf9a657a",
    ),
    Part("problems", "", (_PROBLEMS,), "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"),
)


@dataclass(frozen=True)
class Source:
    """Where the parts come from: a git repository, and MATH-500 by the address of its pinned revision."""

    repository: str = "https://github.com/ShayanTalaei/SPRINT"
    problems: str = (
        "https://huggingface.co/datasets/HuggingFaceH4/MATH-500/resolve/"
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be/test.jsonl"
    )
    parts: tuple[Part, ...] = PARTS


@dataclass(frozen=True)
class Run:
    """One output of a system on one problem of MATH-500.

    `index` is the problem's line in `math500_test.jsonl`, from 0, `text` is as released (what is no UTF-8 replaced),
    `answer` what the authors' code took for the answer and `seconds` what it took, where the release says so.
    """

    index: int
    text: str
    answer: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Curated:
    """One curation example, texts as released; `trajectory` is None where there is none: the filter dropped it.

    `separation` is the annotator's output by line ranges, `inline` the same with text, `parents` the steps that each
    step needs, by their numbers from 1.
    """

    number: int
    separation: str
    inline: str
    parents: dict[int, list[int]]
    trajectory: str | None


@dataclass(frozen=True)
class PartState:
    """What `Released.check` found of a part: ok, missing or differs, and how many files it has."""

    part: str
    state: str
    files: int
    detail: str


@dataclass(frozen=True)
class Released:
    """A copy of the released files. Every reader raises ReleasedError, with the place, for what it cannot read.

    Runs come in the order of the problems. The text files carry the problem's id in their name, the table its line.
    """

    root: Path

    def sprint(self) -> list[Run]:
        """The 500 SPRINT runs: planner and executors in one text, after the question in its tag."""
        return self._runs(_SPRINT)

    def rft(self) -> list[Run]:
        """The 500 RFT runs of Table 2, without the question, with answers and seconds."""
        path, problems = self.root / _RFT, self.problems()
        rows = csv.reader(io.StringIO(self._text(path), newline=""), strict=True)
        runs: dict[int, Run] = {}
        try:
            if next(rows, None) != _COLUMNS:
                raise ValueError(f"expected the columns {', '.join(_COLUMNS)}")
            for row in rows:
                run = _rft_run(row, problems)
                if run.index in runs:
                    raise ValueError(f"a second row for problem {run.index}")
                runs[run.index] = run
        except (csv.Error, ValueError) as error:
            raise self._error(f"{path}:{rows.line_num}", f"damaged: {error}") from error
        if lacking := [index for index in range(len(problems)) if index not in runs]:
            raise self._error(path, f"no row for problem {lacking[0]} ({len(lacking)} lacking)")
        return [runs[index] for index in sorted(runs)]

    def rft_control(self) -> list[Run]:
        """498 other RFT runs, without the question; two problems have none."""
        return self._runs(_CONTROL, _GAPS)

    def problems(self) -> list[Problem]:
        """MATH-500 in its order: `meta` holds level (1 to 5) and subject."""
        path = self.root / _PROBLEMS
        found = []
        for number, line in enumerate(self._text(path).split("\n"), start=1):
            if line.strip():
                try:
                    found.append(_problem(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise self._error(f"{path}:{number}", f"not a problem: {error}") from error
        return found

    def curated(self) -> list[Curated]:
        """The six curation examples; three of them have a trajectory."""
        found = []
        for number in range(6):
            separation, inline, parents, trajectory = (
                self.root / pattern.replace("[0-5]", str(number))
                for pattern in (_SEPARATION, _INLINE, _PARENTS, _TRAJECTORY)
            )
            text = self._text(trajectory) if trajectory.exists() else None
            found.append(Curated(number, self._text(separation), self._text(inline), self._parents(parents), text))
        return found

    def check(
        self, parts: Sequence[Part] | None = None, hash_file: Callable[[Path], str] = store.hash_path
    ) -> list[PartState]:
        """Compare the files with those that were released, part by part (by default `PARTS`)."""
        return [self._state(part, hash_file) for part in parts or PARTS]

    def _state(self, part: Part, hash_file: Callable[[Path], str]) -> PartState:
        files = part.files(self.root)
        if not files:
            return PartState(part.name, "missing", 0, f"{self.root / part.patterns[0]}: not there")
        try:
            same = part.digest(self.root, hash_file) == part.sha256
        except OSError as error:
            return PartState(part.name, "differs", len(files), f"{error.filename}: {error.strerror}")
        if same:
            return PartState(part.name, "ok", len(files), "")
        return PartState(part.name, "differs", len(files), f"{files[0].parent}: not what was released")

    def _runs(self, pattern: str, gaps: Collection[str] = ()) -> list[Run]:
        lines = {problem.id.removesuffix(".json").replace("/", "_"): i for i, problem in enumerate(self.problems())}
        before, _, after = pattern.rpartition("/")[2].partition("*")
        found: dict[str, Run] = {}
        for path in sorted(self.root.glob(pattern)):
            name = path.name.removeprefix(before).removesuffix(after)
            if name not in lines:
                raise self._error(path, f"{_PROBLEMS} has no such problem")
            found[name] = Run(lines[name], self._text(path))
        if lacking := [name for name in lines if name not in found and name not in gaps]:
            where = self.root / pattern.replace("*", lacking[0])
            raise self._error(where, f"not there ({len(lacking)} of {len(lines)} lacking)")
        return sorted(found.values(), key=lambda run: run.index)

    def _parents(self, path: Path) -> dict[int, list[int]]:
        try:
            found = {int(step): list(parents) for step, parents in json.loads(self._text(path)).items()}
            if not all(type(parent) is int for parents in found.values() for parent in parents):
                raise ValueError("a parent that is no number")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(path, f"not a dictionary of parents: {error}") from error
        return found

    def _text(self, path: Path) -> str:
        try:
            return path.read_bytes().decode("utf-8", errors="replace")
        except OSError as error:
            raise self._error(path, str(error.strerror)) from error

    def _error(self, place: Path | str, what: str) -> ReleasedError:
        return ReleasedError(
            f"{place}: {what}; `sprint released fetch --to {self.root}` gets what is missing or damaged"
        )


def _rft_run(row: Sequence[str], problems: Sequence[Problem]) -> Run:
    if len(row) != len(_COLUMNS):
        raise ValueError(f"{len(row)} fields instead of {len(_COLUMNS)}")
    index, answer, _, seconds, question, text = row
    run = Run(int(index), text, answer or None, float(seconds))
    if not 0 <= run.index < len(problems) or question != problems[run.index].question:
        raise ValueError(f"ProblemIdx {index} has another question in {_PROBLEMS}")
    if not math.isfinite(float(seconds)) or float(seconds) < 0:
        raise ValueError(f"ElapsedTime {seconds}")
    return run


def _problem(row: Any) -> Problem:
    kinds = {"unique_id": str, "problem": str, "answer": str, "level": int, "subject": str}
    if not isinstance(row, dict) or not all(type(row.get(key)) is kind for key, kind in kinds.items()):
        raise ValueError(f"expected {', '.join(kinds)}")
    meta = {"level": row["level"], "subject": row["subject"]}
    return Problem(row["unique_id"], row["problem"], row["answer"], meta)


# --- where a copy is ------------------------------------------------------------------


def locate(folder: Path | str | None = None) -> Path:
    """The folder given, else that of `SPRINT_RELEASED_DIR`, else the one in the user's cache; it need not exist."""
    if given := folder or os.environ.get(VARIABLE):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sprint" / "released"


def find(folder: Path | str | None = None) -> Released:
    """The copy at `locate(folder)`, every part of it with the hash of what was released.

    Each file is hashed once a process, and again when it changes: the next look takes milliseconds.

    Raises:
        ReleasedError: if a part is not there or is not what was released; the message says how to get it.
    """
    released = Released(locate(folder))
    states = released.check(hash_file=_known_hash)
    if lacking := [state.part for state in states if state.state == "missing"]:
        raise ReleasedError(
            f"{released.root}: the released files are not there (no {', '.join(lacking)}); `sprint released fetch` "
            f"gets them with git over the network, or set {VARIABLE} to a folder that has them"
        )
    if damaged := [f"{state.part}: {state.detail}" for state in states if state.state != "ok"]:
        raise ReleasedError(
            f"{'; '.join(damaged)}; `sprint released fetch --to {released.root}` gets what was released, or set "
            f"{VARIABLE} to a sound copy"
        )
    return released


def _known_hash(path: Path) -> str:
    found = path.stat()
    return _hash(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=8_192)
def _hash(path: Path, stamp: tuple[int, ...]) -> str:
    """The hash of a file whose `stamp` changes when it does."""
    return store.hash_path(path)


def find_or_stop(folder: Path | str = "") -> Released | None:
    """`find` for a notebook, as the last line of its cell: without the files it shows how to get them, and later
    cells of this kernel do nothing, so that a reader sees that instead of errors.

    Raises:
        ReleasedError: without the files, outside a notebook.
    """
    from IPython import get_ipython
    from IPython.display import Markdown, display

    try:
        return find(folder)
    except ReleasedError as error:
        shell = get_ipython()
        if shell is None:
            raise
        display(
            Markdown(f"**Not run.** {error}. Then restart this notebook's kernel: until then its cells do nothing.")
        )
        shell.input_transformers_cleanup.append(lambda lines: ["pass\n"])
        return None


# --- getting one ----------------------------------------------------------------------

_SOURCE = Source()
_TEMPORARY = ".fetch-"  # begins the name of what a fetch needs while it lasts


def fetch(
    folder: Path | str | None = None, source: Source | None = None, report: Callable[[str], None] = lambda _: None
) -> Released:
    """Get the parts that `locate(folder)` lacks or that differ there, each moved in once its hash is right.

    Other files in the folder stay. A part that cannot be had does not keep the others from being fetched. What a
    killed fetch left there goes.

    Raises:
        ReleasedError: if something could not be had or is not what was released, one line for each; or if another
            fetch is at work there.
    """
    released, source = Released(locate(folder)), source or _SOURCE
    states = {state.part: state.state for state in released.check(source.parts)}
    wanted = [part for part in source.parts if states[part.name] != "ok"]
    if not wanted and not any(released.root.glob(f"{_TEMPORARY}*")):
        return released  # the folder may be one that only others can write
    failures: list[str] = []
    try:
        if wanted:
            released.root.mkdir(parents=True, exist_ok=True)
        with _alone(released.root):
            for left in released.root.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(left, ignore_errors=True)
            if wanted:
                with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=released.root) as temporary:
                    failures = _fetch_into(released.root, wanted, source, Path(temporary), report)
    except OSError as error:
        where = error.filename or released.root
        raise ReleasedError(f"{where}: {error.strerror}; name another folder with --to") from error
    if failures:
        raise ReleasedError("\n".join(failures))
    return released


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder for one fetch; the lock is on the folder itself and dies with the process."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReleasedError(f"{root}: another `sprint released fetch` is at work there; wait for it") from error
        yield
    finally:
        os.close(folder)


def _fetch_into(
    root: Path, wanted: Sequence[Part], source: Source, temporary: Path, report: Callable[[str], None]
) -> list[str]:
    """Fetch what is wanted; what could not be had is in the list returned."""
    failures: list[str] = []
    clone = temporary / "clone"
    if any(part.commit for part in wanted):
        report(f"cloning {source.repository}")
        failures += _failure(_git, source.repository, "clone", "--bare", "--quiet", "--", source.repository, str(clone))
    for part in wanted:
        if clone.exists() or not part.commit:
            report(f"{part.name}: from {_origin(part, source)}")
            failures += _failure(_obtain, part, source, clone, temporary / part.name, root)
    return failures


def _failure(action: Callable[..., None], *arguments: Any) -> list[str]:
    try:
        action(*arguments)
    except ReleasedError as error:
        return [str(error)]
    return []


def _origin(part: Part, source: Source) -> str:
    return f"{source.repository}, commit {part.commit[:7]}" if part.commit else source.problems


def _obtain(part: Part, source: Source, clone: Path, temporary: Path, root: Path) -> None:
    """Get a part's files, see that they are the right ones, and rename them into their places."""
    if part.commit:
        _unpack(clone, part, temporary)
    else:
        store.write_bytes(temporary / part.patterns[0], _download(source.problems))
    found = part.digest(temporary)
    if found != part.sha256:
        raise ReleasedError(
            f"{_origin(part, source)}: {part.name} is not what was released (SHA-256 {found[:12]}… instead of "
            f"{part.sha256[:12]}…); set {VARIABLE} to a copy from elsewhere"
        )
    files = [path.relative_to(temporary) for path in part.files(temporary)]
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (temporary / file).replace(root / file)
    if more := [path for path in part.files(root) if path.relative_to(root) not in files]:
        raise ReleasedError(f"{more[0]}: not a file of the release ({len(more)} such); move it away")


def _unpack(clone: Path, part: Part, to: Path) -> None:
    """The part's files as its commit holds them, byte for byte."""
    archive = clone.with_name(f"{part.name}.tar")
    patterns = [f":(glob){pattern}" for pattern in part.patterns]
    command = (f"--git-dir={clone}", "archive", "--format=tar", f"--output={archive}", part.commit, "--", *patterns)
    _git(f"commit {part.commit[:7]}", *command)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            content = tar.extractfile(member) if member.isfile() else None
            if content and not name.is_absolute() and ".." not in name.parts:
                path = to / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def _git(what: str, *arguments: str) -> None:
    """Run git on `what`: it asks nothing, leaves line ends alone, and gives up where nothing comes for a minute."""
    settings = ("core.autocrlf=false", "http.lowSpeedLimit=1000", "http.lowSpeedTime=60")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *arguments]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", env=environment)
    except FileNotFoundError as error:
        raise ReleasedError(
            f"git is not installed; install it, or set {VARIABLE} to a folder with the files"
        ) from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise ReleasedError(
            f"{what}: git says: {said}; see whether the network reaches the repository and run this again, or set "
            f"{VARIABLE} to a folder with the files"
        ) from error


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            data: bytes = answer.read(_LONGEST_DOWNLOAD)
    except (OSError, HTTPException, ValueError) as error:
        raise ReleasedError(
            f"{address}: {error}; run this again where the network reaches it, or put that file as {_PROBLEMS} "
            f"into the folder"
        ) from error
    return data
