"""Events and clicks of Slack's, signed; the API of `FakeSlack`."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

from tests.agent_core.channels.fakes import FakeSlack, Said
from tests.agent_core.channels.services import Hook, Speaker

SECRET = "8f742231b10e8888abcd99yyyzzz85a5"


class SpeakingSlack(FakeSlack, Speaker):
    """Can be asked what it has."""

    kind = "slack"
    limit = 4000
    once = True
    CHANNELS = ("Dada", "Dbob", "Croom")
    LIMITED = Said(429, {"ok": False, "error": "ratelimited"}, {"retry-after": "30"})
    REFUSED = Said(value={"ok": False, "error": "channel_not_found"})

    def settings(self) -> dict[str, str]:
        return {"secret": SECRET, "token": self.TOKEN, "api": f"{self.url}/api"}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        event: dict[str, Any] = {
            "type": "message",
            "channel_type": "im",
            "channel": f"D{who}",
            "user": f"U{who.upper()}",
        }
        event |= {"text": text, "ts": f"{int(now)}.0001"}
        if group:
            event |= {"type": "app_mention", "channel_type": "channel", "channel": f"C{group}"}
            event |= {"text": f"<@UBOT> {text}", "thread_ts": "1.1"}
        if file:
            one = {
                "mimetype": self.files[file][0],
                "name": file,
                "url_private": f"{self.url}/api/files/{file}",
            }
            event |= {"subtype": "file_share", "files": [one]}
        payload = {"type": "event_callback", "team_id": "T1", "event_id": name, "event": event}
        return self.signed(json.dumps(payload).encode(), "application/json", now)

    def buttons(self) -> dict[str, str]:
        _, actions = self.messages[-1]["blocks"]
        assert actions["type"] == "actions"
        return {one["text"]["text"]: one.get("url") or one["value"] for one in actions["elements"]}

    def press(self, value: str, *, name: str, who: str, group: str, now: float) -> Hook:
        payload = {
            "type": "block_actions",
            "team": {"id": "T1"},
            "user": {"id": f"U{who.upper()}"},
            "channel": {"id": f"C{group}" if group else f"D{who}"},
            "trigger_id": name,
            "actions": [{"type": "button", "action_id": "sampan_0", "value": value}],
        }
        body = urlencode({"payload": json.dumps(payload)}).encode()
        return self.signed(body, "application/x-www-form-urlencoded", now)

    def signed(self, body: bytes, kind: str, now: float) -> Hook:
        stamp = str(int(now))
        digest = hmac.new(SECRET.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        headers = {
            "x-slack-request-timestamp": stamp,
            "x-slack-signature": f"v0={digest}",
            "content-type": kind,
        }
        return Hook(body, headers)

    def reached(self) -> list[str]:
        return [message["channel"] for message in self.messages]
