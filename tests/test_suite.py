"""The runner on three tiny notebooks: order, skipping, failures, refusals, and kill -9 at random moments."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import repository

from sprint_lib import params, progress, released, report, store, suite

NAMES = ["00_numbers", "01_sums", "10_end"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which cells are executed in this process: what surrounds the kernel is under test."""
    monkeypatch.setattr(suite, "_execute", _in_process)
    monkeypatch.delenv("SPRINT_OUTPUTS", raising=False)
    monkeypatch.chdir(repository.make(tmp_path))
    return tmp_path


def _in_process(step: params.Step, workspace: store.Workspace, run_id: str, temporary: Path, watch: Any) -> None:
    content = json.loads(step.notebook.path.read_text())
    content["metadata"]["papermill"] = {}
    temporary.write_text(json.dumps(content))
    names: dict[str, Any] = {}
    for index, (kind, source) in enumerate(step.notebook.cells):
        watch(cell={"cell_type": kind}, cell_index=index)
        try:
            exec(source if kind == "code" else "", names)
        except Exception as error:
            raise suite.NotebookFailed(step.name, repr(error), f"In [{index}]", ["last line"]) from error
        if index == step.notebook.parameters_cell:
            names |= step.parameters


def run(**options: Any) -> tuple[int, str]:
    stream = io.StringIO()
    status = suite.run("quick", stream=stream, **options)
    return status, stream.getvalue()


def states() -> dict[str, str]:
    return {row["notebook"]: row["state"] for row in suite.status("quick")["notebooks"]}


def why(name: str) -> list[str]:
    return next(row["why"] for row in suite.status("quick")["notebooks"] if row["notebook"] == name)


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / "notebooks" / f"{name}.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- order and skipping ---------------------------------------------------------------


def test_order_then_nothing_to_do(root: Path) -> None:
    assert states() == dict.fromkeys(NAMES, "not run")
    status, said = run()
    assert status == 0
    assert re.findall(r"(\d\d_\w+) +done", said) == NAMES
    manifest = json.loads((root / "outputs/quick/manifest.json").read_text())
    entry = manifest["notebooks"]["01_sums"]
    assert entry["fingerprint"]["parameters"] == {"profile": "quick", "scale": 1.0}
    assert entry["outputs"] == {"tables/sums.csv": store.hash_path(root / "outputs/quick/tables/sums.csv")}
    assert "sprint_lib/store.py" in entry["fingerprint"]["library"]
    assert manifest["provenance"]["python"]
    status, said = run()
    assert status == 0
    assert re.findall(r"(\d\d_\w+) +up to date", said) == NAMES
    assert states() == dict.fromkeys(NAMES, "up to date")
    assert json.loads((root / "outputs/quick/manifest.json").read_text()) == manifest


def test_changed_parameter_runs_what_depends_on_it(root: Path) -> None:
    run()
    repository.write_profile(
        root, "profile: quick\nnotebooks:\n  00_numbers: {}\n  01_sums: {scale: 2}\n  10_end: {}\n"
    )
    assert states() == {"00_numbers": "up to date", "01_sums": "stale", "10_end": "stale"}
    assert why("01_sums") == ["parameter scale: 1.0 → 2.0"]
    _, said = run(dry_run=True)
    assert "2 of 3 notebooks would run" in said
    assert "01_sums runs first and writes tables/sums.csv" in said
    _, said = run()
    assert re.findall(r"(\d\d_\w+) +up to date", said) == ["00_numbers"]
    assert states() == dict.fromkeys(NAMES, "up to date")


def test_equal_outputs_stop_a_change(root: Path) -> None:
    run()
    edit(root, "00_numbers", "'records'", "'of them'")
    assert states() == {"00_numbers": "stale", "01_sums": "stale", "10_end": "stale"}
    _, said = run()
    assert re.findall(r"(\d\d_\w+) +done", said) == ["00_numbers"]
    assert re.findall(r"(\d\d_\w+) +up to date", said) == ["01_sums", "10_end"]


