"""Triggered by API Gateway's WebSocket API: $connect, $disconnect, and $default with what a client says.

The function has no connection of its own: it answers by API Gateway's management API. The protocol is that of /ws.
"""

from __future__ import annotations

import base64
import binascii
import logging
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import HTTPConnection

from agent_core.api import problems
from agent_core.api.connections import KIND, Connections
from agent_core.api.opening import opener, subprotocol
from agent_core.api.service import Service
from agent_core.api.socket_frames import Frame
from agent_core.api.talk import Talk
from agent_core.app import App
from agent_core.aws.connections import ConnectionGoneError
from agent_core.errors import AgentError, ConfigError, InputError
from handlers import _shared

log = logging.getLogger("sampan.websocket")

Answer = dict[str, Any]


def handler(event: dict[str, Any], context: Any) -> Answer:
    """Handle one event of one connection."""
    return _shared.wait_for(handle(_shared.app(), event, context))


async def handle(app: App, event: dict[str, Any], context: Any) -> Answer:
    """The same, with the application given."""
    connections = app.deliverers.get(KIND)
    if not isinstance(connections, Connections):
        raise ConfigError(
            "SAMPAN_WEBSOCKET_URL is not set: name the URL of the WebSocket API's stage, such as "
            "https://a1b2c3.execute-api.eu-west-1.amazonaws.com/dev"
        )
    request = event.get("requestContext")
    kind = request.get("eventType") if isinstance(request, dict) and "connectionId" in request else None
    if kind == "CONNECT":
        return await _shared.in_time(app, context, lambda _: _connected(app, connections, event))
    if kind == "MESSAGE":
        return await _shared.in_time(app, context, lambda stop_at: _said(app, connections, event, stop_at))
    if kind == "DISCONNECT":
        return await _shared.in_time(app, context, lambda _: _left(connections, event))
    raise InputError(f"this function takes events of a WebSocket API, not {_shared.kind_of(event)}")


async def _connected(app: App, connections: Connections, event: dict[str, Any]) -> Answer:
    """Let a client in, or not: any status but 2xx refuses the handshake."""
    connection = _handshake(event)
    try:
        caller = await opener(app.door, connection, app.settings.origins)
    except AgentError as error:
        problem = problems.of_error(error, app.clock.new_id())
        headers = {"Content-Type": problems.PROBLEM_JSON, **problems.headers_of(error)}
        return {"statusCode": error.status, "headers": headers, "body": msgspec.json.encode(problem).decode()}
    await connections.opened(event["requestContext"]["connectionId"], caller)
    chosen = subprotocol(connection)
    return {"statusCode": 200, **({"headers": {"Sec-WebSocket-Protocol": chosen}} if chosen else {})}


async def _said(app: App, connections: Connections, event: dict[str, Any], stop_at: float) -> Answer:
    """Do what a client asks, and push the answers."""
    connection_id = event["requestContext"]["connectionId"]
    try:
        connection = await connections.get(connection_id)
    except ConnectionGoneError as error:
        problem = problems.of_error(error, app.clock.new_id())
        await _try(connections.push(connection_id, Frame(type="error", data={"problem": problem})))
        return {"statusCode": 410}
    line = connections.line(connection)
    service = Service(app.engine, app.settings, app.clock, door=app.door)
    talk = Talk(service, connection.caller, line, durable=line, stop_at=stop_at)
    await _try(talk.take(_body(event)))
    return {"statusCode": 200}


async def _left(connections: Connections, event: dict[str, Any]) -> Answer:
    """Forget a connection. API Gateway tries to tell, but does not always; what is left expires."""
    await connections.closed(event["requestContext"]["connectionId"])
    return {"statusCode": 200}


async def _try(work: Any) -> None:
    try:
        await work
    except ConnectionGoneError as error:
        log.info("left=<%s> | its runs go on", error.detail)


def _handshake(event: dict[str, Any]) -> HTTPConnection:
    """The request that opened the connection, as our servers see it."""
    many = event.get("multiValueHeaders") or {
        name: [value] for name, value in (event.get("headers") or {}).items()
    }
    headers = [
        (name.lower().encode("latin-1"), value.encode("utf-8")) for name in many for value in many[name]
    ]
    query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    address = (event["requestContext"].get("identity") or {}).get("sourceIp", "")
    return HTTPConnection(
        {
            "type": "websocket",
            "scheme": "wss",
            "path": "/ws",
            "query_string": urlencode(query, doseq=True).encode(),
            "headers": headers,
            "client": (address, 0),
            "aws.event": event,
        }
    )


def _body(event: dict[str, Any]) -> bytes:
    body: str = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body)
    except binascii.Error:
        return body.encode()  # which is no JSON either: the client is told
