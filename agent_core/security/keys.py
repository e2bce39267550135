"""API keys: shown once, stored as a hash, found by the part that is no secret.

    key/<id>          key    the key, before anybody knows whose it is
    <tenant>/keys     <id>   the list of a tenant's keys

A key is `sampan_<id>_<secret>`. The secret has 256 random bits, so nobody guesses one, and a fast hash keeps it as well
as a slow one would: slow hashes are for what people think up. https://cheatsheetseries.owasp.org (Password Storage)
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError, ConflictError, InputError, NotFoundError
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.security import scopes as all_scopes
from agent_core.security.rates import Rate
from agent_core.store.base import Absent, Key, Put, Store, Version, quoted
from agent_core.store.records import readable

PREFIX = "sampan_"
OVERLAP_SECONDS = 86_400.0
"""How long the old secret of a rotated key goes on, unless said otherwise."""

CACHE_SECONDS = 5.0
"""How long a process believes what it read of a key: a revoked one may go on for so long."""

_CACHED = 1000
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_FORM = re.compile(rf"{PREFIX}([{_ALPHABET}]{{12}})_([{_ALPHABET}]{{52}})")
_NAME = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as stored. Times in seconds since 1970, 0 for never; `digest` is the SHA-256 of the secret.

    After a rotation `old_digest` is good until `old_until`.
    """

    id: str
    name: str
    tenant: str
    user: str
    scopes: tuple[str, ...]
    digest: str
    made_at: float
    expires_at: float = 0.0
    revoked_at: float = 0.0
    rate: str = ""
    old_digest: str = ""
    old_until: float = 0.0

    @property
    def principal(self) -> Principal:
        """Who calls with it."""
        return Principal(tenant=self.tenant, user=self.user, scopes=self.scopes)

    def alive(self, now: float) -> bool:
        """Whether it may be used at all."""
        return not self.revoked_at and not 0 < self.expires_at <= now

    def opened_by(self, digest: str, now: float) -> bool:
        """Whether this is the hash of its secret, and the key alive."""
        fits = hmac.compare_digest(self.digest, digest)
        fits |= hmac.compare_digest(self.old_digest, digest) and now < self.old_until
        return fits and self.alive(now)


