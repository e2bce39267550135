"""Files of chat services as parts of a message, and fetched when their message is worked on."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from agent_core.blobs.base import Blob
from agent_core.channels.base import ATTACHMENT, Channel
from agent_core.clock import Clock
from agent_core.errors import AgentError
from agent_core.messages import Audio, File, Image, Part, Text

log = logging.getLogger("sampan.media")

MAX_BYTES = 20 * 1024 * 1024
"""The largest file that is read."""


def media_part(media_type: str, *, ref: str = "", data: bytes = b"", name: str = "") -> Part:
    """A file by its media type: a picture, a sound, or any other."""
    kinds: dict[str, type[Image | Audio | File]] = {"image": Image, "audio": Audio}
    kind = kinds.get(media_type.partition("/")[0], File)
    return kind(media_type=media_type or "application/octet-stream", ref=ref, data=data, name=name)


class Fetcher:
    """Fetches the attachments of messages from the channels they came by."""

    def __init__(self, channels: Mapping[str, Channel], clock: Clock) -> None:
        self._channels = channels
        self._clock = clock

    async def __call__(self, part: Part) -> Part:
        """The part with its bytes. What can't be fetched is said in words: the rest of the message still counts."""
        if isinstance(part, Text) or not part.ref.startswith(ATTACHMENT):
            return part
        name, _, handle = part.ref.removeprefix(ATTACHMENT).partition(":")
        shown = part.name or part.media_type
        channel = self._channels.get(name)
        if channel is None:
            return Text(f"[the file {shown} can't be read: the channel {name} is off]")
        try:
            blob = await self._tried(channel, handle)
        except AgentError as error:
            log.warning("channel=<%s> | a file can't be fetched: %s", name, error)
            return Text(f"[the file {shown} can't be read: {error.title}]")
        if len(blob.data) > MAX_BYTES:
            return Text(f"[the file {shown} is too large: {len(blob.data)} bytes]")
        family = part.media_type.partition("/")[0]
        # The service may have named only the kind; where it says more with the file, that counts.
        exact = blob.media_type if blob.media_type.startswith(f"{family}/") else part.media_type
        return msgspec.structs.replace(part, data=blob.data, ref="", media_type=exact)

    async def _tried(self, channel: Channel, handle: str) -> Blob:
        """The file, at the third attempt where the first fail for a passing reason."""
        for pause in (0.5, 2.0):
            try:
                return await channel.fetch(handle)
            except AgentError as error:
                if not error.retryable:
                    raise
                await self._clock.sleep(max(pause, min(error.retry_after or 0.0, 10.0)))
        return await channel.fetch(handle)
