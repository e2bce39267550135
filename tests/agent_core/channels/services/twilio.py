"""Signed forms, Messages.json, and media that are sent on to a store.

https://www.twilio.com/docs/messaging/api/message-resource
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

TOKEN, ACCOUNT, NUMBER = "auth-token-12345", "AC" + "0a" * 16, "+18005551212"
PEOPLE = {"ada": "+14158675309", "bob": "whatsapp:+14158675310"}


class FakeTwilio(Speaker):
    """Knows no message again."""

    kind = "twilio"
    limit = 1600
    groups = False
    LIMITED = Said(429, {"code": 20429, "message": "Too Many Requests", "status": 429}, {"retry-after": "30"})
    REFUSED = Said(
        400, {"code": 21610, "message": "Attempt to send to unsubscribed recipient", "status": 400}
    )

    def settings(self) -> dict[str, str]:
        return {"secret": TOKEN, "account": ACCOUNT, "api": self.url}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        sid = "SM" + hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        form = {
            "MessageSid": sid,
            "AccountSid": ACCOUNT,
            "From": PEOPLE[who],
            "To": NUMBER,
            "Body": text,
            "NumMedia": "0",
        }
        if file:
            url = f"{self.url}/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}/Media/{file}"
            form |= {"NumMedia": "1", "MediaUrl0": url, "MediaContentType0": self.files[file][0]}
        signed = "https://sampan.test/webhooks/twilio" + "".join(key + form[key] for key in sorted(form))
        digest = hmac.new(TOKEN.encode(), signed.encode(), hashlib.sha1).digest()
        headers = {
            "x-twilio-signature": base64.b64encode(digest).decode(),
            "content-type": "application/x-www-form-urlencoded",
        }
        return Hook(urlencode(form).encode(), headers)

    def size(self, text: str) -> int:
        return len(text.encode("utf-16-le")) // 2

    def reached(self) -> list[str]:
        return [message["where"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(f"{method} {path}")
        expected = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
        if headers.get("authorization") != f"Basic {expected}":
            return Said(401, {"code": 20003, "message": "Authenticate", "status": 401})
        if method == "GET":
            kind, data = self.files[path.rpartition("/")[2]]
            return Said(value=data, headers={"content-type": kind})
        if path != f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json":
            return Said(404, {"code": 20404, "message": "Not found", "status": 404})
        if headers.get("content-type") != "application/x-www-form-urlencoded":
            return Said(400, {"code": 21602, "message": "Message body is required", "status": 400})
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        text = form.get("Body", "")
        if form.get("From") != NUMBER or not 0 < self.size(text) <= self.limit:
            return Said(400, {"code": 21617, "message": "The message body exceeds the limit", "status": 400})
        return Said(201, {"sid": f"SM{self.add(text, where=form['To'])}", "status": "queued"})
