"""Chat calls through the Batch API of OpenAI: what is asked within a moment goes up as one file, and is fetched when
the server is done with it, which may take a day. A batch is written down before it is made, so that a run that was
killed finds it again, by its id or by the mark it carries, and pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sprint_lib import store
from sprint_lib.chat import FORMATS, ChatError, Dialect, Failure, Reply, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

    from sprint_lib.chat import Chat

T = TypeVar("T")

GATHER_SECONDS = 1.0  # without a new call: then what has come is sent
MAX_CALLS, MAX_CHARACTERS = 10_000, 50_000_000  # of one batch; the servers' limits are above
_ENDED = ("completed", "failed", "expired", "cancelled")
_MARK = "sprint_batch"
_EXPIRED = Failure("server", "the batch ended without this call", again=True)


@dataclass
class _Sent:
    """A batch as it is written down: its mark, its calls by key, the words they were put in, its id once it has one."""

    mark: str
    keys: list[str]
    dialect: Dialect
    id: str = ""

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> _Sent:
        return _Sent(value["mark"], list(value["keys"]), Dialect(**value["dialect"]), value["id"])


@dataclass
class _Waiting:
    request: Request
    dialect: Dialect
    outcome: asyncio.Future[Reply | Failure]


class BatchDesk:
    """Carries the calls of one chat; its batches are written down in the folder `batches` of the chat's cache."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.folder = chat.cache.folder / "batches"
        self._new: dict[str, _Waiting] = {}
        self._last = 0.0
        self._clerk: asyncio.Task[None] | None = None
        self._carriers: set[asyncio.Task[None]] = set()

    async def send(self, request: Request, dialect: Dialect) -> Reply | Failure:
        """What a batch says of a call; one that a killed run had made may have put it in other words.

        Raises:
            ChatError: if the batch cannot be made or fetched.
        """
        waiting = _Waiting(request, dialect, asyncio.get_running_loop().create_future())
        self._new[request.key] = waiting
        self._last = time.monotonic()
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.ensure_future(self._serve())
        return await waiting.outcome

    async def _serve(self) -> None:
        """Send what comes until nothing is waiting to be sent."""
        while self._new:
            await asyncio.sleep(max(0.0, self._last + GATHER_SECONDS - time.monotonic()))
            if time.monotonic() < self._last + GATHER_SECONDS:
                continue
            new, self._new = self._new, {}
            for sent, calls in self._sorted(new):
                task = asyncio.ensure_future(self._carry(sent, calls))
                self._carriers.add(task)
                task.add_done_callback(self._carriers.discard)

    def _sorted(self, new: dict[str, _Waiting]) -> Iterable[tuple[_Sent, dict[str, _Waiting]]]:
        """Calls by batch: those of batches written down before (a killed run's), the others in new ones by dialect."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                sent = _Sent.from_json(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError, KeyError):
                path.replace(path.with_suffix(".damaged"))  # its calls are made anew
                continue
            if calls := {key: new.pop(key) for key in sent.keys if key in new}:
                yield sent, calls
        for dialect in dict.fromkeys(waiting.dialect for waiting in new.values()):
            part: dict[str, _Waiting] = {}
            characters = 0
            for key, waiting in new.items():
                if waiting.dialect != dialect:
                    continue
                if part and (len(part) >= MAX_CALLS or characters + waiting.request.characters > MAX_CHARACTERS):
                    yield self._written(part, dialect), part
                    part, characters = {}, 0
                part[key] = waiting
                characters += waiting.request.characters
            yield self._written(part, dialect), part

    def _written(self, calls: dict[str, _Waiting], dialect: Dialect) -> _Sent:
        sent = _Sent(secrets.token_hex(8), list(calls), dialect)
        store.write_json(self._path(sent), asdict(sent))
        return sent

    def _path(self, sent: _Sent) -> Path:
        return self.folder / f"{sent.mark}.json"

    async def _carry(self, sent: _Sent, calls: dict[str, _Waiting]) -> None:
        """Bring a batch to its end and its replies to those who wait for them."""
        try:
            found = await self._results(sent, calls)
        except ChatError as error:
            for waiting in calls.values():
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(error.copy())  # each who waits raises one of his own
            return
        except Exception as error:  # such as a full disk
            for waiting in calls.values():
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(error)
            return
        self._path(sent).unlink(missing_ok=True)
        for key, waiting in calls.items():
            if not waiting.outcome.done():
                waiting.outcome.set_result(found.get(key, _EXPIRED))

    async def _results(self, sent: _Sent, calls: dict[str, _Waiting]) -> dict[str, Reply | Failure]:
        """What became of the calls of a batch; replies are stored by then, also those nobody here waits for."""
        batch = await self._batch(sent, calls)
        wait = self.chat.limits.first_wait
        while batch.status not in _ENDED:
            await asyncio.sleep(wait)
            wait = min(2 * wait, self.chat.limits.longest_wait)
            batch = await self._reliably(lambda client: client.batches.retrieve(sent.id))
        found: dict[str, Reply | Failure] = {}
        for file in filter(None, (batch.error_file_id, batch.output_file_id)):
            content = await self._reliably(lambda client, file=file: client.files.content(file))  # type: ignore[misc]
            for line in content.content.splitlines():
                found |= self._result(line, sent, calls)
        if batch.status == "failed" and not found:
            said = self.chat.endpoint.scrub(str(batch.errors and batch.errors.data))[:300]
            return dict.fromkeys(calls, Failure("batch", f"the server refused the batch: {said}"))
        return found

    def _result(self, line: bytes, sent: _Sent, calls: dict[str, _Waiting]) -> dict[str, Reply | Failure]:
        try:
            value = json.loads(line)
            key, response = value["custom_id"], value.get("response") or {}
            status, body = int(response.get("status_code") or 500), response.get("body")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}  # its call counts as not answered
        if key not in sent.keys:
            return {}
        if status != 200:
            error = body.get("error") if isinstance(body, dict) else value.get("error")
            return {key: self.chat.status_failure(status, error)}
        request = calls[key].request if key in calls else Request(key, (), {}, "")
        format_ = sent.dialect.format if request.schema is not None else FORMATS[-1]
        reply = self.chat.read(json.dumps(body), format_, 0.0)
        if isinstance(reply, Reply) and self.chat.known(request) is None:
            self.chat.keep(request, reply)
        return {key: reply}

    async def _batch(self, sent: _Sent, calls: dict[str, _Waiting]) -> Batch:
        """The batch that was written down: the one that has its id or its mark, or a new one."""
        if sent.id:
            return await self._reliably(lambda client: client.batches.retrieve(sent.id))
        batch = await self._reliably(lambda client: self._marked(client, sent.mark))
        if batch is None:
            lines = [self._line(waiting.request, sent.dialect) for waiting in calls.values()]
            sent.keys = list(calls)
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            batch = await self._new_batch(sent.mark, data)
        sent.id = batch.id
        store.write_json(self._path(sent), asdict(sent))
        return batch

    async def _new_batch(self, mark: str, data: bytes) -> Batch:
        upload = (f"{mark}.jsonl", data)
        file = await self._reliably(lambda client: client.files.create(file=upload, purpose="batch"))
        return await self._reliably(lambda client: self._create(client, mark, file.id))

    def _line(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        url = "/v1/chat/completions"
        return {"custom_id": request.key, "method": "POST", "url": url, "body": self.chat.body(request, dialect)}

    async def _create(self, client: AsyncOpenAI, mark: str, file: str) -> Batch:
        """Make a batch, unless an attempt before did so and only its answer was lost."""
        return await self._marked(client, mark) or await client.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata={_MARK: mark}
        )

    async def _marked(self, client: AsyncOpenAI, mark: str) -> Batch | None:
        page = await client.batches.list(limit=100)
        return next((batch for batch in page.data if (batch.metadata or {}).get(_MARK) == mark), None)

    async def _reliably(self, work: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """Something asked of the server, again within the limits. Raises ChatError."""
        for tries in range(1, self.chat.limits.retries + 2):
            try:
                return await work(self.chat.line().client)
            except Exception as error:
                failure = self.chat.endpoint.failure(error)
            if not failure.again or tries > self.chat.limits.retries:
                break
            await self.chat.wait(tries, failure)
        raise self.chat.lost(failure, tries)