def test_reasons_to_run(root: Path) -> None:
    run()
    edit(root, "00_numbers", "'records'", "'of them'")
    assert why("00_numbers") == ["its cells changed"]
    outputs = root / "outputs/quick"
    (outputs / "tables/sums.csv").write_text("tampered")
    assert why("01_sums")[0] == "tables/sums.csv was changed"
    assert why("10_end") == ["tables/sums.csv changed", "01_sums runs first and writes tables/sums.csv"]
    (outputs / "notebooks/10_end.ipynb").unlink()
    (outputs / "tables/final.csv").unlink()
    assert {"tables/final.csv is missing", "its executed copy is missing"} <= set(why("10_end"))
    assert run()[0] == 0
    assert states() == dict.fromkeys(NAMES, "up to date")


def test_only_a_module_that_is_reached_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = suite.fingerprint(suite.load("quick")[0][0], store.Workspace("quick"))["library"]
    assert set(reached) == {"sprint_lib/__init__.py", "sprint_lib/store.py"}
    before = {"cells": "a", "parameters": {}, "library": {"sprint_lib/store.py": "1"}, "inputs": {}, "needs": {}}
    after = {**before, "library": {"sprint_lib/store.py": "2"}, "parameters": {"n": 3}}
    assert suite.differences(before, after) == ["parameter n: None → 3", "sprint_lib/store.py changed"]


def test_only_from_and_force(root: Path) -> None:
    assert "01_sums" not in run(only=["00"])[1]
    assert re.findall(r"(\d\d_\w+) +done", run(start="01")[1]) == ["01_sums", "10_end"]
    assert re.findall(r"(\d\d_\w+) +done", run(only=["10", "00"], force=True)[1]) == ["00_numbers", "10_end"]


def test_dry_run_writes_nothing(root: Path) -> None:
    status, said = run(dry_run=True)
    assert status == 0
    assert "3 of 3 notebooks would run, about 2 min" in said
    assert not (root / "outputs").exists()


def test_a_profile_of_ones_own_takes_as_long_as_laptop(root: Path) -> None:
    for name, (cells, inputs, outputs) in repository.FLOW.items():
        path = root / "notebooks" / f"{name}.ipynb"
        repository.write_notebook(path, cells, inputs, outputs, minutes={"quick": 0.5, "laptop": 2})
    assert "would run, about 2 min" in run(dry_run=True)[1]
    copy = root / "params" / "mine.yaml"
    copy.write_text((root / "params" / "quick.yaml").read_text())
    with pytest.raises(params.ParamsError, match=r"mine.yaml: 'profile' is 'quick', .*; write profile: mine"):
        suite.run("mine", dry_run=True)
    copy.write_text(copy.read_text().replace("quick", "mine"))
    stream = io.StringIO()
    assert suite.run("mine", dry_run=True, stream=stream) == 0
    assert "would run, about 6 min" in stream.getvalue()


# --- notebooks that need more than comes with the project -----------------------------

AUDIT = (
    'profile = "laptop"\nreleased = ""',
    "# Audit",
    "from sprint_lib import store\nfrom sprint_lib.released import find\nworkspace = store.Workspace(profile)",
    'files = sum(1 for path in find(released).root.rglob("*") if path.is_file())\n'
    'store.write_json(workspace.data / "audit.json", files)',
)
LAST = (
    'profile = "laptop"',
    "# The end",
    "from sprint_lib import store\nworkspace = store.Workspace(profile)\n"
    'audit = workspace.data / "audit.json"\n'
    'store.write_text(workspace.tables / "final.csv", audit.read_text() if audit.exists() else "none")',
)


