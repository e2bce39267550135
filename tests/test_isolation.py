"""The tests' own fence: no network but loopback, nothing from the developer's shell."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

STRANGER = ("somewhere.invalid", 443)  # RFC 2606: never resolves, should the fence have a hole


def test_a_stranger_is_refused_before_any_packet() -> None:
    with socket.socket() as sock, pytest.raises(AssertionError, match="loopback alone"):
        sock.connect(STRANGER)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(AssertionError, match="loopback alone"):
        sock.sendto(b"", STRANGER)
    with pytest.raises(AssertionError, match="loopback alone"):
        socket.getaddrinfo(*STRANGER)


async def test_a_stranger_is_refused_by_the_event_loop_too() -> None:
    with pytest.raises(AssertionError, match="loopback alone"):
        await asyncio.open_connection(*STRANGER)


async def test_loopback_is_open() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()


@pytest.fixture(scope="module")
def _shell() -> Iterator[None]:
    """Variables that were there before the test began."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_STRAY", "1")
        patch.setenv("MODEL_STRAY", "1")
        yield


@pytest.mark.usefixtures("_shell")
def test_variables_of_the_shell_are_gone() -> None:
    assert not [name for name in os.environ if name.startswith(("SAMPAN_", "MODEL_"))]
