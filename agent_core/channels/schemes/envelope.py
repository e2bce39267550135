"""The encrypted envelope of WeCom, WeChat official accounts and DingTalk.

The signature is SHA-1 of token, timestamp, nonce and the encrypted text, sorted and joined. Inside are 16 random bytes,
a length, the message, and who it is for. https://developer.work.weixin.qq.com/document/path/90968
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

from agent_core.channels.schemes.base import fresh, known, refuse_unless, same
from agent_core.channels.schemes.ciphers import decrypt_cbc, encrypt_cbc, padded, unpadded
from agent_core.errors import ConfigError, SignatureError
from agent_core.security.encoding import base64_bytes

BLOCK = 32
"""PKCS#7 in blocks of 32, so that a pad of 17 to 32 bytes is right."""

_HEAD = 20


def signature(token: str, *parts: str) -> str:
    """SHA-1 in hex of the token and the parts, sorted and joined."""
    return hashlib.sha1("".join(sorted([token, *parts])).encode()).hexdigest()  # noqa: S324 - the services' choice


class Envelope:
    """Opens what was sealed with any of the tokens and keys for this receiver, and seals answers with the first."""

    def __init__(
        self,
        tokens: Sequence[str],
        keys: Sequence[str],
        receiver: str,
        *,
        tolerance: float = 300.0,
        milliseconds: bool = False,
    ) -> None:
        self._tokens = known(tokens, "the token")
        self._keys = [_aes_key(key) for key in known(keys, "the EncodingAESKey")]
        self._receiver = known([receiver], "the id of the receiver (corp id, app id or suite key)")[0]
        self._tolerance = tolerance
        self._milliseconds = milliseconds

    def open(self, given: str, stamp: str, nonce: str, encrypted: str, now: float) -> bytes:
        """The message; raises SignatureError, the same one whatever is wrong inside."""
        fresh(stamp, now, self._tolerance, milliseconds=self._milliseconds)
        refuse_unless(same([given], [signature(token, stamp, nonce, encrypted) for token in self._tokens]))
        data = base64_bytes(encrypted)
        if data is not None and data and len(data) % 16 == 0:
            for key in self._keys:
                message = self._message(unpadded(decrypt_cbc(key, key[:16], data), BLOCK))
                if message is not None:
                    return message
        raise SignatureError("the message can't be decrypted")

    def seal(self, message: bytes, noise: bytes, stamp: str, nonce: str) -> tuple[str, str]:
        """The message encrypted, and its signature. `noise` are 16 random bytes."""
        clear = noise + len(message).to_bytes(4) + message + self._receiver.encode()
        encrypted = encrypt_cbc(self._keys[0], self._keys[0][:16], padded(clear, BLOCK))
        text = base64.b64encode(encrypted).decode()
        return text, signature(self._tokens[0], stamp, nonce, text)

    def _message(self, clear: bytes | None) -> bytes | None:
        if clear is None or len(clear) < _HEAD:
            return None
        end = _HEAD + int.from_bytes(clear[16:_HEAD])
        if end > len(clear) or clear[end:] != self._receiver.encode():
            return None
        return clear[_HEAD:end]


def _aes_key(text: str) -> bytes:
    """The AES key of 43 characters. Their last two bits mean nothing, and published keys have them set."""
    try:
        key = base64.b64decode(text.encode() + b"=", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(text) != 43 or len(key) != 32:
        raise ConfigError("an EncodingAESKey has 43 letters and digits")
    return key
