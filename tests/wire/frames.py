"""AWS's binary frames, written: for tests, as the service writes them."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One frame with headers of text."""
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + len(value.encode()).to_bytes(2) + value.encode()
        for name, value in headers.items()
    )
    prelude = (16 + len(packed) + len(payload)).to_bytes(4) + len(packed).to_bytes(4)
    whole = prelude + crc32(prelude).to_bytes(4) + packed + payload
    return whole + crc32(whole).to_bytes(4)


def event(name: str, fields: dict[str, Any]) -> bytes:
    """An event of ConverseStream, or an exception of it."""
    payload = json.dumps(fields).encode()
    kind = ":exception-type" if name.endswith("Exception") else ":event-type"
    message = "exception" if name.endswith("Exception") else "event"
    return frame({kind: name, ":content-type": "application/json", ":message-type": message}, payload)
