"""What works on this machine and what to do about the rest: `sprint doctor`. Every finding is ok, optional (the
laptop profile does without it) or missing, and one that is not ok says how to mend it.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from sprint_lib import models, released, serving, store

_DISTRIBUTION = "sprint-replication"
_MEMORY_GB, _DISK_GB = 3.0, 2.0  # what the laptop profile needs
_SHIPPED = ("countdown-base", "countdown-sprint", "longhand-base", "longhand-rft", "longhand-sprint")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
mps = torch.backends.mps.is_available()
print(json.dumps({"version": torch.__version__, "gpus": gpus, "mps": mps, "threads": torch.get_num_threads()}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its state is ok, optional or missing; `remedy` says what to do unless it is ok."""

    name: str
    state: str
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything the project uses. Takes some seconds (torch is imported in a process of its own)."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _lock, _machine, _torch, _folders, _models, _released, _server, _programs,
    ]  # fmt: skip
    return [finding for check in checks for finding in check()]


def show(findings: Sequence[Finding]) -> None:
    """Print the findings, and under each that is not ok what to do."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.state:<9} {finding.name:<{width}}  {finding.detail}")
        if finding.state != "ok":
            print(f"{'':<9} {'':<{width}}  → {finding.remedy}")
    missing = sum(finding.state == "missing" for finding in findings)
    print("\nall that the laptop profile needs is there" if not missing else f"\n{missing} missing")


def _judge(name: str, good: bool, detail: str, remedy: str, *, optional: bool = False) -> Finding:
    state = "ok" if good else "optional" if optional else "missing"
    return Finding(name, state, detail, "" if good else remedy)


# --- software -------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} in {sys.prefix}"
    yield _judge("python", good, detail, "make a new environment with Python 3.11, 3.12 or 3.13: make install")


def _packages() -> Iterator[Finding]:
    """The installed packages against what the project asks for."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in distribution(_DISTRIBUTION).requires or []]
    except PackageNotFoundError:
        yield Finding(
            "packages", "missing", f"{_DISTRIBUTION} is not installed here", "make install, or pip install -e ."
        )
        return
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [problem for one in needed if (problem := _unmet(one.name, one.specifier))]
    detail = "; ".join(wrong) or f"{len(needed)} packages as pyproject.toml asks"
    yield _judge("packages", not wrong, detail, "make install, or pip install -e .")


def _lock() -> Iterator[Finding]:
    """The installed packages against the lock file, where there is a checkout."""
    from packaging.requirements import InvalidRequirement, Requirement

    root = _root()
    path = root / "requirements.lock" if root else None
    if path is None or not path.is_file():
        return
    wrong, pinned = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            one = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:
            continue  # comments and options
        if one.marker is None or one.marker.evaluate():
            pinned += 1
            wrong += [problem] if (problem := _unmet(one.name, one.specifier)) else []
    shown = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    detail = shown or f"{pinned} packages as {path.name} pins"
    remedy = "results may differ in the last digits; make install installs what is pinned"
    yield _judge("lock", not wrong, detail, remedy, optional=True)


def _unmet(name: str, wanted: Any) -> str | None:
    """What is wrong with an installed package; None if nothing is."""
    try:
        found = distribution(name).version
    except PackageNotFoundError:
        return f"{name} is not installed"
    return None if wanted.contains(found, prereleases=True) else f"{name} {found}, wanted {wanted}"


def _torch() -> Iterator[Finding]:
    """Torch in a process of its own: an unfitting build may crash instead of raising."""
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120, check=False)
        found = json.loads(done.stdout) if done.returncode == 0 else None
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    except (subprocess.TimeoutExpired, ValueError) as error:
        found, last = None, str(error)
    if found is None:
        yield Finding("torch", "missing", last, "make install; on an old processor or system try another torch build")
        return
    yield Finding("torch", "ok", f"{found['version']}, {found['threads']} threads")
    device = ", ".join(found["gpus"]) or ("Apple GPU" if found["mps"] else "none; the CPU does it")
    remedy = "not needed; fine-tuning uses one where torch is a build for it"
    yield _judge("gpu", bool(found["gpus"] or found["mps"]), device, remedy, optional=True)


# --- machine --------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    import psutil

    cores = store.cores()
    yield _judge("cores", cores >= 2, str(cores), "one core does it, in about twice the time", optional=True)
    memory = psutil.virtual_memory()
    free, total = memory.available / 2**30, memory.total / 2**30
    detail = f"{free:.1f} of {total:.1f} GB available"
    yield _judge("memory", free >= _MEMORY_GB, detail, f"close other programs: {_MEMORY_GB:.0f} GB should be available")


def _folders() -> Iterator[Finding]:
    """Write access and space where the outputs go."""
    try:
        outputs = store.Workspace("laptop").root.parent
    except FileNotFoundError as error:
        yield Finding("outputs", "missing", "not inside the repository", str(error))
        return
    existing = next(folder for folder in (outputs, *outputs.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = True
    except OSError:
        writable = False
    remedy = f"make it writable, or set {store.OUTPUTS_VARIABLE} to a folder that is"
    yield _judge("outputs", writable, str(outputs), remedy)
    free = shutil.disk_usage(existing).free / 2**30
    yield _judge("disk", free >= _DISK_GB, f"{free:.1f} GB free", f"free some: {_DISK_GB:.0f} GB are needed there")


def _models() -> Iterator[Finding]:
    """The shipped models: every one must open as safetensors."""
    for name in _SHIPPED:
        try:
            from safetensors import safe_open

            with safe_open(models.path(name) / "model.safetensors", framework="numpy") as file:
                detail = f"{len(list(file.keys()))} tensors"
            yield Finding(f"model {name}", "ok", detail)
        except Exception as error:  # the library has its own kinds, and none is worth telling apart here
            remedy = f"get the file again: git checkout -- sprint_lib/models/{name}"
            yield Finding(f"model {name}", "missing", str(error), remedy)


def _released() -> Iterator[Finding]:
    """The logs that the authors of SPRINT released, all of them with their hashes or not."""
    try:
        yield Finding("released logs", "ok", str(released.find().root))
    except released.ReleasedError:
        remedy = f"`sprint released fetch`, or set {released.VARIABLE}; what needs them says *not run* until then"
        yield Finding("released logs", "optional", f"not, or not whole, in {released.locate()}", remedy)


def _server() -> Iterator[Finding]:
    """The environment of the model server: there or not, nothing is started here."""
    try:
        found = serving.environment()
        yield Finding("model server", "ok", f"vLLM for {found.device} in {found.folder}")
    except serving.ServingError as error:
        remedy = "`make server`; only `sprint serve-model` and its slow tests need it"
        yield Finding("model server", "optional", str(error).partition(";")[0], remedy)


def _programs() -> Iterator[Finding]:
    git = shutil.which("git")
    yield _judge("git", git is not None, git or "not found", "install git; results then name the commit", optional=True)
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    remedy = "only the slow tests need it: install chromium, for example apt-get install chromium"
    yield _judge("chromium", browser is not None, browser or "not found", remedy, optional=True)


def _root() -> Path | None:
    try:
        return store.repository_root()
    except FileNotFoundError:
        return None
