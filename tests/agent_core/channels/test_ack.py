"""How soon a webhook is acknowledged: warm with a store at 5 ms, and by a process that has just begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_core import Agent, Settings, build_app
from agent_core.clock import SystemClock
from agent_core.models.scripted import ScriptedModel
from agent_core.store.base import Fields, Key, Page, Record, Store, Write
from agent_core.store.memory import MemoryStore
from tests.agent_core.channels.conftest import TELEGRAM_SECRET, telegram_message

WEBHOOKS = 300
STORE_SECONDS = 0.005


class FarStore:
    """A store that takes 5 ms for each call, as one over a network does."""

    def __init__(self, store: Store, clock: SystemClock) -> None:
        self._store = store
        self._clock = clock

    async def get(self, key: Key) -> Record | None:
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.get(key)

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.query(partition, prefix, after=after, limit=limit, reverse=reverse)

    async def write(self, *writes: Write) -> None:
        await self._clock.sleep(STORE_SECONDS)
        await self._store.write(*writes)

    async def add(self, key: Key, numbers: Mapping[str, int], *, expires_at: float | None = None) -> Fields:
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.add(key, numbers, expires_at=expires_at)

    async def close(self) -> None:
        await self._store.close()


@pytest.mark.measured
@pytest.mark.parametrize("queue", ["memory", ""], ids=["a worker answers", "answered in this process"])
async def test_warm(queue: Any) -> None:
    """p99 is 50 ms at most, for a person who was let in: a look at the guests, the accept write, the wake-up."""
    clock = SystemClock()
    options = {"kind": "telegram", "secret": TELEGRAM_SECRET, "token": "123456:ABC-DEF1234ghIkl"}
    app = build_app(
        Settings(store="memory", queue=queue, channels={"telegram": options}),
        agents=[Agent(name="assistant", model=ScriptedModel(["Fine."] * WEBHOOKS))],
        clock=clock,
        store=FarStore(MemoryStore(clock), clock),
    )
    app.engine._kit.deliverers.clear()
    guests = app.webhooks.guests
    taken = []
    transport = httpx.ASGITransport(app.asgi())
    headers = {"x-telegram-bot-api-secret-token": TELEGRAM_SECRET}
    async with httpx.AsyncClient(transport=transport, base_url="http://sampan.test") as client:
        await client.post("/webhooks/telegram", json=telegram_message("Hi", update_id=0), headers=headers)
        [knock] = await guests.knocks("default", "telegram")
        await guests.pair("default", "telegram", knock.code)
        for number in range(1, WEBHOOKS + 1):
            message = telegram_message("Hi", update_id=number)
            began = time.perf_counter()
            answer = await client.post("/webhooks/telegram", json=message, headers=headers)
            taken.append(time.perf_counter() - began)
            assert answer.status_code == 200
    await app.engine.drain()
    p99 = sorted(taken)[int(len(taken) * 0.99) - 1]
    assert p99 <= 0.050, f"p99 {p99 * 1000:.1f} ms"
    assert min(taken) >= 2 * STORE_SECONDS, "the store was asked twice before the acknowledgement"


PROGRAM = """
import json, sys
from pathlib import Path
from handlers.webhook import handler

event = json.loads(Path(sys.argv[1]).read_text())
answer = handler(event, None)
assert answer["statusCode"] == 200, answer
print("acknowledged", flush=True)
"""


@pytest.mark.measured
def test_cold(root: Path, tmp_path: Path) -> None:
    """From the start of a process to the acknowledgement of its first webhook: under a second, at best of five."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "assistant.py").write_text(
        "from agent_core import Agent\nagent = Agent(name='assistant', model='openai:gpt-5-mini')\n"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": str(root),
        "MODEL_API_KEY": "none",
        "SAMPAN_QUEUE": "sqlite",
        "SAMPAN_CHANNELS": "telegram",
        "SAMPAN_TELEGRAM_SECRET": TELEGRAM_SECRET,
        "SAMPAN_TELEGRAM_TOKEN": "123456:ABC-DEF1234ghIkl",
        "SAMPAN_TELEGRAM_OPEN": "true",
    }
    event = json.loads((root / "events" / "webhook.telegram.json").read_text())
    taken = []
    for number in range(5):
        body = json.loads(event["body"])
        body["update_id"] = number
        file = tmp_path / f"event-{number}.json"
        file.write_text(json.dumps({**event, "body": json.dumps(body)}))
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(file)],
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "acknowledged\n"
        taken.append(time.perf_counter() - began)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert min(taken) < 1.0, taken
