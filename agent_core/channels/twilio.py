"""Twilio: SMS, MMS, and WhatsApp by Twilio; answers by Messages.json.

https://www.twilio.com/docs/messaging/guides/webhook-request (in),
https://www.twilio.com/docs/messaging/api/message-resource#create-a-message-resource (out: 1,600 characters)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import urlencode

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, attachment
from agent_core.channels.calls import lies_with, read_answer
from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.media import media_part
from agent_core.channels.payload import read_object, text_at
from agent_core.channels.schemes.twilio import TwilioScheme
from agent_core.channels.split import utf16_units
from agent_core.channels.whatsapp import MARKUP
from agent_core.clock import Clock
from agent_core.errors import ChannelRefusedError, ConfigError, MalformedError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

MESSAGE_SID = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
"""Checked, for the signature does not tell where a name ends and its value begins."""

ACCOUNT_SID = re.compile(r"AC[0-9a-f]{32}")

MAX_FILES = 10
"""Files of one message, at most."""

FILES = ("api.twilio.com",)
"""Where files lie: the auth token goes to no other host. From there they are sent on to a store."""

NO_ANSWER = Response(
    status=200, headers={"content-type": "text/xml; charset=utf-8"}, body=b"<Response></Response>"
)
"""TwiML that says nothing: the answer goes by the API."""


class TwilioOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Twilio. It signs the public address: set `SAMPAN_PUBLIC_URL` behind a gateway."""

    secret: tuple[str, ...] = ()
    """Auth token of the account; several while it is changed. The first one also calls the API."""

    account: str = ""
    """Account SID (`AC...`); without it nothing is answered in the chat."""

    api: str = "https://api.twilio.com"
    """Base URL of the API."""


class Twilio(Channel):
    """A messaging webhook of a Twilio account."""

    Options = TwilioOptions
    limit = 1600

    def __init__(self, name: str, options: TwilioOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = TwilioScheme(self.secrets("secret"))
        if options.account and not ACCOUNT_SID.fullmatch(options.account):
            raise ConfigError("ACCOUNT must be an account SID: AC and 32 hex digits")
        pair = f"{options.account}:{options.secret[0]}"
        self._headers = {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed together with its address."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """One message; a status of one of ours is passed over."""
        fields = _texts(body) if body.lstrip().startswith(b"{") else hook.form()
        sender, number = fields.get("From", ""), fields.get("To", "")
        name = fields.get("MessageSid") or fields.get("SmsSid", "")
        if not MESSAGE_SID.fullmatch(name):
            raise MalformedError("the webhook has no MessageSid")
        parts = self._parts(fields)
        if not parts or not sender:
            return Receipt(ack=NO_ANSWER)
        event = Event(
            id=name,
            app=number,
            parts=parts,
            sender=sender,
            address=sender if self.options.account and number else "",
            options={"number": number},
        )
        return Receipt(events=(event,), ack=NO_ANSWER)

    def _parts(self, fields: Mapping[str, str]) -> tuple[Part, ...]:
        text, count = fields.get("Body", "").strip(), fields.get("NumMedia", "0")
        parts: list[Part] = [Text(text)] if text else []
        for number in range(min(int(count), MAX_FILES) if count.isdecimal() else 0):
            url = fields.get(f"MediaUrl{number}", "")
            if url:
                kind = fields.get(f"MediaContentType{number}", "").partition(";")[0]
                parts.append(media_part(kind, ref=attachment(self.name, url)))
        return tuple(parts)

    def measure(self, text: str) -> int:
        """UTF-16 units of the text: WhatsApp's markup may be longer than what is read, so that counts."""
        return utf16_units(render(text, MARKUP))

    async def send(self, letter: Letter) -> str:
        """Send one message. Twilio can't tell whether it has one: after a crash it may come twice."""
        whatsapp = letter.address.startswith("whatsapp:")
        form = {
            "To": letter.address,
            "From": letter.options["number"],
            "Body": render(letter.text, MARKUP if whatsapp else PLAIN),
        }
        url = f"{self.options.api}/2010-04-01/Accounts/{self.options.account}/Messages.json"
        headers = {**self._headers, "content-type": "application/x-www-form-urlencoded"}
        answer = await self.wire.send(
            Request(method="POST", url=url, headers=headers, body=urlencode(form).encode())
        )
        return text_at(read_answer(answer, self.clock.now(), "Twilio"), "sid")

    async def fetch(self, handle: str) -> Blob:
        """A file that came with a message."""
        if not self.options.account or not lies_with(handle, FILES, self.options.api):
            raise ChannelRefusedError("the file does not lie with Twilio, or ACCOUNT is not set")
        return await self.download(handle, "Twilio's file", self._headers)


def _texts(body: bytes) -> dict[str, str]:
    payload = read_object(body)
    return {name: text_at(payload, name) for name in payload}
