"""Brings notices to the endpoints of outgoing webhooks: signed, again and again by the standard's schedule."""

from __future__ import annotations

import logging

import msgspec

from agent_core.clock import Clock
from agent_core.engine.hooks import KEPT_SECONDS, Endpoint, Hooks, Notice, due_put, place
from agent_core.engine.outbox import SCHEDULE
from agent_core.engine.points import point
from agent_core.engine.runs import Due
from agent_core.errors import AgentError, ConditionError, NotFoundError
from agent_core.messages import from_record, to_record
from agent_core.security.signatures import standard_headers
from agent_core.store.base import Delete, Equals, Key, Put, Store, Update
from agent_core.store.shards import later
from agent_core.wire.base import Request, Timeouts, Wire

log = logging.getLogger("sampan.hooks")

TIMEOUTS = Timeouts(connect=5.0, first_byte=15.0, between_chunks=5.0, total=15.0)
OURS_SECONDS = 60.0
"""How long a notice is the process's that took it; then the sweeper takes that for dead."""

PATIENCE_SECONDS = 5 * 86_400.0
"""How long an endpoint may fail before it is told nothing any more."""

_SHOWN = 200
"""Characters of an answer that are kept, for whoever looks for the reason."""


class HookPost:
    """Tells endpoints, by a wire that checks where it leads to (OutsideWire)."""

    def __init__(self, store: Store, hooks: Hooks, wire: Wire, clock: Clock) -> None:
        self._store = store
        self._hooks = hooks
        self._wire = wire
        self._clock = clock

    async def tell(self, key: Key, due: Due) -> bool:
        """Try one notice at one endpoint, for the worker that made it and for the sweeper; False where that failed."""
        mine = later(key, self._clock.now() + OURS_SECONDS)
        noted = Update(self._place(due), set={"due": mine.sort}, when=(Equals("id", due.run_id),))
        try:
            # Mine for a while, so that two do not both tell.
            await self._store.write(
                Delete(key, when=(Equals("run_id", due.run_id),)), Put(mine, to_record(due)), noted
            )
        except ConditionError as error:
            if error.index == 2:  # there is no such notice any more
                await self._store.write(Delete(key))
            return True
        notice = await self._notice(due)
        try:
            endpoint = await self._hooks.get(due.tenant, due.push_id)
        except NotFoundError:
            await self._over(due.tenant, mine, notice, "failed", "the endpoint was removed")
            return True
        if notice is None or endpoint.disabled:
            await self._over(
                due.tenant, mine, notice, "failed", f"the endpoint is disabled: {endpoint.disabled}"
            )
            return True
        point("before notice")
        status, told, retry_after = await self._sent(endpoint, notice)
        point("after notice")
        if 200 <= status < 300:
            if endpoint.failing_since:
                await self._hooks.failing(endpoint, 0.0)
            await self._over(due.tenant, mine, notice, "delivered", told)
            return True
        log.warning("endpoint=<%s>, notice=<%s> | not told: %s", endpoint.id, notice.id, told)
        await self._failed(endpoint, mine, notice, status, told, retry_after)
        return False

    async def _failed(
        self, endpoint: Endpoint, mine: Key, notice: Notice, status: int, told: str, retry_after: float
    ) -> None:
        """Set the time of the next try, unless this was the last; an endpoint that is gone is told nothing more."""
        now = self._clock.now()
        since = endpoint.failing_since or now
        if not endpoint.failing_since:
            await self._hooks.failing(endpoint, now)
        reason = ""
        if status == 410:
            reason = "it answered 410: it wants no more"
        elif now - since >= PATIENCE_SECONDS and now - notice.at >= PATIENCE_SECONDS / 5:
            # Nobody may have told it anything for days: one failure after them disables nothing.
            reason = f"it has failed for {PATIENCE_SECONDS / 86_400:.0f} days: {told}"
        if reason:
            await self._hooks.disable(endpoint, reason)
        tries = notice.tries + 1
        if reason or tries > len(SCHEDULE):
            await self._over(endpoint.tenant, mine, notice, "failed", told)
            return
        seconds = max(SCHEDULE[tries - 1] * (1 + 0.2 * self._clock.random()), retry_after)
        again = later(mine, now + seconds)
        kept = msgspec.structs.replace(notice, tries=tries, told=told, next_at=now + seconds, due=again.sort)
        await self._keep(endpoint.tenant, mine, kept, due_put(endpoint.tenant, kept))

    async def _sent(self, endpoint: Endpoint, notice: Notice) -> tuple[int, str, float]:
        """The status of the answer (0: none came), what it says, and when to come back."""
        body = notice.body.encode()
        signed = [
            standard_headers(secret, notice.id, int(self._clock.now()), body)
            for secret in self._hooks.secrets(endpoint)
        ]
        headers = {
            **signed[0],
            "webhook-signature": " ".join(one["webhook-signature"] for one in signed),
            "content-type": "application/json",
            "user-agent": "sampan-hooks",
        }
        request = Request(method="POST", url=endpoint.url, headers=headers, body=body, timeouts=TIMEOUTS)
        try:
            answer = await self._wire.send(request)
        except AgentError as error:
            return 0, error.detail[:_SHOWN], error.retry_after or 0.0
        told = f"{answer.status} {answer.body[:_SHOWN].decode('utf-8', 'replace')}".strip()
        return answer.status, told, _retry_after(answer.headers.get("retry-after", ""))

    async def _notice(self, due: Due) -> Notice | None:
        record = await self._store.get(self._place(due))
        return from_record(Notice, record.fields) if record is not None else None

    def _place(self, due: Due) -> Key:
        return place(due.tenant, Notice(id=due.run_id, endpoint=due.push_id, type="", at=0.0, body=""))

    async def _over(self, tenant: str, mine: Key, notice: Notice | None, status: str, told: str) -> None:
        """Write down how it ended; nothing of it is due any more."""
        if notice is None:
            await self._store.write(Delete(mine))
            return
        ended = msgspec.structs.replace(
            notice, status=status, told=told, tries=notice.tries + (status == "delivered"), next_at=0.0
        )
        await self._keep(tenant, mine, ended)

    async def _keep(self, tenant: str, mine: Key, notice: Notice, *more: Put) -> None:
        """Store how far a notice is, unless it was erased while it was told: then nothing of it is left."""
        told = Put(
            place(tenant, notice),
            to_record(notice),
            when=(Equals("id", notice.id),),
            expires_at=self._clock.now() + KEPT_SECONDS,
        )
        try:
            await self._store.write(told, Delete(mine), *more)
        except ConditionError:
            await self._store.write(Delete(mine))


def _retry_after(text: str) -> float:
    """Seconds of a Retry-After header; a day at most, and 0 for a date or nonsense."""
    return min(float(text), 86_400.0) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
