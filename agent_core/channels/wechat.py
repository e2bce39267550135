"""WeChat official accounts: messages in plain or safe mode.

https://developers.weixin.qq.com/doc/service/en/guide/dev/push/
"""

from __future__ import annotations

from agent_core.channels.base import Channel, Options, Receipt, plain
from agent_core.channels.payload import read_xml
from agent_core.channels.schemes.base import fresh, refuse_unless, same
from agent_core.channels.schemes.envelope import Envelope, signature
from agent_core.channels.wecom import encrypted, xml_event, xml_text
from agent_core.clock import Clock
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class WeChatOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for WeChat. With `secret` and `receiver`, only encrypted messages are taken (safe mode)."""

    verification_token: tuple[str, ...] = ()
    """Token of the server configuration; several while it is changed."""

    secret: tuple[str, ...] = ()
    """EncodingAESKey, for safe mode; several while it is changed."""

    receiver: str = ""
    """App id of the account, for safe mode."""


class WeChat(Channel):
    """An official account of WeChat's. In plain mode the signature does not cover the body: prefer safe mode."""

    Options = WeChatOptions

    def __init__(self, name: str, options: WeChatOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._tokens = self.secrets("verification_token", least=3)
        safe = bool(options.secret or options.receiver)
        self._envelope = Envelope(self._tokens, self.secrets("secret"), options.receiver) if safe else None

    async def verify(self, hook: Webhook) -> bytes:
        """The message in the clear, or, for a GET, nothing."""
        stamp, nonce, now = hook.parameter("timestamp"), hook.parameter("nonce"), self.clock.now()
        if self._envelope is not None and hook.method != "GET":
            given = hook.parameter("msg_signature")
            return self._envelope.open(given, stamp, nonce, encrypted(hook.body), now)
        fresh(stamp, now)
        given = hook.parameter("signature")
        refuse_unless(same([given], [signature(token, stamp, nonce) for token in self._tokens]))
        return hook.body

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The handshake's word, or a message."""
        if hook.method == "GET":
            return Receipt(ack=plain(hook.query.get("echostr", "")))
        fields = read_xml(body)
        return Receipt(events=xml_event(fields, xml_text(fields)), ack=plain("success"))
