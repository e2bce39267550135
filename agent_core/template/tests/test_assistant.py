"""How to test an agent: its tools as the functions they are, the agent with a scripted model in the model's place."""

import asyncio
from dataclasses import replace

from agent_core import Message, Settings, ToolCall, build_app
from agent_core.engine.runs import Inbound, Run
from agent_core.models.scripted import ScriptedModel
from agents.assistant import agent, calculate


def test_a_tool() -> None:
    assert calculate("(17 + 25) * 2") == 84


def test_the_agent_uses_its_tool() -> None:
    model = ScriptedModel([ToolCall("1", "calculate", '{"expression": "6 * 7"}'), "It is 42."])
    app = build_app(Settings(store="memory"), agents=[replace(agent, model=model)])

    async def ask(text: str) -> Run:
        run = await app.engine.answer(Inbound(messages=(Message.of("user", text),)))
        await app.close()
        return run

    run = asyncio.run(ask("What is six times seven?"))
    assert run.reply is not None
    assert run.reply.text == "It is 42."
    assert model.prompts[1].messages[-1].tool_results[0].content == "42"
