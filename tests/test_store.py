"""Files, hashes, record logs and workspaces: what a kill, a second writer or a changed key may not break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sprint_lib import store
from sprint_lib.store import LogError, RecordLog, Workspace, read_log

WRITER = """
import sys
from sprint_lib.store import RecordLog
with RecordLog(sys.argv[1], "k") as log:
    print("ready", flush=True)
    for i in range(len(log), 100_000):
        log.append(f"r{i}", {"value": i, "pad": "x" * 300})
"""


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.write_text(tmp_path / "a" / "x.txt", "old")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        store.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_json_refuses_nan_and_takes_hostile_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write None instead"):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    store.write_json(tmp_path / "y.json", {"b": "\ud800 é"})
    assert json.loads((tmp_path / "y.json").read_text()) == {"b": "? é"}


def test_hashes(tmp_path: Path) -> None:
    assert store.hash_json({"a": 1, "b": [2]}) == store.hash_json({"b": [2], "a": 1}) != store.hash_json({"a": 1})
    store.write_text(tmp_path / "abc", "abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert store.hash_path(tmp_path / "abc") == known
    before = store.hash_path(tmp_path)
    (tmp_path / ".abc.lock").touch()
    assert store.hash_path(tmp_path) == before
    (tmp_path / "abc").rename(tmp_path / "abd")
    assert store.hash_path(tmp_path) != before
    with pytest.raises(FileNotFoundError):
        store.hash_path(tmp_path / "nothing")


def test_log_keeps_records_and_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RecordLog(path, {"n": (1, 2)}) as log:
        log.append("b", {"v": 1, "text": "line\nbreak \u2028 \ud800"})
        log.extend([("a", {"v": 2}), ("c", {"v": 3})])
        with pytest.raises(ValueError, match="already"):
            log.extend([("d", {"v": 4}), ("a", {"v": 5})])
    assert list(read_log(path)) == ["b", "a", "c"]
    with RecordLog(path, {"n": [1, 2]}) as log:
        assert log.records == read_log(path)
        assert len(log) == 3
        assert "d" not in log
        assert log.records["b"]["text"] == "line\nbreak \u2028 \ud800"
        log.discard(["a", "unknown"])
        log.append("a", {"v": 6})
    assert [(k, v["v"]) for k, v in read_log(path).items()] == [("b", 1), ("c", 3), ("a", 6)]


def test_log_is_usable_after_a_cut_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RecordLog(path, "k") as log:
        for i in range(3):
            log.append(str(i), {"v": i})
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = max(0, sum(end <= cut for end in ends) - 1)
        with RecordLog(path, "k") as log:
            assert list(log.records) == [str(i) for i in range(kept)]
            log.append("new", {})
        assert list(read_log(path)) == [*(str(i) for i in range(kept)), "new"]


def test_log_reports_damage_inside(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RecordLog(path, "k") as log:
        log.extend([("a", {}), ("b", {})])
    lines = path.read_bytes().splitlines(keepends=True)
    for bad, message in ((b"\0\0\n", "damaged"), (b"{}\n", "not a record"), (lines[2], "second record 'b'")):
        path.write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(LogError, match=message):
            RecordLog(path, "k", wait=0)
        with pytest.raises(LogError, match=message):
            read_log(path)
    path.write_text("not a log\n")
    with pytest.raises(LogError, match="damaged"):
        RecordLog(path, "k", wait=0)


def test_log_of_another_key_is_set_aside_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RecordLog(path, "old") as log:
        log.append("a", {"v": 1})
    with RecordLog(path, "new") as log:
        assert len(log) == 0
        log.append("a", {"v": 2})
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
    assert list(tmp_path.glob("*.jsonl")) == [path]
    with RecordLog(path, "old") as log:
        assert log.records == {"a": {"v": 1}}
    with RecordLog(path, "new") as log:
        assert log.records == {"a": {"v": 2}}
    assert store.log_key(path) == ("new",)


def test_failed_append_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    real = os.pwrite

    def full_disk(file: int, data: bytes, at: int) -> int:
        real(file, data[:7], at)
        raise OSError("no space left")

    with RecordLog(path, "k") as log:
        log.append("a", {})
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full_disk)
            with pytest.raises(OSError, match="no space"):
                log.append("b", {})
        log.append("c", {})
    assert list(read_log(path)) == ["a", "c"]


def test_second_writer_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            with pytest.raises(LogError, match="another process"):
                RecordLog(path, "k", wait=0.1)
            while writer.poll() is None and path.read_bytes().count(b"\n") < 10:
                time.sleep(0.01)
        finally:
            writer.send_signal(signal.SIGKILL)
    with RecordLog(path, "k") as log:
        assert len(log) > 5
        assert [r["value"] for r in log.records.values()] == list(range(len(log)))


def test_workspace_is_found_from_inside_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.OUTPUTS_VARIABLE, raising=False)
    for folder in ("params", "notebooks/deep"):
        (tmp_path / "repo" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repo" / "notebooks" / "deep")
    assert Workspace("smoke").tables == tmp_path / "repo" / "outputs" / "smoke" / "tables"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="SPRINT_OUTPUTS"):
        _ = Workspace("smoke").root
    monkeypatch.setenv(store.OUTPUTS_VARIABLE, str(tmp_path / "elsewhere"))
    assert Workspace("smoke").attempts("rft") == tmp_path / "elsewhere" / "smoke" / "data" / "attempts" / "rft.jsonl"
    assert Workspace("smoke", tmp_path).root == tmp_path / "smoke"
    with pytest.raises(ValueError, match="plain name"):
        Workspace("../laptop")


def test_provenance_is_json_and_names_the_code() -> None:
    found = json.loads(json.dumps(store.provenance()))
    assert found["packages"]["numpy"]
    assert found["cores"] >= 1
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    if commit.returncode == 0:
        assert found["git"]["commit"] == commit.stdout.strip()
