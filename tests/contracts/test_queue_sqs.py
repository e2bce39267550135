"""What of the Queue's contract SQS keeps too, as far as its emulator shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent_core.queues.base import Rules
from agent_core.queues.sqs import SqsQueue
from tests.aws.emulator import Emulator, ServedClock
from tests.contracts import test_queue as contract

SQS_PROMISES_LESS = {
    "test_a_deleted_message_never_comes_again": "a second delete is answered as the first was",
    "test_a_message_that_failed_comes_alone": "those behind it in its group come with it",
    "test_a_busy_group_does_not_starve_the_others": "fairness between groups is not promised for each receive",
    "test_groups_do_not_wait_for_each_other": "the same",
    "test_the_age_of_the_oldest": "CloudWatch alone knows it",
    "test_redrive_brings_dead_letters_back_as_new": "a buried letter has an id of its own",
}
EMULATOR_DIFFERS = {
    "test_a_tenant_does_not_wait_for_all_of_another": "it knows no fair queues",
    "test_tenants_take_turns_and_each_is_in_order": "the same",
    "test_who_waited_is_not_pushed_back_by_who_comes_again_and_again": "the same",
    "test_what_a_tenant_failed_with_holds_up_no_other": "the same",
    "test_a_stale_receipt_is_refused": "it takes every receipt that a message ever had",
    "test_late_work_still_counts_on_a_standard_queue": "it extends what is not in flight any more",
    "test_late_work_is_refused_on_a_fifo_queue": "it takes a receipt that timed out",
    "test_a_group_whose_message_failed_waits_for_it": "it gives out those behind a message that failed",
    "test_a_group_waits_for_each_message_of_it_in_flight": "the same",
    "test_nobody_holds_a_message_over_twelve_hours": "it refuses the whole batch",
    "test_what_nobody_wants_is_forgotten": "it counts what is over its retention",
    "test_a_forgotten_message_frees_its_group": "it gives out nothing behind that",
    "test_a_duplicate_is_sent_once": "it gives a duplicate an id of its own",
    "test_a_duplicate_is_known_for_five_minutes_whatever_became_of_the_first": "the same",
    "test_duplicates_by_content": "the same",
    "test_a_message_that_is_never_done_becomes_a_dead_letter": "it goes on counting receives",
    "test_a_message_may_be_buried_at_once": "a second delete is answered as the first was",
}
TIME_STANDS_STILL = {  # in the emulator, so that it would wait for ever: test_sqs.py tells what is asked of SQS
    "test_a_receive_waits_for_a_message",
    "test_a_wait_ends_without_a_message",
    "test_a_wait_sees_the_time_of_a_message_come",
    "test_a_message_handed_back_wakes_who_waits",
    "test_a_deleted_message_lets_its_group_go_on",
    "test_many_that_wait_share_what_comes",
    "test_a_wait_that_is_cancelled_loses_nothing",
    "test_a_closed_queue_says_so",
    "test_closing_ends_a_wait",
}
LEFT_OUT = {*SQS_PROMISES_LESS, *EMULATOR_DIFFERS, *TIME_STANDS_STILL}


@pytest.fixture
def clock(emulator: Emulator) -> ServedClock:
    return ServedClock(emulator)


@pytest.fixture
async def make(emulator: Emulator, clock: ServedClock) -> AsyncIterator[contract.Make]:
    """Makes a queue with the given rules."""
    made: list[SqsQueue] = []

    def make(**rules: object) -> SqsQueue:
        made.append(emulator.queue(clock, Rules(**rules)))
        return made[-1]

    yield make
    for queue in made:
        await queue.close()


globals().update(
    {name: test for name, test in vars(contract).items() if name.startswith("test_") and name not in LEFT_OUT}
)


def test_what_is_left_out_is_in_the_contract() -> None:
    assert set(vars(contract)) >= LEFT_OUT
