"""Teams on the embedded engine: several workers decode in lock-step over one key/value cache that all of them see
(Hogwild! Inference, arXiv 2504.06261).

The cache of a team is in blocks: the common history, the texts put between, and one block a worker. A block's keys are
rotated by their places within it, so that a block can stand anywhere in anybody's view: instead of the keys the query
is turned, once for each block, by how far that block's beginning lies before it. When a step ends, its keys are
rotated on by the length of the history and added to it, computed as they were in their worker's own view. What is read
in one pass is seen by all that read in it, layer by layer, as in the authors' code.

All teams decode together, one forward pass for all workers of all teams; only attention goes team by team. A thread of
its own does it, on the weights that the engine has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from sprint_lib.engines import EngineError, EngineSpec
from sprint_lib.engines.batching import Batching
from sprint_lib.engines.decoder import Decoder, Shape
from sprint_lib.engines.team import Team, TeamRequest, TeamResult

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream

Draw = Callable[["torch.Tensor", list[float], list[float]], list[int]]
_COMMON = 0  # the block of the history
_GROWTH = 128  # positions by which a block grows, at least


# --- the cache of one team ----------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """Tokens to be read into the last block of a view, which is all that they see."""

    view: tuple[int, ...]
    ids: Sequence[int]


class Blocks:
    """Keys and values of one team in `count` blocks; block 0 is the common history, to which others are moved.

    Memory grows with what is held, at most to `count` times the longest block.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, count: int) -> None:
        import torch

        self.shape = shape
        self.lengths = [0] * count
        s = shape
        self._common = torch.zeros((s.layers, 2, 1, s.kv_heads, 0, s.head_dim), dtype=dtype)
        self._others = torch.zeros((s.layers, 2, count - 1, s.kv_heads, 0, s.head_dim), dtype=dtype)

    def lay_out(self, reads: Sequence[Read]) -> Pass:
        """Make room for what is read and say where it goes and what it sees. All go to the history or none."""
        import torch

        before = list(self.lengths)
        for read in reads:
            self.lengths[read.view[-1]] += len(read.ids)
        self._reserve()
        blocks, places, turns, visible = [], [], [], []
        for read in reads:
            own = read.view[-1]
            offsets, offset = {}, 0
            for block in read.view:
                offsets[block] = offset
                offset += self.lengths[block]
            for place in range(before[own], before[own] + len(read.ids)):
                blocks.append(own)
                places.append(place)
                at = offsets[own] + place
                turns.append([at - offsets.get(block, at) for block in range(len(before))])
                sees = [self.lengths[block] if block in offsets else 0 for block in range(len(before))]
                visible.append([*sees[:own], place + 1, *sees[own + 1 :]])
        common, longest = self.lengths[_COMMON], max(self.lengths[1:], default=0)
        sizes = torch.tensor(visible)
        hidden = [torch.arange(common) >= sizes[:, :1]]
        hidden += [(torch.arange(longest) >= sizes[:, 1:, None]).flatten(1)]
        mask = torch.zeros(len(places), common + hidden[1].shape[1], dtype=self._common.dtype)
        return Pass(
            blocks=self,
            to=None if blocks[0] == _COMMON else torch.tensor(blocks) - 1,
            at=torch.tensor(places),
            turn_keys=self._turns(torch.tensor(places)).unsqueeze(1),
            turn_queries=self._turns(torch.tensor(turns)).unsqueeze(2) * self.shape.head_dim**-0.5,
            mask=mask.masked_fill_(torch.cat(hidden, 1), -torch.inf).repeat(self.shape.group, 1),
            longest=longest,
        )

    def move(self, block: int) -> None:
        """Add a block to the end of the history and empty it."""
        import torch

        held, start = self.lengths[block], self.lengths[_COMMON]
        self.lengths[_COMMON] += held
        self._reserve()
        source = self._others[:, :, block - 1, :, :held]
        target = self._common[:, :, 0, :, start : start + held]
        target[:, 0] = _turned(source[:, 0], self._turns(torch.tensor(start)))
        target[:, 1] = source[:, 1]
        self.lengths[block] = 0

    def held(self, layer: int, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys and values of the history [kv_heads, length, size] and of the other blocks, one dimension more."""
        common, others = self._common[layer], self._others[layer]
        length = self.lengths[_COMMON]
        return common[0, 0, :, :length], common[1, 0, :, :length], others[0, :, :, :longest], others[1, :, :, :longest]

    def store(self, layer: int, to: torch.Tensor | None, at: torch.Tensor, pairs: torch.Tensor) -> None:
        """Keep keys and values [tokens, 2, kv_heads, size] at their places."""
        if to is None:
            self._common[layer][:, 0, :, at] = pairs.permute(1, 2, 0, 3)
        else:
            self._others[layer].permute(1, 3, 0, 2, 4)[to, at] = pairs

    def _reserve(self) -> None:
        self._common = _grown(self._common, self.lengths[_COMMON])
        self._others = _grown(self._others, max(self.lengths[1:], default=0))

    def _turns(self, distances: torch.Tensor) -> torch.Tensor:
        """Rotations by so many positions [..., size / 2], as complex numbers."""
        import torch

        half = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float64) / self.shape.head_dim
        angles = distances.double().unsqueeze(-1) * self.shape.rope_theta**-half
        turned = torch.polar(torch.ones_like(angles), angles)
        return turned if self._common.dtype == torch.float64 else turned.to(torch.complex64)


def _grown(held: torch.Tensor, length: int) -> torch.Tensor:
    """The same with room for `length` positions; twice the room at least, where it has to grow."""
    import torch

    room = held.shape[-2]
    if length <= room:
        return held
    return torch.nn.functional.pad(held, (0, 0, 0, max(length, 2 * room, _GROWTH) - room))


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Vectors [..., size] rotated."""
    import torch

    wide = x.to(turns.real.dtype).unflatten(-1, (-1, 2)).contiguous()  # complex numbers have no half precision
    return torch.view_as_real(torch.view_as_complex(wide) * turns).flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class Pass:
    """What one team reads in one forward pass: n tokens, where they are kept, and what they see of every block."""

    blocks: Blocks
    to: torch.Tensor | None  # block - 1 of each token; None: all go to the history
    at: torch.Tensor  # place within the block
    turn_keys: torch.Tensor  # [n, 1, size / 2]
    turn_queries: torch.Tensor  # [n, blocks, 1, size / 2], scaled
    mask: torch.Tensor  # [group * n, length of the history + other blocks * longest]
    longest: int

    def attend(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        """Attention [n, heads * size] of projected queries, keys and values [n, heads + 2 kv_heads, size]."""
        import torch

        s, n = self.blocks.shape, len(h)
        keys = _turned(h[:, s.heads : s.heads + s.kv_heads], self.turn_keys)
        values = h[:, s.heads + s.kv_heads :]
        self.blocks.store(layer, self.to, self.at, torch.stack([keys, values], 1))
        queries = _turned(h[:, : s.heads].unsqueeze(1), self.turn_queries)  # [n, blocks, heads, size]
        queries = queries.unflatten(2, (s.kv_heads, s.group)).permute(1, 2, 3, 0, 4).flatten(2, 3)
        k, v, ks, vs = self.blocks.held(layer, self.longest)
        length, others = k.shape[-2], queries[1:] @ ks.mT  # [blocks - 1, kv_heads, group * n, longest]
        scores = torch.cat([queries[0] @ k.mT, others.permute(1, 2, 0, 3).flatten(2)], -1) + self.mask
        shares = torch.softmax(scores, -1, dtype=None if h.dtype != torch.bfloat16 else torch.float32).to(h.dtype)
        got = shares[..., :length] @ v
        if self.longest:
            got = got + (shares[..., length:].unflatten(-1, others.shape[::3]).permute(2, 0, 1, 3) @ vs).sum(0)
        return got.unflatten(1, (s.group, n)).permute(2, 0, 1, 3).reshape(n, s.heads * s.head_dim)


def forward(decoder: Decoder, ids: Sequence[int], passes: Sequence[Pass], last: Sequence[int]) -> torch.Tensor:
    """Logits [len(last), vocab] of the tokens at indices `last`; the passes' tokens are laid end to end in `ids`."""
    s = decoder.shape

    def attend(layer: int, h: torch.Tensor, rows: int) -> torch.Tensor:
        out, start = h.new_zeros(rows, s.heads * s.head_dim), 0
        parts = h.unflatten(1, (-1, s.head_dim))
        for one in passes:
            end = start + len(one.at)
            out[start:end] = one.attend(layer, parts[start:end])
            start = end
        return out

    return decoder.through(ids, attend, last)


# --- teams at work ------------------------------------------------------------------------


@dataclass(eq=False)
class _Job:
    """A team at work: its cache, what each worker wrote last, and who waits for it."""

    team: Team
    blocks: Blocks
    texts: Sequence[list[int]]  # tokens of the prompt, the heading and the divider
    rngs: Sequence[random.Random]
    streams: Sequence[DecodeStream]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[TeamResult]
    tokens: dict[int, int] = field(default_factory=dict)  # the last one by worker
    logits: dict[int, torch.Tensor] = field(default_factory=dict)  # for the next one by worker
    cancelled: bool = False

    @property
    def heading(self) -> list[int]:
        """The block of the heading, if there is one; those of workers are before it, those of dividers behind."""
        return [len(self.team.workers) + 1] if self.texts[1] else []

    @property
    def dividers(self) -> range:
        return range(len(self.team.workers) + 1 + len(self.heading), len(self.blocks.lengths))

    def beginning(self) -> Iterator[list[Read]]:
        """The prompt, the heading behind it, and dividers behind both, to be read one after the other."""
        prompt, heading, divider = self.texts
        yield [Read((_COMMON,), prompt)]
        yield [Read((_COMMON, block), heading) for block in self.heading]
        yield [Read((_COMMON, *self.heading, block), divider) for block in self.dividers]

    def pending(self) -> list[tuple[int, Read]]:
        """The last token of every worker that is writing, by worker."""
        return [(worker.index, self.read(worker.index, [self.tokens[worker.index]])) for worker in self.team.writing]

    def read(self, index: int, ids: Sequence[int]) -> Read:
        """Tokens to be read by a worker behind all that it sees."""
        view = [_COMMON, *self.heading]
        for place, other in enumerate(self.team.others(self.team.workers[index])):
            view += [other.index + 1, *self.dividers[place : place + 1]]
        return Read((*view, index + 1), ids)


class Teams(Batching[_Job]):
    """Takes any number of teams, as `Workers` says; those that fit into `max_batch` workers decode together.

    A team's cache holds what its model's context does, times its blocks at worst.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, ends: frozenset[int], spec: EngineSpec, draw: Draw):
        self._decoder, self._tokenizer, self._ends, self._spec, self._draw = decoder, tokenizer, ends, spec, draw
        self._jobs: list[_Job] = []
        self._start("sprint-teams", spec.threads)

    async def workers(self, request: TeamRequest) -> TeamResult:
        job = self._new_job(request)
        if job.team.over:  # the prompt fills the model's context
            return job.team.result()
        done: TeamResult = await self._done(job)
        return done

    async def close(self) -> None:
        await self._stop()

    def _new_job(self, request: TeamRequest) -> _Job:
        from tokenizers.decoders import DecodeStream

        workers, shape = len(request.seeds), self._decoder.shape
        if workers > self._spec.max_batch:
            raise EngineError(f"a team of {workers} workers, but max_batch is {self._spec.max_batch}; raise it")
        texts = [self._tokenizer.encode(request.prompt).ids, *map(self._encode, (request.heading, request.divider))]
        if not texts[0]:
            raise EngineError("the prompt is empty; a team needs at least one token to start from")
        put_in = (len(texts[0]), len(texts[1]), len(texts[2]))
        count = 1 + workers + bool(texts[1]) + (workers - 1) * bool(texts[2])
        loop = asyncio.get_running_loop()
        return _Job(
            team=Team(request, lambda text: len(self._encode(text)), put_in, shape.context),
            blocks=Blocks(shape, self._decoder.dtype, count),
            texts=texts,
            rngs=[random.Random(seed) for seed in request.seeds],
            streams=[DecodeStream(texts[0][-8:], skip_special_tokens=True) for _ in request.seeds],
            loop=loop,
            future=loop.create_future(),
        )

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    # --- in the thread ------------------------------------------------------------------

    def _live(self) -> Iterable[_Job]:
        return self._jobs

    def _admit(self) -> None:
        self._jobs = [job for job in self._jobs if not job.cancelled]
        room = self._spec.max_batch - sum(len(job.team.workers) for job in self._jobs)
        while self._waiting and len(self._waiting[0].team.workers) <= room:
            job = self._waiting.popleft()
            if job.cancelled:
                continue
            room -= len(job.team.workers)
            self._jobs.append(job)
            for reads in job.beginning():
                self._read([(job, list(enumerate(reads)))])
            job.logits = dict.fromkeys(range(len(job.team.workers)), job.logits[0])

    def _step(self) -> None:
        """One token of every worker of every team."""
        self._read([(job, job.pending()) for job in self._jobs])
        self._read([(job, self._openings(job)) for job in self._jobs])
        rows = [(job, worker) for job in self._jobs for worker in job.team.writing]
        if rows:
            import torch

            logits = torch.stack([job.logits[worker.index] for job, worker in rows])
            temperatures = [job.team.request.temperature for job, _ in rows]
            drawn = self._draw(logits, temperatures, [job.rngs[worker.index].random() for job, worker in rows])
            for (job, worker), token in zip(rows, drawn, strict=True):
                job.tokens[worker.index] = token
                piece = job.streams[worker.index].step(self._tokenizer, token) or ""
                job.team.write(worker, piece, last=token in self._ends)
        for job in self._jobs:
            self._settle(job)

    def _openings(self, job: _Job) -> list[tuple[int, Read]]:
        begun = job.team.turn(lambda worker: job.blocks.move(worker.index + 1))
        return [(index, job.read(index, ids)) for index, text in begun.items() if (ids := self._encode(text))]

    def _read(self, jobs: Sequence[tuple[_Job, Sequence[tuple[int, Read]]]]) -> None:
        """Read in one pass what workers of all teams have to, and keep what comes next by worker."""
        asked = [(job, reads) for job, reads in jobs if reads]
        if not asked:
            return
        flat = [(job, index, read.ids) for job, reads in asked for index, read in reads]
        last = [end - 1 for end in accumulate(len(ids) for *_, ids in flat)]
        passes = [job.blocks.lay_out([read for _, read in reads]) for job, reads in asked]
        logits = forward(self._decoder, [id_ for *_, ids in flat for id_ in ids], passes, last)
        for (job, index, _), row in zip(flat, logits, strict=False):  # half precision pads the rows
            job.logits[index] = row

    def _settle(self, job: _Job) -> None:
        """See whether a team is done, and tell."""
        try:
            job.team.settle()
        except Exception as error:  # of the caller's own `answered`
            self._tell(job, error)
            return
        if job.team.over:
            self._tell(job, job.team.result())

    def _tell(self, job: _Job, outcome: TeamResult | Exception) -> None:
        job.cancelled = True

        def event() -> None:
            if job.future.done():
                return
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

        with suppress(RuntimeError):  # the loop is gone, and who waited with it
            job.loop.call_soon_threadsafe(event)

    def _fail(self, work: _Job, error: EngineError) -> None:
        self._tell(work, error)
