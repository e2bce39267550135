"""Which part of a conversation the model is given: bounded by count and by the model's window, never cut in a pair."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from agent_core.blobs.base import Blobs, room
from agent_core.engine.runs import Run
from agent_core.messages import INLINE_LIMIT, Message, Part, Principal, Text

MEDIA = 1_600
"""Tokens that a picture, a sound or a file is worth at least; large pictures are scaled down to that."""

BYTES = 250
"""Bytes of a file that are worth a further token: those of documents mostly, a sound or a film has fewer."""

AROUND = 8
"""Tokens around a tool's call or result: its id, its name, brackets."""

RECORD_BUDGET = 256 * 1024
"""Bytes of one message's record; its largest parts are moved to blobs until it fits (DynamoDB takes 400 KB)."""


def tokens(message: Message) -> int:
    """A rough count of what a message is worth to a model, with what its provider writes around it."""
    total = 4
    for part in message.parts:
        total += text_tokens(part.text) if isinstance(part, Text) else MEDIA + len(part.data) // BYTES
    for call in message.tool_calls:
        total += AROUND + text_tokens(call.name) + text_tokens(call.arguments)
    for result in message.tool_results:
        total += AROUND + text_tokens(result.content)
    return total


def text_tokens(text: str) -> int:
    """A rough count: a token is about 4 ASCII characters or one and a half others."""
    plain = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return plain // 4 + (len(text) - plain) * 2 // 3


def beginning(text: str, most: int) -> str:
    """As much of the text's beginning as is worth no more than `most` tokens."""
    text = text[: 4 * most + 3]
    while (worth := text_tokens(text)) > most:
        text = text[: min(len(text) * most // worth, len(text) - 1)]
    return text


def window(history: Sequence[Message], budget: int) -> tuple[Message, ...]:
    """The latest messages that fit the budget of tokens, beginning with a user's message.

    So a tool's result never stands without its call. Messages of failed runs (`hidden`) are left out.
    """
    kept: list[Message] = []
    for message in reversed(history):
        if message.hidden:
            continue
        budget -= tokens(message)
        if budget < 0:
            break
        kept.append(message)
    while kept and kept[-1].role != "user":
        kept.pop()
    return tuple(reversed(kept))


def spills(message: Message) -> bool:
    """Whether the message has parts that don't all stay in its record."""
    return sum(_sizes(message)) > INLINE_LIMIT


def _sizes(message: Message) -> list[int]:
    return [len(part.text.encode()) if isinstance(part, Text) else len(part.data) for part in message.parts]


async def spill(message: Message, blobs: Blobs, principal: Principal, session_id: str) -> Message:
    """The message with its large parts moved to the blob store, so that its record stays small."""
    sizes = _sizes(message)
    if sum(sizes) <= INLINE_LIMIT:
        return message
    left = RECORD_BUDGET - sum(sizes)
    parts: list[Part] = list(message.parts)
    for index in sorted(range(len(parts)), key=lambda place: -sizes[place]):
        if sizes[index] <= INLINE_LIMIT and left >= 0:
            break
        part = parts[index]
        if isinstance(part, Text):
            ref = await blobs.put(
                principal.tenant, room(principal, session_id), part.text.encode(), "text/plain; charset=utf-8"
            )
            parts[index] = msgspec.structs.replace(part, text=part.text[:1000], ref=ref)
        elif not part.ref:
            ref = await blobs.put(principal.tenant, room(principal, session_id), part.data, part.media_type)
            parts[index] = msgspec.structs.replace(part, data=b"", ref=ref)
        left += sizes[index]
    return msgspec.structs.replace(message, parts=tuple(parts))


async def whole(run: Run, blobs: Blobs) -> Run:
    """The run with all words of its reply, also those that are kept by reference: for whoever it is told to."""
    reply = run.reply
    if reply is None or not any(isinstance(part, Text) and part.ref for part in reply.parts):
        return run
    parts = [
        Text((await blobs.get(run.principal.tenant, part.ref)).data.decode())
        if isinstance(part, Text) and part.ref
        else part
        for part in reply.parts
    ]
    return msgspec.structs.replace(run, reply=msgspec.structs.replace(reply, parts=tuple(parts)))


async def inline(messages: Sequence[Message], blobs: Blobs, tenant: str) -> tuple[Message, ...]:
    """The messages with every part that is kept by reference read back in, as a model needs them."""

    async def whole(part: Part) -> Part:
        if not part.ref:
            return part
        blob = await blobs.get(tenant, part.ref)
        if isinstance(part, Text):
            return Text(blob.data.decode())
        return msgspec.structs.replace(part, data=blob.data, ref="")

    async def restored(message: Message) -> Message:
        if not any(part.ref for part in message.parts):
            return message
        parts = await asyncio.gather(*(whole(part) for part in message.parts))
        return msgspec.structs.replace(message, parts=tuple(parts))

    return tuple([await restored(message) for message in messages])
