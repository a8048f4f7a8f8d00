"""The command `sprint`: what it prints for people and for other programs, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hostile
import pytest
import repository

from sprint_lib import doctor, models, store, texts
from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.cli import main

TRAJECTORY = """Numbers: 2 3 4 17
Target: 85
<Plan_1>
<prompt_1.1> 2 + 3</prompt_1.1>
<prompt_1.2> 3 - 2</prompt_1.2>
</Plan_1>
<Execution_1>
<execution_1.1>
None
</execution_1.1>
<execution_1.2>
Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85
</execution_1.2>
</Execution_1>
<Final_answer>
Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85
</Final_answer>
"""


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer to which every character is a token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = [*map(chr, range(0x2FFF)), "\N{REPLACEMENT CHARACTER}"]
    made = Tokenizer(
        models.WordLevel({letter: k for k, letter in enumerate(["unknown", *letters])}, unk_token="unknown")
    )
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def attempts(tmp_path: Path) -> Path:
    """A record log of two attempts: a plan of 10 tokens, executors of 30 and 20 that start at its 4th and 8th."""
    calls = (
        Call("plan", "planner", 1, completion_tokens=10),
        Call("one", "executor", 1, 1, (Wait("plan", 4),), completion_tokens=30),
        Call("two", "executor", 1, 2, (Wait("plan", 8),), completion_tokens=20),
    )
    path = tmp_path / "texts" / "sprint.jsonl"
    with store.RecordLog(path, "key") as log:
        for problem in ("first", "second"):
            attempt = Attempt(problem, "sprint", "ok", True, "1", TRAJECTORY, calls)
            log.append(problem, {"attempt": attempt.to_json()})
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# --- parse and tokens -----------------------------------------------------------------


def test_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.txt"
    path.write_text(TRAJECTORY.replace("</Plan_1>", "<Plan_1>"))
    (found,) = answer(capsys, "parse", str(path), "--json")
    assert found["file"] == str(path)
    assert [prompt["prompt"] for prompt in found["stages"][0]["plan"] if "prompt" in prompt] == [" 2 + 3", " 3 - 2"]
    assert found["final"].startswith("Answer 3 - 2")
    assert found["defects"]
    assert main(["parse", str(path)]) == 0
    said = capsys.readouterr().out
    assert "stage 1: 2 prompts, 2 executions" in said
    assert f"defect at character {found['defects'][0]['at']}: {found['defects'][0]['kind']}" in said


def test_parse_folder(attempts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (attempts.parent / "broken.txt").write_text("<execution_")
    found = answer(capsys, "parse", str(attempts.parent), "--json")
    assert [one["record"] for one in found] == ["", "first", "second"]
    main(["parse", str(attempts.parent)])
    assert f"{attempts}: 2 texts, 2 stages, defects: none" in capsys.readouterr().out


def test_tokens_of_recorded_calls(attempts: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "tokens", str(attempts), "--tokenizer", str(tokenizer), "--json")
    assert [one["sequential"] for one in found] == [34, 34]
    assert (found[0]["serial"], found[0]["total"], found[0]["recorded"]) == (40, 60, True)


def test_words_that_a_tokenizer_does_not_have_are_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "Try 2 + 3\\n"}\n{"text": "Let me see."}\n')
    known, prose = answer(capsys, "tokens", str(path), "--json")
    assert known["total"] > 0
    assert kinds(known) == []
    assert (prose["total"], kinds(prose)) == (None, ["not_counted"])
    assert main(["tokens", str(path)]) == 0
    assert "name the one of the model that is to read it" in capsys.readouterr().out


def test_tokens_of_texts(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps({"id": "x", "text": TRAJECTORY}) + "\n" + json.dumps({"text": "no tags"}) + "\n")
    marked, plain = answer(capsys, "tokens", str(path), "--tokenizer", str(tokenizer), "--json")
    # By character: the prompts and the line breaks behind them, the longer execution, the answer.
    first, second = " 2 + 3", " 3 - 2"
    done = "Solved 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"
    end = "Answer 3 - 2 = 1 ; 1 + 4 = 5 ; 5 * 17 = 85\n"
    assert marked["sequential"] == len(first) + 1 + len(second) + len(done) + len(end)
    assert marked["total"] == len(first) + 1 + len(second) + 1 + len("None\n") + len(done) + len(end)
    assert (plain["sequential"], plain["total"], plain["stages"]) == (7, 7, 0)
    assert main(["tokens", str(path), "--tokenizer", str(tokenizer)]) == 0
    assert "means over the texts of a file" in capsys.readouterr().out
    (tagged, _) = answer(capsys, "tokens", str(path), "--tokenizer", str(tokenizer), "--tags", "--json")
    assert tagged["total"] > marked["total"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.txt", None, "missing.txt: No such file"),
        ("", None, "no .txt or .jsonl file in this folder"),
    ],
)
def test_texts_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert said in refusal(capsys, "parse", str(tmp_path / name))


def test_tokenizer_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    assert "no shipped model 'none-such'" in refusal(capsys, "tokens", str(path), "--tokenizer", "none-such")
    assert "not a tokenizer" in refusal(capsys, "tokens", str(path), "--tokenizer", str(tmp_path))


# --- folders that hold anything --------------------------------------------------------


def kinds(found: dict[str, Any]) -> list[str]:
    return [defect["kind"] for defect in found["defects"]]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one good text and everything that may lie beside it."""
    folder = tmp_path / "mixed"
    contents: dict[str, bytes] = {
        "good.txt": TRAJECTORY.encode(),
        "twice.txt": TRAJECTORY.encode() * 2,
        "cut.txt": TRAJECTORY.partition("5 * 17")[0].encode(),
        "cut_utf8.txt": "θ".encode()[:1],
        "binary.txt": bytes(range(256)) * 20,
        "zeros.txt": bytes(1000),
        "empty.txt": b"",
        "blank.jsonl": b"\n\n",
        "linear.txt": b"Okay, so 2 + 3 = 5.\n</think>\n",
        "sub/cut.jsonl": json.dumps({"text": TRAJECTORY}).encode() + b'\n[]\n{"text": "half',
        "sub/surrogate.jsonl": b'{"text": "\\ud800 <Plan>"}\n{"id": "\\udfff", "record": {"text": "x"}}',
        "sub/binary.jsonl": bytes(range(256)),
        "skipped.png": b"not looked at",
    }
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.txt")
    return folder


