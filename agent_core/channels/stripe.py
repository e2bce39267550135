"""Stripe: events of payments become messages to an agent. https://docs.stripe.com/webhooks"""

from __future__ import annotations

from agent_core.channels.base import Channel, Options, Receipt
from agent_core.channels.generic import machine_event
from agent_core.channels.payload import read_object, text_at
from agent_core.channels.schemes.hmacs import STRIPE, HmacScheme
from agent_core.clock import Clock
from agent_core.errors import MalformedError
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class StripeOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Stripe."""

    secret: tuple[str, ...] = ()
    """Signing secret of the endpoint (`whsec_...`); several while it is changed."""


class Stripe(Channel):
    """A Stripe account's webhook endpoint."""

    Options = StripeOptions
    people = False

    def __init__(self, name: str, options: StripeOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = HmacScheme(STRIPE, self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by Stripe just now."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """One event; those of one customer are one conversation."""
        payload = read_object(body)
        if not text_at(payload, "id"):
            raise MalformedError("the event has no id")
        customer = text_at(payload, "data", "object", "customer")
        return Receipt(events=(machine_event(text_at(payload, "id"), body, customer),))
