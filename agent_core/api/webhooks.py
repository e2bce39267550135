"""`/webhooks/{channel}`: what a chat service sends. Verified over the raw bytes, acknowledged at once."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent_core.api.bodies import read_raw
from agent_core.api.service import Service
from agent_core.errors import NotFoundError
from agent_core.security.webhook import Webhook


async def post_webhook(service: Service, request: Request) -> ASGIApp:
    """Hand the request to its channel as it came, and give back how that acknowledges it."""
    if service.webhooks is None:
        raise NotFoundError("no channel is on here: SAMPAN_CHANNELS is not set")
    body = await read_raw(request, service.settings)
    hook = Webhook(
        method=request.method,
        url=_public_url(service, request),
        headers=tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in request.scope["headers"]
        ),
        body=body,
    )
    answer = await service.webhooks.receive(request.path_params["channel"], hook)
    return Response(answer.body, answer.status, dict(answer.headers))


def _public_url(service: Service, request: Request) -> str:
    """The address as the sender saw it. What the request says of its host is believed only where none is set."""
    base = service.settings.public_url.rstrip("/")
    if not base:
        return str(request.url)
    query = request.scope["query_string"].decode("latin-1")
    path = (request.scope.get("raw_path") or request.scope["path"].encode()).decode("latin-1")
    return f"{base}{path}" + (f"?{query}" if query else "")
