"""DingTalk: encrypted event callbacks, and messages to a robot in HTTP mode.

https://open.dingtalk.com/document/development/http-callback-overview
"""

from __future__ import annotations

import hashlib
from typing import Any

from agent_core.channels.base import Channel, Event, Options, Receipt, acknowledged
from agent_core.channels.payload import read_object, text_at
from agent_core.channels.schemes.envelope import Envelope
from agent_core.channels.schemes.hmacs import DINGTALK_ROBOT, HmacScheme
from agent_core.clock import Clock
from agent_core.errors import ConfigError, MalformedError, SignatureError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Response, Wire

HOUR = 3600.0


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


class DingTalk(Channel):
    """An app of DingTalk's."""

    Options = DingTalkOptions

    def __init__(self, name: str, options: DingTalkOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        if not (options.app_secret or options.secret):
            raise ConfigError(
                "neither APP_SECRET (robot) nor SECRET (callback) is set: nothing could be verified"
            )
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
            return Receipt(events=_message(payload), ack=acknowledged({}))
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


def _message(payload: dict[str, Any]) -> tuple[Event, ...]:
    text = text_at(payload, "text", "content").strip()
    sender = text_at(payload, "senderStaffId") or text_at(payload, "senderId")
    if not text or not sender:
        return ()
    direct = text_at(payload, "conversationType") == "1"
    return (
        Event(
            id=text_at(payload, "msgId"),
            app=text_at(payload, "robotCode") or text_at(payload, "chatbotUserId"),
            parts=(Text(text),),
            sender=sender,
            group="" if direct else text_at(payload, "conversationId"),
        ),
    )