EXPECTED = {
    ("good.txt", ""): [],
    ("twice.txt", ""): ["text_after_final"],
    ("cut.txt", ""): ["unclosed_execution"],
    ("cut_utf8.txt", ""): ["not_text"],
    ("binary.txt", ""): ["not_text"],
    ("zeros.txt", ""): ["not_text"],
    ("empty.txt", ""): ["empty"],
    ("blank.jsonl", ""): ["empty"],
    ("linear.txt", ""): ["missing_final_answer"],
    ("sub/cut.jsonl", "1"): [],
    ("sub/cut.jsonl", "2"): ["damaged_record"],
    ("sub/surrogate.jsonl", "1"): ["unclosed_plan", "bare_tag"],
    ("sub/surrogate.jsonl", "?"): ["missing_final_answer"],
    ("sub/binary.jsonl", "1"): ["damaged_record"],
    ("gone.txt", ""): ["unreadable"],
    ("pipe.txt", ""): ["unreadable"],
}


def test_parse_reports_what_is_wrong_with_each_file(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "parse", str(mixed), "--json")
    by_place = {(str(Path(one["file"]).relative_to(mixed)), one["record"]): one for one in found}
    assert set(by_place) == set(EXPECTED)
    for place, expected in EXPECTED.items():
        assert set(expected) <= set(kinds(by_place[place])), place
        assert bool(expected) == bool(kinds(by_place[place])), place
    assert by_place["twice.txt", ""]["stages"] == by_place["good.txt", ""]["stages"]
    assert main(["parse", str(mixed)]) == 0
    said = capsys.readouterr().out
    assert f"{mixed}/gone.txt: 0 texts, 0 stages, defects: unreadable 1" in said
    assert f"14 files: {len(EXPECTED) - 6} texts, " in said.splitlines()[-1]
    assert "damaged_record 2" in said.splitlines()[-1]


