"""The words that every part of Sampan speaks: messages and their parts, tool calls, prompts, replies.

All are frozen msgspec structs. What is stored goes through `to_record` and `from_record`, which write and read
versioned JSON: a record of an old version is upgraded when it is read, so old sessions stay readable for ever.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from agent_core.errors import UnreadableError

VERSION = 1
"""The version that `to_record` writes."""

INLINE_LIMIT = 64 * 1024
"""Bytes of a part that may stand in a record; a larger part goes to the blob store by reference."""

DataClass = Literal["public", "internal", "confidential", "restricted"]
"""How sensitive a message is, from least to most."""

DATA_CLASSES: tuple[DataClass, ...] = ("public", "internal", "confidential", "restricted")

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls", "filter"]
Effects = Literal["none", "repeatable", "once"]
RunStatus = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]


class Text(msgspec.Struct, frozen=True, tag="text", tag_field="type", omit_defaults=True):
    """Words; where they are long, `text` is only their beginning and `ref` names the blob that holds all."""

    text: str
    ref: str = ""


class _Media(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """Bytes of a media type, inline in `data` (base64 in JSON) or in the blob store under `ref`."""

    media_type: str
    data: bytes = b""
    ref: str = ""
    name: str = ""

    def data_url(self) -> str:
        """The inline bytes as a data: URL (RFC 2397)."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


class Image(_Media, frozen=True, tag="image", omit_defaults=True):
    """A picture."""


class Audio(_Media, frozen=True, tag="audio", omit_defaults=True):
    """A sound."""


class File(_Media, frozen=True, tag="file", omit_defaults=True):
    """Any other file."""


Part = Text | Image | Audio | File


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's wish to call a tool; `arguments` is the JSON text just as the model wrote it."""

    id: str
    name: str
    arguments: str = "{}"


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tool gave back, as the model will read it.

    `error` marks a failure that the model may react to; `ref` names the blob that holds the whole result where
    `content` is only its beginning. Unless it is `trusted`, whoever wrote what the tool read may speak in it.
    """

    call_id: str
    name: str
    content: str
    error: bool = False
    ref: str = ""
    trusted: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a conversation.

    `seq` is its place in the session (from 1, given at commit), `created_at` seconds since 1970.
    An assistant's message may hold `tool_calls`; the message of role "tool" that follows holds their results.
    A `hidden` message stays in the transcript but is not given to a model again: its run failed.
    `untrusted` names where text in it came from that is not the user's own ("webhook github", "file bill.pdf"); in an
    assistant's message, what untrusted text the model had read when it wrote this.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    seq: int = 0
    run_id: str = ""
    created_at: float = 0.0
    data_class: DataClass = "internal"
    metadata: dict[str, str] = {}
    hidden: bool = False
    untrusted: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words of all text parts."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @classmethod
    def of(cls, role: Role, text: str, **fields: Any) -> Message:
        """A message of one text part."""
        return cls(role=role, parts=(Text(text),) if text else (), **fields)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one or more model calls. `cached_input` is a part of `input`, `reasoning` a part of `output`.

    `cache_write` (a part of `input`) counts what a provider charges extra for putting into its prompt cache.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            cached_input=self.cached_input + other.cached_input,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            cache_write=self.cache_write + other.cache_write,
        )


class ToolSpec(msgspec.Struct, frozen=True):
    """What a model is told of a tool; `schema` is a JSON schema (2020-12) of an object."""

    name: str
    description: str
    schema: dict[str, Any]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What goes to a model. `output_schema` asks for JSON of that schema. Parts are inline, never by reference."""

    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    output_schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model call gave. `model` is the name the provider says it used, `batch` that a batch's price holds."""

    message: Message
    usage: Usage = Usage()
    model: str = ""
    finish: Finish = "stop"
    batch: bool = False


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of a reply while it streams: a bit of text or reasoning, or, as the last one, the whole reply."""

    text: str = ""
    reasoning: str = ""
    reply: Reply | None = None


class Principal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who is calling."""

    tenant: str = "default"
    user: str = "local"
    scopes: tuple[str, ...] = ()

    def same(self, other: Principal) -> bool:
        """Whether it is the same person, whatever they may do this time."""
        return self.tenant == other.tenant and self.user == other.user


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What tools and plugins may know of the run they work in. Never the agent.

    `deadline` is in seconds since 1970 (0: none), `spent` in nano-dollars (10^-9 USD).
    `idempotency_key` is the same whenever the same step is tried again. `egress` are the hosts that the agent may send
    to, None for any: a tool that sends somewhere must look.
    """

    session_id: str
    run_id: str
    agent: str
    step: int = 0
    principal: Principal = Principal()
    data_class: DataClass = "internal"
    channel: str = "api"
    deadline: float = 0.0
    spent: int = 0
    idempotency_key: str = ""
    egress: tuple[str, ...] | None = None


S = TypeVar("S", bound=msgspec.Struct)

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


class Upgrades:
    """How to bring a record of an old version one version up, by struct and version.

    Empty at version 1. A change that old records can't be read with adds a line here and raises VERSION.
    """

    table: ClassVar[dict[tuple[type[msgspec.Struct], int], Upgrade]] = {}


def sound(value: S) -> S:
    """A struct of a user's making, after checking that it can be stored and sent.

    Making a struct checks nothing, so a number may stand where text belongs, or text hold half a surrogate pair.
    Raises ValueError that says what is wrong.
    """
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


def to_record(value: msgspec.Struct) -> dict[str, Any]:
    """The struct as JSON-ready fields with its version under `v`."""
    fields: dict[str, Any] = msgspec.to_builtins(value)
    fields["v"] = VERSION
    return fields


def from_record(kind: type[S], fields: dict[str, Any]) -> S:
    """The struct that `to_record` wrote, now or in any earlier version. Unknown fields are passed over.

    Raises UnreadableError where the record was written by a newer Sampan or is no such struct.
    """
    version = fields.get("v", 1)
    if not isinstance(version, int):
        raise UnreadableError(f"a stored {kind.__name__} can't be read: its version is {version!r}")
    if version > VERSION:
        raise UnreadableError(f"record of version {version}: this Sampan reads up to {VERSION}; update it")
    while version < VERSION:
        step = Upgrades.table.get((kind, version))
        fields = step(fields) if step else fields
        version += 1
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise UnreadableError(f"a stored {kind.__name__} can't be read: {error}") from error


def to_json(value: msgspec.Struct) -> bytes:
    """The struct as versioned JSON text."""
    return msgspec.json.encode(to_record(value))


def from_json(kind: type[S], data: bytes | str) -> S:
    """The struct from versioned JSON text; raises UnreadableError where that can't be."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UnreadableError(f"a stored {kind.__name__} is not JSON: {error}") from error
    return from_record(kind, fields)
