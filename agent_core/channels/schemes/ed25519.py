"""Ed25519 (RFC 8032), as Discord signs interactions and webhook events."""

from __future__ import annotations

from collections.abc import Sequence

from agent_core.channels.schemes.base import fresh, known, refuse_unless
from agent_core.errors import ConfigError
from agent_core.security.encoding import hex_bytes
from agent_core.security.webhook import Webhook


class PublicKey:
    """A public key of 32 bytes; raises ConfigError for what is none."""

    def __init__(self, data: bytes) -> None:
        # Loaded only where such a key is set: the cipher library takes longer to load than all the rest.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            self._key = Ed25519PublicKey.from_public_bytes(data)
        except ValueError as error:
            raise ConfigError(f"an Ed25519 public key has 32 bytes, not {len(data)}") from error

    def signed(self, signature: bytes, data: bytes) -> bool:
        """Whether the key's owner signed the data."""
        from cryptography.exceptions import InvalidSignature  # loaded with the key, for the reason above

        try:
            self._key.verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


class Ed25519Scheme:
    """Verifies a signature in hex over the time and the body."""

    def __init__(
        self,
        keys: Sequence[str],
        what: str = "the public key",
        *,
        signature: str = "x-signature-ed25519",
        timestamp: str = "x-signature-timestamp",
    ) -> None:
        self._keys = [PublicKey(_bytes(key, what)) for key in known(keys, what)]
        self._signature = signature
        self._timestamp = timestamp

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The body; raises SignatureError."""
        signature = hex_bytes(hook.header(self._signature))
        stamp = hook.header(self._timestamp)
        fresh(stamp, now)
        signed = stamp.encode() + hook.body
        valid = False
        for key in self._keys:
            valid |= signature is not None and key.signed(signature, signed)
        refuse_unless(valid)
        return hook.body


def _bytes(text: str, what: str) -> bytes:
    data = hex_bytes(text.lower())
    if data is None:
        raise ConfigError(f"{what} is 64 hex digits")
    return data
