"""Where this service sends something on a caller's word."""

from __future__ import annotations

from agent_core.errors import ForbiddenAddressError, InputError
from agent_core.wire.reach import Reach

CALLBACKS = Reach(ports=None, schemes=("https",))
"""Where callbacks go: https, into the public internet."""

LOCAL_CALLBACKS = Reach(ports=None, schemes=("https",), loopback=True)
"""The same for a service in development, whose callbacks may come to its own machine, by http."""


def check_address(address: str, *, local: bool = True) -> None:
    """Raise InputError where callbacks don't go to this address. `local` allows http to this machine itself.

    What the name leads to is checked when it is called, by `OutsideWire`: it may be another address by then.
    """
    try:
        (LOCAL_CALLBACKS if local else CALLBACKS).place(address)
    except ForbiddenAddressError as error:
        raise InputError(f"a callback can't go there: {error.detail}", field="$.callback") from None
