"""Notebooks and their parameters: what a notebook declares, what a profile sets, and every reason to refuse
before anything runs. A notebook's `parameters` cell holds plain literals (the laptop defaults), its metadata
says what it reads and writes; `params/<profile>.yaml` overrides the literals and may say that some notebooks
are opt-in, which means that they run only when asked for by name. A key that no notebook has, or
that a notebook has but never uses, would be ignored in silence and is refused instead.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from sprint_lib.needs import NEEDS
from sprint_lib.wording import did_you_mean

_METADATA_KEYS = {"inputs", "optional", "outputs", "minutes", "needs"}
_PROFILE_KEYS = ("profile", "opt_in", "notebooks")
_NAME = re.compile(r"\d+_\w+")


class ParamsError(ValueError):
    """A notebook or a parameter file that cannot be run as it is; the message has one line a problem."""


@dataclass(frozen=True)
class Notebook:
    """One numbered notebook as it lies on disk: its cells, and what its metadata declares.

    `inputs`, `optional` (inputs that need not be there) and `outputs` are paths relative to the profile's outputs
    folder; `minutes` are estimates a profile; `needs` is what does not come with the project, "" if nothing.
    """

    path: Path
    cells: tuple[tuple[str, str], ...]  # (cell type, source)
    parameters_cell: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    minutes: Mapping[str, float]
    optional: tuple[str, ...] = ()
    needs: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.inputs, *self.optional)

    @property
    def number(self) -> str:
        return self.name.partition("_")[0]

    @cached_property
    def code(self) -> list[str]:
        return [source for kind, source in self.cells if kind == "code"]

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The literals of the parameters cell, in order.

        Raises:
            ParamsError: if the cell holds anything but `name = literal`, or does not begin with the profile.
        """
        return _literals(self.path, self.cells[self.parameters_cell][1])

    def used(self) -> set[str]:
        """Names that the cells after the parameters cell read.

        Raises:
            ParamsError: if a cell is not Python.
        """
        later = enumerate(self.cells[self.parameters_cell + 1 :], start=self.parameters_cell + 2)
        trees = [parse_cell(self.path, number, source) for number, (kind, source) in later if kind == "code"]
        names = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name))
        return {node.id for node in names if isinstance(node.ctx, ast.Load)}


@dataclass(frozen=True)
class Step:
    """A notebook with the parameters a profile gives it (defaults overlaid); `opt_in` ones run only when asked for."""

    notebook: Notebook
    parameters: dict[str, Any]
    opt_in: bool = False

    @property
    def name(self) -> str:
        return self.notebook.name


def checked_steps(notebooks: Path, params: Path) -> list[Step]:
    """The notebooks that a profile runs, in order, each with its parameters, after every check.

    Args:
        notebooks: the folder of the numbered notebooks.
        params: the profile's file, `params/<profile>.yaml`.

    Raises:
        ParamsError: with every problem found, one a line: notebook, key and the way out.
    """
    profile, wanted, opt_in = load_profile(params)
    paths = {path.stem: path for path in sorted(notebooks.glob("*.ipynb")) if not path.name.startswith(".")}
    problems: list[str] = []
    steps: list[Step] = []
    for name in wanted:
        if name not in paths:
            problems.append(f"{params}: no notebook '{name}' in {notebooks}/{did_you_mean(name, paths)}")
    for name in sorted(set(wanted) & set(paths), key=_order):
        try:
            step = _checked_step(read_notebook(paths[name]), profile, wanted[name], params)
            steps.append(replace(step, opt_in=name in opt_in))
        except ParamsError as error:
            problems.extend(str(error).splitlines())
    problems.extend(_flow_problems(steps, params))
    if problems:
        raise ParamsError("\n".join(problems))
    return steps


def select(
    steps: list[Step], only: Iterable[str] = (), start: str | None = None, also: Iterable[str] = ()
) -> list[Step]:
    """The steps named by `only` (numbers or names), or all; of these, those from `start` on; and those of `also`.

    Whatever `only` or `also` names is asked for, and so no longer opt-in.

    Raises:
        ParamsError: if a name matches no notebook, or nothing is left.
    """
    only = list(only)
    chosen = [_find(steps, name) for name in only]
    added = [_find(steps, name) for name in also]
    first = steps.index(_find(steps, start)) if start is not None else 0
    selected = [step for step in steps[first:] if not chosen or step in chosen]
    if not selected:
        raise ParamsError(f"--only {' '.join(only)} and --from {start} leave no notebook to run; drop one of the two")
    asked = [*chosen, *added]
    return [replace(s, opt_in=s.opt_in and s not in asked) for s in steps if s in selected or s in added]


