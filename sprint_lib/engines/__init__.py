"""What writes text: the engine protocol, its request and its result.

An engine is one object with one coroutine that streams a completion and says
what it cost. `open_engine` makes one from a plain description; everything above
(loop, methods, evaluation) knows only this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True)
class Completion:
    """What an engine wrote and what it cost.

    `completion_tokens` counts everything generated, the token that completed a
    stop string and the end token included. `finish` is `stop` (a stop string or
    the end token), `length` (`max_tokens` or the model's context is full) or
    `error`. Times are `time.monotonic()` seconds; `started` is when the request
    was handed over, so waiting in a queue counts.
    """

    text: str
    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from another sequence instead of computed
    completion_tokens: int
    finish: str
    started: float
    first_token: float
    ended: float


class Engine(Protocol):
    """One language model behind one coroutine; any number of calls at once."""

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """Complete a prompt; `on_text` is called in the event loop's thread as text appears.

        Cancelling the awaiting task ends the work on it. Raises EngineError.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text in this engine's tokenizer."""
        ...

    async def close(self) -> None:
        """End all work and give the memory back; unfinished calls raise EngineError."""
        ...


@dataclass(frozen=True)
class EngineSpec:
    """A plain description of an engine, as a notebook or a run file holds it."""

    kind: str = "embedded"
    model: str = ""  # folder of a Hugging Face causal language model with its tokenizer
    dtype: str = "float32"  # or bfloat16 (faster); float64: a text never depends on what else is running
    max_batch: int = 64  # sequences decoded together
    threads: int = 1


def open_engine(spec: EngineSpec) -> Engine:
    """Start the engine a description names. Raises EngineError."""
    if spec.kind == "embedded":
        from sprint_lib.engines.embedded import EmbeddedEngine

        return EmbeddedEngine(spec)
    raise EngineError(f"engine kind {spec.kind!r} is unknown; there are: embedded")
