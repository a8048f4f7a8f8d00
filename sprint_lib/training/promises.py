"""What the model of PASTA-style promises is trained from: notebook 04's packed traces, new words, notebook 05's recipe.

The same traces, base, budget and recipe as SPRINT's model, so that only the way of writing differs. `prepare` leaves
a file for `sprint train sft`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sprint_lib import store
from sprint_lib.curation.samples import Sample, pasta_samples, write_samples
from sprint_lib.methods.pasta import WORDS
from sprint_lib.training.words import with_words
from sprint_lib.trajectory import parse

RECIPE: dict[str, Any] = {
    "tokens": 750_000,
    "batch_tokens": 2048,
    "lr": 0.001,
    "emphasis": {"Solved": 3.0, "Answer": 5.0, "Try": 3.0, "<": 4.0},
    "seed": 3,
}


def promise_samples(trajectories: Path | str, base: Path | str) -> list[Sample]:
    """Samples of the traces in a file of notebook 04 (JSON lines: id, question, trajectory, cap).

    The tokenizer of the model in folder `base` counts what a promise says of its length.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    records = [json.loads(line) for line in Path(trajectories).read_text(encoding="utf-8").splitlines()]
    return [s for r in records for s in pasta_samples(r["question"], parse(r["trajectory"]), r["id"], count, r["cap"])]


def prepare(trajectories: Path | str, base: Path | str, out: Path | str, **recipe: Any) -> Path:
    """Write to folder `out` the base with its new words, the samples, and the job that trains `out`/model from them.

    `recipe` has settings of `SftConfig` other than `RECIPE`'s. Returns the job's path, for `sprint train sft`.
    """
    out = Path(out)
    start = with_words(Path(base), WORDS, out / "base")
    samples = write_samples(out / "samples.jsonl", promise_samples(trajectories, start))
    job = {"samples": str(samples), "base": str(start), "out": str(out / "model"), "config": {**RECIPE, **recipe}}
    return store.write_json(out / "sft.json", job)
