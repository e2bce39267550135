"""A batch that is killed in the middle goes on with the same command; `make soak` has 10,000 lines."""

from __future__ import annotations

from tests.durability.command import prove


def test_the_same_command_goes_on_after_a_kill() -> None:
    said = prove("stopped_batch", "--lines", "600", "--lease", "2")
    assert "(SIGKILL)" in said
    assert "results 600, in order and right: True" in said
