"""Second factors by time: the codes of authenticator apps (RFC 6238), each good once.

<tenant>/factor   <user>   the sealed seed, which step was used last, and how often it was tried in vain
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError, ConflictError, NotFoundError, StepUpError, StoreBusyError
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.security.seal import Seal
from agent_core.store.base import Delete, Key, Put, Store, Version, quoted

STEP_SECONDS = 30
WINDOW = 1
"""Steps before and after the present one whose code is taken: clocks differ, and people type slowly."""

SEED_BYTES = 20
"""160 bits, as RFC 4226 section 4 recommends."""

TRIES = 5
"""Wrong codes before one has to wait: half a minute, and twice as long after each further one."""

FIRST_PAUSE = 30.0
LONGEST_PAUSE = 3600.0

S = TypeVar("S")
T = TypeVar("T")

_WRONG = "this code is not right, or was used before: wait for the next one"


class Factor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user's factor as stored. `confirmed` once the user has shown a first code of it."""

    tenant: str
    user: str
    seed: str
    made_at: float
    confirmed: bool = False
    last_step: int = 0
    tries: int = 0
    tried_at: float = 0.0


class Factors:
    """Makes, proves and removes them."""

    def __init__(self, store: Store, seal: Seal, clock: Clock) -> None:
        self._store = store
        self._seal = seal
        self._clock = clock

    async def add(self, who: Principal, issuer: str = "Sampan", *, by: str = "") -> str:
        """A new factor, not good yet; gives the otpauth address that authenticator apps read.

        Raises ConflictError where the user has one that is confirmed: it is removed first.
        """
        key = _place(who)
        record = await self._store.get(key)
        if record is not None and from_record(Factor, record.fields).confirmed:
            raise ConflictError("there is a second factor already; remove it first")
        seed = os.urandom(SEED_BYTES)
        factor = Factor(
            tenant=who.tenant,
            user=who.user,
            seed=await self._sealed(self._seal.close, seed, key),
            made_at=self._clock.now(),
        )
        await self._store.write(Put(key, to_record(factor)), self._note("factor.added", who, by))
        secret = base64.b32encode(seed).decode()
        label = quote(f"{issuer}:{who.user}")
        return f"otpauth://totp/{label}?{urlencode({'secret': secret, 'issuer': issuer})}"

    async def confirm(self, who: Principal, code: str) -> None:
        """Show a first code of a new factor: it is good from now on. Raises StepUpError."""
        await self._prove(who, code, confirmed=False)

    async def prove(self, who: Principal, code: str) -> None:
        """Show that it is the user: each code counts once. Raises StepUpError."""
        await self._prove(who, code, confirmed=True)

    async def has(self, who: Principal) -> bool:
        """Whether the user has a factor that is good."""
        record = await self._store.get(_place(who))
        return record is not None and from_record(Factor, record.fields).confirmed

    async def list(self, tenant: str) -> list[Factor]:
        """A tenant's factors, by user."""
        found: list[Factor] = []
        after = ""
        while True:
            page = await self._store.query(f"{quoted(tenant)}/factor", after=after)
            found += [from_record(Factor, record.fields) for record in page.records]
            after = page.after
            if not after:
                return found

    async def remove(self, who: Principal, *, by: str = "") -> None:
        """Take a user's factor away; raises NotFoundError where there is none."""
        key = _place(who)
        if await self._store.get(key) is None:
            raise NotFoundError(f"{who.user[:80]!r} has no second factor")
        await self._store.write(Delete(key), self._note("factor.removed", who, by))

    async def _sealed(self, work: Callable[[S, str], T], what: S, key: Key) -> T:
        """Seal or open a seed; in a thread where the key is elsewhere, and an answer must be waited for."""
        place = f"{key.partition}/{key.sort}"
        return await asyncio.to_thread(work, what, place) if self._seal.remote else work(what, place)

    def _note(self, act: audit.Act, who: Principal, by: str = "") -> Put:
        return audit.entry(self._clock, who.tenant, act, by=by or who.user, subject=who.user)

    async def _prove(self, who: Principal, code: str, *, confirmed: bool) -> None:
        key = _place(who)
        for _ in range(100):
            record = await self._store.get(key)
            factor = from_record(Factor, record.fields) if record else None
            if record is None or factor is None or factor.confirmed is not confirmed:
                # The same words as for a wrong code, so that nobody learns who has one.
                raise StepUpError(_WRONG)
            now = self._clock.now()
            if (wait := _pause(factor) - (now - factor.tried_at)) > 0:
                raise StepUpError(f"too many wrong codes: try again in {wait:.0f} s", retry_after=wait)
            # The try is counted before the code is looked at, so that many at once are no more than five.
            tried = msgspec.structs.replace(factor, tries=factor.tries + 1, tried_at=now)
            if not await self._write(key, tried, record.version):
                continue
            seed = await self._sealed(self._seal.open, factor.seed, key)
            step = step_of(seed, code, now)
            if step is None or step <= factor.last_step:
                await self._store.write(self._note("factor.refused", who))
                raise StepUpError(_WRONG)
            good = msgspec.structs.replace(tried, confirmed=True, last_step=step, tries=0)
            first = () if confirmed else (self._note("factor.confirmed", who),)
            if await self._write(key, good, record.version + 1, *first):
                return
        raise StoreBusyError("too many try this factor at once", retry_after=1.0)

    async def _write(self, key: Key, factor: Factor, version: int, *notes: Put) -> bool:
        try:
            await self._store.write(Put(key, to_record(factor), when=(Version(version),)), *notes)
        except ConditionError:
            return False
        return True


def step_of(
    seed: bytes, code: str, now: float, *, digits: int = 6, algorithm: str = "sha1", window: int = WINDOW
) -> int | None:
    """The time step whose code this is, one of those about `now`; None where it is none's."""
    shown = "".join(code.split()).encode(errors="replace")
    found = None
    for step in range(int(now) // STEP_SECONDS - window, int(now) // STEP_SECONDS + window + 1):
        # All are compared, so that the time it takes tells nothing.
        if hmac.compare_digest(code_at(seed, step, digits=digits, algorithm=algorithm), shown):
            found = step
    return found


def code_at(seed: bytes, step: int, *, digits: int = 6, algorithm: str = "sha1") -> bytes:
    """The code of a time step, by the library that authenticator apps are tested with."""
    # Loaded with the first code: few processes ever see one.
    import hashlib

    from pyotp import HOTP

    secret = base64.b32encode(seed).decode()
    return HOTP(secret, digits=digits, digest=getattr(hashlib, algorithm)).at(max(step, 0)).encode()


def _pause(factor: Factor) -> float:
    """Seconds that must have passed since the last try."""
    over = factor.tries - TRIES
    return min(FIRST_PAUSE * 2.0**over, LONGEST_PAUSE) if over >= 0 else 0.0


def _place(who: Principal) -> Key:
    return Key(f"{quoted(who.tenant)}/factor", quoted(who.user))
