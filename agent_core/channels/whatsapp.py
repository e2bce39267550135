"""WhatsApp Cloud API: messages to a business number. https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent_core.channels.base import Channel, Event, Options, Receipt, plain
from agent_core.channels.payload import items_at, read_object, text_at
from agent_core.channels.schemes.base import known, same
from agent_core.channels.schemes.hmacs import META, HmacScheme
from agent_core.clock import Clock
from agent_core.errors import HandshakeError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class WhatsAppOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for WhatsApp."""

    secret: tuple[str, ...] = ()
    """App secret of the Meta app; several while it is changed."""

    verify_token: str = ""
    """The word that Meta is told when the webhook is set up."""


class WhatsApp(Channel):
    """A number of the WhatsApp Cloud API."""

    Options = WhatsAppOptions

    def __init__(self, name: str, options: WhatsAppOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = HmacScheme(META, self.secrets("secret"))
        self._verify_token = known([options.verify_token], "the verify token")

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed with the app's secret; or the handshake, with the verify token."""
        if hook.method != "GET":
            return self._scheme.verify(hook, self.clock.now())
        query = hook.query
        given = query.get("hub.verify_token", "")
        if query.get("hub.mode") != "subscribe" or not same([given], self._verify_token):
            raise HandshakeError("hub.verify_token is not the word that is set here")
        return b""

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The messages; what became of ours (statuses) is passed over."""
        if hook.method == "GET":
            return Receipt(ack=plain(hook.query.get("hub.challenge", "")))
        return Receipt(events=tuple(_events(read_object(body))))


def _events(payload: dict[str, Any]) -> Iterator[Event]:
    for entry in items_at(payload, "entry"):
        for change in items_at(entry, "changes"):
            for message in items_at(change, "value", "messages"):
                text = text_at(message, "text", "body").strip()
                if text and text_at(message, "from"):
                    yield Event(
                        id=text_at(message, "id"),
                        app=text_at(change, "value", "metadata", "phone_number_id"),
                        parts=(Text(text),),
                        sender=text_at(message, "from"),
                    )
