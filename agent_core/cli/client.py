"""The HTTP API as the commands call it: at a server, or in this process without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from agent_core.api.views import Problem
from agent_core.app import build_app
from agent_core.errors import AgentError, ConnectError, CutError, NotFoundError
from agent_core.messages import Message, Reply, Turn
from agent_core.security.stepup import HEADER
from agent_core.settings import Settings

T = TypeVar("T")

CALL_SECONDS = 30.0
"""How long a call may take that waits for no model."""


def connect(url: str, key: str = "") -> httpx.AsyncClient:
    """A client for the server at this URL, with the API key it asks for.

    A proxy of the environment is left out on the way to this machine.
    """
    host = urlsplit(url).hostname or ""
    return httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else None,
        trust_env=not _is_loopback(host),
        timeout=httpx.Timeout(10.0, read=600.0),
    )


def refusal(status: int, body: bytes) -> AgentError:
    """A server's problem document as an error."""
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        return AgentError(f"the server answered {status}: {body[:200].decode('utf-8', 'replace')}")
    return error_of(problem)


def error_of(problem: Problem) -> AgentError:
    """A problem as an error."""
    return AgentError(problem.detail or problem.title)


def unreachable(client: httpx.AsyncClient, error: httpx.HTTPError) -> AgentError:
    """What to tell a person when no answer came."""
    if isinstance(error, httpx.ConnectError):
        return ConnectError(f"no server answers at {client.base_url}: start one with `sampan run`")
    return CutError(f"{client.base_url}: {type(error).__name__} {error}".rstrip())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Nobody:
    """Stands where an agent must be. Who only reads the store needs none, and none of theirs must be in the way."""

    name = "nobody"

    async def respond(self, messages: Sequence[Message], turn: Turn) -> Reply:
        """Nothing is ever asked of it."""
        raise NotFoundError("there is nobody here to answer")


@asynccontextmanager
async def api(settings: Settings, url: str, *, own_agents: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server at the URL, or without one of this process's own store.

    With `own_agents` this process has them, and works on what goes on, to its end.
    """
    if url:
        async with connect(url, settings.api_key) as client:
            yield client
        return
    app = build_app(settings, agents=None if own_agents else [Nobody()])
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app.asgi(own=True)), base_url="http://sampan.local"
        ) as client:
            yield client
    finally:
        await app.close()


async def fetch(client: httpx.AsyncClient, path: str, kind: type[T], **query: str | int) -> T:
    """What a GET gives, as the struct it is declared to be."""
    return msgspec.json.decode(await call(client, "GET", path, query=query), type=kind)


async def call(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    query: Mapping[str, str | int] | None = None,
    headers: Mapping[str, str] | None = None,
    json: object = None,
) -> bytes:
    """The body of an answer; raises AgentError where it is a refusal, or none came."""
    try:
        response = await client.request(
            method, path, params=query, headers=headers, json=json, timeout=CALL_SECONDS
        )
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    if response.status_code >= 400:
        raise refusal(response.status_code, response.content)
    return response.content


def read(settings: Settings, url: str, path: str, kind: type[T], **query: str | int) -> T:
    """What a GET gives, for a command that has no event loop of its own."""

    async def reading() -> T:
        async with api(settings, url) as client:
            return await fetch(client, path, kind, **query)

    return asyncio.run(reading())


def delete(settings: Settings, url: str, path: str, code: str = "") -> None:
    """A DELETE, for a command that has no event loop of its own; `code` is of the caller's second factor."""

    async def deleting() -> None:
        async with api(settings, url) as client:
            await call(client, "DELETE", path, headers={HEADER: code} if code else None)

    asyncio.run(deleting())
