"""Secrets that must be read again, such as seeds of second factors: sealed in the store, opened by a key outside it.

AES-256-GCM (NIST SP 800-38D) with a nonce of chance; what a secret belongs to is sealed with it, so that it opens for
nobody else. Several keys may be given: the first seals, all open, so that a key can be changed.

A key `kms:alias/sampan` stays in AWS KMS. It makes a key for each secret, which is kept beside it, encrypted by the one
that never leaves: https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#enveloping
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import Any

from agent_core.errors import ConfigError

SETTING = "SAMPAN_SEAL_KEYS"
KMS = "kms:"
HOW = "make one with `openssl rand -base64 32`"

_NONCE = 12
_ID = 8


class Seal:
    """Seals and opens. Without keys it does neither, and says so when it is asked.

    `remote`: a key is in KMS, so it waits for an answer; call it in a thread.
    """

    def __init__(self, keys: str) -> None:
        self._keys: dict[str, bytes] = {}
        self._first = ""
        self.remote = False
        for given in keys.split():
            if given.startswith(KMS) and len(given) > len(KMS):
                name, self.remote = given, True
            else:
                key = _read(given)
                name = hashlib.sha256(key).hexdigest()[:_ID]
                self._keys[name] = key
            self._first = self._first or name

    @property
    def ready(self) -> bool:
        """Whether there is a key to seal with."""
        return bool(self._first)

    def close(self, secret: bytes, place: str) -> str:
        """The sealed secret, as text. Raises ConfigError where there is no key."""
        if not self._first:
            raise ConfigError(f"{SETTING} is not set, and secrets are stored sealed alone: {HOW}")
        name, key = self._first, self._keys.get(self._first)
        if key is None:
            made = _kms(
                "generate_data_key", KeyId=name.removeprefix(KMS), KeySpec="AES_256", **_context(place)
            )
            key, name = made["Plaintext"], f"kms.{base64.b64encode(made['CiphertextBlob']).decode()}"
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
        if name == "kms" and self.remote:
            wrapped, _, sealed = sealed.partition(".")
            # KMS knows by itself which of its keys it was.
            key = _kms("decrypt", CiphertextBlob=base64.b64decode(wrapped), **_context(place))["Plaintext"]
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


def _context(place: str) -> dict[str, Any]:
    """What the secret belongs to: KMS opens it for nothing else, and its trail says what was opened."""
    return {"EncryptionContext": {"sampan": place}}


def _kms(verb: str, **request: Any) -> dict[str, Any]:
    # Loaded with the first secret that needs it: boto3 costs a third of a second.
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise ConfigError(
            f"{SETTING} names a key in KMS; install the extra: pip install 'sampan[aws]'"
        ) from None
    try:
        answer: dict[str, Any] = getattr(boto3.client("kms"), verb)(**request)
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(f"KMS did not do `{verb}`: {error}") from None
    return answer


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
