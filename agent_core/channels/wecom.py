"""WeCom (enterprise WeChat): messages to an application in; answers by the application, as text or as Markdown.

https://developer.work.weixin.qq.com/document/path/90238 (in), .../90236 (out: 2,048 bytes; what is longer is cut),
.../91039 (access token), .../90254 (files)
"""

from __future__ import annotations

from urllib.parse import urlencode

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Letter, Options, Receipt, plain
from agent_core.channels.calls import json_request
from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.payload import read_xml, text_at
from agent_core.channels.schemes.envelope import Envelope
from agent_core.channels.split import utf8_bytes
from agent_core.channels.weixin import WeixinApi, encrypted, xml_event, xml_parts
from agent_core.clock import Clock
from agent_core.errors import ChannelRefusedError, ConfigError
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Wire


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
    pause = 2.1  # one person gets 30 messages a minute; what is more WeCom drops without a word (.../90236)

    def __init__(self, name: str, options: WeComOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        tokens = self.secrets("verification_token", least=3)
        self._envelope = Envelope(tokens, self.secrets("secret"), options.receiver)
        if options.app_secret and not options.receiver:
            raise ConfigError("RECEIVER (the corp id) is not set: no access token could be had without it")
        self._api = WeixinApi(wire, clock, api=options.api, what="WeCom", ask=self._ask_token)

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
            xml_parts(self.name, fields),
            address=sender if answered else "",
            options={"agent": agent} if answered else {},
        )
        return Receipt(events=event, ack=plain("success"))

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
        result = await self._api.call(lambda token: json_request("POST", url + token, asked))
        if text_at(result, "invaliduser"):
            raise ChannelRefusedError("WeCom knows no such person in the application's scope")
        return text_at(result, "msgid") or "sent"

    def _ask_token(self) -> Request:
        query = urlencode({"corpid": self.options.receiver, "corpsecret": self.options.app_secret})
        return Request(method="GET", url=f"{self.options.api}/cgi-bin/gettoken?{query}")

    async def fetch(self, handle: str) -> Blob:
        """A file by its media id."""
        return await self._api.media(handle)
