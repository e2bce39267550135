"""How soon a webhook is acknowledged, on every channel that talks back: by the function, over ASGI, and cold."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from agent_core import Agent, Settings, build_app
from agent_core.app import App
from agent_core.clock import SystemClock
from agent_core.models.scripted import ScriptedModel
from agent_core.store.base import Condition, Fields, Key, Page, Record, Store, Write
from agent_core.store.memory import MemoryStore
from benchmarks.machine import ROOT, BenchmarkError
from benchmarks.table import Goal, Report
from handlers import _shared, webhook
from tests.agent_core.channels.fakes import serving
from tests.agent_core.channels.services import Hook, Speaker
from tests.agent_core.channels.services.everyone import SPEAKERS

STORE_SECONDS = 0.005
WEBHOOKS = 400
WARM_UP = 10
COLD = 3
GOAL_MS = 50.0
COLD_GOAL_MS = 1000.0
PUBLIC_URL = "https://sampan.test"  # Twilio signs it

PROGRAM = """
import json, sys
from pathlib import Path
from handlers.webhook import handler

answer = handler(json.loads(Path(sys.argv[1]).read_text()), None)
assert 200 <= answer["statusCode"] < 300, answer
print("acknowledged", flush=True)
"""
AGENT = "from agent_core import Agent\nagent = Agent(name='assistant', model='openai:gpt-5-mini')\n"


class FarStore:
    """A store over a network."""

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

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        await self._clock.sleep(STORE_SECONDS)
        return await self._store.add(key, numbers, expires_at=expires_at, when=when)

    async def close(self) -> None:
        await self._store.close()


class Context:
    """As much of Lambda's context as is asked for."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def run(*, quick: bool = False) -> Report:
    """The table; `quick` sends few, and looks at one cold start alone."""
    rows: list[tuple[object, ...]] = []
    slowest = coldest = 0.0
    for number, speaker in enumerate(sorted(SPEAKERS, key=lambda one: one.kind)):
        service = speaker()
        with serving(service) as service.url:
            count = 40 if quick else WEBHOOKS
            ways = [_acknowledged(service, way, count) for way in (by_function, over_asgi)]
            cuts = [(statistics.median(taken), statistics.quantiles(taken, n=100)[98]) for taken in ways]
            cold = "" if quick and number else _cold(service, 1 if quick else COLD)
        slowest = max(slowest, *(p99 for _, p99 in cuts))
        coldest = max(coldest, cold or 0.0)
        rows.append((service.kind, *cuts[0], *cuts[1], cold))
    return Report(
        name="webhooks",
        title="Acknowledging webhooks",
        columns=(
            *("channel", "function p50, ms", "function p99, ms"),
            *("ASGI p50, ms", "ASGI p99, ms", "cold, ms"),
        ),
        rows=rows,
        goals=[
            Goal("p99 of the slowest channel, store at 5 ms a call", slowest, GOAL_MS, "ms"),
            Goal("cold, the slowest channel", coldest, COLD_GOAL_MS, "ms"),
        ],
        notes=[
            f"{WEBHOOKS} webhooks each, signed as the service signs them, one after the other, each with an id of its "
            "own: by `handlers/webhook.py` with Lambda's event, and over ASGI. Five of the milliseconds are the write "
            "that accepts the message; where somebody was let in by a pairing code, a look at the list of those is one "
            f"call more. Cold is from the start of the process to its first acknowledgement, the best of {COLD}, with "
            "the embedded store; Teams fetches the keys of its tokens then. "
            "Wall time has the machine's other work in it: of three runs, one beside test suites on both cores had a "
            "p99 of 145 ms on its slowest channel (Teams), the other two 11 and 18 ms."
        ],
    )


Post = Callable[[Hook], float]


def _acknowledged(service: Speaker, way: Callable[[str, App], Any], count: int) -> list[float]:
    """Milliseconds to each acknowledgement."""
    clock = SystemClock()
    app = build_app(
        Settings(
            store="memory",
            queue="memory",
            public_url=PUBLIC_URL,
            channels={service.kind: {"kind": service.kind, "open": "true", **service.settings()}},
        ),
        agents=[Agent(name="assistant", model=ScriptedModel([]))],
        clock=clock,
        store=FarStore(MemoryStore(clock), clock),
    )
    with way(service.kind, app) as post:
        taken = [post(_hook(service, number)) for number in range(1, count + WARM_UP + 1)]
    return taken[WARM_UP:]  # the first ones load what the others find


