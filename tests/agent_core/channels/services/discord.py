"""Interactions, and the webhook endpoints of an interaction's token.

https://docs.discord.com/developers/interactions/receiving-and-responding
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

APP = "845027738276462632"
_PATH = re.compile(rf"/api/webhooks/{APP}/(?P<token>[\w.-]+)(?P<rest>/messages/[@\w]+|\?wait=true)")


class FakeDiscord(Speaker):
    """Keeps the messages of each command's token; the first takes the place of the deferred reply."""

    kind = "discord"
    limit = 2000
    once = True
    BOT = "bot-token"
    LIMITED = Said(
        429,
        {"message": "You are being rate limited.", "retry_after": 30.0, "global": False},
        {"retry-after": "30"},
    )
    REFUSED = Said(400, {"code": 50035, "message": "Invalid Form Body"})

    def __init__(self) -> None:
        super().__init__()
        self._key = Ed25519PrivateKey.generate()
        self.ended: set[str] = set()

    def settings(self) -> dict[str, str]:
        public = self._key.public_key().public_bytes_raw().hex()
        return {"secret": public, "token": self.BOT, "api": f"{self.url}/api"}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        options: list[Any] = [{"name": "text", "type": 3, "value": text}]
        resolved = {}
        if file:
            options.append({"name": "file", "type": 11, "value": "77"})
            one = {
                "id": "77",
                "filename": file,
                "content_type": self.files[file][0],
                "url": f"{self.url}/api/files/{file}",
            }
            resolved = {"attachments": {"77": one}}
        user = {"id": who, "username": who}
        payload = {
            "id": name,
            "application_id": APP,
            "type": 2,
            "token": f"token-{name}",
            "channel_id": group or f"dm-{who}",
            "data": {"name": "ask", "type": 1, "options": options, "resolved": resolved},
            **({"guild_id": "1", "member": {"user": user}} if group else {"user": user}),
        }
        return self.signed(payload, now)

    def signed(self, payload: Any, now: float) -> Hook:
        body, stamp = json.dumps(payload).encode(), str(int(now))
        signature = self._key.sign(stamp.encode() + body).hex()
        return Hook(body, {"x-signature-ed25519": signature, "x-signature-timestamp": stamp})

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(f"{method} {path.partition('?')[0]}")
        if path.startswith("/api/files/"):
            kind, data = self.files[path.rpartition("/")[2]]
            return Said(value=data, headers={"content-type": kind})
        asked = json.loads(body)
        if not headers.get("content-type", "").startswith("application/json") or not asked.get("content"):
            return Said(400, {"code": 50006, "message": "Cannot send an empty message"})
        if len(asked["content"]) > self.limit or asked.get("allowed_mentions") != {"parse": []}:
            return self.REFUSED
        if path.startswith("/api/channels/"):
            return self._by_bot(path.split("/")[3], headers, asked)
        found = _PATH.fullmatch(path)
        if found is None or found["token"] in self.ended:
            return Said(404, {"code": 10015, "message": "Unknown Webhook"})
        return self._by_token(method, found["token"], found["rest"], asked["content"])

    def _by_token(self, method: str, token: str, rest: str, text: str) -> Said:
        mine = [one for one in self.messages if one["where"] == token]
        if method == "POST" and rest == "?wait=true" and mine:
            return Said(value={"id": self.add(text, where=token)})
        if method != "PATCH" or rest == "?wait=true":
            return Said(400, {"code": 0, "message": "the deferred reply is still to come"})
        wanted = rest.rpartition("/")[2]
        if wanted == "@original" and not mine:
            return Said(value={"id": self.add(text, where=token)})
        place = self.messages.index(mine[0]) + 1 if wanted == "@original" else int(wanted)
        self.messages[place - 1]["text"] = text
        return Said(value={"id": str(place)})

    def _by_bot(self, channel: str, headers: Mapping[str, str], asked: Mapping[str, Any]) -> Said:
        if headers.get("authorization") != f"Bot {self.BOT}" or len(asked.get("nonce", "")) > 25:
            return Said(401, {"code": 0, "message": "401: Unauthorized"})
        same = [one for one in self.messages if one.get("nonce") == asked["nonce"]]
        if same and asked.get("enforce_nonce"):
            return Said(value={"id": str(self.messages.index(same[0]) + 1)})
        return Said(value={"id": self.add(asked["content"], where=channel, nonce=asked["nonce"])})
