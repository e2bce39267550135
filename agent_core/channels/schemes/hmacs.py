"""HMAC over the body and perhaps a time: most services differ in names and form alone, so they are lines of a table."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from agent_core.channels.schemes.base import fresh, known, refuse_unless, same
from agent_core.errors import ConfigError, SignatureError
from agent_core.security.webhook import Webhook

DIGESTS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha512": hashlib.sha512}
_PLACES = re.compile(rb"\{(timestamp|body|secret|id)\}")


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one service signs.

    `header` carries the signature behind `prefix`, as `encoding` of the HMAC by `digest`. `signed` is what is signed:
    {body}, and with `timestamp`, the header that carries the time, {timestamp}; {id} is the header `id`. Where `field`
    is set, the header is a list `t=1700000000,v1=...,v1=...` and the signatures are those of this name.
    """

    header: str
    prefix: str = ""
    digest: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    signed: str = "{body}"
    timestamp: str = ""
    id: str = ""
    field: str = ""
    tolerance: float = 300.0
    milliseconds: bool = False


SLACK = Rule(
    header="x-slack-signature",
    prefix="v0=",
    timestamp="x-slack-request-timestamp",
    signed="v0:{timestamp}:{body}",
)
META = Rule(header="x-hub-signature-256", prefix="sha256=")
"""GitHub's, and WhatsApp's with the app secret."""
STRIPE = Rule(header="stripe-signature", field="v1", signed="{timestamp}.{body}")
LINE = Rule(header="x-line-signature", encoding="base64")
DINGTALK_ROBOT = Rule(
    header="sign",
    timestamp="timestamp",
    signed="{timestamp}\n{secret}",
    encoding="base64",
    tolerance=3600.0,
    milliseconds=True,
)
"""It does not cover the body: who steals a header pair can send anything for an hour."""


class HmacScheme:
    """Verifies by a rule and its secrets."""

    def __init__(self, rule: Rule, secrets: Sequence[str], what: str = "the secret") -> None:
        self._rule = rule
        self._secrets = known(secrets, what)
        timed = bool(rule.timestamp or rule.field)
        if "{body}" not in rule.signed and "{secret}" not in rule.signed:
            raise ConfigError(f"what is signed must hold {{body}}, not only {rule.signed!r}")
        if ("{timestamp}" in rule.signed) != timed:
            raise ConfigError("a header with the time, and {timestamp} in what is signed, go together")

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The body; raises SignatureError."""
        rule = self._rule
        header = hook.header(rule.header)
        stamp = hook.header(rule.timestamp) if rule.timestamp else ""
        given = [header]
        if rule.field:
            stamp, given = _listed(header, rule.field)
        if stamp:
            fresh(stamp, now, rule.tolerance, milliseconds=rule.milliseconds)
        name = hook.header(rule.id) if rule.id else ""
        refuse_unless(same(given, [self.sign(secret, hook.body, stamp, name) for secret in self._secrets]))
        return hook.body

    def sign(self, secret: str, body: bytes, stamp: str = "", name: str = "") -> str:
        """The header's value for this body, at this time."""
        rule, key = self._rule, secret.encode()
        values = {b"timestamp": stamp.encode(), b"body": body, b"secret": key, b"id": name.encode()}
        signed = _PLACES.sub(lambda place: values[place[1]], rule.signed.encode())
        digest = hmac.new(key, signed, DIGESTS[rule.digest]).digest()
        return rule.prefix + (digest.hex() if rule.encoding == "hex" else base64.b64encode(digest).decode())


def _listed(header: str, field: str) -> tuple[str, list[str]]:
    """The time and the signatures of a list `t=...,v1=...`; raises SignatureError."""
    entries = [entry.partition("=")[::2] for entry in header.split(",")]
    stamps = [value for name, value in entries if name == "t"]
    given = [value for name, value in entries if name == field]
    if len(stamps) != 1 or not given:
        raise SignatureError(f"the signature must hold one time t= and a {field}=")
    return stamps[0], given


class TokenScheme:
    """A secret that is sent along as it is, as Telegram does. It does not cover the body: TLS alone protects that."""

    _ALLOWED = re.compile(r"[A-Za-z0-9_-]{1,256}")

    def __init__(self, header: str, secrets: Sequence[str], what: str = "the secret") -> None:
        self._header = header
        self._secrets = known(secrets, what)
        if not all(self._ALLOWED.fullmatch(secret) for secret in self._secrets):
            raise ConfigError(f"{what} may have 1 to 256 of A-Z, a-z, 0-9, _ and -")

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The body; raises SignatureError."""
        refuse_unless(same([hook.header(self._header)], self._secrets))
        return hook.body
