"""The numbered notebooks in order: what is up to date is skipped, the rest is executed, and the manifest says
what made what. A run may be killed at any moment: an executed notebook appears whole or not at all, the manifest
is renamed into place after each notebook, and the next run ends what a killed one left running, then goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from sprint_lib import needs, store
from sprint_lib.freshness import differences, fingerprint, path_hashes
from sprint_lib.params import Step, checked_steps, producer, select
from sprint_lib.progress import Progress, about, duration
from sprint_lib.wording import did_you_mean

DEFAULT_PROFILE = "laptop"
KERNEL = "sprint"
RUN_VARIABLE = "SPRINT_RUN"  # marks every process of a run, so that a later one can end what a kill left behind
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_START_SECONDS = 180  # a kernel on a busy machine may take long to come up
_ERROR_LINES = 12
_NEVER = "not run yet"

Manifest = dict[str, Any]


class SuiteError(RuntimeError):
    """A run that is refused before anything is executed."""


class NotebookFailed(RuntimeError):
    """A notebook that raised, or whose kernel died, or that did not write what it declares."""

    def __init__(self, name: str, error: str, cell: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(f"{name}: {error}")
        self.error, self.cell, self.lines = error, cell, list(lines)


# --- what there is to do --------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A step and what is to be done: nothing without `reasons`, where something it needs lacks, or if it is opt-in."""

    step: Step
    reasons: tuple[str, ...]
    seconds: float  # estimate, from the last run if there was one, else from the notebook's metadata
    lacking: str = ""  # what is not at hand, and the way out

    @property
    def runs(self) -> bool:
        return bool(self.reasons) and not self.lacking and not self.step.opt_in

    @property
    def verdict(self) -> str:
        """What becomes of a step that does not run."""
        return "up to date" if not self.reasons else "left out" if self.step.opt_in else "not run"

    @property
    def why(self) -> list[str]:
        """Reasons in words; of a step that does not run, what is lacking or how to ask for it first."""
        if self.runs or not self.reasons:
            return list(self.reasons)
        first = self._way_in if self.step.opt_in else self.lacking
        return [first, *(() if _NEVER in self.reasons else self.reasons)]

    @property
    def _way_in(self) -> str:
        profile = self.step.parameters["profile"]
        option = "" if profile == DEFAULT_PROFILE else f"--profile {profile} "
        return f"opt-in; `sprint run {option}--only {self.step.notebook.number}`, {about(self.seconds)}"


def load(profile: str) -> tuple[list[Step], store.Workspace]:
    """The checked steps of a profile of this repository and its workspace.

    Raises:
        ParamsError: for everything that is wrong with notebooks and parameters.
        SuiteError: outside the repository, or if there is no such profile.
    """
    try:
        root = store.repository_root()
    except FileNotFoundError as error:
        raise SuiteError(str(error)) from error
    params = root / "params" / f"{profile}.yaml"
    if not params.is_file():
        profiles = sorted(path.stem for path in params.parent.glob("*.yaml"))
        raise SuiteError(f"no profile '{profile}'{did_you_mean(profile, profiles)}; there are: {', '.join(profiles)}")
    return checked_steps(root / "notebooks", params), store.Workspace(profile)


