"""The engine that a profile describes, for one model: known before it starts, named by its weights, refused early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sprint_lib import models, serving
from sprint_lib.engines import EngineSpec
from sprint_lib.evaluation.runs import RunSpec, run_key

SHIPPED = "countdown-base"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serving, "environment", lambda: serving.Environment(tmp_path / "environment", "cpu"))


def key(spec: EngineSpec) -> Any:
    return run_key(RunSpec(name="x", method="sequential", engine=spec))


def test_in_this_process() -> None:
    folder = str(models.path(SHIPPED))
    with serving.engine_for(SHIPPED, {"dtype": "float64", "max_batch": 3}) as spec:
        assert spec == EngineSpec(model=folder, dtype="float64", max_batch=3)
    assert serving.engine_for(Path(folder), {}).spec == EngineSpec(model=folder)


def test_servers_that_run_already() -> None:
    given = {"kind": "server", "urls": ["http://a/v1"], "routing": "least_load"}
    assert serving.engine_for("models/rft", given).spec == EngineSpec(model="rft", **given)
    assert serving.engine_for("models/rft", {**given, "model": "other"}).spec.model == "other"


@pytest.mark.usefixtures("environment")
def test_a_server_to_be_started_goes_by_its_weights_and_how_it_serves_them(tmp_path: Path) -> None:
    copy = tmp_path / "rft"
    shutil.copytree(models.path(SHIPPED), copy)
    given = {"kind": "vllm", "dtype": "float32"}
    first = serving.engine_for(copy, given)
    assert first.server is not None
    assert first.server.process is None  # nothing runs yet
    assert first.spec.model.startswith("rft-")
    assert (first.spec.urls, first.spec.tokenizer) == ((first.server.url,), str(copy))
    again = serving.engine_for(copy, given)
    assert key(again.spec) == key(first.spec)  # whatever port is free
    assert key(serving.engine_for(copy, {**given, "dtype": "bfloat16"}).spec) != key(first.spec)
    training = copy / "config.json"
    training.write_text(json.dumps({**json.loads(training.read_text()), "rms_norm_eps": 1e-3}))
    assert key(serving.engine_for(copy, given).spec) != key(first.spec)
    assert serving.engine_for(copy, {**given, "name": "mine"}).spec.model == "mine"
    assert serving.engine_for("owner/name", given).spec.model == "owner/name"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "vlm"}, r"engine: unknown kind 'vlm' .did you mean 'vllm'"),
        ({"max_bach": 3}, r"engine: unknown key 'max_bach' .did you mean 'max_batch'"),
        ({"kind": "vllm", "max_batch": 3}, "engine: unknown key 'max_batch'"),
        ({"kind": "vllm", "model": "x"}, "engine: unknown key 'model'"),
        ({"kind": "server"}, "a server needs urls"),
    ],
)
def test_what_no_engine_takes_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        serving.engine_for(SHIPPED, given)


def test_a_model_by_its_name_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.find(SHIPPED) == models.path(SHIPPED)
    assert models.find(str(tmp_path)) == tmp_path.resolve()
    with pytest.raises(FileNotFoundError, match=r"nowhere: no model here; give a folder.*countdown-base"):
        models.find("nowhere")
    import huggingface_hub

    def fetched(name: str, **options: Any) -> str:
        if name == "owner/gone":
            raise OSError("no network\nat all")
        return f"/cache/{name}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert models.find("owner/name") == Path("/cache/owner/name")
    with pytest.raises(FileNotFoundError, match=r"owner/gone: cannot be had from the hub: no network; `hf download"):
        models.find("owner/gone")
