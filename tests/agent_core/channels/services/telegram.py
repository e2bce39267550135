"""Updates of Telegram's, with the secret token; the API of `FakeTelegram`."""

from __future__ import annotations

import json
from typing import Any

from tests.agent_core.channels.fakes import FakeTelegram, Said
from tests.agent_core.channels.services import Hook, Speaker

SECRET = "s3cret_TOKEN-1"
PEOPLE = {"ada": 42, "bob": 43}


class SpeakingTelegram(FakeTelegram, Speaker):
    """Knows no message again."""

    kind = "telegram"
    limit = 4096
    CHATS = (42, 43, -100)
    LIMITED = Said(
        429,
        {
            "ok": False,
            "error_code": 429,
            "description": "Too Many Requests",
            "parameters": {"retry_after": 30},
        },
    )
    REFUSED = Said(
        403, {"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}
    )

    def settings(self) -> dict[str, str]:
        return {"secret": SECRET, "token": self.TOKEN, "api": self.url, "username": "sampan_bot"}

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        message: dict[str, Any] = {"message_id": int(name), **self._where(who, group)}
        words = f"@sampan_bot {text}" if group else text
        message |= {"photo": [{"file_id": file}], "caption": words} if file else {"text": words}
        return self.signed({"update_id": int(name), "message": message})

    def _where(self, who: str, group: str) -> dict[str, Any]:
        chat = {"id": -100, "type": "supergroup"} if group else {"id": PEOPLE[who], "type": "private"}
        return {"from": {"id": PEOPLE[who], "is_bot": False}, "chat": chat}

    def buttons(self) -> dict[str, str]:
        [row] = self.messages[-1]["reply_markup"]["inline_keyboard"]
        assert all(len(one.get("callback_data", "").encode()) <= 64 for one in row)
        return {one["text"]: one.get("url") or one["callback_data"] for one in row}

    def press(self, value: str, *, name: str, who: str, group: str, now: float) -> Hook:
        where = self._where(who, group)
        query = {
            "id": name,
            "from": where["from"],
            "message": {"message_id": 1, "chat": where["chat"]},
            "data": value,
        }
        return self.signed({"update_id": int(name), "callback_query": query})

    def signed(self, update: Any) -> Hook:
        headers = {"x-telegram-bot-api-secret-token": SECRET, "content-type": "application/json"}
        return Hook(json.dumps(update).encode(), headers)

    def size(self, text: str) -> int:
        return 0  # measured by the fake itself, without the markup

    def reached(self) -> list[str]:
        return [str(message["chat_id"]) for message in self.messages]
