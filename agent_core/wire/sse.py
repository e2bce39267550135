"""Server-sent events, read piece by piece.

The rules are those of https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import msgspec

_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True):
    """One dispatched event; `id` is the last event id as it stood then."""

    data: str
    event: str = "message"
    id: str = ""


class EventParser:
    """Turns the bytes of an event stream, cut anywhere, into events.

    `retry` is the last reconnection time the stream asked for (milliseconds), `last_id` its last event id. An event
    that the stream's end cuts short is never given, as the standard wants.
    """

    __slots__ = ("_after_cr", "_data", "_event", "_rest", "_start", "last_id", "retry")

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._data: list[bytes] = []
        self._event = b""
        self._rest: list[bytes] = []
        self._after_cr = False
        self._start = True

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        if self._after_cr and piece:
            # The CR that ended the last piece ended its line: a LF right after it belongs to it.
            self._after_cr = False
            if piece.startswith(b"\n"):
                piece = piece[1:]
        if b"\r" in piece:
            self._after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in piece:
            self._rest.append(piece)  # joined once: a long line in many pieces stays linear
            return []
        self._rest.append(piece)
        *lines, rest = b"".join(self._rest).split(b"\n")
        self._rest = [rest]
        if self._start:
            self._start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[Event] = []
        for line in lines:
            if line.startswith(b"data: "):  # nearly every line there is
                self._data.append(line[6:])
            elif line:
                self._field(line)
            elif self._data:
                events.append(self._dispatch())
            else:
                self._event = b""
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if b"\0" not in value:
                self.last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 16:  # bytes.isdigit: ASCII digits alone
            self.retry = int(value)

    def _dispatch(self) -> Event:
        data = b"\n".join(self._data).decode("utf-8", "replace")
        event = Event(data, self._event.decode("utf-8", "replace") or "message", self.last_id)
        self._data.clear()
        self._event = b""
        return event
