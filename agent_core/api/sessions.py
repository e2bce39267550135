"""`/api/v1/sessions`: the caller's conversations."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent_core.api.answers import json_response
from agent_core.api.bodies import read_query
from agent_core.api.principal import principal
from agent_core.api.schemas import RunsQuery, SessionQuery
from agent_core.api.service import Service
from agent_core.api.views import MessageList, SessionList, message_view, session_item, session_view


async def list_sessions(service: Service, request: Request) -> ASGIApp:
    """A page of the caller's sessions."""
    query = read_query(request, RunsQuery)
    found = await service.engine.sessions(principal(request), limit=query.limit, before=query.before)
    following = found[-1].id if len(found) == query.limit else None
    return json_response(SessionList([session_item(session) for session in found], following))


async def get_session(service: Service, request: Request) -> ASGIApp:
    """A page of a session's messages."""
    query = read_query(request, SessionQuery)
    page = await service.engine.session(
        principal(request), request.path_params["session_id"], after=query.after, limit=query.limit
    )
    messages = [message_view(message) for message in page.messages]
    return json_response(MessageList(session_view(page.session), messages, page.after or None))


async def delete_session(service: Service, request: Request) -> ASGIApp:
    """Erase a session and all that hangs on it."""
    await service.engine.erase(principal(request), request.path_params["session_id"])
    return Response(status_code=204)
