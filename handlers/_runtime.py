"""Lambda's Runtime API, as much of it as a runtime needs that answers piece by piece.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and, for streams,
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import NamedTuple

import h11
import msgspec

from agent_core.clock import Clock

_ROOT = "/2018-06-01/runtime"
_STREAMED = [
    ("Lambda-Runtime-Function-Response-Mode", "streaming"),
    ("Content-Type", "application/vnd.awslambda.http-integration-response"),
    ("Transfer-Encoding", "chunked"),
    ("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"),
]
_READ = 64 * 1024

Headers = list[tuple[str, str]]


class Invocation(NamedTuple):
    """One event to handle. `deadline` is when the platform stops us, in seconds since 1970."""

    id: str
    event: bytes
    deadline: float


class Context:
    """What handlers ask Lambda's context for."""

    def __init__(self, invocation: Invocation, clock: Clock) -> None:
        self.aws_request_id = invocation.id
        self._deadline = invocation.deadline
        self._clock = clock

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the platform stops us."""
        return max(int((self._deadline - self._clock.now()) * 1000), 0)


class Failed(NamedTuple):
    """A failure as the platform wants it told."""

    kind: str
    message: str

    @property
    def body(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode({"errorType": self.kind, "errorMessage": self.message, "stackTrace": []})


class RuntimeApi:
    """Asks the platform for events and gives it answers. `address` is host:port, as AWS_LAMBDA_RUNTIME_API has it."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def next(self) -> Invocation:
        """Wait for the next event, for as long as it takes."""
        exchange = await self.begin("GET", "/invocation/next", [])
        await exchange.end()
        head, body = await exchange.answer()
        headers = {name.decode().lower(): value.decode() for name, value in head.headers}
        return Invocation(
            id=headers["lambda-runtime-aws-request-id"],
            event=body,
            deadline=int(headers["lambda-runtime-deadline-ms"]) / 1000,
        )

    async def respond(self, invocation_id: str) -> Exchange:
        """Begin the answer to an event; its pieces follow."""
        return await self.begin("POST", f"/invocation/{invocation_id}/response", _STREAMED)

    async def fail(self, invocation_id: str, failure: Failed) -> None:
        """Tell that an event could not be handled, where nothing was answered yet."""
        await self._tell(f"/invocation/{invocation_id}/error", failure)

    async def fail_to_start(self, failure: Failed) -> None:
        """Tell that this process can handle no event at all."""
        await self._tell("/init/error", failure)

    async def _tell(self, path: str, failure: Failed) -> None:
        headers = [
            ("Lambda-Runtime-Function-Error-Type", failure.kind),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(failure.body))),
        ]
        exchange = await self.begin("POST", path, headers)
        await exchange.send(failure.body)
        await exchange.end()
        await exchange.answer()

    async def begin(self, method: str, path: str, headers: Headers) -> Exchange:
        """Send the head of a request, on a connection of its own: a peer that leaves ends one exchange alone."""
        host, _, port = self._address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        exchange = Exchange(reader, writer)
        await exchange.write(
            h11.Request(
                method=method,
                target=_ROOT + path,
                headers=[("Host", self._address), ("Connection", "close"), *headers],
            )
        )
        return exchange


class Exchange:
    """One request and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, body: bytes) -> None:
        """A piece of the body; raises OSError where the peer has left."""
        await self.write(h11.Data(data=body))

    async def end(self, failure: Failed | None = None) -> None:
        """The end of the body; with a failure, it tells that more should have come."""
        trailers: Headers = []
        if failure is not None:
            trailers = [
                ("Lambda-Runtime-Function-Error-Type", failure.kind),
                ("Lambda-Runtime-Function-Error-Body", base64.b64encode(failure.body).decode()),
            ]
        await self.write(h11.EndOfMessage(headers=trailers))

    async def write(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        """Send what HTTP makes of this, and wait where too much is on its way."""
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def answer(self) -> tuple[h11.Response, bytes]:
        """The answer, to its end; raises ConnectionError where the peer leaves before. It may come early."""
        head: h11.Response | None = None
        body = bytearray()
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    data = await self._reader.read(_READ)
                    if not data and head is None:
                        raise ConnectionResetError("the Runtime API closed the connection")
                    self._http.receive_data(data)
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    return head, bytes(body)
                elif isinstance(event, h11.ConnectionClosed):
                    raise ConnectionResetError("the Runtime API closed the connection")
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError(f"the Runtime API does not speak HTTP: {error}") from error
        finally:
            await self._close()

    async def _close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):  # it may be broken already
            await self._writer.wait_closed()
