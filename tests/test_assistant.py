"""The tools of the agent that answers out of the box."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from agent_core import ToolError
from agent_core.loader import load_agents
from agent_core.settings import Settings


@pytest.fixture(scope="module")
def tools() -> dict:
    (agent,) = load_agents(Settings(agents=str(Path(__file__).resolve().parents[1] / "agents")))
    return {tool.name: tool for tool in agent.tools}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("17 + 25", 42),
        ("(1 + 2) * 3 - -4", 13),
        ("7 / 2", 3.5),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("2 ** 10", 1024),
        (" 1.5e3 ", 1500.0),
    ],
)
def test_calculate(tools: dict, expression: str, value: float) -> None:
    assert tools["calculate"](expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "x",
        "(1).__class__",
        "'a' * 10",
        "True + 1",
        "1 / 0",
        "9 ** 9 ** 9",
        "999999 ** 100 ** 2",
        "(-8) ** 0.5",
        "1e308 * 10",
        "[1]",
        "1 if 1 else 2",
        "",
        "1 +",
        "+" * 5000 + "1",
        "(" * 300 + "1" + ")" * 300,
        "1; 2",
        "1\x00",
    ],
)
def test_calculate_refuses_all_else(tools: dict, expression: str) -> None:
    """Whatever a model sends, it gets a readable error, at once, and nothing else happens."""
    with pytest.raises(ToolError):
        tools["calculate"](expression)


def test_current_time(tools: dict) -> None:
    year = str(datetime.now(UTC).year)
    assert year in tools["current_time"]("Asia/Shanghai")
    assert tools["current_time"]().endswith("UTC")
    for wrong in ("Mars/Base", "../../etc/passwd", ""):
        with pytest.raises(ToolError):
            tools["current_time"](wrong)


def test_days_between(tools: dict) -> None:
    assert tools["days_between"](date(2024, 2, 28), date(2024, 3, 1)) == 2
    assert tools["days_between"](date(2024, 3, 1), date(2024, 2, 28)) == -2
