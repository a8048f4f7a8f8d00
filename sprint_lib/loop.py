"""The rolling-horizon loop: plan, execute in parallel, sync (paper, sections 3.1 and A.1).

One model plays every role. A planner call continues the question and all complete
stages; each prompt it closes becomes an executor call, by default at that very
moment; when all executors of a stage are back, the stage is complete and the next
planner call starts, until one writes the final answer or the stage limit forces it.
The two context functions below are also what training samples are built from, and
`Recorder` is how any method sends its calls and keeps what they cost.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sprint_lib.calls import Call, Wait
from sprint_lib.engines import Engine, EngineError, OnText, Request
from sprint_lib.trajectory import (
    Execution,
    Prompt,
    PromptScanner,
    Stage,
    Trajectory,
    parse,
    render_execution_block,
    render_plan,
)
from sprint_lib.wording import at_least

FINAL_OPEN = "<Final_answer>\n"
STOP = ("</Execution_", "</Plan_", "</Final_answer>", "</execution_")
DISPATCH = ("streamed", "after_plan")
SYNC = ("all", "first_success")
Solved = Callable[[str], bool]  # whether what one executor wrote solves the problem


# --- contexts: what inference shows a call, and therefore what training shows it --------


def planner_context(question: str, stages: Sequence[Stage]) -> str:
    """What a planner continues: the question and every complete stage, in order.

    The planner itself writes `<Plan_i>` or `<Final_answer>` next. Every planner
    context is a prefix of the next one's.
    """
    return question + "".join(render_plan(stage) + render_execution_block(stage) for stage in stages)


def executor_context(question: str, stages: Sequence[Stage], stage: int, plan_so_far: str, prompt: Prompt) -> str:
    """What the executor of one prompt continues; it sees nothing of its siblings.

    `stages` are the complete ones before stage number `stage`; `plan_so_far` is
    that stage's plan from `<Plan_i>` up to and including the prompt's closing tag.
    """
    return f"{planner_context(question, stages)}{plan_so_far}\n<execution_{stage}.{prompt.index}>\n"


# --- calls on one clock -----------------------------------------------------------------


def stable_seed(*parts: object) -> int:
    """A seed of 31 bits that depends on the parts alone, on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def busy_seconds(calls: Iterable[Call]) -> float:
    """Seconds during which at least one of the calls was in the engine (union of their intervals)."""
    busy, until = 0.0, 0.0
    for start, end in sorted((call.started, call.ended) for call in calls):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


