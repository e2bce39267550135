"""The audit log: who did what. Chained by hash, so that a line that was changed, moved or taken out is found.

    due, due/<n>     <time>/<tenant>/<id>/audit   an entry, stored in the transaction of what it tells of
    <tenant>/audit   head                         how many lines there are, and the hash of the last one
                     line/<number>                the lines, each with the hash of the one before it

Entries know nothing of each other, so that no act waits for another. The sweeper links them into their tenant's chain,
within a minute; whoever reads or verifies the log does so at once. A line holds ids, names and hashes, never words of
a conversation.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError, ConfigError
from agent_core.messages import from_record, to_record
from agent_core.store.base import Absent, Delete, Equals, Key, Put, Record, Store, Version, Write, quoted
from agent_core.store.records import readable, readable_or_none
from agent_core.store.shards import LIST, Shards, time_of, timed

log = logging.getLogger("sampan.audit_log")

KIND = "audit"
SETTING = "SAMPAN_AUDIT_KEYS"

Act = Literal[
    "approval.approved",
    "approval.denied",
    "factor.added",
    "factor.confirmed",
    "factor.refused",
    "factor.removed",
    "hook.added",
    "hook.disabled",
    "hook.enabled",
    "hook.removed",
    "hook.rotated",
    "key.created",
    "key.revoked",
    "key.rotated",
    "login",
    "run.redriven",
    "session.erased",
    "switch.lifted",
    "switch.thrown",
    "tenant.erased",
    "tenant.exported",
    "tool.called",
]

_HEAD = "head"
_LINE = "line/"
_AT_ONCE = 45
"""Entries of one transaction: a line, an entry less, and the head."""

_TRIES = 20
_REMEMBERED = 10_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done, on its way into the log. `by` is who did it, `subject` what it was done to.

    It lies in the list of what is due, so it has the fields by which the sweeper knows what that is.
    """

    kind: str = KIND
    tenant: str
    user: str = ""
    session_id: str = ""
    run_id: str = ""
    id: str
    at: float
    act: str
    by: str
    subject: str = ""
    detail: Mapping[str, str] = {}


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the log. `at` in milliseconds since 1970; `signed` names the key of its hash, "" for a plain one."""

    number: int
    at: int
    tenant: str
    act: str
    by: str
    subject: str = ""
    session_id: str = ""
    run_id: str = ""
    detail: Mapping[str, str] = {}
    id: str
    previous: str = ""
    signed: str = ""
    hash: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a chain."""

    number: int = 0
    hash: str = ""

    @property
    def anchor(self) -> str:
        """What one keeps elsewhere, to find out later whether the end was cut off."""
        return f"{self.number}:{self.hash}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at all lines found. `unsigned` is how many of them anybody could have made who reaches the store."""

    lines: int
    unsigned: int
    head: str
    problems: list[str]


def entry(
    clock: Clock,
    tenant: str,
    act: Act,
    *,
    by: str,
    subject: str = "",
    session_id: str = "",
    run_id: str = "",
    shards: int = 1,
    **detail: str,
) -> Put:
    """The write that belongs into the transaction of an act.

    `shards` is the number of partitions of what is due; for acts that are rare, one does.
    """
    now, unique = clock.now(), clock.new_id()
    made = Entry(
        tenant=tenant,
        session_id=session_id,
        run_id=run_id,
        id=unique,
        at=now,
        act=act,
        by=by,
        subject=subject,
        detail={name: text for name, text in detail.items() if text},
    )
    key = timed(now, f"{quoted(tenant)}/{unique}/{KIND}", shards=shards, by=quoted(tenant))
    return Put(key, to_record(made))


