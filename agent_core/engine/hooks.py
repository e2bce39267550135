"""Outgoing webhooks: what happens in a tenant is told to addresses that its admins name, by Standard Webhooks.

    <tenant>/hooks   endpoint/<id>             where to, what of, and with which secret
                     notice/<id>/<endpoint>    what is told to one of them, and how far that is; for thirty days
    due              <time>/<tenant>/<notice>/<endpoint>/hook   when it is tried next

A notice is stored in the transaction of what it tells of, so neither is without the other. It holds ids, figures and
reasons; never words of a conversation. https://www.standardwebhooks.com
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from agent_core.clock import Clock
from agent_core.costs.ledger import dollars
from agent_core.engine import keys
from agent_core.engine.runs import Due, Run
from agent_core.errors import ConditionError, ConflictError, ForbiddenAddressError, InputError, NotFoundError
from agent_core.messages import from_record, to_record
from agent_core.security import audit
from agent_core.security.seal import Seal
from agent_core.store import shards
from agent_core.store.base import Absent, Delete, Equals, Key, Put, Store, Update, Version, quoted
from agent_core.store.records import readable
from agent_core.wire.reach import Reach

KIND = "hook"

TYPES = (
    "run.succeeded",
    "run.failed",
    "run.cancelled",
    "run.waiting",
    "budget.exceeded",
    "alarm.dead_letter",
    "alarm.switch",
    "alarm.hook_disabled",
)
TEST = "hook.test"

MOST = 10
"""Endpoints of one tenant: each costs two records for each of its notices."""

KEPT_SECONDS = 30 * 86_400.0
CACHE_SECONDS = 5.0
"""How long a process goes by what it has read of a tenant's endpoints."""

OVERLAP_SECONDS = 86_400.0
_PATTERN = re.compile(r"\*|[a-z]+\.\*|[a-z]+\.[a-z_]+")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address that wants to be told. `events` may hold "*" and "run.*"; secrets are sealed where a key is set.

    After a rotation both secrets sign until `old_until`. `failing_since` is when it last answered well, and did not
    any more; `disabled` says why it is told nothing.
    """

    id: str
    tenant: str
    url: str
    events: tuple[str, ...]
    secret: str
    made_at: float
    old_secret: str = ""
    old_until: float = 0.0
    failing_since: float = 0.0
    disabled: str = ""

    def wants(self, kind: str) -> bool:
        """Whether it is told of this."""
        head = kind.partition(".")[0]
        return not self.disabled and (kind == TEST or bool({"*", kind, f"{head}.*"} & set(self.events)))


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is told to one endpoint, under an `id` that is the same for every try and every endpoint.

    `due` is the sort key of its entry in the list of what is due.
    """

    id: str
    endpoint: str
    type: str
    at: float
    body: str
    status: str = "pending"
    tries: int = 0
    told: str = ""
    next_at: float = 0.0
    due: str = ""


