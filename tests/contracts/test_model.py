"""What every implementation of the Model port does, against a server that speaks its format, or in process."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_core.errors import (
    ModelBusyError,
    ModelCutError,
    ModelError,
    ModelMalformedError,
    ModelStalledError,
)
from agent_core.messages import Chunk, Message, Prompt, ToolCall, ToolResult, ToolSpec
from agent_core.models.anthropic import AnthropicModel
from agent_core.models.base import Model
from agent_core.models.bedrock import BedrockModel
from agent_core.models.fallback import FallbackModel
from agent_core.models.local import LocalModel, weights
from agent_core.models.openai import OpenAIModel
from agent_core.testing import ManualClock, ScriptedModel
from agent_core.wire.aiohttp import AiohttpWire
from agent_core.wire.base import Timeouts, Wire
from agent_core.wire.httpcore import HttpcoreWire
from agent_core.wire.retry import RetryWire
from tests.contracts.raw_server import CHUNKED, RawServer, Step, answer, chunked
from tests.wire.cases import Case
from tests.wire.frames import event as frame_of

PROMPT = Prompt(
    messages=(Message.of("user", "What is the capital of France?"),), system="Answer in one short sentence."
)
LOOK = ToolSpec("look", "Look at a thing.", {"type": "object", "properties": {"thing": {"type": "string"}}})
BRIEF = Timeouts(connect=5, first_byte=0.2, between_chunks=0.2, total=10)
SHORT = Timeouts(connect=5, total=0.3)
WIRES: dict[str, Callable[[], Wire]] = {"httpcore": HttpcoreWire, "aiohttp": AiohttpWire}


@pytest.fixture(scope="module")
def mock(root: Path) -> Iterator[str]:
    """A server of another's making that speaks both providers' formats."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = root.parent / "shared" / "bench" / "mock_model.py"
    assert program.exists(), f"no mock model at {program}"
    command = [sys.executable, str(program), "--port", str(port), "--latency-ms", "0", "--max-seconds", "300"]
    process = subprocess.Popen([*command, "--tool-args", '{"thing": "moon"}'], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"mock on" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.communicate(timeout=30)


def openai(wire: Wire, url: str, timeouts: Timeouts = BRIEF) -> OpenAIModel:
    return OpenAIModel("openai:mock", "mock", f"{url}/v1", "key", wire, timeouts)


def anthropic(wire: Wire, url: str, timeouts: Timeouts = BRIEF) -> AnthropicModel:
    return AnthropicModel("anthropic:mock", "mock", url, "key", wire, timeouts)


def bedrock(wire: Wire, url: str, timeouts: Timeouts = BRIEF) -> BedrockModel:
    return BedrockModel("bedrock:mock", "mock", url, "key", wire, timeouts)


async def converse(body: bytes) -> list[Step]:
    """What Bedrock answers, whole."""
    return [answer(msgspec.json.encode(conversed(body)))]


async def converse_stream(body: bytes) -> list[Step]:
    """What it answers, streamed."""
    said = conversed(body)
    [block] = said["output"]["message"]["content"]
    start = {"toolUse": {**block["toolUse"], "input": None}} if "toolUse" in block else None
    words = [{"toolUse": {"input": '{"thing": "moon"}'}}] if start else [{"text": word} for word in PARIS]
    frames = [frame_of("messageStart", {"role": "assistant"})]
    frames += [frame_of("contentBlockStart", {"contentBlockIndex": 0, "start": start})] if start else []
    frames += [frame_of("contentBlockDelta", {"contentBlockIndex": 0, "delta": word}) for word in words]
    frames += [frame_of("messageStop", {"stopReason": said["stopReason"]})]
    frames += [frame_of("metadata", {"usage": said["usage"]})]
    return [CHUNKED + chunked(*frames)]


def conversed(body: bytes) -> dict[str, Any]:
    asked = msgspec.json.decode(body)
    block: dict[str, Any] = {"text": "".join(PARIS)}
    if "toolConfig" in asked and "toolResult" not in asked["messages"][-1]["content"][0]:
        block = {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"thing": "moon"}}}
    usage = {"inputTokens": 20, "outputTokens": 5, "totalTokens": 25}
    message = {"role": "assistant", "content": [block]}
    return {
        "output": {"message": message},
        "stopReason": "tool_use" if "toolUse" in block else "end_turn",
        "usage": usage,
    }


