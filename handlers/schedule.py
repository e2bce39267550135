"""Triggered by EventBridge each minute: what was left lying is queued again, what is due is done.

EventBridge Scheduler may call it, too, with its own event or with a message for an agent as its input:

    {"schedule": "<aws.scheduler.schedule-arn>", "time": "<aws.scheduler.scheduled-time>", "message": "Good morning"}

`schedule` and `time` make the message's idempotency key, since the scheduler calls at least once; the other fields are
those of POST /api/v1/agent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent_core.app import App
from agent_core.errors import InputError
from handlers import _shared

SOURCES = ("aws.events", "aws.scheduler")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle one tick, or one message."""
    return _shared.wait_for(handle(_shared.app(), event, context))


async def handle(app: App, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The same, with the application given: what was done, in numbers, or the run of the message."""
    if "message" in event or "messages" in event:
        return await _shared.in_time(app, context, lambda stop_at: _taken(app, event, stop_at))
    if event.get("source") not in SOURCES or event.get("detail-type") != "Scheduled Event":
        raise InputError(
            "this function takes ticks of EventBridge (detail-type 'Scheduled Event') and messages with `schedule` and "
            f"`time`, not {_shared.kind_of(event)}"
        )
    return await _shared.in_time(app, context, lambda _: _swept(app))


async def _swept(app: App) -> dict[str, Any]:
    done: dict[str, Any] = msgspec.to_builtins(await app.sweep())
    return done


async def _taken(app: App, event: dict[str, Any], stop_at: float) -> dict[str, Any]:
    asked = dict(event)
    names = [asked.pop(name, None) for name in ("schedule", "time")]
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(
            "a message of a schedule needs `schedule` and `time`, two strings; in EventBridge Scheduler "
            "<aws.scheduler.schedule-arn> and <aws.scheduler.scheduled-time> give them"
        )
    run = await app.desk.take_in(
        msgspec.json.encode(asked), key="/".join(("schedule", *map(str, names))), stop_at=stop_at
    )
    return {"run_id": run.id, "session_id": run.session_id, "status": run.status}
