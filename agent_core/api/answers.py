"""Small answers that every resource needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON."""
    return Response(_encode(value), status, headers, "application/json")


def wants_events(request: Request) -> bool:
    """Whether the Accept header prefers server-sent events to JSON."""
    weights = {"text/event-stream": 0.0, "application/json": 0.0}
    for entry in ",".join(request.headers.getlist("accept")).split(","):
        kind, *parameters = (piece.strip().lower() for piece in entry.split(";"))
        if kind in weights:
            weights[kind] = _quality(parameters)
    return weights["text/event-stream"] > weights["application/json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
