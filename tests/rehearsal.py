"""The rehearsal of the paper profile: stand-ins for all that is large or elsewhere, and a run with them.

    python tests/rehearsal.py            # into outputs/rehearsal, or SPRINT_OUTPUTS; needs `make server`

Made on the spot: a random model of the Qwen2 architecture with a small tokenizer that has the special tokens, twenty
problems each of MATH-500 and GPQA-diamond in the hub data sets' own columns (Countdown makes its own), traces in those
of OpenThoughts-114k-math, and an annotator over HTTP that follows a script. The run itself is the suite's.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from scripted_server import Answer, Say, ScriptedServer, Status

from sprint_lib import prompts

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = 20
TRACES = 44
WRONG, OTHER_SOURCE, HELD_OUT = 5, 3, 2  # of the traces
UNWILLING = (9,)  # traces that the annotator refuses to read
CHAINED = "twice as many"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
_THINGS = ("pens", "rulers", "stamps", "cards", "beads", "nails", "seeds", "tiles", "coins", "books")


# --- problems and traces --------------------------------------------------------------


def sums(seed: int) -> tuple[str, str, int]:
    """A question about things in boxes, a long line of thought that answers it, and the answer.

    Most kinds of things stand on their own; in every fifth question each needs the one before, and nothing is parallel.
    """
    rng = random.Random(f"rehearsal {seed}")
    things = rng.sample(_THINGS, rng.randint(3, 5))
    boxes = {thing: (rng.randint(3, 9), rng.randint(12, 49)) for thing in things}
    if seed % 5 == 3:
        said, parts, counts = _chain(things, *boxes[things[0]])
    else:
        said, parts, counts = _apart(boxes)
    first = f"I need how many things there are, of {len(things)} kinds.\n"
    total, added = sum(counts), " + ".join(map(str, counts))
    last = f"Now I add them up.\n{added} = {total}.\nThe answer is $\\boxed{{{total}}}$."
    return f"Somebody has {said}. How many things are that in all?", "\n".join([first, *parts, last]), total


def _apart(boxes: dict[str, tuple[int, int]]) -> tuple[str, list[str], list[int]]:
    parts = []
    for thing, (a, b) in boxes.items():
        tens, ones = 10 * (b // 10), b % 10
        parts.append(
            f"Let me work out the {thing} on their own.\nThere are {a} boxes with {b} {thing} each.\n"
            f"{a} times {tens} is {a * tens}, and {a} times {ones} is {a * ones}.\n"
            f"{a * tens} and {a * ones} make {a * b}.\nSo there are {a * b} {thing}.\n"
        )
    said = ", ".join(f"{a} boxes of {b} {thing}" for thing, (a, b) in boxes.items())
    return said, parts, [a * b for a, b in boxes.values()]


def _chain(things: list[str], a: int, b: int) -> tuple[str, list[str], list[int]]:
    said, parts, counts = _apart({things[0]: (a, b)})
    for before, thing in pairwise(things):
        said += f", {CHAINED} {thing} as {before}"
        n = 2 * counts[-1]
        parts.append(
            f"Let me work out the {thing} from the {before}.\nThere are {CHAINED} {thing} as {before}.\n"
            f"That is 2 times {counts[-1]}.\n2 times {counts[-1]} is {n}.\nSo there are {n} {thing}.\n"
        )
        counts.append(n)
    return said, parts, counts


def math_rows() -> list[dict[str, Any]]:
    """Problems in MATH-500's columns."""
    rows = []
    for k in range(PROBLEMS):
        question, text, total = sums(1000 + k)
        columns = {"problem": question, "solution": text, "answer": str(total), "subject": "Prealgebra"}
        rows.append({**columns, "level": 1 + k % 5, "unique_id": f"test/prealgebra/{k}.json"})
    return rows


def science_rows() -> list[dict[str, str]]:
    """Problems in GPQA-diamond's columns, as far as they are read."""
    rows = []
    for k in range(PROBLEMS):
        options = {"Correct Answer": f"{2 * k + 4} J", "Incorrect Answer 1": f"{k} J"}
        options |= {"Incorrect Answer 2": f"{k + 30} mJ", "Incorrect Answer 3": "it cannot be said"}
        question = f"A spring holds {k + 2} J and another one as much. How much do both hold together?"
        rows.append({"Record ID": f"rec{k:04d}", "Question": question, **options, "High-level domain": "Physics"})
    return rows


