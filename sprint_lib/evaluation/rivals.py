"""The runs of notebook 07: many paradigms on the same problems, verifier, engine and accounting.

A profile describes the field as plain entries, one a paradigm. Each says a method of `METHODS`, a model, settings and,
if it has a dial (samples, beams, threads), the values at which it runs: every value is a run of its own with a log of
its own. An entry that would mean nothing with the model at hand has no runs but says why. A further method takes its
file, its line in `METHODS` and one entry.

Samples are drawn once: with `replay` an entry's runs take the samples of another one's largest run (or of its own),
answered by `Replay` instead of a model. Method, grader and accounting are the real ones, the tokens are those that the
model wrote; only the clock says nothing, and it is measured apart, one problem at a time (`clocked`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sprint_lib import methods, models, store
from sprint_lib.calls import Attempt, Call
from sprint_lib.engines import Completion, EngineError, OnText, Request
from sprint_lib.evaluation import campaign, clock
from sprint_lib.evaluation.campaign import CampaignError, Planned
from sprint_lib.evaluation.runs import Report, RunError, RunSpec, Worker, read_attempts, run_key, to_retry, wait_for
from sprint_lib.serving import check_engine
from sprint_lib.store import RecordLog, Workspace
from sprint_lib.tasks import get_task
from sprint_lib.wording import unknown

INDEX = "rivals.json"


# --- what to run ----------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One paradigm, as a parameters cell has it.

    Attributes:
        method: of `METHODS`.
        model: looked for in the workspace's `models/` first, then as `models.find` does (shipped, a folder, the hub).
        settings: the method's own; `temperature` and `max_tokens` come from the notebook unless they stand here.
        budgets: a dial of the method and the values at which it runs, such as `{"samples": [1, 2, 4]}`; {}: one run.
        problems: how many, if fewer than the notebook's (0: as many); the first ones, so that runs stay paired.
        trained: whether the model was fine-tuned for this way of working; its `training.json` must say so.
        replay: the entry whose largest run gives the samples (same model, temperature, limit), its own for the others.
        engine: another engine for this entry, such as an instruction-tuned model's endpoint; {}: the notebook's.
        note: a remark that goes into the tables. `why_not`: why there are no runs; then nothing else is needed.
    """

    method: str = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    budgets: dict[str, list[Any]] = field(default_factory=dict)
    problems: int = 0
    trained: bool = False
    replay: str = ""
    engine: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class Row:
    """One run of an entry: at one value of its dial (`dial` and `value` are "" where it has none)."""

    name: str
    entry: str
    dial: str
    value: Any
    spec: RunSpec
    folder: str
    trained: bool = False
    replay: str = ""  # the row whose samples it takes
    engine: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def method(self) -> str:
        return self.spec.method

    @property
    def label(self) -> str:
        """`samples 4`, or nothing."""
        return f"{self.dial} {self.value}" if self.dial else ""


@dataclass(frozen=True)
class Field:
    """Everything that runs, in the order of the parameters, and by entry why others do not."""

    rows: tuple[Row, ...]
    absent: Mapping[str, str]

    def of(self, entry: str) -> list[Row]:
        """The rows of an entry; none if it did not run."""
        return [row for row in self.rows if row.entry == entry]

    def entries(self) -> list[str]:
        """The entries that ran, in order."""
        return list(dict.fromkeys(row.entry for row in self.rows))

    def shown(self, wanted: Sequence[str]) -> Field:
        """The same with these entries only, as far as they ran, in this order."""
        return Field(tuple(row for entry in wanted for row in self.of(entry)), {})


def plan(
    given: Mapping[str, Mapping[str, Any]],
    workspace: Workspace,
    *,
    task: str,
    problems: int,
    seed: int,
    common: Mapping[str, Any],
    engine: Mapping[str, Any],
    concurrency: int,
) -> Field:
    """The runs that entries ask for, checked before anything runs: names, methods, settings, models, engines.

    `common` are settings that a method gets if it has them and its entry does not say otherwise.

    Raises:
        CampaignError: on an entry that cannot be; the message names it and the way out.
    """
    rows: list[Row] = []
    absent: dict[str, str] = {}
    for name, said in given.items():
        if wrong := unknown(said, [f.name for f in fields(Entry)]):
            raise CampaignError(f"rivals, {name}: {wrong}")
        entry = Entry(**said)
        if entry.why_not:
            absent[name] = entry.why_not
            continue
        try:
            same = {"task": task, "split": "test", "n": min(problems, entry.problems or problems), "seed": seed}
            rows += _rows(name, entry, workspace, common, engine, {**same, "concurrency": concurrency})
        except (KeyError, ValueError, TypeError, FileNotFoundError) as error:
            why = error.args[0] if isinstance(error, KeyError) else error
            raise CampaignError(f"rivals, {name}: {why}") from error
    return Field(_with_sources(rows), absent)