def _find(steps: list[Step], wanted: str) -> Step:
    wanted = wanted.removesuffix(".ipynb")
    for step in steps:
        if wanted in (step.name, step.notebook.number) or (wanted.isdigit() and int(wanted) == _order(step.name)[0]):
            return step
    names = [step.name for step in steps]
    raise ParamsError(f"no notebook '{wanted}'{did_you_mean(wanted, names)}; there are: {', '.join(names)}")


def _order(name: str) -> tuple[int, str]:
    return int(name.partition("_")[0]), name


# --- the parameter file ---------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML, version 1.2's scalars (`1e-3` a number, `on` a word, no dates), duplicate keys refused."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the class attribute yaml expects)


for _tag, _pattern in {
    "null": r"~|null|",
    "bool": r"true|false",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        name = loader.construct_object(key)
        if not isinstance(name, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is not a word", key.start_mark)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' stands here twice", key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def load_yaml(path: Path) -> Any:
    """Read YAML safely; see `_Loader`.

    Raises:
        ParamsError: if the file is missing or not such YAML; the message has line and column.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        there = sorted(other.stem for other in path.parent.glob("*.yaml"))
        others = f"; there are: {', '.join(there)}" if there else ""
        raise ParamsError(f"{path}: no such file{did_you_mean(path.stem, there)}{others}") from None
    except OSError as error:
        raise ParamsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ParamsError(f"{path}{place}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ParamsError(f"{path}: {error}") from error


def load_profile(path: Path) -> tuple[str, dict[str, dict[str, Any]], list[str]]:
    """Read `params/<profile>.yaml`: its name, the parameters it sets by notebook, and which notebooks are opt-in.

    Raises:
        ParamsError: if the file is not of that form.
    """
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected the keys 'profile' and 'notebooks'")
    for key in content:
        if key not in _PROFILE_KEYS:
            raise ParamsError(f"{path}: unknown key '{key}'{did_you_mean(key, _PROFILE_KEYS)}")
    if content.get("profile") != path.stem:
        raise ParamsError(
            f"{path}: 'profile' is {content.get('profile')!r}, but the file's name is the profile's; "
            f"write profile: {path.stem}"
        )
    notebooks = content.get("notebooks")
    if not isinstance(notebooks, dict) or not notebooks:
        raise ParamsError(f"{path}: 'notebooks' must name the notebooks to run, each with its parameters")
    for name, values in notebooks.items():
        if not isinstance(values, dict | None):
            raise ParamsError(f"{path}: {name}: expected 'key: value' pairs, or {{}} for none")
    return path.stem, {name: values or {} for name, values in notebooks.items()}, _opt_in(path, content, notebooks)


def _opt_in(path: Path, content: dict[str, Any], notebooks: Iterable[str]) -> list[str]:
    names = content.get("opt_in", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ParamsError(f"{path}: 'opt_in' must list the notebooks that run only when asked for")
    for name in names:
        if name not in notebooks:
            raise ParamsError(f"{path}: opt_in: '{name}' is not under 'notebooks'{did_you_mean(name, notebooks)}")
    return names


# --- the notebook ---------------------------------------------------------------------


def read_notebook(path: Path) -> Notebook:
    """Read a notebook's cells and its `sprint` metadata.

    Raises:
        ParamsError: if it is no notebook, has no `parameters` cell or no sound metadata.
    """
    if not _NAME.fullmatch(path.stem):
        raise ParamsError(f"{path}: notebooks are called NN_name.ipynb")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]
        tags = [cell.get("metadata", {}).get("tags", []) for cell in content["cells"]]
        metadata = content["metadata"].get("sprint")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParamsError(f"{path}: not a notebook of format 4: {error!r}") from error
    tagged = [index for index, names in enumerate(tags) if "parameters" in names]
    if len(tagged) != 1:
        raise ParamsError(f"{path}: {len(tagged)} cells have the tag 'parameters'; exactly one must")
    return Notebook(path, tuple(cells), tagged[0], **_declared(path, metadata))


def _declared(path: Path, metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict):
        raise ParamsError(f"{path}: its metadata lacks 'sprint': {{'inputs': [], 'outputs': [], 'minutes': {{}}}}")
    for key in metadata:
        if key not in _METADATA_KEYS:
            raise ParamsError(f"{path}: metadata 'sprint': unknown key '{key}'{did_you_mean(key, _METADATA_KEYS)}")
    minutes = metadata.get("minutes", {})
    if not isinstance(minutes, dict) or not all(_is_number(value) for value in minutes.values()):
        raise ParamsError(f"{path}: metadata 'sprint': 'minutes' must give a number for each profile")
    needs = metadata.get("needs", "")
    if needs not in ("", *NEEDS):
        known = ", ".join(NEEDS)
        raise ParamsError(f"{path}: metadata 'sprint': 'needs' is {needs!r}; known is: {known}, or leave it out")
    paths = {key: _paths(path, metadata, key) for key in ("inputs", "optional", "outputs")}
    return {**paths, "minutes": minutes, "needs": needs}


def _paths(path: Path, metadata: dict[str, Any], key: str) -> tuple[str, ...]:
    values = metadata.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and _inside(value) for value in values):
        raise ParamsError(f"{path}: metadata 'sprint': '{key}' must list paths inside the profile's outputs folder")
    return tuple(values)


def _inside(value: str) -> bool:
    parts = PurePosixPath(value).parts
    return bool(parts) and not value.startswith("/") and ".." not in parts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_cell(path: Path, number: int, source: str) -> ast.Module:
    """The syntax tree of a code cell; lines of magics and shell commands are blank in it.

    Raises:
        ParamsError: if the cell is not Python.
    """
    lines = ["" if re.match(r"\s*[%!]", line) else line for line in source.split("\n")]
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree = compile("\n".join(lines), f"{path.name}, cell {number}", "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ParamsError(f"{path}: cell {number}: {error}") from error
    assert isinstance(tree, ast.Module)
    return tree


def _literals(path: Path, source: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in parse_cell(path, 0, source).body:
        name, value = _assignment(statement)
        if name is None or value is None:
            raise ParamsError(f"{path}: parameters cell, line {statement.lineno}: only 'name = literal' may stand here")
        if name in values:
            raise ParamsError(f"{path}: parameters cell, line {statement.lineno}: '{name}' is set twice")
        try:
            values[name] = ast.literal_eval(value)
        except ValueError:
            raise ParamsError(f"{path}: parameters cell, line {statement.lineno}: '{name}' is no literal") from None
    if next(iter(values.items()), None) != ("profile", "laptop"):
        raise ParamsError(f'{path}: the parameters cell must begin with profile = "laptop"')
    return values


def _assignment(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    match statement:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
        ):
            return name, value
    return None, None


# --- checks ---------------------------------------------------------------------------


def _checked_step(notebook: Notebook, profile: str, wanted: dict[str, Any], params: Path) -> Step:
    """The step of one notebook. Raises ParamsError with all problems of its parameters."""
    where = f"{params}: {notebook.name}"
    defaults, used = notebook.defaults, notebook.used()
    problems = []
    values = {**defaults, "profile": profile}
    for key, value in wanted.items():
        if key == "profile":
            problems.append(f"{where}: 'profile' is set by the file's own name; leave it out here")
        elif key not in defaults:
            problems.append(f"{where}: unknown key '{key}'{did_you_mean(key, defaults)}")
        else:
            values[key] = float(value) if isinstance(defaults[key], float) and _is_number(value) else value
            problems.extend(f"{where}: '{key}' {problem}" for problem in _mismatch(values[key], defaults[key]))
    for key in defaults:
        if key not in used:
            problems.append(f"{notebook.path}: no cell uses the parameter '{key}'; use it or take it out")
    if problems:
        raise ParamsError("\n".join(problems))
    return Step(notebook, values)


def _mismatch(value: Any, default: Any) -> list[str]:
    """Why `value` cannot stand for `default`, the literal in the parameters cell."""
    if default is None or (value is not None and type(value) is type(default)):
        kinds = {type(item) for item in default} if isinstance(default, list) else set()
        if len(kinds) == 1 and not all(type(item) in kinds or (float in kinds and _is_number(item)) for item in value):
            return [f"is {value!r}, but the notebook has a list of {kinds.pop().__name__}, {default!r}"]
        return []
    return [f"is {value!r} ({type(value).__name__}), but the notebook has {default!r} ({type(default).__name__})"]


def _flow_problems(steps: list[Step], params: Path) -> list[str]:
    """Outputs that two notebooks claim, inputs that only a later notebook writes, numbers that are not unique."""
    problems = []
    writer: dict[str, str] = {}
    for step in steps:
        for output in step.notebook.outputs:
            if output in writer:
                problems.append(f"{params}: {writer[output]} and {step.name} both write {output}")
            writer[output] = step.name
    names = [step.name for step in steps]
    for step in steps:
        for needed in step.notebook.reads:
            source = producer(needed, writer)
            if source is not None and names.index(source) >= names.index(step.name):
                problems.append(f"{step.notebook.path}: reads {needed}, which {source} writes only later")
    return problems


def producer(needed: str, writer: Mapping[str, str]) -> str | None:
    """The notebook that writes a path, or the folder it lies in, or something in it; None if none does."""
    path = PurePosixPath(needed)
    for output, name in writer.items():
        other = PurePosixPath(output)
        if other == path or other in path.parents or path in other.parents:
            return name
    return None