def trace_rows() -> list[dict[str, Any]]:
    """Traces in the columns of OpenThoughts-114k-math: right and wrong, of other sources, and of test problems."""
    rows = []
    for k in range(TRACES):
        question, text, total = sums(1000 + k if k < HELD_OUT else k)
        wrong = k % (TRACES // WRONG) == 4
        said = total + wrong
        text = text.replace(f"boxed{{{total}}}", f"boxed{{{said}}}")
        turns = [{"from": "user", "value": f"Return your final response within \\boxed{{}}. {question}"}]
        turns.append({"from": "assistant", "value": f"<think>\n{text}\n</think>\n\nThe answer is $\\boxed{{{said}}}$."})
        source = "olympiads" if k % (TRACES // OTHER_SOURCE) == 7 else "math"
        row = {"source": source, "problem": question, "solution": f"$\\boxed{{{total}}}$", "messages": None}
        more = {"system": "", "conversations": turns, "generated_token_count": len(text) // 4, "correct": not wrong}
        rows.append({**row, **more})
    return rows


# --- the annotator --------------------------------------------------------------------


def script(body: dict[str, Any], before: int) -> Answer:
    """Replies of an annotator that knows these traces: by their first words; now and then busy, wrong, or unwilling."""
    asked = body["messages"][-1]["content"] if len(body["messages"]) == 2 else body["messages"][1]["content"]
    place = len(asked) % 7
    if place == 0 and not before and len(body["messages"]) == 2:
        return Status(429, "slow down", headers={"Retry-After": "0"})
    if any(sums(k)[0] in asked for k in UNWILLING):
        return Say(None, refusal="I would rather not.")
    if "dependencies" not in asked:
        reply = {"steps": list(_steps(asked))}
        if place == 1 and len(body["messages"]) == 2:
            reply["steps"].pop(0)  # its lines are in no step then; it is told so and asked again
    else:
        count = int(re.findall(r" in (\d+) steps, in this order", asked)[0])
        before = range(1, count - 1) if CHAINED in asked else [1] * (count - 2)
        needs = [[], *([step] for step in before), list(range(2, count))]
        reply = {"dependencies": [{"step": n, "needs": needs[n - 1]} for n in range(1, count + 1)]}
    return Say(f"Here it is:\n{json.dumps(reply)}" if place == 2 else json.dumps(reply))


def _steps(asked: str) -> Iterator[dict[str, Any]]:
    found = re.findall(r"^(\d+): (.*)$", asked.partition("\nLines 1 to ")[2], re.MULTILINE)
    starts = [int(n) for n, text in found if re.match(r"I need|Let me|Now I add", text)]
    last = len(found)
    for start, end in zip(starts, [*(at - 1 for at in starts[1:]), last], strict=True):
        text = found[start - 1][1]
        work = text.startswith("Let me")
        step = {"description": text[:60], "prompt": f"{text[len('Let me w') - 1 :].capitalize()}" if work else ""}
        step |= {"plan": [str(start)] if work else [f"{start}-{end}"], "comment": [], "final": end == last}
        yield {**step, "execution": [f"{start + 1}-{end}"] if work else []}


# --- the model ------------------------------------------------------------------------


def make_model(folder: Path, texts: list[str]) -> None:
    """A random Qwen2 of some 300,000 weights, with a tokenizer that is trained on the texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


# --- all of it ------------------------------------------------------------------------


def make(folder: Path) -> dict[str, str]:
    """Make the stand-ins in a folder; the environment variables that name those which the parameters do not."""
    folder.mkdir(parents=True, exist_ok=True)
    traces = trace_rows()
    _write_lines(folder / "traces.jsonl", traces)
    _write_lines(folder / "math500.jsonl", math_rows())
    with (folder / "gpqa_diamond.csv").open("w", encoding="utf-8", newline="") as file:
        science = science_rows()
        writer = csv.DictWriter(file, fieldnames=list(science[0]))
        writer.writeheader()
        writer.writerows(science)
    tags = "".join(
        f"<Plan_{i}>\n<prompt_{i}.{j}></prompt_{i}.{j}>\n<execution_{i}.{j}>\n" for i in (1, 2) for j in (1, 2)
    )
    told = [prompts.read("shipped", method, "math500") for method in ("sprint", "sequential")]
    said = [row["conversations"][1]["value"] for row in traces]
    make_model(folder / "model", [*said, *told * 20, tags * 20])
    files = {"SPRINT_MATH500": "math500.jsonl", "SPRINT_GPQA": "gpqa_diamond.csv"}
    return {name: str(folder / file) for name, file in files.items()} | {"SPRINT_REHEARSAL_KEY": "stand-in"}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@contextmanager
def prepared(folder: Path) -> Iterator[dict[str, str]]:
    """A repository in `folder` with the notebooks and the profile as it can run here; gives its environment."""
    standins = folder / "standins"
    variables = make(standins)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", dirs_exist_ok=True)
    (folder / "params").mkdir(exist_ok=True)
    with ScriptedServer(script) as annotator:
        port = annotator.url.split(":")[2].removesuffix("/v1")
        profile = (ROOT / "params" / "rehearsal.yaml").read_text(encoding="utf-8")
        profile = profile.replace("STANDINS", str(standins)).replace("PORT", port)
        (folder / "params" / "rehearsal.yaml").write_text(profile, encoding="utf-8")
        yield {**os.environ, **variables}


def main() -> int:
    outputs = Path(os.environ.get("SPRINT_OUTPUTS") or ROOT / "outputs").absolute()
    with tempfile.TemporaryDirectory(prefix="sprint-rehearsal-") as folder, prepared(Path(folder)) as environment:
        command = [sys.executable, "-m", "sprint_lib", "run", "--profile", "rehearsal", *sys.argv[1:]]
        return subprocess.run(command, cwd=folder, env={**environment, "SPRINT_OUTPUTS": str(outputs)}).returncode


if __name__ == "__main__":
    sys.exit(main())
