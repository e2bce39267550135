"""Base64 and hex of strangers, read strictly: one text for one value, or none."""

from __future__ import annotations

import base64
import binascii


def base64_bytes(text: str) -> bytes | None:
    """The bytes of a base64 text in its one canonical form, None for anything else."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def hex_bytes(text: str) -> bytes | None:
    """The bytes of a hex text in small letters, None for anything else."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return data if data.hex() == text else None
