"""How often and how many at once: exactly as many pass as may, whoever counts and however many ask together."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.clock import SystemClock
from agent_core.errors import InputError, QuotaError
from agent_core.security.rates import Buckets, Rate
from agent_core.security.slots import HOLD_SECONDS, Slots
from agent_core.settings import Settings
from agent_core.store.base import Store
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import CountingStore, ManualClock
from agent_core.wire.httpcore import HttpcoreWire
from tests.agent_core.security.conftest import Make

PROCESS = Path(__file__).with_name("asking.py")


@pytest.fixture(params=["memory", "sqlite", "dynamodb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    clock = SystemClock()
    made: Store
    if request.param == "memory":
        made = MemoryStore(clock)
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path / "store.db", clock)
    else:
        with request.getfixturevalue("emulator").store(clock) as made:
            yield made
            await made.close()
        return
    yield made
    await made.close()


async def taken(buckets: Buckets, rate: Rate, times: int) -> int:
    """How many of so many at once pass."""

    async def one() -> bool:
        try:
            await buckets.take("key", "acme", "key/k", rate)
        except QuotaError:
            return False
        return True

    return sum(await asyncio.gather(*(one() for _ in range(times))))


async def test_of_fifty_at_once_over_a_limit_of_ten_exactly_ten_pass(store: Store) -> None:
    clock = SystemClock()
    sides = [
        Buckets(store, clock) for _ in range(5)
    ]  # as many processes, of which none knows what the others saw
    passed = await asyncio.gather(*(taken(side, Rate(10, 86_400), 10) for side in sides))
    assert sum(passed) == 10


def test_of_fifty_in_five_processes_exactly_ten_pass(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    command = [sys.executable, str(PROCESS), str(path), "10", "86400", "10"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert sum(map(int, said)) == 10


async def test_of_fifty_requests_exactly_ten_pass(house: Make) -> None:
    here = house(key_rate="10/hour")
    async with here.client(await here.key()) as client:
        answers = await asyncio.gather(*(client.get("/api/v1/runs") for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 40
    left = sorted(answer.headers["RateLimit"] for answer in answers if answer.status_code == 200)
    assert left == sorted(f'"key";r={number};t=360' for number in range(10))
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["RateLimit-Policy"] == '"key";q=10;w=3600'
    assert refused.headers["RateLimit"] == '"key";r=0;t=360'
    assert refused.headers["Retry-After"] == "360"
    assert refused.headers["Content-Type"] == "application/problem+json"
    problem = refused.json()
    assert problem["type"] == "urn:sampan:problem:quota-exceeded"
    assert problem["violated-policies"] == ["key"]


async def test_a_key_has_a_rate_of_its_own_and_a_tenant_one_for_all(house: Make) -> None:
    here = house(key_rate="100/hour", tenant_rate="5/hour")
    few, many, others = await here.key(rate="2/hour"), await here.key(), await here.key(tenant="other")
    statuses = []
    for key in (few, few, few, many, many, many, many, others):
        async with here.client(key) as client:
            answer = await client.get("/api/v1/runs")
        statuses.append((answer.status_code, answer.json().get("violated-policies")))
    assert statuses == [
        *[(200, None)] * 2,
        (429, ["key"]),
        *[(200, None)] * 3,
        (429, ["tenant"]),
        (200, None),
    ]


async def test_what_the_tenant_is_refused_its_key_does_not_pay(house: Make) -> None:
    here = house(key_rate="3/hour", tenant_rate="1/hour")
    async with here.client(await here.key()) as client:
        assert (await client.get("/api/v1/runs")).status_code == 200
        for _ in range(5):
            assert (await client.get("/api/v1/runs")).json()["violated-policies"] == ["tenant"]
        here.clock.advance(3600)
        assert (await client.get("/api/v1/runs")).headers["RateLimit"].startswith('"key";r=2;')


@given(
    count=st.integers(1, 20),
    seconds=st.integers(1, 100),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 30)), max_size=60),
)
def test_a_bucket_is_what_a_bucket_should_be(count: int, seconds: int, pauses: list[float]) -> None:
    """Against the plain one: a number of tokens that grows with time."""

    async def run() -> None:
        clock = ManualClock()
        buckets = Buckets(MemoryStore(clock), clock)
        rate, tokens, at = Rate(count, seconds), float(count), clock.now()
        interval = (seconds * 1_000_000 // count) / 1_000_000
        for pause in pauses:
            clock.advance(pause)
            tokens, at = min(count, tokens + (clock.now() - at) / interval), clock.now()
            try:
                standing = await buckets.take("key", "t", "k", rate)
            except QuotaError as refusal:
                wait = refusal.retry_after or 0.0
                assert tokens < 1 + 1e-3
                assert wait >= (1 - tokens) * interval - 1e-3
            else:
                assert tokens >= 1 - 1e-3
                tokens -= 1
                assert standing.left in {int(max(0, tokens - 1e-3)), int(tokens + 1e-3)}

    asyncio.run(run())


async def test_a_limit_costs_one_round_trip_and_no_limit_none(house: Make) -> None:
    clock = ManualClock()
    for settings, trips in (
        ({}, 0),
        ({"key_rate": "50/hour"}, 1),
        ({"key_rate": "50/hour", "tenant_rate": "9/hour"}, 2),
    ):
        store = CountingStore(MemoryStore(clock))
        here = house(clock=clock, store=store, **settings)
        door, caller = here.app.door, await here.app.door.authenticate(_visitor(await here.key()))
        for _ in range(2):
            await door.again(caller, "agents:run")  # from now on the process knows how the buckets stand
        store.reset()
        for _ in range(3):
            await door.again(caller, "agents:run")
        assert sum(store.trips.values()) == 3 * trips


def _visitor(key: str):
    from tests.agent_core.security.conftest import visitor

    return visitor(headers={"x-api-key": key})


@pytest.mark.parametrize(
    "text", ["", "60", "60/", "60/minutes", "0/minute", "-1/minute", "1/0", "1.5/second", "x/day"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(InputError, match="60/minute"):
        Rate.parse(text)


def test_rates() -> None:
    assert Rate.parse("60/minute") == Rate(60, 60)
    assert Rate.parse(" 100/30 ") == Rate(100, 30)
    assert Rate.parse("1/day") == Rate(1, 86_400)


async def test_so_many_at_once_and_no_more(store: Store) -> None:
    clock = SystemClock()
    slots = [Slots(store, clock, 3) for _ in range(4)]
    inside, most, refused, done = 0, 0, 0, asyncio.Event()

    async def one(number: int) -> None:
        nonlocal inside, most, refused
        try:
            async with slots[number % 4].held("acme"):
                inside += 1
                most = max(most, inside)
                await done.wait()
                inside -= 1
        except QuotaError:
            refused += 1
            if refused == 9:
                done.set()

    async with asyncio.timeout(30):
        await asyncio.gather(*(one(number) for number in range(12)))
    assert (most, refused) == (3, 9)
    for _ in range(3):  # all were given back
        async with slots[0].held("acme"), slots[1].held("acme"), slots[2].held("acme"):
            pass


async def test_a_place_of_a_process_that_died_is_free_again_after_a_while() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    dead, alive = Slots(store, clock, 1), Slots(store, clock, 1)
    await dead._take("acme/door", "dead")  # and it was never given back
    with pytest.raises(QuotaError, match="under way"):
        async with alive.held("acme"):
            pass
    clock.advance(HOLD_SECONDS)
    async with alive.held("acme"):
        pass


async def test_a_long_request_keeps_its_place() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    long, other = Slots(store, clock, 1), Slots(store, clock, 1)
    async with long.held("acme"):
        for _ in range(10):
            for _ in range(20):
                await asyncio.sleep(0)
            clock.advance(HOLD_SECONDS / 3)
        with pytest.raises(QuotaError):
            async with other.held("acme"):
                pass
    async with other.held("acme"):
        pass


async def test_tenants_do_not_crowd_each_other_out(house: Make) -> None:
    here = house(tenant_concurrency=1)
    first, second = await here.key(), await here.key(tenant="other")
    async with here.app.door.slot(await here.app.door.authenticate(_visitor(first))):
        async with here.client(first) as client:
            refused = await client.get("/api/v1/runs")
        assert refused.status_code == 429
        assert refused.json()["violated-policies"] == ["concurrency"]
        assert refused.headers["Retry-After"] == "1"
        async with here.client(second) as client:
            assert (await client.get("/api/v1/runs")).status_code == 200
    async with here.client(first) as client:
        assert (await client.get("/api/v1/runs")).status_code == 200


async def test_a_wrong_rate_ends_the_start() -> None:
    from agent_core.errors import ConfigError
    from agent_core.security.door import Door

    clock = ManualClock()
    with pytest.raises(ConfigError, match="SAMPAN_TENANT_RATE=many"):
        Door(Settings(tenant_rate="many"), MemoryStore(clock), HttpcoreWire(), clock)
