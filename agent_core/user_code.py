"""Runs what users wrote (tools, plugins) so that it can't harm the process: in time, in threads, exits caught.

Synchronous code runs in daemon threads of our own. Unlike those of asyncio's default executor they don't hold up the
end of the process, and one that hangs gives its place to a new one, so that nobody waits behind it.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from agent_core.clock import Clock

THREADS = 32
"""Threads that work at the same time; further calls wait for a free one."""

HUNG = 128
"""Threads that may hang beyond their time before new calls are refused."""

IDLE_SECONDS = 30.0
"""How long a thread without work stays."""


class Overdue(Exception):
    """The time is over. `started` tells whether the code had begun: it may still be at work, and have effects."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the time is over")
        self.started = started


class Exited(Exception):
    """The code tried to end the process (SystemExit, KeyboardInterrupt), or cancelled itself."""


class Refused(Exception):
    """No thread could be had: too many hang, or the system gives no more."""


class Outcome(NamedTuple):
    """What code gave back, or what it raised."""

    value: Any
    error: BaseException | None


class Job:
    """A function on its way through a thread; `future` gets its Outcome on the loop that asked."""

    __slots__ = ("_context", "_function", "_loop", "abandoned", "future", "started")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome] = self._loop.create_future()
        self.started = False
        self.abandoned = False

    def run(self) -> None:
        """Run the function in this thread and send its outcome to the loop."""
        try:
            outcome = Outcome(self._context.run(self._function), None)
        except BaseException as error:  # noqa: BLE001 - outermost boundary of a user's code: an exit must not pass
            outcome = Outcome(None, error)
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcome)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            pass

    def _deliver(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


class Threads:
    """A bounded set of daemon threads, started as they are needed."""

    def __init__(
        self, *, limit: int = THREADS, hung_limit: int = HUNG, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._limit = limit
        self._hung_limit = hung_limit
        self._idle_seconds = idle_seconds
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self.size = 0
        """Threads at work or idle."""
        self.hung = 0
        """Threads that were given up and have not come back."""

    def submit(self, job: Job) -> None:
        """Have the job run as soon as a thread is free; raises Refused."""
        with self._changed:
            if self.hung >= self._hung_limit:
                raise Refused(f"{self.hung} earlier calls hang and hold their threads")
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self.size < self._limit:
                self._start(job)

    def abandon(self, job: Job) -> None:
        """Wait no longer for the job: it is not begun, or its thread's place is given to another."""
        with self._changed:
            job.abandoned = True
            if job.started:
                self.size -= 1
                self.hung += 1
                if self._jobs:
                    self._start(None)
            elif job in self._jobs:
                self._jobs.remove(job)

    def _start(self, job: Job | None) -> None:
        try:
            threading.Thread(target=self._work, name="sampan-user-code", daemon=True).start()
            self.size += 1
        except RuntimeError as error:  # the system has no thread left
            if job is not None and not self.size:
                self._jobs.remove(job)
                raise Refused(str(error)) from error

    def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            job.run()
            with self._changed:
                if job.abandoned:
                    self.hung -= 1
                    return

    def _next(self) -> Job | None:
        """The next job, or None where none came for long."""
        with self._changed:
            while not self._jobs:
                self._idle += 1
                called = self._changed.wait(self._idle_seconds)
                self._idle -= 1
                if not called and not self._jobs:
                    self.size -= 1
                    return None
            job = self._jobs.popleft()
            job.started = True
            return job


threads = Threads()
"""The threads of this process."""


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await, as far as can be seen without calling it."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def run(function: Callable[[], Any], *, seconds: float, clock: Clock, threaded: bool = True) -> Any:
    """What the function gives; an awaitable that it gives is awaited. Raises what the function raises.

    `threaded` False calls it on the loop: for async functions. Raises Overdue after `seconds`, Exited where the
    code tried to exit or cancelled itself, Refused where no thread is to be had. Context variables are visible to
    the code; those it sets stay its own.
    """
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        value = await (_in_thread(function, timer) if threaded else _on_loop(function, timer))
        if inspect.isawaitable(value):
            value = await _on_loop(lambda: value, timer)
        return value
    finally:
        timer.cancel()


async def _in_thread(function: Callable[[], Any], timer: asyncio.Future[None]) -> Any:
    job = Job(function)
    threads.submit(job)
    try:
        await asyncio.wait((job.future, timer), return_when=asyncio.FIRST_COMPLETED)
        if not job.future.done():
            raise Overdue(started=job.started)
    finally:
        if not job.future.done():
            threads.abandon(job)
    return _unpacked(job.future.result())


async def _on_loop(function: Callable[[], Awaitable[Any]], timer: asyncio.Future[None]) -> Any:
    task = asyncio.ensure_future(_caught(function))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Overdue(started=True)
    finally:
        # Not awaited: code that swallows its cancellation must not hold us up. Its outcome is never an exception.
        task.cancel()
    return _unpacked(Outcome(None, asyncio.CancelledError()) if task.cancelled() else task.result())


async def _caught(function: Callable[[], Awaitable[Any]]) -> Outcome:
    """The outcome; asyncio would pass an exit on to the loop and end the process."""
    try:
        return Outcome(await function(), None)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - outermost boundary of a user's code: an exit must not pass
        return Outcome(None, error)


def _unpacked(outcome: Outcome) -> Any:
    error = outcome.error
    if error is None:
        return outcome.value
    if isinstance(error, Exception):
        raise error
    raise Exited(f"it raised {type(error).__name__}") from error
