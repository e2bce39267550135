"""Keeps a lease while long work goes on, and stops the work where it can't be kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent_core.engine.lease import Lease
from agent_core.errors import ConditionError, LeaseLostError, StoreError
from agent_core.store.base import Store

log = logging.getLogger("sampan.engine")


class Heartbeat:
    """Renews a lease while long work goes on; costs nothing for work shorter than a third of the lease.

    A worker that is cut off from its store stops before anybody else may take over: what it has under way (a tool that
    pays) must not run beside what its successor does.
    """

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._timers: list[asyncio.TimerHandle] = []
        self._renewing: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = ""

    async def __aenter__(self) -> None:
        self._worker = asyncio.current_task()
        self._later(self._lease.seconds / 3, self._beat)
        self._later(self._lease.seconds / 3, self._guard)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        if self._lost and isinstance(error, asyncio.CancelledError):
            if self._worker is not None:
                self._worker.uncancel()  # what ends here is the work, not the task
            raise LeaseLostError(self._lost) from error

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(max(seconds, 0.0), call))

    def _beat(self) -> None:
        self._renewing = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        again = self._lease.seconds / 3
        if self._lease.fence:
            since = self._lease.moment()
            try:
                await self._store.write(self._lease.renewal())
                self._lease.kept(since)
            except ConditionError:
                if not self._lease.releasing:
                    self._stop("another worker took over the session")
                return
            except StoreError as error:
                log.warning("lease=<%s> | not renewed, trying again: %s", self._lease.head.partition, error)
                again = self._lease.seconds / 12
        self._later(again, self._beat)

    def _guard(self) -> None:
        """Stop the worker before its time is over, unless the lease was kept since."""
        left = self._lease.unsafe_in if self._lease.fence else self._lease.seconds / 3
        if left <= 0:
            self._stop("the lease could not be renewed in time")
        else:
            self._later(left, self._guard)

    def _stop(self, why: str) -> None:
        self._lost = why
        if self._worker is not None:
            self._worker.cancel()
