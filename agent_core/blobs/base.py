"""The Blobs port: bytes too large for a record, under a reference that is made from their content."""

from __future__ import annotations

import hashlib
from typing import Protocol

import msgspec


class Blob(msgspec.Struct, frozen=True):
    """Bytes and their media type."""

    data: bytes
    media_type: str


def reference(session: str, data: bytes) -> str:
    """`<session>/<sha256 of the bytes>`: the same bytes in the same session have the same reference."""
    return f"{session}/{hashlib.sha256(data).hexdigest()}"


class Blobs(Protocol):
    """Keep bytes for a tenant's session. The tenant is part of every call, never of the reference."""

    async def put(self, tenant: str, session: str, data: bytes, media_type: str) -> str:
        """Store the bytes and return their reference."""

    async def get(self, tenant: str, ref: str) -> Blob:
        """The bytes again; raises NotFoundError."""

    async def erase(self, tenant: str, session: str) -> None:
        """Remove all bytes of a session."""

    async def close(self) -> None:
        """Let go of connections."""
