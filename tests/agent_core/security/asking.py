"""A process of its own that asks at the door: `asking.py <store> <count> <seconds> <times>`; says how often it may."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agent_core.clock import SystemClock
from agent_core.errors import QuotaError
from agent_core.security.rates import Buckets, Rate
from agent_core.store.sqlite import SqliteStore


async def main(path: str, count: int, seconds: int, times: int) -> None:
    clock = SystemClock()
    store = SqliteStore(Path(path), clock)
    buckets = Buckets(store, clock)

    async def one() -> bool:
        try:
            await buckets.take("key", "acme", "key/k", Rate(count, seconds))
        except QuotaError:
            return False
        return True

    print(sum(await asyncio.gather(*(one() for _ in range(times)))))
    await store.close()


asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