def read_manifest(workspace: store.Workspace) -> Manifest:
    """The manifest of a workspace, empty if nothing has run.

    Raises:
        SuiteError: if the file is damaged.
    """
    empty: Manifest = {"profile": workspace.profile, "provenance": {}, "notebooks": {}, "failures": {}}
    if not workspace.manifest.exists():
        return empty
    try:
        return {**empty, **json.loads(workspace.manifest.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise SuiteError(f"{workspace.manifest}: damaged ({error}); delete it, all notebooks will run again") from error


def make_plan(
    steps: Sequence[Step],
    workspace: store.Workspace,
    manifest: Manifest,
    force: bool = False,
    hours: Mapping[str, float] | None = None,
) -> list[Plan]:
    """What a run of `steps` would do; `hours` are estimates by notebook for those that have never run.

    A step that reads what an earlier one is going to write counts as to be run; one that reads what is not there,
    because an earlier one that would write it does not run, does not run either.
    """
    plans: list[Plan] = []
    writers: dict[str, str] = {}
    idle: dict[str, str] = {}  # what steps that do not run would write
    for step in steps:
        reasons = reasons_to_run(step, workspace, manifest, force)
        for needed in step.notebook.reads:
            if source := producer(needed, writers):
                reasons.append(f"{source} runs first and writes {needed}")
        lacking = (needs.lacking(step) or _never_written(step, workspace, writers, idle)) if reasons else ""
        seconds = _estimate(step, workspace.profile, manifest, (hours or {}).get(step.name))
        plan = Plan(step, tuple(reasons), seconds, lacking)
        if plan.reasons:
            (writers if plan.runs else idle).update(dict.fromkeys(step.notebook.outputs, step.name))
        plans.append(plan)
    return plans


def _never_written(step: Step, workspace: store.Workspace, writers: Mapping[str, str], idle: Mapping[str, str]) -> str:
    """The first input that is not there, that no step is going to write and that an idle one would have; "" if none."""
    for needed in _missing(step, workspace, writers):
        if source := producer(needed, idle):
            return f"reads {needed}, which {source} writes, and that is not run"
    return ""


def _missing(step: Step, workspace: store.Workspace, writers: Mapping[str, str]) -> list[str]:
    """The inputs of a step that are not there and that none of `writers` is going to write."""
    inputs = step.notebook.inputs
    return [path for path in inputs if not producer(path, writers) and not (workspace.root / path).exists()]


def reasons_to_run(step: Step, workspace: store.Workspace, manifest: Manifest, force: bool = False) -> list[str]:
    """Why a step has to run now, in words; empty if it is up to date."""
    entry = manifest["notebooks"].get(step.name)
    if force:
        return ["forced"]
    if entry is None:
        return ["failed last time" if step.name in manifest["failures"] else _NEVER]
    reasons = differences(entry["fingerprint"], fingerprint(step, workspace))
    for path, found in path_hashes(step.notebook.outputs, workspace).items():
        if found is None:
            reasons.append(f"{path} is missing")
        elif found != entry["outputs"].get(path):
            reasons.append(f"{path} was changed")
    if not executed_copy(step, workspace).exists():
        reasons.append("its executed copy is missing")
    return reasons


def executed_copy(step: Step, workspace: store.Workspace) -> Path:
    return workspace.notebooks / f"{step.name}.ipynb"


def _estimate(step: Step, profile: str, manifest: Manifest, hours: float | None = None) -> float:
    entry = manifest["notebooks"].get(step.name)
    minutes = step.notebook.minutes
    if not entry and hours is not None:
        return 3600 * hours
    # A profile of one's own is most often a copy of laptop's with other numbers.
    return float(entry["seconds"] if entry else minutes.get(profile, minutes.get("laptop", 0.0)) * 60)


def _check_inputs(selected: Sequence[Step], steps: Sequence[Step], workspace: store.Workspace) -> None:
    """Refuse a selection that reads what is not there and what none of it writes."""
    coming: dict[str, str] = {}
    problems = []
    writers = {output: step.name for step in steps for output in step.notebook.outputs}
    for step in selected:
        for needed in _missing(step, workspace, coming):
            source = producer(needed, writers)
            way_out = f"run {source} first" if source else "no notebook of this profile writes it"
            problems.append(f"{step.name}: reads {needed}, which is not in {workspace.root}; {way_out}")
        coming |= dict.fromkeys(step.notebook.outputs, step.name)
    if problems:
        raise SuiteError("\n".join(problems))


# --- running --------------------------------------------------------------------------


def run(
    profile: str,
    *,
    only: Sequence[str] = (),
    also: Sequence[str] = (),
    start: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    stream: TextIO | None = None,
) -> int:
    """Run the notebooks of a profile and rebuild its report; the exit status: 0, or 1 if a notebook failed.

    Args:
        only: numbers or names of the notebooks to run; all but the opt-in ones if empty.
        also: numbers or names of opt-in notebooks to run with these.
        start: number or name of the first notebook to run.
        force: run what is up to date, too. Records that notebooks have finished are kept.
        dry_run: say what would be done, and do nothing.
        stream: where progress goes, standard output by default.

    Raises:
        ParamsError, SuiteError: before anything has run, with every reason.
        KeyboardInterrupt: when stopped; what has finished is kept.
    """
    stream = stream or sys.stdout
    steps, workspace = load(profile)
    selected = select(steps, only, start, also)
    _check_inputs(selected, steps, workspace)
    if dry_run:
        _dry_run(selected, steps, workspace, force, stream)
        return 0
    if lacks := _lacking(selected, steps, workspace, force):
        raise SuiteError("\n".join(lacks))
    with _locked(workspace) as run_id, _stoppable():
        succeeded = _run_steps(selected, workspace, force, run_id, stream)
    from sprint_lib import report

    page = report.build(steps, workspace, read_manifest(workspace))
    print(f"report: {_short(page)}", file=stream, flush=True)
    return 0 if succeeded else 1


def _dry_run(
    selected: Sequence[Step], steps: Sequence[Step], workspace: store.Workspace, force: bool, stream: TextIO
) -> None:
    """Print the plan, what the notebooks that would run take, and what this machine lacks for them."""
    from sprint_lib import estimate

    takes = estimate.needs(steps)
    plans = make_plan(selected, workspace, read_manifest(workspace), force, estimate.hours(takes))
    _print_plan(plans, stream)
    running = [plan.step.name for plan in plans if plan.runs]
    lacks = _lacking(selected, steps, workspace, force)
    told = estimate.describe({name: need for name, need in takes.items() if name in running})
    for line in [*told, *(["", "this machine lacks:", *lacks] if lacks else [])]:
        print(line, file=stream)


def _lacking(selected: Sequence[Step], steps: Sequence[Step], workspace: store.Workspace, force: bool) -> list[str]:
    """What the notebooks that are going to run cannot do without and this machine lacks."""
    from sprint_lib import estimate

    takes = estimate.needs(steps)
    if not estimate.lacking(selected, takes, workspace.root):
        return []  # without hashing all that is there
    plans = make_plan(selected, workspace, read_manifest(workspace), force)
    return estimate.lacking([plan.step for plan in plans if plan.runs], takes, workspace.root)


def _print_plan(plans: Sequence[Plan], stream: TextIO) -> None:
    width = max(len(plan.step.name) for plan in plans)
    for plan in plans:
        verdict, takes = ("would run", about(plan.seconds)) if plan.runs else (plan.verdict, "")
        line = f"{verdict:<11} {takes:<13} {'; '.join(plan.why)}" if plan.reasons else "up to date"
        print(f"{plan.step.name:<{width}}  {line}", file=stream)
    to_run = [plan for plan in plans if plan.runs]
    total = about(sum(plan.seconds for plan in to_run)) if to_run else "nothing to do"
    print(f"{len(to_run)} of {len(plans)} notebooks would run, {total}", file=stream)


def _run_steps(steps: Sequence[Step], workspace: store.Workspace, force: bool, run_id: str, stream: TextIO) -> bool:
    manifest = read_manifest(workspace)
    plans = make_plan(steps, workspace, manifest, force)
    with Progress(stream, len(plans), max(len(step.name) for step in steps)) as progress:
        for index, plan in enumerate(plans, start=1):
            step = plan.step
            if plan.reasons and not reasons_to_run(step, workspace, manifest, force):
                plan = Plan(step, (), 0.0)  # what was to be written before it came out the same
            if plan.lacking:
                _withdraw(step, steps, workspace)
            if not plan.runs:
                progress.say(index, step.name, plan.verdict, "; ".join(plan.why))
                continue
            later = sum(other.seconds for other in plans[index:] if other.runs)
            progress.start(index, step.name, len(step.notebook.code) + 1, plan.seconds, later)
            started = time.monotonic()
            try:
                entry = _run_step(step, workspace, run_id, progress.cell)
            except NotebookFailed as failure:
                progress.say(index, step.name, "FAILED", f"after {duration(time.monotonic() - started)}")
                _print_failure(failure, step, workspace, stream)
                manifest["failures"][step.name] = {"error": failure.error, "cell": failure.cell, "ended": _now()}
                store.write_json(workspace.manifest, manifest)
                return False
            manifest["provenance"] = entry["provenance"]
            manifest["notebooks"][step.name] = entry
            manifest["failures"].pop(step.name, None)
            store.write_json(workspace.manifest, manifest)
            progress.say(index, step.name, "done", f"{len(step.notebook.code)} cells, {duration(entry['seconds'])}")
    return True


def _withdraw(step: Step, steps: Sequence[Step], workspace: store.Workspace) -> None:
    """Delete outputs of a step that cannot run anew which others would read if they are there: they are out of date."""
    for path in {path for other in steps for path in other.notebook.optional} & set(step.notebook.outputs):
        (workspace.root / path).unlink(missing_ok=True)


def _run_step(step: Step, workspace: store.Workspace, run_id: str, on_cell: Callable[[int], None]) -> dict[str, Any]:
    """Execute one notebook and return its manifest entry; the executed copy is in place then.

    Raises:
        NotebookFailed: with the failed copy kept as `NAME.failed.ipynb`.
    """
    made_from = fingerprint(step, workspace)
    started, clock = _now(), time.monotonic()
    temporary = workspace.notebooks / f".{step.name}.running.ipynb"
    failed = workspace.notebooks / f"{step.name}.failed.ipynb"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    watch = _CellWatch(step, workspace, run_id, on_cell)
    try:
        _execute(step, workspace, run_id, temporary, watch)
        outputs = path_hashes(step.notebook.outputs, workspace)
        if missing := [path for path, found in outputs.items() if found is None]:
            raise NotebookFailed(step.name, f"ended without writing {', '.join(missing)}, which its metadata declares")
    except NotebookFailed:
        if temporary.exists():
            temporary.replace(failed)
        raise
    _publish(temporary, executed_copy(step, workspace), step)
    failed.unlink(missing_ok=True)
    return {
        "fingerprint": made_from,
        "outputs": outputs,
        "cells": len(step.notebook.code),
        "started": started,
        "ended": _now(),
        "seconds": round(time.monotonic() - clock, 1),
        "provenance": store.provenance(),
    }


def _publish(temporary: Path, final: Path, step: Step) -> None:
    """Rename the executed copy into place, without the paths of this machine that papermill writes into it."""
    content = json.loads(temporary.read_text(encoding="utf-8"))
    papermill = content["metadata"]["papermill"]
    papermill["input_path"], papermill["output_path"] = f"notebooks/{step.name}.ipynb", final.name
    store.write_text(final, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    temporary.unlink()


class _CellWatch:
    """Counts the code cells of a running notebook, for the progress line and for `sprint status`."""

    def __init__(self, step: Step, workspace: store.Workspace, run_id: str, on_cell: Callable[[int], None]) -> None:
        self._step, self._workspace, self._run_id, self._on_cell = step, workspace, run_id, on_cell
        self._count, self._since = 0, _now()

    def __call__(self, cell: Mapping[str, Any], cell_index: int) -> None:
        if cell["cell_type"] != "code":
            return
        self._count += 1
        self._on_cell(self._count)
        cells = len(self._step.notebook.code) + 1  # papermill adds the cell with the profile's parameters
        at = {"notebook": self._step.name, "cell": self._count, "cells": cells, "since": self._since}
        _write_owner(self._workspace, self._run_id, at)


def _execute(step: Step, workspace: store.Workspace, run_id: str, temporary: Path, watch: _CellWatch) -> None:
    """Execute with papermill, in a kernel of this environment, whatever kernels the machine has."""
    import papermill
    import zmq
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    encryption = "auto" if zmq.has("curve") else "disabled"
    folder = step.notebook.path.parent
    with _kernel(workspace, run_id):
        try:
            papermill.execute_notebook(
                _escaped(step.notebook.path),
                _escaped(temporary),
                parameters=step.parameters,
                kernel_name=KERNEL,
                language="python",
                progress_bar=False,
                start_timeout=_START_SECONDS,
                cwd=str(folder),
                on_cell_start=watch,
                config=Config(KernelManager=Config(transport_encryption=encryption)),
            )
        except PapermillExecutionError as error:
            lines = _ANSI.sub("", "\n".join(error.traceback)).splitlines()
            said = f"{error.ename}: {error.evalue}".strip().splitlines()
            raise NotebookFailed(step.name, said[0], f"In [{error.exec_count}]", lines[-_ERROR_LINES:]) from error
        except KeyboardInterrupt:
            raise
        except Exception as error:
            said = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise NotebookFailed(step.name, f"the kernel ended: {said[0]} (out of memory?)", lines=said[1:]) from error
        finally:
            end_processes(run_id)


def _escaped(path: Path) -> str:
    """A path for papermill, which fills in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _print_failure(failure: NotebookFailed, step: Step, workspace: store.Workspace, stream: TextIO) -> None:
    place = f", {failure.cell}" if failure.cell else ""
    print(f"\n{step.name}{place}: {failure.error}", file=stream)
    for line in failure.lines:
        print(f"    {line}", file=stream)
    kept = workspace.notebooks / f"{step.name}.failed.ipynb"
    print(f"as far as it came: {_short(kept)}", file=stream)
    print(f"source: {_short(step.notebook.path)}; after mending it, the same command goes on from here", file=stream)


def _short(path: Path) -> str:
    """A path relative to the working directory where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- the kernel -----------------------------------------------------------------------


@contextmanager
def _kernel(workspace: store.Workspace, run_id: str) -> Iterator[None]:
    """A kernelspec of this very Python in a folder of the run, where Jupyter's and IPython's files go too.

    Nothing is read from or written to the user's own Jupyter folders, which may hold a `python3` of another
    environment. The kernel imports the library that is running here, in any working directory.
    """
    private = workspace.root / ".run"
    library = Path(__file__).parent.parent
    environment = {
        **needs.environment(),
        RUN_VARIABLE: run_id,
        store.OUTPUTS_VARIABLE: str(workspace.root.parent),
        "PYTHONPATH": os.pathsep.join([str(library), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(private / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR") or str(workspace.root.parent / ".matplotlib"),
    }
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {
        "argv": command,
        "display_name": "sprint",
        "language": "python",
        "env": environment,
        "metadata": {"supported_encryption": ["curve"]},
    }
    store.write_json(private / "jupyter" / "kernels" / KERNEL / "kernel.json", spec)
    own = {
        "JUPYTER_PATH": str(private / "jupyter"),
        "JUPYTER_DATA_DIR": str(private / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "IPYTHONDIR": str(private / "ipython"),
    }
    before = {key: os.environ.get(key) for key in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


# --- one run at a time, and what a kill leaves ----------------------------------------


@contextmanager
def _locked(workspace: store.Workspace) -> Iterator[str]:
    """Hold the workspace for this process and yield the id of the run; the lock dies with the process.

    Raises:
        SuiteError: if another run holds it.
    """
    workspace.root.mkdir(parents=True, exist_ok=True)
    with (workspace.root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(workspace)
            raise SuiteError(
                f"{_short(workspace.root)}: another `sprint run` is at work here (process {owner.get('pid', '?')}); "
                "wait for it, watch it with `sprint status`, or stop it"
            ) from None
        if killed := _read_owner(workspace).get("run"):
            end_processes(killed)
        run_id = uuid.uuid4().hex
        _write_owner(workspace, run_id, None)
        try:
            yield run_id
        finally:
            end_processes(run_id)
            _owner_file(workspace).unlink(missing_ok=True)


def end_processes(run_id: str) -> None:
    """End every process that carries the mark of a run: its kernel and what that started. Not this process."""
    import psutil

    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run_id:
                process.kill()
                marked.append(process)
    psutil.wait_procs(marked, timeout=10)


def _owner_file(workspace: store.Workspace) -> Path:
    return workspace.root / ".run" / "owner.json"


def _write_owner(workspace: store.Workspace, run_id: str, at: dict[str, Any] | None) -> None:
    store.write_json(_owner_file(workspace), {"run": run_id, "pid": os.getpid(), "at": at})


def _read_owner(workspace: store.Workspace) -> dict[str, Any]:
    try:
        owner: dict[str, Any] = json.loads(_owner_file(workspace).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner


@contextmanager
def _stoppable() -> Iterator[None]:
    """While inside, being told to end (SIGTERM, a closed terminal) is an interrupt: kernels are ended, not left."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in names:
            signal.signal(number, stop)
        yield
    finally:
        for number in names:
            signal.signal(number, signal.SIG_DFL)


# --- status ---------------------------------------------------------------------------


def status(profile: str) -> dict[str, Any]:
    """Where a profile stands, JSON-ready: what runs now, and for each notebook state, reasons, seconds and end.

    States: running, up to date, stale, failed, not run, opt-in (not run, and only when asked for).

    Raises:
        ParamsError, SuiteError: as `load`.
    """
    steps, workspace = load(profile)
    manifest = read_manifest(workspace)
    running = _running(workspace)
    at = (running or {}).get("at") or {}
    rows = []
    from sprint_lib import estimate

    for plan in make_plan(steps, workspace, manifest, hours=estimate.hours(estimate.needs(steps))):
        name = plan.step.name
        entry, failure = manifest["notebooks"].get(name), manifest["failures"].get(name)
        state = "running" if name == at.get("notebook") else _state(plan, bool(entry), bool(failure))
        row = {"notebook": name, "state": state, "why": plan.why, "estimated_seconds": plan.seconds}
        rows.append(
            {**row, "seconds": entry and entry["seconds"], "ended": entry and entry["ended"], "failure": failure}
        )
    outputs = {"root": str(workspace.root), "claims": str(workspace.claims), "report": str(workspace.report)}
    return {"profile": profile, "running": running, "outputs": outputs, "notebooks": rows}


def _state(plan: Plan, finished: bool, failed: bool) -> str:
    if failed and not plan.lacking:
        return "failed"
    never = "opt-in" if plan.step.opt_in else "not run"
    return ("stale" if finished else never) if plan.reasons else "up to date"


def _running(workspace: store.Workspace) -> dict[str, Any] | None:
    """The run at work in a workspace: its process, and notebook and cell; None if there is none."""
    owner = _read_owner(workspace)
    if not owner:
        return None
    try:
        with (workspace.root / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return owner
    except FileNotFoundError:
        pass
    return None
