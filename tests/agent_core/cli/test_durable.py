"""`sampan schedules`, `sampan dead`, `sampan replay`: what durable runs leave in the store, for people and programs."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from agent_core import Agent, App, Message, Principal, Schedule, Settings, build_app
from agent_core.engine.accept import lease_of, take
from agent_core.engine.runs import Inbound
from agent_core.testing import ManualClock, ScriptedModel, assert_replays

pytestmark = pytest.mark.usefixtures("project")

ME = Principal()


def opened(clock: ManualClock | None = None, *schedules: Schedule) -> App:
    """A process on the project's store, whose work nobody does."""
    agent = Agent(name="assistant", model=ScriptedModel([]), schedules=schedules)
    app = build_app(Settings.from_env({}), agents=[agent], clock=clock)

    async def nobody(principal: Principal, session_id: str) -> None:
        """Whoever is woken dies at once."""

    app.engine._wake = nobody
    return app


async def given_up(text: str) -> str:
    """A run all of whose attempts died."""
    clock = ManualClock(time.time() - 3600)
    app = opened(clock)
    run = await app.engine.submit(Inbound(messages=(Message.of("user", text),), session_id="s"), work=False)
    for _ in range(5):  # whoever takes it dies at once
        await take(app.engine._kit, lease_of(app.engine._kit, Principal(), "s"))
        clock.advance(61)
    app.engine._wake = None
    assert (await app.engine.sweep()).given_up == 1
    await app.engine.drain()
    await app.close()
    return run.id


def test_nothing_was_given_up(sampan: Any) -> None:
    assert sampan("dead", "list") == (0, "", "")
    assert json.loads(sampan("dead", "list", "--json").out) == []


def test_dead_letters_are_listed_shown_and_brought_back(sampan: Any) -> None:
    run_id = asyncio.run(given_up("hello"))
    [line] = [line.split("\t") for line in sampan("dead", "list").out.splitlines()]
    assert (line[0], line[2], line[3], line[5]) == (run_id, "assistant", "run", "hello")
    shown = sampan("dead", "show", run_id).out
    assert "reason    given up: " in shown
    assert "message   hello" in shown
    letter = json.loads(sampan("dead", "show", run_id, "--json").out)
    assert letter["letter"]["run_id"] == run_id
    assert letter["journal"] == []
    assert sampan("dead", "redrive", run_id) == (0, f"run {run_id} is back: succeeded\n", "")
    assert sampan("dead", "list").out == ""
    assert "answer    You said: hello" in sampan("runs", "show", run_id).out


@pytest.mark.parametrize("verb", ["show", "redrive"])
def test_a_letter_that_is_not_there(sampan: Any, verb: str) -> None:
    done = sampan("dead", verb, "nope")
    assert (done.code, done.err) == (1, "sampan: there is no dead letter of run nope\n")


def test_schedules_are_listed_once_a_server_has_planned_them(sampan: Any) -> None:
    assert sampan("schedules", "list") == (0, "", "")

    async def plan() -> None:
        app = opened(
            None, Schedule("report", "cron(0 9 ? * MON-FRI *)", message="Report.", zone="Europe/Berlin")
        )
        await app.schedules.ensure()
        await app.close()

    asyncio.run(plan())
    [line] = [line.split("\t") for line in sampan("schedules", "list").out.splitlines()]
    assert line[:3] == ["assistant.report", "cron(0 9 ? * MON-FRI *)", "Europe/Berlin"]
    assert line[4:] == ["-", "-", "Report."]
    [known] = json.loads(sampan("schedules", "list", "--json").out)
    assert known["at"] > time.time()


def asked(sampan: Any, text: str) -> str:
    return str(json.loads(sampan("ask", "--json", "--session", "s", text).out)["run_id"])


def test_a_run_is_replayed_step_by_step(sampan: Any) -> None:
    run_id = asked(sampan, "add 1 and 2")
    done = sampan("replay", run_id)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"run {run_id}, agent assistant, succeeded, 3 steps",
        "1 model scripted:test · 1 messages",
        '    calls add {"a": 1, "b": 2}',
        '2 tool add {"a": 1, "b": 2}',
        "    3",
        "3 model scripted:test · 3 messages",
        "    The tool says 3.",
        "the agent behaves as it did",
    ]


def test_a_saved_replay_is_a_regression_test(sampan: Any, project: Path) -> None:
    run_id = asked(sampan, "add 1 and 2")
    saved = project / "tests" / "replays" / "sum.json"
    assert f"saved to {saved}" in sampan("replay", run_id, "--save", str(saved)).out
    code = project / "agents" / "assistant.py"

    def agent() -> Agent:
        names: dict[str, Any] = {}
        exec(compile(code.read_text(), "assistant", "exec"), names)
        found: Agent = names["agent"]
        return found

    assert_replays(saved, agent())
    code.write_text(code.read_text().replace('"""The sum of two numbers."""', '"""Two numbers together."""'))
    with pytest.raises(AssertionError) as raised:
        assert_replays(saved, agent())
    words = str(raised.value)
    assert "step 1, tools:" in words
    assert '-  "description": "The sum of two numbers.",' in words
    assert '+  "description": "Two numbers together.",' in words


def test_a_run_that_is_not_there_or_whose_agent_is_gone(sampan: Any, project: Path) -> None:
    assert sampan("replay", "nope").err == "sampan: there is no run nope\n"
    run_id = asked(sampan, "hello")
    code = project / "agents" / "assistant.py"
    code.write_text(code.read_text().replace('name="assistant"', 'name="other"'))
    done = sampan("replay", run_id)
    assert (done.code, done.err) == (
        1,
        "sampan: the run is of the agent 'assistant', which is not in 'agents'\n",
    )
