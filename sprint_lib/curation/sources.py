"""Where traces of reasoning come from, and which of them end in the right answer.

A source is a file, a folder that `datasets` saved, a data set on the hub, or one of two by name: a few examples that
come with the package, and the RFT runs that the paper's authors released. `read` knows the columns of the data sets
that people use and gives a `Row` a trace; `judged` grades them, and the records it makes are what notebook 01 keeps.
A row that cannot be used says why and does not keep the others from being read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any

from sprint_lib import store
from sprint_lib.accounting import Count
from sprint_lib.calls import Attempt, Call
from sprint_lib.curation import Annotated, Aside, Sifted, Trace
from sprint_lib.tasks import NO_ANSWER, Grade
from sprint_lib.tasks.boxed import last_run
from sprint_lib.tasks.graders import DEFAULT, GRADERS, UNDECIDED
from sprint_lib.wording import did_you_mean, unknown

EXAMPLES = Path(__file__).parent / "examples.jsonl"
NAMED = ("examples", "released")
LONGEST_LINE = 2**26  # bytes of a file's line that is looked at
LONGEST_TRACE = 1_000_000  # characters
NO_REFERENCE = "no reference answer"

_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_COMPLETE, _VERDICTS = "is_reasoning_complete", ("correctness_math_verify", "correctness_llama", "correct")
_TAGS = (  # OpenThoughts' around thought and solution, as the distilled models write them
    (re.compile(r"\s*<\|begin_of_thought\|>\s*|\s*<\|end_of_solution\|>\s*"), ""),
    (re.compile(r"\s*<\|end_of_thought\|>\s*(?:<\|begin_of_solution\|>)?\s*"), "\n</think>\n\n"),
    (re.compile(r"\A\s*<think>\n*"), ""),
)


class SourceError(ValueError):
    """A source that is not there, cannot be had, or has no columns that are known."""


@dataclass(frozen=True)
class Row:
    """One trace: `answer` is the reference ("" if the source has none), `problem` the problem's id.

    `right` is what the source itself says of the trace, None if nothing. `defect` says why a row cannot be used.
    """

    id: str
    question: str
    text: str
    answer: str
    problem: str = ""
    right: bool | None = None
    defect: str = ""


@dataclass(frozen=True)
class Layout:
    """The columns of a kind of data set. `text` may hold several traces; `ending` follows the reasoning in `text`."""

    name: str
    question: str
    text: str
    ending: str = ""
    answer: str = "answer"
    id: str = ""
    problem: str = ""

    @property
    def needed(self) -> list[str]:
        return [column for column in (self.question, self.text, self.ending, self.answer) if column]


LAYOUTS = (
    Layout("OpenR1-Math", "problem", "generations", id="uuid"),
    Layout("OpenThoughts", "problem", "deepseek_reasoning", "deepseek_solution", "ground_truth_solution"),
    Layout("s1K-1.1", "question", "deepseek_thinking_trajectory", "deepseek_attempt", "solution"),
    Layout("s1K", "question", "thinking_trajectories", "attempt", "solution"),
    Layout("OpenThoughts-math", "problem", "text", answer="solution"),  # of open-r1; its turns repeat the problem
    Layout("plain", "question", "text", id="id", problem="problem"),
    Layout("plain", "question", "trace", id="id", problem="problem"),
    Layout("LIMO", "question", "solution"),
    Layout("conversation", "question", "text", answer=""),  # what `_unrolled` makes of one
)


def read(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    where: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """The traces of a source, one at a time.

    Args:
        source: "examples", "released", a .jsonl or .parquet file, a folder, or a data set on the hub (`owner/name`,
            or `owner/name:config`).
        columns: what the columns are called, by field of `Layout`, where that is not recognised.
        split: of a folder or a data set on the hub.
        revision: of a data set on the hub.
        limit: so many traces at most.
        where: only rows that have these values in these columns ({"source": "math"}).

    Raises:
        SourceError: if the source cannot be read at all, with the place and what to do; when it is first asked for a
            row at the latest.
    """
    if said := unknown(columns or {}, [field.name for field in fields(Layout) if field.name != "name"], "column"):
        raise SourceError(f"{source}: {said}")
    if limit is not None and limit < 1:
        raise SourceError(f"{source}: limit is {limit}; at least 1, or none")
    if source == "released":
        if where:
            raise SourceError(f"{source}: has no columns, but where names {', '.join(where)}; leave it out")
        return islice(_released(), limit)
    place, records = _opened(str(EXAMPLES) if source == "examples" else source, split, revision)
    return islice(_rows(place, _matching(place, records, where or {}), columns or {}), limit)


def public_name(source: str) -> str:
    """What to call a source where others read it: a file or a folder without where it lies on this machine."""
    return source if source in NAMED or _on_hub(source) else Path(source).expanduser().resolve().name


# --- opening --------------------------------------------------------------------------

_Records = Iterator[Any]  # a row as a dictionary, or in a string why it is none


def _opened(source: str, split: str, revision: str | None) -> tuple[str, _Records]:
    """What a source is called in ids and messages, and its rows."""
    path = Path(source).expanduser()
    hub = _on_hub(source)
    if not hub:
        if revision is not None:
            raise SourceError(f"{source}: a revision is for data sets on the hub; leave it out")
        return path.name, _on_disk(path, split)
    way_out = f"{did_you_mean(source, NAMED)}; name a file or folder, or run this where the hub can be reached"
    found = _loaded(source, way_out, hub[1], hub[2], split=split, revision=revision)
    return hub[1].replace("/", "-"), _streamed(source, found)


def _on_hub(source: str) -> re.Match[str] | None:
    path = Path(source).expanduser()
    return None if path.exists() or path.suffix in (".jsonl", ".parquet") else _HUB.fullmatch(source)


def _on_disk(path: Path, split: str) -> _Records:
    if not path.exists():
        raise SourceError(f"{path}: no such file{did_you_mean(str(path), NAMED)}; {_KINDS}")
    if path.is_dir():
        return _streamed(str(path), _folder(path, split))
    if path.suffix == ".jsonl":
        return _json_lines(path)
    if path.suffix == ".parquet":
        return _streamed(str(path), _loaded(str(path), "", "parquet", data_files=str(path), split="train"))
    raise SourceError(f"{path}: read are .jsonl and .parquet; {_KINDS}")


_KINDS = "a source is a .jsonl or .parquet file, a folder of `datasets`, owner/name on the hub, examples or released"


def _folder(path: Path, split: str) -> Any:
    """The split of a folder that `datasets` saved, or of one with data files."""
    if not ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
        return _loaded(str(path), "", str(path), split=split)
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise SourceError(f"{path}: cannot be read: {_first_line(error)}") from error
    if not isinstance(found, dict):
        return found
    if split not in found:
        raise SourceError(f"{path}: no split '{split}'{did_you_mean(split, found)}; there are: {', '.join(found)}")
    return found[split]


def _loaded(where: str, way_out: str, *arguments: Any, **options: Any) -> Any:
    """`datasets.load_dataset`, a row at a time."""
    import datasets

    try:
        return datasets.load_dataset(*arguments, streaming=True, **options)
    except Exception as error:  # no network, no such name, no such split, no data: a dozen types
        raise SourceError(f"{where}: cannot be had: {_first_line(error)}{way_out}") from error


def _streamed(where: str, found: Iterable[Any]) -> _Records:
    """Rows of a data set; what breaks on the way ends it, but keeps what came before."""
    rows = iter(found)
    number = 0
    while True:
        try:
            record = next(rows)
        except StopIteration:
            return
        except Exception as error:
            if not number:
                raise SourceError(f"{where}: cannot be read: {_first_line(error)}") from error
            yield f"cannot be read from here on: {_first_line(error)}"
            return
        number += 1
        yield record


def _json_lines(path: Path) -> _Records:
    try:
        with path.open("rb") as file:
            yield from (_decoded(line) for line in _lines(file))
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, of a very long one its beginning and one byte too much."""
    while line := file.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield line


