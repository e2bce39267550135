"""The gateway: a webhook is verified, read, accepted under its event's id, and acknowledged. Answers come later."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

from agent_core.channels.base import Channel, Click, Event
from agent_core.channels.guests import Guests
from agent_core.channels.questions import clicked
from agent_core.engine.engine import Engine
from agent_core.engine.runs import Delivery, Inbound
from agent_core.errors import AgentError, MalformedError, NotFoundError
from agent_core.messages import DataClass, Message, Principal
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Response

log = logging.getLogger("sampan.webhooks")


class Gateway:
    """Receives the webhooks of all channels that are on."""

    def __init__(
        self, channels: Mapping[str, Channel], engine: Engine, guests: Guests, data_class: DataClass
    ) -> None:
        self.channels = channels
        self._engine = engine
        self.guests = guests
        self._data_class = data_class

    async def receive(self, name: str, hook: Webhook) -> Response:
        """Verify, accept and acknowledge one webhook.

        Raises NotFoundError, SignatureError, MalformedError, and what acceptance raises; the service sends it again
        then. What was acknowledged is stored and will be answered, whatever crashes.
        """
        channel = self.channels.get(name)
        if channel is None:
            raise NotFoundError(f"there is no channel {name[:60]!r} here")
        try:
            body = await channel.verify(hook)
            receipt = channel.read(hook, body)
        except AgentError as error:
            log.warning("channel=<%s>, refused=<%s> | %s", name, error.slug, error.detail)
            raise
        for event in receipt.events:
            await self._accept(channel, event)
        return receipt.ack if receipt.click is None else await self._clicked(channel, receipt.click)

    async def _clicked(self, channel: Channel, click: Click) -> Response:
        """Have a click answer what a run asks. Sent again, it finds its question answered."""
        if not await self.guests.admits(channel, click.event):
            return channel.told(click, "")
        principal, _ = conversation(channel, click.event)
        words = await clicked(self._engine, principal, click)
        log.info("channel=<%s>, event=<%s> | click: %s", channel.name, click.event.id, words)
        return channel.told(click, words)

    async def _accept(self, channel: Channel, event: Event) -> None:
        """Store one event under its id, once; the same event again is the same run."""
        if not event.id:
            raise MalformedError("the event has no id to know it by")
        if event.sender and not await self.guests.admits(channel, event):
            log.info("channel=<%s>, event=<%s>, decision=<stranger>", channel.name, event.id)
            return
        run = await self._engine.hand_in(self._inbound(channel, event))
        log.info(
            "channel=<%s>, event=<%s>, run=<%s>, decision=<%s>",
            *(channel.name, event.id, run.id, "known" if run.replayed else "accepted"),
        )

    def _inbound(self, channel: Channel, event: Event) -> Inbound:
        principal, session_id = conversation(channel, event)
        metadata = {**event.metadata, **({"sender": event.sender} if event.sender else {})}
        # A person who chats speaks for himself; an event (a payment, an issue) holds words of whoever caused it.
        untrusted = () if channel.people else (f"webhook {channel.name}",)
        message = Message(
            role="user",
            parts=event.parts,
            data_class=self._data_class,
            metadata=metadata,
            untrusted=untrusted,
        )
        delivery = Delivery(channel.name, event.address, dict(event.options)) if event.address else None
        return Inbound(
            messages=(message,),
            principal=principal,
            agent=channel.options.agent,
            session_id=session_id,
            key=f"{channel.name}/{event.app}/{event.id}",
            fingerprint=hashlib.sha256(event.id.encode()).hexdigest(),
            channel=channel.name,
            metadata=metadata,
            delivery=delivery,
        )


def conversation(channel: Channel, event: Event) -> tuple[Principal, str]:
    """Whose conversation it is, and which: that of one person, one thread or one group, never of all people.

    A group's conversation belongs to the group, so that everybody in it speaks in the same one.
    """
    scope = channel.options.scope or "thread"
    owner, parts = (event.group or event.sender or event.id), [event.group]
    if event.group and scope == "person":
        owner, parts = event.sender, [event.group, event.sender]
    elif event.group and scope == "group":
        parts = [event.group]
    elif event.thread:
        parts = [event.group, event.thread]
    user = "/".join([channel.name, event.app, owner])
    session_id = "-".join([channel.name, *(part for part in parts if part)])
    return Principal(tenant=channel.options.tenant, user=user), session_id
