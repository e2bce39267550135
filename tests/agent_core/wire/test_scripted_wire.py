"""The wire's double keeps its word."""

from __future__ import annotations

import pytest

from agent_core.errors import CutError, StalledError
from agent_core.testing import ScriptedWire
from agent_core.wire.base import Request
from agent_core.wire.scripted import CUT, STALL, Answer

CALL = Request(method="GET", url="http://a/")


async def test_answers_in_order() -> None:
    wire = ScriptedWire([Answer(body=b"1"), Answer(status=500, headers={"a": "b"})])
    wire.add(Answer(body=(b"3", b"4")))
    assert (await wire.send(CALL)).body == b"1"
    async with wire.stream(CALL) as answer:
        assert (answer.status, answer.headers, await answer.read()) == (500, {"a": "b"}, b"")
    async with wire.stream(CALL) as answer:
        assert [piece async for piece in answer.chunks] == [b"3", b"4"]
    wire.assert_used_up()
    assert wire.requests == [CALL] * 3


async def test_faults() -> None:
    wire = ScriptedWire([STALL, Answer(body=(b"1", CUT)), Answer(body=(b"1", STALL))])
    with pytest.raises(StalledError):
        await wire.send(CALL)
    with pytest.raises(CutError):
        await wire.send(CALL)
    with pytest.raises(StalledError):
        async with wire.stream(CALL) as answer:
            await answer.read()
    assert wire.open_streams == 0


async def test_a_script_must_be_used_up() -> None:
    wire = ScriptedWire([Answer()])
    with pytest.raises(AssertionError, match="1 answers"):
        wire.assert_used_up()
    await wire.send(CALL)
    wire.assert_used_up()
    with pytest.raises(AssertionError, match="request 2 went to http://a/"):
        await wire.send(CALL)
    await wire.close()
    assert wire.closed
