"""Who is logged in to the console: a random cookie, of which the store keeps the hash.

login/<hash>      login   who it is; expires
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

import msgspec

from agent_core.clock import Clock
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.security.keys import ApiKey, Keys
from agent_core.security.visitor import Caller, Visitor, is_local
from agent_core.store.base import Delete, Key, Put, Store

LIFE_SECONDS = 43_200.0
"""A login ends after twelve hours."""

CSRF_HEADER = "x-csrf-token"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A login as stored. `key` is the API key that it was made with; it ends with that."""

    principal: Principal
    key: str = ""
    made_at: float


class Logins:
    """Begins, finds and ends logins."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    async def begin(self, principal: Principal, key: ApiKey | None = None) -> str:
        """A new login; gives the cookie's value."""
        token = random_token()
        now = self._clock.now()
        login = Login(principal=principal, key=key.id if key else "", made_at=now)
        await self._store.write(
            Put(_place(token), to_record(login), expires_at=now + LIFE_SECONDS),
            audit.entry(self._clock, principal.tenant, "login", by=principal.user, subject=login.key),
        )
        return token

    async def find(self, token: str) -> Caller | None:
        """Who is logged in with this cookie."""
        if not token or len(token) > 100 or not token.isascii():
            return None
        record = await self._store.get(_place(token))
        if record is None:
            return None
        login = from_record(Login, record.fields)
        if not login.key:
            return Caller(principal=login.principal)
        key = await self._keys.current(login.key)
        return Caller(principal=key.principal, key=key.id, rate=key.rate) if key else None

    async def end(self, token: str) -> None:
        """Log out."""
        await self._store.write(Delete(_place(token)))


def cookie_name(host: str) -> str:
    """The cookie's name; browsers hold one with this prefix to be safe: by TLS alone, from this host, for all of it.

    Plain http is for one's own machine. https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-4.1.3
    """
    return "sampan" if is_local(host) else "__Host-sampan"


def attempt_name(host: str) -> str:
    """The cookie of a login that is under way."""
    return f"{cookie_name(host)}-login"


def cookie_of(visitor: Visitor) -> str:
    """The login's token that a request shows."""
    return visitor.cookie(cookie_name(visitor.host))


def csrf_token(token: str) -> str:
    """What forms and scripts of our pages send besides the cookie: other sites' pages can't know it."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def csrf_valid(token: str, shown: str) -> bool:
    """Whether that is what our page was given."""
    return bool(token) and hmac.compare_digest(csrf_token(token).encode(), shown.encode("utf-8", "replace"))


def random_token() -> str:
    """256 random bits as text."""
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()


def _place(token: str) -> Key:
    return Key(f"login/{hashlib.sha256(token.encode()).hexdigest()}", "login")
