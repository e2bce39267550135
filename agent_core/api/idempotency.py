"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header) and the fingerprint of a body."""

from __future__ import annotations

import hashlib
import re

import msgspec
from starlette.datastructures import Headers

from agent_core.errors import MalformedError

MAX_KEY = 255
REPLAYED = {"Idempotency-Replayed": "true"}
"""Says that an answer was given before."""

# A structured-field string (RFC 9651 section 3.3.3), or the bare form that many clients send.
PATTERN = rf"^(\"([ !#-\[\]-~]|\\[\"\\]){{1,{MAX_KEY}}}\"|[!#-\[\]-~]{{1,{MAX_KEY}}})$"
_KEY = re.compile(PATTERN)


def idempotency_key(headers: Headers) -> str:
    """The key without its quotes, "" where there is none. Raises MalformedError where it can't be one."""
    values = headers.getlist("idempotency-key")
    if not values:
        return ""
    text = values[0].strip(" \t")
    if len(values) > 1 or not _KEY.fullmatch(text):
        raise MalformedError(
            f"Idempotency-Key must be sent once, as 1 to {MAX_KEY} printable ASCII characters,"
            ' best in quotes: "8e03978e"'
        )
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text


def fingerprint(path: str, request: object) -> str:
    """A hash of what the caller asked under a key, as we read it: the same however its JSON is spaced or ordered."""
    canonical = msgspec.json.encode([path, request], order="deterministic")
    return hashlib.sha256(canonical).hexdigest()
