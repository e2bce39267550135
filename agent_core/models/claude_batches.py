"""Anthropic's Message Batches. https://platform.claude.com/docs/en/build-with-claude/batch-processing"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from agent_core.errors import ModelBusyError
from agent_core.messages import Prompt, Reply
from agent_core.models.batching import Answer, Job, Question, Sent, call, download
from agent_core.models.http import UNREADABLE, Caller, malformed

T = TypeVar("T")


class _Counts(msgspec.Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _Batch(msgspec.Struct):
    id: str
    processing_status: str
    results_url: str | None = None
    created_at: datetime | None = None
    request_counts: _Counts | None = None

    def may_be(self, sent: Sent) -> bool:
        """Whether it has as many requests as this job, and is not known to be another."""
        counts = self.request_counts
        return self.id not in sent.others and (counts is None or counts.total == sent.count)

    def since(self, at: float) -> bool:
        return self.created_at is None or self.created_at.timestamp() >= at


class _List(msgspec.Struct):
    data: list[_Batch] = []
    has_more: bool = False


class _Result(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw()


class _Named(msgspec.Struct):
    custom_id: str


class _Line(_Named):
    result: _Result


class ClaudeBatches:
    """The batch endpoint beside a model's messages; `caller` reaches the model."""

    def __init__(
        self, caller: Caller, write: Callable[[Prompt], dict[str, Any]], read: Callable[[bytes], Reply]
    ) -> None:
        self._caller = caller
        self._url = caller.url + "/batches"
        self.body = write
        self.read = read

    def line(self, question: Question) -> bytes:
        """See BatchEndpoint."""
        name, prompt = question
        return msgspec.json.encode({"custom_id": name, "params": self.body(prompt)})

    async def submit(self, name: str, lines: Iterable[bytes]) -> str:
        """See BatchEndpoint."""
        body = b'{"requests":[' + b",".join(lines) + b"]}"
        return _read(await call(self._caller, "POST", self._url, body), _Batch).id

    async def find(self, sent: Sent) -> str:
        """See BatchEndpoint. A job bears no name here, but each of its answers does, once it has ended.

        So one that is still under work and may be ours is waited for: to hand ours in again might be to pay it twice.
        """
        running, after = "", ""
        while True:
            listed = _read(await call(self._caller, "GET", f"{self._url}?limit=1000{after}"), _List)
            for job in listed.data:
                if not job.since(sent.since):
                    break  # the newest come first
                if not job.may_be(sent):
                    continue
                if job.processing_status != "ended":
                    running = running or job.id
                elif await self._bears(job.id, sent.name):
                    return job.id
            else:
                if listed.data and listed.has_more:
                    after = f"&after_id={quote(listed.data[-1].id, safe='')}"
                    continue
            if running:
                raise ModelBusyError(f"{running} may be the job {sent.name}; its answers will tell")
            return ""

    async def _bears(self, job_id: str, name: str) -> bool:
        """Whether the answers of a job that has ended are to the questions of the job of this name."""
        async with aclosing(download(self._caller, f"{self._url}/{job_id}/results")) as lines:
            async for line in lines:
                if line.strip():
                    return _read(line, _Named).custom_id.rpartition("-")[0] == name
        return False

    async def look(self, job_id: str) -> Job:
        """See BatchEndpoint."""
        return read_job(await call(self._caller, "GET", f"{self._url}/{job_id}"))

    async def cancel(self, job_id: str) -> None:
        """See BatchEndpoint."""
        await call(self._caller, "POST", f"{self._url}/{job_id}/cancel")

    async def answers(self, job: Job) -> AsyncIterator[Answer]:
        """See BatchEndpoint. The key goes to the model's own host alone, whatever address the job names."""
        for file in job.files:
            async for line in download(self._caller, f"{self._url}/{file}/results"):
                answer = read_line(line) if line.strip() else None
                if answer is not None:
                    yield answer


def read_job(body: bytes) -> Job:
    """How far a batch is, from what GET /v1/messages/batches/{id} gives."""
    batch = _read(body, _Batch)
    return Job("ended", (batch.id,)) if batch.processing_status == "ended" else Job("running")


def read_line(line: bytes) -> Answer | None:
    """The answer in a line of the results; None where that request errored, expired or was cancelled."""
    found = _read(line, _Line)
    if found.result.type != "succeeded":
        return None
    return found.custom_id, bytes(found.result.message)


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise malformed(error) from None
