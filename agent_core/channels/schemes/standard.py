"""Standard Webhooks: v1 (HMAC-SHA256, secrets `whsec_...`) and v1a (Ed25519, public keys `whpk_...`).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_core.channels.schemes.base import fresh, known, refuse_unless
from agent_core.channels.schemes.ed25519 import PublicKey
from agent_core.errors import ConfigError
from agent_core.security.encoding import base64_bytes
from agent_core.security.signatures import standard_key, standard_valid
from agent_core.security.webhook import Webhook

PUBLIC = "whpk_"


class StandardScheme:
    """Verifies by any of its secrets and public keys."""

    def __init__(self, secrets: Sequence[str], what: str = "the secret") -> None:
        both = known(secrets, what)
        self._secrets = [secret for secret in both if not secret.startswith(PUBLIC)]
        for secret in self._secrets:
            standard_key(secret)
        self._keys = [_public_key(text) for text in both if text.startswith(PUBLIC)]

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The body; raises SignatureError."""
        message_id, stamp = hook.header("webhook-id"), hook.header("webhook-timestamp")
        signatures = hook.header("webhook-signature")
        fresh(stamp, now)
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": stamp,
            "webhook-signature": signatures,
        }
        valid = standard_valid(self._secrets, headers, hook.body, now)
        signed = f"{message_id}.{stamp}.".encode() + hook.body
        for entry in signatures.split(" "):
            signature = base64_bytes(entry[4:]) if entry.startswith("v1a,") else None
            for key in self._keys:
                valid |= signature is not None and key.signed(signature, signed)
        refuse_unless(valid)
        return hook.body


def _public_key(text: str) -> PublicKey:
    key = base64_bytes(text.removeprefix(PUBLIC))
    if key is None:
        raise ConfigError(f"a public key is {PUBLIC} followed by base64 of 32 bytes")
    return PublicKey(key)
