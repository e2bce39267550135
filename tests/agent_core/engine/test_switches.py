"""The kill switch: an agent, a tool or a tenant stops within one step, in every process, and later work is refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agent_core import Agent, tool
from agent_core.agent import Limits
from agent_core.app import App
from agent_core.engine.runs import Inbound, Run
from agent_core.engine.switches import CACHE_SECONDS, EVERY_TENANT, Switch, Switches
from agent_core.errors import AgentError, InputError, KilledError, NotFoundError
from agent_core.messages import Message, Principal, Reply, ToolCall
from agent_core.store.base import Store
from agent_core.store.dynamodb import DynamoStore
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock, ScriptedModel, test_app
from tests.aws.emulator import Emulator

ME = Principal()
STEPS = 20


def said(text: str, **fields: object) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def call(number: int, name: str = "work") -> Reply:
    made = (ToolCall(f"c{number}", name, "{}"),)
    return Reply(message=Message(role="assistant", tool_calls=made), finish="tool_calls")


class Works:
    """A run of 20 tool calls; the call `at` waits until it is let go."""

    def __init__(self, store: Store, clock: ManualClock, at: int = 5, effects: str = "none") -> None:
        self.done = 0
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

        @tool(effects=effects)
        async def work() -> str:
            """Work."""
            self.done += 1
            if self.done == at:
                self.reached.set()
                await self.go_on.wait()
            return "worked"

        self.model = ScriptedModel([*map(call, range(STEPS)), "Done."])
        limits = Limits(steps=100, tool_calls=100)
        agent = Agent(name="assistant", model=self.model, tools=[work], limits=limits, untrusted="allow")
        self.app: App = test_app(agent, store=store, clock=clock)

    async def begun(self) -> asyncio.Task[Run]:
        run = asyncio.ensure_future(self.app.engine.answer(said("Go.")))
        await self.reached.wait()
        return run


def switch(kind: str, name: str = "", tenant: str = "default", reason: str = "it went wild") -> Switch:
    return Switch(kind=kind, name=name, tenant=tenant, reason=reason, by="ada", at=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "thrown",
    [
        switch("agent", "assistant"),
        switch("tenant"),
        switch("agent", "assistant", EVERY_TENANT),
        switch("tenant", "", EVERY_TENANT),
    ],
)
async def test_a_run_of_another_process_ends_at_its_next_step(tmp_path: Path, thrown: Switch) -> None:
    clock = ManualClock()
    works = Works(SqliteStore(tmp_path / "s.db", clock), clock)
    run = await works.begun()
    elsewhere = SqliteStore(tmp_path / "s.db", clock)  # as another process has it open
    assert await Switches(elsewhere, clock).throw(thrown) == 1
    works.go_on.set()
    ended = await run
    assert (ended.status, works.done) == ("failed", 5)
    assert ended.failure is not None
    assert (ended.failure.slug, ended.failure.status) == ("killed", 503)
    assert ended.failure.detail.endswith("is stopped by an operator: it went wild")
    with pytest.raises(KilledError, match="it went wild"):
        await works.app.engine.answer(said("Again."))
    await elsewhere.close()
    await works.app.close()


@pytest.mark.parametrize("kind", ["agent", "tool"])
async def test_a_run_that_was_not_marked_notices_within_seconds(kind: str) -> None:
    """It was accepted by a process that did not know of the switch yet, when it had been thrown already."""
    clock, store = ManualClock(), MemoryStore(ManualClock())
    works = Works(store, clock)
    await works.app.engine.switches.refresh()  # a moment before
    assert await Switches(store, clock).throw(switch(kind, "assistant" if kind == "agent" else "work")) == 0
    run = await works.begun()
    clock.advance(CACHE_SECONDS)
    works.go_on.set()
    ended = await run
    assert works.done == 5
    assert ended.status == ("failed" if kind == "agent" else "succeeded")


PROCESS = """
import asyncio, sys
from agent_core import Agent, tool
from agent_core.agent import Limits
from agent_core.app import build_app
from agent_core.engine.runs import Inbound
from agent_core.messages import Message, Reply, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings

@tool(effects=sys.argv[2])
def work() -> str:
    "Work: it tells that it was begun, and waits to be let go."
    print("begun", flush=True)
    sys.stdin.readline()
    return "worked"

def call(number):
    made = (ToolCall(f"c{number}", "work", "{}"),)
    return Reply(message=Message(role="assistant", tool_calls=made), finish="tool_calls")

async def main():
    agent = Agent(
        name="assistant", model=ScriptedModel([*map(call, range(20)), "Done."]), tools=[work],
        limits=Limits(steps=100, tool_calls=100), untrusted="allow",
    )
    app = build_app(Settings(data=sys.argv[1]), agents=[agent])
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "Go."),)))
    print(run.status, run.failure.slug if run.failure else "", flush=True)
    await app.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("effects", ["none", "once"])
