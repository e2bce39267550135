"""The outbox: replies that are pushed to somebody, at least once, under an id that stays the same."""

from __future__ import annotations

import logging

import msgspec

from agent_core.engine import keys
from agent_core.engine.dead import dead_letter
from agent_core.engine.kit import Kit
from agent_core.engine.points import point
from agent_core.engine.runs import Due, Run
from agent_core.engine.window import whole
from agent_core.errors import AgentError, ConditionError
from agent_core.messages import from_record, to_record
from agent_core.store.base import Delete, Equals, Key, Put, Update

log = logging.getLogger("sampan.outbox")

SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds from one try to the next: the schedule that Standard Webhooks recommends."""


async def push(kit: Kit, key: Key, due: Due) -> bool:
    """Try one delivery of an outbox entry; a failed one is put off, after the last it becomes a dead letter."""
    record = await kit.store.get(Key(keys.run(due.tenant, due.run_id), keys.RUN))
    run = from_record(Run, record.fields) if record is not None else None
    if due.delivery is None or run is None or not run.done or run.push_id != (due.push_id or due.run_id):
        # Erased, or it ended otherwise since: that end has an entry of its own.
        await kit.store.write(Delete(key))
        return True
    deliverer = kit.deliverers.get(due.delivery.kind)
    try:
        if deliverer is None:
            raise AgentError(f"nobody here delivers to {due.delivery.kind!r}")
        point("before push")
        await deliverer.deliver(await whole(run, kit.blobs), due.delivery, run.push_id)
        point("after push")
    except AgentError as error:
        await _put_off(kit, key, due, run, error)
        return False
    await _delivered(kit, key, due, run)
    point("after outbox")
    return True


async def _delivered(kit: Kit, key: Key, due: Due, run: Run) -> None:
    """Take a reply out of the outbox; its run may expire from now on."""
    run_key, same = Key(keys.run(due.tenant, run.id), keys.RUN), Equals("finished_at", run.finished_at)
    expires_at = kit.clock.now() + kit.run_seconds
    try:
        await kit.store.write(
            Delete(key, when=(Equals("run_id", due.run_id),)),
            Update(run_key, when=(same,), expires_at=expires_at),
        )
    except ConditionError as error:
        if error.index:  # it is tried again meanwhile, or erased
            await kit.store.write(Delete(key))


async def push_again(kit: Kit, key: Key, due: Due) -> bool:
    """Try a delivery that others may want to try too; False where one of them was first.

    It is this process's for a lease's time, then the sweeper takes that for dead.
    """
    mine = keys.due(kit.clock.now() + kit.lease_seconds, due.tenant, due.run_id, suffix="/push")
    try:
        await kit.store.write(Delete(key, when=(Equals("run_id", due.run_id),)), Put(mine, to_record(due)))
    except ConditionError:
        return False
    await push(kit, mine, due)
    return True


async def _put_off(kit: Kit, key: Key, due: Due, run: Run, error: AgentError) -> None:
    """Set the time of the next try, unless this was the last or the receiver wants no more."""
    log.warning("run=<%s>, attempt=<%d> | not delivered: %s", due.run_id, due.attempts + 1, error)
    still = (Equals("run_id", due.run_id),)
    try:
        if due.attempts >= len(SCHEDULE) or not error.retryable:
            letter = dead_letter(
                run, "push", f"not delivered: {error.detail}", kit.clock.now(), delivery=due.delivery
            )
            run_key = Key(keys.run(due.tenant, run.id), keys.RUN)
            alarms: list[Put] = []
            if kit.hooks is not None:
                await kit.hooks.look(due.tenant)
                data = {
                    "run_id": run.id,
                    "session_id": run.session_id,
                    "agent": run.agent,
                    "reason": letter.reason,
                }
                unique = f"{run.push_id}.dead.push"
                for pair in kit.hooks.notices(due.tenant, "alarm.dead_letter", data, unique=unique):
                    alarms += pair
            await kit.store.write(
                Delete(key, when=still),
                Put(keys.dead(due.tenant, f"{due.run_id}/push"), to_record(letter)),
                # As long as the letter is there, so is what it would bring.
                Update(run_key, when=(Equals("finished_at", run.finished_at),), expires_at=0.0),
                *alarms,
            )
            return
        seconds = max(SCHEDULE[due.attempts] * (1 + 0.2 * kit.clock.random()), error.retry_after or 0)
        later = keys.due(kit.clock.now() + seconds, due.tenant, due.run_id, suffix="/push")
        entry = msgspec.structs.replace(due, attempts=due.attempts + 1)
        await kit.store.write(Delete(key, when=still), Put(later, to_record(entry)))
    except ConditionError:
        log.info("run=<%s> | delivered by another process meanwhile", due.run_id)
