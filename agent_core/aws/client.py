"""One signed call to an AWS service, with back-off where it throttles, and its errors by their codes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from agent_core.aws.sigv4 import Credentials, Scope, sign
from agent_core.clock import Clock
from agent_core.errors import ConnectError, LostError, StalledError, StoreBusyError, StoreError, WireError
from agent_core.wire.base import Request, Response, Timeouts, Wire

TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, between_chunks=5.0, total=20.0)
TRIES = 8
FIRST_WAIT = 0.05
LONGEST_WAIT = 2.0

THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
"""Codes that say: nothing was done, ask again later."""

STALE = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    }
)
"""Codes of credentials that were renewed elsewhere."""


class AwsError(StoreError):
    """A service refused; `code` is its own name for why, `answer` what it sent. Adapters turn it into ours."""

    def __init__(self, code: str, message: str, *, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.http_status = status
        self.answer = answer


class CredentialsSource(Protocol):
    """Who gives the client its credentials: aws/credentials.py's Chain."""

    async def current(self) -> Credentials:
        """Credentials to sign with now."""

    def forget(self, refused: Credentials) -> None:
        """The service refused these."""


class AwsClient:
    """Signs and sends; waits and tries again where that is right. `wire` must not retry by itself.

    A call that was throttled did nothing and is tried again, up to TRIES times. After a lost answer only an
    `idempotent` call is. `close` waits for the calls under way.
    """

    def __init__(self, wire: Wire, clock: Clock, credentials: CredentialsSource, region: str) -> None:
        self.clock = clock
        self.credentials = credentials
        self.region = region
        self._wire = wire
        self._calls = 0
        self._closed = False
        self._idle: asyncio.Future[None] | None = None

    async def send(self, request: Request, service: str, *, idempotent: bool) -> Response:
        """The answer of status 2xx. Raises AwsError, StoreBusyError, StoreError."""
        if self._closed:
            raise StoreError("the connection to AWS is closed")
        self._calls += 1
        try:
            return await self._send(request, Scope(self.region, service), idempotent)
        finally:
            self._calls -= 1
            if self._idle is not None and not self._calls and not self._idle.done():
                self._idle.set_result(None)

    async def close(self) -> None:
        """Finish the calls under way, then let go of the connections."""
        self._closed = True
        while self._calls:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        await self._wire.close()

    async def pause(self, attempt: int) -> None:
        """Wait before try number `attempt` + 1 (from 0): full jitter below a bound that doubles."""
        bound = min(FIRST_WAIT * 2.0**attempt, LONGEST_WAIT)
        await self.clock.sleep(self.clock.random() * bound)

    async def _send(self, request: Request, scope: Scope, idempotent: bool) -> Response:
        renewed = False
        for attempt in range(TRIES):
            credentials = await self.credentials.current()
            try:
                answer = await self._wire.send(sign(request, credentials, scope, self.clock.now()))
            except WireError as error:
                last: StoreError = StoreBusyError(f"{scope.service}: {error}", retry_after=1.0)
                if not _may_repeat(error, idempotent):
                    raise last from error
            else:
                if answer.status < 300:
                    return answer
                refusal = read_error(answer)
                last = refusal
                if refusal.code in STALE and not renewed:
                    renewed = True
                    self.credentials.forget(credentials)
                    continue
                if not (
                    refusal.code in THROTTLED or answer.status == 429 or (answer.status >= 500 and idempotent)
                ):
                    raise refusal
            if attempt + 1 < TRIES:
                await self.pause(attempt)
        raise StoreBusyError(f"{scope.service}: {last.detail} (tried {TRIES} times)", retry_after=1.0)


class JsonService(msgspec.Struct, frozen=True, kw_only=True):
    """A service that takes JSON under one URL, such as DynamoDB and SQS."""

    client: AwsClient
    service: str
    url: str
    target: str
    timeouts: Timeouts = TIMEOUTS

    async def call(
        self, operation: str, body: bytes, *, idempotent: bool = True, wait_seconds: float = 0.0
    ) -> bytes:
        """The body of the answer. `wait_seconds`: how much longer than usual the service may take."""
        timeouts = self.timeouts
        if wait_seconds:
            timeouts = msgspec.structs.replace(
                timeouts, first_byte=timeouts.first_byte + wait_seconds, total=timeouts.total + wait_seconds
            )
        request = Request(
            method="POST",
            url=self.url,
            headers={
                "content-type": "application/x-amz-json-1.0",
                "x-amz-target": f"{self.target}.{operation}",
            },
            body=body,
            timeouts=timeouts,
        )
        return (await self.client.send(request, self.service, idempotent=idempotent)).body


def read_error(answer: Response) -> AwsError:
    """The error of an answer: JSON with `__type`, or S3's XML with <Code> and <Message>."""
    body: Any = None
    if answer.body.lstrip()[:1] == b"{":
        try:
            body = msgspec.json.decode(answer.body)
        except (msgspec.MsgspecError, RecursionError):
            body = None
    if isinstance(body, dict):
        name = str(body.get("__type") or answer.headers.get("x-amzn-errortype") or answer.status)
        message = str(body.get("message") or body.get("Message") or "")
        # "com.amazonaws.dynamodb.v20120810#ValidationException", or "Name:http://..."
        code = name.rpartition("#")[2].partition(":")[0]
        return AwsError(code, message, status=answer.status, answer=body)
    text = answer.body.decode("utf-8", "replace")
    code = _between(text, "<Code>", "</Code>") or f"HTTP {answer.status}"
    return AwsError(code, _between(text, "<Message>", "</Message>"), status=answer.status, answer={})


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0] if start in text else ""


def _may_repeat(error: WireError, idempotent: bool) -> bool:
    if isinstance(error, StalledError) and error.timeout == "connect":
        return True
    if isinstance(error, ConnectError) and not isinstance(error, LostError):
        return True  # nothing was sent
    return idempotent and isinstance(error, ConnectError | StalledError)
