"""What comes in over HTTP, as structs. They are the contract: bodies are decoded into them, OpenAPI is made of them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent_core.messages import (
    Audio,
    DataClass,
    File,
    Image,
    Message,
    Part,
    Text,
)

Name = Annotated[str, Meta(min_length=1, max_length=128)]
SessionId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9._:@-]+$",
        description="Id of a session; made up by the caller or by an earlier answer. The first message makes it.",
    ),
]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16, description="Up to 16 pairs of your own, stored with the run."),
]
Base64 = Annotated[
    bytes, Meta(min_length=1, description="The bytes in base64.", extra_json_schema={"format": "byte"})
]
FileName = Annotated[str, Meta(max_length=255)]

# Parts as they come in. They are not the stored parts: a caller may not name blobs by reference.


class TextIn(msgspec.Struct, frozen=True, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Words."""

    text: Annotated[str, Meta(min_length=1)]

    def part(self) -> Part:
        """The part as it is stored."""
        return Text(self.text)


class ImageIn(msgspec.Struct, frozen=True, tag="image", tag_field="type", forbid_unknown_fields=True):
    """A picture."""

    media_type: Annotated[str, Meta(pattern=r"^image/[a-z0-9.+-]+$", max_length=127)]
    data: Base64
    name: FileName = ""

    def part(self) -> Part:
        """The part as it is stored."""
        return Image(media_type=self.media_type, data=self.data, name=self.name)


class AudioIn(msgspec.Struct, frozen=True, tag="audio", tag_field="type", forbid_unknown_fields=True):
    """A sound."""

    media_type: Annotated[str, Meta(pattern=r"^audio/[a-z0-9.+-]+$", max_length=127)]
    data: Base64
    name: FileName = ""

    def part(self) -> Part:
        """The part as it is stored."""
        return Audio(media_type=self.media_type, data=self.data, name=self.name)


class FileIn(msgspec.Struct, frozen=True, tag="file", tag_field="type", forbid_unknown_fields=True):
    """Any other file."""

    media_type: Annotated[str, Meta(pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+$", max_length=127)]
    data: Base64
    name: FileName = ""

    def part(self) -> Part:
        """The part as it is stored."""
        return File(media_type=self.media_type, data=self.data, name=self.name)


PartIn = TextIn | ImageIn | AudioIn | FileIn


class MessageIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message: who says it, and its parts."""

    parts: Annotated[list[PartIn], Meta(min_length=1, max_length=100)]
    role: Literal["user", "assistant", "system"] = "user"

    def message(self, data_class: DataClass) -> Message:
        """The message as the engine takes it."""
        return Message(role=self.role, parts=tuple(part.part() for part in self.parts), data_class=data_class)


class AgentRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message for an agent: either `message` or `messages`."""

    message: (
        Annotated[
            str, Meta(min_length=1, description="What the user says: a string, or a message with parts.")
        ]
        | MessageIn
        | msgspec.UnsetType
    ) = msgspec.UNSET
    messages: Annotated[list[MessageIn], Meta(min_length=1, max_length=1000)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    session_id: SessionId | None = None
    agent: Annotated[Name, Meta(description="Which agent answers; without it, the default one.")] | None = (
        None
    )
    stream: (
        Annotated[
            bool, Meta(description="Answer as server-sent events; without it, the Accept header decides.")
        ]
        | None
    ) = None
    mode: Annotated[
        Literal["sync", "async"],
        Meta(
            description="`async` answers 202 at once; look at the run, or follow its events, whenever you like."
        ),
    ] = "sync"
    callback: (
        Annotated[
            str,
            Meta(
                max_length=2048,
                description="https address that the end of the run is sent to, signed by Standard Webhooks.",
            ),
        ]
        | None
    ) = None
    metadata: Metadata = {}
    data_class: (
        Annotated[
            DataClass, Meta(description="How sensitive the message is; without it, the service's setting.")
        ]
        | None
    ) = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer to a question of a run; `hash` is the question's, so that it counts for those arguments alone."""

    hash: Annotated[str, Meta(min_length=1, max_length=128)]
    code: Annotated[
        str, Meta(max_length=32, description="Six digits of your authenticator app, where it is needed.")
    ] = ""


class Lift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is stopped. An agent or a tool has a `name`; a tenant, your own, has none."""

    kind: Literal["agent", "tool", "tenant"]
    name: Annotated[str, Meta(max_length=128)] = ""


class Kill(Lift, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall stop, and why: users and the journal are told the reason."""

    reason: Annotated[str, Meta(max_length=500)] = ""


class RunsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of a list, newest first."""

    limit: Annotated[int, Meta(ge=1, le=200, description="How many at most.")] = 50
    before: Annotated[str, Meta(max_length=128, description="`next` of the page before.")] = ""


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of a session's messages, oldest first."""

    after: Annotated[
        int, Meta(ge=0, le=2**53, description="`next` of the page before: a message's `seq`.")
    ] = 0
    limit: Annotated[int, Meta(ge=1, le=200, description="How many at most.")] = 100


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of the audit log, oldest first."""

    after: Annotated[
        int, Meta(ge=0, le=10**12 - 1, description="`next` of the page before: a line's number.")
    ] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many at most.")] = 100


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters."""
