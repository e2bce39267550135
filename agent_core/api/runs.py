"""`/api/v1/agent` and `/api/v1/runs`: a message in, an answer out; what became of earlier ones."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent_core.api import problems
from agent_core.api.answers import json_response, wants_events
from agent_core.api.bodies import decode, read_json, read_query
from agent_core.api.idempotency import fingerprint, idempotency_key
from agent_core.api.principal import principal
from agent_core.api.schemas import (
    AgentRequest,
    RunDetail,
    RunList,
    RunsQuery,
    RunView,
    StepView,
    cost_view,
    instant,
    run_fields,
)
from agent_core.api.service import Service
from agent_core.api.sse import EventStream, event_frame
from agent_core.engine.runs import Inbound, Run, RunEvent, Step
from agent_core.errors import AgentError, InputError
from agent_core.messages import DataClass, Message

log = logging.getLogger("sampan.api")

REPLAYED = {"Idempotency-Replayed": "true"}


async def post_agent(service: Service, request: Request) -> ASGIApp:
    """Answer a message, whole or in pieces."""
    body = await read_json(request, service.settings.max_body_bytes)
    asked = decode(body, AgentRequest)
    key = idempotency_key(request.headers)
    inbound = Inbound(
        messages=_messages(asked, asked.data_class or service.settings.data_class),
        principal=principal(request),
        agent=asked.agent or "",
        session_id=asked.session_id or "",
        key=key,
        fingerprint=fingerprint(request.scope["path"], asked) if key else "",
        metadata=asked.metadata,
    )
    if wants_events(request) if asked.stream is None else asked.stream:
        return await _streamed(service, request, inbound)
    return run_response(await service.engine.answer(inbound), request.scope["path"])


def _messages(asked: AgentRequest, data_class: DataClass) -> tuple[Message, ...]:
    if isinstance(asked.messages, list) and not asked.message:
        return tuple(message.message(data_class) for message in asked.messages)
    if asked.messages or not asked.message:
        raise InputError("send either `message` (a string or a message) or `messages` (a list)", field="$")
    if isinstance(asked.message, str):
        return (Message.of("user", asked.message, data_class=data_class),)
    return (asked.message.message(data_class),)


async def _streamed(service: Service, request: Request, inbound: Inbound) -> EventStream:
    events = service.engine.stream(inbound)
    first = await anext(events)  # raises what acceptance raises, while an error can still be a problem
    headers = REPLAYED if isinstance(first.data, dict) and first.data.get("replayed") else None
    frames = _frames(first, events, request.scope["request_id"])
    return EventStream(frames, service.clock, headers)


async def _frames(
    first: RunEvent, events: AsyncIterator[RunEvent], request_id: str
) -> AsyncGenerator[bytes, None]:
    place = first.id
    try:
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


def run_response(run: Run, path: str) -> Response:
    """The answer to a message: its run, or why the run failed; 202 where it goes on without the caller."""
    headers = {"Location": f"/api/v1/runs/{run.id}"}
    if run.replayed:
        headers |= REPLAYED
    problem = problems.of_run(run)
    if problem is not None:
        return problems.response(problem, path, headers=headers)
    return json_response(run_view(run), 200 if run.done else 202, headers)


async def list_runs(service: Service, request: Request) -> ASGIApp:
    """A page of the caller's runs."""
    query = read_query(request, RunsQuery)
    runs = await service.engine.runs(principal(request), limit=query.limit, before=query.before)
    following = runs[-1].id if len(runs) == query.limit else None
    return json_response(RunList([run_view(run) for run in runs], following))


async def get_run(service: Service, request: Request) -> ASGIApp:
    """A run with its journal."""
    run_id = request.path_params["run_id"]
    caller = principal(request)
    run = await service.engine.run(caller, run_id)
    steps = await service.engine.steps(caller, run_id)
    fields = run_fields(run, problems.of_run(run))
    return json_response(RunDetail(**fields, journal=[_step_view(step) for step in steps]))


async def cancel_run(service: Service, request: Request) -> ASGIApp:
    """Ask a run to stop at its next step."""
    run = await service.engine.cancel(principal(request), request.path_params["run_id"])
    return json_response(run_view(run), 200 if run.done else 202, {"Location": f"/api/v1/runs/{run.id}"})


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
