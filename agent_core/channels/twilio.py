"""Twilio: SMS, and WhatsApp by Twilio. https://www.twilio.com/docs/messaging/guides/webhook-request"""

from __future__ import annotations

import re

from agent_core.channels.base import Channel, Event, Options, Receipt
from agent_core.channels.payload import read_object, text_at
from agent_core.channels.schemes.twilio import TwilioScheme
from agent_core.clock import Clock
from agent_core.errors import MalformedError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Response, Wire

MESSAGE_SID = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
"""Checked, for the signature does not tell where a name ends and its value begins."""

NO_ANSWER = Response(
    status=200, headers={"content-type": "text/xml; charset=utf-8"}, body=b"<Response></Response>"
)
"""TwiML that says nothing: the answer goes by the API."""


class TwilioOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Twilio. It signs the public address: set `SAMPAN_PUBLIC_URL` behind a gateway."""

    secret: tuple[str, ...] = ()
    """Auth token of the account; several while it is changed."""


class Twilio(Channel):
    """A messaging webhook of a Twilio account."""

    Options = TwilioOptions

    def __init__(self, name: str, options: TwilioOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = TwilioScheme(self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed together with its address."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """One message; a status of one of ours is passed over."""
        fields = _texts(body) if body.lstrip().startswith(b"{") else hook.form()
        text, sender = fields.get("Body", "").strip(), fields.get("From", "")
        name = fields.get("MessageSid") or fields.get("SmsSid", "")
        if not MESSAGE_SID.fullmatch(name):
            raise MalformedError("the webhook has no MessageSid")
        if not text or not sender:
            return Receipt(ack=NO_ANSWER)
        event = Event(id=name, app=fields.get("To", ""), parts=(Text(text),), sender=sender)
        return Receipt(events=(event,), ack=NO_ANSWER)


def _texts(body: bytes) -> dict[str, str]:
    payload = read_object(body)
    return {name: text_at(payload, name) for name in payload}
