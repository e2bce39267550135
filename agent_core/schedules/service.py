"""Schedules: each planned time of each becomes one message for its agent, whichever processes live or die meanwhile.

A schedule has one entry in the list of what is due, at its next planned time. Whoever sweeps at that time first has
the message accepted, under a key made of the schedule and the planned time, then moves the entry to the next planned
time in one conditional transaction. A crash in between leaves the entry: the next sweep has the same message accepted
under the same key, which gives the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from agent_core.agent import Agent, Schedule
from agent_core.clock import Clock
from agent_core.engine.engine import Engine
from agent_core.engine.points import point
from agent_core.engine.runs import Due, Inbound
from agent_core.errors import AgentError, ConditionError, ConfigError, StoreError
from agent_core.messages import DataClass, Message, from_record, to_record
from agent_core.schedules.records import KIND, OWNER, Planned, planned, schedule_key, stamp
from agent_core.store.base import Absent, Delete, Equals, Key, Put, Store, Write
from agent_core.store.records import readable
from agent_core.store.shards import place

log = logging.getLogger("sampan.schedules")

ENSURE_SECONDS = 3600.0
"""How often a process compares the stored schedules with its code's."""

LATE_SECONDS = 120.0
"""A tick that is later than this does not run if a later one is due, too: after a pause, the latest alone runs."""


class Times(Protocol):
    """The planned times of a schedule."""

    def next_after(self, at: float) -> float | None:
        """The first planned time after this one, in seconds since 1970; None where there is none."""


