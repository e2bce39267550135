"""Who is answered on a channel: those on its list, those an operator let in; strangers get a pairing code, once.

<tenant>/guests/<channel>    guest/<app>/<person>   let in, by whom and when
                             knock/<app>/<person>   the code of a stranger, for an hour
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable

import msgspec

from agent_core.channels.base import Channel, Event
from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Due
from agent_core.errors import ConditionError, NotFoundError
from agent_core.messages import to_record
from agent_core.store.base import Absent, Delete, Key, Put, Store
from agent_core.store.records import readable

log = logging.getLogger("sampan.guests")

KIND = "pairing"
"""The kind of entry in the list of what is due: a stranger is to be told a code."""

CODE_SECONDS = 3600.0
MAX_KNOCKS = 20
"""Strangers of one channel that may wait at once; further ones hear nothing."""


class Knock(msgspec.Struct, frozen=True, kw_only=True):
    """A stranger who was given a code."""

    person: str
    app: str
    code: str
    at: float


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who was let in."""

    person: str
    app: str
    at: float


class Guests:
    """Knows who may speak on the channels."""

    def __init__(
        self, store: Store, clock: Clock, tell: Callable[[Key, Due], None] = lambda key, due: None
    ) -> None:
        """`tell` has a code told that was kept just now; without it the sweeper has."""
        self._store = store
        self._clock = clock
        self._tell = tell

    async def admits(self, channel: Channel, event: Event) -> bool:
        """Whether the sender is answered. A stranger is given a code instead, once in an hour."""
        options = channel.options
        if options.open or event.sender in options.allow or (event.group and event.group in options.allow):
            return True
        partition = _partition(options.tenant, channel.name)
        if await self._store.get(_guest(partition, event.app, event.sender)) is not None:
            return True
        await self._knock(channel, event, partition)
        return False

    async def _knock(self, channel: Channel, event: Event, partition: str) -> None:
        waiting = await self._store.query(partition, "knock/", limit=MAX_KNOCKS)
        if len(waiting.records) >= MAX_KNOCKS or not event.address:
            return
        now = self._clock.now()
        code = self._clock.new_id()[-8:].upper()  # 40 bits of the system's randomness
        knock = Knock(person=event.sender, app=event.app, code=code, at=now)
        due = Due(
            kind=KIND,
            tenant=channel.options.tenant,
            user=event.sender,
            session_id="",
            run_id=self._clock.new_id(),
            delivery=Delivery(channel.name, event.address, dict(event.options)),
            push_id=code,
        )
        key = Key(partition, f"knock/{keys.quoted(event.app)}/{keys.quoted(event.sender)}")
        entry = keys.due(now, due.tenant, due.run_id, suffix=f"/{KIND}")
        try:
            await self._store.write(
                Put(key, to_record(knock), when=(Absent(),), expires_at=now + CODE_SECONDS),
                Put(entry, to_record(due)),
            )
        except ConditionError:
            return  # they have a code
        self._tell(entry, due)

    async def knocks(self, tenant: str, name: str) -> list[Knock]:
        """Strangers who wait, by person."""
        page = await self._store.query(_partition(tenant, name), "knock/", limit=MAX_KNOCKS)
        return readable(Knock, page.records)

    async def guests(self, tenant: str, name: str) -> list[Guest]:
        """Those who were let in, by person."""
        found: list[Guest] = []
        after = ""
        while True:
            page = await self._store.query(_partition(tenant, name), "guest/", after=after)
            found += readable(Guest, page.records)
            after = page.after
            if not after:
                return found

    async def pair(self, tenant: str, name: str, code: str) -> Guest:
        """Let in the stranger who has this code; raises NotFoundError where nobody has."""
        wanted = code.strip().upper()
        for knock in await self.knocks(tenant, name):
            if hmac.compare_digest(knock.code.encode(), wanted.encode()):
                break
        else:
            raise NotFoundError(f"nobody on {name} has the code {wanted!r}; codes hold for an hour")
        partition = _partition(tenant, name)
        guest = Guest(person=knock.person, app=knock.app, at=self._clock.now())
        await self._store.write(
            Put(_guest(partition, guest.app, guest.person), to_record(guest)),
            Delete(Key(partition, f"knock/{keys.quoted(knock.app)}/{keys.quoted(knock.person)}")),
        )
        return guest

    async def remove(self, tenant: str, name: str, person: str) -> int:
        """Show somebody out again; how many entries there were, one for each app."""
        found = [guest for guest in await self.guests(tenant, name) if guest.person == person]
        for guest in found:
            await self._store.write(Delete(_guest(_partition(tenant, name), guest.app, guest.person)))
        return len(found)


def _partition(tenant: str, name: str) -> str:
    return f"{keys.quoted(tenant)}/guests/{keys.quoted(name)}"


def _guest(partition: str, app: str, person: str) -> Key:
    return Key(partition, f"guest/{keys.quoted(app)}/{keys.quoted(person)}")
