"""WeChat official accounts: messages in plain or safe mode in; answers as customer-service messages.

https://developers.weixin.qq.com/doc/service/en/guide/dev/push/ (in; whoever is slower than 5 seconds is asked again),
https://developers.weixin.qq.com/doc/service/api/customer/message/api_sendcustommessage (out, within 48 hours),
https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken (access token)

A reply in the answer to the webhook must come within 5 seconds, which no agent can promise: it is never used.
"""

from __future__ import annotations

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Letter, Options, Receipt, plain
from agent_core.channels.calls import json_request
from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.payload import read_xml
from agent_core.channels.schemes.base import fresh, refuse_unless, same
from agent_core.channels.schemes.envelope import Envelope, signature
from agent_core.channels.split import utf8_bytes
from agent_core.channels.weixin import WeixinApi, encrypted, xml_event, xml_parts
from agent_core.clock import Clock
from agent_core.errors import ConfigError
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Wire


class WeChatOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for WeChat. With `secret` and `receiver`, only encrypted messages are taken (safe mode)."""

    verification_token: tuple[str, ...] = ()
    """Token of the server configuration; several while it is changed."""

    secret: tuple[str, ...] = ()
    """EncodingAESKey, for safe mode; several while it is changed."""

    receiver: str = ""
    """App id of the account, for safe mode."""

    app_id: str = ""
    """App id of the account, for answers; unset, the one of safe mode."""

    app_secret: str = ""
    """App secret of the account, for its access token; without it nothing is answered in the chat."""

    api: str = "https://api.weixin.qq.com"
    """Base URL of the API."""


class WeChat(Channel):
    """An official account of WeChat's. In plain mode the signature does not cover the body: prefer safe mode."""

    Options = WeChatOptions
    limit = 2048

    def __init__(self, name: str, options: WeChatOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._tokens = self.secrets("verification_token", least=3)
        safe = bool(options.secret or options.receiver)
        self._envelope = Envelope(self._tokens, self.secrets("secret"), options.receiver) if safe else None
        self._app_id = options.app_id or options.receiver
        if options.app_secret and not self._app_id:
            raise ConfigError("APP_SECRET is set without APP_ID: no access token could be had")
        if options.app_id and not options.app_secret:
            raise ConfigError("APP_ID is set without APP_SECRET: no access token could be had")
        self._api = WeixinApi(wire, clock, api=options.api, what="WeChat", ask=self._ask_token)

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
        address = fields.get("FromUserName", "") if self.options.app_secret else ""
        return Receipt(
            events=xml_event(fields, xml_parts(self.name, fields), address=address), ack=plain("success")
        )

    def measure(self, text: str) -> int:
        """Bytes of the text as it is sent."""
        return utf8_bytes(render(text, PLAIN))

    async def send(self, letter: Letter) -> str:
        """Send a customer-service message. WeChat can't tell whether it has one: after a crash it may come twice."""
        asked = {
            "touser": letter.address,
            "msgtype": "text",
            "text": {"content": render(letter.text, PLAIN)},
        }
        url = f"{self.options.api}/cgi-bin/message/custom/send?access_token="
        await self._api.call(lambda token: json_request("POST", url + token, asked))
        return "sent"

    def _ask_token(self) -> Request:
        """The stable token: the other kind is ended by whichever process asks next."""
        asked = {
            "grant_type": "client_credential",
            "appid": self._app_id,
            "secret": self.options.app_secret,
        }
        return json_request("POST", f"{self.options.api}/cgi-bin/stable_token", asked)

    async def fetch(self, handle: str) -> Blob:
        """A file by its media id; WeChat keeps it for three days."""
        return await self._api.media(handle)
