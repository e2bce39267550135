"""How many requests of a tenant at once: slots in the store, held like a lease, so that a crash gives them back.

<tenant>/door     slot/<number>   by whom; expires unless it is renewed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent_core.clock import Clock
from agent_core.errors import ConditionError, QuotaError, StoreError
from agent_core.store.base import Absent, Delete, Equals, Key, Put, Store, Update, quoted

log = logging.getLogger("sampan.security")

POLICY = "concurrency"
HOLD_SECONDS = 60.0
"""After so long without a renewal a slot is free again."""


class Slots:
    """Lets so many of a tenant's requests in at the same time."""

    def __init__(self, store: Store, clock: Clock, count: int) -> None:
        self._store = store
        self._clock = clock
        self._count = count

    @asynccontextmanager
    async def held(self, tenant: str) -> AsyncIterator[None]:
        """While a request is under way it holds a slot. Raises QuotaError where all are taken."""
        owner = self._clock.new_id()
        key = await self._take(f"{quoted(tenant)}/door", owner)
        renewing = asyncio.create_task(self._renew(key, owner))
        try:
            yield
        finally:
            renewing.cancel()
            try:
                await self._store.write(Delete(key, when=(Equals("by", owner),)))
            except StoreError as error:  # ours no more, or it expires by itself
                log.info("slot=<%s> | not given back: %s", key.sort, error)

    async def _take(self, partition: str, owner: str) -> Key:
        """A free slot: at first any, then one that is seen to be free."""
        number = int(self._clock.random() * self._count)
        free = [number]
        while free:
            for number in free:
                key = Key(partition, f"slot/{number:06d}")
                expires_at = self._clock.now() + HOLD_SECONDS
                try:
                    await self._store.write(Put(key, {"by": owner}, when=(Absent(),), expires_at=expires_at))
                    return key
                except ConditionError:
                    continue
            free = await self._free(partition)
        raise QuotaError(
            f"{self._count} requests of yours are under way, and no more may be at once",
            policy=POLICY,
            retry_after=1.0,
        )

    async def _free(self, partition: str) -> list[int]:
        taken: set[str] = set()
        after = ""
        while True:
            page = await self._store.query(partition, "slot/", after=after, limit=1000)
            taken |= {record.key.sort for record in page.records}
            after = page.after
            if not after:
                return [number for number in range(self._count) if f"slot/{number:06d}" not in taken]

    async def _renew(self, key: Key, owner: str) -> None:
        while True:
            await self._clock.sleep(HOLD_SECONDS / 3)
            update = Update(key, when=(Equals("by", owner),), expires_at=self._clock.now() + HOLD_SECONDS)
            try:
                await self._store.write(update)
            except ConditionError:
                return  # it expired while we stood still; whoever has it now may keep it
            except StoreError as error:
                log.warning("slot=<%s> | not renewed, trying again: %s", key.sort, error)
