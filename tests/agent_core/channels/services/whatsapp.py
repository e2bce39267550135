"""Webhooks, messages, the typing sign and media of the Cloud API.

https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

SECRET, TOKEN, NUMBER = "app-secret-1", "EAAJB-token", "27681414235104944"
PEOPLE = {"ada": "16315551234", "bob": "16315559876"}


class FakeWhatsApp(Speaker):
    """Knows no message again."""

    kind = "whatsapp"
    limit = 4096
    groups = False
    LIMITED = Said(
        400, {"error": {"message": "(#131056) pair rate limit hit", "code": 131056}}, {"retry-after": "30"}
    )
    REFUSED = Said(400, {"error": {"message": "(#131047) Re-engagement message", "code": 131047}})

    def settings(self) -> dict[str, str]:
        return {"secret": SECRET, "verify_token": "word", "token": TOKEN, "api": f"{self.url}/v23.0"}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        said: dict[str, Any] = {"type": "text", "text": {"body": text}}
        if file:
            image = {"id": f"media{len(self.files)}", "mime_type": "image/png", "caption": text}
            self.files[image["id"]] = self.files[file]
            said = {"type": "image", "image": image}
        message = {"from": PEOPLE[who], "id": f"wamid.{name}", "timestamp": str(int(now)), **said}
        return self.signed({"messages": [message]})

    def status(self, status: Mapping[str, Any]) -> Hook:
        """What became of a message."""
        return self.signed({"statuses": [status]})

    def signed(self, told: Mapping[str, Any]) -> Hook:
        value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": NUMBER}, **told}
        change = {"field": "messages", "value": value}
        body = json.dumps(
            {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
        ).encode()
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        return Hook(body, {"x-hub-signature-256": f"sha256={digest}"})

    def size(self, text: str) -> int:
        return len(text.encode("utf-16-le")) // 2

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(f"{method} {path}")
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return Said(401, {"error": {"message": "Invalid OAuth access token", "code": 190}})
        name = path.rpartition("/")[2]
        if method == "GET" and path.startswith("/v23.0/store/"):
            kind, data = self.files[name]
            return Said(value=data, headers={"content-type": kind})
        if method == "GET":
            return Said(
                value={"url": f"{self.url}/v23.0/store/{name}", "mime_type": self.files[name][0], "id": name}
            )
        asked = json.loads(body)
        if path != f"/v23.0/{NUMBER}/messages" or asked.get("messaging_product") != "whatsapp":
            return Said(400, {"error": {"message": "(#100) Invalid parameter", "code": 100}})
        if asked.get("status") == "read":
            right = asked["message_id"].startswith("wamid.") and asked["typing_indicator"] == {"type": "text"}
            return Said(200 if right else 400, {"success": right})
        text = asked["text"]["body"]
        if asked["type"] != "text" or not 0 < self.size(text) <= self.limit or not asked["to"].isdecimal():
            return Said(400, {"error": {"message": "(#100) Invalid parameter", "code": 100}})
        return Said(value={"messages": [{"id": f"wamid.out{self.add(text, where=asked['to'])}"}]})
