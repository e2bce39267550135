"""What of the Queue's contract SQS keeps too, as ministack shows it: other parts than moto does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent_core.queues.base import Rules
from agent_core.queues.sqs import SqsQueue
from tests.aws.emulator import Ministack, ServedClock
from tests.contracts import test_queue as contract
from tests.contracts.test_queue_sqs import SQS_PROMISES_LESS, TIME_STANDS_STILL

# As SQS: those behind a message that failed come with it, so the rest of these tests can't be asked.
COMES_NOT_ALONE = {
    "test_a_group_whose_message_failed_waits_for_it",
    "test_a_group_waits_for_each_message_of_it_in_flight",
}
MINISTACK_DIFFERS = {
    "test_late_work_still_counts_on_a_standard_queue": "it extends what is not in flight any more",
    "test_late_work_is_refused_on_a_fifo_queue": "it takes a receipt that timed out",
    "test_nobody_holds_a_message_over_twelve_hours": "it extends beyond twelve hours in all",
    "test_a_message_that_is_never_done_becomes_a_dead_letter": "it goes on counting receives",
}
LEFT_OUT = {*SQS_PROMISES_LESS, *COMES_NOT_ALONE, *MINISTACK_DIFFERS, *TIME_STANDS_STILL}


@pytest.fixture
def clock(ministack: Ministack) -> ServedClock:
    return ServedClock(ministack)


@pytest.fixture
async def make(ministack: Ministack, clock: ServedClock) -> AsyncIterator[contract.Make]:
    """Makes a queue with the given rules."""
    made: list[SqsQueue] = []

    def make(**rules: object) -> SqsQueue:
        made.append(ministack.queue(clock, Rules(**rules)))
        return made[-1]

    yield make
    for queue in made:
        await queue.close()


globals().update(
    {name: test for name, test in vars(contract).items() if name.startswith("test_") and name not in LEFT_OUT}
)


def test_what_is_left_out_is_in_the_contract() -> None:
    assert set(vars(contract)) >= LEFT_OUT
