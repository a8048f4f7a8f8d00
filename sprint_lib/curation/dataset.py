"""Curated traces as a data set: a folder with Parquet files and a card, which `datasets.load_dataset` reads.

A row is a trace: as it was, packed, and as the samples that fine-tuning sees, with its tokens and its critical path
before and after. Training and validation share no problem. The folder appears whole or not at all; nothing leaves
this machine unless `push` is called.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from sprint_lib import accounting, store
from sprint_lib.curation import Aside, Packed
from sprint_lib.curation.samples import Sample, sprint_samples
from sprint_lib.evaluation import statistics
from sprint_lib.evaluation.statistics import Estimate
from sprint_lib.wording import kind_of, readable, unknown

Format = Literal["plain", "chat"]
FORMATS = ("plain", "chat")
TOKEN_VARIABLE = "HF_TOKEN"  # of the hub, for `push`
_REPO = re.compile(r"[\w.-]+/[\w.-]+")


class DatasetError(ValueError):
    """A data set that cannot be made or sent as asked."""


def save(
    folder: Path | str,
    packed: Sequence[Packed],
    *,
    aside: Sequence[Aside],
    settings: Mapping[str, Any],
    format: Format,
    validation: float,
    seed: int,
    source: str,
    licence: str,
    count: Callable[[str], int],
) -> Path:
    """Write `folder` with `data/train-*.parquet`, `data/validation-*.parquet` and the card; what was there is replaced.

    Args:
        packed: the traces that were kept; `aside` all others, for the card.
        settings: what they were made with, for the card.
        format: of the samples: "plain" (context, completion, role) or "chat" (messages, the context being the user's).
        validation: share of the problems that go to validation, which is left out if that is none.
        seed: of the split.
        source, licence: of the traces, for the card; a licence is a name that the hub knows, or "unknown".
        count: tokens of a text.

    Raises:
        DatasetError: if there is no trace, no such format, or no such share.
    """
    folder = Path(folder)
    if said := unknown([format], FORMATS, "format"):
        raise DatasetError(f"{folder}: {said}")
    if not packed:
        raise DatasetError(f"{folder}: no trace was kept, {len(aside)} set aside; there is nothing to save")
    rows = [_row(item, format, count) for item in packed]
    held_out = _held_out({row["problem"] for row in rows}, validation, seed)
    splits = {"train": [row for row in rows if row["problem"] not in held_out]}
    splits["validation"] = [row for row in rows if row["problem"] in held_out]
    splits = {name: rows for name, rows in splits.items() if rows}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "data").mkdir(parents=True)
        for name, some in splits.items():
            _write_parquet(temporary / "data" / f"{name}-00000-of-00001.parquet", some, format)
        asked = {"seed": seed, "validation": validation, "format": format, **settings}
        store.write_text(temporary / "README.md", card(splits, aside, asked, source=source, licence=licence))
        _put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], format: Format) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows, features=_features(format)).to_parquet(str(path))


def _held_out(problems: Iterable[str], share: float, seed: int) -> set[str]:
    """The problems of validation: at least one if there is a share, and never all."""
    ordered = sorted(problems)
    if not 0 <= share < 1:
        raise DatasetError(f"validation is {share}; a share from 0 to below 1")
    wanted = min(len(ordered) - 1, max(1, round(share * len(ordered)))) if share else 0
    return set(random.Random(f"validation {seed}").sample(ordered, wanted))


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a finished folder to its name; an older one goes only after that."""
    older = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.replace(older)
    temporary.replace(folder)
    shutil.rmtree(older, ignore_errors=True)


# --- rows -----------------------------------------------------------------------------


def json_lines(packed: Iterable[Packed], *, cap: int | None, min_ratio: float) -> str:
    """The traces that notebook 05 trains on, a line each: as it was, packed, and with what settings.

    `cap` is null where the last stage was filled: its plan ends where a plan does.
    """
    rows = (
        {**vars(item.annotated.trace), "trajectory": item.packing.trajectory.render()}
        | {"cap": None if item.filled else cap, "min_ratio": min_ratio, "ratio": item.packing.ratio}
        for item in packed
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def _row(item: Packed, format: Format, count: Callable[[str], int]) -> dict[str, Any]:
    trace, packing = item.annotated.trace, item.packing
    after = accounting.tokens_of(packing.trajectory, count, tags=True)
    before = count(trace.text)
    samples = sprint_samples(trace.question, packing.trajectory, trace.id)
    return {
        "id": trace.id,
        "problem": trace.problem or trace.id,
        "question": trace.question,
        "answer": trace.answer,
        "text": trace.text,
        "trajectory": packing.trajectory.render(),
        "samples": [_plain(sample) if format == "plain" else _chat(sample) for sample in samples],
        "tokens_before": before,
        "tokens_after": after["total"],
        "critical_path_before": before,
        "critical_path_after": after["sequential"],
        "ratio": packing.ratio,
        "stages": len(packing.trajectory.stages),
        "repairs": list(item.annotated.repairs),
        "changes": list(packing.changes),
    }


def _plain(sample: Sample) -> dict[str, Any]:
    return {"context": sample.context, "completion": sample.completion + sample.stop, "role": sample.role}


def _chat(sample: Sample) -> dict[str, Any]:
    user, assistant = sample.context, sample.completion + sample.stop
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": messages, "role": sample.role}


def _features(format: Format) -> Any:
    from datasets import Features, List, Value

    text, number = Value("string"), Value("int64")
    sample = {"context": text, "completion": text, "role": text}
    if format == "chat":
        sample = {"messages": List({"role": text, "content": text}), "role": text}
    return Features(
        {
            **dict.fromkeys(("id", "problem", "question", "answer", "text", "trajectory"), text),
            "samples": List(sample),
            **dict.fromkeys(("tokens_before", "tokens_after", "critical_path_before", "critical_path_after"), number),
            "ratio": Value("float64"),
            "stages": number,
            "repairs": List(text),
            "changes": List(text),
        }
    )


# --- the card -------------------------------------------------------------------------


def card(
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    aside: Sequence[Aside],
    settings: Mapping[str, Any],
    *,
    source: str,
    licence: str,
) -> str:
    """README.md of a data set: where its traces come from, what was set aside and why, settings, tokens."""
    rows = [row for some in splits.values() for row in some]
    files = [{"split": name, "path": f"data/{name}-*"} for name in splits]
    header = {
        "license": licence,
        "tags": ["sprint", "parallel-reasoning", "reasoning"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    reasons = Counter((a.stage, kind_of(a.reason)) for a in aside)
    outcomes = [["kept", "", str(len(rows))]]
    outcomes += [[f"set aside: {stage}", _cell(reason), str(n)] for (stage, reason), n in reasons.most_common()]
    shares = [[name, str(len(some)), str(len({row["problem"] for row in some}))] for name, some in splits.items()]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        "# Reasoning traces in planned, parallel stages\n",
        f"Source of the traces: {_cell(source)}. Licence of the traces: {_cell(licence)}.\n",
        "Each trace was divided into steps, the steps into stages that depend only on earlier ones, and every stage "
        "into a plan and executions that can run side by side (SPRINT, arXiv 2506.05745, section 3.2). No problem is "
        "in two splits.\n",
        _table(["split", "traces", "problems"], shares),
        "## What became of every trace\n",
        _table(["outcome", "reason", "traces"], outcomes),
        "## Tokens\n",
        f"Mean over {len(rows)} traces with a 95 % interval (bootstrap).\n",
        _table(["quantity", "value"], [[name, _estimate(e)] for name, e in _statistics(rows).items()]),
        "## Settings\n",
        f"```yaml\n{yaml.safe_dump(dict(settings), sort_keys=False)}```\n",
    ]
    return "\n".join(parts)


def _statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    before, after = ([row[f"critical_path_{when}"] for row in rows] for when in ("before", "after"))
    means = {
        "tokens of a trace": before,
        "tokens of its trajectory, all calls": [row["tokens_after"] for row in rows],
        "critical path of its trajectory": after,
        "stages": [row["stages"] for row in rows],
        "steps a stage": [row["ratio"] for row in rows],
    }
    found = {name: statistics.mean(values) for name, values in means.items()}
    return {**found, "critical path saved (%)": statistics.reduction(before, after).scaled(100)}


def _estimate(estimate: Estimate) -> str:
    bounds = f" [{readable(estimate.low)}, {readable(estimate.high)}]" if estimate.low == estimate.low else ""
    return readable(estimate.value) + bounds


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text in one line of Markdown that cannot end a cell or bring markup."""
    return re.sub(r"[|<>`\[\]\\]", " ", " ".join(text.split()))


# --- the hub --------------------------------------------------------------------------


def push(folder: Path | str, repo: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Upload a saved data set to `repo` (`owner/name`) on the hub and return its address.

    The hub's token is taken from the environment (`HF_TOKEN`) and appears in no message.

    Raises:
        DatasetError: without a token or a data set, or if the hub refuses; the message says what to do.
    """
    from huggingface_hub import HfApi

    folder, token = Path(folder), os.environ.get(TOKEN_VARIABLE)
    if not (folder / "README.md").is_file() or not any(folder.glob("data/*.parquet")):
        raise DatasetError(f"{folder}: no data set here; save one first")
    if not _REPO.fullmatch(repo):
        raise DatasetError(f"{repo!r}: a data set on the hub is called owner/name")
    if not token:
        raise DatasetError(f"{TOKEN_VARIABLE} is not set: set it to a token of the hub that may write to {repo}")
    hub = HfApi(endpoint=endpoint, token=token)
    try:
        address = hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="Curated traces")
    except Exception as error:  # no network, no permission, no such owner: a dozen types
        said = str(error).replace(token, "***").strip().splitlines()
        raise DatasetError(f"{repo}: not sent: {(said or [type(error).__name__])[0]}; what is saved stays") from None
    return str(address)
