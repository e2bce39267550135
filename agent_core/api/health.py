"""`/`, `/healthz` and `/readyz`: is it there, can it work."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp

from agent_core.api.answers import json_response
from agent_core.api.service import Service
from agent_core.api.views import Health, Home


async def healthz(service: Service, request: Request) -> ASGIApp:
    """The process answers."""
    return json_response(Health())


async def readyz(service: Service, request: Request) -> ASGIApp:
    """The store answers, too; else a 503 problem."""
    await service.engine.ready()
    return json_response(Health())


async def home(service: Service, request: Request) -> ASGIApp:
    """Where things are; a browser goes to the console where there is one."""
    if service.console and "text/html" in request.headers.get("accept", ""):
        # Relative, so that a prefix which a gateway took away does not matter.
        return RedirectResponse(service.console.removeprefix("/") + "/", 303)
    links = {
        "agent": "/api/v1/agent",
        "chat_completions": "/v1/chat/completions",
        "docs": "/docs",
        "openapi": "/openapi.json",
    }
    if service.console:
        links["console"] = service.console + "/"
    return json_response(Home("sampan", sorted(service.engine.agents), links))
