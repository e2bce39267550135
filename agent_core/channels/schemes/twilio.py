"""Twilio: HMAC over the address as Twilio saw it and the sorted fields of the form, or a hash of a JSON body.

https://www.twilio.com/docs/usage/security#validating-requests
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from agent_core.channels.schemes.base import known, refuse_unless, same
from agent_core.errors import SignatureError
from agent_core.security.webhook import Webhook, pairs

SIGNATURE = "x-twilio-signature"
BODY_HASH = "bodySHA256"
FORM = "application/x-www-form-urlencoded"


class TwilioScheme:
    """Verifies by any of the account's auth tokens. The webhook's `url` must be the public one.

    Twilio signs names and values without anything between them: that a letter moved from a name to its value can't be
    seen here, so whoever reads the form must know what its values look like.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = known(tokens, "the auth token")

    def verify(self, hook: Webhook, now: float) -> bytes:
        """The body; raises SignatureError."""
        given = hook.header(SIGNATURE)
        hashes = [value for name, value in pairs(hook.query_string) if name == BODY_HASH]
        fields: list[tuple[str, str]] = []
        whole = True
        if hashes:
            whole = len(hashes) == 1 and same(hashes, [hashlib.sha256(hook.body).hexdigest()])
        elif hook.body:
            fields = pairs(_text(hook.body))
        expected = [sign(token, url, fields) for token in self._tokens for url in _addresses(hook.url)]
        refuse_unless(same([given], expected) and whole)
        return hook.body


def sign(token: str, url: str, fields: Sequence[tuple[str, str]]) -> str:
    """The signature of a request: its address, then each name with its values, all sorted, none twice."""
    signed = url + "".join(name + value for name, value in sorted(set(fields)))
    digest = hmac.new(token.encode(), signed.encode("utf-8", "surrogatepass"), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise SignatureError("the form is not UTF-8") from None


def _addresses(url: str) -> tuple[str, str]:
    """The address as it is, and with its scheme's port where it has none or without its own: Twilio signs either."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SignatureError("the address can't be read") from None
    if port is not None:
        return parts.geturl(), parts._replace(netloc=parts.netloc.rpartition(":")[0]).geturl()
    standard = 443 if parts.scheme == "https" else 80
    return parts.geturl(), parts._replace(netloc=f"{parts.netloc}:{standard}").geturl()
