"""Where the server listens."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from agent_core.errors import ConfigError
from agent_core.settings import Settings


def bind(settings: Settings) -> socket.socket:
    """A listening socket; raises ConfigError that says what to do where the address can't be had.

    It listens at once, so that a request sent before the application is ready waits instead of being refused.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f"the host {settings.host!r} can't be resolved: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(_why_not(settings, error)) from error
    return listener


def _why_not(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = settings.port + 1 if settings.port < 65535 else 8000
        return (
            f"port {settings.port} is taken, perhaps by another `sampan run`: stop that one, or take another port with "
            f"--port {other} (make run PORT={other}); --port 0 takes any free one"
        )
    if error.errno == errno.EACCES:
        return f"port {settings.port} needs special rights: take one above 1023, for example --port 8000"
    return f"can't listen on {settings.host} port {settings.port}: {error.strerror}"


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    if ip_address(host).is_unspecified:  # all interfaces, this machine's own among them
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
