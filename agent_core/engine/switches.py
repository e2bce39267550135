"""The kill switch: an agent, a tool or a whole tenant is stopped, on every process.

    switches    <tenant>/<kind>/<name>    what is stopped, since when, why

A turn asks the store nothing for it: each step is held against what its process has read, at most five seconds ago.
So that a run notices at its very next step, wherever it is worked on, whoever throws a switch counts up `switched` in
the runs under way, up to 10,000 in each partition of what is due: the write that journals a step fails on that. With
more of them under way, the others notice within the five seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote, unquote

import msgspec

from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.hooks import Hooks
from agent_core.engine.runs import Due
from agent_core.errors import ConditionError, InputError, KilledError, NotFoundError
from agent_core.messages import to_record
from agent_core.security import audit
from agent_core.store.base import MAX_QUERY, Above, Condition, Delete, Equals, Key, Put, Record, Store, Update
from agent_core.store.records import readable_or_none
from agent_core.store.shards import Shards, time_of

Kind = Literal["agent", "tool", "tenant"]
KINDS: tuple[Kind, ...] = ("agent", "tool", "tenant")

EVERY_TENANT = "*"
"""Stands for all tenants. Only who reaches the store may say it."""

CACHE_SECONDS = 5.0
"""How long a process goes by what it has read of the switches."""

_PARTITION = "switches"
_AT_ONCE = 25
_UNDER_WAY_SECONDS = 600.0
_PAGES = 10


class Switch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A switch that is thrown. `name` is of the agent or tool, "" for a tenant; `by` is who threw it, `at` when."""

    kind: Kind
    name: str = ""
    tenant: str
    reason: str = ""
    by: str
    at: float

    @property
    def words(self) -> str:
        """What is stopped and why, for people."""
        what = f"the {self.kind} {self.name!r}" if self.name else "all that runs for this tenant"
        return f"{what} is stopped by an operator" + (f": {self.reason}" if self.reason else "")


