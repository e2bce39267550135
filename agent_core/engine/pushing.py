"""Tries the pushes of the outbox: those of a worker as soon as each is committed, others when they are due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from agent_core.engine import keys, outbox
from agent_core.engine.claims import name_of
from agent_core.engine.kit import Kit
from agent_core.engine.outbox import SCHEDULE
from agent_core.engine.points import point
from agent_core.engine.runs import Due, Run
from agent_core.engine.window import whole
from agent_core.errors import AgentError, ChannelError, ConditionError, StoreError
from agent_core.messages import from_record
from agent_core.store.base import Delete, Key
from agent_core.store.shards import time_of

log = logging.getLogger("sampan.outbox")

TRY_SECONDS = 120.0
"""How long one try may take; what it was cut off in goes on at the next."""


class Pushing:
    """The pushes of one worker, in the background: in each conversation one after the other."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._last: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def begun(self) -> bool:
        """Whether there were any."""
        return bool(self._tasks)

    def begin(self, pushes: Iterable[tuple[Key, Due]]) -> None:
        """Try what was committed just now, claimed by its commit, after those before it."""
        for key, due in pushes:
            if not due.claimed:
                continue  # no channel of that kind here
            line = due.order.partition("/")[0]
            self._kit.claims.keep(key, due)
            self._kit.claims.trying.add(name_of(due))
            since = self._kit.clock.monotonic()
            task = asyncio.create_task(self._after(self._last.get(line), key, due, since))
            self._last[line] = task
            self._tasks.append(task)

    async def done(self) -> None:
        """Wait until all of them were tried."""
        if self._tasks:
            await asyncio.gather(*self._tasks)

    async def _after(self, before: asyncio.Task[None] | None, key: Key, due: Due, since: float) -> None:
        claims = self._kit.claims
        try:
            if before is not None:
                await asyncio.wait({before})
            await _on_from(self._kit, await self._mine(key, due, since))
        except AgentError as error:
            log.warning("run=<%s> | its push is left to the sweeper: %s", due.run_id, error)
        except Exception:  # the outermost boundary of a push: the sweeper has its entry
            log.exception("run=<%s> | its push is left to the sweeper", due.run_id)
        finally:
            claims.trying.discard(name_of(due))

    async def _mine(self, key: Key, due: Due, since: float) -> tuple[Key, Due] | None:
        """The entry for a try, if it is first in its line; else it waits there, claimed by nobody."""
        kit = self._kit
        first = await outbox.first_of(kit, due)
        if first is None:
            return None
        if first == (due.order, key.sort) and kit.clock.monotonic() - since < kit.lease_seconds / 3:
            return key, due
        waiting = await outbox.wait(kit, key, due, first)
        if waiting is None:
            return None
        # Whoever was done with the first meanwhile may have left this one to us.
        first = await outbox.first_of(kit, due)
        return await outbox.claim(kit, *waiting) if first and first.order == due.order else None


async def push_again(kit: Kit, key: Key, due: Due) -> bool:
    """Try what is due, and those behind it in its line; False where that is not for this process, or not yet."""
    if due.delivery is None or due.delivery.kind not in kit.deliverers:
        # For a process that has the channel; where none came for as long as it would have been tried, it ends.
        if kit.clock.now() - time_of(key.sort) > outbox.ABANDONED_SECONDS:
            await _abandon(kit, key, due)
        return False
    if not kit.claims.free(key, due, kit.clock, kit.lease_seconds):
        return False
    if due.order:
        first = await outbox.first_of(kit, due)
        if first is not None and first.order != due.order:
            await outbox.wait(kit, key, due, first)
            return False
    claimed = await outbox.claim(kit, key, due)
    await _on_from(kit, claimed)
    return claimed is not None


async def _abandon(kit: Kit, key: Key, due: Due) -> None:
    run = await _run_of(kit, due)
    kind = due.delivery.kind if due.delivery else ""
    if run is not None and kind:
        await outbox.bury(kit, key, due, run, f"not delivered: nobody here delivers to {kind!r}")
    else:
        await kit.store.write(Delete(key), outbox.unlined(due))


async def _on_from(kit: Kit, claimed: tuple[Key, Due] | None) -> None:
    """Try a claimed entry, and go on with the next of its line as long as each comes to its end."""
    while claimed is not None:
        trial = Trial(kit, *claimed)
        claimed = await outbox.next_of(kit, trial.due) if await trial.tried() else None


