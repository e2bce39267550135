"""Users' code in threads and on the loop: in time, exits caught, nobody starved, the process free to end."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from agent_core import user_code
from agent_core.clock import SystemClock
from agent_core.testing import ManualClock
from agent_core.user_code import Exited, Job, Overdue, Refused, Threads

SEEN: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


async def run(function: Any, *, seconds: float = 10.0, clock: Any = None, threaded: bool = True) -> Any:
    return await user_code.run(function, seconds=seconds, clock=clock or SystemClock(), threaded=threaded)


async def test_synchronous_code_runs_in_a_thread_and_sees_the_context() -> None:
    SEEN.set("the caller's")

    def look() -> tuple[str, bool]:
        seen = SEEN.get()
        SEEN.set("the code's own")
        return seen, threading.current_thread() is threading.main_thread()

    assert await run(look) == ("the caller's", False)
    assert SEEN.get() == "the caller's"


async def test_asynchronous_code_runs_on_the_loop() -> None:
    async def look() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert user_code.is_async(look)
    assert user_code.is_async(functools.partial(look))
    assert await run(look, threaded=False)


async def test_a_synchronous_function_may_give_something_to_await() -> None:
    async def later() -> str:
        return "later"

    assert await run(lambda: later()) == "later"


class Callable_:
    async def __call__(self) -> str:
        return "called"


async def test_objects_with_an_asynchronous_call() -> None:
    assert user_code.is_async(Callable_())
    assert not user_code.is_async(lambda: None)
    assert not user_code.is_async(print)
    assert await run(Callable_(), threaded=False) == "called"


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own"), StopAsyncIteration()])
@pytest.mark.parametrize("threaded", [True, False])
async def test_errors_are_raised_as_they_are(error: Exception, threaded: bool) -> None:
    def fail() -> None:
        raise error

    async def fail_later() -> None:
        raise error

    expected = (
        type(error)
        if threaded or not isinstance(error, StopAsyncIteration)
        else (StopAsyncIteration, RuntimeError)
    )
    with pytest.raises(expected):
        await run(fail if threaded else fail_later, threaded=threaded)


async def test_stop_iteration_in_a_thread_does_no_harm() -> None:
    def fail() -> None:
        raise StopIteration

    with pytest.raises((StopIteration, RuntimeError)):
        await run(fail)


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
)
@pytest.mark.parametrize("threaded", [True, False])
async def test_exits_are_caught(error: BaseException, threaded: bool) -> None:
    def leave() -> None:
        raise error

    async def leave_later() -> None:
        raise error

    with pytest.raises(Exited, match=type(error).__name__):
        await run(leave if threaded else leave_later, threaded=threaded)


@pytest.mark.parametrize("threaded", [True, False])
async def test_late_code_is_given_up(threaded: bool) -> None:
    clock = ManualClock()
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(30)

    async def hang_later() -> None:
        begun.set()
        await asyncio.Event().wait()

    waiting = asyncio.ensure_future(
        run(hang if threaded else hang_later, seconds=5, clock=clock, threaded=threaded)
    )
    await asyncio.to_thread(begun.wait, 10)
    assert not waiting.done()
    clock.advance(5)
    with pytest.raises(Overdue) as caught:
        await waiting
    assert caught.value.started
    release.set()


async def test_code_that_swallows_its_cancellation_holds_nobody_up() -> None:
    clock = ManualClock()
    begun, end = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass

    waiting = asyncio.ensure_future(run(stubborn, seconds=5, clock=clock, threaded=False))
    await begun.wait()
    clock.advance(5)
    with pytest.raises(Overdue):
        await waiting
    end.set()
    await asyncio.sleep(0)


@pytest.mark.parametrize("threaded", [True, False])
async def test_cancelling_the_caller_goes_through(threaded: bool) -> None:
    begun, release = threading.Event(), threading.Event()
    cancelled = asyncio.Event()

    def hang() -> None:
        begun.set()
        release.wait(30)

    async def hang_later() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.ensure_future(run(hang if threaded else hang_later, threaded=threaded))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not threaded:
        await asyncio.wait_for(cancelled.wait(), 10)
    release.set()


async def test_no_timer_is_left_behind() -> None:
    clock = ManualClock()
    await run(lambda: 1, clock=clock)
    await asyncio.sleep(0)
    assert clock.sleeping == 0


async def finished(job: Job) -> Any:
    return (await asyncio.wait_for(job.future, 10)).value


async def test_threads_are_reused_and_bounded() -> None:
    threads = Threads(limit=2)
    names = set()
    for _ in range(5):
        job = Job(lambda: threading.current_thread().ident)
        threads.submit(job)
        names.add(await finished(job))
    assert len(names) <= 2

    barrier = threading.Barrier(2)
    jobs = [Job(lambda: barrier.wait(10)) for _ in range(6)]
    for job in jobs:
        threads.submit(job)
    assert len([await finished(job) for job in jobs]) == 6
    assert threads.size == 2


async def test_hanging_code_starves_nobody() -> None:
    """Each thread that is given up makes room for another, and comes back when its code ends."""
    threads = Threads(limit=1)
    release = threading.Event()
    begun = threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(30)

    hanging, next_one = Job(hang), Job(lambda: "through")
    threads.submit(hanging)
    await asyncio.to_thread(begun.wait, 10)
    threads.submit(next_one)
    assert not next_one.started
    threads.abandon(hanging)
    assert await finished(next_one) == "through"
    assert (threads.size, threads.hung) == (1, 1)
    release.set()
    await asyncio.wait_for(hanging.future, 10)
    await _until(lambda: threads.hung == 0)
    assert threads.size == 1


async def test_a_job_that_waits_can_be_given_up_unstarted() -> None:
    threads = Threads(limit=1)
    release = threading.Event()
    ran = []
    first, second, third = (
        Job(lambda: release.wait(30)),
        Job(lambda: ran.append("second")),
        Job(lambda: "third"),
    )
    for job in (first, second, third):
        threads.submit(job)
    threads.abandon(second)
    release.set()
    assert await finished(third) == "third"
    assert not second.started
    assert not ran


async def test_too_many_hanging_threads_refuse_new_work() -> None:
    threads = Threads(limit=1, hung_limit=1)
    release, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(30)

    job = Job(hang)
    threads.submit(job)
    await asyncio.to_thread(begun.wait, 10)
    threads.abandon(job)
    with pytest.raises(Refused, match="1 earlier calls hang"):
        threads.submit(Job(lambda: None))
    release.set()
    await _until(lambda: threads.hung == 0)
    again = Job(lambda: "again")
    threads.submit(again)
    assert await finished(again) == "again"


async def test_idle_threads_end() -> None:
    threads = Threads(limit=2, idle_seconds=0.01)
    job = Job(lambda: threading.current_thread())
    threads.submit(job)
    thread = await finished(job)
    await asyncio.to_thread(thread.join, 10)
    assert threads.size == 0
    assert not thread.is_alive()


def test_a_hanging_thread_does_not_hold_up_the_process() -> None:
    """The process ends although a thread of ours still hangs, and although the code asked for an exit before."""
    code = textwrap.dedent(
        """
        import asyncio, sys, threading
        from agent_core import user_code
        from agent_core.clock import SystemClock

        async def main():
            try:
                await user_code.run(lambda: sys.exit(7), seconds=5, clock=SystemClock())
            except user_code.Exited:
                print("caught")
            try:
                await user_code.run(lambda: threading.Event().wait(), seconds=0.05, clock=SystemClock())
            except user_code.Overdue:
                print("late")

        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["caught", "late"], 0), done.stderr


async def _until(condition: Any) -> None:
    """Wait until the other threads have brought it about; the test's own timeout bounds it."""

    def watch() -> None:
        while not condition():
            pass

    await asyncio.to_thread(watch)
