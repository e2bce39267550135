"""WhatsApp Cloud API: messages to a business number in; answers in WhatsApp's markup, within 24 hours of a message.

https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks, .../reference/messages (4,096 characters),
.../typing-indicators, .../reference/media, .../support/error-codes
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, attachment, plain
from agent_core.channels.calls import json_of, json_request, lies_with, read_answer, refused
from agent_core.channels.markdown import Dialect, render
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.base import known, same
from agent_core.channels.schemes.hmacs import META, HmacScheme
from agent_core.channels.split import utf16_units
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError, HandshakeError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

log = logging.getLogger("sampan.whatsapp")

PASSING = (1, 2, 4, 80007, 130429, 131000, 131016, 131048, 131056, 133004)
"""Codes of too many calls or messages, and of a service that is down for a while."""

PAUSE_SECONDS = 30.0
"""How long those are waited for: WhatsApp says nothing of it."""

FILES = ("lookaside.fbsbx.com", ".whatsapp.net")
"""Where files lie: the token goes to no other host."""

MEDIA = ("image", "audio", "video", "document", "sticker")


def _quoted(words: str) -> str:
    return "\n".join(f"> {line}" for line in words.split("\n"))


MARKUP = Dialect(
    escape=lambda text: text,
    bold=lambda words: f"*{words}*",
    italic=lambda words: f"_{words}_",
    strike=lambda words: f"~{words}~",
    quote=_quoted,
    code=lambda code: f"`{code}`",
    block=lambda language, code: f"```\n{code}\n```",
    link=lambda words, url: words if words == url else f"{words} ({url})",
)
"""https://faq.whatsapp.com/539178204879377"""


class WhatsAppOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for WhatsApp."""

    secret: tuple[str, ...] = ()
    """App secret of the Meta app; several while it is changed."""

    verify_token: str = ""
    """The word that Meta is told when the webhook is set up."""

    token: str = ""
    """Access token of a system user; without it nothing is answered in the chat."""

    api: str = "https://graph.facebook.com/v23.0"
    """Base URL of the Graph API, with its version."""


class WhatsApp(Channel):
    """A number of the WhatsApp Cloud API."""

    Options = WhatsAppOptions
    limit = 4096
    typing_seconds = 20.0

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
        """The messages. Of what became of ours (statuses), what was not delivered is logged, the rest passed over."""
        if hook.method == "GET":
            return Receipt(ack=plain(hook.query.get("hub.challenge", "")))
        payload = read_object(body)
        changes = [change for entry in items_at(payload, "entry") for change in items_at(entry, "changes")]
        for status in (one for change in changes for one in items_at(change, "value", "statuses")):
            if text_at(status, "status") == "failed":
                self._log_failed(status)
        return Receipt(events=tuple(self._events(changes)))

    def _log_failed(self, status: Any) -> None:
        """WhatsApp may take a message and say afterwards that it did not arrive, as after the 24 hours (131047)."""
        codes = ", ".join(text_at(error, "code") for error in items_at(status, "errors"))
        answer = text_at(status, "biz_opaque_callback_data") or text_at(status, "id")
        log.warning("channel=<%s>, answer=<%s> | not delivered, WhatsApp says %s", self.name, answer, codes)

    def _events(self, changes: list[Any]) -> Iterator[Event]:
        for change in changes:
            number = text_at(change, "value", "metadata", "phone_number_id")
            for message in items_at(change, "value", "messages"):
                parts, sender = self._parts(message), text_at(message, "from")
                if parts and sender:
                    yield Event(
                        id=text_at(message, "id"),
                        app=number,
                        parts=parts,
                        sender=sender,
                        address=sender if self.options.token and number.isdecimal() else "",
                        options={"number": number, "message": text_at(message, "id")},
                    )

    def _parts(self, message: Any) -> tuple[Part, ...]:
        """Text, a button that was pressed, or a file with its caption."""
        kind = text_at(message, "type")
        words = (
            text_at(message, "text", "body")
            or text_at(message, kind, "caption")
            or text_at(message, "button", "text")
            or text_at(message, "interactive", "button_reply", "title")
            or text_at(message, "interactive", "list_reply", "title")
        ).strip()
        parts: list[Part] = [Text(words)] if words else []
        if kind in MEDIA and text_at(message, kind, "id"):
            media = text_at(message, kind, "mime_type").partition(";")[0]
            ref = attachment(self.name, text_at(message, kind, "id"))
            parts.append(media_part(media, ref=ref, name=text_at(message, kind, "filename")))
        return tuple(parts)

    def measure(self, text: str) -> int:
        """UTF-16 units of the text as it is sent."""
        return utf16_units(render(text, MARKUP))

    async def send(self, letter: Letter) -> str:
        """Send one message. WhatsApp can't tell whether it has one: after a crash it may come twice."""
        asked = {
            "recipient_type": "individual",
            "to": letter.address,
            "type": "text",
            "text": {"preview_url": False, "body": render(letter.text, MARKUP)},
            "biz_opaque_callback_data": letter.id,
        }
        for message in items_at(await self._post(letter.options, asked), "messages"):
            return text_at(message, "id")
        return "sent"

    async def typing(self, address: str, options: Mapping[str, str]) -> None:
        """Mark the message as read and show the typing sign, for 25 seconds at most."""
        asked = {"status": "read", "message_id": options["message"], "typing_indicator": {"type": "text"}}
        await self._post(options, asked)

    async def _post(self, options: Mapping[str, str], asked: Mapping[str, Any]) -> dict[str, Any]:
        url = f"{self.options.api}/{options['number']}/messages"
        asked = {"messaging_product": "whatsapp", **asked}
        return self._checked(await self.wire.send(json_request("POST", url, asked, token=self.options.token)))

    def _checked(self, answer: Response) -> dict[str, Any]:
        """What a call gave; raises a ChannelError that knows whether it may pass."""
        if answer.status == 200:
            return read_answer(answer, self.clock.now(), "WhatsApp")
        code = dig(json_of(answer, "WhatsApp"), "error", "code")
        error = refused(answer, self.clock.now(), f"WhatsApp says {code}: it")
        if code in PASSING and not error.retryable:
            raise ChannelError(error.detail, retry_after=PAUSE_SECONDS)
        raise error

    async def fetch(self, handle: str) -> Blob:
        """A file by its media id: where it lies is asked first, for five minutes."""
        if not handle.isalnum():
            raise ChannelRefusedError("the file has no proper id")
        headers = {"authorization": f"Bearer {self.options.token}"}
        request = Request(method="GET", url=f"{self.options.api}/{handle}", headers=headers)
        url = text_at(self._checked(await self.wire.send(request)), "url")
        if not lies_with(url, FILES, self.options.api):
            raise ChannelRefusedError("WhatsApp does not say where the file is")
        return await self.download(url, "WhatsApp's file", headers)
