"""The post: brings answers to chat services, one message after the other, and knows after a crash how far it was.

<tenant>/sent/<channel>    <push id>    the messages of an answer that arrived, and the one that was being sent
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from agent_core.channels.base import Channel, Letter
from agent_core.channels.split import split
from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Due, Run
from agent_core.errors import AgentError, ChannelRefusedError, ConditionError
from agent_core.messages import from_record, to_record
from agent_core.store.base import Delete, Equals, Key, Put, Store
from agent_core.store.shards import later

log = logging.getLogger("sampan.post")

KEPT_SECONDS = 7 * 86_400.0
"""How long it is known what arrived: longer than the outbox tries."""

RETRY_SECONDS = 60.0
MAX_TRIES = 10


class Sent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an answer is.

    `ids` are the services' ids of the messages that arrived, `trying` is the number of the one that is being sent,
    counted from 1. `draft` is the id of a message that shows the answer while it is written and becomes its first;
    `drafting` says that what is being sent is one.
    """

    ids: tuple[str, ...] = ()
    trying: int = 0
    draft: str = ""
    drafting: bool = False


class Post:
    """Delivers what runs of channels end with, and codes to strangers."""

    def __init__(self, channels: Mapping[str, Channel], store: Store, clock: Clock) -> None:
        self._channels = channels
        self._store = store
        self._clock = clock

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        """Send the end of a run; raises a ChannelError or WireError where a message of it did not arrive.

        What arrived in an earlier try is not sent again; whether the one under way at a crash did, the service is
        asked where it can tell.
        """
        channel = self._channels[delivery.kind]
        text = _words(run, channel)
        if text:
            await self._send(channel, run.principal.tenant, delivery, text, push_id)

    async def _send(self, channel: Channel, tenant: str, delivery: Delivery, text: str, push_id: str) -> None:
        before = await self.sent(channel, tenant, push_id)
        ids = list(before.ids)
        for number, piece in enumerate(split(text, channel.limit, channel.measure)):
            if number < len(before.ids):
                continue
            letter = letter_of(delivery, piece, push_id, number)
            found = "" if number else await self._finished(channel, letter, before)
            if not found and before.trying == number + 1 and not before.drafting:
                found = await channel.find(letter)
            if not found:
                if number:
                    await self._clock.sleep(channel.pause)
                await self.keep(channel, tenant, push_id, Sent(ids=tuple(ids), trying=number + 1))
                found = await channel.send(letter)
            ids.append(found)
        await self.keep(channel, tenant, push_id, Sent(ids=tuple(ids)))

    async def _finished(self, channel: Channel, letter: Letter, before: Sent) -> str:
        """The draft, with the answer in its place; "" where there is none, or it is gone."""
        draft = before.draft
        if not draft and before.drafting:
            draft = await channel.find(letter)
        if not draft:
            return ""
        try:
            await channel.edit(letter, draft)
        except ChannelRefusedError as error:
            log.info("channel=<%s> | the draft is gone: %s", channel.name, error)
            return ""
        return draft

    async def sent(self, channel: Channel, tenant: str, push_id: str) -> Sent:
        """How far an answer is."""
        record = await self._store.get(_key(channel, tenant, push_id))
        return from_record(Sent, record.fields) if record is not None else Sent()

    async def keep(self, channel: Channel, tenant: str, push_id: str, sent: Sent) -> None:
        """Remember how far an answer is."""
        expires_at = self._clock.now() + KEPT_SECONDS
        await self._store.write(Put(_key(channel, tenant, push_id), to_record(sent), expires_at=expires_at))

    async def tell_code(self, key: Key, due: Due) -> None:
        """Tell a stranger the code that was kept for them; tried again by the sweeper where it did not arrive."""
        channel = self._channels.get(due.delivery.kind) if due.delivery else None
        still = (Equals("run_id", due.run_id),)
        again = later(key, self._clock.now() + RETRY_SECONDS)
        entry = msgspec.structs.replace(due, attempts=due.attempts + 1)
        try:
            # Mine for a while, so that two sweepers do not both tell.
            await self._store.write(Delete(key, when=still), Put(again, to_record(entry)))
        except ConditionError:
            return
        if channel is not None and due.delivery is not None and due.attempts < MAX_TRIES:
            words = channel.options.greeting.replace("{code}", due.push_id)
            try:
                await self._send(channel, due.tenant, due.delivery, words, due.run_id)
            except AgentError as error:
                log.warning("channel=<%s> | a pairing code did not arrive: %s", channel.name, error)
                if error.retryable:
                    return
        await self._store.write(Delete(again))


def letter_of(delivery: Delivery, text: str, push_id: str, number: int) -> Letter:
    """A message of an answer; its id is the same whenever it is tried."""
    return Letter(
        address=delivery.address,
        options=delivery.options,
        text=text,
        id=f"{push_id}/{number}",
        number=number,
    )


def _key(channel: Channel, tenant: str, push_id: str) -> Key:
    return Key(keys.sent(tenant, channel.name), push_id)


def _words(run: Run, channel: Channel) -> str:
    """What is said at the end of a run; "" where nothing is: cancelled, or answered together with another message."""
    if run.status == "cancelled" or "merged_into" in run.metadata:
        return ""
    if run.reply is None:
        return str(channel.options.sorry)
    return run.reply.text.strip()
