"""Feishu and Lark: messages to a bot. https://open.feishu.cn/document/server-docs/im-v1/message/events/receive"""

from __future__ import annotations

import re
from typing import Any

from agent_core.channels.base import Channel, Event, Options, Receipt, acknowledged
from agent_core.channels.payload import dig, read_object, text_at
from agent_core.channels.schemes.lark import LarkScheme
from agent_core.clock import Clock
from agent_core.errors import MalformedError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire

MESSAGE = "im.message.receive_v1"
_MENTION = re.compile(r"@_(?:user_\d+|all)\s*")


class FeishuOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Feishu and Lark."""

    secret: tuple[str, ...] = ()
    """Encrypt key of the app's event subscription; several while it is changed."""

    verification_token: tuple[str, ...] = ()
    """Verification token of the app; several while it is changed."""


class Feishu(Channel):
    """An app of Feishu's or Lark's."""

    Options = FeishuOptions

    def __init__(self, name: str, options: FeishuOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = LarkScheme(self.secrets("secret"), self.secrets("verification_token"))

    async def verify(self, hook: Webhook) -> bytes:
        """The event in the clear."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The handshake, or a message to the bot."""
        payload = read_object(body)
        if payload.get("type") == "url_verification":
            return Receipt(ack=acknowledged({"challenge": text_at(payload, "challenge")}))
        if text_at(payload, "header", "event_type") != MESSAGE:
            return Receipt(ack=acknowledged({}))
        return Receipt(events=self._message(payload), ack=acknowledged({}))

    def _message(self, payload: dict[str, Any]) -> tuple[Event, ...]:
        message = dig(payload, "event", "message")
        sender = text_at(payload, "event", "sender", "sender_id", "open_id")
        if text_at(message, "message_type") != "text" or not sender:
            return ()
        try:
            text = text_at(read_object(text_at(message, "content").encode()), "text")
        except MalformedError:
            return ()
        text = _MENTION.sub("", text).strip()
        direct = text_at(message, "chat_type") == "p2p"
        event = Event(
            id=text_at(payload, "header", "event_id"),
            app=text_at(payload, "header", "app_id"),
            parts=(Text(text),),
            sender=sender,
            group="" if direct else text_at(message, "chat_id"),
            thread=text_at(message, "thread_id"),
        )
        return (event,) if text else ()
