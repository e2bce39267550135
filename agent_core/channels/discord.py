"""Discord: slash commands in; the deferred reply becomes the answer, and follow-ups what is longer.

https://docs.discord.com/developers/interactions/receiving-and-responding (a token answers for 15 minutes; five
follow-ups where the app is installed by the person and not in the server, then code 40094),
https://docs.discord.com/developers/resources/message#create-message (2,000 characters; nonce of 25)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, acknowledged, attachment
from agent_core.channels.calls import json_request, lies_with, read_answer
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.ed25519 import Ed25519Scheme
from agent_core.channels.split import utf16_units
from agent_core.clock import Clock
from agent_core.errors import ChannelRefusedError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Response, Wire

PING, COMMAND = 1, 2
PONG, SAY, LATER, LATER_SAME = 1, 4, 5, 6
"""Answers to an interaction: that we are here, words, that the answer comes later, that a click was seen."""

FILE = 11
"""The kind of a command's option that holds a file."""

ONLY_FOR_YOU, NO_PREVIEWS = 64, 4
"""Flags of a message."""

GONE = (10015, 50027)
"""Codes for an interaction whose token has ended: unknown webhook, invalid webhook token."""

CDN = ("cdn.discordapp.com", "media.discordapp.net")


class DiscordOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Discord."""

    secret: tuple[str, ...] = ()
    """Public key of the application, in hex; several while it is changed."""

    token: str = ""
    """Bot token, for answers that take longer than the 15 minutes of a command; without it they are lost."""

    api: str = "https://discord.com/api/v10"
    """Base URL of Discord's API."""


class Discord(Channel):
    """An application of Discord's."""

    Options = DiscordOptions
    limit = 2000
    edits = True

    def __init__(self, name: str, options: DiscordOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = Ed25519Scheme(self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by Discord. It sends wrong signatures on purpose, to see that they are refused."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """A ping, a slash command with text or a file, or an event of the application."""
        payload = read_object(body)
        if "event" in payload or payload.get("type") == 0:
            return self._webhook_event(payload, body)
        if payload.get("type") == PING:
            return Receipt(ack=acknowledged({"type": PONG}))
        if payload.get("type") != COMMAND:
            return Receipt(ack=acknowledged({"type": LATER_SAME}))
        return self._command(payload)

    def _command(self, payload: Mapping[str, Any]) -> Receipt:
        parts = self._parts(payload)
        sender = text_at(payload, "member", "user", "id") or text_at(payload, "user", "id")
        if not parts or not sender:
            words = {"content": "Write something with the command.", "flags": ONLY_FOR_YOU}
            return Receipt(ack=acknowledged({"type": SAY, "data": words}))
        application, token = text_at(payload, "application_id"), text_at(payload, "token")
        channel = text_at(payload, "channel_id")
        event = Event(
            id=text_at(payload, "id"),
            app=application,
            parts=parts,
            sender=sender,
            group=channel if dig(payload, "member") else "",
            address=f"{application}/{token}" if token else "",
            options={"channel": channel},
        )
        return Receipt(events=(event,), ack=acknowledged({"type": LATER}))

    def _parts(self, payload: Mapping[str, Any]) -> tuple[Part, ...]:
        options = list(_leaves(items_at(payload, "data", "options")))
        text = " ".join(filter(None, (text_at(one, "value") for one in options if dig(one, "type") != FILE)))
        parts: list[Part] = [Text(text.strip())] if text.strip() else []
        for option in options:
            if dig(option, "type") == FILE:
                file = dig(payload, "data", "resolved", "attachments", text_at(option, "value"))
                url, name = text_at(file, "url"), text_at(file, "filename")
                if url:
                    kind = text_at(file, "content_type").partition(";")[0]
                    parts.append(media_part(kind, ref=attachment(self.name, url), name=name))
        return tuple(parts)

    def _webhook_event(self, payload: Mapping[str, Any], body: bytes) -> Receipt:
        """An event of the application; its envelope has no id, so its content is what it is known by."""
        if payload.get("type") == 0:
            return Receipt(ack=acknowledged(status=204))
        kind, application = text_at(payload, "event", "type"), text_at(payload, "application_id")
        digest = hashlib.sha256(body).hexdigest()[:32]
        event = Event(
            id=f"{text_at(payload, 'event', 'timestamp')}/{kind}/{digest}",
            app=application,
            parts=(Text(body.decode()),),
            metadata={"event": kind},
        )
        return Receipt(events=(event,), ack=acknowledged(status=204))

    def measure(self, text: str) -> int:
        """Characters, as Discord's own client counts them. Its markup is Markdown: nothing is added."""
        return utf16_units(text)

    async def send(self, letter: Letter) -> str:
        """The first message takes the place of "thinking..."; sent again it is the same. Others follow it."""
        if letter.number:
            answer = await self._call("POST", f"webhooks/{letter.address}?wait=true", letter)
        else:
            answer = await self._call("PATCH", f"webhooks/{letter.address}/messages/@original", letter)
        return text_at(answer, "id")

    async def edit(self, letter: Letter, sent: str) -> None:
        """Put other words in place of a message's."""
        await self._call("PATCH", f"webhooks/{letter.address}/messages/{sent}", letter)

    async def _call(self, method: str, path: str, letter: Letter) -> dict[str, Any]:
        message = {"content": letter.text, "allowed_mentions": {"parse": []}, "flags": NO_PREVIEWS}
        answer = await self._send(method, path, message)
        if self.options.token and _is_gone(answer):
            # The command's token has ended: the bot says it in the channel, and Discord knows the nonce again.
            nonce = hashlib.sha256(letter.id.encode()).hexdigest()[:25]
            message |= {"nonce": nonce, "enforce_nonce": True}
            answer = await self._send(
                "POST", f"channels/{letter.options['channel']}/messages", message, bot=True
            )
        return read_answer(answer, self.clock.now(), "Discord")

    async def _send(
        self, method: str, path: str, message: Mapping[str, Any], *, bot: bool = False
    ) -> Response:
        headers = {"authorization": f"Bot {self.options.token}"} if bot else {}
        return await self.wire.send(json_request(method, f"{self.options.api}/{path}", message, headers))

    async def fetch(self, handle: str) -> Blob:
        """A file that was given with a command, from Discord's own hosts; it needs no token."""
        if not lies_with(handle, CDN, self.options.api):
            raise ChannelRefusedError("the file does not lie with Discord")
        return await self.download(handle, "Discord's file")


def _is_gone(answer: Response) -> bool:
    return answer.status in (401, 404) and any(b"%d" % code in answer.body for code in GONE)


def _leaves(options: list[Any]) -> list[Any]:
    """A command's options that have a value, those of its subcommands too."""
    found = []
    for option in options:
        found += [option] if dig(option, "value") is not None else _leaves(items_at(option, "options"))
    return found