def _rows(
    name: str,
    entry: Entry,
    workspace: Workspace,
    common: Mapping[str, Any],
    engine: Mapping[str, Any],
    same: Mapping[str, Any],
) -> Iterator[Row]:
    if not entry.model:
        raise ValueError("it needs a model, or says in why_not why it has no runs")
    if len(entry.budgets) > 1 or not all(entry.budgets.values()):
        raise ValueError(f"budgets is {entry.budgets}; it is one dial with its values, such as {{'samples': [1, 2]}}")
    known = {f.name for f in fields(methods.get_method(entry.method).settings)}
    settings = {key: value for key, value in common.items() if key in known} | entry.settings
    own = dict(entry.engine or engine)
    check_engine(own)
    folder = find_model(entry.model, workspace, own)
    if entry.trained and not trained_tokens(folder):
        raise ValueError(f"trained, but {folder} has no training.json that says on what; leave `trained` out")
    dial, values = next(iter(entry.budgets.items()), ("", [""]))
    for value in values:
        row = f"{name}-{dial}-{value}" if dial else name
        spec = RunSpec(f"rival-{row}", entry.method, settings=settings | ({dial: value} if dial else {}), **same)
        spec.method_settings(methods.get_method(entry.method))  # refused here, not in the middle of the runs
        yield Row(row, name, dial, value, spec, folder, entry.trained, entry.replay, own, entry.note)


