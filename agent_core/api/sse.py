"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) as an ASGI answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from agent_core.clock import Clock

HEARTBEAT_SECONDS = 15.0
"""Longest silence on a stream: proxies cut connections that say nothing for half a minute or more."""

GATHER_SECONDS = 0.01
"""What comes this soon after a piece was sent waits for company: fewer writes, and nobody reads that fast."""

_encode = msgspec.json.Encoder().encode


def event_frame(place: str, name: str, data: Any) -> bytes:
    """One event with an id and a name."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (place.encode(), name.encode(), _encode(data))


def data_frame(data: Any) -> bytes:
    """One event of data alone."""
    return b"data: %b\n\n" % _encode(data)


class EventStream:
    """Sends frames as they come; those that are ready together go out together.

    It stops reading when the client leaves, and says something when there was nothing to say for a while.
    """

    def __init__(
        self, frames: AsyncGenerator[bytes, None], clock: Clock, headers: Mapping[str, str] | None = None
    ) -> None:
        self._frames = frames
        self._clock = clock
        self._headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),  # nginx would gather the events otherwise
            *((name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()),
        ]
        self._ready: list[bytes] = []
        self._put_at = clock.monotonic()
        self._over = False
        self._gathering = False
        self._change = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the stream."""
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if scope.get("method") == "HEAD":
            await self._frames.aclose()
            await send({"type": "http.response.body"})
            return
        tasks = [asyncio.create_task(work) for work in (self._read(), self._beat(), self._watch(receive))]
        try:
            await self._forward(send)
            if tasks[0].done():
                tasks[0].result()  # an error of the frames themselves belongs to whoever called us
        except OSError:
            pass  # the client left between two pieces
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._frames.aclose()

    async def _forward(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while not self._over or self._ready:
            await self._change.wait()
            self._change.clear()
            if self._ready:
                body = b"".join(self._ready)
                self._ready.clear()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                self._gathering = True
                loop.call_later(GATHER_SECONDS, self._gathered)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _gathered(self) -> None:
        self._gathering = False
        if self._ready:
            self._change.set()

    async def _read(self) -> None:
        try:
            async for frame in self._frames:
                self._put(frame)
        finally:
            self._end()

    async def _beat(self) -> None:
        while True:
            left = HEARTBEAT_SECONDS - (self._clock.monotonic() - self._put_at)
            if left > 0:
                await self._clock.sleep(left)
            else:
                self._put(b": still here\n\n")

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end()

    def _put(self, frame: bytes) -> None:
        self._put_at = self._clock.monotonic()
        self._ready.append(frame)
        if not self._gathering:
            self._change.set()

    def _end(self) -> None:
        self._over = True
        self._change.set()
