"""What WeCom and WeChat have in common: messages in XML, calls with an access token, and errors that come with a 200.

https://developer.work.weixin.qq.com/document/path/90313 (codes of WeCom),
https://developers.weixin.qq.com/doc/oplatform/developers/errCode/errCode.html (codes of WeChat)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from agent_core.blobs.base import Blob
from agent_core.channels.base import Event, attachment
from agent_core.channels.calls import read_answer, refused
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, read_json, text_at
from agent_core.channels.tokens import AccessToken
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError, MalformedError, SignatureError
from agent_core.messages import Part, Text
from agent_core.wire.base import Request, Response, Wire

# Read before anything is verified, so by no XML parser.
_ENCRYPT = re.compile(rb"<Encrypt>\s*(?:<!\[CDATA\[)?([A-Za-z0-9+/=]+)(?:\]\]>)?\s*</Encrypt>")

STALE = (40001, 40014, 42001)
"""Codes of a token that is wrong or has ended."""

PASSING = (-1, 45009, 45011, 45033)
"""Codes of a busy system, and of too many calls: those are counted by the minute."""

MINUTE = 60.0

MEDIA = {
    "image": "image/jpeg",
    "voice": "audio/amr",
    "video": "video/mp4",
    "file": "application/octet-stream",
}
"""Messages that are a file, with the media type where none is said."""


class WeixinApi:
    """The API of an account: `what` is its name in errors, `ask` the request for an access token."""

    def __init__(self, wire: Wire, clock: Clock, *, api: str, what: str, ask: Callable[[], Request]) -> None:
        self._wire = wire
        self._clock = clock
        self._api = api
        self._what = what
        self._ask = ask
        self._token = AccessToken(self._fetch_token, clock)

    async def call(self, request: Callable[[str], Request]) -> dict[str, Any]:
        """What a call with the token gave; raises a ChannelError that knows whether it may pass."""
        return self._checked(await self._send(request))

    async def media(self, handle: str) -> Blob:
        """A file by its media id; what comes as JSON is an error."""

        def request(token: str) -> Request:
            query = urlencode({"access_token": token, "media_id": handle})
            return Request(method="GET", url=f"{self._api}/cgi-bin/media/get?{query}")

        answer = await self._send(request)
        if answer.status != 200:
            raise refused(answer, self._clock.now(), f"{self._what}'s file")
        if _code(answer) is not None:
            self._checked(answer)
            raise ChannelRefusedError(f"{self._what} gives no file")
        return Blob(answer.body, answer.headers.get("content-type", "").partition(";")[0])

    async def _send(self, request: Callable[[str], Request]) -> Response:
        return await self._token.call(
            lambda token: self._wire.send(request(token)), lambda one: _code(one) in STALE
        )

    def _checked(self, answer: Response) -> dict[str, Any]:
        result = read_answer(answer, self._clock.now(), self._what)
        code = result.get("errcode")
        if code in PASSING:
            raise ChannelError(f"{self._what} says {code}", retry_after=MINUTE if code != -1 else None)
        if code:
            raise ChannelRefusedError(f"{self._what} says {code}")
        return result

    async def _fetch_token(self) -> tuple[str, float]:
        result = self._checked(await self._wire.send(self._ask()))
        token, seconds = text_at(result, "access_token"), result.get("expires_in")
        if not token or not isinstance(seconds, int):
            raise ChannelRefusedError(f"{self._what} gives no access token")
        return token, float(seconds)


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


def xml_parts(channel: str, fields: dict[str, str]) -> tuple[Part, ...]:
    """What a message holds: text or a file, nothing where it is anything else."""
    kind, media = fields.get("MsgType", ""), fields.get("MediaId", "")
    if kind in MEDIA and media:
        return (media_part(MEDIA[kind], ref=attachment(channel, media), name=fields.get("FileName", "")),)
    text = fields.get("Content", "").strip()
    return (Text(text),) if kind == "text" and text else ()


def xml_event(
    fields: dict[str, str],
    parts: tuple[Part, ...],
    *,
    address: str = "",
    options: dict[str, str] | None = None,
) -> tuple[Event, ...]:
    """A message that says something."""
    sender = fields.get("FromUserName", "")
    if not parts or not sender:
        return ()
    name = fields.get("MsgId") or f"{sender}/{fields.get('CreateTime', '')}"
    app = "/".join(filter(None, (fields.get("ToUserName"), fields.get("AgentID"))))
    return (Event(id=name, app=app, parts=parts, sender=sender, address=address, options=options or {}),)
