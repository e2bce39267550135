"""WeCom (enterprise WeChat): messages to an application. https://developer.work.weixin.qq.com/document/path/90238"""

from __future__ import annotations

import re

from agent_core.channels.base import Channel, Event, Options, Receipt, plain
from agent_core.channels.payload import read_xml
from agent_core.channels.schemes.envelope import Envelope
from agent_core.clock import Clock
from agent_core.errors import SignatureError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire

# Read before anything is verified, so by no XML parser.
_ENCRYPT = re.compile(rb"<Encrypt>\s*(?:<!\[CDATA\[)?([A-Za-z0-9+/=]+)(?:\]\]>)?\s*</Encrypt>")


class WeComOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for WeCom."""

    secret: tuple[str, ...] = ()
    """EncodingAESKey of the callback; several while it is changed."""

    verification_token: tuple[str, ...] = ()
    """Token of the callback; several while it is changed."""

    receiver: str = ""
    """Corp id (or suite id) that messages are for."""


class WeCom(Channel):
    """An application of WeCom's."""

    Options = WeComOptions

    def __init__(self, name: str, options: WeComOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        tokens = self.secrets("verification_token", least=3)
        self._envelope = Envelope(tokens, self.secrets("secret"), options.receiver)

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
        return Receipt(events=xml_message(read_xml(body)), ack=plain("success"))


def encrypted(body: bytes) -> str:
    """The encrypted text of an envelope; raises SignatureError."""
    found = _ENCRYPT.findall(body)
    if len(found) != 1:
        raise SignatureError("the body holds no encrypted message")
    text: str = found[0].decode()
    return text


def xml_message(fields: dict[str, str]) -> tuple[Event, ...]:
    """A text message of WeCom's or WeChat's, none for anything else."""
    sender, text = fields.get("FromUserName", ""), fields.get("Content", "").strip()
    if fields.get("MsgType") != "text" or not sender or not text:
        return ()
    name = fields.get("MsgId") or f"{sender}/{fields.get('CreateTime', '')}"
    app = "/".join(filter(None, (fields.get("ToUserName"), fields.get("AgentID"))))
    return (Event(id=name, app=app, parts=(Text(text),), sender=sender),)
