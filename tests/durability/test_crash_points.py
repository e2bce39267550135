"""Every boundary of the engine, every time it is passed: killed there, nothing is lost and nothing is done twice."""

from __future__ import annotations

import pytest

from tests.durability.command import prove
from tests.durability.scenarios import SCENARIOS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_boundary_loses_nothing_and_doubles_nothing(scenario: str) -> None:
    """Each crash once, with what comes first after it in turn, and some pairs of crashes; `make soak` does all."""
    print(prove("crash_points", "--scenario", scenario, "--in-turn", "--twice", "30"))
