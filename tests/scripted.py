"""An engine that replies by script, token by token, and remembers what it was asked: for tests of what sits on top."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sprint_lib.engines import Completion, EngineError, OnText, Request
from sprint_lib.engines.team import Team, TeamRequest, TeamResult

_TOKEN = re.compile(r"</?\w+[\d.]*>|\n| *[^\s<]+| +|<")


@dataclass(frozen=True)
class Until:
    """In a reply: write no further before the named call has started."""

    call: str


Reply = str | tuple[str | Until | Exception, ...]
Script = Mapping[str, list[Reply] | Reply]


def who(prompt: str) -> str:
    """The call a context belongs to: `e1.2`, `final` (forced) or `p1`; `?` is a bare question."""
    executor = re.search(r"<execution_(\d+\.\d+)>\n$", prompt)
    if executor:
        return f"e{executor[1]}"
    return "final" if prompt.endswith("<Final_answer>\n") else f"p{prompt.count('</Plan_') + 1}"


class ScriptedEngine:
    """Replies to the call `who(prompt)`, or whatever a function says.

    A list of replies serves a call's tries in turn, the last one again and again; a tuple is one reply in parts.
    Completions end at the first stop string or at `max_tokens`; a token is a tag, a word with the spaces before it
    or a line break. `chunk` tokens are streamed at a time.
    """

    def __init__(self, replies: Script | Callable[[Request], str], chunk: int = 1) -> None:
        self.replies, self.chunk = replies, chunk
        self.context = 10_000  # positions that a team has
        self.requests: list[tuple[str, Request]] = []
        self.cancelled: list[str] = []
        self.log: list[str] = []  # "+e1.1" started, "-e1.1" ended
        self._started: dict[str, asyncio.Event] = {}

    def asked(self, call: str) -> list[Request]:
        return [request for name, request in self.requests if name == call]

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        call = who(request.prompt)
        self.requests.append((call, request))
        self.log.append(f"+{call}")
        self._event(call).set()
        started = time.monotonic()
        writer = _Writer(request, on_text, self.chunk)
        try:
            for part in self._reply(call, request):
                if isinstance(part, Until):
                    writer.flush()
                    await asyncio.wait_for(self._event(part.call).wait(), 5)
                elif isinstance(part, Exception):
                    writer.flush()
                    raise part
                elif await writer.write(part):
                    break
        except asyncio.CancelledError:
            self.cancelled.append(call)
            raise
        writer.flush()
        self.log.append(f"-{call}")
        ended = time.monotonic()
        prompt_tokens = self.count_tokens(request.prompt)
        return Completion(
            writer.text, prompt_tokens, 0, writer.tokens, writer.finish or "stop", started, started, ended
        )

    async def workers(self, request: TeamRequest) -> TeamResult:
        """A team whose workers write the replies `w1`, `w2` and so on, else that of the prompt's call."""
        asked = Request(request.prompt, request.max_tokens, request.temperature, seed=request.seeds[0])
        call = who(request.prompt)
        self.requests.append((call, asked))
        texts = (request.prompt, request.heading, request.divider)
        prompt, heading, divider = map(self.count_tokens, texts)
        team = Team(request, self.count_tokens, (prompt, heading, divider), self.context)
        tokens = []
        for number in range(1, len(request.seeds) + 1):
            scripted = not callable(self.replies) and f"w{number}" in self.replies
            parts = self._reply(f"w{number}" if scripted else call, asked)
            tokens.append([t for part in parts for t in (_TOKEN.findall(part) if isinstance(part, str) else [part])])
        while not team.over:
            await asyncio.sleep(0)
            team.turn(lambda worker: None)
            for worker in team.writing:
                token = tokens[worker.index].pop(0) if tokens[worker.index] else ""
                if isinstance(token, Exception):
                    raise token
                assert isinstance(token, str)
                team.write(worker, token, last=not tokens[worker.index])
            team.settle()
        return team.result()

    def _reply(self, call: str, request: Request) -> tuple[str | Until | Exception, ...]:
        if callable(self.replies):
            return (self.replies(request),)
        if call not in self.replies:
            raise EngineError(f"nothing scripted for {call}")
        reply = self.replies[call]
        if isinstance(reply, list):
            reply = reply[min(len(self.asked(call)), len(reply)) - 1]
        return (reply,) if isinstance(reply, str) else reply

    def _event(self, call: str) -> asyncio.Event:
        return self._started.setdefault(call, asyncio.Event())

    def count_tokens(self, text: str) -> int:
        return len(_TOKEN.findall(text))

    async def close(self) -> None:
        pass


class _Writer:
    def __init__(self, request: Request, on_text: OnText | None, chunk: int) -> None:
        self.request, self.on_text, self.chunk = request, on_text, chunk
        self.text, self.tokens, self.finish, self._sent = "", 0, "", 0

    async def write(self, part: str) -> bool:
        """Write the tokens of a part; True if the completion has ended in it."""
        for token in _TOKEN.findall(part):
            await asyncio.sleep(0)
            self.tokens += 1
            if any(token.startswith(stop) for stop in self.request.stop):
                self.finish = "stop"
                return True
            self.text += token
            if self.tokens % self.chunk == 0:
                self.flush()
            if self.tokens == self.request.max_tokens:
                self.finish = "length"
                return True
        return False

    def flush(self) -> None:
        new, self._sent = self.text[self._sent :], len(self.text)
        if new and self.on_text:
            self.on_text(new, self.tokens)