class Keys:
    """Makes, finds and ends keys."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: dict[str, tuple[float, ApiKey]] = {}

    async def create(
        self,
        name: str = "",
        *,
        principal: Principal = Principal(),  # noqa: B008  # frozen
        seconds: float = 0.0,
        rate: str = "",
        by: str = "",
    ) -> tuple[ApiKey, str]:
        """A new key for the principal with its scopes, and its text, which can't be had again.

        It lives for so many `seconds` (0: until revoked). `rate` is its own limit, as in `60/minute`. `by` is who
        makes it, for the audit log.
        """
        for what, value in (("tenant", principal.tenant), ("user", principal.user)):
            if not _NAME.fullmatch(value):
                words = f"a {what} has 1 to 128 letters, digits and ._:@+=-, not {value[:80]!r}"
                raise InputError(words, field=what)
        if seconds < 0:
            raise InputError("a key lives for a time above 0 seconds", field="seconds")
        if rate:
            Rate.parse(rate)
        now = self._clock.now()
        secret = _random(52)
        key = ApiKey(
            id=_random(12),
            name=name[:200],
            tenant=principal.tenant,
            user=principal.user,
            scopes=all_scopes.checked(principal.scopes or all_scopes.DEFAULT),
            digest=_digest(secret),
            made_at=now,
            expires_at=now + seconds if seconds else 0.0,
            rate=rate,
        )
        listed = Key(_listed(key.tenant), key.id)
        await self._store.write(
            Put(_place(key.id), to_record(key), when=(Absent(),)),
            Put(listed, {"v": 1}),
            self._note("key.created", key, by),
        )
        return key, f"{PREFIX}{key.id}_{secret}"

    async def list(self, tenant: str = "default") -> list[ApiKey]:
        """A tenant's keys, oldest first; those that ended, too."""
        found: list[ApiKey] = []
        after = ""
        while True:
            page = await self._store.query(_listed(tenant), after=after)
            stored = [await self._store.get(_place(record.key.sort)) for record in page.records]
            found += readable(ApiKey, filter(None, stored))
            after = page.after
            if not after:
                return sorted(found, key=lambda key: key.made_at)

    async def get(self, key_id: str) -> ApiKey | None:
        """The key of this id, alive or not."""
        record = await self._store.get(_place(key_id))
        return from_record(ApiKey, record.fields) if record else None

    async def find(self, text: str) -> ApiKey | None:
        """The key of this text, if it is good now."""
        parts = _FORM.fullmatch(text)
        if parts is None:
            return None
        key = await self.current(parts[1])
        return key if key and key.opened_by(_digest(parts[2]), self._clock.now()) else None

    async def current(self, key_id: str) -> ApiKey | None:
        """The key of this id, if it is alive; as it was at most five seconds ago."""
        now = self._clock.monotonic()
        at, key = self._seen.get(key_id, (0.0, None))
        if key is None or not 0 <= now - at < CACHE_SECONDS:
            key = await self.get(key_id)
            if key is None:
                return None
            if len(self._seen) >= _CACHED:
                self._seen.clear()
            self._seen[key_id] = (now, key)
        return key if key.alive(self._clock.now()) else None

    async def rotate(
        self, key_id: str, *, overlap: float = OVERLAP_SECONDS, tenant: str = "", by: str = ""
    ) -> tuple[ApiKey, str]:
        """Give a key a new secret; the old one goes on for `overlap` seconds. Gives the new text.

        Raises NotFoundError, also where it is not of this tenant; ConflictError where the key has ended.
        """
        if overlap < 0:
            raise InputError("the overlap is a number of seconds, 0 or more", field="overlap")
        key, version = await self._owned(key_id, tenant)
        now = self._clock.now()
        if not key.alive(now):
            raise ConflictError(f"the key {key_id} has ended: make a new one")
        secret = _random(52)
        rotated = msgspec.structs.replace(
            key, digest=_digest(secret), old_digest=key.digest, old_until=now + overlap
        )
        await self._replace(rotated, version, self._note("key.rotated", key, by))
        return rotated, f"{PREFIX}{key.id}_{secret}"

    async def revoke(self, key_id: str, *, tenant: str = "", by: str = "") -> ApiKey:
        """End a key for good. Raises NotFoundError; revoking it twice changes nothing."""
        key, version = await self._owned(key_id, tenant)
        if key.revoked_at:
            return key
        revoked = msgspec.structs.replace(key, revoked_at=self._clock.now())
        await self._replace(revoked, version, self._note("key.revoked", key, by))
        return revoked

    async def _owned(self, key_id: str, tenant: str) -> tuple[ApiKey, int]:
        record = await self._store.get(_place(key_id)) if key_id else None
        key = from_record(ApiKey, record.fields) if record else None
        if record is None or key is None or (tenant and key.tenant != tenant):
            raise NotFoundError(f"there is no key {key_id[:80]!r}; `sampan keys list` shows them")
        return key, record.version

    def _note(self, act: audit.Act, key: ApiKey, by: str) -> Put:
        return audit.entry(
            self._clock,
            key.tenant,
            act,
            by=by or key.user,
            subject=key.id,
            user=key.user,
            scopes=" ".join(key.scopes),
        )

    async def _replace(self, key: ApiKey, version: int, note: Put) -> None:
        try:
            await self._store.write(Put(_place(key.id), to_record(key), when=(Version(version),)), note)
        except ConditionError:
            raise ConflictError(f"somebody else changed the key {key.id} meanwhile: look again") from None
        self._seen.pop(key.id, None)


def _random(length: int) -> str:
    # Five bits of a byte to a character, none favoured.
    return "".join(_ALPHABET[byte & 31] for byte in os.urandom(length))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _place(key_id: str) -> Key:
    return Key(f"key/{quoted(key_id)}", "key")


def _listed(tenant: str) -> str:
    return f"{quoted(tenant)}/keys"
