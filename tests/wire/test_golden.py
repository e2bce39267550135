"""Every golden case through the wire's double: the request is the file, the answer is read as the file says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent_core import errors
from agent_core.errors import ModelCutError, ModelError, ModelStalledError
from agent_core.messages import Chunk
from agent_core.testing import ScriptedWire
from agent_core.wire.base import Request
from agent_core.wire.scripted import CUT, STALL, Answer
from tests.wire.cases import PROVIDERS, Case, cases


def sent(request: Request) -> dict[str, Any]:
    """The request as the golden files write it."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": dict(sorted(request.headers.items())),
        "body": msgspec.json.decode(request.body),
    }


async def streamed(case: Case, *pieces: Any) -> list[Chunk]:
    """The chunks of an answer that comes in these pieces."""
    wire = ScriptedWire([Answer(headers={"content-type": case.content_type}, body=pieces)])
    chunks = [chunk async for chunk in case.model(wire).stream(case.prompt)]
    wire.assert_used_up()
    return chunks


def test_there_are_cases() -> None:
    """All providers show the same kinds of conversation."""
    names = [{case.name for case in cases("request.json", provider=provider)} for provider in PROVIDERS]
    both = set.intersection(*names)
    assert {
        "text",
        "multi_turn",
        "system",
        "tools",
        "parallel_tool_calls",
        "tool_results",
        "tool_error",
    } <= both
    assert {"structured_output", "image", "cached_usage", "reasoning", "length", "refusal"} <= both
    assert {"error_400", "error_401", "error_429", "error_500", "stream_error"} <= both


@pytest.mark.parametrize("case", cases("reply.json"), ids=repr)
async def test_a_whole_answer(case: Case) -> None:
    """The request is exactly the file's, and the answer the reply's."""
    wire = ScriptedWire([Answer(body=case.bytes("response.json"))])
    assert await case.model(wire).reply(case.prompt) == case.reply
    assert sent(wire.requests[0]) == case.request()


@pytest.mark.parametrize("case", cases("reply.json"), ids=repr)
async def test_a_streamed_answer(case: Case) -> None:
    """The chunks add up to the reply, which the last chunk alone holds."""
    wire = ScriptedWire([Answer(headers={"content-type": case.content_type}, body=case.stream)])
    chunks = [chunk async for chunk in case.model(wire).stream(case.prompt)]
    assert sent(wire.requests[0]) == case.request(stream=True)
    assert chunks[-1].reply == case.reply
    assert all(chunk.reply is None for chunk in chunks[:-1])
    assert "".join(chunk.text for chunk in chunks) == case.reply.message.text
    assert wire.open_streams == 0


@pytest.mark.parametrize("case", cases("reply.json"), ids=repr)
async def test_a_stream_in_any_pieces(case: Case) -> None:
    """How the bytes of a stream are cut makes no difference."""
    body = case.stream
    for size in (1, 7, 1000):
        chunks = await streamed(case, *(body[start : start + size] for start in range(0, len(body), size)))
        assert chunks[-1].reply == case.reply


@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
async def test_reasoning_is_streamed_apart(provider: str) -> None:
    """What a model thinks comes as reasoning, not as words of its reply."""
    case = Case(provider, "reasoning")
    chunks = await streamed(case, case.stream)
    assert "".join(chunk.reasoning for chunk in chunks) == "17 and 25: 17 + 20 = 37, 37 + 5 = 42."


@pytest.mark.parametrize("case", cases("error.json"), ids=repr)
async def test_an_error(case: Case) -> None:
    """An error of the provider is one declared error, in its words, without the key."""
    wanted = case.error
    if case.has("response.json"):
        answer = Answer(status=wanted.status, headers=wanted.headers, body=case.bytes("response.json"))
        with pytest.raises(getattr(errors, wanted.error)) as whole:
            await case.model(ScriptedWire([answer])).reply(case.prompt)
        check(case, whole.value)
    else:
        answer = Answer(headers={"content-type": case.content_type}, body=case.stream)
    with pytest.raises(getattr(errors, wanted.error)) as raised:
        async for _ in case.model(ScriptedWire([answer])).stream(case.prompt):
            pass
    check(case, raised.value)


def check(case: Case, error: ModelError) -> None:
    assert type(error).__name__ == case.error.error
    assert case.error.says in error.detail
    assert error.detail.startswith(f"{case.provider}:")
    assert error.retry_after == case.error.retry_after
    assert "sk-" not in error.detail
    assert "bedrock-api-key-test" not in error.detail


@pytest.mark.parametrize("case", cases("reply.json"), ids=repr)
async def test_a_stream_that_breaks_off(case: Case) -> None:
    """Cut or stalled before its end mark, a stream is one declared error, however far it came."""
    events = case.events
    # usage, [DONE]; block's end, message_delta, message_stop; metadata
    end = {"openai": 2, "anthropic": 3, "bedrock": 1}[case.provider]
    for keep in {0, 1, len(events) // 2, len(events) - end}:
        begun = b"".join(events[:keep])
        with pytest.raises(ModelCutError):
            await streamed(case, begun, CUT)
        with pytest.raises(ModelStalledError):
            await streamed(case, begun, STALL)
        with pytest.raises(ModelCutError):
            await streamed(case, begun)  # ends as HTTP wants, but too early


@pytest.mark.parametrize("case", cases("reply.json", provider="openai"), ids=repr)
async def test_the_payloads_are_openai_s(case: Case) -> None:
    """OpenAI's own types take the golden files."""
    from openai.types.chat import ChatCompletion, ChatCompletionChunk, CompletionCreateParams  # slow to load
    from pydantic import TypeAdapter

    ChatCompletion.model_validate_json(case.bytes("response.json"), strict=True)
    for event in case.bytes("stream.sse").decode().split("\n\n")[:-2]:
        ChatCompletionChunk.model_validate_json(event.removeprefix("data: "), strict=True)
    params: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
    for stream in (False, True):
        params.dump_json(
            params.validate_python(case.request(stream=stream)["body"])
        )  # lists are read when dumped
