"""What one table carries, counted on the emulator: the write units of a turn in each partition that all turns share."""

from __future__ import annotations

import json
from collections import Counter
from math import ceil
from typing import Any

import pytest

from agent_core import Agent
from agent_core.app import App
from agent_core.engine.runs import Inbound
from agent_core.messages import Message, Principal, Prompt
from agent_core.store.dynamodb import DynamoStore
from agent_core.store.shards import is_list
from agent_core.testing import ManualClock, ScriptedModel, test_app
from agent_core.wire.base import Request, Response, Wire
from tests.aws.emulator import Emulator

TURNS = 24
SHARDS = 4
UNITS = 1000
"""Write units that one partition of a table carries in a second.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"""


class Metered:
    """A wire that counts what DynamoDB bills: a unit for each kilobyte of a write, two in a transaction.

    A removal is billed by what was there, so by the size that was last written.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.units: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}

    async def send(self, request: Request) -> Response:
        asked = json.loads(request.body or b"{}")
        target = request.headers.get("x-amz-target", "")
        if target.endswith("TransactWriteItems"):
            for action in asked["TransactItems"]:
                self._count(*next(iter(action.values())).items(), each=2)
        elif target.endswith(("PutItem", "UpdateItem", "DeleteItem")):
            self._count(*asked.items(), each=1)
        return await self._wire.send(request)

    def _count(self, *items: tuple[str, Any], each: int) -> None:
        request = dict(items)
        place = request.get("Item") or request["Key"]
        name = f"{place['pk']} {place['sk']}"
        self._sizes[name] = max(self._sizes.get(name, 1), len(json.dumps(request.get("Item", ""))))
        self.units[place["pk"]["S"]] += each * ceil(self._sizes[name] / 1024)

    def stream(self, request: Request) -> Any:
        return self._wire.stream(request)

    async def close(self) -> None:
        await self._wire.close()


def echo(prompt: Prompt) -> str:
    return f"answer to {prompt.messages[-1].text}"


async def turns(app: App, one_user: bool) -> None:
    for number in range(TURNS):
        who = Principal(user="u" if one_user else f"u{number}")
        said = Inbound(messages=(Message.of("user", "Hello"),), principal=who, session_id=f"s{number}")
        assert (await app.engine.answer(said)).status == "succeeded"


@pytest.mark.parametrize("one_user", [True, False])
async def test_a_table_carries_as_many_turns_as_it_has_partitions(emulator: Emulator, one_user: bool) -> None:
    with emulator.table() as table:
        clock = ManualClock()
        service = emulator.dynamodb(clock)
        metered = service.client._wire = Metered(service.client._wire)
        store = DynamoStore(service, table)
        agent = Agent(name="assistant", model=ScriptedModel([echo] * TURNS))
        app = test_app(agent, store=store, clock=clock, shards=SHARDS)
        await turns(app, one_user)
        await store.close()
    due = sum(units for name, units in metered.units.items() if is_list(name))
    ledger = sum(units for name, units in metered.units.items() if "/ledger/" in name)
    assert (due / TURNS, ledger / TURNS) == (4, 2)
    shared = [name for name in metered.units if is_list(name) or "/ledger/" in name]
    assert len(shared) == 2 * SHARDS
    # What is due bounds it: 250 turns a second for each partition, 10,000 for 40 of them (they fill evenly: see
    # tests/agent_core/store/test_shards.py).
    assert UNITS / (due / TURNS) == 250
    # No other partition is written to by all turns; a user's list of sessions once by each session.
    others = Counter({name: units for name, units in metered.units.items() if name not in shared})
    assert [name for name, units in others.most_common(2) if units > 2 * 8] == (
        ["default/sessions/u"] if one_user else []
    )