def _hook(service: Speaker, number: int) -> Hook:
    return service.hook("Where is my order?", name=str(number), who="ada", group="", file="", now=time.time())


@contextmanager
def by_function(kind: str, app: App) -> Iterator[Post]:
    """By the function of webhooks, whose app is this one."""

    def post(hook: Hook) -> float:
        event = _event(kind, hook)
        began = time.perf_counter()
        answer = webhook.handler(event, Context())
        taken = (time.perf_counter() - began) * 1000
        if not 200 <= answer["statusCode"] < 300:
            raise BenchmarkError(f"{kind}: {answer}")
        return taken

    surface, before = app.asgi(), (_shared.app, _shared.asgi)
    _shared.app, _shared.asgi = (lambda: app), (lambda: surface)
    try:
        yield post
        _shared.wait_for(app.close())
    finally:
        _shared.app, _shared.asgi = before
        _shared.loop().close()
        _shared._loop.cache_clear()
        asyncio.set_event_loop(None)


@contextmanager
def over_asgi(kind: str, app: App) -> Iterator[Post]:
    """By the same surface as a server calls it."""
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi()), base_url=PUBLIC_URL)

        async def send(hook: Hook) -> float:
            began = time.perf_counter()
            answer = await client.post(
                f"/webhooks/{kind}?{hook.query}", content=hook.body, headers=dict(hook.headers)
            )
            taken = (time.perf_counter() - began) * 1000
            if not answer.is_success:
                raise BenchmarkError(f"{kind}: {answer.text}")
            return taken

        yield lambda hook: runner.run(send(hook))
        runner.run(client.aclose())
        runner.run(app.close())


def _cold(service: Speaker, rounds: int) -> float:
    """Milliseconds from the start of a process to its first acknowledgement, at best."""
    options = {"open": "true", **service.settings()}
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MODEL_API_KEY": "none",
        "SAMPAN_QUEUE": "sqlite",
        "SAMPAN_PUBLIC_URL": PUBLIC_URL,
        "SAMPAN_CHANNELS": service.kind,
        **{f"SAMPAN_{service.kind.upper()}_{name.upper()}": value for name, value in options.items()},
    }
    taken = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "agents").mkdir()
        (folder / "agents" / "assistant.py").write_text(AGENT, encoding="utf-8")
        for number in range(rounds + 1):  # the first one compiles
            file = folder / "event.json"
            file.write_text(json.dumps(_event(service.kind, _hook(service, number))), encoding="utf-8")
            began = time.perf_counter()
            command = [sys.executable, "-c", PROGRAM, str(file)]
            with subprocess.Popen(
                command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                said = process.stdout.readline() if process.stdout else ""
                taken.append((time.perf_counter() - began) * 1000)
                _, words = process.communicate(timeout=60)
            if said != "acknowledged\n":
                raise BenchmarkError(f"{service.kind}: {words[-500:]}")
    return min(taken[1:])


def _event(kind: str, hook: Hook) -> dict[str, Any]:
    """As API Gateway gives it to a function (payload 2.0)."""
    headers: Mapping[str, str] = {"content-type": "application/json", "host": "a.example", **hook.headers}
    return {
        "version": "2.0",
        "routeKey": "POST /webhooks/{channel}",
        "rawPath": f"/webhooks/{kind}",
        "rawQueryString": hook.query,
        "headers": dict(headers),
        "requestContext": {
            "http": {
                "method": "POST",
                "path": f"/webhooks/{kind}",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "benchmark",
            },
            "stage": "$default",
            "domainName": "a.example",
            "requestId": "r",
            "routeKey": "POST /webhooks/{channel}",
            "time": "14/Nov/2023:22:13:20 +0000",
            "timeEpoch": 1700000000000,
        },
        "pathParameters": {"channel": kind},
        "body": hook.body.decode(),
        "isBase64Encoded": False,
    }
