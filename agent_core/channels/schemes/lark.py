"""Feishu and Lark: signed and encrypted events, signed card actions, and the unsigned handshake.

https://open.feishu.cn/document/server-docs/event-subscription-guide/event-subscription-configure-/encrypt-key-encryption-configuration-case
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from agent_core.channels.payload import read_object
from agent_core.channels.schemes.base import fresh, known, refuse_unless, same
from agent_core.channels.schemes.ciphers import decrypt_cbc, unpadded
from agent_core.errors import HandshakeError, MalformedError, SignatureError
from agent_core.security.encoding import base64_bytes
from agent_core.security.webhook import Webhook

TIMESTAMP, NONCE, SIGNATURE = "x-lark-request-timestamp", "x-lark-request-nonce", "x-lark-signature"
BLOCK = 16


class LarkScheme:
    """Verifies events by the encrypt key (SHA-256), card actions by the verification token (SHA-1).

    The handshake that Feishu sends when an address is set up is not signed: its token is compared, and it may be
    nothing else.
    """

    def __init__(self, encrypt_keys: Sequence[str], tokens: Sequence[str]) -> None:
        self._keys = known(encrypt_keys, "the encrypt key")
        self._tokens = known(tokens, "the verification token")

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The event in the clear; raises SignatureError, or HandshakeError."""
        if not hook.has(SIGNATURE):
            return self._handshake(hook.body)
        signature, stamp, nonce = hook.header(SIGNATURE), hook.header(TIMESTAMP), hook.header(NONCE)
        fresh(stamp, now)
        head = (stamp + nonce).encode()
        if len(signature) == 40:  # a card action: SHA-1 by the token, never encrypted
            expected = [hashlib.sha1(head + token.encode() + hook.body) for token in self._tokens]  # noqa: S324 - Lark's choice
        else:
            expected = [hashlib.sha256(head + key.encode() + hook.body) for key in self._keys]
        refuse_unless(same([signature], [digest.hexdigest() for digest in expected]))
        return self._clear(hook.body)

    def _handshake(self, body: bytes) -> bytes:
        try:
            clear = self._clear(body)
            asked = read_object(clear)
        except MalformedError:
            raise SignatureError(f"the header {SIGNATURE} is missing") from None
        if asked.get("type") != "url_verification":
            raise SignatureError(f"the header {SIGNATURE} is missing")
        token = asked.get("token")
        if not isinstance(token, str) or not same([token], self._tokens):
            raise HandshakeError("the verification token is not the one that is set here")
        return clear

    def _clear(self, body: bytes) -> bytes:
        """The body, decrypted if it came encrypted. Raises MalformedError or SignatureError."""
        encrypted: Any = read_object(body).get("encrypt")
        if encrypted is None:
            return body
        for key in self._keys:
            clear = decrypt(key, encrypted) if isinstance(encrypted, str) else None
            if clear is not None:
                return clear
        raise SignatureError("the event can't be decrypted")


def decrypt(encrypt_key: str, encrypted: str) -> bytes | None:
    """The clear bytes of base64(IV + AES-256-CBC), None where the key or the text is wrong."""
    data = base64_bytes(encrypted)
    if data is None or len(data) < 2 * BLOCK or len(data) % BLOCK:
        return None
    key = hashlib.sha256(encrypt_key.encode()).digest()
    return unpadded(decrypt_cbc(key, data[:BLOCK], data[BLOCK:]), BLOCK)