class Hooks:
    """Knows the endpoints of tenants, and makes the writes that tell them of something."""

    def __init__(self, store: Store, seal: Seal, clock: Clock, reach: Reach, number: int = 1) -> None:
        self._store = store
        self._seal = seal
        self._clock = clock
        self.reach = reach
        self._number = number
        self._known: dict[str, tuple[float, list[Endpoint]]] = {}

    # What is told

    async def look(self, tenant: str) -> None:
        """Read a tenant's endpoints where that was too long ago."""
        at, _ = self._known.get(tenant, (-CACHE_SECONDS, []))
        if not 0 <= self._clock.monotonic() - at < CACHE_SECONDS:
            if len(self._known) > 1000:
                self._known.clear()
            now = self._clock.monotonic()
            self._known[tenant] = (now, await self.all(tenant))

    def notices(
        self, tenant: str, kind: str, data: dict[str, Any], *, unique: str, seconds: float = 0.0
    ) -> list[tuple[Put, Put]]:
        """The writes that tell all who want to know, as read by `look`: what is told, and that it is due.

        `unique` makes its id: the same for whoever tells of the same thing. This process has so many `seconds` for the
        first try, then it is the sweeper's.
        """
        _, known = self._known.get(tenant, (0.0, []))
        return [self._notice(one, kind, data, unique, seconds) for one in known if one.wants(kind)]

    def of_run(self, run: Run, seconds: float) -> list[tuple[Put, Put]]:
        """The same for a run that has ended, or waits for a person."""
        tenant = run.principal.tenant
        unique = f"{run.push_id or run.id}.{run.status}.{len(run.questions)}"
        found = self.notices(tenant, f"run.{run.status}", _data(run), unique=unique, seconds=seconds)
        if run.failure is not None and run.failure.slug == "limit-reached":
            found += self.notices(
                tenant, "budget.exceeded", _data(run), unique=f"{unique}.budget", seconds=seconds
            )
        return found

    def writes_of_run(self, tenant: str) -> int:
        """How many writes tell of the end of one run at most, as read by `look`."""
        _, known = self._known.get(tenant, (0.0, []))
        ends = ("run.succeeded", "run.failed", "run.cancelled")
        wanted = [sum(one.wants(kind) for one in known) for kind in (*ends, "budget.exceeded")]
        return 2 * (max(wanted[:-1]) + wanted[-1])

    def _notice(
        self, endpoint: Endpoint, kind: str, data: dict[str, Any], unique: str, seconds: float
    ) -> tuple[Put, Put]:
        now = self._clock.now()
        body = msgspec.json.encode({"type": kind, "timestamp": _stamp(now), "data": data}).decode()
        notice = Notice(id=unique, endpoint=endpoint.id, type=kind, at=now, body=body, next_at=now)
        notice = self._placed(endpoint.tenant, notice, now + seconds)
        return (
            Put(place(endpoint.tenant, notice), to_record(notice), expires_at=now + KEPT_SECONDS),
            due_put(endpoint.tenant, notice),
        )

    def _placed(self, tenant: str, notice: Notice, at: float) -> Notice:
        """The notice with the place of its entry, which is for this time."""
        name = f"{quoted(notice.id)}/{notice.endpoint}"
        key = keys.due(at, tenant, name, suffix=f"/{KIND}", shards=self._number)
        return msgspec.structs.replace(notice, due=key.sort)

    # The endpoints

    async def add(
        self, tenant: str, url: str, events: Sequence[str], *, by: str, secret: str = ""
    ) -> tuple[Endpoint, str]:
        """A new endpoint, and the secret that signs what it is told, which can't be had again.

        Raises InputError where it can't be gone to, or wants what nobody tells of.
        """
        check_reach(self.reach, url)
        wanted = tuple(dict.fromkeys(events or ("*",)))
        for event in wanted:
            if not _PATTERN.fullmatch(event) or not any(_meets(event, kind) for kind in TYPES):
                raise InputError(
                    f"there is no event {event[:80]!r}; there are: {', '.join(TYPES)}", field="event"
                )
        if len(await self.all(tenant)) >= MOST:
            raise InputError(f"a tenant has {MOST} endpoints at most: remove one first", field="url")
        secret = secret or _secret()
        endpoint = Endpoint(
            id=self._clock.new_id(),
            tenant=tenant,
            url=url,
            events=wanted,
            secret="",
            made_at=self._clock.now(),
        )
        endpoint = msgspec.structs.replace(endpoint, secret=self._sealed(endpoint, secret))
        await self._store.write(
            Put(_place(tenant, endpoint.id), to_record(endpoint), when=(Absent(),)),
            self._note("hook.added", endpoint, by),
        )
        self._known.pop(tenant, None)
        return endpoint, secret

    async def all(self, tenant: str) -> list[Endpoint]:
        """A tenant's endpoints, oldest first."""
        page = await self._store.query(keys.hooks(tenant), "endpoint/", limit=1000)
        return readable(Endpoint, page.records)

    async def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """One of them; raises NotFoundError."""
        return (await self._read(tenant, endpoint_id))[0]

    async def remove(self, tenant: str, endpoint_id: str, *, by: str) -> None:
        """Tell it nothing any more; raises NotFoundError."""
        endpoint, _ = await self._read(tenant, endpoint_id)
        await self._store.write(Delete(_place(tenant, endpoint_id)), self._note("hook.removed", endpoint, by))
        self._known.pop(tenant, None)

    async def rotate(
        self, tenant: str, endpoint_id: str, *, by: str, overlap: float = OVERLAP_SECONDS
    ) -> tuple[Endpoint, str]:
        """Give it a new secret; for `overlap` seconds the old one signs as well. Raises NotFoundError."""
        endpoint, version = await self._read(tenant, endpoint_id)
        secret = _secret()
        rotated = msgspec.structs.replace(
            endpoint,
            secret=self._sealed(endpoint, secret),
            old_secret=endpoint.secret,
            old_until=self._clock.now() + overlap,
        )
        await self._replace(rotated, version, self._note("hook.rotated", endpoint, by))
        return rotated, secret

    async def enable(self, tenant: str, endpoint_id: str, *, by: str) -> Endpoint:
        """Tell it of things again; raises NotFoundError."""
        endpoint, version = await self._read(tenant, endpoint_id)
        enabled = msgspec.structs.replace(endpoint, disabled="", failing_since=0.0)
        await self._replace(enabled, version, self._note("hook.enabled", endpoint, by))
        return enabled

    async def disable(self, endpoint: Endpoint, reason: str) -> None:
        """Tell it nothing until somebody enables it, and tell the others that."""
        found, version = await self._read(endpoint.tenant, endpoint.id)
        if found.disabled:
            return
        disabled = msgspec.structs.replace(found, disabled=reason)
        others = [one for one in await self.all(endpoint.tenant) if one.id != endpoint.id]
        kind = "alarm.hook_disabled"
        data = {"endpoint": endpoint.id, "url": endpoint.url, "reason": reason}
        unique = f"{endpoint.id}.disabled.{version}"
        told = [self._notice(one, kind, data, unique, 0.0) for one in others if one.wants(kind)]
        writes = [write for pair in told for write in pair]
        await self._replace(disabled, version, self._note("hook.disabled", found, "service"), *writes)

    async def alarm(self, tenant: str, kind: str, data: dict[str, Any], *, unique: str) -> None:
        """Tell of something that no transaction of its own tells of."""
        await self.look(tenant)
        for pair in self.notices(tenant, kind, data, unique=unique):
            await self._store.write(*pair)

    async def failing(self, endpoint: Endpoint, since: float) -> None:
        """Note since when it does not answer well (0: it does)."""
        try:
            await self._store.write(
                Update(
                    _place(endpoint.tenant, endpoint.id),
                    set={"failing_since": since},
                    when=(Equals("id", endpoint.id),),
                )
            )
        except ConditionError:
            pass  # it was removed

    def secrets(self, endpoint: Endpoint) -> list[str]:
        """The secrets that sign now, the newest first."""
        found = [self._opened(endpoint, endpoint.secret)]
        if endpoint.old_secret and self._clock.now() < endpoint.old_until:
            found.append(self._opened(endpoint, endpoint.old_secret))
        return found

    # What was told

    async def test(self, tenant: str, endpoint_id: str) -> tuple[Key, Due]:
        """A notice that says nothing, for this endpoint alone; what is due for it. Raises NotFoundError."""
        endpoint = await self.get(tenant, endpoint_id)
        told, due = self._notice(
            endpoint, TEST, {"endpoint": endpoint.id}, f"test.{self._clock.new_id()}", 0.0
        )
        await self._store.write(told, due)
        return due.key, from_record(Due, due.fields)

    async def sent(self, tenant: str, *, after: str = "", limit: int = 100) -> tuple[list[Notice], str]:
        """What was told or is still to be told, in no order of time; `after` goes on from an earlier page."""
        page = await self._store.query(keys.hooks(tenant), keys.NOTICE, after=after, limit=limit)
        return readable(Notice, page.records), page.after

    async def resend(self, tenant: str, notice_id: str, endpoint_id: str = "") -> list[tuple[Key, Due]]:
        """Tell it once more, under the same id: to this endpoint, or to all it was for. Raises NotFoundError."""
        page = await self._store.query(
            keys.hooks(tenant), f"{keys.NOTICE}{quoted(notice_id)}/", limit=MOST * 2
        )
        found = readable(Notice, page.records)
        found = [one for one in found if endpoint_id in ("", one.endpoint)]
        if not found:
            raise NotFoundError(
                f"there is no notice {notice_id[:200]!r} any more; `sampan hooks deliveries` lists them"
            )
        again = []
        for notice in found:
            now = self._clock.now()
            fresh = msgspec.structs.replace(notice, status="pending", tries=0, next_at=now)
            fresh = self._placed(tenant, fresh, now)
            due = due_put(tenant, fresh)
            await self._store.write(
                Put(place(tenant, notice), to_record(fresh), expires_at=now + KEPT_SECONDS), due
            )
            again.append((due.key, from_record(Due, due.fields)))
        return again

    async def _read(self, tenant: str, endpoint_id: str) -> tuple[Endpoint, int]:
        record = await self._store.get(_place(tenant, endpoint_id)) if endpoint_id else None
        if record is None:
            raise NotFoundError(f"there is no endpoint {endpoint_id[:80]!r}; `sampan hooks list` shows them")
        return from_record(Endpoint, record.fields), record.version

    async def _replace(self, endpoint: Endpoint, version: int, *more: Put) -> None:
        key = _place(endpoint.tenant, endpoint.id)
        try:
            await self._store.write(Put(key, to_record(endpoint), when=(Version(version),)), *more)
        except ConditionError:
            raise ConflictError(
                f"somebody else changed the endpoint {endpoint.id} meanwhile: look again"
            ) from None
        self._known.pop(endpoint.tenant, None)

    def _note(self, act: audit.Act, endpoint: Endpoint, by: str) -> Put:
        return audit.entry(self._clock, endpoint.tenant, act, by=by, subject=endpoint.id, url=endpoint.url)

    def _sealed(self, endpoint: Endpoint, secret: str) -> str:
        """Sealed where a key is set; else as it is, as whoever reads the store could sign for us anyway."""
        if not self._seal.ready:
            return secret
        return f"sealed:{self._seal.close(secret.encode(), f'{endpoint.tenant}/hook/{endpoint.id}')}"

    def _opened(self, endpoint: Endpoint, secret: str) -> str:
        sealed = secret.removeprefix("sealed:")
        if sealed == secret:
            return secret
        return self._seal.open(sealed, f"{endpoint.tenant}/hook/{endpoint.id}").decode()


