"""Events that are HTTP requests, and their answers: API Gateway's HTTP API and REST API, function URLs.

All are served by the one ASGI app. It learns from the scope when the platform will stop it; a run that can't be done by
then is handed over and answered with 202.
"""

from __future__ import annotations

import binascii
from functools import cache
from typing import Any

import msgspec
from mangum import Mangum

from agent_core.api import problems
from agent_core.errors import AgentError, InputError, MalformedError
from handlers import _shared

TEXT_TYPES = [
    *("text/", "application/json", "application/problem+json", "application/javascript", "application/xml"),
    *("application/jsonl", "application/x-ndjson", "application/vnd.oai.openapi", "image/svg+xml"),
]
"""Content types that go out as they are; all else in base64."""


def answer(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The answer to a request, in the form that the event's version wants. Raises InputError for any other event."""
    request = read(event)
    _shared.loop()  # the adapter takes the current one
    try:
        answered: dict[str, Any] = _adapter()(request, context)
    except binascii.Error as error:
        return refusal(MalformedError(f"the body is said to be base64, but is not: {error}"))
    return answered


def asked(event: Any, context: Any) -> tuple[dict[str, Any], bytes]:
    """The request as `serve` takes it: its scope and body. Raises InputError where the event is no request."""
    request = _adapter().infer(read(event), context)
    try:
        return dict(request.scope), request.body
    except binascii.Error as error:
        raise MalformedError(f"the body is said to be base64, but is not: {error}") from error


def read(event: Any) -> dict[str, Any]:
    """The event as the adapter takes it; raises InputError where it is no request."""
    context = event.get("requestContext") if isinstance(event, dict) else None
    if not isinstance(context, dict) or not ("http" in context or "httpMethod" in event):
        raise InputError(
            "this function takes HTTP requests of API Gateway (HTTP API 2.0, REST 1.0) or of a function URL, not "
            f"{_shared.kind_of(event)}"
        )
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    many = {name.lower(): values for name, values in (event.get("multiValueHeaders") or {}).items()}
    if "cookie" in many:
        # Cookies are one list with semicolons, other headers one with commas. RFC 6265 section 5.4
        many["cookie"] = ["; ".join(many["cookie"])]
    if "http" in context and event.get("rawPath"):
        # Here alone a slash at the end is left as it was sent.
        context = {**context, "http": {**context["http"], "path": event["rawPath"]}}
    return {**event, "headers": headers, "multiValueHeaders": many, "requestContext": context}


@cache
def _adapter() -> Mangum:
    return Mangum(serve, lifespan="off", text_mime_types=TEXT_TYPES)


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """Serve one request by the app, with its deadline, and without the stage that some gateways put before a path."""
    before = prefix(scope["aws.event"])
    if scope["path"].startswith(f"{before}/"):
        scope["path"] = scope["path"][len(before) :]

    async def located(message: Any) -> None:
        if before and message["type"] == "http.response.start":
            message["headers"] = [_located(before, *header) for header in message["headers"]]
        await send(message)

    async def work(stop_at: float) -> None:
        scope["stop_at"] = stop_at
        await _shared.asgi()(scope, receive, located)

    await _shared.in_time(_shared.app(), scope["aws.context"], work)


def prefix(event: dict[str, Any]) -> str:
    """What stands in the address before the path that the app knows: the stage, where it is not the default one."""
    context = event["requestContext"]
    if "http" in context:
        stage = context.get("stage", "$default")
        return f"/{stage}" if context["http"]["path"].startswith(f"/{stage}/") else ""
    full, path = context.get("path") or "", event["path"]
    return str(full[: -len(path)]) if full.endswith(path) else ""


def _located(prefix: str, name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name.lower() == b"location" and value.startswith(b"/"):
        value = prefix.encode() + value
    return name, value


def refusal(error: AgentError) -> dict[str, Any]:
    """The answer to what can't even be given to the app."""
    problem = problems.of_error(error, _shared.app().clock.new_id())
    body = msgspec.json.encode(problem).decode()
    headers = {"content-type": "application/problem+json"}
    return {"statusCode": error.status, "headers": headers, "body": body, "isBase64Encoded": False}


def before_snapshot() -> None:
    """The app's HTTP surface is loaded and made, too."""
    _shared.asgi()


_shared.on_snapshot(before_snapshot)
