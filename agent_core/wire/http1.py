"""One HTTP/1.1 connection of a client: RFC 9112, what a caller of JSON services needs of it, on asyncio's transports.

Written for the cold path: it loads nothing but asyncio, and a call takes a fraction of a general client's CPU.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from agent_core.errors import ConnectError, CutError, LostError, ProtocolError, StalledError
from agent_core.wire.waits import Waits

_HIGH_WATER = 256 * 1024
_LONGEST_HEAD = 64 * 1024
_LONGEST_SIZE = 4096
"""Bytes of a line that says how long a chunk is, with what may stand behind the number."""

_START = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?")
_END = re.compile(rb"\r?\n\r?\n")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")
_LENGTH = re.compile(r"\d{1,15}")
_UNTIL_CLOSE = -1


class Connection(asyncio.Protocol):
    """One connection, on which one exchange after the other takes place: `ask`, then `piece` until it is empty.

    `free` says whether another exchange may follow. Errors are those of the Wire port.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._reading = True
        self.closed: asyncio.Future[None] = loop.create_future()
        self.idle_since = 0.0
        self._waits: Waits
        self._keep = self._chunked = self._whole = False
        self._left = 0

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Buffer the bytes; stop the flow where nobody takes them."""
        self._buffer += data
        if len(self._buffer) > _HIGH_WATER and self._reading:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer has nothing more to say: the connection may go."""
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Whatever waits on this connection goes on and finds the end."""
        self._ended = True
        self._error = exc
        self.resume_writing()
        self._wake()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The peer takes our bytes slowly."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room for more of our bytes."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the wire calls.

    @property
    def usable(self) -> bool:
        """Whether it may be asked: the peer has neither hung up nor spoken unasked."""
        return not self._ended and not self._buffer

    @property
    def free(self) -> bool:
        """Whether its last answer was read to the end, and another one may follow."""
        return self._whole and self._keep and self.usable

    def abort(self) -> None:
        """Drop it; `closed` is done when the loop has let go of it."""
        self._transport.abort()

    async def ask(
        self, head: bytes, body: bytes, waits: Waits, *, bodiless: bool
    ) -> tuple[int, dict[str, str]]:
        """Send a request, and read status and headers of its answer. `bodiless`: as the answer to a HEAD is."""
        self._waits, self._whole = waits, False
        # Where the peer hung up, it may have answered before: what it said is read below.
        if not self._ended:
            self._transport.writelines((head, body)) if body else self._transport.write(head)
            if self._writable is not None:
                await self._wait(self._writable)
        while True:
            status, headers, keep = await self._read_head()
            # Other answers of this class come before the real one. RFC 9110 section 15.2
            if status >= 200 or status == 101:
                break
        waits.answered = True
        self._frame(status, headers, keep, bodiless)
        return status, headers

    async def piece(self) -> bytes:
        """All of the answer's body that has come since the last piece; nothing at its end."""
        while not self._whole:
            found = self._take_chunks() if self._chunked else self._take()
            if found:
                self._waits.began = True
                self._flow()
                return found
            await self._more()
        return b""

    # Reading

    async def _read_head(self) -> tuple[int, dict[str, str], bool]:
        begun = 0
        while (end := _END.search(self._buffer, begun)) is None:
            begun = max(len(self._buffer) - 3, 0)
            if len(self._buffer) > _LONGEST_HEAD:
                raise self._not_http(f"a head of more than {_LONGEST_HEAD} bytes")
            if not await self._fill():
                raise LostError(f"{self._waits.host}: the connection closed before an answer")
        lines = bytes(self._buffer[: end.start()]).split(b"\n")
        del self._buffer[: end.end()]
        self._flow()
        found = _STATUS.fullmatch(lines[0].rstrip(b"\r"))
        if found is None:
            raise self._not_http("no status line")
        headers = self._headers(lines[1:])
        said = headers.get("connection", "").lower()
        keep = "close" not in said if found[1] == b"1" else "keep-alive" in said
        return int(found[2]), headers, keep

    def _headers(self, lines: list[bytes]) -> dict[str, str]:
        headers: dict[str, str] = {}
        name = ""
        for line in lines:
            if line[:1] in (b" ", b"\t") and name:  # goes on from the line before. RFC 9112 section 5.2
                headers[name] += " " + line.strip().decode("latin-1")
                continue
            key, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(key):
                raise self._not_http("a line in the head that is no header")
            name, text = key.decode("ascii").lower(), value.strip().decode("latin-1")
            if name == "content-length" and headers.get(name, text) != text:
                raise self._not_http("two lengths")
            headers[name] = text
        return headers

    def _frame(self, status: int, headers: dict[str, str], keep: bool, bodiless: bool) -> None:
        """How the body ends. RFC 9112 section 6.3"""
        coding, length = headers.get("transfer-encoding", "").lower(), headers.get("content-length")
        self._keep, self._chunked, self._left = keep, False, 0
        if bodiless or status in (101, 204, 304):
            self._whole = True
        elif coding:
            if coding != "chunked":
                raise self._not_http("an unknown transfer encoding")
            # With a length besides, somebody on the way understood it otherwise: not to be used again.
            self._chunked, self._keep = True, keep and length is None
            self._left = _UNTIL_CLOSE
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise self._not_http("a length that is no number")
            self._left = int(length)
            self._whole = not self._left
        else:
            self._left, self._keep = _UNTIL_CLOSE, False

    def _take(self) -> bytes:
        """What the buffer has of a body by length, or of one that ends with the connection."""
        if self._left == _UNTIL_CLOSE:
            found = bytes(self._buffer)
            self._buffer.clear()
            return found
        found = bytes(self._buffer[: self._left])
        del self._buffer[: len(found)]
        self._left -= len(found)
        self._whole = not self._left
        return found

    def _take_chunks(self) -> bytes:
        """The content of all chunks, and of the part of a chunk, that the buffer has. RFC 9112 section 7.1

        `_left` is what is missing of the present chunk; 0 where its line end is next, -1 where a chunk's size is.
        """
        found: list[bytes] = []
        buffer, place = self._buffer, 0
        while True:
            if self._left > 0:
                part = bytes(buffer[place : place + self._left])
                if not part:
                    break
                found.append(part)
                place += len(part)
                self._left -= len(part)
                continue
            line = buffer.find(b"\n", place)
            if line < 0:
                if len(buffer) - place > _LONGEST_SIZE:
                    raise self._not_http("a chunk without a size")
                break
            words = bytes(buffer[place:line]).removesuffix(b"\r")
            if self._left == 0:
                if words:
                    raise self._not_http("a chunk longer than it said")
                self._left = _UNTIL_CLOSE
            else:
                size = _SIZE.fullmatch(words)
                if size is None:
                    raise self._not_http("a chunk without a size")
                self._left = int(size[1], 16)
                if not self._left:
                    self._left = _UNTIL_CLOSE
                    # The last chunk: its line is left where it is until the trailer behind it is there, too.
                    if (end := _END.search(buffer, max(line - 1, 0))) is None:
                        if len(buffer) - place > _LONGEST_HEAD:
                            raise self._not_http("a trailer without an end")
                        break
                    self._whole, place = True, end.end()
                    break
            place = line + 1
        del buffer[:place]
        return b"".join(found)

    async def _more(self) -> None:
        """Wait for more of the body, where the buffer has none; the connection's end may be its own."""
        if self._whole or await self._fill():
            return
        if self._chunked or self._left != _UNTIL_CLOSE:
            raise CutError(f"{self._waits.host}: the answer ended before its end")
        self._whole = True

    async def _fill(self) -> bool:
        """Wait for more bytes; False where none will come."""
        before = len(self._buffer)
        if not self._ended:
            self._waiter = self._loop.create_future()
            await self._wait(self._waiter)
        waits = self._waits
        if len(self._buffer) == before:
            waits.ended = True
            if self._error is not None:
                kind = CutError if waits.answered else LostError
                raise kind(f"{waits.host}: the connection broke: {reason(self._error)}")
            return False
        if not waits.received and not self._buffer.startswith(_START[: len(self._buffer)]):
            raise ProtocolError(f"{waits.host}: what came is not HTTP/1")
        waits.received += len(self._buffer) - before
        return True

    def _flow(self) -> None:
        if not self._reading and len(self._buffer) < _HIGH_WATER // 2:
            self._reading = True
            self._transport.resume_reading()

    async def _wait(self, future: asyncio.Future[None]) -> None:
        """Wait for the future till the request's deadline. One timer: asyncio.timeout costs four times as much."""
        timer = self._loop.call_at(self._waits.reading(self._loop.time()), _expire, future)
        try:
            await future
        except TimeoutError:
            raise self._waits.stalled(self._loop.time()) from None
        finally:
            timer.cancel()
            self._waiter = None

    def _not_http(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self._waits.host}: what came is not HTTP: {what}")


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def reason(error: BaseException) -> str:
    """Why the system says a connection failed."""
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return text or type(error).__name__


def unconnected(waits: Waits, error: OSError, now: float, what: str) -> ConnectError | StalledError:
    """Why there is no connection: a passed deadline, or the system's own reason, ETIMEDOUT among them."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return waits.stalled(now, connecting=True)
    return ConnectError(f"{waits.host}: no {what}: {reason(error)}")
