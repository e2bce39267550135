"""Comments that name the bot, signed as GitHub signs; the part of the REST API that answers them."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

SECRET = "It's-a-Secret-to-Everybody"
ISSUES = {"ada": 1, "bob": 2}


class FakeGitHub(Speaker):
    """Keeps comments; takes them with the right token, version and size. `app`: with tokens of an installation."""

    kind = "github"
    limit = 65_536
    once = True
    groups = False
    TOKEN = "github_pat_0123456789"
    REFUSED = Said(403, {"message": "Resource not accessible by personal access token"})

    def __init__(self) -> None:
        super().__init__()
        self.tokens = {self.TOKEN}

    def settings(self) -> dict[str, str]:
        return {
            "secret": SECRET,
            "token": self.TOKEN,
            "login": "sampan-bot",
            "api": self.url,
            "files": f"{self.url}/files",
        }

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        picture = f"\n![a picture]({self.url}/files/{file})" if file else ""
        comment = {"id": int(name), "body": f"@sampan-bot {text}{picture}", "user": {"login": who}}
        return self.event("issue_comment", {"action": "created", "comment": comment}, who=who, delivery=name)

    def event(self, kind: str, payload: Mapping[str, Any], *, who: str, delivery: str) -> Hook:
        whole = {
            "issue": {"number": ISSUES[who], "title": "Order 1001 is lost"},
            "repository": {"full_name": "octo/shop"},
            "sender": {"login": who, "type": "User"},
            "installation": {"id": 77},
            **payload,
        }
        body = json.dumps(whole).encode()
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "content-type": "application/json",
            "x-github-event": kind,
            "x-github-delivery": f"delivery-{delivery}",
            "x-hub-signature-256": f"sha256={signature}",
        }
        return Hook(body, headers)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(f"{method} {path.partition('?')[0]}")
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if path.startswith("/app/installations/"):
            return self._installed(path, token)
        if token not in self.tokens:
            return Said(401, {"message": "Bad credentials"})
        if path.startswith("/files/"):
            kind, data = self.files[path.removeprefix("/files/")]
            return Said(200, data, {"content-type": kind})
        if headers.get("x-github-api-version") != "2022-11-28" or not headers.get("user-agent"):
            return Said(403, {"message": "Request forbidden by administrative rules"})
        place = re.fullmatch(
            r"/repos/octo/shop/(issues|pulls)/(\d+)/comments(?:/(\d+)/replies)?", path.partition("?")[0]
        )
        if place is None:
            return Said(404, {"message": "Not Found"})
        if method == "GET":
            asked = dict(parse_qsl(path.partition("?")[2]))
            size = min(int(asked.get("per_page", "30")), 100)
            first = (int(asked.get("page", "1")) - 1) * size
            there = [one for one in self.messages if one["issue"] == int(place[2])]
            return Said(200, there[first : first + size])
        words = json.loads(body)["body"]
        if len(words) > self.limit:
            return Said(422, {"message": "Validation Failed", "errors": ["body is too long"]})
        number = self.add(words.partition("\n\n<!-- ")[0], body=words, issue=int(place[2]), thread=place[3])
        self.messages[-1]["id"] = int(number)
        return Said(201, {"id": int(number)})

    def _installed(self, path: str, token: str) -> Said:
        raise NotImplementedError

    def reached(self) -> list[str]:
        return [f"octo/shop#{message['issue']}" for message in self.messages]
