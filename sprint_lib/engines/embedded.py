"""The engine inside this process: a small decoder on the CPU, everything that waits decoded together.

A worker thread takes requests as they come (continuous batching): each step reads
in the prompts that have arrived and decodes one token of every live row. A new
prompt takes over the keys and values of the longest prefix that any live or
recently finished row shares with it, so that executors start from their
planner's context. Sampling draws from each request's own random stream and
nothing else, so with `dtype="float64"`, where rounding cannot tip a choice, a
request's text does not depend on what runs beside it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sprint_lib.engines import Completion, EngineError, EngineSpec, OnText, Request
from sprint_lib.engines.batching import Batching
from sprint_lib.engines.decoder import Decoder, Span
from sprint_lib.engines.shared import Teams
from sprint_lib.engines.stops import StopCutter
from sprint_lib.engines.team import TeamRequest, TeamResult

if TYPE_CHECKING:
    import torch
    from tokenizers.decoders import DecodeStream

DTYPES = ("float32", "float64", "bfloat16")
_BLOCK = 4  # rows that attend in one call, padded to the longest of them
_NEW_BLOCK = 100  # what one more call costs, in tokens attended to
_READ = 512  # prompt tokens read in per step, at least one prompt
_Event = Callable[[], None]


@dataclass(eq=False, slots=True)
class _Row:
    """One request at work: its tokens, where they are stored, and the text so far."""

    request: Request
    ids: list[int]  # the prompt, then what was generated
    prompt_tokens: int
    started: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Completion]
    on_text: OnText | None
    stream: DecodeStream
    rng: random.Random
    written: StopCutter
    slot: int = -1
    stored: int = 0  # tokens whose keys and values are in the slot
    cached: int = 0
    first_token: float = 0.0
    cancelled: bool = False

    def completion(self, finish: str, now: float) -> Completion:
        return Completion(
            text=self.written.text,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached,
            completion_tokens=len(self.ids) - self.prompt_tokens,
            finish=finish,
            started=self.started,
            first_token=self.first_token or now,
            ended=now,
            prompt_ids=tuple(self.ids[: self.prompt_tokens]),
            ids=tuple(self.ids[self.prompt_tokens :]),
        )


class _Slots:
    """Which row lives in which slot of the decoder's cache, and which finished rows are kept for their prefix.

    Live rows fill blocks of neighbouring slots from the front; a block attends in
    one call, so a row joins the block whose length it fits best.
    """

    def __init__(self, decoder: Decoder, blocks: int) -> None:
        import numpy as np

        self._decoder = decoder
        self.blocks: list[list[_Row]] = [[] for _ in range(blocks)]
        kept = range(blocks * _BLOCK, decoder.slots)
        self._kept: OrderedDict[int, None] = OrderedDict((slot, None) for slot in kept)  # longest unused first
        self._tokens = np.zeros((decoder.slots, 0), dtype=np.int32)
        self._filled = np.zeros(decoder.slots, dtype=np.int64)

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def __iter__(self) -> Iterator[_Row]:
        return (row for block in self.blocks for row in block)

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens."""
        import numpy as np

        if length <= self._decoder.capacity:
            return
        self._decoder.reserve(length, self._filled.tolist())
        missing = self._decoder.capacity - self._tokens.shape[1]
        self._tokens = np.pad(self._tokens, ((0, 0), (0, missing)))

    def place(self, row: _Row) -> None:
        """Give a row a slot, filled with the longest prefix at hand."""
        self.reserve(len(row.ids))
        source, length = self._longest_prefix(row.ids)
        index = self._best_block(len(row.ids))
        row.slot = index * _BLOCK + len(self.blocks[index])
        self.blocks[index].append(row)
        self._copy(source, row.slot, length)
        row.stored = row.cached = length
        if source in self._kept:
            self._kept.move_to_end(source)

    def remove(self, row: _Row) -> None:
        """Keep a row's prefix for later and close the gap it leaves in its block."""
        victim = next(iter(self._kept))
        self._copy(row.slot, victim, row.stored)
        self._kept.move_to_end(victim)
        last = self.blocks[row.slot // _BLOCK].pop()
        if last is not row:
            self._copy(last.slot, row.slot, last.stored)
            self.blocks[row.slot // _BLOCK][row.slot % _BLOCK] = last
            last.slot = row.slot

    def note(self, slots: Sequence[int], positions: Sequence[int], ids: Sequence[int]) -> None:
        """Remember which tokens were stored, in order."""
        import numpy as np

        at, where = np.asarray(slots), np.asarray(positions)
        self._tokens[at, where] = ids
        self._filled[at] = where + 1

    def _copy(self, source: int, target: int, length: int) -> None:
        if source != target and length:
            self._decoder.copy(source, target, length)
            self._tokens[target, :length] = self._tokens[source, :length]
        self._filled[target] = length

    def _longest_prefix(self, ids: list[int]) -> tuple[int, int]:
        """(slot, length) of the longest stored prefix; the last token is always computed, for its logits."""
        import numpy as np

        wanted = np.asarray(ids[:-1], dtype=np.int32)
        if not len(wanted):
            return 0, 0
        differs = self._tokens[:, : len(wanted)] != wanted
        common = np.where(differs.any(1), differs.argmax(1), len(wanted))
        common = np.minimum(common, self._filled)
        return int(common.argmax()), int(common.max())

    def _best_block(self, length: int) -> int:
        def waste(index: int) -> tuple[int, int]:
            block = self.blocks[index]
            if not block:
                return _NEW_BLOCK, index
            longest = max(len(row.ids) for row in block)
            return max(longest - length, len(block) * (length - longest)), index

        return min((i for i, block in enumerate(self.blocks) if len(block) < _BLOCK), key=waste)


class EmbeddedEngine(Batching[_Row]):
    """An Engine over a Hugging Face folder, in this process. See `Engine` for the methods' contracts.

    Raises EngineError if the folder holds no model that it can run.
    """

    def __init__(self, spec: EngineSpec) -> None:
        from tokenizers import Tokenizer

        folder = Path(spec.model)
        if spec.dtype not in DTYPES:
            raise EngineError(f"dtype {spec.dtype!r} is unknown; there are: {', '.join(DTYPES)}")
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise EngineError(f"{folder}: no {name} in it; a model folder is what save_pretrained writes")
        self._spec, self.folder = spec, spec.model
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._ends = _end_tokens(folder)
        blocks = 2 * -(-spec.max_batch // _BLOCK)  # twice what is needed, so that a row finds others of its length
        self._decoder = Decoder(folder, spec.dtype, slots=blocks * _BLOCK + spec.max_batch)
        self._slots = _Slots(self._decoder, blocks)
        self._teams: Teams | None = None  # begun when it is asked for
        self._start("sprint-engine", spec.threads)

    # --- called from the event loop ---------------------------------------------------

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """See `Engine.complete`. A prompt that fills the model's context ends as `length` without text."""
        row = self._new_row(request, on_text)
        if len(row.ids) >= self._decoder.shape.context:
            return row.completion("length", time.monotonic())
        done: Completion = await self._done(row)
        return done

    async def workers(self, request: TeamRequest) -> TeamResult:
        """See `team.Workers`. Teams decode beside the completions, with a cache of their own."""
        with self._lock:
            self._still_runs()
            if self._teams is None:
                self._teams = Teams(self._decoder, self._tokenizer, self._ends, self._spec, _sample)
        return await self._teams.workers(request)

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def close(self) -> None:
        await self._stop()
        if self._teams:
            await self._teams.close()
        self._decoder.forget()

    def _new_row(self, request: Request, on_text: OnText | None) -> _Row:
        from tokenizers.decoders import DecodeStream

        started = time.monotonic()  # reading the prompt is the engine's work too
        if request.max_tokens < 1 or request.temperature < 0 or "" in request.stop:
            raise EngineError(f"a request needs max_tokens >= 1, temperature >= 0 and no empty stop string: {request}")
        ids = self._tokenizer.encode(request.prompt).ids
        if not ids:
            raise EngineError("the prompt is empty; a completion needs at least one token to start from")
        loop = asyncio.get_running_loop()
        return _Row(
            request=request,
            ids=ids,
            prompt_tokens=len(ids),
            started=started,
            loop=loop,
            future=loop.create_future(),
            on_text=on_text,
            stream=DecodeStream(ids[-8:], skip_special_tokens=True),
            rng=random.Random(request.seed),
            written=StopCutter(request.stop),
        )

    # --- the worker thread ------------------------------------------------------------

    def _live(self) -> Iterable[_Row]:
        return self._slots

    def _admit(self) -> None:
        for row in [row for row in self._slots if row.cancelled]:
            self._slots.remove(row)
        tokens = 0
        while self._waiting and len(self._slots) < self._spec.max_batch and tokens < _READ:
            row = self._waiting.popleft()
            if not row.cancelled:
                self._slots.place(row)
                tokens += len(row.ids) - row.stored

    def _step(self) -> None:
        """Read in new prompts and decode one token of every live row."""
        rows = sorted(self._slots, key=lambda row: len(row.ids) - row.stored > 1)  # as `Decoder.forward` wants it
        if not rows:
            return
        ids, positions, slots, spans, last = _lay_out(rows)
        self._slots.reserve(max(positions) + 1)
        logits = self._decoder.forward(ids, positions, slots, spans, last)
        self._slots.note(slots, positions, ids)
        tokens = _sample(logits, [row.request.temperature for row in rows], [row.rng.random() for row in rows])
        now = time.monotonic()
        events: dict[asyncio.AbstractEventLoop, list[_Event]] = {}
        for row, token in zip(rows, tokens, strict=True):  # all of them, before any moves to another slot
            row.stored = len(row.ids)
            row.ids.append(token)
        for row, token in zip(rows, tokens, strict=True):
            self._advance(row, token, now, events.setdefault(row.loop, []))
        for loop, happened in events.items():
            self._deliver(loop, happened)

    def _advance(self, row: _Row, token: int, now: float, events: list[_Event]) -> None:
        """Turn a row's new token into text, and end the row if it is the last."""
        row.first_token = row.first_token or now
        count = len(row.ids) - row.prompt_tokens
        piece = row.stream.step(self._tokenizer, token)
        text, stopped = row.written.take(piece) if piece else ("", False)
        finish = "stop" if stopped or token in self._ends else ""
        if not finish and (count == row.request.max_tokens or len(row.ids) == self._decoder.shape.context):
            finish = "length"
        if finish and not stopped:
            text += row.written.flush()
        if text and row.on_text:
            events.append(_text_event(row, text, count))
        if finish:
            self._slots.remove(row)
            events.append(_end_event(row, row.completion(finish, now)))

    def _deliver(self, loop: asyncio.AbstractEventLoop, events: list[_Event]) -> None:
        """Run events in a loop's thread; rows of a loop that is gone are dropped."""
        if not events:
            return
        try:
            loop.call_soon_threadsafe(_run_all, events)
        except RuntimeError:
            for row in self._slots:
                row.cancelled = row.cancelled or row.loop is loop

    def _fail(self, work: _Row, error: EngineError) -> None:
        self._deliver(work.loop, [_failure_event(work, error)])


def _end_tokens(folder: Path) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ends = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if ends is not None:
            return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()


def _lay_out(rows: Sequence[_Row]) -> tuple[list[int], list[int], list[int], list[Span], list[int]]:
    """Tokens to compute as (ids, positions, slots, spans, index of each row's last)."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    last: list[int] = []
    for row in rows:
        length = len(row.ids)
        new = length - row.stored
        ids += row.ids[row.stored :]
        positions += range(row.stored, length)
        slots += [row.slot] * new
        last.append(len(ids) - 1)
        span = Span(row.slot, 1, new, length)
        before = spans[-1] if spans else None
        if before and new == before.queries == 1 and row.slot % _BLOCK and row.slot == before.slot + before.rows:
            spans[-1] = Span(before.slot, before.rows + 1, 1, max(before.length, length))
        else:
            spans.append(span)
    return ids, positions, slots, spans, last


def _sample(logits: torch.Tensor, temperatures: list[float], uniforms: list[float]) -> list[int]:
    """One token for each row of `logits`, by inverting its distribution function at the row's uniform number."""
    import torch

    greedy = logits.argmax(-1)
    if not any(temperatures):
        return greedy.tolist()
    temperature = torch.tensor(temperatures, dtype=torch.float64).unsqueeze(1)
    scaled = logits.double() / temperature.where(temperature > 0, 1.0)
    mass = torch.softmax(scaled, -1).cumsum(-1)
    at = torch.tensor(uniforms, dtype=torch.float64).unsqueeze(1) * mass[:, -1:]
    drawn = torch.searchsorted(mass, at, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
    return drawn.where(temperature.squeeze(1) > 0, greedy).tolist()


# --- in the event loop's thread ---------------------------------------------------------


def _run_all(events: list[_Event]) -> None:
    for event in events:
        event()


def _text_event(row: _Row, text: str, count: int) -> _Event:
    def event() -> None:
        if row.future.done() or row.on_text is None:
            return
        try:
            row.on_text(text, count)
        except Exception as error:  # the caller's own; it belongs to the caller's await
            row.future.set_exception(error)

    return event


def _end_event(row: _Row, completion: Completion) -> _Event:
    def event() -> None:
        if not row.future.done():
            row.future.set_result(completion)

    return event


def _failure_event(row: _Row, failure: EngineError) -> _Event:
    def event() -> None:
        if not row.future.done():
            error = EngineError(str(failure))
            error.__cause__ = failure.__cause__
            row.future.set_exception(error)

    return event
