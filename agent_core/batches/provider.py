"""Lines handed to the batch endpoint of the model's provider: half the price, for answers within a day.

The provider's answers come first and are stored beside the lines; then every line is run like any other, and its model
call takes the answer that is there. What the provider did not answer is asked in the ordinary way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import msgspec

from agent_core.agent import Agent
from agent_core.batches.formats import LineFormat
from agent_core.batches.records import Batch, Segment, batch_key, blob_session, segment_key
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.engine.bound import Bound
from agent_core.engine.points import point
from agent_core.engine.runs import Inbound
from agent_core.errors import AgentError, ConditionError, LeaseLostError, ModelError, NotFoundError
from agent_core.messages import Prompt, from_record, to_record
from agent_core.models.batching import Given, Job, PrefetchedModel, Sent
from agent_core.store.base import Equals, Key, Put, Store, Update

log = logging.getLogger("sampan.batches")

JOB = "job/"
JOB_SEGMENTS = 10
"""Segments of one job at the provider: what bounds the memory, and lies far under any provider's limits."""

POLL_SECONDS = 60.0
GIVE_UP_SECONDS = 26 * 3600.0
"""After a day and some slack the provider is no longer waited for."""

CLOCK_SLACK = 3600.0
"""Seconds by which the provider's clock may differ from ours."""