def _decoded(line: bytes) -> Any:
    if not line.strip():
        return "an empty line"
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    return value if isinstance(value, dict) else "not an object of JSON"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _matching(place: str, records: _Records, where: Mapping[str, str]) -> _Records:
    """The rows with these values, and what could not be read. Raises SourceError if no row has such a column."""
    for number, record in enumerate(records, 1):
        if isinstance(record, dict) and (lacking := [column for column in where if column not in record]):
            there = ", ".join(record) or "none"
            raise SourceError(f"{place}, row {number}: where: no column '{lacking[0]}'; there are: {there}")
        if not isinstance(record, dict) or all(str(record[column]) == where[column] for column in where):
            yield record


# --- rows -----------------------------------------------------------------------------


def _released() -> Iterator[Row]:
    """The 500 RFT runs on MATH-500 (Table 2), with its answers."""
    from sprint_lib import released

    try:
        data = released.find()
        problems = data.problems()
        for run in data.rft():
            problem = problems[run.index]
            yield Row(problem.id, problem.question, run.text, problem.answer, problem.id)
    except released.ReleasedError as error:
        raise SourceError(str(error)) from error


def _rows(where: str, records: _Records, columns: Mapping[str, str]) -> Iterator[Row]:
    layout: Layout | None = None
    name, number = Path(where).stem, 0
    used, given = set[str](), set[str]()  # ids of rows, and those that the source gave
    for number, record in enumerate(records, 1):
        place, made_up = f"{where}, row {number}", f"{name}-{number}"
        if isinstance(record, str):
            if record != "an empty line":
                yield Row(_unused(made_up, made_up, used), "", "", "", defect=f"{place}: {record}")
            continue
        record = _unrolled(record)
        layout = layout or _layout(place, record, columns)
        for row in _traces(made_up, record, layout):
            own = {row.id} if _text(record.get(layout.id)) else set()
            defect = row.defect or (f"a second trace with this id, {row.id!r}" if own & given else "")
            given |= own
            yield replace(row, id=_unused(row.id, made_up, used), defect=defect and f"{place}: {defect}")
    if not number:
        raise SourceError(f"{where}: no rows; {_KINDS}")