class Switches:
    """Throws, lifts and knows switches. One per process."""

    def __init__(
        self, store: Store, clock: Clock, hooks: Hooks | None = None, shards: Shards | None = None
    ) -> None:
        self._store = store
        self._shards = shards or Shards(store, clock)
        self._hooks = hooks
        self._clock = clock
        self._known: dict[tuple[str, str, str], Switch] = {}
        self._read = False
        self._at = clock.monotonic()

    async def throw(self, switch: Switch) -> int:
        """Stop it; says how many runs were told. Thrown again, its reason is the new one.

        Raises InputError, NotFoundError.
        """
        _check(switch)
        await self._store.write(
            Put(_place(switch.tenant, switch.kind, switch.name), to_record(switch)),
            self._note("switch.thrown", switch.tenant, switch.kind, switch.name, switch.by),
            *await self._alarms(switch),
        )
        await self.refresh()
        return await self._tell(switch)

    async def lift(self, tenant: str, kind: str, name: str = "", *, by: str) -> bool:
        """Let it go again, other processes notice within five seconds; whether it was stopped."""
        try:
            await self._store.write(
                Delete(_place(tenant, kind, name), when=(Equals("tenant", tenant),)),
                self._note("switch.lifted", tenant, kind, name, by),
            )
        except ConditionError:
            return False
        await self.refresh()
        return True

    async def _alarms(self, switch: Switch) -> list[Put]:
        """What those are told who want to know of it; the sweeper brings it to them."""
        if self._hooks is None or switch.tenant == EVERY_TENANT:
            return []
        await self._hooks.look(switch.tenant)
        data = {"kind": switch.kind, "name": switch.name, "reason": switch.reason, "by": switch.by}
        unique = f"switch.{switch.kind}.{quote(switch.name, safe='')}.{switch.at:.3f}"
        found = self._hooks.notices(switch.tenant, "alarm.switch", data, unique=unique)
        return [write for pair in found for write in pair]

    def _note(self, act: audit.Act, tenant: str, kind: str, name: str, by: str) -> Put:
        return audit.entry(self._clock, tenant, act, by=by, subject=f"{kind} {name}".strip())

    async def list(self, tenant: str) -> list[Switch]:
        """What is stopped for this tenant, from the store, oldest first."""
        await self.refresh()
        found = [one for one in self._known.values() if one.tenant in (EVERY_TENANT, tenant)]
        return sorted(found, key=lambda one: one.at)

    async def refresh(self) -> None:
        """Read them all: there are few."""
        at = self._clock.monotonic()
        known: dict[tuple[str, str, str], Switch] = {}
        after = ""
        while True:
            page = await self._store.query(_PARTITION, after=after, limit=1000)
            for record in page.records:
                if (one := readable_or_none(Switch, record) or _by_place(record.key)) is not None:
                    known[one.tenant, one.kind, one.name] = one
            after = page.after
            if not after:
                break
        self._known, self._at, self._read = known, at, True

    async def look(self, *, first: bool = False) -> None:
        """Read them where that was too long ago; `first` also where this process never did."""
        age = self._clock.monotonic() - self._at
        if not 0 <= age < CACHE_SECONDS or (first and not self._read):
            await self.refresh()

    def check(self, tenant: str, agent: str) -> None:
        """Raise KilledError where this agent or tenant is stopped, as far as this process knows."""
        found = self._find(tenant, "tenant", "") or self._find(tenant, "agent", agent)
        if found is not None:
            raise KilledError(found.words)

    def refusal(self, tenant: str, tool: str) -> str:
        """What the model is told where this tool is stopped; "" where it is not."""
        found = self._find(tenant, "tool", tool)
        return f"This call was not made: {found.words}. Do not try it again." if found else ""

    def _find(self, tenant: str, kind: str, name: str) -> Switch | None:
        return self._known.get((tenant, kind, name)) or self._known.get((EVERY_TENANT, kind, name))

    async def _tell(self, switch: Switch) -> int:
        """Have the runs under way that it is for look at the switches when they journal their next step."""
        when: tuple[Condition, ...] = (Above("created_at", 0),)
        if switch.kind == "agent":
            when = (Equals("agent", switch.name),)
        places = asyncio.Semaphore(_AT_ONCE)

        async def told(due: Due) -> bool:
            async with places:
                return await self._told(due, when)

        runs: list[Due] = []
        for found in await asyncio.gather(*map(self._under_way, await self._shards.partitions())):
            runs += [due for record in found if (due := _run(record, switch.tenant))]
        return sum(await asyncio.gather(*map(told, runs)))

    async def _under_way(self, partition: str) -> Sequence[Record]:
        """What is due within minutes: there a run stands whose worker must soon have shown that it lives."""
        found: list[Record] = []
        after = ""
        for _ in range(_PAGES):
            page = await self._store.query(partition, after=after, limit=MAX_QUERY)
            found += page.records
            after = page.after
            if not after or time_of(after) > self._clock.now() + _UNDER_WAY_SECONDS:
                break
        return found

    async def _told(self, due: Due, when: tuple[Condition, ...]) -> bool:
        key = Key(keys.run(due.tenant, due.run_id), keys.RUN)
        try:
            await self._store.write(Update(key, add={"switched": 1}, when=when))
        except ConditionError:
            return False  # of another agent, or erased meanwhile
        return True


def _run(record: Record, tenant: str) -> Due | None:
    due = readable_or_none(Due, record)
    return due if due and due.kind == "run" and tenant in (EVERY_TENANT, due.tenant) else None


def _place(tenant: str, kind: str, name: str) -> Key:
    return Key(_PARTITION, f"{keys.quoted(tenant)}/{kind}/{keys.quoted(name)}")


def _by_place(key: Key) -> Switch | None:
    """What is stopped by a record that can't be read: its place tells, and what was stopped must not run for that."""
    tenant, _, rest = key.sort.partition("/")
    kind, _, name = rest.partition("/")
    for known in KINDS:
        if kind == known:
            return Switch(kind=known, name=unquote(name), tenant=unquote(tenant), by="", at=0.0)
    return None


def _check(switch: Switch) -> None:
    if switch.kind not in KINDS:
        raise InputError(f"there is {', '.join(KINDS)} to stop, not {switch.kind[:80]!r}", field="kind")
    if (switch.kind == "tenant") == bool(switch.name):
        raise NotFoundError("an agent or a tool has a name, a tenant as a whole has none")
