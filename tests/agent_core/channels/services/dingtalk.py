"""The robot's webhook, session webhooks, robot messages and files.

https://open.dingtalk.com/document/orgapp/receive-message, .../development/the-robot-sends-a-group-message
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

SECRET, KEY, ROBOT = "app-secret-1", "dingkey1", "dingrobot1"


class FakeDingTalk(Speaker):
    """A session webhook for each conversation, which ends; then the robot, by an access token."""

    kind = "dingtalk"
    limit = 15_000
    LIMITED = Said(value={"errcode": 130101, "errmsg": "send too fast, exceed 20 times per minute"})
    REFUSED = Said(value={"errcode": 43004, "errmsg": "invalid message"})

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self.token = ""

    def settings(self) -> dict[str, str]:
        return {"app_secret": SECRET, "app_key": KEY, "api": self.url}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        conversation = group or f"cid-{who}"
        said: dict[str, Any] = {"msgtype": "text", "text": {"content": f" {text} "}}
        if file:
            said = {
                "msgtype": "richText",
                "content": {"richText": [{"text": text}, {"downloadCode": file, "type": "picture"}]},
            }
        payload = {
            "conversationId": conversation,
            "conversationType": "2" if group else "1",
            "msgId": name,
            "senderId": f"$:LWCP_v1:${who}",
            "senderStaffId": who,
            "robotCode": ROBOT,
            "sessionWebhook": f"{self.url}/robot/sendBySession?session={conversation}",
            "sessionWebhookExpiredTime": int((now + 5400) * 1000),
            **said,
        }
        body, stamp = json.dumps(payload).encode(), str(int(now * 1000))
        digest = hmac.new(SECRET.encode(), f"{stamp}\n{SECRET}".encode(), hashlib.sha256).digest()
        return Hook(body, {"timestamp": stamp, "sign": base64.b64encode(digest).decode()})

    def size(self, text: str) -> int:
        return len(text.encode())

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(path.partition("?")[0])
        if path.startswith("/files/"):
            kind, data = self.files[path.rpartition("/")[2]]
            return Said(value=data, headers={"content-type": kind})
        asked = json.loads(body)
        if path.startswith("/robot/sendBySession?session="):
            return self._session(path.rpartition("=")[2], headers, asked)
        if path == "/v1.0/oauth2/accessToken":
            if asked != {"appKey": KEY, "appSecret": SECRET}:
                return Said(400, {"code": "invalidClientIdOrSecret"})
            self.token = f"token-{len(self.calls)}"
            return Said(value={"accessToken": self.token, "expireIn": 7200})
        if headers.get("x-acs-dingtalk-access-token") != self.token:
            return Said(401, {"code": "InvalidAuthentication"})
        if path == "/v1.0/robot/messageFiles/download" and asked["robotCode"] == ROBOT:
            return Said(value={"downloadUrl": f"{self.url}/files/{asked['downloadCode']}"})
        return self._robot(path.rpartition("/")[2], asked)

    def _session(self, conversation: str, headers: Mapping[str, str], asked: Mapping[str, Any]) -> Said:
        if self.ended:
            return Said(value={"errcode": 300001, "errmsg": "session is not exist"})
        markdown = asked.get("markdown", {})
        if asked["msgtype"] != "markdown" or not markdown.get("title") or not markdown.get("text"):
            return Said(value={"errcode": 400105, "errmsg": "unsupported msgtype"})
        self.add(markdown["text"], where=conversation, by="session")
        return Said(value={"errcode": 0, "errmsg": "ok"})

    def _robot(self, name: str, asked: Mapping[str, Any]) -> Said:
        where = asked.get("openConversationId") if name == "send" else "cid-" + asked["userIds"][0]
        param = json.loads(asked["msgParam"])
        if asked["robotCode"] != ROBOT or asked["msgKey"] != "sampleMarkdown" or not param["title"]:
            return Said(400, {"code": "invalidParameter"})
        if len(asked["msgParam"].encode()) > self.limit:
            return Said(400, {"code": "invalidParameter.msgParam.tooLong"})
        return Said(value={"processQueryKey": self.add(param["text"], where=where, by="robot")})
