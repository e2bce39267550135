"""The ASGI app: routing, limits, security headers, and the boundary where every error becomes an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_core.api import problems
from agent_core.api.bodies import Disconnect
from agent_core.api.principal import visitor
from agent_core.api.routes import OPERATIONS, Operation
from agent_core.api.service import Service
from agent_core.batches.service import Batches
from agent_core.clock import Clock
from agent_core.engine.engine import Engine
from agent_core.errors import (
    AgentError,
    HeadersTooLargeError,
    MethodError,
    NotFoundError,
    UriTooLongError,
)
from agent_core.security.door import Door
from agent_core.security.stepup import HEADER
from agent_core.security.visitor import NOBODY, OWNER
from agent_core.security.webhook import Receiver
from agent_core.settings import Settings

log = logging.getLogger("sampan.api")

# Sent with every answer that does not say otherwise. The API gives data, never a page: nothing in it may run.
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)


def build(
    engine: Engine,
    settings: Settings,
    *,
    clock: Clock,
    mounts: Sequence[tuple[str, ASGIApp]] = (),
    batches: Callable[[], Batches] | None = None,
    webhooks: Receiver | None = None,
    door: Door | None = None,
) -> ASGIApp:
    """The app. `mounts` are further ASGI apps by path, such as ("/console", pages). Nothing connects here.

    Without a `door` whoever calls the app is its owner: for tests and for commands that work in their own process.
    """
    console = next((path for path, _ in mounts if path == "/console"), "")
    service = Service(engine, settings, clock, console, batches, webhooks, door)
    table: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        table.setdefault(operation.path, {})[operation.method] = operation
    routes: list[BaseRoute] = [Route(path, Resource(service, methods)) for path, methods in table.items()]
    routes.append(WebSocketRoute("/ws", Sockets(service)))
    for path, app in mounts:
        # A mount begins behind its slash. Relative, so that a prefix which a gateway took away does not matter.
        routes += [Route(path, RedirectResponse(f"{path.rpartition('/')[2]}/", 308)), Mount(path, app)]
    return Boundary(Router(routes, redirect_slashes=False, default=_no_such_path), service)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    raise NotFoundError(f"there is nothing at {scope['path'][:200]!r}; /openapi.json lists what there is")


class Sockets:
    """WebSockets: `/ws`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        # Loaded with the first connection: a cold start, and who never opens one, does not pay for it.
        from starlette.websockets import WebSocket

        from agent_core.api.ws import serve

        await serve(self._service, WebSocket(scope, receive, send))


class Resource:
    """All methods of one path."""

    def __init__(self, service: Service, methods: dict[str, Operation]) -> None:
        self._service = service
        self._methods = dict(methods)
        if "GET" in methods:
            self._methods["HEAD"] = methods["GET"]
        self._allow = ", ".join(sorted({*self._methods, "OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the method's handler."""
        method = scope["method"]
        operation = self._methods.get(method)
        if operation is not None:
            send = partial(_bare, send) if method == "HEAD" else send
            await self._answer(operation, scope, receive, send)
        elif method == "OPTIONS":
            await Response(status_code=204, headers={"Allow": self._allow})(scope, receive, send)
        else:
            error = MethodError(f"{scope['path'][:200]!r} takes {self._allow}")
            problem = problems.of_error(error, scope["request_id"])
            answer = problems.response(problem, scope["path"], headers={"Allow": self._allow})
            await answer(scope, receive, send)

    async def _answer(self, operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the caller in, where the operation is not for everybody, and answer."""
        request = Request(scope, receive)
        door = self._service.door
        if operation.begins:
            await self._service.engine.switches.look(first=True)
        if door is None or not operation.scope:
            scope["caller"] = OWNER if door is None else NOBODY  # for everybody, so nothing of anybody's
            answer = await operation.handler(self._service, request)
            await answer(scope, receive, send)
            return
        scope["caller"] = caller = await door.admit(visitor(request), operation.scope)
        async with door.slot(caller):
            if operation.stepup:
                await door.stepup.check(caller, request.headers.get(HEADER, ""), operation.stepup)
            answer = await operation.handler(self._service, request)
            await answer(scope, receive, send)


async def _bare(send: Send, message: Message) -> None:
    """Send an answer to HEAD: all but the body."""
    await send({**message, "body": b""} if message["type"] == "http.response.body" else message)


class Boundary:
    """The outermost edge of the HTTP surface. Errors become problems, whatever they are; no traceback gets out."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._max_headers = service.settings.max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["request_id"] = self._service.clock.new_id()
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(message, request_id, scope.get("told", ()))
            await send(message)

        try:
            self._check_size(scope)
            await self._app(scope, receive, guarded)
        except Disconnect:
            pass
        except AgentError as error:
            if started:
                raise
            await self._refuse(error, scope, receive, guarded)
        except Exception:  # the outermost boundary: the caller gets an answer, the log the reason
            log.exception("request=<%s>, path=<%r> | request failed", request_id, scope["path"][:200])
            if started:
                raise
            answer = problems.response(problems.internal(request_id), scope["path"])
            await answer(scope, receive, guarded)

    async def _refuse(self, error: AgentError, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["request_id"]
        if error.status >= 500:
            log.error("request=<%s>, error=<%s> | %s", request_id, error.slug, error.detail)
        answer = problems.response(
            problems.of_error(error, request_id),
            scope["path"],
            headers=problems.headers_of(error),
            retry_after=error.retry_after,
        )
        await answer(scope, receive, send)

    def _check_size(self, scope: Scope) -> None:
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > self._max_headers:
            raise UriTooLongError(f"path and query may have {self._max_headers} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._max_headers:
            raise HeadersTooLargeError(f"all headers together may have {self._max_headers} bytes")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Tell the server we are up; when it goes down, let the runs under way come to their end."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._service.engine.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _add_headers(message: Message, request_id: str, told: Sequence[tuple[bytes, bytes]]) -> None:
    headers = list(message.get("headers", ()))
    present = {name.lower() for name, _ in headers}
    headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
    headers.append((b"x-request-id", request_id.encode()))
    headers += told
    message["headers"] = headers
