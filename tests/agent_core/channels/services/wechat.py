"""Encrypted messages of safe mode, stable_token, message/custom/send, media/get.

https://developers.weixin.qq.com/doc/service/api/customer/message/api_sendcustommessage
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker
from tests.agent_core.channels.services.wecom import AES_KEY, sealed

TOKEN, APP, SECRET, ACCOUNT = "wechat-token", "wx5823bf96d3bd56c8", "app-secret-2", "gh_680bdefc8c5d"


class FakeWeChat(Speaker):
    """Answers each call with 200 and an errcode. Takes messages for those alone who have written to it."""

    kind = "wechat"
    limit = 2048
    groups = False
    LIMITED = Said(value={"errcode": 45011, "errmsg": "api minute-quota reach limit, must slower"})
    REFUSED = Said(
        value={"errcode": 45015, "errmsg": "response out of time limit or subscription is canceled"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.tokens_given = 0
        self.writers: set[str] = set()

    def settings(self) -> dict[str, str]:
        own = {"secret": AES_KEY, "verification_token": TOKEN, "receiver": APP, "app_secret": SECRET}
        return {**own, "api": self.url}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        self.writers.add(who)
        said = f"<Content><![CDATA[{text}]]></Content>"
        if file:
            said = f"<PicUrl><![CDATA[http://mmbiz.qpic.cn/x]]></PicUrl><MediaId><![CDATA[{file}]]></MediaId>"
        xml = (
            f"<xml><ToUserName><![CDATA[{ACCOUNT}]]></ToUserName><FromUserName><![CDATA[{who}]]></FromUserName>"
            f"<CreateTime>{int(now)}</CreateTime><MsgType><![CDATA[{'image' if file else 'text'}]]></MsgType>"
            f"{said}<MsgId>{name}</MsgId></xml>"
        )
        secret, stamp = sealed(xml.encode(), AES_KEY, APP), str(int(now))
        query = {
            "signature": _digest(TOKEN, stamp, "nonce"),
            "timestamp": stamp,
            "nonce": "nonce",
            "openid": who,
            "encrypt_type": "aes",
            "msg_signature": _digest(TOKEN, stamp, "nonce", secret),
        }
        body = f"<xml><ToUserName><![CDATA[{ACCOUNT}]]></ToUserName><Encrypt><![CDATA[{secret}]]></Encrypt></xml>"
        return Hook(body.encode(), {"content-type": "text/xml"}, urlencode(query))

    def size(self, text: str) -> int:
        return len(text.encode())

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.calls.append(parts.path)
        if parts.path == "/cgi-bin/stable_token":
            return self._give_token(json.loads(body))
        if query.get("access_token") != self.token:
            return _error(40001, "invalid credential, access_token is invalid or not latest")
        if parts.path == "/cgi-bin/media/get":
            kind, data = self.files[query["media_id"]]
            return Said(value=data, headers={"content-type": kind})
        if parts.path != "/cgi-bin/message/custom/send" or method != "POST":
            return _error(40066, "invalid url")
        return self._send(json.loads(body))

    def _give_token(self, asked: Mapping[str, Any]) -> Said:
        if asked != {"grant_type": "client_credential", "appid": APP, "secret": SECRET}:
            return _error(40125, "invalid appsecret")
        self.tokens_given += 1
        self.token = f"token-{self.tokens_given}"
        return Said(value={"access_token": self.token, "expires_in": 7200})

    def _send(self, asked: Mapping[str, Any]) -> Said:
        text = asked.get("text", {}).get("content", "")
        if asked["msgtype"] != "text" or not text:
            return _error(44004, "empty content")
        if self.size(text) > self.limit:
            return _error(45002, "content size out of limit")
        if asked["touser"] not in self.writers:
            return self.REFUSED
        self.add(text, where=asked["touser"])
        return _error(0, "ok")


def _digest(*parts: str) -> str:
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()


def _error(code: int, words: str) -> Said:
    return Said(value={"errcode": code, "errmsg": words})
