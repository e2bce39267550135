"""Chat completions as other servers than OpenAI speak them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent_core.errors import (
    ModelBusyError,
    ModelCutError,
    ModelError,
    ModelMalformedError,
    ModelRefusedError,
)
from agent_core.messages import Chunk, Message, Prompt, Reply, ToolCall, Usage
from agent_core.models.chat import ChunkReader, from_wire, to_wire
from agent_core.models.openai import OpenAIModel
from agent_core.testing import ScriptedWire
from agent_core.wire.scripted import Answer

PROMPT = Prompt(messages=(Message.of("user", "Hi"),), max_tokens=9)


def whole(message: dict[str, Any], finish: str | None = "stop", **fields: Any) -> Reply:
    answer = {"id": "x1", "model": "m", "choices": [{"message": message, "finish_reason": finish}], **fields}
    return from_wire(msgspec.json.encode(answer), "asked")


def streamed(*events: dict[str, Any] | str) -> tuple[list[Chunk], Reply]:
    reader = ChunkReader("asked")
    chunks: list[Chunk] = []
    for event in events:
        data = event if isinstance(event, str) else msgspec.json.encode(event).decode()
        chunks += reader.feed(f"data: {data}\n\n".encode())
    return chunks, reader.reply()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "x1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def calls(*given: dict[str, Any]) -> dict[str, Any]:
    return delta(tool_calls=list(given))


DONE = "[DONE]"


class TestWhatServersLeaveOut:
    def test_nothing_but_words(self) -> None:
        reply = from_wire(b'{"choices": [{"message": {"content": "hey"}}]}', "asked")
        assert reply == Reply(message=Message.of("assistant", "hey"), model="asked")

    def test_no_words(self) -> None:
        for content in (None, "", []):
            assert whole({"content": content}).message.parts == ()

    def test_words_as_parts(self) -> None:
        assert (
            whole(
                {"content": [{"type": "text", "text": "a"}, {"type": "image"}, "x", {"text": "b"}]}
            ).message.text
            == "ab"
        )

    @pytest.mark.parametrize(
        "usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": 3, "prompt_tokens_details": None}]
    )
    def test_usage_in_part_or_not_at_all(self, usage: Any) -> None:
        assert whole({"content": "a"}, usage=usage).usage == Usage(
            input=(usage or {}).get("prompt_tokens") or 0
        )

    def test_usage_that_can_not_be(self) -> None:
        odd = {
            "prompt_tokens": 5,
            "completion_tokens": -1,
            "prompt_tokens_details": {"cached_tokens": 9},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
        assert whole({"content": "a"}, usage=odd).usage == Usage(input=5, cached_input=5)

    def test_tool_calls_without_ids(self) -> None:
        given = [
            {"function": {"name": "a", "arguments": "{}"}},
            {"function": {"name": "b"}},
            {"id": "", "function": {"name": "c"}},
        ]
        reply = whole({"content": None, "tool_calls": given}, "stop")
        assert reply.finish == "tool_calls"
        assert [call.name for call in reply.message.tool_calls] == ["a", "b", "c"]
        assert len({call.id for call in reply.message.tool_calls}) == 3
        assert reply.message.tool_calls[1].arguments == "{}"

    def test_arguments_as_an_object(self) -> None:
        reply = whole(
            {"tool_calls": [{"id": "i", "function": {"name": "a", "arguments": {"x": [1, "ü"]}}}]}, None
        )
        assert reply.message.tool_calls == (ToolCall("i", "a", '{"x":[1,"ü"]}'),)

    def test_a_tool_call_without_a_name(self) -> None:
        with pytest.raises(ModelMalformedError):
            whole({"tool_calls": [{"id": "i", "function": {"arguments": "{}"}}]})

    @pytest.mark.parametrize(
        ("finish", "meant"),
        [(None, "stop"), ("eos", "stop"), ("length", "length"), ("content_filter", "filter")],
    )
    def test_finish_reasons(self, finish: str | None, meant: str) -> None:
        assert whole({"content": "a"}, finish).finish == meant


class TestStreams:
    def test_usage_null_in_every_chunk(self) -> None:
        chunks, reply = streamed(
            {**delta(content="a"), "usage": None}, {**delta("stop"), "usage": None}, DONE
        )
        assert (chunks, reply.message.text, reply.usage) == ([Chunk(text="a")], "a", Usage())

    def test_usage_in_every_chunk(self) -> None:
        _, reply = streamed(
            {**delta(content="a"), "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
            {**delta("stop", content="b"), "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        )
        assert (reply.message.text, reply.usage) == ("ab", Usage(input=5, output=2))

    def test_no_finish_reason(self) -> None:
        assert streamed(delta(content="a"), DONE)[1].finish == "stop"
        assert streamed(calls({"index": 0, "function": {"name": "a"}}), DONE)[1].finish == "tool_calls"

    def test_no_end_mark(self) -> None:
        """Finish reason and usage are an end too; one of them alone is not, or a cost would be lost unseen."""
        usage = {"choices": [], "usage": {"prompt_tokens": 5}}
        assert streamed(delta(content="a"), delta("stop"), usage)[1].usage.input == 5
        for events in (
            [delta(content="a"), delta("stop")],
            [delta(content="a"), usage],
            [delta(content="a")],
            [],
        ):
            with pytest.raises(ModelCutError):
                streamed(*events)

    def test_reasoning_under_either_name(self) -> None:
        for name in ("reasoning_content", "reasoning"):
            chunks, reply = streamed(delta(**{name: "hm"}), delta(content="a"), DONE)
            assert chunks == [Chunk(reasoning="hm"), Chunk(text="a")]
            assert reply.message.text == "a"

    def test_comments_and_empty_events(self) -> None:
        reader = ChunkReader()
        reader.feed(
            b': PROCESSING\n\ndata:\n\nevent: x\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'
        )
        assert reader.reply().message.text == "a"

    def test_whole_calls_at_once(self) -> None:
        """Ollama: each call in a chunk of its own, with no index, arguments as an object."""
        _, reply = streamed(
            calls({"id": "1", "function": {"name": "a", "arguments": {"x": 1}}}),
            calls({"id": "2", "function": {"name": "a", "arguments": {"x": 2}}}),
            DONE,
        )
        assert reply.message.tool_calls == (ToolCall("1", "a", '{"x":1}'), ToolCall("2", "a", '{"x":2}'))

    def test_all_calls_under_index_0(self) -> None:
        """Gemini's endpoint: parallel calls that differ by id alone."""
        _, reply = streamed(
            calls(
                {"index": 0, "id": "1", "function": {"name": "a", "arguments": "{}"}},
                {"index": 0, "id": "2", "function": {"name": "b", "arguments": "{}"}},
            ),
            DONE,
        )
        assert [call.name for call in reply.message.tool_calls] == ["a", "b"]

    def test_interleaved_calls(self) -> None:
        _, reply = streamed(
            calls({"index": 1, "id": "2", "function": {"name": "b", "arguments": ""}}),
            calls({"index": 0, "id": "1", "function": {"name": "a", "arguments": '{"x"'}}),
            calls(
                {"index": 1, "function": {"arguments": '{"y":2}'}},
                {"index": 0, "function": {"arguments": ":1}"}},
            ),
            DONE,
        )
        assert {call.id: call.arguments for call in reply.message.tool_calls} == {
            "1": '{"x":1}',
            "2": '{"y":2}',
        }

    def test_the_id_repeated_in_each_piece(self) -> None:
        _, reply = streamed(
            calls({"index": 0, "id": "1", "function": {"name": "a", "arguments": "{"}}),
            calls({"index": 0, "id": "1", "function": {"name": None, "arguments": "}"}}),
            DONE,
        )
        assert reply.message.tool_calls == (ToolCall("1", "a", "{}"),)

    def test_pieces_without_an_index_go_on(self) -> None:
        _, reply = streamed(
            calls({"id": "1", "function": {"name": "a", "arguments": '{"x":'}}),
            calls({"function": {"arguments": "1}"}}),
            DONE,
        )
        assert reply.message.tool_calls == (ToolCall("1", "a", '{"x":1}'),)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ({"message": "overloaded", "code": 503}, ModelBusyError),
            ({"message": "too fast", "code": 429}, ModelBusyError),
            ({"message": "no credits", "code": 402}, ModelRefusedError),
            ({"message": "too long", "type": "invalid_request_error"}, ModelRefusedError),
            ("boom", ModelBusyError),
            (["odd"], ModelBusyError),
            ({"code": 10**30}, ModelBusyError),
        ],
    )
    def test_errors_inside(self, error: Any, kind: type[ModelError]) -> None:
        """OpenRouter and LiteLLM report in the stream, or with status 200, what went wrong behind them."""
        with pytest.raises(kind):
            streamed(delta(content="a"), {"error": error})
        with pytest.raises(kind):
            from_wire(msgspec.json.encode({"error": error}))