@pytest.mark.parametrize("what", [("agent", "assistant"), ("tenant",), ("tool", "work")])
def test_another_process_stops_within_one_step(tmp_path: Path, what: tuple[str, ...], effects: str) -> None:
    """A run of twenty steps in a process of its own; the command that stops it is another one."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path), effects]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        done = 0
        while (told := process.stdout.readline().strip()) == "begun":
            done += 1
            if done == 5:
                kill = [sys.executable, "-m", "agent_core.cli", "kill", *what, "--data", str(tmp_path)]
                assert (
                    "that were told: 1"
                    in subprocess.run(kill, check=True, capture_output=True, text=True).stdout
                )
            process.stdin.write("go on\n")
            process.stdin.flush()
        assert process.wait(30) == 0
    assert told == ("succeeded" if what[0] == "tool" else "failed killed")
    assert done == 5  # the step that was under way, and none after it


async def test_over_dynamodb_too(emulator: Emulator) -> None:
    clock = ManualClock(jump=True)  # the store's; the run's own must not run away while the tool waits
    with emulator.store(clock) as store:
        works = Works(store, ManualClock())
        run = await works.begun()
        elsewhere = DynamoStore(emulator.dynamodb(clock), store._table)
        assert await Switches(elsewhere, clock).throw(switch("agent", "assistant")) == 1
        works.go_on.set()
        ended = await run
        assert (ended.status, works.done) == ("failed", 5)
        await works.app.close()
        await elsewhere.close()


@pytest.mark.parametrize("effects", ["none", "once"])
async def test_a_stopped_tool_is_called_no_more_and_the_run_goes_on(effects: str) -> None:
    clock, store = ManualClock(), MemoryStore(ManualClock())
    works = Works(store, clock, effects=effects)
    run = await works.begun()
    await Switches(store, clock).throw(switch("tool", "work"))
    works.go_on.set()
    ended = await run
    assert (ended.status, works.done) == ("succeeded", 5)
    told = works.model.prompts[-1].messages[-1].tool_results[0]
    assert told.error
    assert "This call was not made: the tool 'work' is stopped by an operator: it went wild" in told.content


async def test_what_is_stopped_for_others_does_not_touch_a_run() -> None:
    clock, store = ManualClock(), MemoryStore(ManualClock())
    works = Works(store, clock)
    run = await works.begun()
    switches = Switches(store, clock)
    for thrown in (switch("tenant", "", "acme"), switch("tool", "work", "acme"), switch("agent", "other")):
        await switches.throw(thrown)
    works.go_on.set()
    assert ((await run).status, works.done) == ("succeeded", STEPS)


async def test_a_process_that_runs_nothing_notices_within_seconds_and_again_when_it_is_lifted() -> None:
    clock, store = ManualClock(), MemoryStore(ManualClock())
    app = test_app(Agent(name="assistant", model=ScriptedModel(["Hi.", "Hello."])), store=store, clock=clock)
    elsewhere = Switches(store, clock)
    assert (await app.engine.answer(said("One."))).status == "succeeded"
    await elsewhere.throw(switch("agent", "assistant"))
    clock.advance(CACHE_SECONDS)
    with pytest.raises(KilledError):
        await app.engine.submit(said("Two."))
    assert [one.name for one in await elsewhere.list("default")] == ["assistant"]
    assert await elsewhere.lift("default", "agent", "assistant", by="ann")
    clock.advance(CACHE_SECONDS)
    assert (await app.engine.answer(said("Three."))).status == "succeeded"
    assert not await elsewhere.lift("default", "agent", "assistant", by="ann")


async def test_a_message_that_waited_in_an_inbox_is_ended_with_the_reason() -> None:
    clock, store = ManualClock(), MemoryStore(ManualClock())
    app = test_app(Agent(name="assistant", model=ScriptedModel([])), store=store, clock=clock)
    run = await app.engine.submit(said("Later."), work=False)
    assert await Switches(store, clock).throw(switch("tenant")) == 1
    assert await app.engine.work(ME, run.session_id)
    ended = await app.engine.run(ME, run.id)
    assert ended.failure is not None
    assert (ended.status, ended.failure.slug) == ("failed", "killed")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (switch("agent"), NotFoundError),
        (switch("tenant", "x"), NotFoundError),
        (switch("model", "x"), InputError),
    ],
)
async def test_what_can_not_be_stopped_is_said(wrong: Switch, error: type[AgentError]) -> None:
    clock = ManualClock()
    with pytest.raises(error):
        await Switches(MemoryStore(clock), clock).throw(wrong)