class Audit:
    """Links, reads and verifies the logs of all tenants."""

    def __init__(self, store: Store, clock: Clock, keys: str = "", shards: Shards | None = None) -> None:
        self._store = store
        self._shards = shards or Shards(store, clock)
        self._clock = clock
        self._keys = {hashlib.sha256(key.encode()).hexdigest()[:8]: key.encode() for key in keys.split()}
        for key in self._keys.values():
            if len(key) < 32:
                raise ConfigError(
                    f"{SETTING}: a key has 32 characters or more; `openssl rand -base64 32` makes one"
                )
        self._linked: set[str] = set()

    async def look_after(self, key: Key, tenant: str) -> None:
        """Link what the sweeper found; what went with an earlier entry of the same sweep costs nothing."""
        if key.sort in self._linked or await self._store.get(key) is None:
            return
        await self.link(tenant, key.partition)

    async def link(self, tenant: str, found_in: str = LIST) -> Head:
        """Put all entries of a tenant that wait into its chain; gives the end of it then."""
        tries = 0
        while True:
            stored = await self._store.get(_place(tenant, _HEAD))
            head = from_record(Head, stored.fields) if stored else Head()
            # After the head: what somebody else links meanwhile grows the head, and this write fails.
            batch: list[tuple[Record, Entry]] = []
            async for found in self._waiting(tenant, found_in):
                batch.append(found)
                if len(batch) == _AT_ONCE:
                    break  # the rest is at the front once these are linked
            if not batch:
                return head
            after, writes = self._chained(tenant, head, batch)
            condition = Version(stored.version) if stored else Absent()
            try:
                await self._store.write(
                    Put(_place(tenant, _HEAD), to_record(after), when=(condition,)), *writes
                )
            except ConditionError:
                tries += 1
                if tries >= _TRIES:
                    raise
                continue
            if len(self._linked) > _REMEMBERED:
                self._linked.clear()
            self._linked |= {record.key.sort for record, _ in batch}
            log.info("tenant=<%s>, head=<%s> | audit log grew by %d", tenant, after.anchor, len(batch))

    async def lines(self, tenant: str, *, after: int = 0) -> AsyncIterator[Line]:
        """The lines behind number `after`, in order."""
        async for record in self._records(tenant, after):
            if (line := readable_or_none(Line, record)) is not None:
                yield line

    async def page(self, tenant: str, *, after: int = 0, limit: int = 100) -> list[Line]:
        """At most `limit` lines behind number `after`."""
        page = await self._store.query(
            _partition(tenant), _LINE, after=_sort(after) if after else "", limit=limit
        )
        return readable(Line, page.records)

    async def verify(self, tenant: str, anchor: str = "") -> Verdict:
        """Look at every line. `anchor` is the end that an earlier look gave, kept where nobody changes it."""
        await self.link(tenant)
        number, last, unsigned = 0, "", 0
        problems: list[str] = []
        wanted, _, mark = anchor.partition(":")
        seen = anchor in ("", "0:")
        vouched = int(wanted) if wanted.isdigit() else 0  # the anchor stands for these lines, signed or not
        async for record in self._records(tenant, 0):
            fields, name = record.fields, record.key.sort.removeprefix(_LINE).lstrip("0")
            expected = number + 1
            number = int(name) if name.isdigit() else expected
            if number != expected:
                missing = f"{expected}" if number == expected + 1 else f"{expected} to {number - 1}"
                problems.append(f"line {missing} is missing")
            elif fields.get("previous", "") != last:
                problems.append(
                    f"line {number} does not follow line {number - 1}: one of the two was changed"
                )
            problems += self._faults(number, tenant, fields)
            if self._keys and not fields.get("signed") and number > vouched:
                problems.append(
                    f"line {number} is not signed, though {SETTING} is set: anybody could have written it"
                )
            unsigned += not fields.get("signed")
            last = str(fields.get("hash", ""))
            if str(number) == wanted:
                seen = True
                if last != mark:
                    problems.append(f"line {number} is not the one that the anchor names")
        head = await self._store.get(_place(tenant, _HEAD))
        known = from_record(Head, head.fields) if head else Head()
        if (known.number, known.hash) != (number, last):
            problems.append(f"the log ends with line {number}, its head names line {known.number}")
        if not seen:
            problems.append(f"the anchor's line {wanted} is not there")
        return Verdict(lines=number, unsigned=unsigned, head=f"{number}:{last}", problems=problems)

    def _faults(self, number: int, tenant: str, fields: Mapping[str, Any]) -> list[str]:
        found = []
        if fields.get("number") != number or fields.get("tenant") != tenant:
            found.append(f"line {number} belongs elsewhere")
        signed = str(fields.get("signed", ""))
        if signed and signed not in self._keys:
            found.append(
                f"line {number} was signed with a key ({signed}) that {SETTING} has not: it can't be checked"
            )
        elif self._digest(fields, signed) != fields.get("hash"):
            found.append(f"line {number} was changed")
        return found

    def _chained(
        self, tenant: str, head: Head, batch: list[tuple[Record, Entry]]
    ) -> tuple[Head, list[Write]]:
        writes: list[Write] = []
        for record, made in batch:
            line = Line(
                number=head.number + 1,
                at=int(made.at * 1000),
                tenant=made.tenant,
                act=made.act,
                by=made.by,
                subject=made.subject,
                session_id=made.session_id,
                run_id=made.run_id,
                detail=made.detail,
                id=made.id,
                previous=head.hash,
                signed=next(iter(self._keys), ""),
            )
            fields = to_record(line)
            fields["hash"] = self._digest(fields, line.signed)
            writes.append(Put(_place(tenant, _sort(line.number)), fields, when=(Absent(),)))
            writes.append(Delete(record.key, when=(Equals("id", made.id),)))
            head = Head(number=line.number, hash=fields["hash"])
        return head, writes

    def _digest(self, fields: Mapping[str, Any], signed: str) -> str:
        """The hash of a line as it is stored, whatever fields a later version gives it."""
        told = {name: value for name, value in fields.items() if name != "hash"}
        text = msgspec.json.encode(told, order="sorted")
        if signed:
            return hmac.new(self._keys[signed], text, hashlib.sha256).hexdigest()
        return hashlib.sha256(text).hexdigest()

    async def _waiting(self, tenant: str, found_in: str) -> AsyncIterator[tuple[Record, Entry]]:
        """Entries that are in no chain yet; they lie at the front of what is due, in their tenant's partitions.

        One that can't be read waits for a newer Sampan.
        """
        for partition in dict.fromkeys([*await self._shards.of(quoted(tenant)), found_in]):
            after = ""
            while True:
                page = await self._store.query(partition, after=after, limit=1000)
                late = False
                for record in page.records:
                    late = time_of(record.key.sort) > self._clock.now()
                    if late:
                        break
                    if _is_entry(record, tenant) and (made := readable_or_none(Entry, record)) is not None:
                        yield record, made
                after = page.after
                if late or not after:
                    break

    async def _records(self, tenant: str, behind: int) -> AsyncIterator[Record]:
        after = _sort(behind) if behind else ""
        while True:
            page = await self._store.query(_partition(tenant), _LINE, after=after, limit=1000)
            for record in page.records:
                yield record
            after = page.after
            if not after:
                return


def _is_entry(record: Record, tenant: str) -> bool:
    parts = record.key.sort.split("/")
    return parts[1:2] == [quoted(tenant)] and parts[-1] == KIND


def _partition(tenant: str) -> str:
    return f"{quoted(tenant)}/audit"


def _place(tenant: str, sort: str) -> Key:
    return Key(_partition(tenant), sort)


def _sort(number: int) -> str:
    return f"{_LINE}{number:012d}"
