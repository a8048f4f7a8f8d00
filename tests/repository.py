"""A tiny repository made on the fly: numbered notebooks, a profile, and the command `sprint` run inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprint_lib.released import Part

LIBRARY = Path(__file__).parent.parent

FIRST = (
    'profile = "laptop"\nn = 4\nseconds = 0.0',
    "# Numbers\n\nOne record a number, so that a killed run goes on: $n^2$.",
    "import time\nfrom sprint_lib import store\nworkspace = store.Workspace(profile)",
    'with store.RecordLog(workspace.data / "numbers.jsonl", {"n": n}) as log:\n'
    "    for i in range(n):\n"
    "        if str(i) not in log:\n"
    "            time.sleep(seconds)\n"
    '            log.append(str(i), {"square": i * i})\n'
    "print(len(log), 'records')",
)
SECOND = (
    'profile = "laptop"\nscale = 1.0',
    "# Sums",
    "from sprint_lib import store\nworkspace = store.Workspace(profile)\n"
    'squares = [r["square"] for r in store.read_log(workspace.data / "numbers.jsonl").values()]',
    'text = f"method,total,total_low,total_high\\nsquares,{scale * sum(squares)},0,99\\n"\n'
    'store.write_text(workspace.tables / "sums.csv", text)',
)
THIRD = (
    'profile = "laptop"\nword = "sum"',
    "# The end",
    "from sprint_lib import store\nworkspace = store.Workspace(profile)\n"
    'table = (workspace.tables / "sums.csv").read_text()\n'
    'store.write_text(workspace.tables / "final.csv", f"word,characters\\n{word},{len(table)}\\n")',
)
FLOW: dict[str, tuple[tuple[str, ...], list[str], list[str]]] = {
    "00_numbers": (FIRST, [], ["data/numbers.jsonl"]),
    "01_sums": (SECOND, ["data/numbers.jsonl"], ["tables/sums.csv"]),
    "10_end": (THIRD, ["tables/sums.csv"], ["tables/final.csv"]),
}


def write_notebook(
    path: Path, cells: Sequence[str], inputs: Sequence[str] = (), outputs: Sequence[str] = (), **metadata: Any
) -> None:
    """A notebook whose first cell is the parameters cell; cells that begin with # and a blank are markdown."""
    made: list[dict[str, Any]] = []
    for number, source in enumerate(cells):
        kind = "markdown" if source.startswith("# ") else "code"
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
        if kind == "code":
            cell |= {"outputs": [], "execution_count": None}
        made.append(cell)
    made[0]["metadata"]["tags"] = ["parameters"]
    sprint = {"inputs": list(inputs), "outputs": list(outputs), "minutes": {"quick": 0.5}, **metadata}
    # A kernel that no machine has: the runner must not look at it.
    kernel = {"name": "no-such-kernel", "display_name": "None", "language": "python"}
    content = {
        "cells": made,
        "metadata": {"sprint": sprint, "kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_profile(root: Path, text: str, name: str = "quick") -> Path:
    path = root / "params" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def make(
    root: Path, profile: str = "profile: quick\nnotebooks:\n  00_numbers: {}\n  01_sums: {}\n  10_end: {}\n"
) -> Path:
    """The repository of the three notebooks of FLOW."""
    for name, (cells, inputs, outputs) in FLOW.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", cells, inputs, outputs)
    write_profile(root, profile)
    return root


def released(root: Path) -> Path:
    """A folder in the layout of the released outputs, a file or two of every part; `known` has their hashes."""
    from sprint_lib.released import PARTS

    for pattern in (pattern for part in PARTS for pattern in part.patterns):
        path = root / pattern.replace("*", "a").replace("[0-5]", "0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("written for a test")
    return root


def known(root: Path) -> tuple[Part, ...]:
    """The parts of the release with the hashes that a folder has now."""
    from sprint_lib.released import PARTS

    return tuple(replace(part, sha256=part.digest(root)) for part in PARTS)


def environment(home: Path) -> dict[str, str]:
    """The environment of a user with an empty home folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "IPYTHON", "MPL", "XDG"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(LIBRARY), "SPRINT_OUTPUTS": ""}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sprint_lib", *arguments]


def sprint(root: Path, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `sprint ARGUMENTS` in a repository, to its end."""
    where = environment(home or root)
    return subprocess.run(
        command(*arguments), cwd=root, env=where, capture_output=True, text=True, timeout=900, check=False
    )