@pytest.fixture
def audited(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository with a notebook that needs the released outputs, which are not there, and one that reads it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.delenv("SPRINT_RELEASED_DIR", raising=False)
    repository.write_notebook(root / "notebooks/05_audit.ipynb", AUDIT, [], ["data/audit.json"], needs="released")
    last = root / "notebooks/10_end.ipynb"
    repository.write_notebook(last, LAST, ["tables/sums.csv"], ["tables/final.csv"], optional=["data/audit.json"])
    notebooks = "".join(f"  {name}: {{}}\n" for name in ("00_numbers", "01_sums", "05_audit", "10_end"))
    repository.write_profile(root, f"profile: quick\nnotebooks:\n{notebooks}")
    return root


def final(root: Path) -> str:
    return (root / "outputs/quick/tables/final.csv").read_text().strip()


def provided(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for the released outputs, named by the variable."""
    copy = repository.released(root / "copy")
    monkeypatch.setattr(released, "PARTS", repository.known(copy))
    monkeypatch.setenv("SPRINT_RELEASED_DIR", str(copy))
    return copy


def test_without_what_it_needs_a_notebook_is_not_run_and_the_rest_is(audited: Path) -> None:
    said = run(dry_run=True)[1]
    assert re.search(r"05_audit +not run .*cache/sprint/released: .*`sprint released fetch`.*SPRINT_RELEASED_DIR", said)
    assert "3 of 4 notebooks would run" in said
    status, said = run()
    assert status == 0
    assert re.findall(r"(\d\d_\w+) +done", said) == ["00_numbers", "01_sums", "10_end"]
    assert re.search(r"05_audit +not run +.*`sprint released fetch`", said)
    assert final(audited) == "none"
    assert states() == {**dict.fromkeys(NAMES, "up to date"), "05_audit": "not run"}
    (reason,) = why("05_audit")
    assert "`sprint released fetch`" in reason
    assert not (audited / "outputs/quick/notebooks/05_audit.ipynb").exists()
    assert run(only=["05"])[0] == run(only=["10"])[0] == run(only=["05"], force=True)[0] == 0


def test_once_it_is_there_the_notebook_runs_and_what_reads_it(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    provided(audited, monkeypatch)
    assert states() == {"00_numbers": "up to date", "01_sums": "up to date", "05_audit": "not run", "10_end": "stale"}
    assert why("05_audit") == ["not run yet"]
    assert why("10_end") == ["05_audit runs first and writes data/audit.json"]
    assert re.findall(r"(\d\d_\w+) +done", run()[1]) == ["05_audit", "10_end"]
    assert final(audited) == "8"
    assert set(states().values()) == {"up to date"}


def test_needed_data_count_by_what_they_are_not_by_where(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = provided(audited, monkeypatch)
    run()
    monkeypatch.setenv("SPRINT_RELEASED_DIR", str(copy.rename(audited / "moved")))
    assert states()["05_audit"] == "up to date"
    entry = json.loads((audited / "outputs/quick/manifest.json").read_text())["notebooks"]["05_audit"]
    assert entry["fingerprint"]["needs"] == {"released": {part.name: part.sha256 for part in released.PARTS}}
    (audited / "moved/math500_test.jsonl").unlink()
    assert states()["05_audit"] == "up to date"  # what it found stays found
    edit(audited, "05_audit", "# Audit", "# The audit")
    assert states()["05_audit"] == "stale"
    lacking, changed = why("05_audit")
    assert "no problems" in lacking
    assert changed == "its cells changed"
    status, said = run()
    assert status == 0
    assert re.search(r"05_audit +not run +.*no problems.*; its cells changed", said)
    assert final(audited) == "8"


def test_on_a_damaged_copy_a_notebook_is_not_run_and_the_rest_is(
    audited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = provided(audited, monkeypatch)
    (copy / "math500_test.jsonl").write_text("written for a tesT")  # as long as it was
    status, said = run()
    assert status == 0
    assert re.findall(r"(\d\d_\w+) +done", said) == ["00_numbers", "01_sums", "10_end"]
    assert re.search(r"05_audit +not run +problems: \S+: not what was released; `sprint released fetch --to ", said)
    assert final(audited) == "none"
    (copy / "math500_test.jsonl").write_text("written for a test")
    assert re.findall(r"(\d\d_\w+) +done", run()[1]) == ["05_audit", "10_end"]


def test_a_relative_folder_means_the_same_to_the_kernel(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRINT_RELEASED_DIR", "copy")
    with suite._kernel(store.Workspace("quick"), "a run"):
        spec = json.loads((audited / "outputs/quick/.run/jupyter/kernels/sprint/kernel.json").read_text())
    assert spec["env"]["SPRINT_RELEASED_DIR"] == str(audited / "copy")


def test_a_failure_is_not_the_last_word_where_the_data_are_gone(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provided(audited, monkeypatch)
    edit(audited, "05_audit", "files = ", "files = 1 / 0 + ")
    assert run()[0] == 1
    assert states()["05_audit"] == "failed"
    monkeypatch.delenv("SPRINT_RELEASED_DIR")
    assert states()["05_audit"] == "not run"
    assert run()[0] == 0


# --- opt-in notebooks -----------------------------------------------------------------


def opt_in(root: Path, name: str) -> None:
    notebooks = "".join(f"  {notebook}: {{}}\n" for notebook in NAMES)
    repository.write_profile(root, f"profile: quick\nopt_in: [{name}]\nnotebooks:\n{notebooks}")


def pages(root: Path) -> set[str]:
    return {path.stem for path in (root / "outputs/quick/report/notebooks").iterdir()}


def test_an_opt_in_notebook_is_left_out_until_it_is_named(root: Path) -> None:
    opt_in(root, "10_end")
    said = run(dry_run=True)[1]
    assert re.search(r"10_end +left out +opt-in; `sprint run --profile quick --only 10`, < 1 min\n", said)
    assert "2 of 3 notebooks would run" in said
    for options in ({}, {"force": True}, {"start": "10"}):
        status, said = run(**options)
        assert status == 0
        assert re.search(r"10_end +left out +opt-in; `sprint run --profile quick --only 10`, < 1 min", said)
    assert states() == {"00_numbers": "up to date", "01_sums": "up to date", "10_end": "opt-in"}
    assert why("10_end") == ["opt-in; `sprint run --profile quick --only 10`, < 1 min"]
    assert pages(root) == {"00_numbers", "01_sums"}
    assert "opt-in, not run" in (root / "outputs/quick/report/index.html").read_text()
    assert re.findall(r"(\d\d_\w+) +done", run(only=["10"])[1]) == ["10_end"]
    assert set(states().values()) == {"up to date"}
    assert pages(root) == set(NAMES)
    assert re.findall(r"(\d\d_\w+) +up to date", run()[1]) == NAMES


def test_a_stale_opt_in_notebook_waits_to_be_asked_for(root: Path) -> None:
    opt_in(root, "10_end")
    assert re.findall(r"(\d\d_\w+) +done", run(also=["10_end"])[1]) == NAMES
    edit(root, "10_end", "# The end", "# The very end")
    assert states()["10_end"] == "stale"
    assert why("10_end") == ["opt-in; `sprint run --profile quick --only 10`, < 1 min", "its cells changed"]
    assert re.search(r"10_end +left out +opt-in; .*; its cells changed", run()[1])
    assert pages(root) == set(NAMES)
    assert re.findall(r"(\d\d_\w+) +done", run(only=["00"], also=["10"])[1]) == ["10_end"]
    assert set(states().values()) == {"up to date"}


def test_what_reads_an_opt_in_notebook_waits_for_it(root: Path) -> None:
    opt_in(root, "01_sums")
    status, said = run()
    assert status == 0
    assert re.findall(r"(\d\d_\w+) +done", said) == ["00_numbers"]
    assert re.search(r"10_end +not run +reads tables/sums.csv, which 01_sums writes, and that is not run\n", said)
    assert states() == {"00_numbers": "up to date", "01_sums": "opt-in", "10_end": "not run"}
    assert re.findall(r"(\d\d_\w+) +done", run(also=["01"])[1]) == ["01_sums", "10_end"]
    edit(root, "01_sums", "# Sums", "# The sums")
    assert states() == {"00_numbers": "up to date", "01_sums": "stale", "10_end": "up to date"}


def test_an_opt_in_notebook_that_failed_stands_as_failed(root: Path) -> None:
    opt_in(root, "10_end")
    edit(root, "10_end", "table = (", "table = 1 / 0 + (")
    assert run(also=["10"])[0] == 1
    assert states()["10_end"] == "failed"
    status, said = run()
    assert status == 0
    assert re.search(r"10_end +left out +opt-in; .*; failed last time", said)


def test_the_default_profile_is_not_named(root: Path) -> None:
    (root / "params" / "laptop.yaml").write_text(
        "profile: laptop\nopt_in: [10_end]\nnotebooks: {00_numbers: {}, 01_sums: {}, 10_end: {}}\n"
    )
    stream = io.StringIO()
    assert suite.run("laptop", dry_run=True, stream=stream) == 0
    assert "opt-in; `sprint run --only 10`, " in stream.getvalue()


def test_names_of_opt_in_notebooks_are_checked(root: Path) -> None:
    with pytest.raises(params.ParamsError, match=r"no notebook '10_ende' .did you mean '10_end'"):
        run(also=["10_ende"])
    opt_in(root, "10_ende")
    with pytest.raises(
        params.ParamsError, match=r"quick.yaml: opt_in: '10_ende' is not under 'notebooks' .did you mean"
    ):
        run()


# --- refusals and failures ------------------------------------------------------------


def test_missing_input_is_refused_before_anything_runs(root: Path) -> None:
    with pytest.raises(suite.SuiteError, match=r"10_end: reads tables/sums.csv, .*; run 01_sums first"):
        run(start="10")
    assert not (root / "outputs").exists()


def test_only_before_from_is_refused(root: Path) -> None:
    for dry_run in (False, True):
        with pytest.raises(params.ParamsError, match="--only 00 and --from 10 leave no notebook to run"):
            suite.run("quick", only=["00"], start="10", dry_run=dry_run)
    assert not (root / "outputs").exists()


def test_unknown_profile_and_outside_a_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(suite.SuiteError, match=r"no profile 'quik' \(did you mean 'quick'\?\); there are: quick"):
        suite.run("quik")
    monkeypatch.chdir("/")
    with pytest.raises(suite.SuiteError, match="not inside the repository"):
        suite.run("quick")


def test_damaged_manifest_is_named(root: Path) -> None:
    run()
    store.write_text(root / "outputs/quick/manifest.json", "{")
    with pytest.raises(suite.SuiteError, match=r"manifest.json: damaged .*delete it"):
        run()


def test_failure_is_shown_kept_and_gone_on_from(root: Path) -> None:
    edit(root, "01_sums", "scale * sum", "scale / 0 + sum")
    status, said = run()
    assert status == 1
    assert re.search(r"01_sums +FAILED", said)
    assert "ZeroDivisionError" in said
    assert "last line" in said
    outputs = root / "outputs/quick"
    assert (outputs / "notebooks/01_sums.failed.ipynb").exists()
    assert not (outputs / "notebooks/01_sums.ipynb").exists()
    assert states() == {"00_numbers": "up to date", "01_sums": "failed", "10_end": "not run"}
    edit(root, "01_sums", "scale / 0 + sum", "scale * sum")
    status, said = run()
    assert status == 0
    assert re.findall(r"(\d\d_\w+) +done", said) == ["01_sums", "10_end"]
    assert not (outputs / "notebooks/01_sums.failed.ipynb").exists()
    assert states() == dict.fromkeys(NAMES, "up to date")


def test_undeclared_silence_is_a_failure(root: Path) -> None:
    edit(root, "01_sums", 'sums.csv\\", text', 'other.csv\\", text')
    status, said = run()
    assert status == 1
    assert "ended without writing tables/sums.csv" in said


# --- the progress line ----------------------------------------------------------------


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_rewrites_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    stream = _Terminal()
    with progress.Progress(stream, 2, 6) as line:
        line.start(1, "00_one", 7, 90.0, 60.0)
        line.cell(3)
        line.say(1, "00_one", "done", "7 cells, 0:01")
    shown = stream.getvalue().split("\r\x1b[K")
    assert shown[-1] == "[ 1/2] 00_one  done       7 cells, 0:01\n"
    assert any("running    cell 3/7" in text for text in shown)
    assert all(len(text) < 50 for text in shown)


def test_progress_elsewhere_is_plain_lines() -> None:
    stream = io.StringIO()
    with progress.Progress(stream, 2, 6) as line:
        line.start(1, "00_one", 7, 90.0, 3600.0)
        line.say(1, "00_one", "FAILED")
    first, last = stream.getvalue().splitlines()
    assert first == "[ 1/2] 00_one  starting                 0:00, ~1:30 left (all: ~1:01:30)"
    assert last == "[ 1/2] 00_one  FAILED"


def test_progress_admits_that_it_takes_longer() -> None:
    stream = _Terminal()
    with progress.Progress(stream, 1, 6) as line:
        line.start(1, "00_one", 7, 1e-9, 0.0)
        line.cell(2)
    assert stream.getvalue().endswith("running    cell 2/7      0:00, longer than estimated\n")


# --- with real kernels ----------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run, by the command, of somebody whose home folder is empty."""
    root = repository.make(tmp_path_factory.mktemp("real"))
    (root / "home").mkdir()
    done = repository.sprint(root, "run", "--profile", "quick", home=root / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"(\d\d_\w+) +done", done.stdout) == NAMES
    # Jupyter interrupts a kernel before it ends it, and that may still be at its last message.
    assert done.stderr.replace("[IPKernelApp] ERROR | KeyboardInterrupt caught in kernel.\n", "") == ""
    return root


def tables(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "outputs/quick/tables").iterdir()}


def test_kernel_is_this_environment_and_home_stays_empty(real: Path) -> None:
    assert list((real / "home").iterdir()) == []
    text = (real / "outputs/quick/notebooks/00_numbers.ipynb").read_text()
    content = json.loads(text)
    assert content["metadata"]["papermill"]["parameters"]["profile"] == "quick"
    assert content["cells"][-1]["outputs"][0]["text"] == ["4 records\n"]
    assert str(real) not in text
    assert tables(real)["final.csv"] == b"word,characters\nsum,52\n"


def test_report_stands_alone(real: Path) -> None:
    folder = real / "outputs/quick/report"
    front = (folder / "index.html").read_text()
    assert "14.0 <small>[0,&nbsp;99]</small>" in front
    for page in [folder / "index.html", *sorted((folder / "notebooks").iterdir())]:
        text = page.read_text()
        assert not re.search(r"(src|href)=.?(https?:)?//|<script", text)
        for link in re.findall(r'(?:href|src)="([^"#]+)"', text):
            assert (page.parent / link).exists(), link
    assert "<math" in (folder / "notebooks/00_numbers.html").read_text()
    stamp = (folder / "index.html").stat().st_mtime_ns
    done = repository.sprint(real, "run", "--profile", "quick")
    assert done.returncode == 0
    assert (folder / "index.html").stat().st_mtime_ns == stamp


def test_failing_kernel(tmp_path: Path) -> None:
    root = repository.make(tmp_path)
    edit(root, "00_numbers", "import time", "import time, os\\nos.close(9999)")
    done = repository.sprint(root, "run", "--profile", "quick", "--only", "00")
    assert done.returncode == 1
    assert "00_numbers, In [3]: OSError: [Errno 9] Bad file descriptor" in done.stdout
    assert "os.close(9999)" in done.stdout
    assert "\x1b" not in done.stdout
    assert (root / "outputs/quick/notebooks/00_numbers.failed.ipynb").exists()


@pytest.mark.slow
def test_dying_kernel(tmp_path: Path) -> None:
    root = repository.make(tmp_path)
    edit(root, "00_numbers", "import time", "import time, os\\nos._exit(3)")
    done = repository.sprint(root, "run", "--profile", "quick", "--only", "00")
    assert done.returncode == 1
    assert "00_numbers: the kernel ended: Kernel died" in done.stdout
    assert (root / "outputs/quick/notebooks/00_numbers.failed.ipynb").exists()


def start(root: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        repository.command("run", "--profile", "quick"),
        cwd=root,
        env=repository.environment(root),
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
    )


def slow_repository(root: Path, first: float = 0.5, last: float = 0.0) -> Path:
    """As FLOW, but each record of the first notebook takes `first` seconds, the table of the last one `last`."""
    wanted: dict[str, Any] = {"00_numbers": {"n": 4, "seconds": first}, "01_sums": {}, "10_end": {}}
    repository.make(root, json.dumps({"profile": "quick", "notebooks": wanted}))  # JSON is YAML
    edit(root, "10_end", "table = (", f"import time\\ntime.sleep({last})\\ntable = (")
    return root


def records(root: Path) -> list[str]:
    path = root / "outputs/quick/data/numbers.jsonl"
    return list(store.read_log(path)) if path.exists() and path.stat().st_size else []


def wait_for_a_record(root: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not records(root):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kernels(root: Path) -> Iterator[int]:
    """Processes that were started with an environment that names this repository's outputs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if suite.RUN_VARIABLE.encode() in environment and str(root).encode() in environment:
            yield int(folder.name)


def test_one_run_at_a_time_and_kill(tmp_path: Path, real: Path) -> None:
    root, gate = slow_repository(tmp_path, first=0.05), tmp_path / "gate"
    gate.touch()  # while it is there, the first notebook comes no further than its first record
    held = f"while i and __import__('os').path.exists({str(gate)!r}): time.sleep(seconds)"
    edit(root, "00_numbers", "time.sleep(seconds)", held)
    running = start(root)
    try:
        wait_for_a_record(root, running)
        refused = repository.sprint(root, "run", "--profile", "quick")
        assert refused.returncode == 2
        assert f"another `sprint run` is at work here (process {running.pid})" in refused.stderr
        found = json.loads(repository.sprint(root, "status", "--profile", "quick", "--json").stdout)
        assert found["running"]["at"]["notebook"] == "00_numbers"
        assert found["notebooks"][0]["state"] == "running"
        assert running.poll() is None
    finally:
        running.kill()
        running.communicate()
    before = records(root)
    gate.unlink()
    done = repository.sprint(root, "run", "--profile", "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(root) == ["0", "1", "2", "3"]
    assert records(root)[: len(before)] == before
    assert tables(root) == tables(real)
    assert list(kernels(root)) == []


@pytest.mark.slow
def test_told_to_end_leaves_no_kernel(tmp_path: Path) -> None:
    root = slow_repository(tmp_path)
    running = start(root)
    wait_for_a_record(root, running)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the same command goes on from there" in said
    assert list(kernels(root)) == []


def test_a_kernel_left_behind_is_ended_by_the_next_run(root: Path) -> None:
    """What a kill leaves may go on writing; a process with the mark of the killed run stands for it."""
    environment = {**os.environ, suite.RUN_VARIABLE: "killed"}
    left = subprocess.Popen(["sleep", "60"], env=environment)
    store.write_json(root / "outputs/quick/.run/owner.json", {"run": "killed", "pid": 1, "at": None})
    assert run(only=["00"])[0] == 0
    left.wait(timeout=10)


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path, real: Path) -> None:
    draw = random.Random(0)
    moments = [draw.uniform(0.3, 8.0) for _ in range(5)]
    # The last notebook, which starts from its beginning each time, outlasts every kill: none can hit a finished run.
    root = slow_repository(tmp_path, last=max(moments))
    seen: list[str] = []
    for moment in moments:
        running = start(root)
        time.sleep(moment)
        assert running.poll() is None, "the run ended before it was killed"
        running.kill()
        running.communicate()
        assert records(root)[: len(seen)] == seen
        seen = records(root)
    assert repository.sprint(root, "run", "--profile", "quick").returncode == 0
    assert records(root) == ["0", "1", "2", "3"]
    assert tables(root) == tables(real)


def test_report_title_falls_back_to_the_name(tmp_path: Path) -> None:
    repository.write_notebook(tmp_path / "01_x.ipynb", ('profile = "laptop"', "print(profile)"))
    step = params.Step(params.read_notebook(tmp_path / "01_x.ipynb"), {})
    assert report._title(step) == "01_x"
