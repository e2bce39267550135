"""RetryWire: tries a call again after a passing fault, with full jitter, under a budget per host.

Jitter: a random wait between 0 and a bound that doubles
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter, "full jitter").

Budget: a token bucket per host; a retry takes a token, a call that succeeds at once puts a tenth of one back (the
scheme of gRPC's retry throttling, https://github.com/grpc/proposal/blob/master/A6-client-retries.md). So while a
provider is down retries dry up, at most ten in all, and at other times they are at most a tenth of the calls. A client
with few calls gets a token per minute, up to three (the reserve of Finagle's RetryBudget).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from math import isfinite, nan

from agent_core.clock import Clock
from agent_core.errors import ConnectError, LostError, StalledError, WireError
from agent_core.wire.base import Request, Response, StreamedResponse, Wire

RETRIED = frozenset({429, 500, 502, 503, 504, 529})
"""Statuses that may pass: too many requests, server faults, overload (529 is Anthropic's)."""

UNDONE = frozenset({429, 529})
"""Statuses that say that nothing was done: refused before any work."""

_UNPAID = RETRIED - {504}
"""Statuses after which a call that costs money may be made again; 504 is a gateway that was met with silence."""

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 8.0
_LONGEST_RETRY_AFTER = 30.0


class RetryBudget:
    """The token bucket of one host."""

    CAPACITY = 10.0
    RESERVE = 3.0
    PER_SUCCESS = 0.1
    PER_SECOND = 1 / 60

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._tokens = self.RESERVE
        self._at = now

    def succeeded(self) -> None:
        """A call went well at once."""
        self._tokens = min(self._tokens + self.PER_SUCCESS, self.CAPACITY)

    def take(self, now: float) -> bool:
        """Whether one more retry is in the budget; takes it."""
        passed, self._at = now - self._at, now
        if self._tokens < self.RESERVE:
            self._tokens = min(self._tokens + passed * self.PER_SECOND, self.RESERVE)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class RetryWire:
    """A Wire that tries again where it has a reason (`may_repeat`), which depends on the request's `repeat`.

    `retries` further attempts at most. `Retry-After` is obeyed up to 30 s; a longer one is left to the caller, as is
    the last answer when the attempts or the budget are used up. A streamed call is never tried again once a piece
    of its body was given out.
    """

    def __init__(self, wire: Wire, clock: Clock, *, retries: int = 2) -> None:
        self._wire = wire
        self._clock = clock
        self._retries = retries
        self._budgets: dict[str, RetryBudget] = {}

    async def send(self, request: Request) -> Response:
        """The whole answer, of the last attempt."""
        tries = _Tries(self, request)
        while True:
            try:
                answer = await self._wire.send(request)
            except WireError as error:
                if not may_repeat(request, error) or not await tries.again({}):
                    raise
                continue
            if answer.status not in RETRIED:
                tries.succeeded()
            elif may_repeat(request, answer.status) and await tries.again(answer.headers):
                continue
            return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer of the last attempt; it is given out when its first piece is there."""
        tries = _Tries(self, request)
        while True:
            async with AsyncExitStack() as stack:
                try:
                    answer = await stack.enter_async_context(self._wire.stream(request))
                    if may_repeat(request, answer.status) and tries.may_go_on(answer.headers):
                        first = None
                    else:
                        first = await anext(answer.chunks, b"")
                except WireError as error:
                    await stack.aclose()
                    if not may_repeat(request, error) or not await tries.again({}):
                        raise
                    continue
                if first is not None:
                    if answer.status not in RETRIED:
                        tries.succeeded()
                    chunks = _joined(first, answer.chunks)
                    yield StreamedResponse(status=answer.status, headers=answer.headers, chunks=chunks)
                    return
            await tries.wait(answer.headers)

    async def close(self) -> None:
        """Close all connections."""
        await self._wire.close()

    def budget(self, url: str) -> RetryBudget:
        """The budget of the URL's host."""
        host = url.partition("://")[2].partition("/")[0]
        if host not in self._budgets:
            self._budgets[host] = RetryBudget(self._clock.monotonic())
        return self._budgets[host]


class _Tries:
    """The attempts of one call."""

    def __init__(self, wire: RetryWire, request: Request) -> None:
        self._clock = wire._clock
        self._left = wire._retries
        self._budget = wire.budget(request.url)
        self._made = 0

    def succeeded(self) -> None:
        if not self._made:
            self._budget.succeeded()

    async def again(self, headers: Mapping[str, str]) -> bool:
        """Wait and say True, or say False where there must be no further attempt."""
        if not self.may_go_on(headers):
            return False
        await self.wait(headers)
        return True

    def may_go_on(self, headers: Mapping[str, str]) -> bool:
        """Whether one more attempt is allowed; counts it."""
        if not self._left:
            return False
        asked = retry_after(headers, self._clock.now())
        if asked is not None and asked > _LONGEST_RETRY_AFTER:
            return False
        if not self._budget.take(self._clock.monotonic()):
            return False
        self._left -= 1
        self._made += 1
        return True

    async def wait(self, headers: Mapping[str, str]) -> None:
        """What was asked for, and a jitter on top, so that not all come back at the same moment."""
        bound = min(_FIRST_WAIT * 2 ** (self._made - 1), _LONGEST_WAIT)
        asked = retry_after(headers, self._clock.now()) or 0.0
        await self._clock.sleep(asked + self._clock.random() * bound)


def may_repeat(request: Request, fault: WireError | int) -> bool:
    """Whether a request may be sent again after an error, or an answer of this status.

    Whatever the request: where nothing was sent. After silence, or a connection that broke once the request was on its
    way (also one that had been idle: nobody can tell whether it was read), only what may be done twice.
    """
    safe = request.repeat == "safe" or (not request.repeat and request.method in _IDEMPOTENT)
    if isinstance(fault, int):
        return fault in (RETRIED if safe else _UNPAID if request.repeat == "on_error" else UNDONE)
    if isinstance(fault, StalledError):
        return fault.timeout == "connect" or (safe and fault.timeout == "first_byte")
    return isinstance(fault, ConnectError) and (safe or not isinstance(fault, LostError))


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait, None where it does not (RFC 9110 section 10.2.3: seconds or a date)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _date(value) - now
    return max(seconds, 0.0) if isfinite(seconds) else None


def _date(value: str) -> float:
    """An HTTP date in seconds since 1970; nan where it is none."""
    # Only here is the mail parser needed, and few servers send a date.
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return nan
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
