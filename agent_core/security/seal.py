"""Secrets that must be read again, such as seeds of second factors: sealed in the store, opened by a key outside it.

AES-256-GCM (NIST SP 800-38D) with a nonce of chance; what a secret belongs to is sealed with it, so that it opens for
nobody else. Several keys may be given: the first seals, all open, so that a key can be changed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from agent_core.errors import ConfigError

SETTING = "SAMPAN_SEAL_KEYS"
HOW = "make one with `openssl rand -base64 32`"

_NONCE = 12
_ID = 8


class Seal:
    """Seals and opens. Without keys it does neither, and says so when it is asked."""

    def __init__(self, keys: str) -> None:
        self._keys = {hashlib.sha256(key).hexdigest()[:_ID]: key for key in map(_read, keys.split())}

    def close(self, secret: bytes, place: str) -> str:
        """The sealed secret, as text. Raises ConfigError where there is no key."""
        if not self._keys:
            raise ConfigError(f"{SETTING} is not set, and secrets are stored sealed alone: {HOW}")
        name, key = next(iter(self._keys.items()))
        nonce = os.urandom(_NONCE)
        return (
            f"{name}.{base64.b64encode(nonce + _cipher(key).encrypt(nonce, secret, place.encode())).decode()}"
        )

    def open(self, text: str, place: str) -> bytes:
        """The secret. Raises ConfigError where no key opens it."""
        # Loaded with the first secret, as the cipher is.
        from cryptography.exceptions import InvalidTag

        name, _, sealed = text.partition(".")
        key = self._keys.get(name)
        if key is None:
            raise ConfigError(
                f"a secret was sealed with a key ({name}) that {SETTING} has not: give that one, too"
            )
        data = base64.b64decode(sealed)
        try:
            secret: bytes = _cipher(key).decrypt(data[:_NONCE], data[_NONCE:], place.encode())
        except InvalidTag:
            raise ConfigError("a sealed secret was changed, or belongs elsewhere") from None
        return secret


def _cipher(key: bytes):  # type: ignore[no-untyped-def]
    # Loaded with the first secret: few processes ever see one.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _read(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{SETTING} has a key that is not base64 of 32 bytes: {HOW}")
    return key