class Recorder:
    """Sends the calls of one attempt to an engine and keeps them, timed from its own creation.

    Prompts are not kept: the context functions give them back, and a record log
    that held them would grow with the square of a trajectory.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.origin = time.monotonic()
        self.calls: list[Call] = []
        self.errors: list[str] = []

    def seconds(self) -> float:
        return time.monotonic() - self.origin

    async def ask(self, request: Request, call: Call, on_text: OnText | None = None) -> Call:
        """Complete `request` and return `call` with its outcome filled in.

        An engine that fails does not raise: the call ends with finish `error`,
        keeps what had been streamed, and the message goes to `errors`, as does
        what an engine notes of a call that reached its end all the same. A call
        that is cancelled is kept likewise, as finish `cancelled`. The engine is
        told the call's role.
        """
        open_, texts, tokens, first = True, [""], 0, 0.0

        def listen(new: str, so_far: int) -> None:
            nonlocal tokens, first
            if open_ and on_text:  # an engine may still deliver after the call was cancelled
                texts.append(new)
                tokens, first = so_far, first or self.seconds()
                on_text(new, so_far)

        def broken_off(finish: str) -> Call:
            ended = self.seconds()
            heard = replace(call, completion="".join(texts), completion_tokens=tokens, finish=finish)
            return replace(heard, started=started, first_token=first or ended, ended=ended)

        started = self.seconds()
        try:
            done = await self.engine.complete(replace(request, role=call.role), listen if on_text else None)
        except EngineError as error:
            self.errors.append(f"{call.id}: {error}")
            made = broken_off("error")
        except asyncio.CancelledError:
            self.calls.append(broken_off("cancelled"))
            raise
        else:
            if done.note or done.finish == "error":
                self.errors.append(f"{call.id}: {done.note or 'the engine ended it with an error'}")
            made = replace(
                call,
                completion=done.text,
                prompt_tokens=done.prompt_tokens,
                cached_tokens=done.cached_tokens,
                completion_tokens=done.completion_tokens,
                started=done.started - self.origin,
                first_token=done.first_token - self.origin,
                ended=done.ended - self.origin,
                finish=done.finish,
            )
        finally:
            open_ = False
        self.calls.append(made)
        return made


# --- the loop ---------------------------------------------------------------------------


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs; limits in tokens are a call's, not an attempt's.

    A planner or executor call that ends malformed or truncated is tried again
    `retries` times with another seed (never at temperature 0, where nothing would
    change); what it wrote before stays in the calls and in every token count.
    After `max_stages` plans the next planner call is made to answer.
    `dispatch` is `streamed` (an executor starts when its prompt closes, as in the
    paper) or `after_plan` (when the whole plan is there, as in the authors' code).
    `sync` is `all`, as in the paper, or `first_success`, for tasks that can verify an
    execution: as soon as the plan is written and one execution has solved the problem,
    those still being written are cancelled. The next planner sees the plan as it was
    written, with the executions that had ended. What was cancelled stays in the
    calls and in the total of tokens, and is on no path to the answer.
    """

    temperature: float = 0.6
    max_stages: int = 12
    max_plan_tokens: int = 1024
    max_execution_tokens: int = 1024
    retries: int = 1
    dispatch: str = "streamed"
    sync: str = "all"
    seed: int = 0
    system: str = ""  # put before the question

    def __post_init__(self) -> None:
        for name, known in (("dispatch", DISPATCH), ("sync", SYNC)):
            if getattr(self, name) not in known:
                raise ValueError(f"loop: no {name} {getattr(self, name)!r}; there are: {', '.join(known)}")
        at_least(self, "loop", max_stages=1, max_plan_tokens=1, max_execution_tokens=1, retries=0)


@dataclass(frozen=True)
class LoopResult:
    """What the loop did.

    `status` is how the last planner call ended, after its retries:
    `ok`            a final answer was written;
    `truncated`     it was cut at its token limit (a truncated *execution* stays as it is and the loop goes on);
    `refused`       the model ended of its own accord and gave nothing to work with: no tag of the format at all,
                    or a blank final answer;
    `malformed`     it wrote tags, but neither this stage's plan nor a final answer;
    `engine_error`  this call or an executor before it failed in the engine; `note` has the message.
    `calls` are in order of stage and prompt, each planner try followed by its executors.
    """

    trajectory: Trajectory
    calls: tuple[Call, ...]
    status: str
    engine_seconds: float
    note: str = ""


async def run_loop(
    engine: Engine,
    question: str,
    settings: LoopSettings,
    recorder: Recorder | None = None,
    solved: Solved | None = None,
) -> LoopResult:
    """Solve one question. The seed of a call depends on `settings.seed` and the call's id only.

    `recorder` sends and keeps the calls (default: a plain one for the engine); `solved`
    is what `first_success` asks of each execution. Cancelling the awaiting task cancels
    every call under way. Never raises EngineError.

    Raises:
        ValueError: if `settings.sync` is `first_success` and nothing can tell a success.
    """
    if settings.sync == "first_success" and solved is None:
        raise ValueError("loop: sync first_success needs a task that verifies executions (it has `solved`); use all")
    return await _Loop(question, settings, recorder or Recorder(engine), solved).run()


_Executed = tuple[Call, Execution]


