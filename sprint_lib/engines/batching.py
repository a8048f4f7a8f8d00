"""A thread that takes work as it arrives and steps all of it together (continuous batching): what the embedded engine's
completions and its teams have in common. Whatever ends the thread, nobody is left waiting.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from sprint_lib.engines import EngineError


class Work(Protocol):
    """Something to be done: who asked awaits its future, and nobody does any more once it is cancelled."""

    future: asyncio.Future[Any]
    cancelled: bool


W = TypeVar("W", bound=Work)


class Batching(ABC, Generic[W]):
    """The thread, from `_start` to `_stop`. A subclass admits what waits, steps what lives, and tells who waits."""

    def _start(self, name: str, threads: int) -> None:
        """Begin; `threads` are torch's."""
        self._threads = threads
        self._waiting: deque[W] = deque()
        self._inbox: queue.SimpleQueue[W | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # between handing work over and the thread's end
        self._ended: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def _stop(self) -> None:
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _still_runs(self) -> None:
        """Raises EngineError if the thread has ended, with the same cause. To be called with the lock held."""
        if self._ended:
            raise EngineError(str(self._ended)) from self._ended.__cause__

    async def _done(self, work: W) -> Any:
        """Hand work over and wait for its result. Raises EngineError if the thread has ended or ends meanwhile."""
        with self._lock:
            self._still_runs()
            self._inbox.put(work)
        try:
            return await work.future
        finally:
            work.cancelled = True  # no more is done for it, whatever ended the waiting

    # --- in the thread ----------------------------------------------------------------

    @abstractmethod
    def _live(self) -> Iterable[W]:
        """What has been admitted and has not ended."""

    @abstractmethod
    def _admit(self) -> None:
        """Drop what was cancelled, and move what there is room for from `_waiting` to the live ones."""

    @abstractmethod
    def _step(self) -> None:
        """One token of everything that lives; there may be nothing."""

    @abstractmethod
    def _fail(self, work: W, error: EngineError) -> None:
        """Tell who waits that there will be no result."""

    def _run(self) -> None:
        import torch

        failure = EngineError("the engine is closed")
        try:
            torch.set_num_threads(self._threads)
            torch.set_flush_denormal(True)
            with torch.inference_mode():
                while self._receive():
                    self._admit()
                    self._step()
        except BaseException as error:
            failure = EngineError(f"the engine failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
        self._end(failure)

    def _receive(self) -> bool:
        """Take what has arrived, waiting for it when there is nothing else to do. False: stop."""
        idle = not self._waiting and not any(True for _ in self._live())
        try:
            while True:
                work = self._inbox.get(block=idle)
                if work is None:
                    return False
                self._waiting.append(work)
                idle = False
        except queue.Empty:
            return True

    def _end(self, failure: EngineError) -> None:
        with self._lock:
            self._ended = failure
        left = [*self._live(), *self._waiting]
        while not self._inbox.empty():
            work = self._inbox.get()
            left += [work] if work else []
        for work in left:
            error = EngineError(str(failure))  # one for each: who awaits adds to its traceback
            error.__cause__ = failure.__cause__
            self._fail(work, error)
