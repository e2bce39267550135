"""Webhook events, reply, push with a retry key, the loading sign, files.

https://developers.line.biz/en/reference/messaging-api/
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

SECRET, TOKEN = "channel-secret", "channel-token"


class FakeLine(Speaker):
    """Takes a reply token once, and a retry key once."""

    kind = "line"
    limit = 5000
    once = True
    LIMITED = Said(
        429, {"message": "The API rate limit has been exceeded. Try again later."}, {"retry-after": "30"}
    )
    REFUSED = Said(403, {"message": "This API is not available."})

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, str] = {}
        self.keys: set[str] = set()

    def settings(self) -> dict[str, str]:
        return {"secret": SECRET, "token": TOKEN, "api": self.url, "data_api": self.url, "reply": "false"}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        source = {"type": "group", "groupId": f"C{group}"} if group else {"type": "user"}
        message: dict[str, Any] = {"type": "text", "id": name, "text": text}
        if group:
            mention = {"index": 0, "length": 4, "type": "user", "userId": "Ubot", "isSelf": True}
            quote = {"quoteToken": f"quote-C{group}-{name}"}
            message |= {"text": f"@bot {text}", "mention": {"mentionees": [mention]}, **quote}
        if file:
            self.files[name] = self.files[file]
            message = {"type": "image", "id": name, "contentProvider": {"type": "line"}}
        self.tokens[f"reply-{name}"] = f"C{group}" if group else f"U{who}"
        event = {
            "type": "message",
            "message": message,
            "timestamp": int(now * 1000),
            "source": {**source, "userId": f"U{who}"},
            "replyToken": f"reply-{name}",
            "webhookEventId": name,
        }
        return self.signed({"destination": "Ubot", "events": [event]})

    def signed(self, payload: Any) -> Hook:
        body = json.dumps(payload).encode()
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).digest()
        return Hook(body, {"x-line-signature": base64.b64encode(digest).decode()})

    def size(self, text: str) -> int:
        return len(text.encode("utf-16-le")) // 2

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(path)
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return Said(401, {"message": "Authentication failed"})
        if path.startswith("/v2/bot/message/") and path.endswith("/content"):
            kind, data = self.files[path.split("/")[4]]
            return Said(value=data, headers={"content-type": kind})
        asked = json.loads(body)
        if path == "/v2/bot/chat/loading/start":
            seconds = asked.get("loadingSeconds", 20)
            right = asked["chatId"].startswith("U") and 5 <= seconds <= 60 and seconds % 5 == 0
            return Said(202, {}) if right else Said(400, {"message": "invalid"})
        if not 1 <= len(asked["messages"]) <= 5:
            return Said(400, {"message": "Size must be between 1 and 5"})
        for message in asked["messages"]:
            if message["type"] != "text" or not 0 < self.size(message["text"]) <= self.limit:
                return Said(400, {"message": "The request body has 1 error(s)"})
        return self._reply(asked) if path.endswith("/reply") else self._push(headers, asked)

    def _reply(self, asked: Mapping[str, Any]) -> Said:
        where = self.tokens.pop(asked["replyToken"], "")
        return self._keep(where, asked, "reply") if where else Said(400, {"message": "Invalid reply token"})

    def _push(self, headers: Mapping[str, str], asked: Mapping[str, Any]) -> Said:
        key = str(UUID(headers["x-line-retry-key"]))
        if key in self.keys:
            return Said(409, {"message": "The retry key is already accepted", "sentMessages": [{"id": "1"}]})
        self.keys.add(key)
        return self._keep(asked["to"], asked, "push")

    def _keep(self, where: str, asked: Mapping[str, Any], by: str) -> Said:
        quotes = [message.get("quoteToken", "") for message in asked["messages"]]
        if any(quote and not quote.startswith(f"quote-{where}-") for quote in quotes):
            return Said(400, {"message": "Invalid quote token"})
        ids = [
            self.add(message["text"], where=where, by=by, quote=quote)
            for message, quote in zip(asked["messages"], quotes, strict=True)
        ]
        return Said(value={"sentMessages": [{"id": one} for one in ids]})
