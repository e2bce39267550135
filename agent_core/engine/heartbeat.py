"""Keeps a lease while long work goes on."""

from __future__ import annotations

import asyncio
import logging

from agent_core.clock import Clock
from agent_core.engine.lease import Lease
from agent_core.errors import ConditionError, LeaseLostError, StoreError
from agent_core.store.base import Store

log = logging.getLogger("sampan.engine")


class Heartbeat:
    """Renews a lease while long work goes on; costs nothing for work shorter than a third of the lease."""

    def __init__(self, store: Store, clock: Clock, lease: Lease) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._lost = False

    async def __aenter__(self) -> None:
        self._worker = asyncio.current_task()
        self._schedule()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        if self._lost and isinstance(error, asyncio.CancelledError):
            raise LeaseLostError("the lease could not be renewed") from error

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._lease.seconds / 3, self._beat)

    def _beat(self) -> None:
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        if self._lease.fence:
            now, monotonic = self._clock.now(), self._clock.monotonic()
            try:
                await self._store.write(self._lease.renewal(now))
                self._lease.kept(now, monotonic)
            except ConditionError:
                self._lost = True
                if self._worker is not None:
                    self._worker.cancel()
                return
            except StoreError as error:
                log.warning("lease=<%s> | not renewed, trying again: %s", self._lease.head.partition, error)
        self._schedule()
