"""The tables of docs/security.md: every row of OWASP's lists, each with tests that exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import httpx

from agent_core import Agent, tool
from agent_core.app import build_app
from agent_core.messages import Message, Reply, ToolCall
from agent_core.settings import Settings
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, ScriptedModel

LLM = [f"LLM{number:02}" for number in range(1, 11)]
ASI = [f"ASI{number:02}" for number in range(1, 11)]


def rows(root: Path) -> dict[str, list[str]]:
    """The cells of each row, by its id."""
    found = {}
    for line in (root / "docs" / "security.md").read_text("utf-8").splitlines():
        match = re.match(r"\| (LLM\d\d|ASI\d\d) ", line)
        if match:
            found[match[1]] = [cell.strip() for cell in line.strip("|").split("|")]
    return found


def test_every_row_is_there_and_says_what_is_done(root: Path) -> None:
    table = rows(root)
    assert list(table) == [*LLM, *ASI]
    for cells in table.values():
        name, done, tests, _ = cells
        assert len(name) > 6
        assert len(done) > 6
        assert tests


def test_every_test_that_is_named_exists(root: Path) -> None:
    named = [
        (path, name)
        for _, _, tests, _ in rows(root).values()
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    ]
    assert len(named) >= 40
    for path, name in named:
        tree = ast.parse((root / path).read_text("utf-8"))
        functions = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in functions, f"{path} has no {name}"
    for row, (_, _, tests, _) in rows(root).items():
        assert re.findall(r"`([^`]+)`", tests), row
        assert not re.sub(r"`tests/[\w/]+\.py::test_\w+`", "", tests).strip(), f"{row}: {tests}"


async def test_a_person_is_shown_the_arguments_and_not_the_models_words_about_them() -> None:
    """ASI09: the model says ten, its call says ten thousand; whoever decides reads ten thousand, whatever way."""

    @tool(effects="once", approval=True)
    def pay(to: str, euros: int) -> str:
        """Pay somebody."""
        return "paid"

    words = "I will pay Ann 10 euros, as you asked. Please approve the 10 euros."
    # A name that stands twice, an escape, a number in quotes: what counts is what the tool would be called with.
    call = ToolCall("1", "pay", '{"euros": 10, "to": "Ann", "to": "\\u004dallory", "euros": "10000"}')
    script = [Reply(message=Message.of("assistant", words, tool_calls=(call,)), finish="tool_calls"), "Done."]
    agent = Agent(name="bank", model=ScriptedModel(script), tools=[pay])
    clock = ManualClock()
    app = build_app(Settings(auth="off"), agents=[agent], store=MemoryStore(clock), clock=clock)
    transport = httpx.ASGITransport(app.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        run = (await client.post("/api/v1/agent", json={"message": "Pay Ann 10 euros"})).json()
        [question] = run["questions"]
        assert json.loads(question["arguments"]) == {"to": "Mallory", "euros": 10000}
        assert "Ann" not in json.dumps(question)
        page = (await client.get(f"/console/runs/{run['run_id']}")).text
        asked = page[page.index(question["hash"]) - 2000 : page.index(question["hash"]) + 2000]
        assert "10000" in asked
        assert "Mallory" in asked
    await app.close()
