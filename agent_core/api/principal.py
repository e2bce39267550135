"""Who is calling."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from agent_core.messages import Principal


def principal(request: HTTPConnection) -> Principal:
    """The caller. One tenant and one user for now: the service trusts whoever can reach it."""
    return Principal()
