"""The calls of one question tell what they write: the final answer as it comes, each call when it has ended. A call
ends early when the client's stop string appears or its budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from sprint_lib.calls import Call
from sprint_lib.engines import Engine, EngineError, OnText, Request
from sprint_lib.engines.stops import StopCutter
from sprint_lib.loop import FINAL_OPEN, Recorder

Show = Callable[[str], None]
Tell = Callable[[Call], None]


class Cut(Exception):
    """Goes from an engine's stream through the engine to who asked, and ends the call; `finish` is why."""

    def __init__(self, finish: str) -> None:
        super().__init__(finish)
        self.finish = finish


class Reader:
    """The final answer in what one planner writes, without the white space around it and from a stop string on."""

    def __init__(self, opened: bool, stop: tuple[str, ...], show: Callable[[str], None]) -> None:
        self.opened, self.show = opened, show
        self.read = 0  # characters
        self._begun = False  # there was more than white space
        self._plan = False  # what is written here is none
        self._cutter = StopCutter(stop)
        self._held = ""  # white space that may end the answer; before that, what may be the tag

    def feed(self, new: str) -> None:
        """Read on. Raises Cut at a stop string."""
        self.read += len(new)
        if self._plan:
            return
        if not self.opened:
            self._held = text = (self._held + new).lstrip()
            self.opened = text.startswith(_FINAL_TAG)
            self._plan = not self.opened and not _FINAL_TAG.startswith(text)
            if not self.opened:
                return
            self._held, new = "", text.removeprefix(_FINAL_TAG)
        self._take(new if self._begun else new.lstrip())

    def end(self) -> None:
        """Nothing follows: no stop string is completed any more."""
        if self.opened:
            self._show(self._cutter.flush())

    def _take(self, text: str) -> None:
        self._begun = self._begun or bool(text)
        sure, stopped = self._cutter.take(text)
        self._show(sure)
        if stopped:
            raise Cut("stop")

    def _show(self, text: str) -> None:
        whole = self._held + text
        shown = whole.rstrip()
        self._held = whole[len(shown) :]
        if shown:
            self.show(shown)


_FINAL_TAG = FINAL_OPEN.strip()


class Teller(Recorder):
    """Records the calls of one question, shows its answer while it is written, and ends calls as the client asked.

    `show` gets the answer's text piece by piece, `tell` each call when it has ended. The calls write `budget` tokens
    in all; those that run at the moment it is spent end at their next token, with what they have. An answer that has
    been shown stands: a try after it is not made. After `max_stages` plans a planner writes nothing but the answer.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        budget: int,
        stop: tuple[str, ...],
        max_stages: int,
        show: Callable[[str], None],
        tell: Callable[[Call], None],
    ) -> None:
        super().__init__(engine)
        self.budget, self.stop, self.max_stages = budget, stop, max_stages
        self.shown: list[str] = []
        self.ended = ""  # how the latest planner ended, if it wrote the answer
        self._show_on, self._tell = show, tell
        self._written: dict[str, int] = {}  # tokens by call

    async def ask(self, request: Request, call: Call, on_text: OnText | None = None) -> Call:
        """As `Recorder.ask`; a call that was ended here has finish `stop` or `length` and what it wrote until then."""
        room = self.budget - sum(self._written.values())
        if room <= 0 or self.shown:
            made = self._ended(request, call, _Heard(self.seconds()), "length")
        else:
            made = await self._ask(replace(request, max_tokens=min(request.max_tokens, room)), call, on_text)
        self._written[call.id] = made.completion_tokens
        self._tell(made)
        return made

    async def _ask(self, request: Request, call: Call, on_text: OnText | None) -> Call:
        heard, reader = _Heard(self.seconds()), self._reader(call)

        def listen(new: str, tokens: int) -> None:
            heard.take(new, tokens, self.seconds())
            self._written[call.id] = tokens
            if on_text:
                on_text(new, tokens)
            if reader:
                reader.feed(new)
            if sum(self._written.values()) > self.budget:
                raise Cut("length")

        try:
            made = await super().ask(request, call, listen)
            if reader and made.finish != "error":
                with suppress(Cut):  # of an engine that streams nothing
                    reader.feed(made.completion[reader.read :])
                    reader.end()
        except Cut as cut:
            made = self._ended(request, call, heard, cut.finish)
        if reader:
            self.ended = made.finish if reader.opened else ""
        return made

    def finish(self, final: str | None) -> str:
        """The whole answer, given the loop's; shows what is not shown yet."""
        if final and not self.shown:
            reader = Reader(True, self.stop, self.show)
            with suppress(Cut):
                reader.feed(final)
                reader.end()
        return "".join(self.shown)

    def show(self, text: str) -> None:
        self.shown.append(text)
        self._show_on(text)

    def _reader(self, call: Call) -> Reader | None:
        return Reader(call.stage > self.max_stages, self.stop, self.show) if call.role == "planner" else None

    def _ended(self, request: Request, call: Call, heard: _Heard, finish: str) -> Call:
        made = replace(
            call,
            completion="".join(heard.texts),
            prompt_tokens=(heard.tokens and counted(self.engine, request.prompt)) or 0,
            completion_tokens=heard.tokens,
            started=heard.started,
            first_token=heard.first or heard.started,
            ended=self.seconds(),
            finish=finish,
        )
        self.calls.append(made)
        return made


def counted(engine: Engine, text: str) -> int | None:
    """Tokens of a text; None where the engine has no tokenizer."""
    try:
        return engine.count_tokens(text)
    except EngineError:
        return None


class _Heard:
    """What a call has written so far."""

    def __init__(self, started: float) -> None:
        self.started, self.first, self.tokens = started, 0.0, 0
        self.texts: list[str] = []

    def take(self, new: str, tokens: int, now: float) -> None:
        self.texts.append(new)
        self.tokens, self.first = tokens, self.first or now
