"""Reinforcement learning as the suite runs it (notebooks 22 and 23): a profile's trainings, checked before anything is
trained, what can be watched while they run, and each model before against after on the same problems.

`train_grpo` trains; attempts are made by `campaign.run_models`. Frames are made as in `tables`: whatever a clock
decides is left out of them. A verdict looks at its own interval: *gain* or *loss* if it leaves out no change
(*different* where neither more nor less is better), else *underpowered*.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from sprint_lib import accounting, plots, store, tables
from sprint_lib.calls import STATUSES, Attempt
from sprint_lib.evaluation import campaign, claims, statistics
from sprint_lib.evaluation.campaign import Planned
from sprint_lib.evaluation.rivals import find_model
from sprint_lib.evaluation.runs import Report as RunReport
from sprint_lib.evaluation.runs import RunSpec
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.methods import get_method
from sprint_lib.serving import check_engine
from sprint_lib.store import Workspace
from sprint_lib.tables import bounded
from sprint_lib.tasks import get_task
from sprint_lib.training.grpo import GrpoConfig, Report, advantages, train_grpo
from sprint_lib.training.rollouts import Reward, Rollout, TaskRollouts
from sprint_lib.wording import readable, unknown

T = TypeVar("T")

TRAINING, INDEX, PAIRS = "22_grpo", "grpo.json", "grpo-pairs"
AFTER = "-grpo"  # what the name of a trained model ends with, beside that of the one it started from


class ReinforcementError(ValueError):
    """A training or a comparison that cannot be as it was asked for; the message names the entry and the way out."""


# --- what to train --------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One training, as a parameters cell has it.

    Attributes:
        method: of `METHODS`. `model`: where it starts: of the workspace's `models/`, shipped, or a folder.
        settings: the method's own, for training and trial alike; the temperature of training stands in `recipe`.
        latency, work: what a right answer's path and its tokens take off its reward (`rollouts.Reward`).
        problems, group: of a step, 0: as many as the notebook says.
        recipe: the settings of `GrpoConfig` in which it differs from the notebook's.
    """

    method: str = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    latency: float = 0.0
    work: float = 0.0
    problems: int = 0
    group: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One training, checked: `train` makes it, or goes on with it, or finds it done."""

    name: str
    entry: Entry
    base: Path
    out: Path
    rollouts: TaskRollouts
    reward: Reward
    config: GrpoConfig

    def train(self, report: Report | None = None) -> dict[str, Any]:
        """What `train_grpo` returns; raises what it raises."""
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # one a step and file; `watch` says how far it is
        return train_grpo(self.base, self.out, self.rollouts, self.config, self.reward, report)


def plan(
    given: Mapping[str, Mapping[str, Any]],
    workspace: Workspace,
    *,
    rollouts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> dict[str, Training]:
    """The trainings that entries ask for, by name, checked before anything runs.

    Args:
        given: entries by name, as `Entry` says; the trained model goes to `models/grpo-NAME`.
        rollouts: of `TaskRollouts`: task, problems, group, pool, seed, copies.
        recipe: of `GrpoConfig`, the same for all.
        engine: as `serving.engine_for` takes it, without a model; a server that runs already is refused.

    Raises:
        ReinforcementError: on an entry that cannot be.
    """
    found = {}
    for name, said in given.items():
        try:
            found[name] = _training(name, made(Entry, said), workspace, rollouts, recipe, engine)
        except (KeyError, ValueError, TypeError, FileNotFoundError) as error:
            raise ReinforcementError(f"{TRAINING}: runs, {name}: {_why(error)}") from error
    if not found:
        raise ReinforcementError(f"{TRAINING}: runs: nothing to train; add an entry such as apr: {{method: apr, ...}}")
    return found


def _training(
    name: str,
    entry: Entry,
    workspace: Workspace,
    rollouts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> Training:
    if not name or name.startswith(".") or set(name) & set("/\\"):
        raise ValueError("the name must be usable as a file name")
    config = made(GrpoConfig, {**recipe, **entry.recipe}, "recipe: ")
    if "temperature" in entry.settings:
        raise ValueError("settings: the temperature of training belongs into recipe: {temperature: 1.0}")
    if entry.method == "hogwild":
        raise ValueError("method: workers over one cache cannot be trained; their calls are not apart")
    own = {**entry.settings, "temperature": config.temperature}
    check_settings(entry.method, own)
    for key in ("latency", "work", "problems", "group"):
        if getattr(entry, key) < 0:
            raise ValueError(f"{key} is {getattr(entry, key)}, it must be 0 or more")
    sizes = {**rollouts, **{key: getattr(entry, key) for key in ("problems", "group") if getattr(entry, key)}}
    if sizes["group"] < 2 or not 1 <= sizes["problems"] <= sizes["pool"] or sizes["copies"] < 1:
        raise ValueError(
            f"problems {sizes['problems']} of a pool of {sizes['pool']}, groups of {sizes['group']}, {sizes['copies']} "
            "engines: at least one problem, no more than the pool has, groups of two or more, one engine"
        )
    get_task(sizes["task"])
    check_engine(engine)
    base = Path(find_model(entry.model, workspace, {}) if entry.model else _no_model())
    made_by = TaskRollouts(entry.method, own, engine=engine, **sizes)
    reward = Reward(latency=entry.latency, work=entry.work)
    return Training(name, entry, base, workspace.models / f"grpo-{name}", made_by, reward, config)


def _no_model() -> str:
    raise ValueError("model: it needs one to start from, such as countdown-apr")


def check_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a method does not have. Raises KeyError, ValueError, TypeError."""
    get_method(method).settings.from_dict(settings)


