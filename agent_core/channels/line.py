"""LINE: messages to an official account. https://developers.line.biz/en/reference/messaging-api/#webhooks"""

from __future__ import annotations

from typing import Any

from agent_core.channels.base import Channel, Event, Options, Receipt
from agent_core.channels.payload import items_at, read_object, text_at
from agent_core.channels.schemes.hmacs import LINE, HmacScheme
from agent_core.clock import Clock
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class LineOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for LINE."""

    secret: tuple[str, ...] = ()
    """Channel secret; several while it is changed."""


class Line(Channel):
    """A channel of LINE's Messaging API."""

    Options = LineOptions

    def __init__(self, name: str, options: LineOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = HmacScheme(LINE, self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by LINE. It signs no time: the id of each event is the guard against repetition."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The messages; the console's "verify" sends none."""
        payload = read_object(body)
        bot = text_at(payload, "destination")
        read = [self._event(event, bot) for event in items_at(payload, "events")]
        return Receipt(events=tuple(event for event in read if event is not None))

    def _event(self, event: Any, bot: str) -> Event | None:
        text = text_at(event, "message", "text").strip()
        sender = text_at(event, "source", "userId")
        if text_at(event, "type") != "message" or not text or not sender:
            return None
        return Event(
            id=text_at(event, "webhookEventId"),
            app=bot,
            parts=(Text(text),),
            sender=sender,
            group=text_at(event, "source", "groupId") or text_at(event, "source", "roomId"),
        )
