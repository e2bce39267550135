"""What goes over a WebSocket, both ways, as structs; docs/websocket.md describes it to clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from agent_core.api.schemas import AgentRequest, MessageIn, Metadata, Name, SessionId
from agent_core.messages import DataClass

FRAME_BYTES = 32 * 1024
"""A frame stays below this: API Gateway's limit, and it bills by as much."""

_PART_BYTES = 15 * 1024  # as a string inside JSON no piece of JSON takes more than twice its size

Ref = Annotated[
    str, Meta(max_length=64, description="Whatever the client likes; comes back with the answer.")
]
RunId = Annotated[str, Meta(min_length=1, max_length=128)]


class Action(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag=str.lower, forbid_unknown_fields=True
):
    """What a client asks for."""

    ref: Ref = ""


class Send(Action, frozen=True, kw_only=True):
    """A message for an agent, as in POST /api/v1/agent; `key` is its idempotency key."""

    message: Annotated[str, Meta(min_length=1)] | MessageIn | UnsetType = UNSET
    messages: Annotated[list[MessageIn], Meta(min_length=1, max_length=1000)] | UnsetType = UNSET
    session_id: SessionId | None = None
    agent: Name | None = None
    metadata: Metadata = {}
    data_class: DataClass | None = None
    key: Annotated[str, Meta(max_length=255, pattern=r"^[\x21-\x7e]*$")] = ""

    def request(self) -> AgentRequest:
        """The same as it would have come over HTTP."""
        return AgentRequest(
            message=self.message,
            messages=self.messages,
            session_id=self.session_id,
            agent=self.agent,
            metadata=self.metadata,
            data_class=self.data_class,
        )


class Resume(Action, frozen=True, kw_only=True):
    """What happened to a run behind the last event that the client saw, and what still happens."""

    run_id: RunId
    last_event_id: Annotated[str, Meta(max_length=128)] = ""


class Cancel(Action, frozen=True, kw_only=True):
    """Ask a run to stop at its next step."""

    run_id: RunId


class Approve(Action, frozen=True, kw_only=True):
    """Let a run make the tool call that it asks about; `code` where that needs a second factor."""

    run_id: RunId
    hash: Annotated[str, Meta(min_length=1, max_length=128)]
    code: Annotated[str, Meta(max_length=32)] = ""


class Deny(Action, frozen=True, kw_only=True):
    """Keep a run from the tool call that it asks about."""

    run_id: RunId
    hash: Annotated[str, Meta(min_length=1, max_length=128)]


class Ping(Action, frozen=True, kw_only=True):
    """Are you there? Send one every few minutes: an idle connection is cut."""


AnyAction = Send | Resume | Cancel | Approve | Deny | Ping


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the server says: an event of a run, with the ids that SSE has too; or `taken`, `later`, `pong`, `error`."""

    type: str
    run_id: str = ""
    id: str = ""
    ref: str = ""
    data: Any = UNSET


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a frame that is too large: the texts of its `count` parts, joined, are the frame."""

    type: str = "part"
    of: str
    number: int
    count: int
    text: str


def cut(frame: Frame, unique: str) -> Iterator[bytes]:
    """The frame as JSON, in parts where it is too large; `unique` tells its parts from those of others."""
    body = msgspec.json.encode(frame)
    if len(body) < FRAME_BYTES:
        yield body
        return
    pieces = list(_pieces(body))
    for number, piece in enumerate(pieces, 1):
        yield msgspec.json.encode(Part(of=unique, number=number, count=len(pieces), text=piece))


def _pieces(body: bytes) -> Iterator[str]:
    """The UTF-8 text in pieces of at most _PART_BYTES, none of which ends within a character."""
    start = 0
    while start < len(body):
        end = min(start + _PART_BYTES, len(body))
        while end < len(body) and body[end] & 0xC0 == 0x80:
            end -= 1
        yield body[start:end].decode()
        start = end
