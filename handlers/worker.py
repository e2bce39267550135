"""Triggered by SQS: a batch of records in, those that must come again out (`ReportBatchItemFailures`).

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

from __future__ import annotations

from functools import partial
from typing import Any

from agent_core.app import App
from agent_core.errors import InputError
from agent_core.queues.base import Queue, Received
from agent_core.queues.consumer import Outcome, process
from agent_core.queues.pushed import PushedQueue
from handlers import _shared


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle one batch."""
    return _shared.wait_for(handle(_shared.app(), event, context))


async def handle(app: App, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The same, with the application given. `context` may be None, where nothing stops us."""
    records = event.get("Records")
    if not records or records[0].get("eventSource") != "aws:sqs":
        raise InputError(f"this function takes records of SQS, not {_shared.kind_of(event)}")
    # What was accepted and is not done in time is the store's: handed over, with a wake-up for whoever goes on.
    outcome = await _shared.in_time(app, context, lambda stop_at: _processed(app, records, stop_at))
    return {"batchItemFailures": [{"itemIdentifier": record.id} for record in outcome.failed]}


async def _processed(app: App, records: list[dict[str, Any]], stop_at: float) -> Outcome:
    *_, account, source = records[0]["eventSourceARN"].split(":")
    return await process(
        [received(record) for record in records],
        partial(app.desk.handle, queue=source, stop_at=stop_at),
        queue=PushedQueue(fifo=source.endswith(".fifo"), behind=_behind(app, account, source)),
        clock=app.clock,
        deadline=stop_at + _shared.RESERVE_SECONDS / 2 if stop_at else 0.0,
    )


def _behind(app: App, account: str, name: str) -> Queue | None:
    """The queue that the records come from, if it can be asked: beside the one that the service itself sends to."""
    if app.settings.queue != "sqs":
        return None
    # Imported only where it is there already, for cold start.
    from agent_core.queues.sqs import SqsQueue

    return app.queue.sibling(account, name) if isinstance(app.queue, SqsQueue) else None


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
