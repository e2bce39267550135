"""OpenAI's Batch API: a file of requests in, a file of answers out. https://platform.openai.com/docs/guides/batch"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from agent_core.messages import Prompt, Reply
from agent_core.models.batching import Answer, Job, Question, Sent, call, download
from agent_core.models.http import UNREADABLE, Caller, malformed

T = TypeVar("T")

PATH = "/v1/chat/completions"
NAME = "sampan_job"
"""Under which key of its metadata a job bears our name for it."""

_RUNNING = ("validating", "in_progress", "finalizing", "cancelling")


class _File(msgspec.Struct):
    id: str


class _Error(msgspec.Struct):
    message: str = ""


class _Errors(msgspec.Struct):
    data: list[_Error] | None = None


class _Batch(msgspec.Struct):
    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    metadata: dict[str, str] | None = None
    created_at: float | None = None


class _List(msgspec.Struct):
    data: list[_Batch] = []
    has_more: bool = False


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None


class OpenAIBatches:
    """The batch endpoint beside a model's chat completions; `caller` reaches the model."""

    def __init__(
        self, caller: Caller, write: Callable[[Prompt], dict[str, Any]], read: Callable[[bytes], Reply]
    ) -> None:
        self._caller = caller
        self._base = caller.url.removesuffix("/chat/completions")
        self.body = write
        self.read = read

    def line(self, question: Question) -> bytes:
        """See BatchEndpoint."""
        name, prompt = question
        sent = {"custom_id": name, "method": "POST", "url": PATH, "body": self.body(prompt)}
        return msgspec.json.encode(sent)

    async def submit(self, name: str, lines: Iterable[bytes]) -> str:
        """See BatchEndpoint."""
        body, kind = form({"purpose": "batch"}, f"{name}.jsonl", b"\n".join(lines) + b"\n")
        file = _read(await call(self._caller, "POST", f"{self._base}/files", body, kind), _File)
        wanted = {
            "input_file_id": file.id,
            "endpoint": PATH,
            "completion_window": "24h",
            "metadata": {NAME: name},
        }
        made = await call(self._caller, "POST", f"{self._base}/batches", msgspec.json.encode(wanted))
        return _read(made, _Batch).id

    async def find(self, sent: Sent) -> str:
        """See BatchEndpoint. A job bears its name; the list has the newest first."""
        after = ""
        while True:
            listed = _read(await call(self._caller, "GET", f"{self._base}/batches?limit=100{after}"), _List)
            for job in listed.data:
                if (job.metadata or {}).get(NAME) == sent.name:
                    return job.id
            if not listed.data or not listed.has_more or (listed.data[-1].created_at or 0.0) < sent.since:
                return ""
            after = f"&after={quote(listed.data[-1].id, safe='')}"

    async def look(self, job_id: str) -> Job:
        """See BatchEndpoint."""
        return read_job(await call(self._caller, "GET", f"{self._base}/batches/{job_id}"))

    async def cancel(self, job_id: str) -> None:
        """See BatchEndpoint."""
        await call(self._caller, "POST", f"{self._base}/batches/{job_id}/cancel")

    async def answers(self, job: Job) -> AsyncIterator[Answer]:
        """See BatchEndpoint."""
        for file in job.files:
            async for line in download(self._caller, f"{self._base}/files/{file}/content"):
                answer = read_line(line) if line.strip() else None
                if answer is not None:
                    yield answer


def read_job(body: bytes) -> Job:
    """How far a batch is, from what GET /v1/batches/{id} gives."""
    batch = _read(body, _Batch)
    if batch.status in _RUNNING:
        return Job("running")
    words = "; ".join(error.message for error in (batch.errors.data or () if batch.errors else ()))
    if batch.status == "failed":
        return Job("failed", detail=words)
    # Also of one that expired or was cancelled: what was answered until then is there.
    files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
    return Job("ended", files, batch.status)


def read_line(line: bytes) -> Answer | None:
    """The answer in a line of an output file; None where that request failed."""
    found = _read(line, _Line)
    if found.response is None or found.response.status_code != 200:
        return None
    return found.custom_id, bytes(found.response.body)


def form(fields: dict[str, str], name: str, file: bytes) -> tuple[bytes, str]:
    """Fields and a file as multipart/form-data (RFC 7578), and its content type."""
    boundary = "sampan-7a3f1c5e9b2d4086"
    while boundary.encode() in file:
        boundary += "0"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = b"".join([*parts, head.encode(), file, f"\r\n--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise malformed(error) from None
