"""The binary frames in which AWS streams answers (application/vnd.amazon.eventstream), as pure functions of bytes.

A frame: its length and that of its headers, a checksum of both, the headers, the payload, a checksum of all.
https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

LONGEST = 16 * 1024 * 1024
"""Bytes of a frame, at most, as AWS's own clients have it."""

_PRELUDE = 12
_TAIL = 4
_STRING = 7
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; those of types 6 (bytes) and 7 (text) say their own."""


class FrameError(ValueError):
    """These bytes are no frame."""


class Frame(NamedTuple):
    """One frame. Of its headers those that are texts, such as `:message-type` and `:event-type`."""

    headers: dict[str, str]
    payload: bytes


class FrameParser:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[Frame]:
        """The frames that this piece completes. Raises FrameError."""
        self._buffer += piece
        frames = []
        while len(self._buffer) >= _PRELUDE:
            prelude = bytes(self._buffer[:_PRELUDE])
            size, headers = int.from_bytes(prelude[:4]), int.from_bytes(prelude[4:8])
            if crc32(prelude[:8]) != int.from_bytes(prelude[8:]):
                raise FrameError("the checksum of a frame's beginning is wrong")
            if not _PRELUDE + headers + _TAIL <= size <= LONGEST:
                raise FrameError(f"a frame of {size} bytes with {headers} of headers")
            if len(self._buffer) < size:
                break
            whole = bytes(self._buffer[:size])
            del self._buffer[:size]
            if crc32(whole[:-_TAIL]) != int.from_bytes(whole[-_TAIL:]):
                raise FrameError("the checksum of a frame is wrong")
            payload = _PRELUDE + headers
            frames.append(Frame(_headers(whole[_PRELUDE:payload]), whole[payload:-_TAIL]))
        return frames


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
            kind = data[at]
            at += 1
            if kind in _SIZES:
                at += _SIZES[kind]
                continue
            if kind not in (6, _STRING):
                raise FrameError(f"a header of the unknown type {kind}")
            size = int.from_bytes(data[at : at + 2])
            value = data[at + 2 : at + 2 + size]
            at += 2 + size
            if kind == _STRING:
                found[name.decode()] = value.decode()
    except (IndexError, UnicodeDecodeError) as error:
        raise FrameError("the headers of a frame can't be read") from error
    if at != len(data):
        raise FrameError("the headers of a frame end in the middle")
    return found
