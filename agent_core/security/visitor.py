"""A request as the door sees it, whatever surface it came to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agent_core.errors import ScopeError
from agent_core.messages import Principal
from agent_core.security.scopes import ADMIN

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_SAFE = ("GET", "HEAD", "OPTIONS")


class Visitor(msgspec.Struct, kw_only=True):
    """What a request shows of who sends it.

    `headers` have names in lower case; `address` is the peer's, "" where there is none; `gateway` is what an authorizer
    of API Gateway found out before us. `told` are headers for the answer, whatever that will be.
    """

    method: str = "GET"
    headers: Mapping[str, str] = {}
    address: str = ""
    gateway: Mapping[str, Any] = {}
    told: list[tuple[bytes, bytes]] = []

    @property
    def changes(self) -> bool:
        """Whether it means to change something."""
        return self.method not in _SAFE

    @property
    def host(self) -> str:
        """The host that it was sent to, without the port; "" where it does not say."""
        return host_of(self.headers.get("host", ""))

    @property
    def near(self) -> bool:
        """Whether it comes from this machine, was sent to it by name, and by nobody else on the way.

        The name keeps out pages whose own host resolves to this machine (DNS rebinding).
        """
        return (
            (not self.address or is_local(self.address))
            and is_local(self.host or "localhost")
            and not any(name in self.headers for name in _FORWARDED)
        )

    @property
    def credential(self) -> str:
        """The key or token that it shows; "" for none."""
        scheme, _, text = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return text.strip()
        return self.headers.get("x-api-key", "").strip()

    def cookie(self, name: str) -> str:
        """The value of a cookie; "" where it is not there."""
        for pair in self.headers.get("cookie", "").split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                return value
        return ""


class Caller(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who it is. `key` is the id of the API key, `rate` that key's own limit; an owner was not asked and may all.

    `stepped_at` is when a second factor was shown to the OpenID issuer, as the caller's token says; 0 for never.
    """

    principal: Principal = Principal()
    key: str = ""
    rate: str = ""
    owner: bool = False
    stepped_at: float = 0.0

    def may(self, scope: str) -> bool:
        """Whether the caller has the scope."""
        scopes = self.principal.scopes
        return self.owner or scope in scopes or ADMIN in scopes

    @property
    def oversees(self) -> bool:
        """Whether the caller sees and answers what the tenant's people of channels, who can't log in, are asked."""
        return self.may(ADMIN)

    def check(self, scope: str) -> None:
        """Raise ScopeError where the caller lacks the scope."""
        if not self.may(scope):
            raise ScopeError(f"this needs the scope {scope}, which your key does not have", scope=scope)


OWNER = Caller(owner=True)
"""Whoever works on this machine, where nobody is asked."""


NOBODY = Caller(principal=Principal(tenant="", user=""))
"""Who was not asked and may nothing: callers of what is open to all."""


def host_of(header: str) -> str:
    """The host in a Host header, in small letters and without the port; "?" where it can't be read."""
    if not header:
        return ""
    try:
        return urlsplit(f"//{header}").hostname or "?"
    except ValueError:
        return "?"


def is_local(host: str) -> bool:
    """Whether this name or address means the machine itself, for every resolver. RFC 6761 section 6.3"""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
