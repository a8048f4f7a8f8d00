"""Promises: one main thread that promises texts, writes on while they are written, and waits where it needs them.

Source: PASTA, Learning to Keep a Promise (arXiv 2502.11517). The language:

    Numbers: 3 5 8 11                                  the question
    Target: 38
    <promise topic="Try 3 + 5" tens= 13/>              the main thread: its topic, and about how long, in tens of tokens
    <promise topic="Try 5 - 3" tens= 13/>
    <sync/>                                            wait for all that is promised
    <async>
    Try 3 + 5 ...                                      the body of the first promise, then of the second
    </async>
    ...
    Answer 5 - 3 = 2 ; 8 + 11 = 19 ; 2 * 19 = 38       the main thread again, which has read them

A body starts the moment its promise is closed; it continues the main thread up to there and sees no other body that is
still being written. The main thread is over when it ends without having promised anything since its last sync.

Where ours differs from the paper:
- Learned by supervised fine-tuning alone (`curation.samples.pasta_samples`, from the traces that SPRINT learns from);
  the paper goes on with preference optimisation for speed and quality.
- At a sync the bodies are put in as text, after `<sync/>` and in the order of their promises, and a new call whose
  prompt holds them goes on. The paper keeps one cache in which a body stands at its promise, and the estimated
  length decides its positions. So the estimate is written, and its tokens count, but nothing rests on it here.
- Promises do not nest, and one that is open where the main thread ends is waited for, as if `<sync/>` stood there.
- Limits and new tries of what ended malformed or truncated are those of SPRINT's loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape

from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import MethodSettings, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task
from sprint_lib.wording import at_least

# --- the language: what inference shows a call, and therefore what training shows it ----

WORDS = ('<promise topic="', '" tens=', "/>", "<async>", "</async>", "<sync/>")  # new to a base model
SYNC, BODY_OPEN, BODY_CLOSE = "<sync/>", "<async>\n", "</async>"
_PROMISE = re.compile(r'<promise topic="([^"<>]{1,2000})" tens= ?[0-9]{1,6}/>')
_TAG = re.compile(r"<promise\b|</?async\b|<sync\b")  # however it goes on
_BODY_STOP = (BODY_CLOSE, "<async", "<sync", "<promise")  # whatever ends a body, no tag is left in it


@dataclass(frozen=True)
class Segment:
    """What the main thread wrote up to a sync, without its tag, and the bodies of what it promised there."""

    text: str
    bodies: tuple[str, ...]


def promise_tag(topic: str, tokens: int) -> str:
    """A promise of a text of about `tokens` tokens."""
    return f'<promise topic="{escape(topic)}" tens= {max(1, round(tokens / 10))}/>'


def promises(text: str) -> list[str] | None:
    """The topics promised in a main thread's text, in order; None if any tag but whole promises is in it."""
    topics = [unescape(topic) for topic in _PROMISE.findall(text)]
    return topics if len(_TAG.findall(text)) == len(topics) else None


def main_context(question: str, segments: Sequence[Segment]) -> str:
    """What the main thread continues after its last sync. Every such context is a prefix of the next one's."""
    return question + "".join(f"{s.text}{SYNC}\n{''.join(map(_in_tags, s.bodies))}" for s in segments)


def body_context(question: str, segments: Sequence[Segment], so_far: str) -> str:
    """What a body continues; `so_far` is the main thread since its last sync, up to the end of the body's promise."""
    return f"{main_context(question, segments)}{so_far}\n{BODY_OPEN}"


def _in_tags(body: str) -> str:
    return f"{BODY_OPEN}{body}{BODY_CLOSE}\n"


# --- the method -------------------------------------------------------------------------


@dataclass(frozen=True)
class PastaSettings(MethodSettings):
    """Limits in tokens are a call's, not an attempt's.

    A call that ends malformed or truncated is tried again `retries` times with another seed (never at temperature 0);
    what it wrote before stays in the calls and in every token count. After `max_syncs` syncs the main thread may
    promise nothing more, nor more than `max_promises` between two of them: that is malformed.
    """

    temperature: float = 0.6
    max_syncs: int = 12
    max_promises: int = 24
    max_main_tokens: int = 1024
    max_body_tokens: int = 1024
    retries: int = 1
    system: str = ""  # put before the question

    def __post_init__(self) -> None:
        at_least(self, "pasta", max_syncs=1, max_promises=1, max_main_tokens=1, max_body_tokens=1, retries=0)


