"""A run is replayed from its journal; a changed prompt or tool is found."""

from __future__ import annotations

from typing import Any

from agent_core import Agent, Message, Principal, Reply, ToolCall, Usage, tool
from agent_core.engine.replay import Recording, record, replay
from agent_core.engine.runs import Inbound, Step
from agent_core.messages import from_json, to_json
from agent_core.testing import ScriptedModel, test_app

ran: list[str] = []


@tool
def weather(city: str) -> str:
    """Weather of a city."""
    ran.append(city)
    return f"sunny in {city}"


def agent(*script: object, **fields: Any) -> Agent:
    return Agent(**({"name": "assistant", "tools": [weather], "model": ScriptedModel(script)} | fields))


async def recorded() -> Recording:
    calls = (ToolCall("c1", "weather", '{"city": "Oslo"}'),)
    asks = Reply(message=Message(role="assistant", tool_calls=calls), finish="tool_calls", usage=Usage())
    app = test_app(agent("Hello.", asks, "Sunny."))
    await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),), session_id="s"))
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "Weather?"),), session_id="s"))
    recording = await record(app.store, Principal().tenant, run.id, 40)
    steps: list[Step] = []
    prompts, found = await replay(
        recording, app.engine.agents["assistant"], app.blobs, lambda step, _: steps.append(step)
    )
    assert found == []
    assert [step.kind for step in steps] == ["model", "tool", "model"]
    assert [message["parts"][0]["text"] for message in prompts[0]["messages"]] == ["Hi", "Hello.", "Weather?"]
    made = Recording(
        run=recording.run,
        history=recording.history,
        messages=recording.messages,
        steps=recording.steps,
        prompts=prompts,
    )
    return from_json(Recording, to_json(made))


async def differences(recording: Recording, changed: Agent) -> set[tuple[int, str]]:
    ran.clear()
    app = test_app(changed)
    _, found = await replay(recording, app.engine.agents["assistant"], app.blobs)
    assert ran == []
    return {(different.step, different.place) for different in found}


async def test_the_same_agent_behaves_the_same_and_no_tool_runs() -> None:
    assert await differences(await recorded(), agent()) == set()


async def test_changed_instructions_are_found() -> None:
    assert await differences(await recorded(), agent(instructions="Be rude.")) == {
        (1, "system"),
        (3, "system"),
    }


async def test_a_changed_tool_is_found() -> None:
    @tool(name="weather")
    def other(city: str, unit: str = "C") -> str:
        """Weather of a city in a unit."""
        return ""

    assert await differences(await recorded(), agent(tools=[other])) == {(1, "tools"), (3, "tools")}


async def test_a_plugin_that_changes_a_call_is_found() -> None:
    class Louder:
        def before_tool(self, call: ToolCall) -> ToolCall:
            return ToolCall(call.id, call.name, call.arguments.replace("Oslo", "Bergen"))

    assert await differences(await recorded(), agent(plugins=[Louder()])) == {(2, "call")}
