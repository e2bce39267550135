"""A wire that signs each request for an AWS service: for what else speaks HTTP as if there were no signature."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent_core.aws.client import STALE, CredentialsSource, read_error
from agent_core.aws.sigv4 import Credentials, Scope, sign
from agent_core.clock import Clock
from agent_core.wire.base import Request, Response, StreamedResponse, Wire


class SigningWire:
    """Signs and sends. Credentials that the service calls stale are renewed once; the wire below belongs to others."""

    def __init__(self, wire: Wire, credentials: CredentialsSource, scope: Scope, clock: Clock) -> None:
        self._wire = wire
        self._credentials = credentials
        self._scope = scope
        self._clock = clock

    async def send(self, request: Request) -> Response:
        """The whole answer."""
        signed, credentials = await self._signed(request)
        answer = await self._wire.send(signed)
        if self._stale(answer):
            self._credentials.forget(credentials)
            signed, _ = await self._signed(request)
            answer = await self._wire.send(signed)
        return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer as it comes."""
        signed, credentials = await self._signed(request)
        async with self._wire.stream(signed) as answer:
            if answer.status != 403:
                yield answer
                return
            body = await answer.read()
        refused = Response(status=answer.status, headers=answer.headers, body=body)
        if not self._stale(refused):
            yield StreamedResponse(status=refused.status, headers=refused.headers, chunks=_once(body))
            return
        self._credentials.forget(credentials)
        signed, _ = await self._signed(request)
        async with self._wire.stream(signed) as answer:
            yield answer

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _signed(self, request: Request) -> tuple[Request, Credentials]:
        credentials = await self._credentials.current()
        return sign(request, credentials, self._scope, self._clock.now()), credentials

    def _stale(self, answer: Response) -> bool:
        return answer.status == 403 and read_error(answer).code in STALE


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