def made(kind: type[T], said: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from plain data.

    Raises:
        ValueError: on an unknown key; the message names the nearest.
        TypeError: on a value of another type than the field's default.
    """
    if not isinstance(said, Mapping):
        raise TypeError(f"{where}{said!r}: expected 'key: value' pairs")
    known = {f.name: f.default if f.default is not MISSING else {} for f in fields(kind)}  # type: ignore[arg-type]
    if wrong := unknown(said, known):
        raise ValueError(f"{where}{wrong}")
    for key, value in said.items():
        wanted = type(known[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise TypeError(f"{where}{key} is {value!r}, it must be of type {wanted.__name__}")
    return kind(**said)


def _why(error: Exception) -> Any:
    return error.args[0] if isinstance(error, KeyError) else error


def described(runs: Mapping[str, Training]) -> pd.DataFrame:
    """The trainings as a table: run, method, model, latency, work, attempts (a step), steps, and recipe."""
    rows = []
    for name, run in runs.items():
        row: dict[str, Any] = {"run": name, "method": run.entry.method, "starts_from": run.base.name}
        row |= {"latency": run.reward.latency, "work": run.reward.work, "steps": run.config.steps}
        sizes, config = run.rollouts, run.config
        row["attempts_a_step"] = f"{sizes.problems} problems × {sizes.group}"
        row["updates_a_step"] = config.inner
        rows.append(row | {"learning_rate": f"{config.lr:g}", "kl": f"{config.kl:g}", "clip": f"{config.clip:g}"})
    return pd.DataFrame(rows)


# --- what is sampled ------------------------------------------------------------------


def first_groups(run: Training, problems: int = 4) -> list[list[Rollout]]:
    """The first groups that a training samples, with their rewards; typical lengths are those of these attempts."""
    few = replace(run.rollouts, problems=min(problems, run.rollouts.problems))
    with closing(few):
        groups = few.sample(0, run.base)
    reward = run.reward.measured([rollout.attempt for group in groups for rollout in group])
    return [[replace(rollout, reward=reward(rollout.attempt)) for rollout in group] for group in groups]


def telling(groups: Sequence[Sequence[Rollout]]) -> Sequence[Rollout]:
    """The first group whose attempts have different rewards; the first one, if there is none."""
    return next((group for group in groups if len({rollout.reward for rollout in group}) > 1), groups[0])


def group_table(name: str, group: Sequence[Rollout], least_spread: float = 0.0) -> pd.DataFrame:
    """One row an attempt of a group: run, problem, attempt, status, right, path, total, threads, reward, advantage."""
    given = advantages([rollout.reward for rollout in group], least_spread)
    rows = []
    for rollout, advantage in zip(group, given, strict=True):
        one = rollout.attempt
        row = {"run": name, "problem": one.problem, "attempt": one.sample, "status": one.status, "right": one.correct}
        row |= {"path": accounting.sequential_tokens(one), "total": accounting.total_tokens(one)}
        rows.append(row | {"threads": accounting.spawned(one), "reward": rollout.reward, "advantage": advantage})
    return pd.DataFrame(rows)


# --- while it is trained --------------------------------------------------------------

_SHARES = ("accuracy", "groups_told_apart", "clipped", *STATUSES)  # of a curve's row; shown in percent
_CLOCK = ("sampling_seconds", "training_seconds")
PANELS = {  # of the figure of all curves
    "reward": "reward",
    "accuracy": "right answers (%)",
    "unanswered": "attempts without an answer (%)",
    "sequential": "critical path (tokens)",
    "total": "total tokens",
    "threads": "threads a problem",
    "groups_told_apart": "groups that teach (%)",
    "kl": "KL from the start (nats a token)",
    "entropy": "entropy (nats a token)",
}
LIVE = {key: PANELS[key] for key in ("reward", "accuracy", "sequential", "threads")}


def training_table(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> pd.DataFrame:
    """One row a run and step of the curves of `train_grpo`, shares in percent, without what a clock measured."""
    rows = []
    for run, curve in curves.items():
        for step in curve:
            kept = {key: value for key, value in step.items() if key not in _CLOCK}
            kept |= {key: 100 * kept[key] for key in _SHARES if key in kept}
            kept["unanswered"] = 100.0 - kept["ok"]
            rows.append({"run": run, **kept, "step": int(step["step"]) + 1, "attempts": int(step["attempts"])})
    return pd.DataFrame(rows)


def training_curves(table: pd.DataFrame, panels: Mapping[str, str] = PANELS) -> pd.DataFrame:
    """Data of `plots.training_curves` from a `training_table`: panel, run, step, value (NaN: nothing was learnt)."""
    found = [
        pd.DataFrame({"panel": panel, "run": table["run"], "step": table["step"], "value": table[key]})
        for key, panel in panels.items()
        if key in table
    ]
    return pd.concat(found, ignore_index=True)


def first_and_last(table: pd.DataFrame, share: float = 0.25) -> pd.DataFrame:
    """By run the means over the first and the last quarter of the steps, whose problems are others: run, part, n
    (steps), and reward, accuracy, sequential, total and threads, with bounds over steps where there are six or more."""
    rows = []
    for run, steps in table.groupby("run", sort=False):
        size = max(1, round(share * len(steps)))
        for part, inside in (("first", steps.head(size)), ("last", steps.tail(size))):
            row: dict[str, Any] = {"run": run, "part": f"{part} {size} of {len(steps)} steps", "n": size}
            for key in ("reward", "accuracy", "sequential", "total", "threads"):
                mean = statistics.mean(inside[key])
                row |= bounded(key, mean if size >= 6 else Estimate(mean.value, math.nan, math.nan, size))
            rows.append(row)
    return pd.DataFrame(rows)


def watch(run: Training) -> Report:
    """A report for `train`: a line a step, and in a notebook one picture of the curves that is drawn anew each step."""
    from IPython.display import display

    rows: list[Mapping[str, float]] = []
    handle = None

    def report(row: Mapping[str, float]) -> None:
        nonlocal handle
        rows.append(row)
        frame = training_curves(training_table({run.name: rows}), LIVE)
        words = {"title": f"{plots.name(run.name)}, step {row['step'] + 1:.0f} of {run.config.steps}"}
        words["caption"] = "Means over the attempts of a step; pale: each step, strong: the mean of five."
        shown = plots.picture(plots.training_curves(frame, **words))
        if handle is None:
            handle = display(shown, display_id=True)  # none outside a notebook
        else:
            handle.update(shown)
        print(f"{run.name} {line(row, run.config.steps)}", flush=True)

    return report


def line(row: Mapping[str, float], steps: int) -> str:
    """`3/30: reward 0.71, 72 % right, path 310, total 1,820, threads 12.4, KL 1e-05, 116 s`"""
    seconds = sum(row.get(key, 0.0) for key in _CLOCK)
    learnt = f", KL {row['kl']:.1e}, entropy {row['entropy']:.3f}" if "kl" in row else ", nothing told apart"
    return (
        f"{row['step'] + 1:.0f}/{steps}: reward {row['reward']:.3f}, {row['accuracy']:.1%} right, "
        f"path {readable(row['sequential'])}, total {readable(row['total'])}, threads {readable(row['threads'])}"
        f"{learnt}, {seconds:.0f} s"
    )


# --- what was trained -----------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """A model with the method and the settings by which it is tried.

    `reward` and `recipe` are what reinforcement trained it for, and how; None and empty of a model that it did not.
    """

    method: str
    folder: str
    settings: dict[str, Any] = field(default_factory=dict)
    reward: Reward | None = None
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def latency(self) -> float | None:
        return self.reward.latency if self.reward else None


def write_index(runs: Mapping[str, Training], trained: Mapping[str, Mapping[str, Any]], workspace: Workspace) -> Path:
    """Write `data/grpo.json`: what was trained from what, how, for which reward (with the typical lengths that `train`
    returned), and the hashes of both models."""
    task = next(iter(runs.values())).rollouts.task
    rows = {}
    for name, run in runs.items():
        settings = {key: value for key, value in run.rollouts.settings.items() if key != "temperature"}
        row = {"method": run.entry.method, "model": run.entry.model, "settings": settings}
        hashes = {"start": store.hash_model(run.base), "trained": store.hash_model(run.out)}
        recipe = {**asdict(run.config), "problems": run.rollouts.problems, "group": run.rollouts.group}
        rows[name] = {**row, "reward": trained[name]["reward"], "recipe": recipe, "sha256": hashes}
    return store.write_json(workspace.data / INDEX, {"task": task, "runs": rows})


def read(workspace: Workspace) -> tuple[str, dict[str, System]]:
    """The task that was trained on, and by name each run's model before (NAME) and after (NAME-grpo).

    Raises:
        ReinforcementError: if notebook 22 has not written its index, it is damaged, or a model is not what it was.
    """
    path = workspace.data / INDEX
    found = {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        for name, row in data["runs"].items():
            start = find_model(row["model"], workspace, {})
            trained = str(workspace.models / f"grpo-{name}")
            for key, folder in (("start", start), ("trained", trained)):
                if store.hash_model(folder) != row["sha256"][key]:
                    raise ValueError(f"{folder} is another model than it was")
            found[name] = System(row["method"], start, row["settings"])
            reward = Reward(**row["reward"])
            found[name + AFTER] = System(row["method"], trained, row["settings"], reward, row["recipe"])
        return data["task"], found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReinforcementError(f"{path}: cannot be read ({error!r}); run notebook 22 again") from error


def with_beside(
    systems: Mapping[str, System], beside: Mapping[str, Mapping[str, Any]], workspace: Workspace
) -> dict[str, System]:
    """The same with further ones, each with `method`, `model` (`grpo-NAME`: that run's) and `settings`.

    Raises:
        ReinforcementError: on an entry that cannot be, or one that is there.
    """
    found = dict(systems)
    for name, said in beside.items():
        try:
            if wrong := unknown(said, ("method", "model", "settings")):
                raise ValueError(wrong)
            if name in found:
                raise ValueError("there is one of this name; give it another")
            entry = made(Entry, said)
            check_settings(entry.method, entry.settings)
            folder = find_model(entry.model, workspace, {}) if entry.model else _no_model()
            same = next((one for one in systems.values() if one.folder == folder), System("", ""))
            found[name] = System(entry.method, folder, entry.settings, same.reward, same.recipe)
        except (KeyError, ValueError, TypeError, FileNotFoundError) as error:
            raise ReinforcementError(f"23_before_and_after: beside, {name}: {_why(error)}") from error
    return found


Tried = dict[tuple[str, float], list[Attempt]]  # by system and temperature


def solve(
    systems: Mapping[str, System],
    problems: Mapping[float, int],
    workspace: Workspace,
    *,
    task: str,
    seed: int,
    engine: Mapping[str, Any],
    concurrency: int,
    report: RunReport | None = None,
) -> Tried:
    """Every system at every temperature, on so many problems of the test split, the same for all; resumable.

    Systems that are the same in all but the name are tried once.
    """
    firsts = {name: next(other for other in systems if _same(systems[other], systems[name])) for name in systems}
    folders = {name: systems[name].folder for name in firsts.values()}
    found: Tried = {}
    for temperature, n in problems.items():
        held_out: dict[str, Any] = {"task": task, "n": n, "seed": seed, "concurrency": concurrency}
        planned = [
            Planned(name, RunSpec(f"23-{name}-{temperature:g}", systems[name].method, settings=asked, **held_out))
            for name in folders
            for asked in ({**systems[name].settings, "temperature": float(temperature)},)
        ]
        made_ = campaign.run_models(planned, folders, engine, workspace, report=report)
        found |= {(name, temperature): made_[f"23-{first}-{temperature:g}"] for name, first in firsts.items()}
    return found


def distinct(systems: Mapping[str, System]) -> list[str]:
    """The names without those that are the same as an earlier one in all but the name."""
    return [n for n in systems if n == next(other for other in systems if _same(systems[other], systems[n]))]


def _same(one: System, other: System) -> bool:
    return (one.method, one.folder, one.settings) == (other.method, other.folder, other.settings)


# --- before and after -----------------------------------------------------------------

Side = Sequence[Attempt]


def _sequence(attempt: Attempt) -> float:
    return accounting.total_tokens(attempt) / (1 + accounting.spawned(attempt))


_COUNTS: dict[str, Callable[[Attempt], float]] = {
    "critical path": accounting.sequential_tokens,
    "total tokens": accounting.total_tokens,
    "tokens a sequence": _sequence,
    "threads": accounting.spawned,
}
_BETTER = {"accuracy": 1, "without an answer": -1, "critical path": -1, "critical path, both right": -1}


def pairs(systems: Mapping[str, System]) -> list[str]:
    """The names of those that are there before and after training."""
    return [name for name in systems if name + AFTER in systems]


def before_after(tried: Tried, names: Sequence[str], temperature: float) -> pd.DataFrame:
    """Each model against the one that was trained from it, problem by problem.

    Columns: run, quantity, unit, n, before and after (means; accuracy in percent), change, each with 95 % bounds,
    detectable (the change that would have been told from none with 80 % power), verdict, note. The change is in points
    for accuracy and attempts without an answer (Newcombe; McNemar's test of accuracy in the note), in threads for
    threads, else after over before (bootstrap).
    """
    rows = []
    for name in names:
        for row in _compared(tried[name, temperature], tried[name + AFTER, temperature]):
            rows.append({"run": name, **row})
    return pd.DataFrame(rows)


def priced_against_free(
    tried: Tried, systems: Mapping[str, System], names: Sequence[str], temperature: float
) -> pd.DataFrame:
    """What the price on length did: each model trained with one against that trained without, else as this one.

    Columns: those of `before_after`, where before is the model trained without, and `against`, its name.
    """
    rows = []
    for name in names:
        reward, recipe = systems[name + AFTER].reward, systems[name + AFTER].recipe
        free = next(
            (
                other
                for other in names
                if _same(systems[other], systems[name])
                and (one := systems[other + AFTER]).reward
                and (one.reward.latency, one.reward.work, one.recipe) == (0, 0, recipe)
            ),
            None,
        )
        if free and reward and reward.latency:
            found = _compared(tried[free + AFTER, temperature], tried[name + AFTER, temperature])
            rows += [{"run": name, "against": free, **row} for row in found]
    return pd.DataFrame(rows, columns=None if rows else ["run", "against", "quantity", "n", "change", "verdict"])


def floors(
    tried: Tried, systems: Mapping[str, System], names: Sequence[str], temperature: float
) -> dict[str, Estimate]:
    """By run with a price, the share in percent of its start's right answers for which the reward's `least` would be
    paid: among those the price tells nothing apart."""
    found = {}
    for name in names:
        reward = systems[name + AFTER].reward
        right = [attempt for attempt in tried[name, temperature] if attempt.correct]
        if reward and (reward.latency or reward.work) and right:
            found[name] = statistics.proportion([reward(a) <= reward.least for a in right]).scaled(100)
    return found


def _compared(before: Side, after: Side) -> list[dict[str, Any]]:
    before, after = tables.same_problems(before, after)
    right = [[a.correct for a in side] for side in (before, after)]
    shares = [statistics.proportion(side).scaled(100) for side in right]
    test = statistics.mcnemar(*right)
    note = f"right only before {test.only_base}, only after {test.only_other}, p = {test.p:.3f}"
    rows = [_row("accuracy", "points", shares, statistics.accuracy_difference(*right).scaled(100), 0.0, note)]
    failed = [[a.status != "ok" for a in side] for side in (before, after)]
    shares = [statistics.proportion(side).scaled(100) for side in failed]
    rows.append(_row("without an answer", "points", shares, statistics.accuracy_difference(*failed).scaled(100), 0.0))
    spawns = any(map(accounting.spawned, [*before, *after]))
    for quantity, of in _COUNTS.items():
        values = [[float(of(a)) for a in side] for side in (before, after)]
        means = [statistics.mean(side) for side in values]
        if quantity == "threads" and spawns:
            rows.append(_row(quantity, "threads", means, statistics.difference(*values), 0.0))
        elif spawns or quantity in ("critical path", "total tokens"):  # else they are the same
            rows.append(_row(quantity, "times", means, statistics.ratio(*values), 1.0))
    both = [pair for pair in zip(before, after, strict=True) if pair[0].correct and pair[1].correct]
    if both:
        values = [[float(accounting.sequential_tokens(pair[k])) for pair in both] for k in (0, 1)]
        means = [statistics.mean(side) for side in values]
        rows.append(_row("critical path, both right", "times", means, statistics.ratio(*values), 1.0))
    return rows


def _row(
    quantity: str, unit: str, sides: Sequence[Estimate], change: Estimate, none: float, note: str = ""
) -> dict[str, Any]:
    row = {"quantity": quantity, "unit": unit, "n": change.n}
    row |= bounded("before", sides[0]) | bounded("after", sides[1]) | bounded("change", change)
    detectable = statistics.detectable(change)
    return {**row, "detectable": detectable, "verdict": verdict(quantity, change, none), "note": note}


def verdict(quantity: str, change: Estimate, none: float) -> str:
    """*gain*, *loss* or *different* if the interval leaves out no change, else *underpowered*."""
    if math.isnan(change.low) or change.low <= none <= change.high:
        return "underpowered"
    better = _BETTER.get(quantity, 0)
    return "different" if not better else "gain" if (change.value - none) * better > 0 else "loss"


def findings(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """What `before_after` says of each run, as list items."""
    said = []
    for name in names:
        of = table[table["run"] == name].set_index("quantity").to_dict("index")
        parts = []
        for quantity, row in of.items():
            if quantity not in ("total tokens", "tokens a sequence"):
                change = f"{row['change']:+.1f} points" if row["unit"] == "points" else ""
                change = change or (f"{row['change']:.2f} times" if row["unit"] == "times" else f"{row['change']:+.2f}")
                interval = f"[{readable(row['change_low'])}, {readable(row['change_high'])}]"
                sides = f"{readable(row['before'])} → {readable(row['after'])}"
                parts.append(f"{quantity} {sides}, {change} {interval} (*{row['verdict']}*)")
        path, accuracy = of["critical path"], of["accuracy"]
        worst = accuracy["change_low"]
        level = "no lower" if worst >= 0 else f"at worst {readable(-worst)} points lower (95 %)"
        parts += [f"so the path is shorter, and accuracy {level}"] if path["verdict"] == "gain" else []
        said.append(f"- **{plots.name(name)}**, n = {accuracy['n']}: " + "; ".join(parts) + ".")
    return said


def claim_estimates(workspace: Workspace) -> dict[str, Estimate]:
    """What notebook 23 measured of the directions in `claims.REINFORCED`, by the claim's id; only of runs whose reward
    was the right answer alone. Nothing where 23 has not run."""
    path, index = workspace.tables / f"{PAIRS}.csv", workspace.data / INDEX
    if not (path.exists() and index.exists()):
        return {}
    runs = json.loads(index.read_text(encoding="utf-8"))["runs"]
    priced = {name for name, row in runs.items() if row["reward"]["latency"] or row["reward"]["work"]}
    found = {}
    for row in pd.read_csv(path).to_dict("records"):
        of = row["run"], row["quantity"]
        if of in claims.REINFORCED and of[0] not in priced:
            change = Estimate(row["change"], row["change_low"], row["change_high"], int(row["n"]))
            found[claims.reinforced(*of)] = change
    return found


# --- APR's figures and table ----------------------------------------------------------

HERE, PAPER = "this run", "the APR paper, its model and problems"
_FIGURE5: dict[str, tuple[str, Callable[[Attempt], float]]] = {
    "accuracy": ("right answers (%)", lambda a: 100.0 * a.correct),
    "total_tokens": ("total tokens", accounting.total_tokens),
    "tokens_per_sequence": ("tokens a sequence", _sequence),
    "child_threads": ("child threads", accounting.spawned),
}
_PAPER_N = 1000


def _key(name: str) -> str:
    """What the paper's numbers call a system."""
    return name.replace("-", "_")


def figure5(tried: Tried, names: Sequence[str], temperature: float) -> pd.DataFrame:
    """APR's Figure 5, supervised and after GRPO: this run's models, and the paper's numbers for its own.

    Columns: source, run, quantity, before and after with bounds (NaN in the paper's rows), n.
    """
    rows = []
    for name in names:
        for quantity, of in _FIGURE5.values():
            row: dict[str, Any] = {"source": HERE, "run": name, "quantity": quantity}
            for side, system in (("before", name), ("after", name + AFTER)):
                attempts = tried[system, temperature]
                right = statistics.proportion([a.correct for a in attempts]).scaled(100)
                mean = statistics.mean([float(of(a)) for a in attempts])
                row |= bounded(side, right if quantity.endswith("(%)") else mean) | {"n": len(attempts)}
            rows.append(row)
    for key, values in claims.apr("figure5").items():
        row = {"source": PAPER, "run": "apr", "quantity": _FIGURE5[key][0], "n": _PAPER_N}
        rows.append({**row, **_alone("before", values["supervised"]), **_alone("after", values["grpo"])})
    return pd.DataFrame(rows)


def figure7(tried: Tried, names: Sequence[str], temperature: float) -> pd.DataFrame:
    """APR's Figure 7, accuracy against total tokens before and after, as `plots.arrows` draws it."""
    found = _points(tried, names, temperature, accounting.total_tokens)
    found["run"] = found["run"].map(_key)
    paper = claims.apr("figure7")
    rows = [
        {
            "panel": PAPER, "run": name, "step": step, "label": "", "n": _PAPER_N,
            **_alone("x", paper[f"{name}.tokens"][key]), **_alone("y", paper[f"{name}.accuracy"][key]),
        }
        for name in ("sos_plus", "apr", "apr_cond10")
        for step, key in (("before", "supervised"), ("after", "grpo"))
    ]  # fmt: skip
    return pd.concat([found, pd.DataFrame(rows)], ignore_index=True)


def frontier(tried: Tried, systems: Mapping[str, System], names: Sequence[str], temperature: float) -> pd.DataFrame:
    """Accuracy against the critical path, before and after, as `plots.arrows` draws it: a panel for each model that
    was started from, its runs with the weight of latency that they were trained with."""
    frame = _points(tried, names, temperature, accounting.sequential_tokens)
    starts = {name: next(o for o in names if _same(systems[o], systems[name])) for name in names}
    frame["panel"] = [f"from {plots.name(starts[name])}" for name in frame["run"]]
    weights = {name: f"λ {systems[name + AFTER].latency or 0:g}" for name in names}
    frame["label"] = [weights[r] if s == "after" else "" for r, s in zip(frame["run"], frame["step"], strict=True)]
    return frame


def _points(tried: Tried, names: Sequence[str], temperature: float, cost: Callable[[Attempt], float]) -> pd.DataFrame:
    rows = []
    for name in names:
        for step, system in (("before", name), ("after", name + AFTER)):
            attempts = tried[system, temperature]
            right = statistics.proportion([a.correct for a in attempts]).scaled(100)
            row = {"panel": HERE, "run": name, "step": step, "label": "", "n": len(attempts)}
            x = statistics.mean([float(cost(a)) for a in attempts])
            rows.append({**row, **bounded("x", x), **bounded("y", right)})
    return pd.DataFrame(rows)


def _alone(column: str, value: float) -> dict[str, float]:
    return bounded(column, Estimate(value, math.nan, math.nan, _PAPER_N))


def spreads(tried: Tried, names: Sequence[str], temperature: float) -> pd.DataFrame:
    """Threads of a problem and tokens of its longest one, before and after: panel, run, step, value."""
    panels: dict[str, Callable[[Attempt], float]] = {
        "threads a problem": accounting.spawned,
        "tokens of the longest thread": accounting.longest_thread,
    }
    rows = [
        {"panel": panel, "run": name, "step": step, "value": float(of(attempt))}
        for panel, of in panels.items()
        for name in names
        for step, system in (("before", name), ("after", name + AFTER))
        for attempt in tried[system, temperature]
    ]
    return pd.DataFrame(rows)


def by_temperature(tried: Tried, systems: Sequence[str], temperatures: Sequence[float]) -> pd.DataFrame:
    """APR's Table 1: accuracy by temperature, a row a system and temperature.

    Columns: system, temperature, n, accuracy in percent with bounds, `points` (against the model it was trained from,
    with bounds; NaN for others), paper (as reported, NaN where the paper has no such row).
    """
    paper = claims.apr("table1")
    rows = []
    for system in systems:
        for temperature in temperatures:
            attempts = tried[system, temperature]
            right = [a.correct for a in attempts]
            points = statistics.NONE
            if system.endswith(AFTER) and (system.removesuffix(AFTER), temperature) in tried:
                before = [a.correct for a in tried[system.removesuffix(AFTER), temperature]]
                points = statistics.accuracy_difference(before, right).scaled(100)
            row: dict[str, Any] = {"system": system, "temperature": float(temperature), "n": len(attempts)}
            row |= bounded("accuracy", statistics.proportion(right).scaled(100)) | bounded("points", points)
            label = f"t{temperature:g}".replace(".", "_")
            rows.append({**row, "paper": paper.get(_key(system), {}).get(label, math.nan)})
    return pd.DataFrame(rows)


def temperature_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Data of `plots.curves` from `by_temperature`: accuracy along the temperature of the paper's systems, here and in
    the paper, and of what it does not have."""
    theirs = table["system"].map(_key).isin(list(claims.apr("table1")))
    common = {"label": "temperature", "series": table["system"].map(_key), "x": table["temperature"]}
    keys = [f"accuracy{end}" for end in ("", "_low", "_high")]
    panel = theirs.map({True: HERE, False: f"{HERE}, not in the paper"})
    here = pd.DataFrame({"panel": panel, **common, **{key: table[key] for key in keys}, "n": table["n"]})
    there = pd.DataFrame({"panel": PAPER, **common, **dict.fromkeys(keys, math.nan), "n": _PAPER_N})
    there["accuracy"] = table["paper"]
    parts = [here[theirs], there[there["accuracy"].notna()], here[~theirs]]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`by_temperature` as the paper prints it: a row a system, a column a temperature, with the paper's number."""
    shown = table.assign(cell=[_beside(row) for row in table.to_dict("records")])
    wide = shown.pivot(index="system", columns="temperature", values="cell")
    wide.columns = [f"temperature {value:g}" for value in wide.columns]
    wide = wide.loc[list(dict.fromkeys(table["system"]))].reset_index()
    return wide.assign(system=wide["system"].map(plots.name))


def _beside(row: Mapping[Any, Any]) -> str:
    said = f"{readable(row['accuracy'])} [{readable(row['accuracy_low'])}, {readable(row['accuracy_high'])}]"
    return said if math.isnan(row["paper"]) else f"{said} · paper {row['paper']:.1f}"
