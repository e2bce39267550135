"""Encrypted callbacks, gettoken, message/send, media/get. https://developer.work.weixin.qq.com/document/path/90236"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

AES_KEY = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
TOKEN, CORP, AGENT = "QDG6eK", "wx5823bf96d3bd56c7", 1000002


def sealed(clear: bytes, key_text: str, receiver: str) -> str:
    """base64(AES-256-CBC(16 bytes of noise, length, message, receiver)) as WeCom and DingTalk make it."""
    key = base64.b64decode(key_text + "=")
    data = b"0123456789abcdef" + len(clear).to_bytes(4) + clear + receiver.encode()
    fill = 32 - len(data) % 32
    cipher = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return base64.b64encode(cipher.update(data + bytes([fill]) * fill) + cipher.finalize()).decode()


class FakeWeCom(Speaker):
    """Answers each call with 200 and an errcode, as WeCom does."""

    kind = "wecom"
    limit = 2048
    groups = False
    LIMITED = Said(value={"errcode": 45009, "errmsg": "api freq out of limit"})
    REFUSED = Said(value={"errcode": 48002, "errmsg": "api forbidden"})

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.tokens_given = 0

    def settings(self) -> dict[str, str]:
        own = {"secret": AES_KEY, "verification_token": TOKEN, "receiver": CORP, "app_secret": "app-secret-1"}
        return {**own, "api": self.url}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        said = f"<MediaId>{file}</MediaId>" if file else f"<Content><![CDATA[{text}]]></Content>"
        xml = (
            f"<xml><ToUserName>{CORP}</ToUserName><FromUserName><![CDATA[{who}]]></FromUserName>"
            f"<CreateTime>{int(now)}</CreateTime><MsgType>{'image' if file else 'text'}</MsgType>{said}"
            f"<MsgId>{name}</MsgId><AgentID>{AGENT}</AgentID></xml>"
        )
        secret, stamp = sealed(xml.encode(), AES_KEY, CORP), str(int(now))
        digest = hashlib.sha1("".join(sorted([TOKEN, stamp, "nonce", secret])).encode()).hexdigest()
        query = urlencode({"msg_signature": digest, "timestamp": stamp, "nonce": "nonce"})
        body = f"<xml><ToUserName>{CORP}</ToUserName><Encrypt><![CDATA[{secret}]]></Encrypt></xml>"
        return Hook(body.encode(), {"content-type": "text/xml"}, query)

    def size(self, text: str) -> int:
        return len(text.encode())

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.calls.append(parts.path)
        if parts.path == "/cgi-bin/gettoken":
            if query != {"corpid": CORP, "corpsecret": "app-secret-1"}:
                return _error(40001, "invalid credential")
            self.tokens_given += 1
            self.token = f"token-{self.tokens_given}"
            return Said(value={"errcode": 0, "errmsg": "ok", "access_token": self.token, "expires_in": 7200})
        if query.get("access_token") != self.token:
            return _error(42001, "access_token expired")
        if parts.path == "/cgi-bin/media/get":
            kind, data = self.files[query["media_id"]]
            return Said(value=data, headers={"content-type": kind})
        if parts.path != "/cgi-bin/message/send" or method != "POST":
            return _error(40066, "invalid url")
        return self._send(json.loads(body))

    def _send(self, asked: dict[str, Any]) -> Said:
        kind = asked["msgtype"]
        text = asked.get(kind, {}).get("content", "")
        if kind not in ("text", "markdown") or asked["agentid"] != AGENT:
            return _error(40008, "invalid message type")
        if not text:
            return _error(44004, "text content is empty")
        # What is longer is cut without a word, which nobody may rely on.
        cut = text.encode()[: self.limit].decode("utf-8", "ignore")
        return Said(
            value={"errcode": 0, "errmsg": "ok", "msgid": self.add(cut, where=asked["touser"], kind=kind)}
        )


def _error(code: int, words: str) -> Said:
    return Said(value={"errcode": code, "errmsg": words})
