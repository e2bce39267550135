"""`sampan channels`: which are on, and who is let in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agent_core import Settings, build_app
from agent_core.channels.guests import Guests
from agent_core.security.webhook import Webhook

pytestmark = pytest.mark.usefixtures("project")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_CHANNELS", "bot=telegram")
    monkeypatch.setenv("SAMPAN_BOT_SECRET", "s3cret_TOKEN-1")
    monkeypatch.setenv("SAMPAN_BOT_TOKEN", "123456:ABC-DEF1234ghIkl")
    monkeypatch.setenv("SAMPAN_BOT_API", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("SAMPAN_PUBLIC_URL", "https://agents.example.com")


def knock() -> str:
    """Ada writes to the bot; the code that was kept for her."""

    async def knocking() -> str:
        app = build_app(Settings.from_env())
        message = {"from": {"id": 42}, "chat": {"id": 42, "type": "private"}, "text": "Hi"}
        hook = Webhook(
            headers=(("x-telegram-bot-api-secret-token", "s3cret_TOKEN-1"),),
            body=json.dumps({"update_id": 1, "message": message}).encode(),
        )
        assert app.webhooks is not None
        assert (await app.webhooks.receive("bot", hook)).status == 200
        [found] = await Guests(app.store, app.clock).knocks("default", "bot")
        await app.close()
        return found.code

    return asyncio.run(knocking())


def test_without_channels(sampan: Any) -> None:
    assert sampan("channels", "list") == (0, "", "")
    done = sampan("channels", "pair", "slack", "ABC")
    assert (done.code, "there is no channel 'slack'; on are: none" in done.err) == (1, True)


@pytest.mark.usefixtures("on")
def test_a_stranger_is_let_in_and_shown_out(sampan: Any) -> None:
    code = knock()
    line = sampan("channels", "list").out.split("\t")
    assert [word.strip() for word in line] == [
        *("bot", "telegram", "https://agents.example.com/webhooks/bot", "false", "1", "0")
    ]
    waiting = sampan("channels", "guests", "bot").out
    assert (waiting.split("\t")[2], code in waiting) == ("waits", False)
    wrong = sampan("channels", "pair", "bot", "WRONGONE")
    assert (wrong.code, "nobody on bot has the code" in wrong.err) == (1, True)
    assert sampan("channels", "pair", "bot", code).out == "42 is answered on bot from now on\n"
    [guest] = json.loads(sampan("channels", "guests", "bot", "--json").out)
    assert (guest["person"], guest["state"]) == ("42", "let in")
    assert sampan("channels", "remove", "bot", "42").code == 0
    assert sampan("channels", "remove", "bot", "42").code == 1
