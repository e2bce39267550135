"""Batches over HTTP, as structs: what comes in, what goes out."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent_core.api.schemas import Name
from agent_core.api.views import Cost, Instant, cost_view, instant
from agent_core.batches.records import Batch
from agent_core.batches.service import Options

Format = Annotated[
    Literal["openai", "sampan"], Meta(description="How lines are written; unsaid, the first line tells.")
]
Agent = Annotated[
    Name, Meta(description="Which agent answers lines that name none; unsaid, the default one.")
]
Concurrency = Annotated[
    int, Meta(ge=1, le=256, description="How many calls of models are made at the same time; unsaid, 8.")
]
Usd = Annotated[float, Meta(gt=0, le=1e9, description="No line is begun once the lines have cost this much.")]
Deadline = Annotated[
    Literal["24h"],
    Meta(
        description="By when answers are wanted: a day lets a provider's batch endpoint answer at half price."
    ),
]


class BatchQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a batch shall be; where the body is JSON, it may say so too, and then counts."""

    format: Format | None = None
    agent: Agent | None = None
    concurrency: Concurrency | None = None
    usd: Usd | None = None
    deadline: Deadline | None = None


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a batch shall be, where its lines come later, piece by piece, or are in a blob."""

    format: Format | None = None
    agent: Agent | None = None
    concurrency: Concurrency | None = None
    usd: Usd | None = None
    deadline: Deadline | None = None
    blob: (
        Annotated[
            str, Meta(min_length=1, max_length=512, description="Reference of a blob that holds the lines.")
        ]
        | None
    ) = None


class AppendQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where in the upload the body goes."""

    offset: Annotated[int, Meta(ge=0, le=2**53, description="How many bytes were taken before this one.")] = 0


class LineProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A line that can't be run; `line` counts from 1, `field` is where in the line."""

    line: int
    detail: str
    field: str


class LineCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines there are, can't be read (`invalid`), are done, failed (a part of `done`), were not begun."""

    total: int
    invalid: int
    done: int
    failed: int
    skipped: int


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all lines whose results are stored."""

    input: int
    output: int


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """Lines submitted together, and how far they are."""

    batch_id: str
    status: Literal["uploading", "queued", "running", "succeeded", "failed", "cancelled"]
    format: str
    agent: str
    concurrency: int
    usd: float | None
    deadline: str
    received: Annotated[int, Meta(description="Bytes stored; an upload that broke off goes on from there.")]
    lines: LineCounts
    usage: Tokens
    cost: Cost
    rate: Annotated[float, Meta(description="Lines done per second, since the batch was started.")]
    eta_seconds: Annotated[float | None, Meta(description="How long it will go on at that rate.")]
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    cancelling: bool
    reason: Annotated[str, Meta(description="Why it ended before its last line.")]
    errors: Annotated[list[LineProblem], Meta(description="The first lines that can't be read.")]


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches, newest first. `next` is null on the last page."""

    batches: list[BatchView]
    next: str | None


def options(query: BatchQuery, body: BatchRequest | None = None) -> Options:
    """What a batch is asked to be; the body's word goes before the query's."""
    asked = msgspec.structs.asdict(query)
    if body is not None:
        asked |= {name: value for name in asked if (value := getattr(body, name)) is not None}
    return Options(**{name: value for name, value in asked.items() if value is not None})


def batch_view(batch: Batch, now: float) -> BatchView:
    """A batch for its caller, at a time."""
    done = batch.done + batch.open_done
    seconds = (batch.finished_at or now) - batch.started_at if batch.started_at else 0.0
    rate = done / seconds if seconds > 0 else 0.0
    left = batch.lines - done - batch.skipped
    unpriced = bool(batch.unpriced)
    return BatchView(
        batch_id=batch.id,
        status=batch.status,
        format=batch.format,
        agent=batch.agent,
        concurrency=batch.concurrency,
        usd=batch.usd,
        deadline=batch.deadline,
        received=batch.received,
        lines=LineCounts(
            total=batch.lines,
            invalid=batch.invalid,
            done=done,
            failed=batch.failed + batch.open_failed,
            skipped=batch.skipped,
        ),
        usage=Tokens(input=batch.input_tokens, output=batch.output_tokens),
        cost=Cost(usd=cost_view(batch.cost + batch.open_cost).usd, known=not unpriced),
        rate=round(rate, 3),
        eta_seconds=round(left / rate, 1) if rate and batch.status == "running" else None,
        created_at=instant(batch.created_at),
        started_at=instant(batch.started_at) if batch.started_at else None,
        finished_at=instant(batch.finished_at) if batch.finished_at else None,
        cancelling=bool(batch.cancelling) and not batch.over,
        reason=batch.reason,
        errors=[LineProblem(line=e.line, detail=e.detail, field=e.field) for e in batch.errors],
    )
