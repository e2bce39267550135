"""Where schedules stand in the store, and what stands there.

<tenant>/schedules      <agent>.<schedule>                         the schedule and its next planned time
due                     <time>/<tenant>/<agent>.<schedule>/schedule   what the sweeper finds at that time
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from agent_core.agent import Schedule
from agent_core.engine import keys
from agent_core.messages import Principal
from agent_core.store.base import Key

KIND = "schedule"
"""The kind of entry in the list of what is due, and the channel of the runs that come of it."""

OWNER = Principal()
"""Whose sessions and runs those of schedules are: the service's own, as all callers' are for now."""


class Planned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as the store knows it. Times are in seconds since 1970.

    `at` is the next planned time, 0 where there is none any more; `due` the sort key of its entry in the list of what
    is due. `last_at` and `last_run` tell of the latest tick that ran.
    """

    agent: str
    name: str
    when: str
    zone: str
    message: str
    due: str
    at: float
    session: str = ""
    last_at: float = 0.0
    last_run: str = ""

    @property
    def id(self) -> str:
        """What the schedule is known by among all of its tenant."""
        return schedule_id(self.agent, self.name)

    def same_times(self, other: Planned) -> bool:
        """Whether both are due at the same times."""
        return (self.when, self.zone) == (other.when, other.zone)

    def same(self, other: Planned) -> bool:
        """Whether both say the same: what they wait for apart."""
        return self.same_times(other) and (self.message, self.session) == (other.message, other.session)

    def moved(self, at: float | None) -> Planned:
        """The schedule with its next planned time."""
        sort = keys.due(at, OWNER.tenant, self.id, suffix=f"/{KIND}").sort if at else ""
        return msgspec.structs.replace(self, at=at or 0.0, due=sort)


def planned(agent: str, schedule: Schedule) -> Planned:
    """A schedule as its agent defines it, not planned yet."""
    return Planned(
        agent=agent,
        name=schedule.name,
        when=schedule.when,
        zone=schedule.zone,
        message=schedule.message,
        session=schedule.session,
        due="",
        at=0.0,
    )


def schedule_id(agent: str, name: str) -> str:
    """Neither name has a dot in it."""
    return f"{agent}.{name}"


def schedule_key(id: str) -> Key:
    """Where a schedule stands."""
    return Key(f"{keys.quoted(OWNER.tenant)}/schedules", id)


def stamp(at: float) -> str:
    """A planned time in UTC, as in 20261122T090000Z."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
