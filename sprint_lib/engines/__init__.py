"""What writes text: the engine protocol, its request and its result.

An engine is one object with one coroutine that streams a completion and says
what it cost. `open_engine` makes one from a plain description; everything above
(loop, methods, evaluation) knows only this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

ROUTING = ("prefix", "least_load")
OnText = Callable[[str, int], None]  # (new text, completion tokens so far)


class EngineError(RuntimeError):
    """An engine could not start or could not finish a completion; says what and why."""


@dataclass(frozen=True)
class Request:
    """One completion asked of an engine."""

    prompt: str
    max_tokens: int
    temperature: float = 0.0  # 0: the most probable token, always
    stop: tuple[str, ...] = ()  # the first of these to appear ends the text and is cut off
    seed: int = 0  # the request's own random stream; the same seed gives the same text
    role: str = ""  # of the call it is for ("planner", "executor", ...), for engines that keep pools of servers


@dataclass(frozen=True)
class Completion:
    """What an engine wrote and what it cost.

    `completion_tokens` counts everything generated, the token that completed a
    stop string and the end token included. `finish` is `stop` (a stop string or
    the end token), `length` (`max_tokens` or the model's context is full) or
    `error`: broken off, with what was written until then. Times are
    `time.monotonic()` seconds; `started` is when the request was handed over, so
    waiting in a queue counts.
    """

    text: str
    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from another sequence instead of computed
    completion_tokens: int
    finish: str
    started: float
    first_token: float
    ended: float
    note: str = ""  # what went wrong on the way, whatever the end
    prompt_ids: tuple[int, ...] = ()  # tokens as the engine saw and wrote them; none if it does not know them
    ids: tuple[int, ...] = ()


class Engine(Protocol):
    """One language model behind one coroutine; any number of calls at once."""

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """Complete a prompt; `on_text` is called in the event loop's thread as text appears.

        Cancelling the awaiting task ends the work on it, and so does an exception of
        `on_text`, which is raised as it is. Raises EngineError.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text in this engine's tokenizer."""
        ...

    async def close(self) -> None:
        """End all work and give the memory back; unfinished calls raise EngineError."""
        ...


def as_chat(engine: Engine, message: str, begun: str = "") -> str:
    """A message and the beginning of its reply as the engine's model was trained to see them: in its chat template, or
    one after the other where it has none (`engines.templates`; of a server it is known by the spec's `tokenizer`)."""
    from sprint_lib.engines.templates import chat_template

    template = chat_template(getattr(engine, "folder", ""))
    return template(message, begun) if template else f"{message}\n\n{begun}"


@dataclass(frozen=True)
class EngineSpec:
    """A plain description of an engine, as a notebook or a run file holds it.

    Raises:
        ValueError: for a server without addresses, addresses that are no list of them, and values that cannot be.
    """

    kind: str = "embedded"  # or server
    model: str = ""  # folder of a Hugging Face causal language model with its tokenizer; server: the name it serves
    # of an embedded one
    dtype: str = "float32"  # or bfloat16 (faster); float64: a text never depends on what else is running
    max_batch: int = 64  # sequences decoded together
    threads: int = 1
    # of a server
    urls: tuple[str, ...] = ()  # base addresses of OpenAI-compatible servers of the same model: http://host:8000/v1
    executor_urls: tuple[str, ...] = ()  # those of the executors; none: the same as all others
    tokenizer: str = ""  # folder with the model's tokenizer.json; with it prompts go out as token ids
    key_variable: str = ""  # environment variable with the API key, never the key
    routing: str = "prefix"  # to the server that has a prompt's beginning, unless too busy; or least_load
    retries: int = 3  # of a call, counted over all servers
    connect_seconds: float = 10.0
    chunk_seconds: float = 120.0  # between two pieces of a stream; before the first, a server that answers may be busy
    call_seconds: float = 3600.0  # for a call from its beginning to its end, waiting in queues and retries included

    def __post_init__(self) -> None:
        for name in ("urls", "executor_urls"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(url, str) for url in given):
                raise ValueError(f"engine: {name} is {given!r}; it must be a list of addresses [http://host:8000/v1]")
            object.__setattr__(self, name, tuple(given))
        for name in ("connect_seconds", "chunk_seconds", "call_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"engine: {name} is {getattr(self, name)}; it must be more than 0")
        if self.kind == "server" and not (self.urls and self.model):
            raise ValueError(
                "engine: a server needs urls, its addresses [http://host:8000/v1], and model, a name it serves"
            )
        if self.routing not in ROUTING:
            raise ValueError(f"engine: no routing {self.routing!r}; there are: {', '.join(ROUTING)}")
        if self.retries < 0:
            raise ValueError(f"engine: retries is {self.retries}; it must be 0 or more")


def open_engine(spec: EngineSpec) -> Engine:
    """Start the engine a description names. Raises EngineError."""
    if spec.kind == "embedded":
        from sprint_lib.engines.embedded import EmbeddedEngine

        return EmbeddedEngine(spec)
    if spec.kind == "server":
        from sprint_lib.engines.server import ServerEngine

        return ServerEngine(spec)
    raise EngineError(f"engine kind {spec.kind!r} is unknown; there are: embedded, server")
