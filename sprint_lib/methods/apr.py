"""APR: a parent that spawns children, each a search of its own, and is shown one line of each (arXiv 2504.15466).

The parent writes a spawn block, one message a line; a child starts the moment its line is complete. It is given the
question and its message, and what the parent gets back is the last line of its text: how it reached the goal, or
`None`. The spawn block is then cut out of the parent's context and replaced by these lines, so that neither the
messages nor any search enters it. The contexts below are also what training samples are built from
(`curation/demonstrations.py`).

Where ours differs: children start while the parent still writes, where the paper's spawn is one step with all messages;
a child is told its first move and writes down the state it leaves itself, where the paper's message holds the state;
what a child returns is its last line, not a `join` of its own; the language is that of our base model; the model was
fine-tuned from that base, not trained from scratch, and not by reinforcement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sprint_lib.calls import Attempt, Call, Wait
from sprint_lib.engines import Engine, Request
from sprint_lib.loop import Recorder, stable_seed
from sprint_lib.methods import ENDS, MethodSettings, ask_within, attempt_seed, conclude
from sprint_lib.tasks import Problem, Task
from sprint_lib.wording import at_least

THREADS, SPAWN, SPAWN_END, CHILD = "Threads", "<spawn>\n", "</spawn>", "<child>\n"
FOUND, NOTHING = "Solved ", "None"  # how the last line of a child that reached the goal begins; what stands for others
ALONE = -1  # as `threads`: the parent is asked to search by itself
_LONGEST = 200  # characters of a message or a result


# --- contexts: what inference shows a call, and therefore what training shows it --------


def condition(threads: int) -> str:
    """The line before a search that asks for so many children at a time; without it the model writes one itself."""
    return f"{THREADS} {threads}\n"


def child_context(question: str, message: str) -> str:
    """What a child continues: the question and its own line of the spawn block, nothing of its siblings."""
    return f"{question}{CHILD}{message}\n"


def join_lines(messages: Iterable[str], results: Iterable[str]) -> str:
    """What stands in the parent's context in place of a spawn block: of each child, in order, message and result."""
    return "".join(f"{message}\n{result}\n" for message, result in zip(messages, results, strict=True))


def messages_of(text: str, *, ended: bool = True) -> list[str]:
    """The messages of the spawn block in a parent's text; the last line only if it is complete or the text has ended.

    Lines that hold a tag or are very long are no messages.
    """
    block = text.partition(SPAWN.strip())[2].partition(SPAWN_END)[0]
    lines = block.split("\n")[: None if ended else -1]
    return [line.strip() for line in lines if line.strip() and "<" not in line and len(line) <= _LONGEST]


def result_of(child: Call) -> str:
    """What a child returns: its last line if that tells of a success and the child has ended by itself, else `None`."""
    last = child.completion.strip().split("\n")[-1]
    fine = child.finish == "stop" and last.startswith(FOUND) and "<" not in last and len(last) <= _LONGEST
    return last if fine else NOTHING


# --- the method -------------------------------------------------------------------------


@dataclass(frozen=True)
class AprSettings(MethodSettings):
    """Limits in tokens are a call's. The paper's temperature is 1.0, its context window 4,096.

    `threads` is how many children a spawn is asked for (APR's conditioning, there 0 to 10); 0: the model says itself.
    A spawn starts at most `max_threads` of those named, and after `max_rounds` of them a further one ends the attempt
    as truncated. With `context_window` a call ends as truncated where its prompt and completion have so many tokens.
    """

    temperature: float = 0.6
    threads: int = 0  # ALONE: none
    max_tokens: int = 3072
    max_child_tokens: int = 1024
    max_threads: int = 16
    max_rounds: int = 12
    context_window: int = 0  # tokens; 0: the model's own
    system: str = ""  # put before the question

    def __post_init__(self) -> None:
        at_least(self, "apr", threads=ALONE, max_threads=1, max_rounds=0, context_window=0)


