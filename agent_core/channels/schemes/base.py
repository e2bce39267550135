"""What every scheme does: refuse empty secrets at start, look at the time both ways, compare without telling."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from typing import Protocol

from agent_core.errors import ConfigError, SignatureError
from agent_core.security.webhook import Webhook

TOLERANCE_SECONDS = 300.0
"""How far a webhook's time may be from ours, both ways."""

_LONGEST_STAMP = 16


class Scheme(Protocol):
    """Tells whether a webhook comes from who knows a secret."""

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The bytes that the sender vouches for, decrypted where they came encrypted; raises SignatureError."""


def known(secrets: Sequence[str], what: str) -> tuple[str, ...]:
    """The secrets, of which there is one at least and none is empty. Raises ConfigError: no secret, no service."""
    if not secrets or not all(secret.strip() for secret in secrets):
        raise ConfigError(f"{what} is missing or empty: nothing could be verified without it")
    return tuple(secrets)


def fresh(
    stamp: str, now: float, tolerance: float = TOLERANCE_SECONDS, *, milliseconds: bool = False
) -> None:
    """Raise SignatureError unless the time (digits, since 1970) is near now, before or after."""
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _LONGEST_STAMP) or stamp != str(int(stamp)):
        raise SignatureError("the timestamp is not a number of seconds since 1970")
    if abs(now - int(stamp) / (1000 if milliseconds else 1)) > tolerance:
        raise SignatureError(f"the timestamp is more than {tolerance:g} s from now")


def same(given: Iterable[str], expected: Iterable[str]) -> bool:
    """Whether any given text is any expected one. All pairs are compared, so that the time taken tells nothing."""
    wanted = [text.encode() for text in expected]
    found = False
    for text in given:
        for one in wanted:
            found |= hmac.compare_digest(text.encode("utf-8", "surrogatepass"), one)
    return found


def refuse_unless(valid: bool) -> None:
    """Raise SignatureError, with no word on what would have been right, unless the signature is valid."""
    if not valid:
        raise SignatureError("the signature does not match")
