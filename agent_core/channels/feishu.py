"""Feishu and Lark: messages to a bot in; answers as rich text, in reply, in the thread where there is one.

https://open.feishu.cn/document/server-docs/im-v1/message/events/receive,
https://open.feishu.cn/document/server-docs/im-v1/message/reply (30 KB; one uuid is one message for
an hour; 5 messages a second); the shape of a click also by events/im/card_action.go of larksuite/cli,
https://open.feishu.cn/document/server-docs/authentication-management/access-token/tenant_access_token_internal
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agent_core.blobs.base import Blob
from agent_core.channels.base import (
    Channel,
    Choice,
    Click,
    Event,
    Letter,
    Options,
    Receipt,
    acknowledged,
    attachment,
)
from agent_core.channels.calls import json_of, json_request, read_answer, refused, stable_uuid
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_json, read_object, text_at
from agent_core.channels.schemes.lark import LarkScheme
from agent_core.channels.tokens import AccessToken
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError, ConfigError, MalformedError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

MESSAGE, PRESSED = "im.message.receive_v1", "card.action.trigger"
_MENTION = re.compile(r"@_(?:user_\d+|all)\s*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")

STALE = (99991661, 99991663, 99991664, 99991668, 99991671)
"""Codes of a token that is missing, wrong or has ended. https://open.feishu.cn/document/server-docs/getting-started/server-error-codes"""

PASSING = (99991400, 11232, 11233, 230020)
"""Codes of too many calls."""

KINDS = {
    "image": ("image/png", "image_key", "image"),
    "file": ("application/octet-stream", "file_key", "file"),
    "audio": ("audio/ogg", "file_key", "file"),
    "media": ("video/mp4", "file_key", "file"),
}
"""Messages that are a file: the usual media type, the field of its key, and the type that is asked for."""


class FeishuOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Feishu and Lark."""

    secret: tuple[str, ...] = ()
    """Encrypt key of the app's event subscription; several while it is changed."""

    verification_token: tuple[str, ...] = ()
    """Verification token of the app; several while it is changed."""

    app_id: str = ""
    """App id (`cli_...`); without it nothing is answered in the chat."""

    app_secret: str = ""
    """App secret, for the app's access token."""

    api: str = "https://open.feishu.cn"
    """Base URL of the API; Lark's is https://open.larksuite.com."""