class TestRequests:
    async def test_other_servers_know_max_tokens(self) -> None:
        wire = ScriptedWire([Answer(body=b'{"choices":[{"message":{"content":"a"}}]}')])
        await OpenAIModel("openai:m", "m", "http://127.0.0.1:8000/v1/", "", wire).reply(PROMPT)
        request = wire.requests[0]
        assert request.url == "http://127.0.0.1:8000/v1/chat/completions"
        assert msgspec.json.decode(request.body)["max_tokens"] == 9
        assert "authorization" not in request.headers

    def test_a_prompt_of_nothing(self) -> None:
        assert to_wire(Prompt(messages=()), "m", False) == {"model": "m", "messages": []}
        empty = Message(role="assistant")
        assert to_wire(Prompt(messages=(empty,)), "m", False)["messages"] == [
            {"role": "assistant", "content": ""}
        ]


class TestTheWayBack:
    async def test_a_whole_answer_in_place_of_a_stream(self) -> None:
        """Some servers, and some caches before them, know nothing of streams."""
        body = b'{"choices":[{"message":{"content":"all of it"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}'
        wire = ScriptedWire([Answer(headers={"content-type": "application/json"}, body=body)])
        chunks = [chunk async for chunk in OpenAIModel("openai:m", "m", "http://a", "k", wire).stream(PROMPT)]
        assert [chunk.text for chunk in chunks] == ["all of it", ""]
        assert chunks[-1].reply is not None
        assert chunks[-1].reply.usage.input == 3

    async def test_a_page_in_place_of_a_stream(self) -> None:
        for kind in ("text/html; charset=utf-8", "application/json"):
            wire = ScriptedWire([Answer(headers={"content-type": kind}, body=b"<html>")])
            with pytest.raises(ModelMalformedError):
                await anext(OpenAIModel("openai:m", "m", "http://a", "k", wire).stream(PROMPT))

    async def test_an_error_whole_in_place_of_a_stream(self) -> None:
        body = b'{"error": {"message": "bad key k-1", "type": "invalid_request_error"}}'
        wire = ScriptedWire([Answer(headers={"content-type": "application/json"}, body=body)])
        with pytest.raises(ModelRefusedError) as raised:
            await anext(OpenAIModel("openai:m", "m", "http://a", "k-1", wire).stream(PROMPT))
        assert raised.value.detail == "openai:m: bad key ***"

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'{"error": {"message": "m"}}', "m"),
            (b'{"error": "m"}', "m"),
            (b'{"message": "m"}', "m"),
            (b'{"detail": "m"}', "m"),
            (b'{"detail": [{"loc": ["body"], "msg": "m"}]}', '[{"loc":["body"],"msg":"m"}]'),
            (b"<html>", ""),
            (b"", ""),
            (b"[1]", ""),
        ],
    )
    async def test_error_bodies_of_all_kinds(self, body: bytes, words: str) -> None:
        wire = ScriptedWire([Answer(status=422, body=body)])
        with pytest.raises(ModelRefusedError) as raised:
            await OpenAIModel("openai:m", "m", "http://a", "", wire).reply(PROMPT)
        assert raised.value.detail == "openai:m: status 422" + (f": {words}" if words else "")

    async def test_a_long_error_is_shortened(self) -> None:
        wire = ScriptedWire([Answer(status=400, body=msgspec.json.encode({"message": "x" * 9000}))])
        with pytest.raises(ModelRefusedError) as raised:
            await OpenAIModel("openai:m", "m", "http://a", "", wire).reply(PROMPT)
        assert len(raised.value.detail) < 600

    async def test_a_stream_left_early_is_closed(self) -> None:
        wire = ScriptedWire([Answer(body=(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',) * 9)])
        stream = OpenAIModel("openai:m", "m", "http://a", "", wire).stream(PROMPT)
        assert await anext(stream) == Chunk(text="a")
        await stream.aclose()  # type: ignore[attr-defined]
        assert wire.open_streams == 0
