"""`/api/v1/runs`: what became of the messages."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent_core.api import problems
from agent_core.api.answers import json_response
from agent_core.api.bodies import decode, read_json, read_query, stop_at
from agent_core.api.principal import caller, principal
from agent_core.api.schemas import Decision, RunsQuery
from agent_core.api.service import Service
from agent_core.api.sse import EventStream, event_frame
from agent_core.api.views import RunDetail, RunList, RunView, StepView, cost_view, instant, run_fields
from agent_core.engine.events import END
from agent_core.engine.runs import Run, RunEvent, Step
from agent_core.errors import AgentError

log = logging.getLogger("sampan.api")


async def frames(
    events: AsyncIterator[RunEvent], request_id: str, first: RunEvent | None = None
) -> AsyncGenerator[bytes, None]:
    """The events of a run as server-sent events; what breaks them is the last of them."""
    place = first.id if first else ""
    try:
        if first is not None:
            yield _frame(first)
        async for event in events:
            place = event.id
            yield _frame(event)
    except AgentError as error:
        yield event_frame(place, "error", {"problem": problems.of_error(error, request_id)})
    except Exception:  # the outermost boundary of a stream: its 200 is sent, the client must still be told
        log.exception("request=<%s> | stream broke off", request_id)
        yield event_frame(place, "error", {"problem": problems.internal(request_id)})


def _frame(event: RunEvent) -> bytes:
    data: Any = run_view(event.data) if isinstance(event.data, Run) else event.data
    return event_frame(event.id, event.type, data)


def run_view(run: Run) -> RunView:
    """A run for its caller."""
    return RunView(**run_fields(run, problems.of_run(run)))


async def list_runs(service: Service, request: Request) -> ASGIApp:
    """A page of the caller's runs."""
    query = read_query(request, RunsQuery)
    runs = await service.engine.runs(principal(request), limit=query.limit, before=query.before)
    following = runs[-1].id if len(runs) == query.limit else None
    return json_response(RunList([run_view(run) for run in runs], following))


async def get_run(service: Service, request: Request) -> ASGIApp:
    """A run with its journal."""
    run_id = request.path_params["run_id"]
    who, oversees = principal(request), caller(request).oversees
    run = await service.engine.run(who, run_id, oversees=oversees)
    steps = await service.engine.steps(who, run_id, oversees=oversees)
    fields = run_fields(run, problems.of_run(run))
    return json_response(RunDetail(**fields, journal=[_step_view(step) for step in steps]))


async def cancel_run(service: Service, request: Request) -> ASGIApp:
    """Ask a run to stop at its next step."""
    run = await service.engine.cancel(principal(request), request.path_params["run_id"])
    return json_response(run_view(run)) if run.done else _taken(run)


async def run_events(service: Service, request: Request) -> ASGIApp:
    """What happens to a run, from its beginning or from behind the last event that the client saw."""
    who, run_id = principal(request), request.path_params["run_id"]
    await service.engine.run(who, run_id)
    last = request.headers.get("last-event-id", "")
    if last == END:
        # No content tells a browser's EventSource that there is nothing to come back for.
        return Response(status_code=204)
    events = service.engine.events(who, run_id, last=last, stop_at=stop_at(request))
    return EventStream(frames(events, request.scope["request_id"]), service.clock)


async def approve_run(service: Service, request: Request) -> ASGIApp:
    """Let a run make the tool call that it asks about."""
    asked = decode(await read_json(request, service.settings), Decision)
    who = caller(request)
    run = await service.engine.approve(
        who.principal,
        request.path_params["run_id"],
        asked.hash,
        code=asked.code,
        stepped=service.door is not None and service.door.stepup.fresh(who),
        oversees=who.oversees,
    )
    return _taken(run)


async def deny_run(service: Service, request: Request) -> ASGIApp:
    """Keep a run from the tool call that it asks about."""
    asked = decode(await read_json(request, service.settings), Decision)
    who = caller(request)
    run = await service.engine.deny(
        who.principal, request.path_params["run_id"], asked.hash, oversees=who.oversees
    )
    return _taken(run)


def _taken(run: Run) -> ASGIApp:
    return json_response(run_view(run), 202, {"Location": f"/api/v1/runs/{run.id}"})


def _step_view(step: Step) -> StepView:
    return StepView(
        number=step.number,
        kind=step.kind,
        name=step.name,
        usage=step.usage,
        cost=None if step.cost is None else cost_view(step.cost),
        started_at=instant(step.started_at) if step.started_at else None,
        finished_at=instant(step.finished_at) if step.finished_at else None,
        text=step.reply.message.text if step.reply else "",
        tool_calls=list(step.reply.message.tool_calls) if step.reply else [],
        result=step.result,
    )