@dataclass(frozen=True)
class _Turn:
    """Outcome of a planner call; `status` is `plan` if the loop is to go on."""

    call: Call
    status: str
    stage: Stage | None = None
    final: str | None = None
    executors: Sequence[asyncio.Task[_Executed]] = ()


class _Loop:
    def __init__(self, question: str, settings: LoopSettings, recorder: Recorder, solved: Solved | None) -> None:
        self.question, self.settings = question, settings
        self.solved = solved if settings.sync == "first_success" else None
        self.context_question = settings.system + question
        self.recorder = recorder
        self.stages: list[Stage] = []
        self.tries = 1 + (settings.retries if settings.temperature > 0 else 0)
        self.group = asyncio.TaskGroup()

    async def run(self) -> LoopResult:
        waits: tuple[Wait, ...] = ()
        async with self.group:  # executors of a discarded plan run to their end in it: token counts stay exact
            while True:
                turn = await self._plan(waits)
                done = await self._sync(turn.executors)
                if turn.stage:
                    self.stages.append(replace(turn.stage, executions=tuple(execution for _, execution in done)))
                failed = any(call.finish == "error" for call, _ in done)
                if failed or turn.status != "plan":
                    break
                waits = (Wait(turn.call.id), *(Wait(call.id) for call, _ in done))
        calls = tuple(sorted(self.recorder.calls, key=_order))
        return LoopResult(
            trajectory=Trajectory(self.question, tuple(self.stages), turn.final),
            calls=calls,
            status="engine_error" if failed else turn.status,
            engine_seconds=busy_seconds(calls),
            note="; ".join(self.recorder.errors),
        )

    async def _sync(self, executors: Sequence[asyncio.Task[_Executed]]) -> list[_Executed]:
        """What the executors of a stage wrote, in the order of their prompts: of all, or of those that had ended when
        one of them had solved the problem. The others are cancelled then, and not waited for."""
        pending = set(executors)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if self.solved and any(self.solved(task.result()[1].text) for task in done):
                break
        for task in pending:
            task.cancel()
        return [task.result() for task in executors if task not in pending]

    async def _plan(self, waits: tuple[Wait, ...]) -> _Turn:
        """Plan the next stage or answer; tried again while it ends in neither."""
        number = len(self.stages) + 1
        turn = await self._try_plan(number, _id("P", number, 1), waits)
        for attempt in range(2, self.tries + 1):
            if turn.status in ("plan", "ok", "engine_error"):
                break
            turn = await self._try_plan(number, _id("P", number, attempt), (Wait(turn.call.id),))
        return turn

    async def _try_plan(self, number: int, id_: str, waits: tuple[Wait, ...]) -> _Turn:
        forced = number > self.settings.max_stages
        context = planner_context(self.context_question, self.stages) + (FINAL_OPEN if forced else "")
        dispatcher = _Dispatcher(self, number, id_)
        streamed = self.settings.dispatch == "streamed" and not forced
        call = await self.recorder.ask(
            self._request(context, self.settings.max_plan_tokens, id_),
            Call(id=id_, role="planner", stage=number, waits=waits),
            dispatcher.feed if streamed else None,
        )
        stage, final = (None, call.completion) if forced else read_planner(call.completion, number)
        status = _planner_status(call, stage, final)
        if status == "plan":
            dispatcher.feed(call.completion[dispatcher.length :], None)  # all of it, or what an engine held back
            return _Turn(call, status, stage, executors=dispatcher.executors)
        return _Turn(call, status, stage if final is not None else None, final)

    async def execute(self, number: int, position: int, prompt: Prompt, context: str, wait: Wait) -> _Executed:
        """Run the executor of a planner's prompt; what its last try wrote stands, whatever it is."""
        planner = wait.call
        for attempt in range(1, self.tries + 1):
            id_ = f"{planner}/{_id('E', position, attempt)}"
            call = await self.recorder.ask(
                self._request(context, self.settings.max_execution_tokens, id_),
                Call(id=id_, role="executor", stage=number, index=prompt.index, waits=(wait,)),
                _heed if self.solved else None,
            )
            if call.finish == "error" or (call.finish == "stop" and _is_body(call.completion)):
                break
            wait = Wait(call.id)
        return call, Execution(number, prompt.index, call.completion)

    def _request(self, context: str, max_tokens: int, id_: str) -> Request:
        return Request(context, max_tokens, self.settings.temperature, STOP, stable_seed(self.settings.seed, id_))


