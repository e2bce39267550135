"""Where an agent's answers may be sent: checked when a message is accepted, so that its sender is told."""

from __future__ import annotations

from agent_core.engine.bound import Bound
from agent_core.engine.runs import CALLBACK, Delivery
from agent_core.errors import ForbiddenAddressError, InputError
from agent_core.wire.reach import matches, read_url


def check_delivery(bound: Bound, delivery: Delivery | None) -> None:
    """Raise InputError where the agent's `egress` does not let its answers go there."""
    if delivery is None:
        return
    if delivery.kind != CALLBACK:
        if bound.channels is not None and delivery.kind not in bound.channels:
            raise InputError(f"the agent {bound.name} may not answer on {delivery.kind}")
        return
    if bound.egress is None:
        return
    try:
        host = read_url(delivery.address).host
    except ForbiddenAddressError as error:
        raise InputError(f"a callback can't go there: {error.detail}", field="$.callback") from None
    if not matches(host, bound.egress):
        raise InputError(f"the agent {bound.name} may not send to {host}", field="$.callback")