def test_tokens_of_a_folder_with_damaged_files(
    mixed: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "tokens", str(mixed), "--tokenizer", str(tokenizer), "--json")
    by_place = {(str(Path(one["file"]).relative_to(mixed)), one["record"]): one for one in found}
    assert set(by_place) == set(EXPECTED)
    none = {place for place, one in by_place.items() if one["total"] is None}
    assert none == {
        place for place, expected in EXPECTED.items() if {*expected} & {"empty", "unreadable", "damaged_record"}
    }
    assert by_place["good.txt", ""]["total"] == by_place["sub/cut.jsonl", "1"]["total"] > 0
    assert by_place["linear.txt", ""]["sequential"] == len("Okay, so 2 + 3 = 5.\n\n") + 1  # </think> is one
    assert main(["tokens", str(mixed), "--tokenizer", str(tokenizer)]) == 0
    said = capsys.readouterr().out
    assert f"{mixed}/gone.txt: unreadable: no file that can be read" in said
    assert f"{mixed}/sub/cut.jsonl:2: damaged_record: a record without a 'text'; 2 such lines" in said


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", ["empty"]),
        ("a.txt", b"\xff\xfe\x00", ["not_text", "missing_final_answer"]),
        ("a.jsonl", b"", ["empty"]),
        ("a.jsonl", b"\x00\xff", ["damaged_record"]),
        ("a.jsonl", b'{"text": "cut', ["damaged_record"]),
        ("a.jsonl", b"{not json}\n", ["damaged_record"]),
        ("a.jsonl", b'{"text": "x", "calls": [{"nonsense": 1}]}\n', ["damaged_record"]),
    ],
)
def test_one_file_with_nothing_good_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, expected: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    (found,) = answer(capsys, "parse", str(tmp_path / name), "--json")
    assert kinds(found) == expected
    assert main(["parse", str(tmp_path / name)]) == 0
    assert f"defect at character 0: {expected[0]}" in capsys.readouterr().out
    assert main(["tokens", str(tmp_path / name)]) == 0
    assert f"{expected[0]}: " in capsys.readouterr().out


def test_a_damaged_line_keeps_no_other_from_being_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Try 2 + 3"}\n[]\n{"text": "None"}\n')
    found = {one["record"]: one for one in answer(capsys, "tokens", str(path), "--json")}
    assert {record: kinds(one) for record, one in found.items()} == {"1": [], "3": [], "2": ["damaged_record"]}
    assert main(["tokens", str(path)]) == 0
    assert "a.jsonl:2: damaged_record: a record without a 'text'" in capsys.readouterr().out


