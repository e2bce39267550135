"""Encrypted events, the token service, replies and files. https://open.feishu.cn/document/server-docs/im-v1/message/reply"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

KEY, WORD = "encrypt-key-1", "TOK-TOK-1"
_REPLY = re.compile(r"/open-apis/im/v1/messages/(?P<id>om_\w+)/reply")
_FILE = re.compile(r"/open-apis/im/v1/messages/(?P<id>om_\w+)/resources/(?P<key>\w+)\?type=image")


def sealed(clear: bytes) -> str:
    """base64(IV + AES-256-CBC) as Feishu makes it."""
    block, iv = 16, b"0123456789abcdef"
    fill = block - len(clear) % block
    cipher = Cipher(algorithms.AES(hashlib.sha256(KEY.encode()).digest()), modes.CBC(iv)).encryptor()
    return base64.b64encode(iv + cipher.update(clear + bytes([fill]) * fill) + cipher.finalize()).decode()


class FakeFeishu(Speaker):
    """Gives tokens that hold two hours, takes rich text in reply, and knows a uuid again."""

    kind = "feishu"
    limit = 30 * 1024
    once = True
    LIMITED = Said(
        400, {"code": 99991400, "msg": "request trigger frequency limit"}, {"x-ogw-ratelimit-reset": "30"}
    )
    REFUSED = Said(400, {"code": 230002, "msg": "Bot/User can NOT be out of the chat."})

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.tokens_given = 0
        self.values: dict[str, dict[str, str]] = {}
        self.heard: dict[str, str] = {}

    def settings(self) -> dict[str, str]:
        own = {"secret": KEY, "verification_token": WORD, "app_id": "cli_1", "app_secret": "app-secret-1"}
        return {**own, "api": self.url}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        content: dict[str, Any] = {"text": text}
        if file:
            key = file.replace(".", "_")
            content = {
                "title": "",
                "content": [[{"tag": "text", "text": text}], [{"tag": "img", "image_key": key}]],
            }
        self.heard[f"om_{name}"] = group or who
        return self.signed(
            {
                "schema": "2.0",
                "header": {
                    "event_id": name,
                    "event_type": "im.message.receive_v1",
                    "app_id": "cli_1",
                    "token": WORD,
                },
                "event": {
                    "sender": {"sender_id": {"open_id": who}, "sender_type": "user"},
                    "message": {
                        "message_id": f"om_{name}",
                        "chat_id": group or f"oc_{who}",
                        "chat_type": "group" if group else "p2p",
                        "message_type": "post" if file else "text",
                        "content": json.dumps(content),
                    },
                },
            },
            now,
        )

    def buttons(self) -> dict[str, str]:
        _, actions = self.messages[-1]["card"]["elements"]
        assert actions["tag"] == "action"
        self.values = {one["text"]["content"]: one.get("value", {}) for one in actions["actions"]}
        return {
            one["text"]["content"]: one.get("url") or one["value"]["sampan"] for one in actions["actions"]
        }

    def press(self, value: str, *, name: str, who: str, group: str, now: float) -> Hook:
        given = next((one for one in self.values.values() if one.get("sampan") == value), {"sampan": value})
        header = {"event_id": name, "event_type": "card.action.trigger", "app_id": "cli_1", "token": WORD}
        event = {
            "operator": {"open_id": who},
            "token": "c-1",
            "action": {"value": given, "tag": "button"},
            "host": "im_message",
            "context": {"open_message_id": f"om_a{len(self.messages)}", "open_chat_id": group or f"oc_{who}"},
        }
        return self.signed({"schema": "2.0", "header": header, "event": event}, now)

    def signed(self, payload: Any, now: float) -> Hook:
        body = json.dumps({"encrypt": sealed(json.dumps(payload).encode())}).encode()
        stamp = str(int(now))
        digest = hashlib.sha256((stamp + "nonce" + KEY).encode() + body).hexdigest()
        names = ("x-lark-request-timestamp", "x-lark-request-nonce", "x-lark-signature")
        return Hook(body, dict(zip(names, (stamp, "nonce", digest), strict=True)))

    def size(self, text: str) -> int:
        return len(text.encode())

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(path)
        if path == "/open-apis/auth/v3/tenant_access_token/internal":
            if json.loads(body) != {"app_id": "cli_1", "app_secret": "app-secret-1"}:
                return Said(value={"code": 10014, "msg": "app secret invalid"})
            self.tokens_given += 1
            self.token = f"t-{self.tokens_given}"
            return Said(value={"code": 0, "msg": "ok", "tenant_access_token": self.token, "expire": 7200})
        if headers.get("authorization") != f"Bearer {self.token}":
            return Said(400, {"code": 99991663, "msg": "Invalid access token for authorization."})
        if found := _FILE.fullmatch(path):
            kind, data = self.files[found["key"].replace("_", ".")]
            return Said(value=data, headers={"content-type": kind})
        found = _REPLY.fullmatch(path)
        if found is None or method != "POST" or found["id"] not in self.heard:
            return Said(400, {"code": 230001, "msg": "Your request contains an invalid request parameter"})
        return self._reply(found["id"], headers, body)

    def _reply(self, to: str, headers: Mapping[str, str], body: bytes) -> Said:
        asked = json.loads(body)
        if (
            headers.get("content-type") != "application/json; charset=utf-8"
            or not 0 < len(asked["uuid"]) <= 50
        ):
            return Said(400, {"code": 230001, "msg": "Your request contains an invalid request parameter"})
        if len(body) > self.limit:
            return Said(400, {"code": 230025, "msg": "The length of the message content reaches its limit."})
        same = [one for one in self.messages if one["uuid"] == asked["uuid"]]
        if asked["msg_type"] == "interactive":
            card = json.loads(asked["content"])
            if not same:
                text = card["elements"][0]["content"]
                self.add(text, where=self.heard[to], uuid=asked["uuid"], card=card)
            return Said(
                value={"code": 0, "msg": "success", "data": {"message_id": f"om_a{len(self.messages)}"}}
            )
        [[element]] = json.loads(asked["content"])["zh_cn"]["content"]
        if asked["msg_type"] != "post" or element["tag"] != "md" or not element["text"]:
            return Said(400, {"code": 230099, "msg": "Failed to create card content"})
        if not same:
            self.add(
                element["text"], where=self.heard[to], uuid=asked["uuid"], thread=asked.get("reply_in_thread")
            )
        return Said(value={"code": 0, "msg": "success", "data": {"message_id": f"om_a{len(self.messages)}"}})
