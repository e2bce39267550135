"""The Messages API beyond its golden files."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent_core.errors import ModelMalformedError, ModelRefusedError
from agent_core.messages import Audio, File, Message, Prompt, ToolCall, ToolResult, ToolSpec, Usage
from agent_core.models.anthropic import AnthropicModel
from agent_core.models.claude import ChunkReader, from_wire, to_wire
from agent_core.testing import ScriptedWire
from agent_core.wire.scripted import Answer

MARK = {"type": "ephemeral"}
OPEN = {"type": "object", "properties": {"a": {"type": "object"}}}
TOOL = ToolSpec("look", "Look.", {"type": "object", "properties": {}})


def body(*messages: Message, **fields: Any) -> dict[str, Any]:
    return to_wire(Prompt(messages=messages, **fields), "m", False)


def test_at_most_two_cache_marks_wherever_the_conversation_stands() -> None:
    """The API takes four; one is for what never changes, one moves with the conversation."""
    messages = [Message.of("user" if n % 2 == 0 else "assistant", f"m{n}") for n in range(7)]
    for length in range(1, 8):
        sent = body(*messages[:length], system="s", tools=(TOOL,))
        assert msgspec.json.encode(sent).count(b"cache_control") == (1 if length == 1 else 2)
        assert sent["system"][0]["cache_control"] == MARK
        assert "cache_control" not in sent["messages"][-1]["content"][-1]


def test_the_request_but_for_the_mark_grows_at_its_end() -> None:
    """Or the provider's cache would never hit."""
    messages = [Message.of("user" if n % 2 == 0 else "assistant", f"m{n}") for n in range(6)]

    def plain(length: int) -> list[Any]:
        sent = body(*messages[:length])["messages"]
        for message in sent:
            message["content"][-1].pop("cache_control", None)
        return sent

    for length in range(1, 6):
        assert plain(length + 1)[:length] == plain(length)


def test_what_has_no_words_is_left_out() -> None:
    """The API refuses empty text."""
    sent = body(
        Message.of("user", "a"),
        Message.of("assistant", ""),
        Message.of("assistant", " \n"),
        Message.of("user", "b"),
    )
    assert [message["content"][0]["text"] for message in sent["messages"]] == ["a", "b"]


def test_an_empty_result() -> None:
    result = Message(role="tool", tool_results=(ToolResult("1", "look", "", error=True),))
    assert body(result)["messages"][0]["content"] == [
        {"type": "tool_result", "tool_use_id": "1", "content": "(nothing)", "is_error": True}
    ]


@pytest.mark.parametrize("arguments", ["[1]", "nonsense", '"x"', "null", ""])
def test_arguments_that_are_no_object(arguments: str) -> None:
    """A call that the tool refused is still part of the conversation, and the API wants an object."""
    sent = body(Message(role="assistant", tool_calls=(ToolCall("1", "look", arguments),)))
    assert sent["messages"][0]["content"][0]["input"] == {"arguments": arguments}


@pytest.mark.parametrize("part", [Audio("audio/wav", b"x"), File("application/zip", b"x")])
async def test_parts_it_has_no_form_for(part: Audio | File) -> None:
    model = AnthropicModel("anthropic:m", "m", "http://a", "k", ScriptedWire())
    with pytest.raises(ModelRefusedError, match=f"anthropic:m: .*{part.media_type}"):
        await model.reply(Prompt(messages=(Message(role="user", parts=(part,)),)))
    with pytest.raises(ModelRefusedError, match=f"anthropic:m: .*{part.media_type}"):
        await anext(model.stream(Prompt(messages=(Message(role="user", parts=(part,)),))))


def test_open_output_beside_tools() -> None:
    """The model may use the tools first, and must end with the one that stands for the output."""
    sent = body(Message.of("user", "a"), tools=(TOOL,), output_schema=OPEN)
    assert [tool["name"] for tool in sent["tools"]] == ["look", "structured_output"]
    assert sent["tool_choice"] == {"type": "any"}
    assert "cache_control" in sent["tools"][-1]


def answer(*content: dict[str, Any], **fields: Any) -> bytes:
    return msgspec.json.encode({"content": list(content), **fields})


def test_blocks_it_does_not_know_are_passed_over() -> None:
    reply = from_wire(
        answer(
            {"type": "server_tool_use", "id": "1", "name": "web"},
            {"type": "text", "text": "a"},
            {"type": "redacted_thinking"},
        )
    )
    assert (reply.message.text, reply.message.tool_calls, reply.usage) == ("a", (), Usage())


@pytest.mark.parametrize("block", [{"type": "tool_use", "name": "a"}, {"type": "tool_use", "id": "1"}])
def test_a_tool_call_that_can_not_be_answered(block: dict[str, Any]) -> None:
    with pytest.raises(ModelMalformedError):
        from_wire(answer(block))


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("model_context_window_exceeded", "length"),
        ("new", "stop"),
    ],
)
def test_stop_reasons(reason: str, finish: str) -> None:
    assert from_wire(answer({"type": "text", "text": "a"}, stop_reason=reason)).finish == finish


def test_events_it_does_not_know_are_passed_over() -> None:
    reader = ChunkReader()
    for event in (
        '{"type":"new"}',
        '{"type":"content_block_delta"}',
        '{"type":"content_block_delta","index":9,"delta":{"type":"new"}}',
        '{"type":"message_stop"}',
    ):
        assert reader.feed(f"data: {event}\n\n".encode()) == []
    assert reader.reply().message.parts == ()


@pytest.mark.parametrize("endpoint", ["http://a", "http://a/", "http://a/v1", "http://a/v1/"])
async def test_endpoints(endpoint: str) -> None:
    wire = ScriptedWire([Answer(body=answer({"type": "text", "text": "a"}))])
    await AnthropicModel("anthropic:m", "m", endpoint, "", wire).reply(
        Prompt(messages=(Message.of("user", "a"),))
    )
    assert wire.requests[0].url == "http://a/v1/messages"
    assert "x-api-key" not in wire.requests[0].headers