class Pasta:
    """PASTA-style promises; `Attempt.text` is the question and the main thread with every body that it read."""

    name = "pasta"
    settings = PastaSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: PastaSettings) -> Attempt:
        recorder = Recorder(engine)
        thread = _Thread(problem.question, settings, attempt_seed(settings, problem), recorder)
        status, end = await thread.run()
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=status,
            final="" if status == "malformed" else end,
            text=main_context(problem.question, thread.segments) + end,
            calls=tuple(sorted(recorder.calls, key=lambda call: (call.stage, call.index, call.id))),
            wall_seconds=recorder.seconds(),
            note="; ".join(recorder.errors),
        )


_Body = asyncio.Task[Call]


class _Thread:
    """The main thread of one attempt; the seed of a call depends on `seed` and the call's id only."""

    def __init__(self, question: str, settings: PastaSettings, seed: int, recorder: Recorder) -> None:
        self.question, self.settings, self.seed, self.recorder = settings.system + question, settings, seed, recorder
        self.segments: list[Segment] = []
        self.tries = 1 + (settings.retries if settings.temperature > 0 else 0)
        self.group = asyncio.TaskGroup()

    async def run(self) -> tuple[str, str]:
        """How the main thread ended, and what it wrote after its last sync."""
        waits: tuple[Wait, ...] = ()
        async with self.group:  # bodies of a discarded try run to their end in it: token counts stay exact
            while True:
                main, status, started = await self._go_on(waits)
                bodies = [await body for body in started]
                if any(body.finish == "error" for body in bodies):
                    status = "engine_error"
                if status != "sync":
                    return status, main.completion
                self.segments.append(Segment(main.completion, tuple(body.completion for body in bodies)))
                waits = tuple(Wait(call.id) for call in (main, *bodies))

    async def _go_on(self, waits: tuple[Wait, ...]) -> tuple[Call, str, list[_Body]]:
        """The main thread to its next sync or its end, tried again while it ends in neither; how, and its bodies."""
        stage = len(self.segments) + 1
        most = self.settings.max_promises if stage <= self.settings.max_syncs else 0
        for attempt in range(1, self.tries + 1):
            reader = _Reader(self, _id(f"M{stage}", attempt), most)
            request = self._request(
                main_context(self.question, self.segments), self.settings.max_main_tokens, (SYNC,), reader.id
            )
            call = await self.recorder.ask(request, Call(reader.id, "main", stage, waits=waits), reader.feed)
            status = _status(call, most)
            if status == "sync":
                reader.feed(call.completion[len(reader.text) :], None)  # what an engine held back
                return call, status, reader.bodies
            if status in ("ok", "engine_error"):
                break
            waits = (Wait(call.id),)
        return call, status, []

    def start(self, place: int, so_far: str, wait: Wait) -> _Body:
        """Start the body of the main call's promise number `place`, which `so_far` ends with."""
        context = body_context(self.question, self.segments, so_far)
        return self.group.create_task(self._body(place, context, wait, len(self.segments) + 1))

    async def _body(self, place: int, context: str, wait: Wait, stage: int) -> Call:
        """What its last try wrote stands, whatever it is."""
        main = wait.call
        for attempt in range(1, self.tries + 1):
            id_ = _id(f"{main}/B{place}", attempt)
            request = self._request(context, self.settings.max_body_tokens, _BODY_STOP, id_)
            call = await self.recorder.ask(request, Call(id_, "async", stage, place, (wait,)))
            if call.finish == "error" or (call.finish == "stop" and call.completion.strip()):
                break
            wait = Wait(call.id)
        return call

    def _request(self, context: str, max_tokens: int, stop: tuple[str, ...], id_: str) -> Request:
        return Request(context, max_tokens, self.settings.temperature, stop, stable_seed(self.seed, id_))


class _Reader:
    """Reads a main call as it is written, and starts the body of every promise, `most` at most, as it is closed."""

    def __init__(self, thread: _Thread, id_: str, most: int) -> None:
        self.thread, self.id, self.most = thread, id_, most
        self.bodies: list[_Body] = []
        self.text = ""
        self._read = 0  # characters; no promise goes on beyond a ">"

    def feed(self, new: str, tokens: int | None) -> None:
        """Take on new text; `tokens` were written so far (None: the call has ended)."""
        self.text += new
        if ">" not in new:
            return
        for promise in _PROMISE.finditer(self.text, self._read):
            if len(self.bodies) < self.most:
                so_far, wait = self.text[: promise.end()], Wait(self.id, tokens)
                self.bodies.append(self.thread.start(len(self.bodies) + 1, so_far, wait))
        self._read = self.text.rindex(">") + 1


def _status(call: Call, most: int) -> str:
    """How a main call ended: `sync`, or an attempt's status; `most` is how many promises it may make."""
    if call.finish != "stop":
        return "truncated" if call.finish == "length" else "engine_error"
    promised = promises(call.completion)
    if promised is None or len(promised) > most:
        return "malformed"
    if promised:
        return "sync"
    return "ok" if call.completion.strip() else "refused"


def _id(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}~{attempt}"
