"""Anthropic's Message Batches. https://platform.claude.com/docs/en/build-with-claude/batch-processing"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec

from agent_core.messages import Prompt, Reply
from agent_core.models.batching import Answer, Job, Question, call, download
from agent_core.models.http import UNREADABLE, Caller, malformed


class _Batch(msgspec.Struct):
    id: str
    processing_status: str
    results_url: str | None = None


class _Result(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct):
    custom_id: str
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
        return _read(await call(self._caller, "POST", self._url, body)).id

    async def find(self, name: str) -> str:
        """See BatchEndpoint. Here a job bears no name."""
        return ""

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
    batch = _read(body)
    return Job("ended", (batch.id,)) if batch.processing_status == "ended" else Job("running")


def read_line(line: bytes) -> Answer | None:
    """The answer in a line of the results; None where that request errored, expired or was cancelled."""
    try:
        found = msgspec.json.decode(line, type=_Line)
    except UNREADABLE as error:
        raise malformed(error) from None
    if found.result.type != "succeeded":
        return None
    return found.custom_id, bytes(found.result.message)


def _read(body: bytes) -> _Batch:
    try:
        return msgspec.json.decode(body, type=_Batch)
    except UNREADABLE as error:
        raise malformed(error) from None