def _heed(_new: str, _tokens: int) -> None:
    """Listens to a call that may be cancelled: only of one that is listened to it is known how far it got."""


class _Dispatcher:
    """Starts an executor for every prompt of one plan as soon as the text fed to it closes that prompt."""

    def __init__(self, loop: _Loop, number: int, planner: str) -> None:
        self.loop, self.number, self.planner = loop, number, planner
        self.scanner = PromptScanner()
        self.executors: list[asyncio.Task[_Executed]] = []
        self.length = 0  # characters fed
        self._parts: list[str] = []

    def feed(self, new: str, tokens: int | None) -> None:
        """Take on new text of the plan; `tokens` were written so far (None: the planner has ended)."""
        self._parts.append(new)
        self.length += len(new)
        prompts = self.scanner.feed(new)
        if not prompts:
            return
        plan = "".join(self._parts)
        self._parts = [plan]
        if _opens(plan, self.number):  # else it will be refused as malformed when it ends
            for prompt, end in zip(prompts, self.scanner.ends[-len(prompts) :], strict=True):
                self._start(prompt, plan[:end], Wait(self.planner, tokens))

    def _start(self, prompt: Prompt, plan: str, wait: Wait) -> None:
        loop = self.loop
        context = executor_context(loop.context_question, loop.stages, self.number, plan, prompt)
        coroutine = loop.execute(self.number, len(self.executors) + 1, prompt, context, wait)
        self.executors.append(loop.group.create_task(coroutine))


# --- reading what a call wrote ----------------------------------------------------------


def read_planner(text: str, number: int) -> tuple[Stage | None, str | None]:
    """The plan of stage `number` and the final answer in a planner's text; each None if it is not there.

    The text must begin with one of the two tags, and a planner writes no second plan and no executions.
    """
    found = parse(text)
    if found.question.strip() or len(found.stages) > 1 or any(stage.executions for stage in found.stages):
        return None, None
    if found.stages and not _opens(text, number):
        return None, None
    return (found.stages[0] if found.stages else None), found.final


def _opens(plan: str, number: int) -> bool:
    return plan.lstrip().startswith(f"<Plan_{number}>")


def _planner_status(call: Call, stage: Stage | None, final: str | None) -> str:
    if call.finish != "stop":
        return "truncated" if call.finish == "length" else "engine_error"
    if final is not None:
        return "ok" if final.strip() else "refused"
    if stage is not None:
        return "plan"
    return "refused" if _is_plain(call.completion) else "malformed"


def _is_body(text: str) -> bool:
    """Whether a text can stand as an execution: something is there, and no tag is among it."""
    return bool(text.strip()) and _is_plain(text)


def _is_plain(text: str) -> bool:
    """Whether there is no tag of the format in a text."""
    found = parse(text)
    return found.question == text and all(defect.kind == "missing_final_answer" for defect in found.defects)


def _id(kind: str, number: int, attempt: int) -> str:
    """`P2`: the planner of stage 2; `P2~2`: its second try; `P2/E3`: the executor of its third prompt."""
    return f"{kind}{number}" if attempt == 1 else f"{kind}{number}~{attempt}"


def _order(call: Call) -> list[tuple[int, int]]:
    parts = [part[1:].partition("~") for part in call.id.split("/")]
    return [(int(number), int(attempt or 1)) for number, _, attempt in parts]
