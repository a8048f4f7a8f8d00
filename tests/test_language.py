"""Traces in natural language through notebooks 01 to 04, as in the profile `language`, on the shipped examples."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import repository
from scripted_server import Answer, Say, ScriptedServer

from sprint_lib import needs, released
from sprint_lib.curation import sources
from sprint_lib.params import checked_steps
from sprint_lib.trajectory import parse

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-test-0123456789abcdef"
NOTEBOOKS = ("01_traces", "02_steps", "03_dag", "04_packing")
EXAMPLES = """\
profile: examples
notebooks:
  01_traces: {source: examples, tokenizer: TOKENIZER}
  02_steps: {annotator: discourse}
  03_dag: {annotator: discourse, example_steps: 9}
  04_packing: {cap: 0, widths: [1, 2, 0], validation: 0.3, format: chat}
"""


def test_the_profile_language_is_the_first_four_notebooks() -> None:
    steps = checked_steps(ROOT / "notebooks", ROOT / "params" / "language.yaml")
    assert tuple(step.name for step in steps) == NOTEBOOKS
    assert {step.parameters["annotator"] for step in steps if "annotator" in step.parameters} == {"discourse"}


def test_it_needs_the_released_runs_only_where_they_are_its_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(released.VARIABLE, str(tmp_path))
    lacking = {
        profile: needs.lacking(checked_steps(ROOT / "notebooks", ROOT / "params" / f"{profile}.yaml")[first])
        for profile, first in (("language", 0), ("laptop", 1))
    }
    assert "`sprint released fetch` gets them" in lacking["language"]
    assert lacking["laptop"] == ""


def _bytes(folder: Path) -> Path:
    """A folder with a tokenizer to which a byte is a token: Countdown's has no words for natural language."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(known, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def run(root: Path, profile: str) -> Path:
    """Run a profile on copies of the four notebooks; where its results lie."""
    (root / "notebooks").mkdir()
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", root / "notebooks")
    name = profile.split("\n")[0].removeprefix("profile: ")
    repository.write_profile(root, profile.replace("TOKENIZER", str(_bytes(root / "bytes"))), name)
    done = repository.sprint(root, "run", "--profile", name)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "outputs" / name


@pytest.mark.slow
def test_examples_go_from_texts_to_samples(tmp_path: Path) -> None:
    root = run(tmp_path, EXAMPLES)
    data = root / "data"
    candidates = sources.load(data / "traces.jsonl")
    kept = [json.loads(line) for line in (data / "trajectories.jsonl").read_text().splitlines()]
    right = {c.id: c for c in candidates if c.correct}
    assert (len(candidates), len(right)) == (6, 5)
    assert kept
    for row in kept:
        trajectory = parse(row["trajectory"])
        assert not trajectory.defects
        assert row["text"] == right[row["id"]].text
        assert row["cap"] is None
    aside = [a.trace for stage in ("steps", "graphs") for a in sources.load_aside(data / f"aside-{stage}.jsonl")]
    assert "quadrilateral-area" in aside
    header, text = (data / "dataset" / "README.md").read_text().split("# Reasoning traces", 1)
    assert "license: apache-2.0" in header
    assert "Source of the traces: examples." in text
    assert "annotator: discourse" in text
    assert "tokenizer: bytes\n" in text
    assert str(tmp_path) not in text
    with (root / "tables" / "outcomes.csv").open() as file:
        ended = {row["outcome"]: int(row["traces"]) for row in csv.DictReader(file)}
    assert sum(ended.values()) == len(candidates)
    assert (ended["kept"], ended["set aside: traces"]) == (len(kept), 1)


def _answer(body: dict[str, Any], before: int) -> Answer:
    """Two ways of four lines and an answer; whatever the question."""
    if "dependencies" in json.dumps(body["response_format"]):
        needs = {1: [], 2: [], 3: [1, 2]}
        return Say(json.dumps({"dependencies": [{"step": k, "needs": some} for k, some in needs.items()]}))
    parts = [(["1"], ["2-4"]), (["5"], ["6-8"]), (["9"], [])]
    steps = [
        {"description": "a way", "plan": plan, "prompt": f"Way {k}." if work else "", "execution": work, "comment": []}
        | {"final": not work}
        for k, (plan, work) in enumerate(parts)
    ]
    return Say(json.dumps({"steps": steps}))


@pytest.mark.slow
def test_a_language_model_annotates_and_its_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    text = "".join(f"Line {k} of a way.\n" for k in range(1, 9)) + "It is $\\boxed{5}$.\n"
    rows = [{"question": f"What is {k}?", "text": text, "answer": "5"} for k in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ScriptedServer(_answer) as server:
        asked = f"annotator: model, settings: {{model: m, base_url: '{server.url}', key_variable: THE_KEY}}"
        profile = (
            "profile: model\nnotebooks:\n"
            f"  01_traces: {{source: {tmp_path}/rows.jsonl, licence: mit, tokenizer: TOKENIZER}}\n"
            f"  02_steps: {{{asked}}}\n  03_dag: {{{asked}}}\n  04_packing: {{validation: 0.3}}\n"
        )
        root = run(tmp_path, profile)
        assert {request.authorization for request in server.asked} == {f"Bearer {KEY}"}
        assert len(server.asked) == 6  # steps and dependencies of three traces, nothing twice
        again = repository.sprint(tmp_path, "run", "--profile", "model", "--only", "02", "--force")
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(server.asked) == 6
    with (root / "tables" / "ledger-steps.csv").open() as file:
        calls = next(row for row in csv.DictReader(file) if row["quantity"] == "calls")
    assert (calls["this_run"], calls["in_all"]) == ("0", "3")  # what was paid is not forgotten
    card = (root / "data" / "dataset" / "README.md").read_text()
    assert "Source of the traces: rows.jsonl. Licence of the traces: mit." in card
    assert card.count("annotator: model\n  model: m\n") == 2
    assert "prompts: " in card
    assert not [secret for secret in (KEY, "THE_KEY", server.url, str(tmp_path)) if secret in card]
    kept = [json.loads(line) for line in (root / "data" / "trajectories.jsonl").read_text().splitlines()]
    assert [row["ratio"] for row in kept] == [2.0] * 3
    assert "prompt_tokens" in (root / "notebooks" / "02_steps.ipynb").read_text()  # the ledger's rows
    assert not [path for path in root.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
