"""Discord: slash commands (interactions) and webhook events. https://docs.discord.com/developers/interactions/overview"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agent_core.channels.base import Channel, Event, Options, Receipt, acknowledged
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.ed25519 import Ed25519Scheme
from agent_core.clock import Clock
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire

PING, COMMAND = 1, 2
PONG, LATER = 1, 5
"""Kinds of answers to an interaction: that we are here, and that the answer comes later."""


class DiscordOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Discord."""

    secret: tuple[str, ...] = ()
    """Public key of the application, in hex; several while it is changed."""


class Discord(Channel):
    """An application of Discord's."""

    Options = DiscordOptions

    def __init__(self, name: str, options: DiscordOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = Ed25519Scheme(self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by Discord. It sends wrong signatures on purpose, to see that they are refused."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """A ping, a slash command with text, or an event of the application."""
        payload = read_object(body)
        if "event" in payload or payload.get("type") == 0:
            return self._webhook_event(payload, body)
        if payload.get("type") == PING:
            return Receipt(ack=acknowledged({"type": PONG}))
        if payload.get("type") != COMMAND:
            return Receipt(ack=acknowledged({"type": LATER}))
        return self._command(payload)

    def _command(self, payload: Mapping[str, Any]) -> Receipt:
        text = " ".join(_words(items_at(payload, "data", "options"))).strip()
        sender = text_at(payload, "member", "user", "id") or text_at(payload, "user", "id")
        if not text or not sender:
            return Receipt(ack=acknowledged({"type": LATER}))
        event = Event(
            id=text_at(payload, "id"),
            app=text_at(payload, "application_id"),
            parts=(Text(text),),
            sender=sender,
            group=text_at(payload, "channel_id") if dig(payload, "member") else "",
        )
        return Receipt(events=(event,), ack=acknowledged({"type": LATER}))

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


def _words(options: list[Any]) -> list[str]:
    """The values of a command's options, those of its subcommands too."""
    words = []
    for option in options:
        words += [text_at(option, "value"), *_words(items_at(option, "options"))]
    return [word for word in words if word]
