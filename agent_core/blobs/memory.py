"""Blobs in memory: for tests, and for servers whose state may end with them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agent_core.blobs.base import Blob, check_media_type, plain_name, reference, split_reference
from agent_core.errors import NotFoundError


class MemoryBlobs:
    """All verbs over dicts."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], dict[str, Blob]] = {}

    async def put(self, tenant: str, session: str, data: bytes, media_type: str) -> str:
        """Store the bytes and return their reference."""
        check_media_type(media_type)
        ref = reference(session, data)
        self._sessions.setdefault((tenant, session), {})[ref] = Blob(bytes(data), media_type)
        return ref

    async def get(self, tenant: str, ref: str) -> Blob:
        """The bytes again; raises NotFoundError."""
        session, _ = split_reference(ref)
        try:
            return self._sessions[tenant, session][ref]
        except KeyError:
            raise NotFoundError(f"no blob {ref}") from None

    async def remove(self, tenant: str, ref: str) -> None:
        """Remove these bytes."""
        self._sessions.get((tenant, split_reference(ref)[0]), {}).pop(ref, None)

    async def erase(self, tenant: str, session: str) -> None:
        """Remove all bytes of a session."""
        self._sessions.pop((tenant, session), None)

    async def erase_all(self, tenant: str) -> None:
        """Remove all bytes of a tenant."""
        for place in [place for place in self._sessions if place[0] == tenant]:
            del self._sessions[place]

    async def all(self, tenant: str) -> AsyncIterator[tuple[str, Blob]]:
        """All bytes of a tenant, each with its name."""
        for (owner, session), kept in list(self._sessions.items()):
            if owner == tenant:
                for ref, blob in list(kept.items()):
                    yield f"s-{plain_name(session)}/{split_reference(ref)[1]}", blob

    async def close(self) -> None:
        """Nothing to let go of."""
