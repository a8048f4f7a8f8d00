"""What is refused before anything runs, and that the message names the place and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import repository

from sprint_lib.params import ParamsError, checked_steps, load_profile, read_notebook, select

ROOT = Path(__file__).parents[1]

CELLS = (
    'profile = "laptop"\nproblems = 100\ntemperature = 0.6\nsizes = [1, 2]\n'
    'name: str = "rft"\nshuffle = True\ncap = None',
    "# Text",
    "%matplotlib inline\nprint(profile, problems, temperature, sizes)\nawait nothing()",
    "%%time\nrun(name, shuffle=shuffle, cap=cap)\n!ls",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    repository.write_notebook(tmp_path / "notebooks" / "01_traces.ipynb", CELLS, [], ["data/a.jsonl"])
    return tmp_path


def check(root: Path, values: str) -> dict[str, object]:
    path = repository.write_profile(root, f"profile: quick\nnotebooks:\n  01_traces: {values}\n")
    (step,) = checked_steps(root / "notebooks", path)
    return step.parameters


def refusal(root: Path, values: str) -> str:
    with pytest.raises(ParamsError) as caught:
        check(root, values)
    return str(caught.value)


def test_defaults_are_overlaid_and_the_profile_is_set(root: Path) -> None:
    found = check(root, "{problems: 7, temperature: 1, sizes: [3], cap: 2}")
    assert found == {
        **{"profile": "quick", "problems": 7, "temperature": 1.0, "sizes": [3]},
        **{"name": "rft", "shuffle": True, "cap": 2},
    }
    assert isinstance(found["temperature"], float)


def test_scalars_are_those_of_json(root: Path) -> None:
    assert check(root, "{temperature: 1e-3, name: on}")["temperature"] == 0.001
    assert check(root, "{name: on}")["name"] == "on"
    assert check(root, "{name: 2024-01-01}")["name"] == "2024-01-01"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{temprature: 0.5}", "01_traces: unknown key 'temprature' (did you mean 'temperature'?)"),
        ("{problems: 7.5}", "'problems' is 7.5 (float), but the notebook has 100 (int)"),
        ("{problems: true}", "'problems' is True (bool), but the notebook has 100 (int)"),
        ("{problems: }", "'problems' is None (NoneType), but the notebook has 100 (int)"),
        ("{shuffle: 1}", "'shuffle' is 1 (int), but the notebook has True (bool)"),
        ("{name: 3}", "'name' is 3 (int)"),
        ("{sizes: 3}", "'sizes' is 3 (int)"),
        ("{sizes: [1, x]}", "a list of int"),
        ("{problems: 1, problems: 2}", "the key 'problems' stands here twice"),
        ("{profile: other}", "'profile' is set by the file's own name"),
        ("{problems: !!python/object/apply:os.getcwd []}", "could not determine a constructor"),
        ("[problems]", "expected 'key: value' pairs"),
    ],
)
def test_values_refused(root: Path, values: str, said: str) -> None:
    message = refusal(root, values)
    assert said in message
    assert "quick.yaml" in message


def test_every_problem_is_told_at_once(root: Path) -> None:
    repository.write_notebook(root / "notebooks" / "02_steps.ipynb", CELLS)
    path = repository.write_profile(
        root, "profile: quick\nnotebooks:\n  01_traces: {problem: 1}\n  02_step: {}\n  02_steps: {sizes: x, nam: 2}\n"
    )
    with pytest.raises(ParamsError) as caught:
        checked_steps(root / "notebooks", path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert f"{path}: no notebook '02_step' in" in lines[0]
    assert "did you mean '02_steps'" in lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile: laptop\nnotebooks: {}", "write profile: quick"),
        ("profile: quick\nnotebook: {}", "unknown key 'notebook' (did you mean 'notebooks'?)"),
        ("profile: quick\n", "'notebooks' must name"),
        ("- 1", "expected the keys"),
        ("profile: quick\nnotebooks: {a: {b: 1}\n", "quick.yaml:3:1: "),
        ("profile: quick\nnotebooks: {1: {}}\n", "the key 1 is not a word"),
        ("profile: quick\nopt_in: [01_b]\nnotebooks: {01_a: {}}\n", "opt_in: '01_b' is not under 'notebooks' (did you"),
        ("profile: quick\nopt_in: 01_a\nnotebooks: {01_a: {}}\n", "'opt_in' must list the notebooks that run only"),
        ("profile: quick\noptin: []\nnotebooks: {01_a: {}}\n", "unknown key 'optin' (did you mean 'opt_in'?)"),
    ],
)
def test_profile_files_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load_profile(repository.write_profile(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (('profile = "laptop"\nunused = 1', "print(profile)"), "no cell uses the parameter 'unused'"),
        (('profile = "laptop"\nx = 1', "print(profile)\nx = 2"), "no cell uses the parameter 'x'"),
        (('profile = "laptop"', "print(1)"), "no cell uses the parameter 'profile'"),
        (('x = 1\nprofile = "laptop"', "print(profile, x)"), 'must begin with profile = "laptop"'),
        (('profile = "laptop"\nx = 2 * 3', "print(profile, x)"), "line 2: 'x' is no literal"),
        (('profile = "laptop"\nimport os', "print(profile)"), "line 2: only 'name = literal' may stand here"),
        (('profile = "laptop"\nx = 1\nx = 2', "print(profile, x)"), "line 3: 'x' is set twice"),
        (('profile = "laptop"', "print(profile"), "cell 2: '(' was never closed"),
    ],
)
def test_notebooks_refused(root: Path, cells: tuple[str, ...], said: str) -> None:
    repository.write_notebook(root / "notebooks" / "01_traces.ipynb", cells)
    message = refusal(root, "{}")
    assert said in message
    assert "01_traces.ipynb" in message


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"outputs": ["../x"]}, "'outputs' must list paths inside"),
        ({"inputs": ["/etc/passwd"]}, "'inputs' must list paths inside"),
        ({"inputs": "data"}, "'inputs' must list paths inside"),
        ({"minutes": {"quick": "long"}}, "'minutes' must give a number"),
        ({"output": []}, "unknown key 'output' (did you mean 'outputs'?)"),
        ({"optional": ["/x"]}, "'optional' must list paths inside"),
        ({"needs": "relaesed"}, "'needs' is 'relaesed'; known is: released, server, or leave it out"),
        ({"needs": ["released"]}, "'needs' is ['released']; known is"),
    ],
)
def test_metadata_refused(root: Path, metadata: dict[str, object], said: str) -> None:
    path = root / "notebooks" / "01_traces.ipynb"
    content = json.loads(path.read_text())
    content["metadata"]["sprint"] = metadata
    path.write_text(json.dumps(content))
    with pytest.raises(ParamsError) as caught:
        read_notebook(path)
    assert said in str(caught.value)


def test_notebook_without_its_marks(root: Path) -> None:
    path = root / "notebooks" / "01_traces.ipynb"
    content = json.loads(path.read_text())
    del content["metadata"]["sprint"]
    path.write_text(json.dumps(content))
    assert "metadata lacks 'sprint'" in refusal(root, "{}")
    content["cells"][0]["metadata"] = {}
    path.write_text(json.dumps(content))
    assert "0 cells have the tag 'parameters'" in refusal(root, "{}")
    path.write_text("not json")
    assert "not a notebook" in refusal(root, "{}")


def test_flow_of_files(tmp_path: Path) -> None:
    cells = ('profile = "laptop"', "print(profile)")
    folder = tmp_path / "notebooks"
    repository.write_notebook(folder / "01_a.ipynb", cells, ["data/late.jsonl"], ["models/x"])
    repository.write_notebook(folder / "02_b.ipynb", cells, ["models/x/weights"], ["data/late.jsonl", "models/x"])
    path = repository.write_profile(tmp_path, "profile: quick\nnotebooks: {01_a: {}, 02_b: {}}\n")
    with pytest.raises(ParamsError) as caught:
        checked_steps(folder, path)
    assert "01_a and 02_b both write models/x" in str(caught.value)
    assert "reads data/late.jsonl, which 02_b writes only later" in str(caught.value)


def test_selection_and_order(tmp_path: Path) -> None:
    repository.make(tmp_path, "profile: quick\nnotebooks:\n  10_end: {}\n  00_numbers: {n: 3}\n  01_sums: {}\n")
    steps = checked_steps(tmp_path / "notebooks", tmp_path / "params" / "quick.yaml")

    def names(*arguments: object) -> list[str]:
        return [step.name for step in select(steps, *arguments)]  # type: ignore[arg-type]

    assert names() == ["00_numbers", "01_sums", "10_end"]
    assert names(["10", "0"]) == ["00_numbers", "10_end"]
    assert names(["01_sums.ipynb"]) == ["01_sums"]
    assert names([], "01") == ["01_sums", "10_end"]
    with pytest.raises(ParamsError, match=r"no notebook '01_sum' .did you mean '01_sums'.*there are: 00_numbers"):
        names(["01_sum"])
    with pytest.raises(ParamsError, match="no notebook '07'; there are"):
        names([], "07")
    with pytest.raises(ParamsError, match="--only 00 01_sums and --from 10 leave no notebook to run"):
        names(["00", "01_sums"], "10")


def test_opt_in_until_it_is_asked_for(tmp_path: Path) -> None:
    profile = "profile: quick\nopt_in: [00_numbers, 10_end]\nnotebooks: {00_numbers: {}, 01_sums: {}, 10_end: {}}\n"
    repository.make(tmp_path, profile)
    steps = checked_steps(tmp_path / "notebooks", tmp_path / "params" / "quick.yaml")

    def found(*arguments: object) -> dict[str, bool]:
        return {step.name: step.opt_in for step in select(steps, *arguments)}  # type: ignore[arg-type]

    assert found() == {"00_numbers": True, "01_sums": False, "10_end": True}
    assert found(["10"]) == {"10_end": False}
    assert found([], None, ["10"]) == {"00_numbers": True, "01_sums": False, "10_end": False}
    assert found(["01"], None, ["00"]) == {"00_numbers": False, "01_sums": False}
    assert found([], "01", ["0"]) == {"00_numbers": False, "01_sums": False, "10_end": True}
    with pytest.raises(ParamsError, match=r"no notebook '10_ende' .did you mean '10_end'"):
        found([], None, ["10_ende"])


# --- the committed profiles -----------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_of_a_committed_profile_is_one_that_a_notebook_uses(path: Path) -> None:
    """Also keys inside of keys: what is handed on as plain data is refused by what takes it."""
    from sprint_lib.curation.llm import SETTINGS
    from sprint_lib.evaluation.campaign import other_runs
    from sprint_lib.methods.sprint import SprintSettings
    from sprint_lib.serving import check_engine
    from sprint_lib.training.sft import SftConfig

    for step in checked_steps(ROOT / "notebooks", path):
        values = step.parameters
        assert set(values.get("settings", {})) <= set(SETTINGS) if "annotator" in values else True
        check_engine(values.get("engine", {}))
        SftConfig.from_json(values.get("training", {}))
        SprintSettings.from_dict(values.get("loop", {}))
        other_runs(values.get("others", []), [])


def keys(value: object) -> object:
    """The keys of plain data, however deep; of a list those of its elements."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    return [keys(inner) for inner in value] if isinstance(value, list) and any(map(keys, value)) else None


