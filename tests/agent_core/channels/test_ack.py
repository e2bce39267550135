"""How soon a webhook is acknowledged: after how many calls of the store, and by a process that has just begun.

Times are printed, CPU and calls are what is held to: others work on this machine, too.
"""

from __future__ import annotations

import json
import os
import resource
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
        self.calls = 0

    async def get(self, key: Key) -> Record | None:
        self.calls += 1
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.get(key)

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        self.calls += 1
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.query(partition, prefix, after=after, limit=limit, reverse=reverse)

    async def write(self, *writes: Write) -> None:
        self.calls += 1
        await self._clock.sleep(STORE_SECONDS)
        await self._store.write(*writes)

    async def add(self, key: Key, numbers: Mapping[str, int], *, expires_at: float | None = None) -> Fields:
        self.calls += 1
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.add(key, numbers, expires_at=expires_at)

    async def close(self) -> None:
        await self._store.close()


@pytest.mark.measured
@pytest.mark.parametrize("queue", ["memory", ""], ids=["a worker answers", "answered in this process"])
async def test_warm(queue: Any) -> None:
    """For a person who was let in: a look at the guests, the accept write, and what the queue's wake-up takes."""
    clock = SystemClock()
    options = {"kind": "telegram", "secret": TELEGRAM_SECRET, "token": "123456:ABC-DEF1234ghIkl"}
    store = FarStore(MemoryStore(clock), clock)
    app = build_app(
        Settings(store="memory", queue=queue, channels={"telegram": options}),
        agents=[Agent(name="assistant", model=ScriptedModel(["Fine."] * WEBHOOKS))],
        clock=clock,
        store=store,
    )
    app.engine._kit.deliverers.clear()
    app.engine._kit.attendants.clear()
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
            began, calls = time.perf_counter(), store.calls
            answer = await client.post("/webhooks/telegram", json=message, headers=headers)
            taken.append(time.perf_counter() - began)
            assert answer.status_code == 200
            assert store.calls - calls >= 2, "the store was asked twice before the acknowledgement"
            if queue:  # else runs under way ask the store meanwhile
                assert store.calls - calls == 2
    await app.engine.drain()
    p50, p99 = (sorted(taken)[int(len(taken) * part) - 1] * 1000 for part in (0.5, 0.99))
    print(f"acknowledged after p50 {p50:.1f} ms, p99 {p99:.1f} ms (goal 50)")


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
    """From a process's start to the acknowledgement of its first webhook: under a second of CPU, at best of five."""
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
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(file)],
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "acknowledged\n"
        process.communicate(timeout=30)
        assert process.returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 1.0, taken