def check_reach(reach: Reach, url: str) -> None:
    """Raise InputError where notices don't go to this URL. What its name leads to is checked at each try."""
    try:
        reach.place(url)
    except ForbiddenAddressError as error:
        raise InputError(f"notices can't go there: {error.detail}", field="url") from None


def due_put(tenant: str, notice: Notice) -> Put:
    """That a notice is to be told to its endpoint, in its place."""
    due = Due(
        kind=KIND,
        tenant=tenant,
        user="",
        session_id="",
        run_id=notice.id,
        push_id=notice.endpoint,
        attempts=notice.tries,
    )
    return Put(shards.place(notice.due), to_record(due))


def place(tenant: str, notice: Notice) -> Key:
    """Where a notice is."""
    return Key(keys.hooks(tenant), f"{keys.NOTICE}{quoted(notice.id)}/{notice.endpoint}")


def _data(run: Run) -> dict[str, Any]:
    """What is told of a run. Its words are read over the API, by who may."""
    asked = [
        {
            "tool": question.tool,
            "hash": question.hash,
            "reason": question.reason,
            "expires_at": _stamp(question.expires_at),
            "stepup": question.stepup,
        }
        for question in run.questions
        if question.status == "asked"
    ]
    return {
        "run_id": run.id,
        "session_id": run.session_id,
        "agent": run.agent,
        "user": run.principal.user,
        "channel": run.channel,
        "status": run.status,
        "failure": run.failure and {"type": run.failure.slug, "title": run.failure.title},
        "questions": asked if run.status == "waiting" else [],
        "usage": msgspec.to_builtins(run.usage),
        "cost": {"usd": dollars(run.cost), "known": not run.unpriced},
        "metadata": run.metadata,
    }


def _meets(pattern: str, kind: str) -> bool:
    return pattern in ("*", kind) or (pattern.endswith(".*") and kind.startswith(pattern[:-1]))


def _stamp(at: float) -> str:
    # Only where something is told: the standard asks for this form.
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _secret() -> str:
    return f"whsec_{base64.b64encode(os.urandom(32)).decode()}"


def _place(tenant: str, endpoint_id: str) -> Key:
    return Key(keys.hooks(tenant), f"endpoint/{quoted(endpoint_id)}")
