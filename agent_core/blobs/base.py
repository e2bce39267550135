"""The Blobs port: bytes too large for a record, under a reference that is made from their content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Protocol
from urllib.parse import quote

import msgspec

from agent_core.errors import InputError, NotFoundError
from agent_core.messages import Principal

_DIGEST = re.compile("[0-9a-f]{64}")

# Capitals are not among them: on some disks they are the same as small letters, and tenants must not meet.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_LONGEST = 200
"""Characters of a folder's name; file systems take 255 bytes."""


class Blob(msgspec.Struct, frozen=True):
    """Bytes and their media type."""

    data: bytes
    media_type: str


def reference(session: str, data: bytes) -> str:
    """`<session>/<sha256 of the bytes>`: the same bytes in the same session have the same reference."""
    return f"{session}/{hashlib.sha256(data).hexdigest()}"


def room(principal: Principal, session_id: str) -> str:
    """The name under which a user's session keeps its bytes: others may have a session of the same id."""
    return f"{quote(principal.user, safe='')}/{session_id}"


def split_reference(ref: str) -> tuple[str, str]:
    """The session and the digest; NotFoundError for what no `reference` ever made."""
    session, slash, digest = ref.rpartition("/")
    if not slash or not _DIGEST.fullmatch(digest):
        raise NotFoundError(f"no blob {ref}")
    return session, digest


def check_media_type(media_type: str) -> None:
    """Raise InputError for what can't stand in a header or on a line of its own."""
    if not media_type.isprintable() or not media_type.isascii() or len(media_type) > 255:
        raise InputError(
            "a media type is one line of at most 255 printable ASCII characters", field="$.media_type"
        )


def plain_name(text: str) -> str:
    """Any text as a file name: no two texts get the same one, on any file system and in any bucket."""
    try:
        name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in text.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"a tenant or session holds half a surrogate pair: {error.reason}") from None
    return name if len(name) <= _LONGEST else f"{name[:100]}+{hashlib.sha256(text.encode()).hexdigest()}"


class Blobs(Protocol):
    """Keep bytes for a tenant's session. The tenant is part of every call, never of the reference."""

    async def put(self, tenant: str, session: str, data: bytes, media_type: str) -> str:
        """Store the bytes and return their reference."""

    async def get(self, tenant: str, ref: str) -> Blob:
        """The bytes again; raises NotFoundError."""

    async def remove(self, tenant: str, ref: str) -> None:
        """Remove these bytes; nothing where there are none."""

    async def erase(self, tenant: str, session: str) -> None:
        """Remove all bytes of a session."""

    async def erase_all(self, tenant: str) -> None:
        """Remove all bytes of a tenant."""

    def all(self, tenant: str) -> AsyncIterator[tuple[str, Blob]]:
        """All bytes of a tenant, each with the name under which it is kept: `s-<session>/<sha256>`."""

    async def close(self) -> None:
        """Let go of connections."""
