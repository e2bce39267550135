"""What goes wrong for a while is declared, loses nothing, and all goes on when it is over."""

from __future__ import annotations

import pytest

from agent_core.errors import RunningError, StoreBusyError
from agent_core.testing import Fault, FaultyStore
from tests.durability.command import prove
from tests.durability.evidence import Evidence, Problem, gather
from tests.durability.faults import FAULTS
from tests.durability.paused import WITH_ONE_WORKER
from tests.durability.process import StuckError, work
from tests.durability.scenarios import SCENARIOS, Scenario
from tests.durability.stores import open_store
from tests.durability.world import LEASE_SECONDS, WorldClock, new_world


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_boundary_is_declared_and_loses_nothing(fault: str) -> None:
    scenarios = ("three tools", "inbox", "push")
    print(prove("faults", "--fault", fault, *(f"--scenario={name}" for name in scenarios)))


def test_a_run_that_nobody_could_be_woken_for_is_left_to_the_sweeper() -> None:
    """Handed over while the file is locked: the platform stops the one who waits. `make soak` has every boundary."""
    print(prove("faults", "--scenario=continuation", "--fault=file locked", "--at=before wake #1"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", WITH_ONE_WORKER)
def test_a_worker_that_slept_through_its_lease_writes_nothing(scenario: str) -> None:
    print(prove("paused", "--scenario", scenario))


async def throttled(scenario: Scenario, normal: Evidence, fault: Fault) -> list[Problem]:
    """What is wrong after one call to the store was answered by an error, and the sender tried again."""
    with new_world() as world:
        try:
            await work(world, scenario, store=FaultyStore(open_store(world, WorldClock(world)), [fault]))
        except (StoreBusyError, RunningError, StuckError):
            pass  # the sender was told, or sees that nothing happens: it tries again later
        world.jump(LEASE_SECONDS + 1)
        await work(world, scenario)
        return (await gather(world, scenario)).compared_with(normal, crashes=1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("scenario", ["three tools", "approval", "inbox", "push"])
async def test_a_throttled_call_to_the_store_loses_nothing(scenario: str, lost: bool) -> None:
    """Each call of the scenario, one after the other: not done, or done but its answer lost."""
    with new_world() as world:
        counting = FaultyStore(open_store(world, WorldClock(world)))
        await work(world, SCENARIOS[scenario], store=counting)
        normal = await gather(world, SCENARIOS[scenario])
    for number in range(1, counting.calls[""] + 1):
        fault = Fault(call=number, error=StoreBusyError("throttled"), after=lost)
        found = await throttled(SCENARIOS[scenario], normal, fault)
        assert [one for one in found if one[0] != "paid again"] == [], f"call {number}"