def test_calls_that_form_no_graph_are_reported(attempts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = attempts.with_name("damaged.jsonl")
    damaged.write_text(attempts.read_text().replace('"call":"plan"', '"call":"one"', 1))
    (broken, sound) = answer(capsys, "tokens", str(damaged), "--json")
    assert kinds(broken) == ["damaged_calls"]
    assert (broken["total"], sound["total"], kinds(sound)) == (None, 60, [])


def test_a_folder_that_cannot_be_looked_into(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = {Path(one["file"]).name: one for one in answer(capsys, "parse", str(mixed), "--json")}
    assert kinds(found["sub"]) == ["unreadable"]
    assert kinds(found["good.txt"]) == []


def test_a_file_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(texts, "LONGEST_FILE", 100)
    (tmp_path / "a.txt").write_text("x" * 101)
    (tmp_path / "b.txt").write_text("x" * 100)
    long, short = answer(capsys, "parse", str(tmp_path), "--json")
    assert (kinds(long), kinds(short)) == (["unreadable"], ["missing_final_answer"])
    assert "a.txt: longer than 100 bytes" in refusal(capsys, "parse", str(tmp_path / "a.txt"))


def test_thousands_of_files_and_five_megabytes_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = TRAJECTORY.partition("<Plan_1>")[2].partition("<Final_answer>")[0]
    prose = "So the sum of both is 12, which is what was asked for. " * 8
    text = "".join(f"<Plan_{i}>{stage.replace('_1', f'_{i}').replace('None', prose)}" for i in range(1, 9))
    text = f"Question\n{text}<Final_answer>\n1\n</Final_answer>\n"
    for i in range(1000):
        (tmp_path / f"{i}.txt").write_text(text)
    for _ in range(3):  # other processes may be at work the first time
        start = time.process_time()
        found = answer(capsys, "parse", str(tmp_path), "--json")
        rate = 1000 * len(text) / (time.process_time() - start)
        rate *= hostile.slowness()
        if rate > 5e6:
            break
    assert len(found) == 1000
    assert len(found[0]["stages"]) == 8
    assert rate > 5e6


# --- solve ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sprint", "sequential"])
def test_solve(tiny_model: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    problem = ["solve", "3 4 5 7 -> 24", "--model", str(tiny_model), "--method", method]
    found = answer(capsys, *problem, "--json")
    assert found["attempt"]["method"] == method
    assert found["attempt"]["correct"] is False
    assert found["tokens"]["total"] == sum(call["completion_tokens"] for call in found["attempt"]["calls"])
    assert main(problem) == 0
    said = capsys.readouterr().out
    assert "not correct" in said
    assert f"total {found['tokens']['total']:,}" in said


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("3 -> 24", "not a problem"),
        ("3 4 5 7", "not a problem"),
        ("1 2 3 4 5 -> 9", "not a problem"),
        ("3 4 5 700 -> 24", "from 1 to 100"),
        ("__import__('os')", "not a problem"),
    ],
)
def test_solve_refuses(capsys: pytest.CaptureFixture[str], problem: str, said: str) -> None:
    assert said in refusal(capsys, "solve", problem)


def test_solve_takes_the_model_that_was_trained_for_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sprint_lib import engines

    def no_engine(spec: engines.EngineSpec) -> engines.Engine:
        raise engines.EngineError(f"asked for {spec.model}")

    def asked(*arguments: str) -> Path:
        said = refusal(capsys, "solve", "3 4 -> 7", *arguments)
        return Path(said.strip().removeprefix("sprint: asked for "))

    monkeypatch.setattr(engines, "open_engine", no_engine)
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    assert asked("--method", "sequential") == models.path("countdown-base")
    assert asked() == models.path("countdown-sprint")
    for name in ("rft", "sprint"):
        store.write_text(tmp_path / "laptop" / "models" / name / "training.json", "{}")
    assert asked("--method", "sequential") == tmp_path / "laptop" / "models" / "rft"
    assert asked() == tmp_path / "laptop" / "models" / "sprint"
    assert asked("--method", "sequential", "--profile", "smoke") == models.path("countdown-base")
    assert asked("--method", "sequential", "--model", str(tmp_path)) == tmp_path


def test_solve_refuses_unknown_method_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no method 'magic'" in refusal(capsys, "solve", "3 4 -> 7", "--method", "magic")
    assert "no shipped model 'none-such'" in refusal(capsys, "solve", "3 4 -> 7", "--model", "none-such")


# --- the suite's commands -------------------------------------------------------------


def test_status_is_light_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = repository.make(tmp_path)
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib', 'papermill', 'nbformat', 'numpy'}"
    code = f"import sys; from sprint_lib.cli import main; main(sys.argv[1:]); sys.exit({heavy} & set(sys.modules) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--profile", "quick"],
        cwd=root,
        env=repository.environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["00_numbers", "not", "run", "<", "1", "min", "not", "run", "yet"]
    assert done.stdout.splitlines()[-1] == "3 not run"


def test_every_refusal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository.make(tmp_path))
    monkeypatch.delenv("SPRINT_OUTPUTS", raising=False)
    repository.write_profile(tmp_path, "profile: quick\nnotebooks:\n  00_numbers: {m: 1}\n  01_sum: {}\n")
    lines = refusal(capsys, "run", "--profile", "quick").splitlines()
    assert lines[0].startswith(f"sprint: {tmp_path}/params/quick.yaml: no notebook '01_sum' in")
    assert lines[1].endswith("00_numbers: unknown key 'm'")
    assert "no profile 'laptop'" in refusal(capsys, "status")


