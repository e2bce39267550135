"""Whatever bytes come in place of a golden answer: a reply or one declared ModelError, never another exception."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.errors import ModelError, ModelMalformedError
from agent_core.messages import Reply
from agent_core.testing import ScriptedWire
from agent_core.wire.scripted import Answer
from tests.wire.cases import PROVIDERS, Case, cases

EVENTS = {"content-type": "text/event-stream"}
HTML = b"<!doctype html><html><body>Sign in to the guest network</body></html>"
SHAPES: tuple[Any, ...] = (
    None,
    True,
    0,
    "",
    "text",
    [],
    {},
    {"choices": []},
    {"choices": None},
    {"choices": [{}]},
    {"choices": [None]},
    {"content": None},
    {"content": [None]},
    {"content": [{"type": "tool_use"}]},
)
NOISE = [b"", b"\n", b"\n\n", b'"', b"null", b"{", b"}", b"[]", b"0", b"-1", b"1e999", b"\xff"]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes cut short, with some replaced, removed, doubled or put in."""
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(at + draw(st.integers(0, 8)), len(data))
        put = draw(st.sampled_from(NOISE)) or draw(st.binary(max_size=4))
        data = data[:at] + put + data[end:]
    return data


async def read(case: Case, answer: Answer, *, stream: bool) -> Reply | ModelError:
    model = case.model(ScriptedWire([answer]))
    try:
        if not stream:
            return await model.reply(case.prompt)
        chunks = [chunk async for chunk in model.stream(case.prompt)]
    except ModelError as error:
        return error
    assert chunks[-1].reply is not None
    return chunks[-1].reply


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_answer(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(cases("response.json")))
    status = case.error.status if case.has("error.json") else 200
    body = data.draw(damaged(case.bytes("response.json")))
    asyncio.run(read(case, Answer(status=status, body=body), stream=False))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_stream(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(cases("stream.*")))
    body = data.draw(damaged(case.stream))
    cut = data.draw(st.integers(0, len(body)))
    answer = Answer(headers={"content-type": case.content_type}, body=(body[:cut], body[cut:]))
    outcome = asyncio.run(read(case, answer, stream=True))
    if isinstance(outcome, Reply):
        assert outcome.usage.input >= outcome.usage.cached_input >= 0


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "body",
    [HTML, b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'data: {"oops"\n\n', b"data: [[[\n\n"],
)
async def test_something_else_with_status_200(provider: str, stream: bool, body: bytes) -> None:
    """A captive portal, an empty page, noise, bottomless nesting."""
    for kind in ("text/html", "application/json", "text/event-stream", "text/plain"):
        outcome = await read(
            Case(provider, "text"), Answer(headers={"content-type": kind}, body=body), stream=stream
        )
        assert isinstance(outcome, ModelError)
        if not stream or kind == "text/html":
            assert isinstance(outcome, ModelMalformedError)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
async def test_json_of_another_shape(provider: str, shape: Any) -> None:
    body = msgspec.json.encode(shape)
    assert isinstance(
        await read(Case(provider, "text"), Answer(body=body), stream=False), ModelMalformedError
    )
    event = Answer(headers=EVENTS, body=b"data: " + body + b"\n\n")
    assert isinstance(await read(Case(provider, "text"), event, stream=True), ModelError)
