"""WeCom (enterprise WeChat): messages to an application in; answers by the application, as text or as Markdown.

https://developer.work.weixin.qq.com/document/path/90238 (in), .../90236 (out: 2,048 bytes; what is longer is cut),
.../91039 (access token), .../90254 (files)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, attachment, plain
from agent_core.channels.calls import json_request, read_answer, refused
from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, read_json, read_xml, text_at
from agent_core.channels.schemes.envelope import Envelope
from agent_core.channels.split import utf8_bytes
from agent_core.channels.tokens import AccessToken
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError, ConfigError, MalformedError, SignatureError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

# Read before anything is verified, so by no XML parser.
_ENCRYPT = re.compile(rb"<Encrypt>\s*(?:<!\[CDATA\[)?([A-Za-z0-9+/=]+)(?:\]\]>)?\s*</Encrypt>")

STALE = (40001, 40014, 42001)
"""Codes of a token that is wrong or has ended. https://developer.work.weixin.qq.com/document/path/90313"""

PASSING = (-1, 45009, 45033)
"""Codes of a busy system, and of too many calls: those are counted by the minute."""

MINUTE = 60.0

MEDIA = {
    "image": "image/jpeg",
    "voice": "audio/amr",
    "video": "video/mp4",
    "file": "application/octet-stream",
}
"""Messages that are a file, with the media type where none is said."""


class WeComOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for WeCom."""

    secret: tuple[str, ...] = ()
    """EncodingAESKey of the callback; several while it is changed."""

    verification_token: tuple[str, ...] = ()
    """Token of the callback; several while it is changed."""

    receiver: str = ""
    """Corp id (or suite id) that messages are for."""

    app_secret: str = ""
    """Secret of the application, for its access token; without it nothing is answered in the chat."""

    markdown: bool = False
    """Whether answers are Markdown, which WeCom shows and the WeChat plug-in does not."""

    api: str = "https://qyapi.weixin.qq.com"
    """Base URL of the API."""


class WeCom(Channel):
    """An application of WeCom's."""

    Options = WeComOptions
    limit = 2048

    def __init__(self, name: str, options: WeComOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        tokens = self.secrets("verification_token", least=3)
        self._envelope = Envelope(tokens, self.secrets("secret"), options.receiver)
        if options.app_secret and not options.receiver:
            raise ConfigError("RECEIVER (the corp id) is not set: no access token could be had without it")
        self._token = AccessToken(self._fetch_token, clock)

    async def verify(self, hook: Webhook) -> bytes:
        """The message in the clear; for a GET, the word that is to be said back."""
        return self._envelope.open(
            hook.parameter("msg_signature"),
            hook.parameter("timestamp"),
            hook.parameter("nonce"),
            hook.parameter("echostr") if hook.method == "GET" else encrypted(hook.body),
            self.clock.now(),
        )

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The handshake's word, or a message."""
        if hook.method == "GET":
            return Receipt(ack=plain(body.decode("utf-8", "replace")))
        fields = read_xml(body)
        sender, agent = fields.get("FromUserName", ""), fields.get("AgentID", "")
        answered = bool(self.options.app_secret) and agent.isdecimal()
        event = xml_event(
            fields,
            self._parts(fields),
            address=sender if answered else "",
            options={"agent": agent} if answered else {},
        )
        return Receipt(events=event, ack=plain("success"))

    def _parts(self, fields: dict[str, str]) -> tuple[Part, ...]:
        kind, media = fields.get("MsgType", ""), fields.get("MediaId", "")
        if kind in MEDIA and media:
            ref = attachment(self.name, media)
            return (media_part(MEDIA[kind], ref=ref, name=fields.get("FileName", "")),)
        return xml_text(fields)

    def measure(self, text: str) -> int:
        """Bytes of the text as it is sent."""
        return utf8_bytes(self._words(text))

    def _words(self, text: str) -> str:
        return text if self.options.markdown else render(text, PLAIN)

    async def send(self, letter: Letter) -> str:
        """Send a message of the application to one person.

        WeCom can refuse what is the same within a while, but by its words, not by an id: an answer that is given
        twice would be lost, so it is not asked to.
        """
        kind = "markdown" if self.options.markdown else "text"
        asked = {
            "touser": letter.address,
            "msgtype": kind,
            "agentid": int(letter.options["agent"]),
            kind: {"content": self._words(letter.text)},
        }
        url = f"{self.options.api}/cgi-bin/message/send?access_token="
        answer = await self._call(lambda token: json_request("POST", url + token, asked))
        result = self._checked(answer)
        if text_at(result, "invaliduser"):
            raise ChannelRefusedError("WeCom knows no such person in the application's scope")
        return text_at(result, "msgid") or "sent"

    async def _call(self, request: Callable[[str], Request]) -> Response:
        return await self._token.call(
            lambda token: self.wire.send(request(token)), lambda one: _code(one) in STALE
        )

    def _checked(self, answer: Response) -> dict[str, Any]:
        """What a call gave; raises a ChannelError that knows whether it may pass."""
        result = read_answer(answer, self.clock.now(), "WeCom")
        code = result.get("errcode")
        if code in PASSING:
            raise ChannelError(f"WeCom says {code}", retry_after=MINUTE if code != -1 else None)
        if code:
            raise ChannelRefusedError(f"WeCom says {code}")
        return result

    async def _fetch_token(self) -> tuple[str, float]:
        query = urlencode({"corpid": self.options.receiver, "corpsecret": self.options.app_secret})
        answer = await self.wire.send(
            Request(method="GET", url=f"{self.options.api}/cgi-bin/gettoken?{query}")
        )
        result = self._checked(answer)
        token, seconds = text_at(result, "access_token"), result.get("expires_in")
        if not token or not isinstance(seconds, int):
            raise ChannelRefusedError("WeCom gives no access token")
        return token, float(seconds)

    async def fetch(self, handle: str) -> Blob:
        """A file by its media id; what comes as JSON is an error."""

        def request(token: str) -> Request:
            query = urlencode({"access_token": token, "media_id": handle})
            return Request(method="GET", url=f"{self.options.api}/cgi-bin/media/get?{query}")

        answer = await self._call(request)
        if answer.status != 200:
            raise refused(answer, self.clock.now(), "WeCom's file")
        if _code(answer) is not None:
            self._checked(answer)
            raise ChannelRefusedError("WeCom gives no file")
        return Blob(answer.body, answer.headers.get("content-type", "").partition(";")[0])


def _code(answer: Response) -> int | None:
    """The error code of an answer that has one; a file has none."""
    if not answer.body.startswith(b"{"):
        return None
    try:
        code = dig(read_json(answer.body), "errcode")
    except MalformedError:
        return None
    return code if isinstance(code, int) else None


def encrypted(body: bytes) -> str:
    """The encrypted text of an envelope; raises SignatureError."""
    found = _ENCRYPT.findall(body)
    if len(found) != 1:
        raise SignatureError("the body holds no encrypted message")
    text: str = found[0].decode()
    return text


def xml_text(fields: dict[str, str]) -> tuple[Part, ...]:
    """The text of a message of WeCom's or WeChat's, none for anything else."""
    text = fields.get("Content", "").strip()
    return (Text(text),) if fields.get("MsgType") == "text" and text else ()


def xml_event(
    fields: dict[str, str],
    parts: tuple[Part, ...],
    *,
    address: str = "",
    options: dict[str, str] | None = None,
) -> tuple[Event, ...]:
    """A message of WeCom's or WeChat's that says something."""
    sender = fields.get("FromUserName", "")
    if not parts or not sender:
        return ()
    name = fields.get("MsgId") or f"{sender}/{fields.get('CreateTime', '')}"
    app = "/".join(filter(None, (fields.get("ToUserName"), fields.get("AgentID"))))
    return (Event(id=name, app=app, parts=parts, sender=sender, address=address, options=options or {}),)