class Feishu(Channel):
    """An app of Feishu's or Lark's."""

    Options = FeishuOptions
    limit = 30 * 1024 - 512
    pause = 0.3
    buttons = True

    def __init__(self, name: str, options: FeishuOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = LarkScheme(self.secrets("secret"), self.secrets("verification_token"))
        if bool(options.app_id) != bool(options.app_secret):
            raise ConfigError("APP_ID and APP_SECRET are set together, or neither")
        self._token = AccessToken(self._fetch_token, clock)

    async def verify(self, hook: Webhook) -> bytes:
        """The event in the clear."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The handshake, or a message to the bot."""
        payload = read_object(body)
        if payload.get("type") == "url_verification":
            return Receipt(ack=acknowledged({"challenge": text_at(payload, "challenge")}))
        if text_at(payload, "header", "event_type") == PRESSED:
            return Receipt(click=_click(payload), ack=acknowledged({}))
        if text_at(payload, "header", "event_type") != MESSAGE:
            return Receipt(ack=acknowledged({}))
        return Receipt(events=self._message(payload), ack=acknowledged({}))

    def _message(self, payload: dict[str, Any]) -> tuple[Event, ...]:
        message = dig(payload, "event", "message")
        sender = text_at(payload, "event", "sender", "sender_id", "open_id")
        parts = self._parts(message)
        if not parts or not sender or text_at(payload, "event", "sender", "sender_type") == "app":
            return ()
        group = "" if text_at(message, "chat_type") == "p2p" else text_at(message, "chat_id")
        thread = text_at(message, "thread_id")
        options = {"thread": thread, "group": group}
        return (
            Event(
                id=text_at(payload, "header", "event_id"),
                app=text_at(payload, "header", "app_id"),
                parts=parts,
                sender=sender,
                group=group,
                thread=thread,
                address=text_at(message, "message_id") if self.options.app_id else "",
                options={name: value for name, value in options.items() if value},
            ),
        )

    def _parts(self, message: Any) -> tuple[Part, ...]:
        """What a message holds: text, rich text, or a file."""
        kind, mail = text_at(message, "message_type"), text_at(message, "message_id")
        try:
            content = read_object(text_at(message, "content").encode())
        except MalformedError:
            return ()
        if kind in KINDS:
            usual, field, asked = KINDS[kind]
            ref = attachment(self.name, f"{mail}/{text_at(content, field)}/{asked}")
            return (media_part(usual, ref=ref, name=text_at(content, "file_name")),)
        if kind not in ("text", "post"):
            return ()
        words, pictures = ([text_at(content, "text")], []) if kind == "text" else _rich(content)
        text = _MENTION.sub("", "\n".join(words)).strip()
        parts: list[Part] = [Text(text)] if text else []
        parts += [
            media_part("image/png", ref=attachment(self.name, f"{mail}/{key}/image"))
            for key in pictures
            if key
        ]
        return tuple(parts)

    def measure(self, text: str) -> int:
        """Bytes of the message as it is sent: text as JSON, in JSON."""
        return len(msgspec.json.encode(_post(text)))

    async def send(self, letter: Letter) -> str:
        """Reply to the message, as rich text. Sent again within an hour, it is the same message."""
        return await self._reply(letter, "post", _post(letter.text))

    async def ask(self, letter: Letter, choices: tuple[Choice, ...]) -> str:
        """Ask with a card. https://open.feishu.cn/document/feishu-cards/card-json-v1-components/interactive-components/button

        A click does not say whether it came from a group, so the button does.
        """
        group = letter.options.get("group", "")
        buttons = [
            {"tag": "button", "text": {"tag": "plain_text", "content": one.label}}
            | ({"url": one.url} if one.url else {"value": {"sampan": one.value, "group": group}})
            for one in choices
        ]
        words = {"tag": "markdown", "content": letter.text}
        card = {"elements": [words, {"tag": "action", "actions": buttons}]}
        return await self._reply(letter, "interactive", msgspec.json.encode(card).decode())

    def told(self, click: Click, words: str) -> Response:
        """What came of a click, shown for a moment."""
        return acknowledged({"toast": {"type": "info", "content": words}} if words else {})

    async def _reply(self, letter: Letter, kind: str, content: str) -> str:
        asked: dict[str, Any] = {"msg_type": kind, "content": content, "uuid": stable_uuid(letter.id)}
        if letter.options.get("thread"):
            asked["reply_in_thread"] = True
        if not _NAME.fullmatch(letter.address):
            raise ChannelRefusedError("the message to reply to has no proper id")
        url = f"{self.options.api}/open-apis/im/v1/messages/{letter.address}/reply"
        result = await self._call(lambda token: json_request("POST", url, asked, token=token))
        return text_at(result, "data", "message_id")

    async def _call(self, request: Any) -> dict[str, Any]:
        """Call the API with the app's token; raises a ChannelError that knows whether it may pass."""
        answer = await self._token.call(lambda token: self.wire.send(request(token)), _is_stale)
        result = json_of(answer, "Feishu")
        code = result.get("code")
        if code == 0 and answer.status == 200:
            return result
        words = f"Feishu says {code}"
        if code in PASSING:
            wait = answer.headers.get("x-ogw-ratelimit-reset", "")
            raise ChannelError(words, retry_after=float(wait) if wait.isdecimal() else None)
        if answer.status != 200:
            raise refused(answer, self.clock.now(), f"{words} and")
        raise ChannelRefusedError(words)

    async def _fetch_token(self) -> tuple[str, float]:
        url = f"{self.options.api}/open-apis/auth/v3/tenant_access_token/internal"
        asked = {"app_id": self.options.app_id, "app_secret": self.options.app_secret}
        answer = await self.wire.send(json_request("POST", url, asked))
        result = read_answer(answer, self.clock.now(), "Feishu's token service")
        token, seconds = text_at(result, "tenant_access_token"), result.get("expire")
        if result.get("code") != 0 or not token or not isinstance(seconds, int):
            raise ChannelRefusedError(f"Feishu gives no token: {result.get('code')}")
        return token, float(seconds)

    async def fetch(self, handle: str) -> Blob:
        """A file of a message. https://open.feishu.cn/document/server-docs/im-v1/message/get-2"""
        message, _, rest = handle.partition("/")
        key, _, kind = rest.partition("/")
        if not _NAME.fullmatch(message) or not _NAME.fullmatch(key):
            raise ChannelRefusedError("the file has no proper key")
        url = f"{self.options.api}/open-apis/im/v1/messages/{message}/resources/{key}?type={kind}"

        async def send(token: str) -> Response:
            return await self.wire.send(
                Request(method="GET", url=url, headers={"authorization": f"Bearer {token}"})
            )

        answer = await self._token.call(send, _is_stale)
        if answer.status != 200:
            raise refused(answer, self.clock.now(), "Feishu's file")
        return Blob(answer.body, answer.headers.get("content-type", "").partition(";")[0])


def _click(payload: Mapping[str, Any]) -> Click | None:
    """A button of ours that was pressed. https://open.feishu.cn/document/feishu-cards/card-callback-communication"""
    value, sender = dig(payload, "event", "action", "value"), text_at(payload, "event", "operator", "open_id")
    if not sender or not text_at(value, "sampan"):
        return None
    event = Event(
        id=text_at(payload, "header", "event_id"),
        app=text_at(payload, "header", "app_id"),
        parts=(),
        sender=sender,
        group=text_at(value, "group"),
    )
    return Click(event=event, value=text_at(value, "sampan"))


def _post(text: str) -> str:
    """Rich text of one Markdown element. https://open.feishu.cn/document/server-docs/im-v1/message-content-description/create_json"""
    # Only "at" elements mention people; in Markdown the tag would.
    safe = text.replace("<at", "&lt;at").replace("</at", "&lt;/at")
    return msgspec.json.encode({"zh_cn": {"content": [[{"tag": "md", "text": safe}]]}}).decode()


def _is_stale(answer: Response) -> bool:
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return False
    try:
        return dig(read_json(answer.body), "code") in STALE
    except MalformedError:
        return False


def _rich(content: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The lines and the picture keys of a rich text, whether it stands under a language or not."""
    if "content" not in content:
        content = next((value for value in content.values() if isinstance(value, dict)), {})
    words, pictures = [text_at(content, "title")], []
    for line in items_at(content, "content"):
        elements = line if isinstance(line, list) else []
        words.append("".join(text_at(one, "text") for one in elements if dig(one, "tag") != "at"))
        pictures += [text_at(one, "image_key") for one in elements if dig(one, "tag") == "img"]
    return [word for word in words if word], pictures
