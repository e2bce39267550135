"""The promises hold on DynamoDB, too, whatever fails on the way there."""

from __future__ import annotations

import pytest

from tests.durability.command import prove


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["plain", "three tools"])
def test_a_crash_at_any_boundary_loses_nothing_on_dynamodb(scenario: str) -> None:
    """One call in twenty is throttled, cut or left without an answer; `make soak` does all scenarios."""
    print(prove("in_cloud", "--scenario", scenario, "--in-turn"))
