"""The data set of curated traces: read back by `datasets`, split by problem, written whole, sent only on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sprint_lib import accounting, store
from sprint_lib.curation import Annotated, Aside, Packed, Trace
from sprint_lib.curation.dataset import TOKEN_VARIABLE, DatasetError, json_lines, push, save
from sprint_lib.curation.graph import dependency_graph
from sprint_lib.curation.packing import pack
from sprint_lib.curation.sources import read
from sprint_lib.curation.steps import Step

ASIDE = [
    Aside("x", "traces", "wrong answer"),
    *(Aside(f"y{line}", "steps", f"line {line} is in `no step`; line 9, too") for line in (7, 8)),
]
TOKEN = "hf_secretsecretsecret"


def packed(trace: str, problem: str = "") -> Packed:
    """Two tasks of three lines each that do not need each other, then the answer."""
    text = "".join(f"line {k} of {trace}.\n" for k in range(1, 10))
    steps = (
        Step("one", plan=(1,), prompt="do one", execution=(2, 3, 4)),
        Step("two", plan=(5,), prompt="do two", execution=(6, 7, 8)),
        Step("answer", plan=(9,), final=True),
    )
    annotated = Annotated(
        Trace(trace, "What?\n", text, problem=problem, answer="9"),
        steps,
        {1: [], 2: [], 3: [1, 2]},
        repairs=("a repair",),
    )
    return Packed(annotated, pack("What?\n", annotated.lines, steps, dependency_graph(3, annotated.parents or {})))


def saved(folder: Path, items: list[Packed], **options: Any) -> Path:
    settings: dict[str, Any] = {
        **{"aside": ASIDE, "settings": {"cap": 6}, "format": "plain", "validation": 0.25, "seed": 1, "count": len},
        **{"source": "hand-made", "licence": "apache-2.0"},
    }
    return save(folder, items, **{**settings, **options})


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    import datasets

    return lambda folder, **options: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


def test_it_loads_back_with_samples_and_tokens_before_and_after(tmp_path: Path, loaded: Any) -> None:
    item = packed("a")
    data = loaded(saved(tmp_path / "set", [item, packed("b")], validation=0.0))
    assert set(data) == {"train"}
    row = data["train"][0]
    counts = accounting.tokens_of(item.packing.trajectory, len, tags=True)
    assert row["text"] == item.annotated.trace.text
    assert row["trajectory"] == item.packing.trajectory.render()
    assert row["tokens_before"] == row["critical_path_before"] == len(row["text"])
    assert (row["tokens_after"], row["critical_path_after"]) == (counts["total"], counts["sequential"])
    assert (row["problem"], row["ratio"], row["stages"], row["repairs"]) == ("a", 2.0, 1, ["a repair"])
    assert [sample["role"] for sample in row["samples"]] == ["planner", "executor", "executor", "planner"]
    assert row["samples"][0]["context"] == "What?\n"
    assert row["samples"][-1]["completion"].endswith("</Final_answer>")


def test_chat_samples_say_the_same_in_messages(tmp_path: Path, loaded: Any) -> None:
    plain = loaded(saved(tmp_path / "plain", [packed("a")]))["train"][0]["samples"]
    chat = loaded(saved(tmp_path / "chat", [packed("a")], format="chat"))["train"][0]["samples"]
    said = [tuple(message["content"] for message in sample["messages"]) for sample in chat]
    assert said == [(sample["context"], sample["completion"]) for sample in plain]
    assert [[m["role"] for m in sample["messages"]] for sample in chat] == [["user", "assistant"]] * len(plain)


def test_no_problem_is_in_two_splits(tmp_path: Path, loaded: Any) -> None:
    items = [packed(f"{problem}#{k}", problem) for problem in "abcdefgh" for k in range(3)]
    problems = {}
    for seed in (1, 2):
        data = loaded(saved(tmp_path / f"set-{seed}", items, seed=seed))
        train, validation = (set(data[split]["problem"]) for split in ("train", "validation"))
        assert not train & validation
        assert (len(train), len(validation), data.num_rows) == (6, 2, {"train": 18, "validation": 6})
        problems[seed] = validation
    assert problems[1] != problems[2]
    again = loaded(saved(tmp_path / "again", items[::-1], seed=1))
    assert set(again["validation"]["problem"]) == problems[1]


def test_it_is_a_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = list(read(str(saved(tmp_path / "set", [packed("a", "p"), packed("b", "q")], validation=0.0))))
    assert [(row.id, row.problem, row.question, row.answer) for row in rows] == [
        ("a", "p", "What?\n", "9"),
        ("b", "q", "What?\n", "9"),
    ]


def test_the_card_says_where_it_comes_from_and_what_was_set_aside(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [packed("a"), packed("b")], source="x | <b>y</b>")
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert [files["split"] for files in yaml.safe_load(header)["configs"][0]["data_files"]] == ["train", "validation"]
    assert "| set aside: steps | line … is in  no step  | 2 |" in text
    assert "| kept |  | 2 |" in text
    assert "<b>" not in text
    assert "cap: 6" in text
    assert "critical path saved (%) | " in text


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "set", [packed("a"), packed("b")])
    before = store.hash_path(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write_text", full)
        with pytest.raises(OSError, match="no space"):
            saved(folder, [packed("c")])
    assert store.hash_path(folder) == before
    saved(folder, [packed("b"), packed("c")])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert store.hash_path(folder) != before
    assert store.hash_path(saved(folder, [packed("a"), packed("b")])) == before  # the same every time


@pytest.mark.parametrize(
    ("items", "options", "said"),
    [
        ([], {}, "no trace was kept, 3 set aside"),
        (["a"], {"format": "chta"}, r"unknown format 'chta' \(did you mean 'chat'\?\)"),
        (["a"], {"validation": 1.0}, "a share from 0 to below 1"),
    ],
)
def test_what_cannot_be_saved_is_refused(items: list[str], options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=said):
        saved(tmp_path / "set", [packed(item) for item in items], **options)
    assert not list(tmp_path.iterdir())


def test_lines_for_training_hold_the_trace_and_its_settings() -> None:
    (row,) = map(json.loads, json_lines([packed("a")], cap=6, min_ratio=1.5).splitlines())
    assert list(row) == ["id", "question", "text", "problem", "answer", "trajectory", "cap", "min_ratio", "ratio"]
    assert (row["cap"], row["ratio"]) == (6, 2.0)


# --- the hub --------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub to create a data set and take small files in one commit."""

    requests: list[tuple[str, str, bytes]]
    refuses = False

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer({"id": "me/set", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests.append((self.path, self.headers.get("Authorization", ""), body))
        host = f"http://{self.headers['Host']}"
        if self.refuses:
            self._answer({"error": f"no access with {self.headers['Authorization']}"}, 403)
        elif "preupload" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif "commit" in self.path:
            self._answer({"commitUrl": f"{host}/datasets/me/set/commit/0", "commitOid": "0" * 40, "success": True})
        else:
            self._answer({"url": f"{host}/datasets/me/set", "name": "me/set"})


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.requests, Hub.refuses = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_is_sent_only_on_request_and_with_a_token(tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    folder = saved(tmp_path / "set", [packed("a"), packed("b")])
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(DatasetError, match="HF_TOKEN is not set"):
        push(folder, "me/set", endpoint=hub)
    assert Hub.requests == []
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert push(folder, "me/set", endpoint=hub).endswith("/datasets/me/set")
    paths = [path for path, _, _ in Hub.requests]
    assert any("/repos/create" in path for path in paths)
    (commit,) = [body.decode() for path, _, body in Hub.requests if "commit" in path]
    for name in ("README.md", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"):
        assert name in commit
    assert {given for _, given, _ in Hub.requests} == {f"Bearer {TOKEN}"}


def test_a_refusal_of_the_hub_keeps_the_token_secret(tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    Hub.refuses = True
    with pytest.raises(DatasetError, match="me/set: not sent") as refused:
        push(saved(tmp_path / "set", [packed("a"), packed("b")]), "me/set", endpoint=hub)
    assert TOKEN not in "".join(map(str, (refused.value, refused.value.__cause__)))


@pytest.mark.parametrize(("name", "said"), [("set", "called owner/name"), ("me/set", "no data set here")])
def test_what_is_no_data_set_or_no_place_is_not_sent(name: str, said: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [packed("a")]) if name == "set" else tmp_path
    with pytest.raises(DatasetError, match=said):
        push(folder, name)