class Apr:
    """Spawn and join; `Attempt.text` is the parent's text, each spawn block followed by what was joined."""

    name = "apr"
    settings = AprSettings

    async def solve(self, problem: Problem, task: Task, engine: Engine, settings: AprSettings) -> Attempt:
        recorder = Recorder(engine)
        async with asyncio.TaskGroup() as group:  # children of a broken off parent run to their end in it
            run = _Run(settings, attempt_seed(settings, problem), recorder, group)
            status, final = await run.parent(settings.system + problem.question)
        return conclude(
            problem,
            task,
            method=self.name,
            sample=settings.sample,
            status=status,
            final=final,
            text="".join(run.written),
            calls=tuple(sorted(recorder.calls, key=lambda call: (call.stage, call.index))),
            wall_seconds=recorder.seconds(),
            note="; ".join(recorder.errors),
        )


class _Run:
    """One attempt: its parent's calls in turn, each with the children it spawns."""

    def __init__(self, settings: AprSettings, seed: int, recorder: Recorder, group: asyncio.TaskGroup) -> None:
        self.settings, self.seed, self.recorder, self.group = settings, seed, recorder, group
        self.written: list[str] = []

    async def parent(self, question: str) -> tuple[str, str]:
        """Status and final text."""
        context, waits = question, tuple[Wait, ...]()
        if self.settings.threads:
            self.written.append(condition(max(0, self.settings.threads)))
            context += self.written[-1]
        for turn in range(1, self.settings.max_rounds + 2):
            spawner = _Spawner(self, f"P{turn}", turn, question) if turn <= self.settings.max_rounds else None
            call = await self.ask(
                Call(f"P{turn}", "parent", turn, waits=waits),
                context,
                self.settings.max_tokens,
                spawner,
            )
            self.written.append(call.completion)
            if call.finish != "stop" or SPAWN.strip() not in call.completion:
                return ENDS[call.finish], call.completion
            if spawner is None:
                self.recorder.errors.append(f"{call.id}: a spawn after {self.settings.max_rounds} rounds")
                return "truncated", ""
            children = await spawner.join(call.completion)
            if not children:
                return "malformed", ""
            if any(child.finish == "error" for child in children):
                return "engine_error", ""
            joined = join_lines(spawner.messages, map(result_of, children))
            self.written.append(f"{SPAWN_END}\n{joined}")
            context += call.completion.partition(SPAWN.strip())[0] + joined
            waits = (Wait(call.id), *(Wait(child.id) for child in children))
        raise AssertionError("unreachable: the last turn has no spawner")

    async def ask(self, call: Call, context: str, max_tokens: int, spawner: _Spawner | None = None) -> Call:
        stop = (SPAWN_END,) if call.role == "parent" else ()
        seed = stable_seed(self.seed, call.id)
        request = Request(context, max_tokens, self.settings.temperature, stop, seed)
        listener = spawner.feed if spawner else None
        return await ask_within(self.recorder, request, call, self.settings.context_window, listener)


class _Spawner:
    """Starts a child for every message of one parent call as soon as the text fed to it has the whole line."""

    def __init__(self, run: _Run, parent: str, turn: int, question: str) -> None:
        self.run, self.parent, self.turn, self.question = run, parent, turn, question
        self.messages: list[str] = []
        self.children: list[asyncio.Task[Call]] = []
        self.text = ""

    def feed(self, new: str, tokens: int) -> None:
        """Take on new text of the parent, of which `tokens` are written."""
        self.text += new
        if "\n" in new:
            self._start(messages_of(self.text, ended=False), Wait(self.parent, tokens))

    async def join(self, text: str) -> Sequence[Call]:
        """What the children of a parent's whole text ended as, in their order."""
        self._start(messages_of(text), Wait(self.parent))
        return await asyncio.gather(*self.children)

    def _start(self, messages: Sequence[str], wait: Wait) -> None:
        most = self.run.settings.max_threads
        for message in messages[len(self.messages) : most]:
            index = len(self.messages) + 1
            self.messages.append(message)
            call = Call(f"{self.parent}/C{index}", "child", self.turn, index, (wait,))
            context = child_context(self.question, message)
            work = self.run.ask(call, context, self.run.settings.max_child_tokens)
            self.children.append(self.run.group.create_task(work))
