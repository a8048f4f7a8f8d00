"""What a profile takes that laptops do not have, before anything runs: hours, tokens, money, disk and GPU memory, from
the parameters and from the assumptions that stand together below; and what this machine lacks. `sprint run --dry-run`
shows both beside the plan. Nothing is asked over a network, and no GPU is needed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sprint_lib import models, serving, store
from sprint_lib.params import Step
from sprint_lib.wording import readable

# Everything that is neither a parameter nor computed from one. Whoever knows better changes it here.
ASSUMED: dict[str, tuple[float, str]] = {
    "trace_tokens": (3_500, "tokens of a DeepSeek-R1 trace on MATH"),
    "line_tokens": (25, "tokens of one of its lines"),
    "right": (0.9, "share of traces with the right answer"),
    "kept": (1_700 / 6_000, "share of all traces that come out as samples (paper, section 3.2)"),
    "steps_reply": (12, "tokens of the annotator's reply about steps, a line of the trace"),
    "needs_reply": (3, "tokens of its reply about dependencies, a line of the trace"),
    "annotator_prompt": (700, "tokens of its instructions"),
    "annotator_seconds": (20, "seconds a reply"),
    "packed": (1.2, "tokens of a packed trace over those of the original"),
    "gpu_flops": (312e12, "floating-point operations a second that a GPU is sold with (A100, bf16)"),
    "utilisation": (0.35, "share of them that training reaches"),
    "decoding": (2_500, "tokens a second of a 7B model on one GPU, many problems at once"),
    "single": (90, "tokens a second of it, one problem at a time"),
    "trace_on_other_tasks": (3_000, "tokens of a sequential trace on a task that the paper does not have"),
    "total_over_sequential": (1.5, "all tokens of SPRINT over its sequential ones, where the paper does not give both"),
    "calls": (8, "calls of a SPRINT attempt"),
    "context": (1_500, "tokens of the prompt of one of them, most of it in the prefix cache"),
    "server_minutes": (5, "minutes until a server of a 7B model is ready"),
    "activations": (11, "GB a GPU for a 7B model's activations and gathered layers at 7,168 tokens, checkpointed"),
    "checkpoints": (4, "checkpoints on disk at once, 12 bytes a parameter each"),
    "cache_room": (6, "GB a GPU that vLLM needs beside the weights"),
}
_BYTES = {"float32": 4, "float64": 8}
_SMALL = 5e8  # parameters; below, nothing here is worth a word
_GB = 1e9


def assumed(name: str) -> float:
    """What is assumed by that name."""
    return ASSUMED[name][0]


@dataclass(frozen=True)
class Need:
    """What one notebook takes. Tokens are those asked of a paid annotator, and those computed by models of one's own.

    `money` is None where a price is not known. `gpus` of `gpu_gb` each; `disk_gb` is written.
    """

    step: str
    hours: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    own_prompt_tokens: float = 0.0
    own_tokens: float = 0.0
    money: float | None = 0.0
    currency: str = ""
    disk_gb: float = 0.0
    gpus: int = 0
    gpu_gb: float = 0.0


def needs(steps: Sequence[Step]) -> dict[str, Need]:
    """What the notebooks of a profile take, by name; none for those that any machine runs in minutes."""
    traces = _traces(steps)
    made = (need for step in steps for need in _of(step, traces))
    return {need.step: need for need in made}


def hours(found: Mapping[str, Need]) -> dict[str, float]:
    """Hours by notebook."""
    return {name: need.hours for name, need in found.items()}


def _traces(steps: Sequence[Step]) -> int:
    """Traces that notebook 01 gives, 0 if that is not known before."""
    for step in steps:
        if "source" in step.parameters:
            p = step.parameters
            return int(p.get("limit", 0) if p["source"] else p.get("problems", 0))
    return 0


def _of(step: Step, traces: int) -> Iterator[Need]:
    p = step.parameters
    if p.get("annotator") == "model" and "settings" in p and traces:
        yield _annotation(step, traces)
    if {"training", "base"} <= set(p) and (size := parameters_of(p["base"])) >= _SMALL:
        yield _training(step, traces, size)
    if {"others", "base"} <= set(p) and (size := parameters_of(p["base"])) >= _SMALL:
        yield _evaluation(step, size)


def parameters_of(base: str) -> float:
    """How many parameters a model has: from its weights' size, or from its name (`...-7B`); 0 if neither says."""
    try:
        folder = models.path(base) if base in models.names() else Path(base).expanduser()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        each = _BYTES.get(config.get("dtype") or config.get("torch_dtype") or "", 2)
        return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / each
    except (OSError, ValueError):
        said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?!\w)", Path(base).name.replace("-", " "))
        return 1.09e9 * float(said[1]) if said else 0.0  # a model called 7B has 7.6e9


