"""Answers cut anywhere, and what of HTTP/1.1 the contract suite does not ask of every wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent_core.errors import ProtocolError, StalledError
from agent_core.wire.asyncio import AsyncioWire
from agent_core.wire.base import Request, Response, Timeouts
from tests.contracts.raw_server import RawServer, answer

CHUNKS = (
    b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX-Long: one\r\n  two\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"3;name=value\r\nabc\r\n00A\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\n"
)


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer().running() as server:
        yield server


async def ask(wire: AsyncioWire, url: str, method: str = "GET", seconds: float = 5.0) -> Response:
    timeouts = Timeouts(connect=seconds, first_byte=5, between_chunks=5, total=20)
    return await wire.send(Request(method=method, url=url, timeouts=timeouts))


async def test_an_answer_cut_anywhere(server: RawServer) -> None:
    """Each cut is one more read of ours: the second half is sent when the first one was taken."""
    wire = AsyncioWire()
    for place in range(1, len(CHUNKS)):
        go = asyncio.Event()
        call = asyncio.create_task(ask(wire, server.on("/", CHUNKS[:place], go, CHUNKS[place:])))
        await server.arrived.acquire()
        for _ in range(5):
            await asyncio.sleep(0)
        go.set()
        got = await call
        assert (got.body, got.headers["x-long"]) == (b"abc0123456789", "one two")
    await wire.close()
    assert server.connections == 1


@pytest.mark.parametrize(
    "script",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
    ],
    ids=lambda script: repr(script[:70]),
)
async def test_what_is_not_http(server: RawServer, script: bytes) -> None:
    wire = AsyncioWire()
    with pytest.raises(ProtocolError):
        await ask(wire, server.on("/", script))
    await wire.close()


@pytest.mark.parametrize(
    ("head", "connections"),
    [
        (b"HTTP/1.1 200 OK\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", 2),
        (b"HTTP/1.0 200 OK\r\n", 2),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", 1),
    ],
)
async def test_whether_a_connection_is_kept(server: RawServer, head: bytes, connections: int) -> None:
    wire = AsyncioWire()
    url = server.on("/", head + b"content-length: 1\r\n\r\nx")
    for _ in range(2):
        assert (await ask(wire, url)).body == b"x"
    await wire.close()
    assert server.connections == connections


async def test_the_answer_to_a_head_has_no_body(server: RawServer) -> None:
    wire = AsyncioWire()
    url = server.on("/", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
    for _ in range(2):
        got = await ask(wire, url, "HEAD")
        assert (got.headers["content-length"], got.body) == ("9", b"")
    await wire.close()
    assert server.connections == 1


async def test_more_calls_than_connections(server: RawServer) -> None:
    """They wait for one, for as long as for a connection, and no longer."""
    wire = AsyncioWire(max_connections=1)
    go = asyncio.Event()
    first = asyncio.create_task(ask(wire, server.on("/", go, answer(b"x"))))
    await server.arrived.acquire()
    with pytest.raises(StalledError) as raised:
        await ask(wire, server.url + "/", seconds=0.05)
    assert raised.value.timeout == "connect"
    second = asyncio.create_task(ask(wire, server.url + "/"))
    go.set()
    assert [(await call).body for call in (first, second)] == [b"x", b"x"]
    await wire.close()
    assert server.connections == 1
