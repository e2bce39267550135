"""Who may open a WebSocket, and as whom: the same on every target."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from agent_core.api.principal import visitor
from agent_core.errors import AgentError
from agent_core.security.door import Door
from agent_core.security.scopes import RUN
from agent_core.security.visitor import OWNER, Caller

PROTOCOL = "sampan"
"""The subprotocol that is spoken. A page offers it together with `bearer.<token>`, as it can set no header."""

_BEARER = "bearer."


class OriginError(AgentError):
    """A page of a site that is not ours, and that the settings do not name, wants a connection."""

    status, slug, title = 403, "origin", "Pages of this site may not connect"


async def opener(door: Door | None, connection: HTTPConnection, origins: tuple[str, ...]) -> Caller:
    """Whose the connection will be. Raises OriginError, and what is raised for a caller who is not known.

    Browsers let any page open a WebSocket anywhere; they only say which page it was.
    """
    origin = connection.headers.get("origin", "")
    host = connection.headers.get("host", "")
    if origin and "*" not in origins and origin not in origins and urlsplit(origin).netloc != host:
        raise OriginError(f"the page is of {origin[:200]!r}, which SAMPAN_ORIGINS does not name")
    if door is None:
        return OWNER
    return await door.admit(visitor(_with_authorization(connection)), RUN)


def subprotocol(connection: HTTPConnection) -> str | None:
    """The subprotocol to answer with: a browser that offered some hangs up unless one of them comes back."""
    return PROTOCOL if PROTOCOL in _offered(connection) else None


def _with_authorization(connection: HTTPConnection) -> HTTPConnection:
    """The connection with the token among its subprotocols as the header that it is elsewhere."""
    tokens = [one.removeprefix(_BEARER) for one in _offered(connection) if one.startswith(_BEARER)]
    if not tokens or "authorization" in connection.headers:
        return connection
    header = (b"authorization", b"Bearer " + tokens[0].encode("latin-1"))
    return HTTPConnection({**connection.scope, "headers": [*connection.scope["headers"], header]})


def _offered(connection: HTTPConnection) -> list[str]:
    lists = connection.headers.getlist("sec-websocket-protocol")
    return [one.strip() for one in ",".join(lists).split(",") if one.strip()]
