"""Triggered by SQS: a batch of records in, those that must come again out (`ReportBatchItemFailures`).

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from agent_core.app import App
from agent_core.queues.base import Received
from agent_core.queues.consumer import process
from agent_core.queues.pushed import PushedQueue
from handlers import _shared

RESERVE_SECONDS = 5.0
"""Before the platform stops us, by so much, no further step is begun; by half of it, what still runs is handed back."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle one batch."""
    return _shared.wait_for(handle(_shared.app(), event, context))


async def handle(app: App, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The same, with the application given. `context` may be None, where nothing stops us."""
    end = 0.0
    if context is not None:
        end = app.clock.now() + context.get_remaining_time_in_millis() / 1000
    records = [received(record) for record in event["Records"]]
    source = event["Records"][0]["eventSourceARN"].rpartition(":")[2]
    outcome = await process(
        records,
        partial(app.desk.handle, queue=source, stop_at=end - RESERVE_SECONDS if end else 0.0),
        queue=PushedQueue(fifo=source.endswith(".fifo")),
        clock=app.clock,
        deadline=end - RESERVE_SECONDS / 2 if end else 0.0,
    )
    # What is left (a reply to push, a run handed over) gets the rest of the time; the store has it all.
    leaving = asyncio.ensure_future(app.engine.drain())
    await asyncio.wait({leaving}, timeout=RESERVE_SECONDS / 4 if end else None)
    return {"batchItemFailures": [{"itemIdentifier": record.id} for record in outcome.failed]}


def received(record: dict[str, Any]) -> Received:
    """A record of the event as our queues give it."""
    attributes = record["attributes"]
    return Received(
        id=record["messageId"],
        receipt=record["receiptHandle"],
        body=record["body"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        sent_at=int(attributes["SentTimestamp"]) / 1000,
        group=attributes.get("MessageGroupId", ""),
        dedupe=attributes.get("MessageDeduplicationId", ""),
    )
