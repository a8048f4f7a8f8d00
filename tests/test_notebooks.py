"""What every committed notebook must be: runnable by the suite, readable by a group, free of any run's leavings."""

from __future__ import annotations

import ast
import itertools
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sprint_lib.params import Notebook, checked_steps, load_profile, parse_cell, read_notebook
from sprint_lib.suite import RUN_VARIABLE

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = ("smoke", "laptop")
LONGEST_CELL = 15  # lines of code
LONGEST_PARAMETERS = 90  # a table of what runs may stand there
RESIDUE = {"papermill", "execution", "widgets", "collapsed", "jupyter"}


def content(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 14


def test_it_is_clean(path: Path) -> None:
    notebook = content(path)
    nbformat.validate(notebook)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "sprint"}
    for cell in notebook["cells"]:
        assert not RESIDUE & set(cell["metadata"]), f"left behind by a run: {cell['metadata']}"
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_the_suite_can_run_it(path: Path) -> None:
    notebook = read_notebook(path)  # exactly one parameters cell, sound metadata
    assert next(iter(notebook.defaults)) == "profile"
    assert not set(notebook.defaults) - notebook.used()
    assert notebook.outputs or path.stem.endswith("provenance")
    assert set(notebook.minutes) == set(PROFILES)
    for number, code in enumerate(notebook.code):
        parse_cell(path, number, code)


def test_prose_comes_before_code(path: Path) -> None:
    kinds = [cell["cell_type"] for cell in content(path)["cells"]]
    assert 15 <= len(kinds) <= 30, f"{len(kinds)} cells"
    assert kinds[0] == "markdown"
    assert all(before == "markdown" for before, now in itertools.pairwise(kinds) if now == "code")


def test_cells_are_short(path: Path) -> None:
    for cell in content(path)["cells"]:
        if cell["cell_type"] == "code":
            lines = source(cell).splitlines()
            longest = LONGEST_PARAMETERS if "parameters" in cell["metadata"].get("tags", []) else LONGEST_CELL
            assert len(lines) <= longest, source(cell)
            assert max(map(len, lines)) <= 120, source(cell)


def test_it_reads_from_question_to_provenance(path: Path) -> None:
    cells = content(path)["cells"]
    texts = [source(cell) for cell in cells if cell["cell_type"] == "markdown"]
    assert re.match(r"# \d\d · .+\n\n\*\*The question\.\*\* .+\?", texts[0], re.DOTALL)
    assert all(word in texts[1] for word in ("reads", "writes", "takes"))
    headings = [match.group(1) for text in texts for match in re.finditer(r"^## (.+)$", text, re.MULTILINE)]
    assert headings[-3:] == ["What we found", "For the reading group", "Provenance"]
    questions = next(text for text in texts if text.startswith("## For the reading group"))
    assert len(re.findall(r"^\d\. ", questions, re.MULTILINE)) == 2
    assert "provenance" in source(cells[-1])


def test_findings_are_computed(path: Path) -> None:
    """The cell under *What we found* formats values; no sentence of it is typed in whole."""
    cells = content(path)["cells"]
    at = next(k for k, cell in enumerate(cells) if source(cell) == "## What we found")
    tree = ast.parse(source(cells[at + 1]))
    assert sum(isinstance(node, ast.FormattedValue) for node in ast.walk(tree)) >= 3


def test_no_number_of_a_run_is_typed_into_the_prose(path: Path) -> None:
    """Percentages and intervals belong to results, and results are computed."""
    for cell in content(path)["cells"]:
        if cell["cell_type"] == "markdown":
            typed = re.findall(r"\d+(?:\.\d+)? ?%(?! (?:interval|bootstrap))", source(cell))
            assert not typed, f"{typed} in: {source(cell)}"


def saved(notebook: Notebook) -> list[str]:
    """Figures and tables that the code writes with `plots.save` and `tables.write`, from its syntax trees."""
    found = []
    for number, code in enumerate(notebook.code):
        for node in ast.walk(parse_cell(notebook.path, number, code)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="plots"), attr="save"), args=[_, stem, *_]):
                    found.append(f"figures/{ast.literal_eval(stem)}.svg")
                case ast.Call(func=ast.Attribute(value=ast.Name(id="tables"), attr="write"), args=[_, stem, *_]):
                    found.append(f"tables/{ast.literal_eval(stem)}.csv")
    return found


def test_what_it_saves_is_what_it_declares(path: Path) -> None:
    notebook = read_notebook(path)
    assert sorted(saved(notebook)) == sorted(o for o in notebook.outputs if o.startswith(("figures/", "tables/")))


def patterns(row: str) -> list[str]:
    """Paths in a row of the text, `{a,b}` written out, a figure without its format as its SVG."""
    found = []
    for item in re.findall(r"`([^`]+)`", row):
        head, braces, tail = re.fullmatch(r"([^{]*)(?:\{([^}]*)\})?(.*)", item).groups()  # type: ignore[union-attr]
        for part in (braces or "").split(","):
            name = f"{head}{part}{tail}"
            found.append(f"{name}.svg" if re.fullmatch(r"figures/[\w-]+", name) else name)
    return found


def test_what_its_text_says_it_writes_is_what_it_declares(path: Path) -> None:
    notebook = read_notebook(path)
    row = re.search(r"^\| writes \| (.+) \|$", notebook.cells[1][1], re.MULTILINE)
    assert row
    said = patterns(row.group(1))
    declared = [output for output in notebook.outputs if any(fnmatch(output, pattern) for pattern in said)]
    assert declared == list(notebook.outputs)
    assert [pattern for pattern in said if not any(fnmatch(output, pattern) for output in declared)] == []


def test_notebook_00_changes_no_result_when_it_is_run_by_hand() -> None:
    """What it saves depends on what its reader asks, and on the clock: only the suite may write to its profile."""
    notebook = read_notebook(ROOT / "notebooks/00_start_here.ipynb")
    code = "\n".join(notebook.code)
    assert f'charts = workspace if os.environ.get("{RUN_VARIABLE}") else Workspace("by-hand")' in code
    assert code.count("plots.save(") == code.count("frame, charts)") == len(saved(notebook))


def test_what_reads_the_released_outputs_says_so(path: Path) -> None:
    notebook = read_notebook(path)
    always = notebook.needs == "released" and "source" not in notebook.defaults  # 01 reads them if it is told to
    assert ("find_or_stop(released)" in "\n".join(notebook.code)) == always
    if notebook.needs == "released":
        assert notebook.inputs == ()
        claims = [output for output in notebook.outputs if output.startswith("data/released-claims")]
        assert set(claims) <= set(read_notebook(ROOT / "notebooks/30_paper_against_this_run.ipynb").optional)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_accepted(profile: str) -> None:
    steps = checked_steps(ROOT / "notebooks", ROOT / "params" / f"{profile}.yaml")
    assert [step.name for step in steps] == [path.stem for path in NOTEBOOKS]


def test_laptop_is_the_defaults_written_out() -> None:
    _, wanted, _ = load_profile(ROOT / "params" / "laptop.yaml")
    for path in NOTEBOOKS:
        defaults = {key: value for key, value in read_notebook(path).defaults.items() if key != "profile"}
        assert wanted[path.stem] == defaults, path.stem