class Trial:
    """One try of a claimed push. The claim is kept while it lasts, and it is cut off where that fails."""

    def __init__(self, kit: Kit, key: Key, due: Due) -> None:
        self._kit = kit
        self.key = key
        self.due = due

    async def tried(self) -> bool:
        """Whether the entry came to its end: delivered, given up, or for nothing any more. Else it is put off."""
        kit, name = self._kit, name_of(self.due)
        ours = name not in kit.claims.trying
        kit.claims.trying.add(name)
        try:
            return await self._tried()
        finally:
            if ours:
                kit.claims.trying.discard(name)

    async def _tried(self) -> bool:
        run = await _run_of(self._kit, self.due)
        if run is None:
            # Erased, or it ended otherwise since: that end has an entry of its own.
            await self._kit.store.write(Delete(self.key), outbox.unlined(self.due))
            return True
        if self.due.attempts > len(SCHEDULE) + 1:
            await self._bury(run, "not delivered: each try ended its process")
            return True
        try:
            point("before push")
            if not await self._delivered(run):
                return False
            point("after push")
        except AgentError as error:
            return await self._put_off(run, error)
        except Exception as error:  # a deliverer may be anybody's: a bug in it is a try that failed
            log.exception("run=<%s> | its deliverer failed by a bug", run.id)
            return await self._put_off(run, ChannelError(f"{type(error).__name__} in the deliverer's code"))
        self._kit.claims.forget(self.due)
        with suppress(ConditionError):
            await self._kit.store.write(
                Delete(self.key, when=outbox.still(self.due)), outbox.unlined(self.due)
            )
        point("after outbox")
        return True

    async def _delivered(self, run: Run) -> bool:
        """Deliver, no longer than the claim is kept; False where another process has it now."""
        assert self.due.delivery is not None
        deliverer = self._kit.deliverers[self.due.delivery.kind]
        reply = await whole(run, self._kit.blobs)
        delivering = asyncio.ensure_future(deliverer.deliver(reply, self.due.delivery, run.push_id))
        keeping = asyncio.ensure_future(self._kept())
        try:
            await asyncio.wait(
                {delivering, keeping}, timeout=TRY_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if delivering.done():
                delivering.result()
                return True
            lost = keeping.done()
        finally:
            # The claim is moved to the end: what is written next must know where the entry is.
            delivering.cancel()
            if not keeping.done():
                keeping.cancel()
            await asyncio.wait({delivering, keeping})
        if not lost:
            raise ChannelError(f"it did not come to an end in {TRY_SECONDS:.0f} s")
        log.warning("run=<%s> | its push was taken by another process", run.id)
        return False

    async def _kept(self) -> None:
        """Keep the claim until it is lost."""
        kit = self._kit
        kept = kit.clock.monotonic()
        while True:
            await kit.clock.sleep(kit.lease_seconds / 3)
            renewing = asyncio.ensure_future(self._renewed())
            try:
                renewed = await asyncio.shield(renewing)
            except asyncio.CancelledError:
                await asyncio.wait({renewing})
                raise
            except StoreError:
                if kit.clock.monotonic() - kept >= kit.lease_seconds * 2 / 3:
                    return
                continue
            if not renewed:
                return
            kept = kit.clock.monotonic()

    async def _renewed(self) -> bool:
        at = self._kit.clock.now() + self._kit.lease_seconds
        moved = await outbox.move(self._kit, self.key, self.due, at)
        if moved is not None:
            self.key, self.due = moved
        return moved is not None

    async def _put_off(self, run: Run, error: AgentError) -> bool:
        """Set the time of the next try; True where this was the last, or the receiver wants no more."""
        due, kit = self.due, self._kit
        log.warning("run=<%s>, attempt=<%d> | not delivered: %s", due.run_id, due.attempts, error)
        if due.attempts > len(SCHEDULE) or not error.retryable:
            await self._bury(run, f"not delivered: {error.detail}")
            return True
        seconds = max(SCHEDULE[due.attempts - 1] * (1 + 0.2 * kit.clock.random()), error.retry_after or 0)
        if await outbox.move(kit, self.key, due, kit.clock.now() + seconds, claimed=False) is None:
            log.info("run=<%s> | delivered by another process meanwhile", due.run_id)
        return False

    async def _bury(self, run: Run, reason: str) -> None:
        await outbox.bury(self._kit, self.key, self.due, run, reason)


async def _run_of(kit: Kit, due: Due) -> Run | None:
    """The run whose end this push is of; None where there is none any more, or it ended otherwise since."""
    record = await kit.store.get(Key(keys.run(due.tenant, due.run_id), keys.RUN))
    run = from_record(Run, record.fields) if record is not None else None
    if due.delivery is None or run is None or not run.done:
        return None
    return run if run.push_id == (due.push_id or due.run_id) else None