PARIS = ("The capital ", "of France ", "is Paris.")
CONVERSE, STREAM = "/model/mock/converse", "/model/mock/converse-stream"
MODELS = [
    "openai-httpcore",
    "openai-aiohttp",
    "anthropic-httpcore",
    "anthropic-aiohttp",
    "bedrock-httpcore",
    "bedrock-aiohttp",
    "fallback",
    "scripted",
    "local",
]


@pytest.fixture(params=MODELS)
async def model(request: pytest.FixtureRequest, mock: str) -> AsyncIterator[Model]:
    """A model that answers for ever; the server can only be asked for once a test needs it."""
    kind, _, name = request.param.partition("-")
    wire = WIRES.get(name, HttpcoreWire)()
    made: Model
    if kind == "bedrock":
        async with RawServer().running() as server:
            server.scripts |= {CONVERSE: converse, STREAM: converse_stream}
            made = bedrock(wire, server.url)
            yield made
            await made.close()
            await wire.close()
        return
    if kind == "scripted":
        made = ScriptedModel([scripted] * 50)
    elif kind == "local":
        made = LocalModel("local:smollm2", weights("smollm2"), max_tokens=20)
    elif kind == "fallback":
        made = FallbackModel([openai(wire, "http://127.0.0.1:1"), openai(wire, mock)])
    else:
        made = (openai if kind == "openai" else anthropic)(wire, mock)
    yield made
    await made.close()
    await wire.close()


def scripted(prompt: Prompt) -> Any:
    if prompt.tools and prompt.messages[-1].role == "user":
        return ToolCall("1", "look", '{"thing": "moon"}')
    return "Paris, I think, is the capital of France."


async def chunks_of(model: Model, prompt: Prompt = PROMPT) -> list[Chunk]:
    return [chunk async for chunk in model.stream(prompt)]


async def test_it_says_what_it_is(model: Model) -> None:
    provider, _, name = model.name.partition(":")
    assert provider
    assert name
    assert isinstance(model.tools, bool)
    assert model.context_window >= 4096


async def test_a_reply(model: Model) -> None:
    reply = await model.reply(PROMPT)
    assert reply.message.role == "assistant"
    assert reply.message.text
    assert not reply.message.tool_calls
    assert reply.finish in ("stop", "length")
    assert reply.usage.input > 0
    assert reply.usage.output > 0
    assert reply.model


async def test_a_stream_adds_up_to_the_reply(model: Model) -> None:
    chunks = await chunks_of(model)
    assert len(chunks) > 2
    assert [chunk for chunk in chunks if chunk.reply is not None] == chunks[-1:]
    last = chunks[-1].reply
    assert last is not None
    assert "".join(chunk.text for chunk in chunks) == last.message.text
    assert last.usage.output > 0
    assert last.message.text == (await model.reply(PROMPT)).message.text


async def test_tools(model: Model) -> None:
    """A model that says it has tools calls them, and reads their results."""
    if not model.tools:
        return
    prompt = msgspec.structs.replace(PROMPT, tools=(LOOK,))
    for reply in (await model.reply(prompt), (await chunks_of(model, prompt))[-1].reply):
        assert reply is not None
        assert reply.finish == "tool_calls"
        (call,) = reply.message.tool_calls
        assert call.id
        assert (call.name, msgspec.json.decode(call.arguments)) == ("look", {"thing": "moon"})
        result = Message(role="tool", tool_results=(ToolResult(call.id, "look", "It is round."),))
        said = await model.reply(
            msgspec.structs.replace(prompt, messages=(*PROMPT.messages, reply.message, result))
        )
        assert (
            said.message.text or said.message.tool_calls
        )  # the server calls tools for ever in Anthropic's format


async def test_many_at_once(model: Model) -> None:
    replies = await asyncio.gather(*(model.reply(PROMPT) for _ in range(8)))
    assert len({reply.message.text for reply in replies}) == 1


async def test_a_stream_may_be_left(model: Model) -> None:
    """And the model goes on answering."""
    stream = model.stream(PROMPT)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert (await model.reply(PROMPT)).message.text


