"""Lambda's Runtime API on loopback, strict: it takes no byte that the real one would not, and notes all it was sent.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

ROOT = "/2018-06-01/runtime"


@dataclass
class Told:
    """What a runtime said about one invocation (`kind` response or error) or of its start (init/error).

    `pieces` are the chunks of a streamed answer as they came, each on its own; `trailers` came behind them. `broken`:
    the runtime hung up before the end.
    """

    kind: str
    headers: dict[str, str]
    pieces: list[bytes] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    broken: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def head(self) -> dict[str, Any]:
        """What stands before the eight zeros: status, headers, cookies."""
        head: dict[str, Any] = json.loads(self.body.partition(b"\0" * 8)[0])
        return head

    @property
    def content(self) -> bytes:
        """What stands behind them."""
        return self.body.partition(b"\0" * 8)[2]


class Asked:
    """An invocation: `told` once the runtime has answered to the end; `came` is set with each piece."""

    def __init__(self, id: str, event: bytes, deadline_ms: int, leave_after: int | None) -> None:
        self.id = id
        self.event = event
        self.deadline_ms = deadline_ms
        self.leave_after = leave_after
        self.told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self.so_far: Told | None = None
        self.came = asyncio.Event()

    async def pieces(self, count: int) -> list[bytes]:
        """The first pieces, as soon as there are so many."""
        while self.so_far is None or len(self.so_far.pieces) < count:
            self.came.clear()
            await self.came.wait()
        return self.so_far.pieces


class RuntimeApi:
    """Gives out events and takes answers."""

    def __init__(self) -> None:
        self.address = ""
        self.started: asyncio.Future[Told | None] = asyncio.get_running_loop().create_future()
        """Told with the first request for an event; with an error of the start, that."""
        self._events: asyncio.Queue[Asked] = asyncio.Queue()
        self._open: dict[str, Asked] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def invoke(
        self, event: dict[str, Any] | bytes, *, seconds: float = 30.0, leave_after: int | None = None
    ) -> Asked:
        """Have the runtime handle an event. The client leaves after so many pieces of the answer."""
        self._count += 1
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        asked = Asked(f"invocation-{self._count}", body, int((time.time() + seconds) * 1000), leave_after)
        self._open[asked.id] = asked
        self._events.put_nowait(asked)
        return asked

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RuntimeApi]:
        """While in this context, the API is at `address`."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
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
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                await self._handle(*head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _handle(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        place = path.removeprefix(ROOT)
        assert place != path, path
        if (method, place) == ("GET", "/invocation/next"):
            await self._next(writer)
            return
        assert method == "POST", method
        _, scope, *rest = place.split("/")
        asked = self._open[rest[0]] if scope == "invocation" else None
        told = Told("init" if asked is None else rest[1], headers)
        if asked is not None:
            asked.so_far = told
        try:
            await self._read(asked, told, reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            told.broken = True
            raise
        finally:
            if asked is not None:
                del self._open[asked.id]
                asked.told.set_result(told)
            elif not self.started.done():
                self.started.set_result(told)
        _say(writer, 202, b'{"status":"OK"}')

    async def _next(self, writer: asyncio.StreamWriter) -> None:
        if not self.started.done():
            self.started.set_result(None)
        asked = await self._events.get()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": asked.id,
            "Lambda-Runtime-Deadline-Ms": str(asked.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:123456789012:function:stream",
            "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
            "Content-Type": "application/json",
        }
        _say(writer, 200, asked.event, headers)
        await writer.drain()

    async def _read(self, asked: Asked | None, told: Told, reader: asyncio.StreamReader) -> None:
        if "content-length" in told.headers:
            told.pieces.append(await reader.readexactly(int(told.headers["content-length"])))
            return
        assert told.headers["transfer-encoding"] == "chunked", told.headers
        while True:
            size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
            if not size:
                break
            told.pieces.append(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
            if asked is not None:
                asked.came.set()
                if asked.leave_after is not None and len(told.pieces) >= asked.leave_after:
                    raise ConnectionResetError("the client left")
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.decode().strip().partition(": ")
            announced = [trailer.strip().lower() for trailer in told.headers["trailer"].split(",")]
            assert name.lower() in announced, name
            told.trailers[name.lower()] = value


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    method, path, version = first.split(" ")
    assert version == "HTTP/1.1", first
    pairs = [line.partition(": ") for line in lines]
    headers = {name.lower(): value for name, _, value in pairs}
    assert len(headers) == len(pairs), lines
    assert "host" in headers, lines
    return method, path, headers


def _say(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
