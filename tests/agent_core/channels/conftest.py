"""An app with one channel on, a scripted agent behind it, and the channel's service on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from agent_core import Agent, Settings, build_app
from agent_core.app import App
from agent_core.models.scripted import ScriptedModel
from agent_core.store.base import Store
from agent_core.testing import ManualClock
from tests.agent_core.channels.fakes import FakeSlack, FakeTelegram, Service, serving

SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
TELEGRAM_SECRET = "s3cret_TOKEN-1"
EVENTS = Path(__file__).resolve().parents[3] / "events"


@dataclass
class House:
    """The app, its model, its clock, and the service that its answers go to."""

    app: App
    model: ScriptedModel
    clock: ManualClock
    service: Any
    kind: str
    asgi: Any

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.asgi), base_url="http://sampan.test")

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """Post a webhook as it is."""
        async with self.client() as client:
            return await client.post(f"/webhooks/{self.kind}", content=body, headers=headers)

    async def say(self, payload: dict[str, Any]) -> httpx.Response:
        """Post what the service would send, signed as it would."""
        body = json.dumps(payload).encode()
        return await self.post(body, self.signed(body))

    def signed(self, body: bytes) -> dict[str, str]:
        if self.kind == "telegram":
            return {"x-telegram-bot-api-secret-token": TELEGRAM_SECRET, "content-type": "application/json"}
        stamp = str(int(self.clock.now()))
        digest = hmac.new(SLACK_SECRET.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        return {
            "x-slack-request-timestamp": stamp,
            "x-slack-signature": f"v0={digest}",
            "content-type": "application/json",
        }

    async def say_form(self, fields: dict[str, str]) -> httpx.Response:
        body = urlencode(fields).encode()
        headers = {**self.signed(body), "content-type": "application/x-www-form-urlencoded"}
        return await self.post(body, headers)

    async def settled(self) -> list[str]:
        """Let the work under way come to its end; the texts that the service has then."""
        await self.app.engine.drain()
        texts: list[str] = self.service.texts
        return texts


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    """Makes a house: the channel's kind, the agent's script, the channel's options, and the agent's own fields."""
    with ExitStack() as stack:

        def make(
            kind: str,
            *script: Any,
            options: dict[str, str] | None = None,
            store: Store | None = None,
            clock: ManualClock | None = None,
            agent: Any = None,
        ) -> House:
            service: Service = FakeSlack() if kind == "slack" else FakeTelegram()
            service.url = stack.enter_context(serving(service))
            own = (
                {"secret": SLACK_SECRET, "token": FakeSlack.TOKEN, "api": f"{service.url}/api"}
                if kind == "slack"
                else {"secret": TELEGRAM_SECRET, "token": FakeTelegram.TOKEN, "api": service.url}
            )
            own |= {"kind": kind, "username": "sampan_bot"} if kind == "telegram" else {"kind": kind}
            clock = clock or ManualClock(1_700_000_000.0, jump=True)
            model = ScriptedModel(script)
            app = build_app(
                Settings(store="memory", channels={kind: {**own, "open": "true", **(options or {})}}),
                agents=[agent or Agent(name="assistant", model=model)],
                clock=clock,
                store=store,
            )
            return House(app, model, clock, service, kind, app.asgi())

        yield make


def slack_message(text: str, *, event_id: str = "Ev1", **event: Any) -> dict[str, Any]:
    """An event of the Events API: a direct message, unless the fields say otherwise."""
    return {
        "type": "event_callback",
        "team_id": "T1",
        "api_app_id": "A1",
        "event_id": event_id,
        "event_time": 1_700_000_000,
        "event": {
            "type": "message",
            "channel_type": "im",
            "channel": "D1",
            "user": "U1",
            "ts": "1700000000.000100",
            "text": text,
            **event,
        },
    }


def telegram_message(text: str = "", *, update_id: int = 1, **message: Any) -> dict[str, Any]:
    """An update with a private message, unless the fields say otherwise."""
    return {
        "update_id": update_id,
        "message": {
            "message_id": 7,
            "date": 1_700_000_000,
            "from": {"id": 42, "is_bot": False, "first_name": "Ada"},
            "chat": {"id": 42, "type": "private"},
            **({"text": text} if text else {}),
            **message,
        },
    }