def test_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    assert "sprint run --profile laptop" in refusal(capsys, "claims")
    rows = [
        {"id": "a", "source": "Table 1", "paper": 64.2, "value": 61.5, "low": 60, "high": 63, "n": 500,
         "verdict": "reproduced", "why": "inside"},
        {"id": "b", "source": "Figure 5", "paper": 3, "value": None, "low": None, "high": None, "n": None,
         "verdict": "not run", "why": "needs a GPU"},
    ]  # fmt: skip
    store.write_json(tmp_path / "laptop" / "claims.json", rows)
    assert answer(capsys, "claims", "--json") == rows
    assert main(["claims"]) == 0
    said = capsys.readouterr().out
    assert "61.5 [60, 63]" in said
    assert said.splitlines()[-1] == "this run: 1 reproduced, 1 not run"
    store.write_json(
        tmp_path / "laptop" / "claims.json",
        [rows[0] | {"of": "this run"}, rows[0] | {"of": "the authors' released outputs"}],
    )
    assert main(["claims"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"500 +reproduced +(\S.*)", said) == ["this run", "the authors' released outputs"]
    assert said.splitlines()[-2:] == ["this run: 1 reproduced", "the authors' released outputs: 1 reproduced"]


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', "3", "[3]", '[{"id": "a"}]', "\xff"])
def test_damaged_claims_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    path = tmp_path / "laptop" / "claims.json"
    path.parent.mkdir()
    path.write_text(content, encoding="latin-1")
    said = refusal(capsys, "claims")
    assert f"{path}: damaged (" in said
    assert "delete it, `sprint run --profile laptop` writes it anew" in said


# --- eval and train -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{name: x, method: sequential, temprature: 1}", "temprature"),
        ("{name: x, method: magic, engine: {model: there}}", "no method 'magic'; there are"),
        ("{name: x, method: sequential, task: chess, engine: {model: there}}", "no task 'chess'; there are"),
        ("{name: x, method: sequential}", "no model here"),
        ("{name: x, method: sequential, n: many, engine: {model: there}}", "'<' not supported"),
        ("{name: x, method: sequential, settings: {tokens: 3}, engine: {model: there}}", "unknown setting 'tokens'"),
        ("[{name: x, method: sprint, engine: {model: m}}, {name: x, method: sprint, engine: {model: m}}]", "one name"),
        ("{name: [}", "expected the node content"),
        ("3", "expected a run or a list of runs"),
        ("", "expected a run or a list of runs"),
    ],
)
def test_eval_refuses_a_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(content)
    message = refusal(capsys, "eval", str(spec))
    assert "spec.yaml" in message
    assert said in message


SPEC = "{name: x, method: sequential, engine: {kind: served, model: there}}"


def test_eval_refuses_a_damaged_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    (tmp_path / "spec.yaml").write_text(SPEC)
    log = tmp_path / "laptop" / "data" / "attempts" / "x.jsonl"
    store.write_text(log, "not a log\n")
    said = refusal(capsys, "eval", str(tmp_path / "spec.yaml"))
    assert f"{log}:1: damaged line" in said
    assert "spec.yaml" not in said


def test_eval_does_not_blame_the_spec_for_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sprint_lib.evaluation import runs

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(runs, "run_many", broken)
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    (tmp_path / "spec.yaml").write_text(SPEC)
    with pytest.raises(KeyError, match="a bug"):
        main(["eval", str(tmp_path / "spec.yaml")])

    def failing(*_: Any, **__: Any) -> None:
        raise runs.RunError("run 'x': 2 of 12 attempts failed in the engine")

    monkeypatch.setattr(runs, "run_many", failing)
    assert main(["eval", str(tmp_path / "spec.yaml")]) == 1
    assert "sprint: run 'x': 2 of 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "bad.json:1:2: "),
        ("[]", "bad.json: expected the keys samples, base, out"),
        ('{"samples": "s", "base": "b"}', "bad.json: 'out' is missing"),
        ('{"samples": "s", "base": "b", "out": "o", "config": {"lrr": 1}}', "bad.json: config: unknown key 'lrr'"),
        ('{"samples": "s", "base": "b", "out": "o"}', "bad.json: 'base': b: no model here"),
        ('{"samples": "s", "base": "BASE", "out": "o"}', "bad.json: 'samples': s: not a file of samples"),
        ('{"samples": "EMPTY", "base": "BASE", "out": "o"}', "no samples to train on"),
        (None, "bad.json: no such file"),
    ],
)
def test_train_sft_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str) -> None:
    if content is not None:
        empty = store.write_text(tmp_path / "empty.jsonl", "")
        filled = content.replace("BASE", str(models.path("countdown-base"))).replace("EMPTY", str(empty))
        (tmp_path / "bad.json").write_text(filled)
    assert said in refusal(capsys, "train", "sft", str(tmp_path / "bad.json"))


def test_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_torch", lambda: iter([doctor.Finding("torch", "ok", "not asked here")]))
    monkeypatch.setenv("SPRINT_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["python"].state == "ok"
    assert findings["outputs"].detail == str(tmp_path)
    assert (findings["git"].state, findings["chromium"].state) == ("optional", "optional")
    assert findings["released logs"].state in ("ok", "optional")
    assert all(finding.remedy for finding in findings.values() if finding.state != "ok")
    doctor.show(list(findings.values()))
    assert "→ install git" in capsys.readouterr().out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    words = "run status doctor parse tokens released solve serve-model train curate eval claims"
    for command in words.split():
        assert f"\n    {command}" in said
