"""Providers' batch endpoints: many prompts handed in together, answered within a day at half the price."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import msgspec

from agent_core.errors import ModelError, WireError
from agent_core.messages import Chunk, Prompt, Reply
from agent_core.models.base import Model
from agent_core.models.http import Caller, failure, told
from agent_core.wire.base import Request

MAX_ANSWER_LINE = 16 * 1024 * 1024

Question = tuple[str, Prompt]
"""A prompt and the name that its answer will bear."""

Answer = tuple[str, bytes]
"""A name and the provider's answer to its prompt, as one call would have given it."""


class Job(msgspec.Struct, frozen=True):
    """Prompts under work at a provider. `files` are where the answers are, once it has ended."""

    status: Literal["running", "ended", "failed"]
    files: tuple[str, ...] = ()
    detail: str = ""


class Sent(msgspec.Struct, frozen=True):
    """What is known of a job whose handing in was begun, and may have failed or not.

    Its name, how many questions it has, since when it may be at the provider (seconds since 1970, with slack for clocks
    that differ), and the ids of jobs there that are known to be others.
    """

    name: str
    count: int
    since: float
    others: frozenset[str] = frozenset()


class BatchEndpoint(Protocol):
    """A provider's way to answer many prompts together. All errors are ModelErrors."""

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """What one prompt is on the wire."""

    def line(self, question: Question) -> bytes:
        """What one question is in what is handed in."""

    async def submit(self, name: str, lines: Iterable[bytes]) -> str:
        """Hand in the questions; gives the job's id at the provider."""

    async def find(self, sent: Sent) -> str:
        """The id of this job, "" where it never arrived; a ModelBusyError where that can't be told yet."""

    async def look(self, job_id: str) -> Job:
        """How far it is."""

    async def cancel(self, job_id: str) -> None:
        """Ask the provider to begin no further prompt."""

    def answers(self, job: Job) -> AsyncIterator[Answer]:
        """The answers that came, in any order; prompts that failed or expired have none."""

    def read(self, answer: bytes) -> Reply:
        """An answer as a reply."""


class Given:
    """An answer that was paid for before. It serves once, and only for the prompt it answers."""

    def __init__(self, endpoint: BatchEndpoint, prompt: Prompt, reply: Reply) -> None:
        self._endpoint = endpoint
        self._body = endpoint.body(prompt)
        self._reply: Reply | None = msgspec.structs.replace(reply, batch=True)

    def take(self, prompt: Prompt) -> Reply | None:
        """The reply, if it answers this prompt and was not taken before."""
        if self._reply is None or self._endpoint.body(prompt) != self._body:
            return None
        reply, self._reply = self._reply, None
        return reply


given: ContextVar[Given | None] = ContextVar("given", default=None)
"""The answer that the run in this context shall take, instead of asking its model."""


turnstile: ContextVar[asyncio.Semaphore | None] = ContextVar("turnstile", default=None)
"""How many calls the runs in this context may make at the same time, all together; None for any number."""


class PrefetchedModel:
    """A model that takes the answer given in its context, and asks the model inside where there is none.

    It waits at the context's turnstile before it asks.
    """

    def __init__(self, model: Model, endpoint: Callable[[], BatchEndpoint]) -> None:
        self.model = model
        self._endpoint = endpoint
        self._made: BatchEndpoint | None = None
        self.name = model.name
        self.tools = model.tools
        self.context_window = model.context_window

    @property
    def endpoint(self) -> BatchEndpoint:
        """The provider's batch endpoint, made when first asked for."""
        if self._made is None:
            self._made = self._endpoint()
        return self._made

    async def reply(self, prompt: Prompt) -> Reply:
        """The whole reply."""
        there = given.get()
        reply = there.take(prompt) if there is not None else None
        if reply is not None:
            return reply
        async with turnstile.get() or nullcontext():
            return await self.model.reply(prompt)

    def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The reply in pieces."""
        return self.model.stream(prompt)

    async def close(self) -> None:
        """Close the model inside."""
        await self.model.close()


async def call(
    caller: Caller, method: str, url: str, body: bytes = b"", kind: str = "application/json"
) -> bytes:
    """The body of an answer of status 2xx; all else is a ModelError without the key in it."""
    headers = {**caller.headers, **({"content-type": kind} if body else {})}
    request = Request(method=method, url=url, headers=headers, body=body, timeouts=caller.timeouts)
    try:
        answer = await caller.wire.send(request)
    except WireError as error:
        raise caller.named(told(error)) from error
    if not 200 <= answer.status < 300:
        raise caller.named(failure(answer.status, answer.headers, answer.body, caller.clock.now()))
    return answer.body


async def download(caller: Caller, url: str) -> AsyncGenerator[bytes]:
    """The lines of a file, as they come."""
    request = Request(method="GET", url=url, headers=caller.headers, timeouts=caller.timeouts)
    rest: list[bytes] = []
    try:
        async with caller.wire.stream(request) as answer:
            if not 200 <= answer.status < 300:
                raise failure(answer.status, answer.headers, await answer.read(), caller.clock.now())
            async for piece in answer.chunks:
                first, *others = piece.split(b"\n")
                rest.append(first)
                for other in others:
                    yield b"".join(rest)
                    rest = [other]
    except WireError as error:
        raise caller.named(told(error)) from error
    except ModelError as error:
        raise caller.named(error) from None
    yield b"".join(rest)