JobStatus = Literal["sending", "sent", "fetched", "refused"]


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some segments of a batch at a provider, with the id it has there.

    `questions` are how many were handed in, first at `sent_at`.
    """

    number: int
    status: JobStatus
    provider_id: str = ""
    detail: str = ""
    questions: int = 0
    sent_at: float = 0.0


def plain_model(bound: Bound) -> PrefetchedModel | None:
    """The model of an agent whose runs are one model call each, with a prompt known beforehand; else None."""
    agent = bound.agent
    if not isinstance(agent, Agent) or agent.tools or bound.plugins.reads_messages:
        return None
    return bound.model if isinstance(bound.model, PrefetchedModel) else None


def prompt_of(bound: Bound, inbound: Inbound) -> Prompt | None:
    """What the model of a plain agent will be asked; None where that depends on more than the line."""
    agent = bound.agent
    if inbound.session_id or inbound.tools or not isinstance(agent, Agent):
        return None
    return Prompt(
        system=agent.instructions,
        messages=inbound.messages,
        tool_choice=inbound.tool_choice,
        output_schema=inbound.output_schema or bound.output_schema,
        max_tokens=inbound.max_tokens or agent.max_tokens,
        temperature=agent.temperature if inbound.temperature is None else inbound.temperature,
    )


class ProviderBatch:
    """One batch's way through its provider's endpoint, under the batch's lease."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        clock: Clock,
        format: LineFormat,
        batch: Batch,
        agents: Mapping[str, Bound],
        default_agent: str,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._format = format
        self._batch = batch
        self._agents = agents
        self._agent = batch.agent or default_agent
        self._tenant = batch.principal.tenant
        bound = agents.get(self._agent)
        self._model = plain_model(bound) if bound is not None and batch.deadline else None

    async def advance(self) -> float:
        """Hand in what is not yet handed in, fetch what is done; the seconds to wait for the rest, 0 for none."""
        if self._model is None:
            return 0.0
        waiting = False
        for number in range(-(-self._batch.segments // JOB_SEGMENTS)):
            job = await self._read(number)
            try:
                job = await self._step(job)
            except ModelError as error:
                if error.retryable:
                    log.warning("batch=<%s>, job=<%d> | trying again: %s", self._batch.id, number, error)
                else:
                    job = await self._write(
                        msgspec.structs.replace(job, status="refused", detail=error.detail)
                    )
                    log.warning("batch=<%s>, job=<%d> | run without: %s", self._batch.id, number, error)
            waiting = waiting or job.status in ("sending", "sent")
        late = self._clock.now() > self._batch.started_at + GIVE_UP_SECONDS
        return POLL_SECONDS if waiting and not late else 0.0

    async def _step(self, job: JobRecord) -> JobRecord:
        assert self._model is not None
        endpoint = self._model.endpoint
        if job.status == "sending":
            job = await self._send(job)
        if job.status != "sent":
            return job
        if self._batch.cancelling:
            await self._cancel(job)
        found = await endpoint.look(job.provider_id)
        if found.status == "failed":
            log.warning("batch=<%s> | the provider refuses it: %s", self._batch.id, found.detail)
            return await self._write(msgspec.structs.replace(job, status="refused", detail=found.detail))
        return await self._fetch(job, found) if found.status == "ended" else job

    async def _cancel(self, job: JobRecord) -> None:
        assert self._model is not None
        try:
            await self._model.endpoint.cancel(job.provider_id)
        except ModelError as error:  # mostly: it has ended, or is being cancelled
            log.info("batch=<%s>, job=<%d> | not cancelled: %s", self._batch.id, job.number, error)

    async def _send(self, job: JobRecord) -> JobRecord:
        """Hand a job in. Its record stands before, so that after a crash the provider is asked for it by its name."""
        assert self._model is not None
        endpoint, name = self._model.endpoint, self._name(job)
        job_id = ""
        if job.sent_at:
            others = await self._others(job)
            sent = Sent(name, job.questions, job.sent_at - CLOCK_SLACK, others)
            job_id = await endpoint.find(sent)
        if not job_id:
            lines: list[bytes] = []
            if not self._batch.cancelling:
                for segment in await self._segments(job):
                    lines += await self._lines(job, segment)
            if not lines:
                return await self._write(
                    msgspec.structs.replace(job, status="refused", detail="no such lines")
                )
            sent_at = job.sent_at or self._clock.now()
            job = await self._write(msgspec.structs.replace(job, questions=len(lines), sent_at=sent_at))
            point("before provider batch")
            job_id = await endpoint.submit(name, lines)
            point("after provider batch")
        return await self._write(msgspec.structs.replace(job, status="sent", provider_id=job_id))

    def _name(self, job: JobRecord) -> str:
        return f"{self._batch.id}-{job.number}"

    async def _others(self, job: JobRecord) -> frozenset[str]:
        """What the other jobs of this batch are at the provider, as far as it is known."""
        page = await self._store.query(self._key(0).partition, JOB, limit=1000)
        jobs = [from_record(JobRecord, record.fields) for record in page.records]
        return frozenset(other.provider_id for other in jobs if other.number != job.number) - {""}

    async def _lines(self, job: JobRecord, segment: Segment) -> list[bytes]:
        """The lines of a segment as the provider takes them, those of them that are asked as they are."""
        assert self._model is not None
        blob = await self._blobs.get(self._tenant, segment.source)
        lines = []
        for number, line in enumerate(blob.data.split(b"\n"), segment.first):
            prompt = self._prompt(line) if line.strip() else None
            if prompt is not None:
                lines.append(self._model.endpoint.line((f"{self._name(job)}-{number}", prompt)))
        return lines

    def _prompt(self, line: bytes) -> Prompt | None:
        try:
            inbound = self._format.read(self._batch, line)
        except AgentError:
            return None  # its error is told when the lines are run
        if inbound.agent not in ("", self._agent):
            return None
        return prompt_of(self._agents[self._agent], inbound)

    async def _fetch(self, job: JobRecord, found: Job) -> JobRecord:
        """Store the answers beside the lines they belong to, all in one write with the job's end."""
        assert self._model is not None
        segments = await self._segments(job)
        answers: dict[int, list[bytes]] = {segment.number: [] for segment in segments}
        async for name, answer in self._model.endpoint.answers(found):
            number = int(name.rpartition("-")[2])
            for segment in segments:
                if segment.first <= number < segment.first + segment.lines:
                    answers[segment.number].append(b"%d %b\n" % (number, b" ".join(answer.split(b"\n"))))
        writes: list[Put] = []
        for segment in segments:
            data = b"".join(answers[segment.number])
            if data:
                ref = await self._blobs.put(self._tenant, blob_session(self._batch.id), data, "text/plain")
                filled = msgspec.structs.replace(segment, answers=ref)
                writes.append(
                    Put(segment_key(self._tenant, self._batch.id, segment.number), to_record(filled))
                )
        return await self._write(msgspec.structs.replace(job, status="fetched", detail=found.detail), *writes)

    async def given(self, segment: Segment) -> dict[int, bytes]:
        """The provider's answers to a segment's lines, by their numbers."""
        if not segment.answers or self._model is None:
            return {}
        data = (await self._blobs.get(self._tenant, segment.answers)).data
        pairs = (line.partition(b" ") for line in data.split(b"\n") if line)
        return {int(number): answer for number, _, answer in pairs}

    def take(self, inbound: Inbound, answer: bytes) -> Given | None:
        """An answer for the run of its line; None where it can't be read: then the line is asked anew."""
        prompt = prompt_of(self._agents[self._agent], inbound)
        if self._model is None or prompt is None:
            return None
        try:
            reply = self._model.endpoint.read(answer)
        except ModelError as error:
            log.warning("batch=<%s> | an answer of the provider's batch: %s", self._batch.id, error)
            return None
        return Given(self._model.endpoint, prompt, reply)

    def _key(self, number: int) -> Key:
        return Key(batch_key(self._tenant, self._batch.id).partition, f"{JOB}{number:06d}")

    async def _read(self, number: int) -> JobRecord:
        record = await self._store.get(self._key(number))
        return from_record(JobRecord, record.fields) if record else JobRecord(number=number, status="sending")

    async def _write(self, job: JobRecord, *writes: Put) -> JobRecord:
        fence = Equals("fence", self._batch.fence)
        key = batch_key(self._tenant, self._batch.id)
        try:
            await self._store.write(
                Update(key, add={"beats": 1}, when=(fence,)),
                Put(self._key(job.number), to_record(job)),
                *writes,
            )
        except ConditionError as error:
            raise LeaseLostError("another worker took over the batch") from error
        return job

    async def _segments(self, job: JobRecord) -> list[Segment]:
        first = job.number * JOB_SEGMENTS
        found = []
        for number in range(first, min(first + JOB_SEGMENTS, self._batch.segments)):
            record = await self._store.get(segment_key(self._tenant, self._batch.id, number))
            if record is None:
                raise NotFoundError(f"batch {self._batch.id} has lost its segment {number}")
            found.append(from_record(Segment, record.fields))
        return found
