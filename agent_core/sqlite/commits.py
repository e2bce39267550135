"""Group commit: many waiting transactions become one, so that one flush to the disk serves them all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from agent_core.errors import StoreError

J = TypeVar("J")
R = TypeVar("R")

MAX_BATCH = 128
"""Jobs of one batch, so that other processes get their turn at the file."""


class GroupCommit(Generic[J, R]):
    """One thread that hands all waiting jobs at once to `run`, which returns a result or an error for each, in order.

    Jobs may come from any event loop, and from several one after another; each answer goes to the loop it came from.
    The thread begins with the first job, and anew after a fork.
    """

    def __init__(self, run: Callable[[Sequence[J]], Sequence[R | BaseException]], name: str) -> None:
        self._run = run
        self._name = name
        self._closed = False
        self.reset()

    def reset(self) -> None:
        """Begin afresh, as a forked child must: it has no thread, and what waits belongs to its parent."""
        self._waiting: SimpleQueue[tuple[J, asyncio.Future[R]] | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    async def do(self, job: J) -> R:
        """Wait until the job is done for good. One that is cancelled before its turn is left out."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        with self._starting:  # so that no job can come in behind the one that ends the thread
            if self._closed:
                raise StoreError("the store is closed")
            if self._thread is None:
                # A daemon: a program that forgets to close may end all the same, unanswered jobs undone.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._waiting.put((job, future))
        return await future

    async def close(self) -> None:
        """Finish all jobs that wait, then end the thread."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
            self._waiting.put(None)
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        waiting, last = self._waiting, False
        while not last:
            batch = [waiting.get()]
            while len(batch) < MAX_BATCH and not waiting.empty():
                batch.append(waiting.get())
            last = None in batch
            taken = [entry for entry in batch if entry is not None and not entry[1].cancelled()]
            if taken:
                self._serve(taken)

    def _serve(self, taken: list[tuple[J, asyncio.Future[R]]]) -> None:
        results: Sequence[R | BaseException]
        try:
            results = self._run([job for job, _ in taken])
        except BaseException as error:  # noqa: BLE001 - the thread's outermost boundary: the callers must hear of it
            if len(taken) > 1:
                for entry in taken:  # each for itself, so that only the culprit's caller hears of it
                    self._serve([entry])
                return
            results = [error]
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[R], R | BaseException]]] = {}
        for (_, future), result in zip(taken, results, strict=True):
            by_loop.setdefault(future.get_loop(), []).append((future, result))
        for loop, answers in by_loop.items():
            try:
                loop.call_soon_threadsafe(_answer, answers)
            except RuntimeError:  # that loop was closed meanwhile: nobody waits there any more
                continue


def _answer(answers: list[tuple[asyncio.Future[R], R | BaseException]]) -> None:
    for future, result in answers:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
