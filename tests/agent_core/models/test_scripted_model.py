"""The model's double keeps its word."""

from __future__ import annotations

import pytest

from agent_core.errors import ModelBusyError
from agent_core.messages import Message, Prompt, Reply, ToolCall, Usage
from agent_core.testing import ScriptedModel

PROMPT = Prompt(messages=(Message.of("user", "12345678"),), system="1234")
CALL = ToolCall("1", "look", "{}")


async def test_every_kind_of_line() -> None:
    whole = Reply(message=Message.of("assistant", "whole"), finish="length")
    model = ScriptedModel(
        [
            "words",
            whole,
            CALL,
            [CALL, CALL],
            ModelBusyError("busy"),
            lambda prompt: prompt.messages[-1].text,
            lambda _: [CALL],
        ]
    )
    first = await model.reply(PROMPT)
    assert (first.message.text, first.finish, first.usage) == ("words", "stop", Usage(input=4, output=2))
    assert await model.reply(PROMPT) is whole
    assert (await model.reply(PROMPT)).message.tool_calls == (CALL,)
    several = await model.reply(PROMPT)
    assert (several.message.tool_calls, several.finish) == ((CALL, CALL), "tool_calls")
    with pytest.raises(ModelBusyError):
        await model.reply(PROMPT)
    assert (await model.reply(PROMPT)).message.text == "12345678"
    assert (await model.reply(PROMPT)).message.tool_calls == (CALL,)
    model.assert_used_up()
    assert model.prompts == [PROMPT] * 7


async def test_streams_in_pieces() -> None:
    chunks = [chunk async for chunk in ScriptedModel(["abcdefgh"], piece=3).stream(PROMPT)]
    assert [chunk.text for chunk in chunks] == ["abc", "def", "gh", ""]
    assert chunks[-1].reply is not None


async def test_a_script_must_be_used_up() -> None:
    model = ScriptedModel(["a"])
    model.add("b")
    with pytest.raises(AssertionError, match="2 lines"):
        model.assert_used_up()
    await model.reply(PROMPT)
    await model.reply(PROMPT)
    model.assert_used_up()
    with pytest.raises(AssertionError, match="call 3 came with '12345678'"):
        await model.reply(PROMPT)
