"""A proxy before DynamoDB that fails some calls: throttled, cut before or after they are done, left without an answer.

    python -m tests.durability.proxy PORT RATE SEED

Prints its port and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.durability.command import ROOT

FAULTS = ("throttled", "cut before", "cut after", "stalled before", "stalled after")
_THROTTLED = b'{"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "Rate exceeded"}'


class Proxy:
    """Passes one call after the other on to the service, or not."""

    def __init__(self, port: int, rate: float, seed: int) -> None:
        self._port = port
        self._rate = rate
        self._chance = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        try:
            while True:
                asked = await _message(reader)
                fault = self._chance.choice(FAULTS) if self._chance.random() < self._rate else ""
                if fault == "throttled":
                    head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(_THROTTLED)
                    writer.write(head + _THROTTLED)
                    continue
                answer = b"" if fault.endswith("before") else await self._pass_on(asked)
                if fault.startswith("stalled"):
                    await reader.read(1)  # until the client gives up
                if fault:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _pass_on(self, asked: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(asked)
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


async def main() -> None:
    port, rate, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    server = await asyncio.start_server(Proxy(port, rate, seed).serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@contextmanager
def failing(port: int, rate: float, seed: int) -> Iterator[int]:
    """The port of such a proxy, in a process of its own."""
    command = [sys.executable, "-m", "tests.durability.proxy", str(port), str(rate), str(seed)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main())
