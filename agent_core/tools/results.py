"""Turns whatever a tool returns into what a model can read."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from agent_core.messages import Audio, File, Image

OCTETS = "application/octet-stream"
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
)


class Rendered(NamedTuple):
    """A result as text, or as bytes of a media type that no model reads as text. `bare`: no room for words in it."""

    text: str
    data: bytes = b""
    media_type: str = ""
    bare: bool = False


def render(value: Any) -> Rendered:
    """Text as it is, bytes and media apart, None as "done", all else as JSON; what JSON can't hold, by str()."""
    if value is None:
        return Rendered("done", bare=True)
    if isinstance(value, str):
        return Rendered(clean(value))
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return Rendered("", data, media_type(data))
    if isinstance(value, Image | Audio | File) and value.data:
        return Rendered("", value.data, value.media_type)
    return Rendered(clean(_json(value)), bare=type(value) in (bool, int, float))


def clean(text: str) -> str:
    """The text with what is no Unicode (lone surrogates) replaced, so that it can be stored and sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def head(text: str, limit: int) -> str:
    """The first `limit` bytes of the text in UTF-8, cut between two characters."""
    return text.encode()[:limit].decode("utf-8", "ignore")


def media_type(data: bytes) -> str:
    """What the first bytes say it is (after the WHATWG's MIME sniffing), where that is well known."""
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], OCTETS)
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), OCTETS)


def _json(value: Any) -> str:
    try:
        text = msgspec.json.encode(value, enc_hook=_plain).decode()
        # A date, an id or what only str() can show: words, not a quotation.
        return str(msgspec.json.decode(text)) if text.startswith('"') else text
    except (TypeError, ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        return _str(value)


def _str(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - __str__ is a user's code, and the tool did its work all the same
        return f"a {type(value).__name__} that can't be shown"


def _plain(value: Any) -> Any:
    """What msgspec does not know: pydantic models, mappings and sequences of other libraries, else their str()."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    return str(value)
