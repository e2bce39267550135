"""`/api/v1/agent`: a message in, an answer out, whole or in pieces."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent_core.api import problems
from agent_core.api.answers import json_response, wants_events
from agent_core.api.bodies import decode, read_json, stop_at
from agent_core.api.idempotency import REPLAYED, fingerprint, idempotency_key
from agent_core.api.principal import principal
from agent_core.api.runs import frames, run_view
from agent_core.api.schemas import AgentRequest
from agent_core.api.service import Service
from agent_core.api.sse import EventStream
from agent_core.engine.runs import CALLBACK, Delivery, Inbound, Run
from agent_core.errors import InputError
from agent_core.messages import DataClass, Message
from agent_core.security.addresses import check_address
from agent_core.settings import Settings

_WAIT = re.compile(r"wait\s*=\s*(\d{1,4})", re.IGNORECASE)


async def post_agent(service: Service, request: Request) -> ASGIApp:
    """Answer a message, whole or in pieces, or take it on for later."""
    body = await read_json(request, service.settings)
    asked = decode(body, AgentRequest)
    key = idempotency_key(request.headers)
    inbound = Inbound(
        messages=read_messages(asked, asked.data_class or service.settings.data_class),
        principal=principal(request),
        agent=asked.agent or "",
        session_id=asked.session_id or "",
        key=key,
        fingerprint=fingerprint(request.scope["path"], asked) if key else "",
        metadata=asked.metadata,
        delivery=read_delivery(asked, service.settings),
    )
    if wants_events(request) if asked.stream is None else asked.stream:
        return await _streamed(service, request, inbound)
    preferences = ",".join(request.headers.getlist("prefer"))
    preferred = "respond-async" in preferences.lower()
    if preferred or asked.mode == "async":
        run = await _accepted(service, request, inbound)
        return _response(run, request, {"Preference-Applied": "respond-async"} if preferred else {})
    wait = _WAIT.search(preferences)
    run = await service.engine.answer(
        inbound, wait_seconds=max(float(wait[1]), 0.001) if wait else 0.0, stop_at=stop_at(request)
    )
    return _response(run, request, {"Preference-Applied": f"wait={wait[1]}"} if wait else {})


def read_delivery(asked: AgentRequest, settings: Settings) -> Delivery | None:
    """Where the end of the run is sent; raises InputError where it can't be."""
    if asked.callback is None:
        return None
    if not settings.callback_secret:
        raise InputError(
            "this service sends no callbacks: SAMPAN_CALLBACK_SECRET is not set", field="$.callback"
        )
    check_address(asked.callback, local=settings.local_callbacks)
    return Delivery(CALLBACK, asked.callback)


def read_messages(asked: AgentRequest, data_class: DataClass) -> tuple[Message, ...]:
    """What the caller says; raises InputError unless it is said in just one of the two ways."""
    if isinstance(asked.messages, list) and not asked.message:
        return tuple(message.message(data_class) for message in asked.messages)
    if asked.messages or not asked.message:
        raise InputError("send either `message` (a string or a message) or `messages` (a list)", field="$")
    if isinstance(asked.message, str):
        return (Message.of("user", asked.message, data_class=data_class),)
    return (asked.message.message(data_class),)


async def _accepted(service: Service, request: Request, inbound: Inbound) -> Run:
    """Take a message on for later. A process that will be stopped leaves the work to a worker of the queue."""
    end = stop_at(request)
    return await (service.engine.hand_in(inbound, stop_at=end) if end else service.engine.submit(inbound))


async def _streamed(service: Service, request: Request, inbound: Inbound) -> EventStream:
    events = service.engine.stream(inbound, stop_at=stop_at(request))
    first = await anext(events)  # raises what acceptance raises, while an error can still be a problem
    headers = REPLAYED if isinstance(first.data, dict) and first.data.get("replayed") else None
    return EventStream(frames(events, request.scope["request_id"], first), service.clock, headers)


def _response(run: Run, request: Request, headers: dict[str, str]) -> Response:
    """The answer to a message: its run, or why the run failed; 202 where it goes on without the caller."""
    headers["Location"] = f"/api/v1/runs/{run.id}"
    if run.replayed:
        headers |= REPLAYED
    problem = problems.of_run(run)
    if problem is not None:
        return problems.response(problem, request.scope["path"], headers=headers)
    if not run.done and run.status != "waiting":
        headers["Retry-After"] = "1"
    return json_response(run_view(run), 200 if run.done else 202, headers)
