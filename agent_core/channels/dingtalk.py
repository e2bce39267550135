"""DingTalk: messages to a robot in HTTP mode, answered by the session's webhook or the robot; encrypted callbacks too.

https://open.dingtalk.com/document/development/http-callback-overview, .../orgapp/receive-message (in),
.../orgapp/robot-reply-and-send-messages (session webhook),
.../development/the-robot-sends-a-group-message (15,000 bytes),
.../development/download-the-file-content-of-the-robot-receiving-message
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, acknowledged, attachment
from agent_core.channels.calls import json_request, lies_with, read_answer
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.envelope import Envelope
from agent_core.channels.schemes.hmacs import DINGTALK_ROBOT, HmacScheme
from agent_core.channels.split import utf8_bytes
from agent_core.channels.tokens import AccessToken
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError, ConfigError, MalformedError, SignatureError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Response, Wire

HOUR = 3600.0
MINUTE = 60.0

PASSING = (-1, 130101, 90030)
"""Codes of a busy system, and of too many messages: those are counted by the minute."""

ENDED = (300001, 400102, 310000)
"""Codes of a session webhook that is known no more."""

SESSIONS = ("oapi.dingtalk.com", "api.dingtalk.com")
"""Where session webhooks lie."""

MARGIN = 60.0
"""Seconds before its end from which a session webhook is not used any more."""

FILES = {
    "picture": "image/jpeg",
    "audio": "audio/amr",
    "video": "video/mp4",
    "file": "application/octet-stream",
}
"""Messages that are a file, with the media type where none is said."""


class DingTalkOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for DingTalk: for the robot, for encrypted callbacks, or for both."""

    app_secret: tuple[str, ...] = ()
    """App secret, by which messages to the robot are signed; several while it is changed."""

    secret: tuple[str, ...] = ()
    """EncodingAESKey of the event callback; several while it is changed."""

    verification_token: tuple[str, ...] = ()
    """Token of the event callback; several while it is changed."""

    receiver: str = ""
    """App key, suite key or corp id that callbacks are for."""

    app_key: str = ""
    """App key (client id), for the robot's access token: files, and answers after the session's webhook has ended."""

    api: str = "https://api.dingtalk.com"
    """Base URL of the API."""