# --- one notebook ---------------------------------------------------------------------


def _annotation(step: Step, traces: int) -> Need:
    """As `sprint curate --dry-run`, but before there are traces: no question is asked again."""
    settings = step.parameters["settings"]
    asked = traces * assumed("right")
    lines = assumed("trace_tokens") / assumed("line_tokens")
    reply = lines * assumed("steps_reply" if step.name.endswith("steps") else "needs_reply")
    prompts = asked * (assumed("annotator_prompt") + 1.2 * assumed("trace_tokens"))  # the lines' numbers
    prices = settings.get("prices") or {}
    known = {"input", "output"} <= set(prices)
    money = (prompts * prices["input"] + asked * reply * prices["output"]) / 1e6 if known else None
    hours = asked * assumed("annotator_seconds") / settings.get("concurrency", 8) / 3600
    disk = 8 * asked * (assumed("trace_tokens") + reply) / _GB
    currency = prices.get("currency", "USD")
    return Need(step.name, hours, prompts, asked * reply, money=money, currency=currency, disk_gb=disk)


def _training(step: Step, traces: int, size: float) -> Need:
    """Two models of one size; 6 operations a parameter and token, a third more where activations are computed again."""
    p = step.parameters
    recipe = p["training"]
    processes = int(recipe.get("processes", 1))
    each = traces * assumed("kept") * assumed("trace_tokens") * (1 + assumed("packed"))
    tokens = each * recipe["epochs"] if recipe.get("epochs") else 2.0 * p.get("tokens", 0) * assumed("packed")
    again = 4 / 3 if recipe.get("gradient_checkpointing") else 1.0
    seconds = 6 * size * tokens * again / (processes * assumed("gpu_flops") * assumed("utilisation"))
    shared = processes if recipe.get("sharding") else 1
    longest = recipe.get("max_length") or 7168
    memory = 16 * size / shared / _GB + assumed("activations") * (size / 7.6e9) ** (2 / 3) * longest / 7168
    disk = size * (2 + 2 * 2 + 12 * assumed("checkpoints")) / _GB  # the base, both models, checkpoints of one at a time
    return Need(step.name, seconds / 3600, own_tokens=tokens, disk_gb=disk, gpus=processes, gpu_gb=memory)


def _evaluation(step: Step, size: float) -> Need:
    """RFT twice, SPRINT and the base on every task, and the runs for the clock."""
    p = step.parameters
    tasks = [(p["task"], p["problems"], p["base_problems"])]
    tasks += [(other["task"], other["problems"], other["problems"]) for other in p["others"]]
    tokens = prompts = 0.0
    for task, n, n_base in tasks:
        one_line, staged = _lengths(task)
        tokens += n * (2 * one_line + staged) + n_base * one_line
        prompts += n * assumed("calls") * assumed("context") + (2 * n + n_base) * 300
    one_line, staged = _lengths(p["task"])
    load, clock = (p[f"{kind}_problems"] * (one_line + staged) for kind in ("load", "clock"))
    copies = int(p["engine"].get("data_parallel_size", 1))
    speed = 7.6e9 / size
    seconds = (tokens + load) / (copies * assumed("decoding") * speed) + clock / (assumed("single") * speed)
    servers = 3 * assumed("server_minutes") if p["engine"].get("kind") == "vllm" else 0.0
    memory = 2 * size / _GB + assumed("cache_room")
    disk = 10 * (tokens + load + clock) / _GB
    hours = seconds / 3600 + servers / 60
    own = {"own_prompt_tokens": prompts, "own_tokens": tokens + load + clock}
    return Need(step.name, hours, **own, disk_gb=disk, gpus=copies, gpu_gb=memory)


def _lengths(task: str) -> tuple[float, float]:
    """Tokens of RFT's trace and all tokens of SPRINT's attempt, from the paper's Table 2 where that has the task."""
    from sprint_lib.evaluation import claims  # slow to import, and only some profiles need it

    if task not in claims.PAPER_TASKS:
        each = assumed("trace_on_other_tasks")
        return each, each
    rows = {row["method"]: row for row in claims.table2(task)}
    total = rows["sprint"]["total"]
    if math.isnan(total):
        total = assumed("total_over_sequential") * rows["sprint"]["sequential"]
    return rows["rft"]["sequential"], total


# --- in words -------------------------------------------------------------------------


