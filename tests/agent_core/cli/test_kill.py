"""`sampan kill`: stopped, listed, let go again; a server on the same store obeys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.agent_core.cli.conftest import Sampan


def test_from_beginning_to_end(sampan: Sampan, project: Path) -> None:
    assert sampan("kill", "list").out == ""
    done = sampan("kill", "tool", "refund", "--reason", "it pays too much")
    assert done.out == "The tool refund is stopped; runs under way that were told: 0.\n"
    assert sampan("kill", "agent", "assistant", "--tenant", "*").code == 0
    tool, agent = json.loads(sampan("kill", "list", "--json").out)
    assert (tool["kind"], tool["name"], tool["reason"]) == ("tool", "refund", "it pays too much")
    assert (agent["kind"], agent["tenant"]) == ("agent", "*")
    assert sampan("kill", "lift", "tool", "refund").out == "The tool refund may run again.\n"
    assert [one["kind"] for one in json.loads(sampan("kill", "list", "--json").out)] == ["agent"]
    assert sampan("kill", "tenant", "acme").code == 0
    [_, acme] = json.loads(sampan("kill", "list", "--tenant", "acme", "--json").out)
    assert (acme["kind"], acme["tenant"]) == ("tenant", "acme")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lift", "tool", "refund"), "the tool 'refund' is not stopped"),
        (("agent", ""), "an agent or a tool has a name"),
    ],
)
def test_what_is_wrong_is_said(sampan: Sampan, project: Path, arguments: tuple[str, ...], words: str) -> None:
    done = sampan("kill", *arguments)
    assert done.code == 1
    assert words in done.err
