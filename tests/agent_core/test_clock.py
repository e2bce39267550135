"""The machine's clock, and the one that tests move by hand."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.clock import Clock, SystemClock, SystemNoise, sortable_id
from agent_core.testing import ManualClock

ALPHABET = set("0123456789abcdefghjkmnpqrstvwxyz")


@pytest.fixture(params=[SystemClock, ManualClock], ids=["system", "manual"])
def clock(request: pytest.FixtureRequest) -> Clock:
    make: Callable[[], Clock] = request.param
    return make()


# --- what every clock does


def test_time_is_in_seconds_since_1970_and_does_not_run_backwards(clock: Clock) -> None:
    assert 1.7e9 < clock.now() < 1e11
    assert clock.monotonic() <= clock.monotonic()


def test_chance_is_between_0_and_1_and_varies(clock: Clock) -> None:
    numbers = [clock.random() for _ in range(100)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) > 90


def test_ids_have_26_safe_characters_never_repeat_and_sort_by_age(clock: Clock) -> None:
    ids = [clock.new_id() for _ in range(5000)]
    assert all(len(new) == 26 and set(new) <= ALPHABET for new in ids)
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


def test_threads_that_share_a_clock_get_ids_of_their_own() -> None:
    clock = SystemClock()
    with ThreadPoolExecutor(8) as pool:
        ids = [
            new
            for many in pool.map(lambda _: [clock.new_id() for _ in range(2000)], range(8))
            for new in many
        ]
    assert len(set(ids)) == 16_000


def test_copies_of_a_clock_as_a_fork_makes_them_give_different_ids() -> None:
    clock = SystemClock()
    clock.new_id()
    twin = copy(clock)
    ids = [one.new_id() for _ in range(500) for one in (clock, twin)]
    assert len(set(ids)) == 1000


FORK = """
import os
from agent_core.clock import SystemClock
clock = SystemClock()
clock.new_id()
child = os.fork() == 0
ids = [clock.new_id() for _ in range(500)]
if not child:
    os.wait()  # so that the two do not write into each other's lines
print("\\n".join(ids), flush=True)
"""


def test_a_forked_process_gives_other_ids() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=30
    )
    ids = result.stdout.split()
    assert len(ids) == 1000
    assert len(set(ids)) == 1000
    assert len({new[10:] for new in ids}) == 1000  # not by their time alone


def test_noise_is_used_once_and_not_for_long() -> None:
    noise = SystemNoise()
    assert len({noise.take(5000) for _ in range(200)}) == 200
    restored = deepcopy(noise)  # as a snapshot keeps it
    assert noise.take(5000) == restored.take(5000)
    for later in (6001, 4000):
        one, other = deepcopy(noise), deepcopy(noise)
        assert one.take(later) != other.take(later)


async def test_a_sleep_of_nothing_lets_others_work(clock: Clock) -> None:
    worked = asyncio.ensure_future(asyncio.sleep(0, True))
    await clock.sleep(0)
    await clock.sleep(0)
    assert worked.done()


async def test_the_machine_s_clock_sleeps() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009


TIMES = st.integers(0, 2**48 - 1)
NOISE = st.integers(0, 2**80 - 1)


@given(st.tuples(TIMES, NOISE), st.tuples(TIMES, NOISE))
def test_ids_sort_as_their_times_do(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (sortable_id(*one) < sortable_id(*other)) == (one < other)
    assert (sortable_id(*one) == sortable_id(*other)) == (one == other)
    assert len(sortable_id(*one)) == 26


def test_an_id_is_laid_out_as_a_ulid() -> None:
    # The example of https://github.com/ulid/spec: 01ARYZ6S41 is the time 1469918176385.
    assert sortable_id(1469918176385, 0) == "01aryz6s41" + "0" * 16


# --- the clock that tests move


async def test_nobody_wakes_before_the_clock_is_moved() -> None:
    clock = ManualClock()
    woken: list[str] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.ensure_future(sleep(name, seconds)) for name, seconds in (("c", 5), ("a", 1), ("b", 1))]
    await asyncio.sleep(0)
    assert clock.sleeping == 3
    clock.advance(0.5)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(0.5)
    await asyncio.wait(tasks[1:])
    assert woken == ["a", "b"]
    assert clock.sleeping == 1
    clock.advance(100)
    await asyncio.wait(tasks)
    assert woken == ["a", "b", "c"]
    assert clock.slept == [5, 1, 1]


async def test_time_is_what_was_advanced() -> None:
    clock = ManualClock(start=1000.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (1002.5, 2.5)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert clock.sleeping == 0
    clock.advance(1)


async def test_a_jumping_clock_keeps_nobody_waiting() -> None:
    clock = ManualClock(start=1000.0, jump=True)
    await clock.sleep(60)
    await clock.sleep(0.5)
    assert clock.now() == 1060.5
    assert clock.slept == [60, 0.5]


def test_two_clocks_of_one_seed_agree() -> None:
    one, two, other = ManualClock(), ManualClock(), ManualClock(seed=1)
    assert (
        [one.random() for _ in range(3)]
        == [two.random() for _ in range(3)]
        != [other.random() for _ in range(3)]
    )
    assert one.new_id() == two.new_id()


async def test_a_sleep_that_nobody_ends_fails_and_says_where() -> None:
    clock = ManualClock(patience=0.05)

    async def the_sleeper() -> None:
        await clock.sleep(10)

    with pytest.raises(AssertionError, match=r"10 s on a ManualClock that nobody moves[\s\S]*the_sleeper"):
        await the_sleeper()
    with pytest.raises(AssertionError, match="nobody moves"):
        await clock.sleep(5)  # at once: a loop of retries ends too
    clock.advance(1)
    woken = asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    clock.advance(5)
    await woken
