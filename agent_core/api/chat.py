"""`/v1/chat/completions` and `/v1/models`: agents for clients of OpenAI's API, unchanged."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from agent_core.api import problems
from agent_core.api.answers import json_response
from agent_core.api.bodies import decode, read_json, stop_at
from agent_core.api.chat_schemas import UNSUPPORTED, ChatRequest, ModelCard, ModelList, NamedTool
from agent_core.api.chat_wire import (
    ChunkWriter,
    completion,
    newest,
    read_messages,
    read_output_schema,
    read_tools,
)
from agent_core.api.idempotency import REPLAYED, fingerprint, idempotency_key
from agent_core.api.principal import principal
from agent_core.api.schemas import SessionId
from agent_core.api.service import Service
from agent_core.api.sse import EventStream, data_frame
from agent_core.engine.runs import Inbound, Run, RunEvent
from agent_core.errors import AgentError, ConflictError, InputError, ModelCutError, NotFoundError
from agent_core.messages import DataClass

log = logging.getLogger("sampan.api")

SESSION_HEADER = "Sampan-Session-Id"
RUN_HEADER = "Sampan-Run-Id"


class UnknownModelError(NotFoundError):
    """There is no agent of the name that the request calls its model."""

    slug = "model-not-found"

    def extras(self) -> dict[str, Any]:
        """The field at fault."""
        return {"field": "$.model"}


class UnfinishedError(ConflictError):
    """The run goes on without its caller. Asking again would only start another one, so it is not retryable."""

    def __init__(self, run: Run) -> None:
        state = "waits for a person" if run.status == "waiting" else "goes on without you"
        super().__init__(f"the run {state}; look at /api/v1/runs/{run.id}")
        self.run_id = run.id

    def extras(self) -> dict[str, Any]:
        """The run to look at."""
        return {"run_id": self.run_id}


async def post_chat(service: Service, request: Request) -> ASGIApp:
    """Answer a conversation, whole or in chunks."""
    body = await read_json(request, service.settings)
    asked = decode_chat(body)
    _known(service, asked.model)
    inbound = _inbound(service, request, asked)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        return await _streamed(service, request, inbound, include_usage=usage)
    run = await service.engine.answer(inbound, stop_at=stop_at(request))
    headers = _headers(run.id, run.session_id, replayed=run.replayed)
    problem = problems.of_run(run)
    if problem is not None:
        return problems.response(problem, request.scope["path"], headers=headers)
    if not run.done:
        raise UnfinishedError(run)
    return json_response(completion(run), headers=headers)


def decode_chat(body: bytes) -> ChatRequest:
    """The request in a body; raises InputError that says what to do about a field which can't be honoured."""
    try:
        return decode(body, ChatRequest)
    except InputError as error:
        name = error.field.removeprefix("$.").split("[", 1)[0].split(".", 1)[0]
        if name in UNSUPPORTED:
            raise InputError(UNSUPPORTED[name], field=error.field) from None
        raise


def _known(service: Service, model: str) -> None:
    if model not in service.engine.agents:
        raise UnknownModelError(
            f"there is no agent {model[:128]!r} to take as model; there are: {', '.join(sorted(service.engine.agents))}"
        )


def _inbound(service: Service, request: Request, asked: ChatRequest) -> Inbound:
    key = idempotency_key(request.headers)
    inbound = chat_inbound(asked, service.settings.data_class, request.headers.get(SESSION_HEADER))
    return msgspec.structs.replace(
        inbound,
        principal=principal(request),
        key=key,
        fingerprint=fingerprint(request.scope["path"], [asked, inbound.session_id]) if key else "",
    )


def chat_inbound(asked: ChatRequest, data_class: DataClass, session: str | None = None) -> Inbound:
    """The conversation as the engine takes it; `session` goes before the id in its metadata. Raises InputError."""
    metadata = dict(asked.metadata or {})
    session_id = _session_id(session, metadata.pop("session_id", ""))
    messages = read_messages(asked, data_class)
    choice = "required" if isinstance(asked.tool_choice, NamedTool) else asked.tool_choice or "auto"
    return Inbound(
        messages=newest(messages) if session_id else messages,
        agent=asked.model,
        session_id=session_id,
        channel="chat",
        metadata=metadata,
        tools=read_tools(asked),
        tool_choice=choice,
        output_schema=read_output_schema(asked),
        max_tokens=int(asked.max_completion_tokens or asked.max_tokens or 0) or None,
        temperature=asked.temperature,
    )


def _session_id(header: str | None, metadata: str) -> str:
    if header is None and not metadata:
        return ""
    try:
        return msgspec.convert(metadata if header is None else header, SessionId)
    except msgspec.ValidationError as error:
        field = "$.metadata.session_id" if header is None else SESSION_HEADER
        raise InputError(f"the session's id can't be used: {error}", field=field) from None


def _headers(run_id: str, session_id: str, *, replayed: bool) -> dict[str, str]:
    headers = {RUN_HEADER: run_id, SESSION_HEADER: session_id}
    return headers | REPLAYED if replayed else headers


async def _streamed(
    service: Service, request: Request, inbound: Inbound, *, include_usage: bool
) -> EventStream:
    events = service.engine.stream(inbound, stop_at=stop_at(request))
    first = await anext(events)  # raises what acceptance raises, while an error can still have its status
    assert isinstance(first.data, dict)
    run_id, session_id = first.data["run_id"], first.data["session_id"]
    writer = ChunkWriter(run_id, inbound.agent, int(service.clock.now()), include_usage=include_usage)
    headers = _headers(run_id, session_id, replayed=bool(first.data.get("replayed")))
    return EventStream(_frames(writer, events, request.scope["request_id"]), service.clock, headers)


async def _frames(
    writer: ChunkWriter, events: AsyncIterator[RunEvent], request_id: str
) -> AsyncGenerator[bytes, None]:
    yield writer.start()
    try:
        async for event in events:
            if isinstance(event.data, Run) and not event.data.done:
                raise UnfinishedError(event.data)
            if event.type == "restart":
                # Its worker died in the middle of a text that this protocol has no words to take back.
                raise ModelCutError("the answer began anew; ask for its run, or send the message again")
            problem = problems.of_run(event.data) if isinstance(event.data, Run) else None
            frame = data_frame(problems.openai_error(problem)) if problem else writer.write(event)
            if frame:
                yield frame
            if isinstance(event.data, Run):
                return
        raise ModelCutError("the answer takes longer than this connection may; ask for its run")
    except AgentError as error:
        yield data_frame(problems.openai_error(problems.of_error(error, request_id)))
    except Exception:  # the outermost boundary of a stream: its 200 is sent, the client must still be told
        log.exception("request=<%s> | stream broke off", request_id)
        yield data_frame(problems.openai_error(problems.internal(request_id)))


async def list_models(service: Service, request: Request) -> ASGIApp:
    """All agents."""
    return json_response(ModelList([ModelCard(name) for name in sorted(service.engine.agents)]))


async def get_model(service: Service, request: Request) -> ASGIApp:
    """One agent."""
    name = request.path_params["model"]
    _known(service, name)
    return json_response(ModelCard(name))