def _unused(id_: str, made_up: str, used: set[str]) -> str:
    """An id that no row has yet: the one given, or one that names the row, too."""
    others = (f"{made_up} ({id_})" + f" {k}" * (k > 1) for k in count(1))
    found = next(one for one in chain([id_], others) if one not in used)
    used.add(found)
    return found


def _layout(place: str, record: Mapping[str, Any], columns: Mapping[str, str]) -> Layout:
    """The layout that a first row has, with what was given instead.

    Raises:
        SourceError: if it has none.
    """
    for layout in LAYOUTS:
        wanted = replace(layout, **columns)
        if all(column in record for column in wanted.needed) and all(c in record for c in columns.values()):
            return wanted
    given = next((c for c in columns.values() if c not in record), None)
    there = ", ".join(record) or "none"
    if given is not None:
        raise SourceError(f"{place}: no column '{given}'{did_you_mean(given, record)}; there are: {there}")
    hints = [(c, did_you_mean(c, record)) for c in ("question", "text", "answer") if c not in record]
    lacking = ", ".join(f"'{column}'{hint}" for column, hint in hints)
    known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    raise SourceError(
        f"{place}: no columns that are known; for plain ones lacks {lacking}; there are: {there}. Known are those of "
        f'{known}; others are named by columns, such as {{"question": ..., "text": ..., "answer": ...}}'
    )


