"""How soon a webhook is acknowledged, by the handler, with a store that takes 5 ms for each call."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from mangum import Mangum

from agent_core import Agent, Settings, build_app
from agent_core.clock import SystemClock
from agent_core.models.scripted import ScriptedModel
from agent_core.store.base import Condition, Fields, Key, Page, Record, Store, Write
from agent_core.store.memory import MemoryStore
from benchmarks.table import Goal, Report

STORE_SECONDS = 0.005
WEBHOOKS = 400
SECRET = "0123456789abcdef0123456789abcdef"
GOAL_MS = 50.0


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


def telegram(number: int) -> tuple[dict[str, str], bytes]:
    """A message to a bot, with its secret token."""
    message = {
        "message_id": number,
        "from": {"id": 42, "is_bot": False},
        "chat": {"id": 42, "type": "private"},
        "text": "Where is my order?",
    }
    headers = {"x-telegram-bot-api-secret-token": SECRET}
    return headers, json.dumps({"update_id": number, "message": message}).encode()


def slack(number: int) -> tuple[dict[str, str], bytes]:
    """A message to an app, signed over its raw bytes."""
    event = {
        "type": "message",
        "channel_type": "im",
        "channel": "D1",
        "user": "U1",
        "text": "Where is my order?",
        "ts": f"{number}.1",
    }
    body = json.dumps(
        {"type": "event_callback", "team_id": "T1", "event_id": f"Ev{number}", "event": event}
    ).encode()
    stamp = str(int(time.time()))
    digest = hmac.new(SECRET.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
    return {"x-slack-request-timestamp": stamp, "x-slack-signature": f"v0={digest}"}, body


def github(number: int) -> tuple[dict[str, str], bytes]:
    """An event of a repository."""
    body = json.dumps(
        {
            "action": "opened",
            "issue": {"number": number, "title": "Lost", "body": "Where is my order?"},
            "repository": {"full_name": "octo/shop"},
            "sender": {"login": "octocat", "type": "User"},
        }
    ).encode()
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "x-github-event": "issues",
        "x-github-delivery": f"delivery-{number}",
        "x-hub-signature-256": f"sha256={digest}",
    }
    return headers, body


KINDS: dict[str, Callable[[int], tuple[dict[str, str], bytes]]] = {
    "telegram": telegram,
    "slack": slack,
    "github": github,
}


def run(*, quick: bool = False) -> Report:
    """The table; `quick` sends few."""
    rows: list[tuple[object, ...]] = []
    worst = 0.0
    for kind, make in KINDS.items():
        taken = _acknowledged(kind, make, 40 if quick else WEBHOOKS)
        cuts = statistics.quantiles(taken, n=100)
        worst = max(worst, cuts[98])
        rows.append((kind, statistics.median(taken), cuts[94], cuts[98]))
    return Report(
        name="webhooks",
        title="Acknowledging webhooks",
        columns=("channel", "p50, ms", "p95, ms", "p99, ms"),
        rows=rows,
        goals=[Goal("p99 of the slowest channel, store at 5 ms a call", worst, GOAL_MS, "ms")],
        notes=[
            f"By Lambda's event through the functions' adapter, {WEBHOOKS} webhooks one after the other, each with an "
            "id of its own. Five of the milliseconds are the write that accepts the message; where somebody was let in "
            "by a pairing code, a look at the list of those is one call more. Cold, from the start of the process, "
            "it is under a second of CPU: `tests/agent_core/channels/test_ack.py`."
        ],
    )


def _acknowledged(kind: str, make: Callable[[int], tuple[dict[str, str], bytes]], count: int) -> list[float]:
    """Milliseconds to each acknowledgement."""
    clock = SystemClock()
    options = {"kind": kind, "secret": SECRET, "open": "true"}
    if kind in ("telegram", "slack"):
        options["token"] = {"telegram": "123456:ABC-DEF1234ghIkl", "slack": "xoxb-1"}[kind]
    app = build_app(
        Settings(store="memory", queue="memory", auth="off", channels={kind: options}),
        agents=[Agent(name="assistant", model=ScriptedModel([]))],
        clock=clock,
        store=FarStore(MemoryStore(clock), clock),
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    adapter = Mangum(app.asgi(), lifespan="off")  # as `handlers/_http.py` has it
    taken = []
    for number in range(1, count + 11):
        headers, body = make(number)
        event = _event(kind, headers, body)
        began = time.perf_counter()
        answer = adapter(event, None)
        if number > 10:  # the first ones load what the others find
            taken.append((time.perf_counter() - began) * 1000)
        assert answer["statusCode"] == 200, answer
    loop.run_until_complete(app.close())
    asyncio.set_event_loop(None)
    loop.close()
    return taken


def _event(kind: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """As API Gateway gives it to a function (payload 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "POST /webhooks/{channel}",
        "rawPath": f"/webhooks/{kind}",
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "a.example", **headers},
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
        "body": body.decode(),
        "isBase64Encoded": False,
    }
