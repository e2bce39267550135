"""Who is calling."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from agent_core.messages import Principal
from agent_core.security.visitor import Caller, Visitor


def caller(request: HTTPConnection) -> Caller:
    """The caller with what they may do. Raises KeyError, as `principal`."""
    known: Caller = request.scope["caller"]
    return known


def visitor(request: HTTPConnection) -> Visitor:
    """The request as the door sees it. The headers that the door tells are in the scope's `told`."""
    event = request.scope.get("aws.event") or {}
    context = event.get("requestContext", {}).get("authorizer") or {}
    client = request.client
    return Visitor(
        method=request.scope.get("method", "GET"),
        headers={
            name: ("; " if name == "cookie" else ", ").join(request.headers.getlist(name))
            for name in request.headers.keys()  # noqa: SIM118  # the mapping gives pairs for each of several
        },
        address=client.host if client else "",
        gateway=context if isinstance(context, dict) else {},
        told=request.scope.setdefault("told", []),
    )


def principal(request: HTTPConnection) -> Principal:
    """The caller, as the door knew it. A request that did not come through the door has none: KeyError."""
    return caller(request).principal
