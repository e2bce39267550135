"""Where this service sends something on a caller's word."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from agent_core.errors import InputError


def check_address(address: str) -> None:
    """Raise InputError where callbacks don't go to this address."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError as error:
        raise InputError(f"a callback goes to a URL: {error}", field="$.callback") from None
    host = parts.hostname or ""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        number = None
    local = host == "localhost" or (number is not None and number.is_loopback)
    if parts.scheme == "http" and local:
        return
    if parts.scheme != "https" or not host or parts.username or parts.password:
        raise InputError("a callback goes to an https address without a password in it", field="$.callback")
    if local or (number is not None and not number.is_global):
        raise InputError("a callback does not go into a private network", field="$.callback")