class Schedules:
    """The schedules of a process's agents. `times` reads an expression and its zone; raises ConfigError."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        clock: Clock,
        times: Callable[[str, str], Times],
        *,
        data_class: DataClass = "internal",
    ) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._data_class: DataClass = data_class
        self._ensure_at = 0.0
        self._defined: dict[str, Planned] = {}
        self._times: dict[str, Times] = {}
        for bound in engine.agents.values():
            if isinstance(bound.agent, Agent):
                for schedule in bound.agent.schedules:
                    self._define(bound.name, schedule, times)

    def _define(self, agent: str, schedule: Schedule, times: Callable[[str, str], Times]) -> None:
        definition = planned(agent, schedule)
        try:
            self._times[definition.id] = times(schedule.when, schedule.zone)
        except AgentError as error:
            raise ConfigError(f"agent {agent}, schedule {schedule.name}: {error.detail}") from error
        self._defined[definition.id] = definition

    async def ensure(self) -> None:
        """Make the store know the schedules as the code has them; what the code no longer has is dropped.

        Called at the start and now and then: a process of older code may have started meanwhile.
        """
        stored = {schedule.id: schedule for schedule in await self.list()}
        for id, definition in self._defined.items():
            known = stored.pop(id, None)
            if known is None:
                new = definition.moved(self._times[id].next_after(self._clock.now()))
                await self._write(Put(schedule_key(id), to_record(new), when=(Absent(),)), *_entry(new))
            elif not known.same(definition):
                await self._redefine(known, definition)
        for gone in stored.values():
            log.info("schedule=<%s> | dropped: no agent has it any more", gone.id)
            await self._write(Delete(schedule_key(gone.id), when=_still(gone)), *_no_entry(gone))

    async def keep(self) -> None:
        """As `ensure`, but only where that was not done in this process for an hour."""
        if self._clock.monotonic() >= self._ensure_at:
            await self.ensure()
            self._ensure_at = self._clock.monotonic() + ENSURE_SECONDS

    async def _redefine(self, known: Planned, definition: Planned) -> None:
        """Change a stored schedule into what the code says now; its planned time stays where it is the same."""
        new = msgspec.structs.replace(definition, last_at=known.last_at, last_run=known.last_run)
        if known.same_times(definition):
            new = msgspec.structs.replace(new, at=known.at, due=known.due)
            await self._write(Put(schedule_key(new.id), to_record(new), when=_still(known)))
            return
        new = new.moved(self._times[new.id].next_after(self._clock.now()))
        if new.due == known.due:
            await self._write(Put(schedule_key(new.id), to_record(new), when=_still(known)))
        else:
            await self._replace(known, new)

    async def tick(self, key: Key, due: Due) -> None:
        """Run what a schedule's entry is due for, and plan its next time: what the sweeper calls."""
        record = await self._store.get(schedule_key(due.run_id))
        known = from_record(Planned, record.fields) if record else None
        if known is None or known.due != key.sort:
            return  # somebody else moved the entry in this moment
        definition = self._defined.get(known.id)
        if definition is None or not definition.same(known):
            return  # a process of other code has planned it, and runs it
        while known.at and known.at <= self._clock.now():
            at = self._due_tick(known)
            run_id = await self._begin(known, at)
            if run_id is None:
                return
            moved = msgspec.structs.replace(known, last_at=at, last_run=run_id) if run_id else known
            moved = moved.moved(self._times[known.id].next_after(at))
            point("before tick")
            if not await self._replace(known, moved):
                return
            point("after tick")
            known = moved

    def _due_tick(self, known: Planned) -> float:
        """The tick to run now: the first that is not late, or the latest where all are."""
        times, now = self._times[known.id], self._clock.now()
        if known.at > now - LATE_SECONDS:
            return known.at
        first = times.next_after(now - LATE_SECONDS)
        if first is not None and first <= now:
            return first
        return _latest(times, known.at, now)

    async def _begin(self, known: Planned, at: float) -> str | None:
        """Have the message of a tick accepted: its run, "" where it is refused, None where it may be taken later."""
        moment = stamp(at)
        inbound = Inbound(
            messages=(Message.of("user", known.message, data_class=self._data_class),),
            principal=OWNER,
            agent=known.agent,
            session_id=known.session or f"{known.id}.{moment}",
            key=f"schedule/{known.id}/{moment}",
            channel=KIND,
            metadata={"schedule": known.name, "planned": moment},
        )
        try:
            run = await self._engine.hand_in(inbound)
        except StoreError:
            raise
        except AgentError as error:
            log.warning("schedule=<%s>, planned=<%s> | not taken: %s", known.id, moment, error)
            return None if error.retryable else ""
        log.info("schedule=<%s>, planned=<%s>, run=<%s> | begun", known.id, moment, run.id)
        return run.id

    def next_at(self) -> float | None:
        """When the next tick of any schedule is planned, in seconds since 1970; None where there is none."""
        now = self._clock.now()
        return min(filter(None, (times.next_after(now) for times in self._times.values())), default=None)

    async def list(self) -> list[Planned]:
        """The schedules as they stand in the store, by agent and name."""
        found: list[Planned] = []
        after = ""
        while True:
            page = await self._store.query(schedule_key("").partition, after=after, limit=1000)
            found += readable(Planned, page.records)
            after = page.after
            if not after:
                return found

    async def _replace(self, known: Planned, new: Planned) -> bool:
        """Move a schedule's entry, unless somebody else did."""
        put = Put(schedule_key(new.id), to_record(new), when=_still(known))
        return await self._write(put, *_no_entry(known), *_entry(new))

    async def _write(self, *writes: Write) -> bool:
        try:
            await self._store.write(*writes)
        except ConditionError:
            return False  # another process did the same in this moment
        return True


def _still(known: Planned) -> tuple[Equals, ...]:
    return (Equals("due", known.due), Equals("when", known.when), Equals("message", known.message))


def _entry(schedule: Planned) -> list[Write]:
    """The entry that the sweeper finds at the planned time."""
    if not schedule.due:
        return []
    due = Due(kind=KIND, tenant=OWNER.tenant, user=OWNER.user, session_id="", run_id=schedule.id)
    return [Put(place(schedule.due), to_record(due))]


def _no_entry(schedule: Planned) -> list[Write]:
    return [Delete(place(schedule.due))] if schedule.due else []


def _latest(times: Times, first: float, now: float) -> float:
    """The latest planned time up to now, where `first` is one; looks back twice as far each time."""
    back = LATE_SECONDS
    while True:
        start = max(now - back, first - 1)
        found = times.next_after(start)
        if found is not None and found <= now:
            break
        back *= 2
    while True:
        following = times.next_after(found)
        if following is None or following > now:
            return found
        found = following
