"""The store of a world: a file in its folder, or a table of an emulated DynamoDB behind a proxy that fails at times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from agent_core.clock import Clock
from agent_core.store.base import Store
from agent_core.store.dynamodb import DynamoStore
from agent_core.store.sqlite import SqliteStore
from agent_core.wire.base import Timeouts
from tests.aws.emulator import Emulator
from tests.durability.proxy import failing
from tests.durability.world import World

BRIEF = Timeouts(connect=2.0, first_byte=0.3, between_chunks=0.3, total=2.0)
"""The proxy's silence is noticed soon."""


def open_store(world: World, clock: Clock, busy_seconds: float = 2.0) -> Store:
    """The world's store, as one process sees it."""
    place = world.folder / "table.json"
    if not place.exists():
        return SqliteStore(world.database, clock, busy_seconds=busy_seconds)
    where = json.loads(place.read_text())
    service = Emulator(where["port"]).dynamodb(clock)
    return DynamoStore(msgspec.structs.replace(service, timeouts=BRIEF), where["table"])


class Cloud:
    """Gives each world a table of its own; `failing_port` is the proxy's, which the processes under test go through."""

    def __init__(self, emulator: Emulator, failing_port: int) -> None:
        self._emulator = emulator
        self._failing_port = failing_port

    @contextmanager
    def table_of(self, world: World) -> Iterator[None]:
        """Have the world's store be a table, while in this context."""
        with self._emulator.table() as table:
            place = world.folder / "table.json"
            place.write_text(json.dumps({"table": table, "port": self._failing_port}))
            yield

    def calm(self, world: World) -> None:
        """From now on nothing fails: for whoever reads what came of it."""
        place = world.folder / "table.json"
        where = json.loads(place.read_text())
        place.write_text(json.dumps({**where, "port": self._emulator.port}))


@contextmanager
def cloud(emulator: Emulator, rate: float, seed: int) -> Iterator[Cloud]:
    """A cloud of which so many calls fail, from 0 to 1."""
    with failing(emulator.port, rate, seed) as port:
        yield Cloud(emulator, port)
