"""Signatures of webhooks, pure: bytes, secrets and a time in, a header or a verdict out.

Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from agent_core.errors import ConfigError

TOLERANCE_SECONDS = 300
"""How far a webhook's time may be from ours, both ways."""

PREFIX = "whsec_"


def standard_key(secret: str) -> bytes:
    """The key in a Standard Webhooks secret (`whsec_` and base64). Raises ConfigError."""
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError(f"a webhook secret is {PREFIX} followed by base64 of 24 to 64 random bytes")
    return key


def standard_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers that sign a body under this id at this time (seconds since 1970)."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(standard_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def standard_valid(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether one of the secrets signed this body not long before or after now. Header names in lower case."""
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12:
        return False
    if stamp != str(int(stamp)):
        return False  # 01700000000 is not what was signed
    if abs(now - int(stamp)) > TOLERANCE_SECONDS:
        return False
    given = [entry[3:] for entry in headers.get("webhook-signature", "").split() if entry.startswith("v1,")]
    valid = False
    for secret in secrets:
        expected = standard_headers(secret, message_id, int(stamp), body)["webhook-signature"][3:]
        for signature in given:  # all are compared, so that the time tells nothing
            valid |= hmac.compare_digest(signature.encode(), expected.encode())
    return valid