ENDPOINTS_AND_SIZES = {
    *("source", "limit", "tokenizer", "base", "base_url", "key_variable", "concurrency", "engine", "example_steps"),
    *("widths", "width_traces", "batch_tokens", "lr", "training", "others", "problems", "base_problems", "max_tokens"),
    *("loop", "clock_problems", "load_problems", "buckets", "settings"),
}


def test_the_rehearsal_is_the_paper_profile_with_other_sizes_and_endpoints() -> None:
    paper, rehearsal = (load_profile(ROOT / "params" / f"{name}.yaml")[1] for name in ("paper", "rehearsal"))
    assert keys(paper) == keys(rehearsal)
    for name, values in paper.items():
        differing = {key for key, value in values.items() if rehearsal[name][key] != value}
        assert differing <= ENDPOINTS_AND_SIZES, name
    runs = "06_parallel_inference"  # 05 only looks at one text, for which no server need start here
    assert paper[runs]["engine"]["kind"] == rehearsal[runs]["engine"]["kind"] == "vllm"
    words = ("optimizer", "sharding", "gradient_checkpointing", "weight_decay", "eval_share")
    assert all(paper["05_sft"]["training"][word] == rehearsal["05_sft"]["training"][word] for word in words)
    claims = "30_paper_against_this_run"
    assert paper[claims]["settings"] == rehearsal[claims]["settings"]