class DingTalk(Channel):
    """An app of DingTalk's."""

    Options = DingTalkOptions
    limit = 14_000
    pause = 3.0  # 20 messages a minute

    def __init__(self, name: str, options: DingTalkOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        if not (options.app_secret or options.secret):
            raise ConfigError(
                "neither APP_SECRET (robot) nor SECRET (callback) is set: nothing could be verified"
            )
        if options.app_key and not options.app_secret:
            raise ConfigError("APP_KEY is set without APP_SECRET: no access token could be had")
        self._token = AccessToken(self._fetch_token, clock)
        self._robot = HmacScheme(DINGTALK_ROBOT, self.secrets("app_secret")) if options.app_secret else None
        self._envelope: Envelope | None = None
        if options.secret:
            tokens = self.secrets("verification_token", least=3)
            self._envelope = Envelope(
                tokens, self.secrets("secret"), options.receiver, tolerance=HOUR, milliseconds=True
            )

    async def verify(self, hook: Webhook) -> bytes:
        """The body of a message to the robot, or a callback in the clear."""
        now = self.clock.now()
        if hook.has("sign") and self._robot is not None:
            return self._robot.verify(hook, now)
        if self._envelope is None:
            raise SignatureError("the header sign must be given once")
        given = hook.query.get("signature") or hook.parameter("msg_signature")
        stamp, nonce = hook.parameter("timestamp"), hook.parameter("nonce")
        try:
            sealed = text_at(read_object(hook.body), "encrypt")
        except MalformedError:
            sealed = ""
        return self._envelope.open(given, stamp, nonce, sealed, now)

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """A message to the robot; or a callback, which is answered by "success", sealed."""
        payload = read_object(body)
        if hook.has("sign") and self._robot is not None:
            return Receipt(events=self._message(payload), ack=acknowledged({}))
        kind = text_at(payload, "EventType")
        if kind.startswith("check_"):
            return Receipt(ack=self._success())
        name = text_at(payload, "eventId") or hashlib.sha256(body).hexdigest()
        event = Event(
            id=name, app=self.options.receiver, parts=(Text(body.decode()),), metadata={"event": kind}
        )
        return Receipt(events=(event,), ack=self._success())

    def _success(self) -> Response:
        assert self._envelope is not None  # only it opens callbacks
        stamp, nonce = str(int(self.clock.now() * 1000)), self.clock.new_id()
        noise = hashlib.sha256(self.clock.new_id().encode()).digest()[:16]
        text, signed = self._envelope.seal(b"success", noise, stamp, nonce)
        return acknowledged({"msg_signature": signed, "timeStamp": stamp, "nonce": nonce, "encrypt": text})

    def _message(self, payload: dict[str, Any]) -> tuple[Event, ...]:
        parts = self._parts(payload)
        sender = text_at(payload, "senderStaffId") or text_at(payload, "senderId")
        if not parts or not sender:
            return ()
        direct = text_at(payload, "conversationType") == "1"
        conversation = text_at(payload, "conversationId")
        options = {
            "session": text_at(payload, "sessionWebhook"),
            "until": text_at(payload, "sessionWebhookExpiredTime"),
            "robot": text_at(payload, "robotCode"),
            "person": text_at(payload, "senderStaffId") if direct else "",
        }
        reachable = options["session"] or self.options.app_key
        return (
            Event(
                id=text_at(payload, "msgId"),
                app=options["robot"] or text_at(payload, "chatbotUserId"),
                parts=parts,
                sender=sender,
                group="" if direct else conversation,
                address=conversation if reachable else "",
                options={name: value for name, value in options.items() if value},
            ),
        )

    def _parts(self, payload: Mapping[str, Any]) -> tuple[Part, ...]:
        """What a message holds: text, rich text with pictures, or a file; a voice note comes with its words."""
        kind, robot = text_at(payload, "msgtype"), text_at(payload, "robotCode")

        def part_of(content: Any, kind: str) -> Part:
            ref = attachment(self.name, f"{robot}/{text_at(content, 'downloadCode')}")
            return media_part(FILES[kind], ref=ref, name=text_at(content, "fileName"))

        content = dig(payload, "content")
        words = (
            text_at(payload, "text", "content") if kind in ("text", "") else text_at(content, "recognition")
        )
        parts: list[Part] = []
        for piece in items_at(content, "richText"):
            words += text_at(piece, "text")
            if text_at(piece, "downloadCode"):
                parts.append(part_of(piece, "picture"))
        if kind in FILES and text_at(content, "downloadCode"):
            parts.append(part_of(content, kind))
        return tuple([Text(words.strip())] if words.strip() else []) + tuple(parts)

    def measure(self, text: str) -> int:
        """Bytes of the text in JSON in JSON, as the robot sends it."""
        return utf8_bytes(text) + text.count("\n") * 2 + text.count('"') * 3 + text.count("\\") * 3

    async def send(self, letter: Letter) -> str:
        """Answer by the session's webhook while it holds, then by the robot. DingTalk can't tell what it has."""
        until = letter.options.get("until", "")
        session = letter.options.get("session", "")
        holds = not until.isdecimal() or self.clock.now() < int(until) / 1000 - MARGIN
        if session and holds and await self._by_session(session, letter):
            return "sent"
        if not self.options.app_key:
            raise ChannelRefusedError("the session's webhook has ended, and APP_KEY is not set")
        return await self._by_robot(letter)

    async def _by_session(self, url: str, letter: Letter) -> bool:
        """Whether the session's webhook took the message; it did not if it has ended."""
        if not lies_with(url, SESSIONS, self.options.api):
            raise ChannelRefusedError("the session's webhook is not DingTalk's")
        asked = {"msgtype": "markdown", "markdown": {"title": _title(letter.text), "text": letter.text}}
        answer = await self.wire.send(json_request("POST", url, asked))
        code = read_answer(answer, self.clock.now(), "DingTalk").get("errcode")
        if code in PASSING:
            raise ChannelError(f"DingTalk says {code}", retry_after=MINUTE if code != -1 else None)
        if code and code not in ENDED:
            raise ChannelRefusedError(f"DingTalk says {code}")
        return not code

    async def _by_robot(self, letter: Letter) -> str:
        """Send as the robot, to one person or to a group."""
        person = letter.options.get("person", "")
        param = {"title": _title(letter.text), "text": letter.text}
        asked: dict[str, Any] = {
            "robotCode": letter.options.get("robot", ""),
            "msgKey": "sampleMarkdown",
            "msgParam": msgspec.json.encode(param).decode(),
        }
        asked |= {"userIds": [person]} if person else {"openConversationId": letter.address}
        path = "oToMessages/batchSend" if person else "groupMessages/send"
        result = await self._call(f"v1.0/robot/{path}", asked)
        return text_at(result, "processQueryKey") or "sent"

    async def _call(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Call the API with the app's token; raises a ChannelError."""

        async def send(token: str) -> Response:
            headers = {"x-acs-dingtalk-access-token": token}
            return await self.wire.send(json_request("POST", f"{self.options.api}/{path}", asked, headers))

        answer = await self._token.call(send, lambda answer: answer.status == 401)
        return read_answer(answer, self.clock.now(), "DingTalk")

    async def _fetch_token(self) -> tuple[str, float]:
        asked = {"appKey": self.options.app_key, "appSecret": self.options.app_secret[0]}
        answer = await self.wire.send(
            json_request("POST", f"{self.options.api}/v1.0/oauth2/accessToken", asked)
        )
        result = read_answer(answer, self.clock.now(), "DingTalk's token service")
        token, seconds = text_at(result, "accessToken"), result.get("expireIn")
        if not token or not isinstance(seconds, int):
            raise ChannelRefusedError("DingTalk gives no access token")
        return token, float(seconds)

    async def fetch(self, handle: str) -> Blob:
        """A file by its code: where it lies is asked first, with the app's token."""
        robot, _, code = handle.partition("/")
        if not self.options.app_key:
            raise ChannelRefusedError("files are read only where APP_KEY is set")
        found = await self._call(
            "v1.0/robot/messageFiles/download", {"downloadCode": code, "robotCode": robot}
        )
        url = text_at(found, "downloadUrl")
        if not url.startswith(("https://", f"{self.options.api}/")):
            raise ChannelRefusedError("DingTalk does not say where the file is")
        return await self.download(url, "DingTalk's file")


def _title(text: str) -> str:
    """What the list of chats shows of a message: its first words."""
    return text.strip().partition("\n")[0].strip("#*>`- ")[:40] or "…"
