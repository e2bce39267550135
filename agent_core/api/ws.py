"""`/ws`: a WebSocket on a server of our own. https://asgi.readthedocs.io/en/latest/specs/www.html#websocket"""

from __future__ import annotations

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from agent_core.api import problems
from agent_core.api.opening import opener, subprotocol
from agent_core.api.service import Service
from agent_core.api.socket_frames import Frame, cut
from agent_core.api.talk import Talk
from agent_core.aws.connections import ConnectionGoneError
from agent_core.errors import AgentError, TooLargeError

MAX_ACTIONS = 16
"""Messages of one client that are worked on at once."""

POLICY = 1008
"""Close code where a client may not connect and the server can't say why. RFC 6455 section 7.4.1"""


class CrowdedError(AgentError):
    """A client sends messages faster than they are answered."""

    status, slug, title, retryable = 429, "crowded", "Too much at once", True


async def serve(service: Service, socket: WebSocket) -> None:
    """Serve one connection until the client leaves. Its runs do not end with it."""
    try:
        caller = await opener(service.door, socket, service.settings.origins)
    except AgentError as error:
        await _refuse(service, socket, error)
        return
    await socket.accept(subprotocol=subprotocol(socket))
    line = Socket(service, socket)
    talk = Talk(service, caller, line)
    tasks: set[asyncio.Task[None]] = set()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            data: bytes = (
                message.get("bytes") or b"" if text is None else text.encode("utf-8", "surrogatepass")
            )
            refusal = _too_much(data, len(tasks), service.settings.max_body_bytes)
            if refusal is not None:
                problem = problems.of_error(refusal, service.clock.new_id())
                await line.push(Frame(type="error", data={"problem": problem}))
                continue
            task = asyncio.create_task(_taken(talk, data))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    except ConnectionGoneError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Socket:
    """The way to one client of this process."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service = service
        self._socket = socket

    async def push(self, frame: Frame) -> None:
        """Send a frame, in parts where it is large; raises ConnectionGoneError."""
        for piece in cut(frame, self._service.clock.new_id()):
            if self._socket.application_state != WebSocketState.CONNECTED:
                raise ConnectionGoneError("the client has left")
            try:
                await self._socket.send_text(piece.decode())
            except (WebSocketDisconnect, OSError):
                raise ConnectionGoneError("the client has left") from None


async def _taken(talk: Talk, data: bytes) -> None:
    try:
        await talk.take(data)
    except ConnectionGoneError:
        pass  # the loop that reads from the client ends, too


def _too_much(data: bytes, under_way: int, limit: int) -> AgentError | None:
    if len(data) > limit:
        return TooLargeError(f"a message may have {limit} bytes, this one has {len(data)}")
    if under_way >= MAX_ACTIONS:
        return CrowdedError(f"{MAX_ACTIONS} of your messages are being answered: wait for one of them")
    return None


async def _refuse(service: Service, socket: WebSocket, error: AgentError) -> None:
    """Say why in the HTTP answer to the handshake, where the server can."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        problem = problems.of_error(error, service.clock.new_id())
        headers = problems.headers_of(error)
        await socket.send_denial_response(problems.response(problem, socket.scope["path"], headers=headers))
    else:
        await socket.close(POLICY)