def _with_sources(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with `replay` as the row whose samples they take: the last one of the entry that was named."""
    last = {row.entry: row for row in rows}
    found = []
    for row in rows:
        source = last.get(row.replay)
        if row.replay and source is None:
            raise CampaignError(f"rivals, {row.entry}: replay: no entry {row.replay!r} that runs")
        if source and source.replay not in ("", source.entry):
            raise CampaignError(f"rivals, {row.entry}: replay: {row.replay!r} has no samples of its own")
        if source and (_drawn(source) != _drawn(row) or source.spec.n < row.spec.n):
            raise CampaignError(
                f"rivals, {row.entry}: it cannot take the samples of {row.replay!r}: it has another model, "
                "temperature, limit or engine, or more problems"
            )
        found.append(replace(row, replay=source.name if source and source.name != row.name else ""))
    return tuple(found)


def _drawn(row: Row) -> Any:
    """What a sample depends on."""
    return row.folder, row.engine, {key: row.spec.settings.get(key) for key in ("temperature", "max_tokens", "system")}


def find_model(name: str, workspace: Workspace, engine: Mapping[str, Any]) -> str:
    """A model's folder: of the workspace, shipped, or any; behind servers that run already the name will do."""
    if "/" not in name and (workspace.models / name / "config.json").is_file():
        return str(workspace.models / name)
    if engine.get("kind") == "server" and name not in models.names():
        return name
    return str(models.find(name))


def trained_tokens(folder: str) -> int:
    """On how many tokens a model was fine-tuned, as the training record beside it says; 0 if there is none."""
    try:
        return int(json.loads((Path(folder) / "training.json").read_text(encoding="utf-8"))["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


# --- running --------------------------------------------------------------------------

Runs = dict[str, list[Attempt]]


def run(field: Field, workspace: Workspace, *, workers: int = 2, report: Report | None = None) -> Runs:
    """Make all runs and return their attempts by the row's name. A killed call goes on where it stopped.

    Raises:
        RunError, ServingError, ValueError: see `campaign.run_models`.
    """
    found: Runs = {}
    drawn = [row for row in field.rows if not row.replay]
    drawn.sort(key=lambda row: row.name not in {other.replay for other in field.rows})  # what others need, and is long
    for rows in _by_engine(drawn):
        keys, engine = _keys(rows), rows[0].engine
        planned = [Planned(keys[row.folder], row.spec) for row in rows]
        folders = {key: folder for folder, key in keys.items()}
        made = campaign.run_models(planned, folders, engine, workspace, workers=workers, report=report)
        found |= {row.name: made[row.spec.name] for row in rows}
    for row in field.rows:
        if row.replay:
            source = next(other for other in field.rows if other.name == row.replay)
            found[row.name] = _replayed(row, source, found[source.name], workspace)
    return {row.name: found[row.name] for row in field.rows}


def _by_engine(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row.engine, sort_keys=True), []).append(row)
    return list(groups.values())


def _keys(rows: Sequence[Row]) -> dict[str, str]:
    """A short name for each folder, for the logs of servers that are started."""
    folders = list(dict.fromkeys(row.folder for row in rows))
    names = [Path(folder).name for folder in folders]
    return {f: n if names.count(n) == 1 else f"{n}-{k}" for k, (f, n) in enumerate(zip(folders, names, strict=True))}


def clocked(field: Field, n: int, workspace: Workspace, *, report: Report | None = None) -> Runs:
    """The first `n` problems by every row in turn, one attempt at a time: for the wall clock (see `clock.Bench`)."""
    found: Runs = {}
    for rows in _by_engine(field.rows):
        n = min(n, *(row.spec.n for row in rows))
        specs = [_alone(row, n) for row in rows]
        with clock.Bench(rows[0].engine, workspace, report) as bench:
            made = bench.in_turn(specs)
        found |= {row.name: made[spec.name] for row, spec in zip(rows, specs, strict=True)}
    return {row.name: found[row.name] for row in field.rows}


def _alone(row: Row, n: int) -> RunSpec:
    engine = replace(row.spec.engine, model=row.folder)
    return replace(row.spec, name=row.spec.name.replace("rival-", "rival-clock-", 1), n=n, concurrency=1, engine=engine)


# --- samples drawn once ---------------------------------------------------------------


class Replay:
    """An engine that answers with what was recorded: of each question the samples in their order.

    The k-th call about a question gets the k-th recorded sample, so a method that draws fewer gets the first ones.
    """

    def __init__(self, recorded: Mapping[str, Sequence[Call]]) -> None:
        """`recorded`: calls by prompt."""
        self._left = {prompt: iter(sorted(calls, key=lambda c: c.index)) for prompt, calls in recorded.items()}

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        call = next(self._left.get(request.prompt, iter(())), None)
        if call is None:
            raise EngineError("replay: this method asks for more, or for something else, than was recorded")
        now = time.monotonic()
        if on_text:
            on_text(call.completion, call.completion_tokens)
        counts = call.prompt_tokens, call.cached_tokens, call.completion_tokens
        return Completion(call.completion, *counts, call.finish, now, now, now)

    def count_tokens(self, text: str) -> int:
        raise EngineError("replay: it has no tokenizer")

    async def close(self) -> None:
        pass


def _replayed(row: Row, source: Row, recorded: Sequence[Attempt], workspace: Workspace) -> list[Attempt]:
    """A row's attempts by its method on recorded samples, kept in its log. Raises RunError if they do not suffice."""
    log_of_source = store.hash_path(workspace.attempts(source.spec.name))
    spec = replace(row.spec, engine=replace(row.spec.engine, model=row.folder))
    task = get_task(spec.task)
    problems = task.load(spec.n, split=spec.split, seed=spec.seed)
    before = str(source.spec.settings.get("system", ""))
    calls = {a.problem: [c for c in a.calls if c.role == "sample"] for a in recorded}
    with RecordLog(workspace.attempts(spec.name), {**run_key(spec), "replayed": log_of_source}) as log:
        log.discard(to_retry(log.records))
        if len(log) < spec.n:
            engine = Replay({before + p.question: calls[p.id] for p in problems})
            wait_for(Worker(spec, task, engine, log, None).go(problems))
        if failed := to_retry(log.records):
            note = log.records[failed[0]]["attempt"]["note"]
            raise RunError(
                f"run {spec.name!r}: {len(failed)} attempts could not take samples of {source.name!r}: {note}"
            )
    return read_attempts(workspace.attempts(spec.name))


# --- what ran -------------------------------------------------------------------------


def write_index(field: Field, workspace: Workspace) -> Path:
    """Write `data/rivals.json`: every row with its run and a hash of its log, and why others did not run."""
    rows = [{**asdict(row), "folder": Path(row.folder).name} for row in field.rows]
    for row in rows:
        row["sha256"] = store.hash_path(workspace.attempts(row["spec"]["name"]))
    return store.write_json(workspace.data / INDEX, {"rows": rows, "absent": dict(field.absent)})


def read(workspace: Workspace) -> tuple[Field, Runs]:
    """What `write_index` wrote, and the attempts by the row's name.

    Raises:
        CampaignError: if notebook 07 has not written it, or it is damaged.
    """
    path = workspace.data / INDEX
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for said in data["rows"]:
            if said.pop("sha256") != store.hash_path(workspace.attempts(said["spec"]["name"])):
                raise ValueError(f"the log of {said['name']!r} is not the one that its tables are of")
            rows.append(Row(**{**said, "spec": RunSpec.from_json(said["spec"])}))
        found = Field(tuple(rows), data["absent"])
        return found, {row.name: read_attempts(workspace.attempts(row.spec.name)) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CampaignError(f"{path}: cannot be read ({error!r}); run notebook 07 again") from error
