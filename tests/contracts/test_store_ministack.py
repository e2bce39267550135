"""The Store's contract on DynamoDB as ministack emulates it, which is stricter with expressions than moto is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from agent_core.store.base import Store
from agent_core.testing import ManualClock
from tests.aws.emulator import Ministack
from tests.contracts import test_store as contract

MINISTACK_DIFFERS = {
    "test_nothing_can_be_added_to_what_is_no_number": "it adds to a text, which DynamoDB refuses",
    "test_a_failure_among_many_at_once_touches_nobody_else": "the same",
}
_epochs = count(1)

pair, store, clock = contract.pair, contract.store, contract.clock


@pytest.fixture
def opened(ministack: Ministack) -> contract.Open:
    """Opens a new, empty store."""

    @asynccontextmanager
    async def fresh() -> AsyncIterator[tuple[Store, ManualClock]]:
        # No two clocks make the same id: that of a transaction is remembered, whatever table it was for.
        clock = ManualClock(1_750_000_000.0 + 1000 * next(_epochs), jump=True)
        with ministack.store(clock) as store:
            try:
                yield store, clock
            finally:
                await store.close()

    return fresh


globals().update(
    {
        name: test
        for name, test in vars(contract).items()
        if name.startswith("test_") and name not in MINISTACK_DIFFERS
    }
)


def test_what_is_left_out_is_in_the_contract() -> None:
    assert set(vars(contract)) >= set(MINISTACK_DIFFERS)
