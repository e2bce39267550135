"""The fetch tool: reads a page of the public web for a model, and can't be sent anywhere else.

The URL comes from a model, so perhaps from whoever wrote the text that the model read. Each hop is checked, looked up
once and pinned (wire/outside.py); redirects are followed by hand, and what comes is bounded in bytes, time and kind.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urljoin

from agent_core.errors import ConfigError, ForbiddenAddressError, ToolError, WireError
from agent_core.messages import Turn
from agent_core.tools.base import Tool
from agent_core.wire.base import Request, StreamedResponse, Timeouts, Wire
from agent_core.wire.outside import OutsideWire, Resolver, system_resolver
from agent_core.wire.reach import Place, Reach, check_patterns, matches, read_url

REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_HEAD_BYTES = 32 * 1024
_TEXT = re.compile(r"text/[\w.+-]+|application/(json|xml|xhtml\+xml|javascript|[\w.-]+\+(json|xml))")
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_ACCEPT = {"accept": "text/html, text/*, application/json;q=0.9, */*;q=0.1"}
_DESCRIPTION = "Read a page of the public web. Gives its text; links stand behind their words."


class Page(NamedTuple):
    """What was found: its final URL, status, media type, and its body, decompressed."""

    url: str
    status: int
    media_type: str
    charset: str
    body: bytes

    @property
    def text(self) -> str:
        """The words: those a person sees where it is HTML."""
        named = _CHARSET.search(self.body[:1024]) if self.media_type in _HTML else None
        charset = self.charset or (named[1].decode() if named else "utf-8")
        try:
            text = self.body.decode(charset, "replace").removeprefix("\ufeff")
        except LookupError:
            text = self.body.decode("utf-8", "replace").removeprefix("\ufeff")
        if self.media_type not in _HTML:
            return text
        from agent_core.tools.pages import (
            page_text,
        )  # not before a page is there: the parser costs a cold start

        return page_text(text, self.url)


class Fetcher:
    """Reads public pages. `reach` says which, `headers` go with every request to the host first asked for.

    `max_bytes` bounds the body after it was decompressed, `seconds` all of it: name look-up, redirects and body.
    """

    def __init__(
        self,
        reach: Reach | None = None,
        *,
        wire: Wire | None = None,
        resolver: Resolver = system_resolver,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 2 * 1024 * 1024,
        seconds: float = 20.0,
    ) -> None:
        if max_bytes < 1 or not seconds > 0:
            raise ConfigError("fetch: give max_bytes and seconds above 0")
        self._reach = reach or Reach()
        self._wire = wire
        self._resolver = resolver
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def get(self, url: str, *, egress: Sequence[str] | None = None) -> Page:
        """The page at the end of the redirects. `egress` narrows the hosts further, at every hop.

        Raises ForbiddenAddressError where it may not be gone to, ToolError where what is there can't be read,
        WireError where nothing came.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url, egress)
        except TimeoutError:
            raise ToolError(f"it took more than {self._seconds:g} s in all") from None

    async def _follow(self, url: str, egress: Sequence[str] | None) -> Page:
        wire = OutsideWire(self._wire or _own_wire(), self._reach, resolver=self._resolver)
        headers: Mapping[str, str] = {**_ACCEPT, **self._headers}
        before: Place | None = None
        for _ in range(REDIRECTS + 1):
            place = read_url(url)
            if before is not None:
                headers = _carried(headers, before, place)
            if egress is not None and not matches(place.host, egress):
                raise ForbiddenAddressError(
                    f"{place.host} is not among the hosts that this agent may send to"
                )
            timeouts = Timeouts(connect=5.0, first_byte=self._seconds, total=self._seconds)
            request = Request(method="GET", url=place.url, headers=headers, timeouts=timeouts)
            async with wire.stream(request) as answer:
                target = answer.headers.get("location", "")
                if answer.status not in _MOVED or not target:
                    return await self._read(place, answer)
            before, url = place, _joined(place.url, target)
        raise ForbiddenAddressError(f"more than {REDIRECTS} redirects")

    async def _read(self, place: Place, answer: StreamedResponse) -> Page:
        if sum(len(name) + len(value) for name, value in answer.headers.items()) > _HEAD_BYTES:
            raise ToolError(f"{place.host}: the headers are larger than {_HEAD_BYTES} bytes")
        kind, _, rest = answer.headers.get("content-type", "text/plain").partition(";")
        kind = kind.strip().lower()
        if not _TEXT.fullmatch(kind):
            raise ToolError(f"{place.url} is {kind[:100] or 'of no type'}, not text")
        named = re.search(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", rest, re.IGNORECASE)
        body = await self._body(place, answer)
        return Page(place.url, answer.status, kind, named[1] if named else "", body)

    async def _body(self, place: Place, answer: StreamedResponse) -> bytes:
        unpack = _unpacker(answer.headers.get("content-encoding", ""))
        body, packed = bytearray(), 0
        async for chunk in answer.chunks:
            packed += len(chunk)
            # One byte more than allowed is unpacked, however much the piece would become.
            room = self._max_bytes - len(body) + 1
            try:
                body += chunk[:room] if unpack is None else unpack.decompress(chunk, room)
            except zlib.error:
                raise ToolError(f"{place.host}: the answer can't be unpacked") from None
            if max(len(body), packed) > self._max_bytes:
                raise ToolError(f"{place.url} is larger than {self._max_bytes} bytes")
        return bytes(body)


def fetch(
    *,
    allow: Sequence[str] | None = None,
    deny: Sequence[str] = (),
    ports: Sequence[int] = (80, 443),
    headers: Mapping[str, str] | None = None,
    max_bytes: int = 2 * 1024 * 1024,
    seconds: float = 20.0,
    wire: Wire | None = None,
    resolver: Resolver = system_resolver,
) -> Tool:
    """The tool `fetch(url)`, for an agent's `tools`.

    `allow` are the only hosts it goes to, `deny` those it never does ("example.com", or "*.example.com" for all below
    it); without `allow` the whole public web is open. `headers` go to the hosts in `allow`, which must be given with
    them; on a redirect to another origin Authorization, Cookie and all others of them stay behind. What it gives is
    untrusted text.
    """
    if headers and allow is None:
        raise ConfigError("fetch: headers would go to any host a model names; say which with allow=[...]")
    for hosts in (allow or (), deny):
        check_patterns(hosts)
    reach = Reach(hosts=None if allow is None else tuple(allow), denied=tuple(deny), ports=frozenset(ports))
    fetcher = Fetcher(
        reach, wire=wire, resolver=resolver, headers=headers, max_bytes=max_bytes, seconds=seconds
    )

    async def read(url: str, turn: Turn) -> str:
        try:
            page = await fetcher.get(url, egress=turn.egress)
        except (ForbiddenAddressError, WireError) as error:
            raise ToolError(f"{url[:200]} was not fetched: {error.detail}") from error
        said = "" if page.status == 200 else f"[status {page.status}]\n"
        return f"[{page.url}]\n{said}{page.text}"

    return Tool(function=read, name="fetch", description=_DESCRIPTION, timeout=seconds + 5)


def _carried(headers: Mapping[str, str], before: Place, place: Place) -> Mapping[str, str]:
    """The headers that go along with a redirect; raises ForbiddenAddressError where it gives up the encryption."""
    if before.scheme == "https" and place.scheme != "https":
        raise ForbiddenAddressError(f"a redirect from https to {place.url} is not followed")
    return headers if before.origin == place.origin else _ACCEPT


def _joined(url: str, target: str) -> str:
    try:
        # Servers send UTF-8 there, which the wire reads as Latin-1 (RFC 9110 section 5.5).
        target = target.encode("latin-1", "replace").decode("utf-8", "replace")
        return urljoin(url, target)
    except ValueError:
        raise ForbiddenAddressError("the redirect leads to no URL") from None


def _unpacker(encoding: str) -> _Unpacker | None:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in ("gzip", "x-gzip", "deflate"):
        raise ToolError(f"the answer is packed as {name[:40]!r}, which was not asked for")
    return _Unpacker()


class _Unpacker:
    """Unpacks gzip and zlib, never more than asked for; what is packed beyond that stays packed."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def decompress(self, data: bytes, room: int) -> bytes:
        """At most `room` bytes of what the data holds."""
        return self._stream.decompress(self._stream.unconsumed_tail + data, room)


_wires: list[Wire] = []


def _own_wire() -> Wire:
    """One wire for all fetches of the process; its connections close with their loop."""
    if not _wires:
        from agent_core.wire.asyncio import AsyncioWire  # not before a page is asked for

        _wires.append(AsyncioWire())
    return _wires[0]
