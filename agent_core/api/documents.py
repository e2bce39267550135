"""The API about itself: `/openapi.json`, and `/docs`, which needs no script and no other host."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent_core.api.service import Service

OPENAPI = Path(__file__).with_name("openapi.json")
"""Made when the project is built (openapi.py)."""


@cache
def _stored() -> bytes:
    return OPENAPI.read_bytes()


@cache
def _page() -> tuple[bytes, str]:
    # Loaded when somebody reads it: not worth a millisecond of anyone's cold start.
    from agent_core.api.docs_page import content_security_policy, render

    return render(msgspec.json.decode(_stored())).encode(), content_security_policy()


async def openapi(service: Service, request: Request) -> ASGIApp:
    """The OpenAPI document."""
    return Response(_stored(), 200, {"Cache-Control": "no-cache"}, "application/json")


async def docs(service: Service, request: Request) -> ASGIApp:
    """The OpenAPI document as a page."""
    page, policy = _page()
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    return Response(page, 200, headers, "text/html")