async def test_it_keeps_no_state(model: Model) -> None:
    before = await model.reply(PROMPT)
    await chunks_of(model, Prompt(messages=(Message.of("user", "Say something else."),)))
    assert (await model.reply(PROMPT)).message == before.message


async def test_closing_twice(model: Model) -> None:
    await model.close()
    await model.close()


@pytest.mark.parametrize("make", [openai, anthropic, bedrock])
@pytest.mark.parametrize("name", WIRES)
class TestOverTheNetwork:
    """A model's errors over real sockets: always one that is declared, and the same one whole and streamed."""

    @pytest.mark.parametrize(
        ("script", "error"),
        [
            (["stall"], ModelStalledError),
            ([CHUNKED, "stall"], ModelStalledError),
            ([CHUNKED + chunked(b'{"', end=False), "stall"], ModelStalledError),
            ([CHUNKED + chunked(b"data: {", end=False), "close"], ModelCutError),
            ([b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ndata: {", "close"], ModelCutError),
            (["close"], ModelBusyError),
            ([b"220 smtp.example.com ESMTP\r\n"], ModelMalformedError),
            ([answer(b"<html>", headers="Content-Type: text/html\r\n")], ModelMalformedError),
            ([answer(b"{}", status=500)], ModelBusyError),
            ([answer(b"", status=503, headers="Retry-After: 9\r\n")], ModelBusyError),
        ],
        ids=str,
    )
    async def test_failures(
        self, make: Callable[..., Model], name: str, script: list[Step], error: type[ModelError]
    ) -> None:
        wire = WIRES[name]()
        async with RawServer().running() as server:
            server.on("/v1/chat/completions", *script)
            server.on("/v1/messages", *script)
            server.on(CONVERSE, *script)
            server.on(STREAM, *script)
            model = make(wire, server.url)
            # A whole answer has the total time; a stream must begin, and go on, sooner.
            hurried = make(wire, server.url, SHORT) if "stall" in script else model
            with pytest.raises(ModelError) as whole:
                await hurried.reply(PROMPT)
            with pytest.raises(ModelError) as streamed:
                await chunks_of(model)
            await wire.close()
        for raised in (whole.value, streamed.value):
            assert type(raised) is error
            assert raised.detail.startswith(f"{model.name}: ")
            assert raised.retry_after == (9 if b"Retry-After" in str(script).encode() else None)

    async def test_failures_that_pass_are_retried(
        self, make: Callable[[Wire, str], Model], name: str
    ) -> None:
        """Every other call is answered with 503; neither a reply nor a stream shows anything of it."""
        case, calls = Case(make.__name__, "text"), 0

        async def flaky(body: bytes) -> list[Step]:
            nonlocal calls
            calls += 1
            if calls % 2:
                return [answer(b"{}", status=503)]
            if b'"stream":true' in body or (make is bedrock and calls > 2):
                return [CHUNKED + chunked(case.stream)]
            return [answer(case.bytes("response.json"))]

        clock = ManualClock(jump=True)
        wire = RetryWire(WIRES[name](), clock, retries=1)
        async with RawServer().running() as server:
            server.scripts |= {"/v1/chat/completions": flaky, "/v1/messages": flaky}
            server.scripts |= {CONVERSE: flaky, STREAM: flaky}
            model = make(wire, server.url)
            assert (await model.reply(PROMPT)).message == case.reply.message
            named = {"model": "mock"} if make is bedrock else {}  # its answers do not name their model
            assert (await chunks_of(model))[-1].reply == msgspec.structs.replace(case.reply, **named)
            await wire.close()
        assert calls == 4
        assert len(clock.slept) == 2


@pytest.mark.parametrize("make", [openai, anthropic])
@pytest.mark.parametrize("name", WIRES)
async def test_connections_are_kept(make: Callable[[Wire, str], Model], name: str, mock: str) -> None:
    """Also after a stream whose end mark was read before the end of the HTTP answer."""
    wire = WIRES[name]()
    model = make(wire, mock)
    before = stats(mock)["connections"]
    for _ in range(5):
        await chunks_of(model)
        await model.reply(PROMPT)
    assert stats(mock)["connections"] - before == 1 + 1  # and the one that asks
    await wire.close()


def stats(mock: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{mock}/_stats", timeout=10) as reply:
        counts: dict[str, int] = msgspec.json.decode(reply.read())
        return counts