def _unrolled(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the first question and reply of its conversation as columns, if it has one."""
    turns = record.get("conversations", record.get("messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return dict(record)
    said = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in turns]
    question = next((text for who, text in said if who in ("user", "human")), None)
    reply = next((text for who, text in said if who in ("assistant", "gpt")), None)
    return {"question": question, "text": reply, **record}


def _traces(place: str, record: Mapping[str, Any], layout: Layout) -> Iterator[Row]:
    """The traces of a row; one without a text if there is none."""
    id_ = _text(record.get(layout.id)) or place
    question, answer = _text(record.get(layout.question)), _text(record.get(layout.answer))
    problem = _text(record.get(layout.problem)) or f"problem-{store.hash_json(question.split())[:12]}"
    found = record.get(layout.text)
    texts = found if isinstance(found, list) and found else [found]
    ending = _text(record.get(layout.ending))
    for k, text in enumerate(map(_text, texts)):
        whole = f"{text.rstrip()}\n</think>\n\n{ending}" if layout.ending and text else text
        for pattern, replacement in _TAGS:
            whole = pattern.sub(replacement, whole)
        row = Row(id_ if len(texts) == 1 else f"{id_}#{k + 1}", question, whole, answer, problem, _verdict(record, k))
        yield replace(row, defect=_defect(row, record, layout, k))


def _defect(row: Row, record: Mapping[str, Any], layout: Layout, k: int) -> str:
    for column, text in ((layout.question, row.question), (layout.text, row.text)):
        if not text.strip():
            return f"'{column}' is empty or no text"
    if len(row.text) > LONGEST_TRACE:
        return f"'{layout.text}' is longer than {LONGEST_TRACE:,} characters"
    return "cut before its end" if _flag(record.get(_COMPLETE), k) is False else ""


def _verdict(record: Mapping[str, Any], k: int) -> bool | None:
    flags = [flag for column in _VERDICTS if (flag := _flag(record.get(column), k)) is not None]
    return any(flags) if flags else None


def _flag(value: Any, k: int) -> bool | None:
    if isinstance(value, list):
        value = value[k] if k < len(value) else None
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str:
    """A cell as text that can be written: numbers count, other things do not; of a list of one the one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return value.encode("utf-8", errors="replace").decode() if isinstance(value, str) else ""


# --- grading --------------------------------------------------------------------------

Grader = Callable[[str, str], Grade]  # reference, text


@dataclass(frozen=True)
class Candidate:
    """A trace that may be curated, with what came of grading it; one record of notebook 01.

    `status` is that of an attempt (`calls.STATUSES`), `found` the answer that the text gives, `tokens` its length.
    """

    id: str
    problem: str
    question: str
    text: str
    answer: str
    status: str
    correct: bool
    found: str = ""
    reason: str = ""
    tokens: int = 0

    @property
    def attempt(self) -> Attempt:
        """The trace as one call of its tokens, for the tables that count attempts."""
        call = Call("trace", "sample", completion_tokens=self.tokens)
        return Attempt(
            self.problem, "sequential", self.status, self.correct, self.found, self.text, (call,), note=self.reason
        )

    @property
    def trace(self) -> Trace:
        return Trace(self.id, self.question, self.text, problem=self.problem, answer=self.answer)


def by_boxes(reference: str, text: str) -> Grade:
    """Grade the last boxes of a text by math-verify; of a reference that is a whole solution its own boxes count.

    Bounded in time and memory (`tasks.symbolic`); never raises on any two strings.
    """
    return GRADERS[DEFAULT](last_run(reference) or reference, text)


def judged(rows: Iterable[Row], grade: Grader, count: Count | None = None) -> Iterator[Candidate]:
    """Grade every row and count its tokens. Where that cannot be decided, what the source says of it counts."""
    for row in rows:
        tokens = count(row.text) if count and not row.defect else 0
        status, correct, found, reason = _judge(row, grade)
        yield Candidate(row.id, row.problem, row.question, row.text, row.answer, status, correct, found, reason, tokens)


def _judge(row: Row, grade: Grader) -> tuple[str, bool, str, str]:
    """Status, whether it is right, the answer found, and the reason if it is not right."""
    if row.defect:
        return "malformed", False, "", row.defect
    if not row.answer.strip():
        said = row.right is True
        return "ok", said, "", "" if said else NO_REFERENCE
    found = grade(row.answer, row.text)
    if found.reason == NO_ANSWER:
        return "refused", False, "", NO_ANSWER
    if found.reason == UNDECIDED and row.right:
        return "ok", True, found.answer, ""
    return "ok", found.correct, found.answer, found.reason


def right(candidates: Iterable[Candidate]) -> Sifted[Trace]:
    """The traces that ended well with the right answer; all others set aside with the reason."""
    sifted: Sifted[Trace] = Sifted([], [])
    for candidate in candidates:
        if candidate.status == "ok" and candidate.correct:
            sifted.kept.append(candidate.trace)
        else:
            reason = "wrong answer" if candidate.status == "ok" else candidate.status
            sifted.aside.append(Aside(candidate.id, "traces", candidate.reason or reason))
    return sifted


def graded(rows: Iterable[Row], grade: Grader = by_boxes) -> Sifted[Trace]:
    """The traces whose final answer is right by `grade`; all others set aside with the reason."""
    return right(judged(rows, grade))


# --- one file of them -----------------------------------------------------------------


def write(path: Path | str, candidates: Iterable[Candidate]) -> Path:
    """Write candidates as JSON lines, whatever their source."""
    return store.write_text(path, "".join(json.dumps(asdict(candidate)) + "\n" for candidate in candidates))


def load(path: Path | str) -> list[Candidate]:
    """The candidates that `write` wrote."""
    return [Candidate(**record) for record in _records(path)]


def write_aside(path: Path | str, aside: Iterable[Aside]) -> Path:
    """Write what was set aside as JSON lines, for the card of the data set."""
    return store.write_text(path, "".join(json.dumps(asdict(one)) + "\n" for one in aside))


def load_aside(path: Path | str) -> list[Aside]:
    """What `write_aside` wrote."""
    return [Aside(**record) for record in _records(path)]


def write_annotated(path: Path | str, annotated: Iterable[Annotated]) -> Path:
    """Write traces with their steps and dependencies as JSON lines, for the next notebook."""
    return store.write_text(path, "".join(json.dumps(item.to_json()) + "\n" for item in annotated))


def load_annotated(path: Path | str) -> list[Annotated]:
    """What `write_annotated` wrote."""
    return [Annotated.from_json(record) for record in _records(path)]


def _records(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
