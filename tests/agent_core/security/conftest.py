"""A service whose door asks everybody, on a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agent_core import Agent, App, Principal
from agent_core.models.scripted import ScriptedModel
from agent_core.security.visitor import Visitor
from agent_core.testing import ManualClock, test_app

BASE = "https://agents.example.com"


@dataclass
class House:
    """The app and the ways to it."""

    app: App
    clock: ManualClock

    async def key(self, *scopes: str, tenant: str = "default", user: str = "local", **options: Any) -> str:
        """The text of a new key."""
        principal = Principal(tenant=tenant, user=user, scopes=scopes)
        return (await self.app.door.keys.create(principal=principal, **options))[1]

    def client(self, key: str = "", base_url: str = BASE, **headers: str) -> httpx.AsyncClient:
        """Somebody outside, with this key."""
        shown = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app.asgi(), client=("203.0.113.7", 4711)),
            base_url=base_url,
            headers={**shown, **headers},
        )


Make = Callable[..., House]


@pytest.fixture
async def house() -> AsyncIterator[Make]:
    """Makes a service; its agent answers "Hello." up to a hundred times."""
    made: list[House] = []

    def make(*, clock: ManualClock | None = None, store: Any = None, **settings: Any) -> House:
        clock = clock or ManualClock()
        agent = Agent(name="assistant", model=ScriptedModel(["Hello."] * 100))
        made.append(House(test_app(agent, clock=clock, store=store, **{"auth": "on", **settings}), clock))
        return made[-1]

    yield make
    for each in made:
        await each.app.close()


def visitor(**fields: Any) -> Visitor:
    """A request from somewhere; header names with _ for -."""
    headers = {name.replace("_", "-"): value for name, value in fields.pop("headers", {}).items()}
    return Visitor(headers={"host": "agents.example.com", **headers}, address="203.0.113.7", **fields)
