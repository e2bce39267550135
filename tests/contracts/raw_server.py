"""A server below HTTP's rules: it says exactly the bytes it is told to, stalls, cuts and talks nonsense."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal

Step = bytes | Literal["stall", "close", "reset"] | asyncio.Event
"""Bytes to say; "stall" for ever, "close" or "reset" the connection; an event to wait for."""

Script = Sequence[Step]


def answer(body: bytes = b"", *, status: int = 200, headers: str = "") -> bytes:
    """A whole, rightful answer."""
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Pieces in HTTP's chunked form."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return body + (b"0\r\n\r\n" if end else b"")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class RawServer:
    """Plays the script of the path that is asked for, once per request; the connection stays open after it."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script | Callable[[bytes], Awaitable[Script]]] = {}
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.arrived = asyncio.Semaphore(0)
        """Released once for each request that is there."""
        self.connections = 0
        self.closed = asyncio.Event()
        """Set when the peer of any connection has closed it."""
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, path: str, *script: Step) -> str:
        """What to do for this path; gives its URL."""
        self.scripts[path] = script
        return self.url + path

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(_length(head)))
                self.arrived.release()
                await self._play(self.scripts[head.split()[1].decode()], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.transport.abort()

    async def _play(
        self, script: Script | Callable[[bytes], Awaitable[Script]], writer: asyncio.StreamWriter
    ) -> None:
        if callable(script):
            script = await script(self.bodies[-1])
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step == "stall":
                await asyncio.get_running_loop().create_future()
            elif step == "close":
                writer.close()
                await writer.wait_closed()
                raise ConnectionError
            else:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER 0: close by a reset
                raise ConnectionError


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


PROGRAM = """
import asyncio, sys
from tests.contracts.raw_server import CHUNKED, RawServer, answer, chunked
from tests.wire.cases import Case

async def main():
    case = Case("openai", "text")
    first, *_, last, usage, done, _ = case.bytes("stream.sse").split(b"\\n\\n")
    stream = [first + b"\\n\\n"] * 50 + [b"\\n\\n".join([last, usage, done, b""])]
    async def respond(body):
        return [CHUNKED + chunked(*stream)] if b'"stream":true' in body else [answer(case.bytes("response.json"))]
    async with RawServer().running() as server:
        server.scripts["/chat/completions"] = respond
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""
"""A model's server in a process of its own, for measuring the CPU of ours. Ends with its standard input."""
