"""Any service that signs by Standard Webhooks: its events become messages to an agent.

https://www.standardwebhooks.com
"""

from __future__ import annotations

from agent_core.channels.base import Channel, Options, Receipt
from agent_core.channels.generic import machine_event
from agent_core.channels.payload import read_json, text_at
from agent_core.channels.schemes.standard import StandardScheme
from agent_core.clock import Clock
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class StandardOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Standard Webhooks."""

    secret: tuple[str, ...] = ()
    """Secrets (`whsec_...`) or public keys (`whpk_...`); several while they are changed."""

    session: str = ""
    """Path in the body of what makes one conversation, such as `data.customer`; unset, each event is its own."""


class Standard(Channel):
    """A sender of Standard Webhooks."""

    Options = StandardOptions
    people = False

    def __init__(self, name: str, options: StandardOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = StandardScheme(self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed just now."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The body as one message; its id is the same over all tries."""
        path: str = self.options.session
        session = text_at(read_json(body), *path.split(".")) if path else ""
        return Receipt(events=(machine_event(hook.header("webhook-id"), body, session),))