def describe(found: Mapping[str, Need]) -> list[str]:
    """Lines of a table with a sum, and then what was assumed; nothing if there is nothing to tell."""
    if not found:
        return []
    header = ["", "hours", "annotator: prompt, reply tokens", "price", "own: prompt, generated tokens", "disk", "GPUs"]
    rows = [header, *([need.step, *_cells(need)] for need in found.values())]
    rows.append(["in all", *_cells(_sum(list(found.values())))])
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    used = [f"  {readable(value) if value < 1e9 else f'{value:.3g}'} {what}" for value, what in ASSUMED.values()]
    return ["", "estimated, not measured:", *table, "assumed:", *used]


def _cells(need: Need) -> list[str]:
    paid, own = need.prompt_tokens + need.completion_tokens, need.own_prompt_tokens + need.own_tokens
    money = "unknown" if need.money is None else f"{need.money:,.0f} {need.currency}" if paid else ""
    return [
        readable(need.hours),
        f"{_millions(need.prompt_tokens)}, {_millions(need.completion_tokens)}" if paid else "",
        money,
        f"{_millions(need.own_prompt_tokens)}, {_millions(need.own_tokens)}" if own else "",
        f"{readable(need.disk_gb)} GB",
        f"{need.gpus} of {need.gpu_gb:.0f} GB" if need.gpus else "",
    ]


def _millions(tokens: float) -> str:
    return f"{readable(tokens / 1e6)} M"


def _sum(all_: Sequence[Need]) -> Need:
    money = None if any(need.money is None for need in all_) else sum(need.money or 0.0 for need in all_)
    currency = "/".join(dict.fromkeys(need.currency for need in all_ if need.currency))
    added = {
        name: sum(getattr(need, name) for need in all_)
        for name in ("hours", "prompt_tokens", "completion_tokens", "own_prompt_tokens", "own_tokens", "disk_gb")
    }
    most = {"gpus": max(need.gpus for need in all_), "gpu_gb": max(need.gpu_gb for need in all_)}
    return replace(Need("in all", money=money, currency=currency), **added, **most)  # type: ignore[arg-type]


# --- what this machine lacks ----------------------------------------------------------


def lacking(steps: Sequence[Step], found: Mapping[str, Need], outputs: Path) -> list[str]:
    """What these notebooks cannot do without and is not here, or cannot be as the parameters say; a line each."""
    said = [problem for step in steps for problem in _refused(step)]
    here = [found[step.name] for step in steps if step.name in found]
    said += [problem for need in here for problem in _no_gpus(need)]
    free = _free(outputs)
    if (disk := sum(need.disk_gb for need in here)) > free:
        said.append(f"{outputs}: {disk:,.0f} GB of disk are needed, {free:,.0f} are free; set {store.OUTPUTS_VARIABLE}")
    return list(dict.fromkeys(said))


def _refused(step: Step) -> Iterator[str]:
    from sprint_lib.prompts import PromptError, read

    p = step.parameters
    variable = p.get("settings", {}).get("key_variable", "") if p.get("annotator") == "model" else ""
    if variable and not os.environ.get(variable):
        yield f"{step.name}: the annotator's key is not there: export {variable}=..., as settings' key_variable says"
    try:
        serving.check_engine(p.get("engine", {}))
        if p.get("engine", {}).get("kind") == "vllm":
            serving.environment()
        if "training" in p:
            from sprint_lib.training.sft import SftConfig

            SftConfig.from_json(p["training"])
        if {"prompts", "task"} <= set(p):
            read(p["prompts"], "sprint", p["task"])
    except (ValueError, serving.ServingError, PromptError) as error:
        yield f"{step.name}: {error}"


def _no_gpus(need: Need) -> Iterator[str]:
    memory = gpu_memory()
    asked = f"{need.step}: needs {need.gpus} GPUs with about {need.gpu_gb:.0f} GB each"
    if need.gpus > len(memory):
        yield f"{asked}, found: {len(memory)}; fewer are asked for by processes and data_parallel_size"
    elif need.gpus and min(sorted(memory, reverse=True)[: need.gpus]) < need.gpu_gb:
        yield f"{asked}, here they have {min(memory):.0f}; more processes with sharding, or a smaller max_length"


def gpu_memory() -> list[float]:
    """GB of each NVIDIA GPU of this machine."""
    if not shutil.which("nvidia-smi"):
        return []
    said = store.output(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]) or ""
    return [float(line) * 2**20 / _GB for line in said.splitlines() if line.strip().isdigit()]


def _free(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / _GB
