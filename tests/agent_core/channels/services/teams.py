"""Activities with a token of the Bot Framework, its keys, the connector, and Microsoft's token service.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

APP, SECRET = "00000000-0000-0000-0000-000000000001", "client-secret-1"
_ACTIVITY = re.compile(r"/smba/v3/conversations/(?P<where>[^/]+)/activities(?:/(?P<id>[^/]+))?")


@cache
def key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "key-1"}, private=True)


class FakeTeams(Speaker):
    """Knows no message again; changes its own. Takes 28 KB, all of a message as JSON in UTF-16."""

    kind = "teams"
    limit = 28 * 1024 // 2

    def settings(self) -> dict[str, str]:
        return {
            "app_id": APP,
            "app_secret": SECRET,
            "login": f"{self.url}/login",
            "service": f"{self.url}/smba",
            "keys": f"{self.url}/keys",
        }

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        conversation = {"id": f"19:{group}@thread.tacv2;messageid=1", "conversationType": "channel"}
        if not group:
            conversation = {"id": f"a:{who}", "conversationType": "personal"}
        activity: dict[str, Any] = {
            "type": "message",
            "id": name,
            "serviceUrl": f"{self.url}/smba/",
            "channelId": "msteams",
            "from": {"id": f"29:{who}", "aadObjectId": who},
            "conversation": conversation,
            "recipient": {"id": f"28:{APP}"},
            "text": f"<at>Sampan</at> {text}",
            "attachments": [{"contentType": "text/html", "content": f"<p>{text}</p>"}],
        }
        if file:
            picture = {"contentType": "image/*", "contentUrl": f"{self.url}/smba/v3/attachments/{file}"}
            activity["attachments"].append(picture)
        return self.signed(activity, now)

    def buttons(self) -> dict[str, str]:
        [card] = self.messages[-1]["activity"]["attachments"]
        assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert card["content"]["type"] == "AdaptiveCard"
        actions = card["content"]["actions"]
        return {
            one["title"]: one["url"] if one["type"] == "Action.OpenUrl" else one["data"]["sampan"]
            for one in actions
        }

    def press(self, value: str, *, name: str, who: str, group: str, now: float) -> Hook:
        activity = json.loads(self.hook("", name=name, who=who, group=group, file="", now=now).body)
        del activity["text"]
        return self.signed({**activity, "value": {"sampan": value}}, now)

    def signed(self, activity: Any, now: float) -> Hook:
        claims = {
            "iss": "https://api.botframework.com",
            "aud": APP,
            "exp": int(now) + 3600,
            "serviceurl": activity.get("serviceUrl"),
        }
        token = jwt.encode({"alg": "RS256", "kid": "key-1"}, claims, key())
        return Hook(json.dumps(activity).encode(), {"authorization": f"Bearer {token}"})

    def size(self, text: str) -> int:
        return _units(json.dumps(text, ensure_ascii=False))

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(f"{method} {path}")
        if path == "/keys":
            return Said(value={"keys": [{**key().as_dict(private=False), "endorsements": ["msteams"]}]})
        if path == "/login/botframework.com/oauth2/v2.0/token":
            return self._token({name: values[0] for name, values in parse_qs(body.decode()).items()})
        if headers.get("authorization") != "Bearer token-of-the-bot":
            return Said(401, {"message": "Authorization has been denied for this request."})
        if path.startswith("/smba/v3/attachments/"):
            kind, data = self.files[path.rpartition("/")[2]]
            return Said(value=data, headers={"content-type": kind})
        found = _ACTIVITY.fullmatch(path)
        if found is None:
            return Said(404, {"error": {"code": "ServiceError", "message": "Unknown"}})
        return self._activity(method, unquote(found["where"]), unquote(found["id"] or ""), body.decode())

    def _token(self, form: Mapping[str, str]) -> Said:
        wanted = {
            "grant_type": "client_credentials",
            "client_id": APP,
            "client_secret": SECRET,
            "scope": "https://api.botframework.com/.default",
        }
        if form != wanted:
            return Said(401, {"error": "invalid_client"})
        return Said(value={"token_type": "Bearer", "expires_in": 3599, "access_token": "token-of-the-bot"})

    def _activity(self, method: str, where: str, name: str, raw: str) -> Said:
        asked = json.loads(raw)
        if asked["from"]["id"] != f"28:{APP}":
            return Said(400, {"error": {"code": "BadArgument", "message": "Unknown sender"}})
        if asked["type"] == "typing":
            return Said(201, {"id": "typing"})
        text = asked.get("text", "") or json.dumps(asked.get("attachments"))
        if asked["type"] != "message" or not text or _units(raw) > self.limit:
            return Said(413, {"error": {"code": "MessageSizeTooBig", "message": "too big"}})
        if method == "PUT":
            self.messages[int(name) - 1].update(text=text, activity=asked)
            return Said(value={"id": name})
        if asked["conversation"]["id"] != where or asked["replyToId"] != name:
            return Said(400, {"error": {"code": "BadSyntax", "message": "Activity resulted into multiple"}})
        return Said(201, {"id": self.add(text, where=where, activity=asked)})


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
