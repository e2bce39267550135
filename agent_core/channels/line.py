"""LINE: messages to an official account in; answers by the reply token, then pushed with a retry key.

https://developers.line.biz/en/reference/messaging-api/ (5,000 UTF-16 units; a reply token serves once, for a minute),
https://developers.line.biz/en/docs/messaging-api/retrying-api-request/ (a key holds 24 hours; only pushes have one),
https://developers.line.biz/en/docs/messaging-api/use-loading-indicator/ (5 to 60 seconds, between two alone),
https://developers.line.biz/en/docs/messaging-api/get-quote-tokens/, and the models of line-bot-sdk
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, attachment
from agent_core.channels.calls import json_of, json_request, read_answer, refused, stable_uuid
from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.hmacs import LINE, HmacScheme
from agent_core.channels.split import utf16_units
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Response, Wire

REPLY_SECONDS = 50.0
"""How long after a message its reply token is tried; LINE takes it for a minute."""

MEDIA = {
    "image": "image/jpeg",
    "video": "video/mp4",
    "audio": "audio/mp4",
    "file": "application/octet-stream",
}
"""Messages that are a file, with the media type where none is said."""


class LineOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for LINE."""

    secret: tuple[str, ...] = ()
    """Channel secret; several while it is changed."""

    token: str = ""
    """Channel access token; without it nothing is answered in the chat."""

    reply: bool = True
    """Whether the first message of an answer goes by the reply token, which costs nothing; pushes never double."""

    api: str = "https://api.line.me"
    """Base URL of the Messaging API."""

    data_api: str = "https://api-data.line.me"
    """Base URL for files."""


class Line(Channel):
    """A channel of LINE's Messaging API."""

    Options = LineOptions
    limit = 5000
    typing_seconds = 20.0

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
        message = dig(event, "message")
        parts = self._parts(message)
        sender = text_at(event, "source", "userId")
        if text_at(event, "type") != "message" or not parts or not sender:
            return None
        group = text_at(event, "source", "groupId") or text_at(event, "source", "roomId")
        if group and not any(
            dig(one, "isSelf") is True for one in items_at(message, "mention", "mentionees")
        ):
            return None  # in a group, who speaks to the bot mentions it
        options = {
            "reply": text_at(event, "replyToken"),
            "at": text_at(event, "timestamp"),
            "quote": text_at(message, "quoteToken") if group else "",
        }
        return Event(
            id=text_at(event, "webhookEventId"),
            app=bot,
            parts=parts,
            sender=sender,
            group=group,
            address=(group or sender) if self.options.token else "",
            options={name: value for name, value in options.items() if value},
        )

    def _parts(self, message: Any) -> tuple[Part, ...]:
        kind, text = text_at(message, "type"), _without_mention(message)
        if kind == "text":
            return (Text(text),) if text else ()
        if kind not in MEDIA or text_at(message, "contentProvider", "type") == "external":
            return ()
        ref = attachment(self.name, text_at(message, "id"))
        return (media_part(MEDIA[kind], ref=ref, name=text_at(message, "fileName")),)

    def measure(self, text: str) -> int:
        """UTF-16 units of the text as it is sent."""
        return utf16_units(render(text, PLAIN))

    async def send(self, letter: Letter) -> str:
        """Reply while the token of the message holds, else push; a push that is tried again is the same message."""
        message = {"type": "text", "text": render(letter.text, PLAIN)}
        if (
            letter.options.get("quote") and not letter.number
        ):  # in a group, so that it is seen whom it answers
            message["quoteToken"] = letter.options["quote"]
        messages = [message]
        token, at = letter.options.get("reply", ""), letter.options.get("at", "")
        fresh = at.isdecimal() and self.clock.now() - int(at) / 1000 < REPLY_SECONDS
        if self.options.reply and token and fresh and not letter.number:
            answer = await self._post("message/reply", {"replyToken": token, "messages": messages})
            if answer.status != 400:
                return _sent(read_answer(answer, self.clock.now(), "LINE"))
            # The token was used or has ended: then it costs a push.
        asked = {"to": letter.address, "messages": messages}
        answer = await self._post("message/push", asked, {"x-line-retry-key": stable_uuid(letter.id)})
        if answer.status == 409:  # it has this one already
            return _sent(json_of(answer, "LINE"))
        return _sent(read_answer(answer, self.clock.now(), "LINE"))

    async def _post(self, path: str, asked: object, headers: Mapping[str, str] | None = None) -> Response:
        url = f"{self.options.api}/v2/bot/{path}"
        return await self.wire.send(json_request("POST", url, asked, headers, token=self.options.token))

    async def typing(self, address: str, options: Mapping[str, str]) -> None:
        """The loading sign, which LINE shows to one person alone."""
        if address.startswith("U"):
            answer = await self._post("chat/loading/start", {"chatId": address, "loadingSeconds": 20})
            if answer.status != 202:
                raise refused(answer, self.clock.now(), "LINE's loading sign")

    async def fetch(self, handle: str) -> Blob:
        """A file by the id of its message; 202 says that LINE is still making it ready."""
        if not handle.isdecimal():
            raise ChannelRefusedError("the file has no proper id")
        try:
            return await self.download(
                f"{self.options.data_api}/v2/bot/message/{handle}/content",
                "LINE's file",
                {"authorization": f"Bearer {self.options.token}"},
            )
        except ChannelRefusedError as error:
            if "202" in error.detail:
                raise ChannelError(error.detail) from error
            raise


def _sent(result: Mapping[str, Any]) -> str:
    """The id of the message that was sent."""
    for one in items_at(result, "sentMessages"):
        return text_at(one, "id")
    return "sent"


def _without_mention(message: Any) -> str:
    """The text without the names of the bot; LINE counts their places in UTF-16 units."""
    units = text_at(message, "text").encode("utf-16-le")
    mine = [one for one in items_at(message, "mention", "mentionees") if dig(one, "isSelf") is True]
    for one in sorted(mine, key=lambda one: -_number(one, "index")):
        start = 2 * _number(one, "index")
        units = units[:start] + units[start + 2 * _number(one, "length") :]
    return units.decode("utf-16-le", "replace").strip()


def _number(value: Any, name: str) -> int:
    found = dig(value, name)
    return found if isinstance(found, int) and 0 <= found <= 20_000 else 0
