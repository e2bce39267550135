"""While an answer is made: the typing sign, and a message that grows with the text where the service lets it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from agent_core.channels.base import Channel
from agent_core.channels.post import Post, Sent, letter_of
from agent_core.channels.split import split
from agent_core.clock import Clock
from agent_core.engine.feed import Feed
from agent_core.engine.runs import Delivery, Run
from agent_core.errors import AgentError

log = logging.getLogger("sampan.live")

MORE = " …"
"""Behind a text that goes on."""


class Live:
    """Attends to the runs of channels. Whatever fails here costs no answer: the post sends it at the end."""

    def __init__(self, post: Post, channels: Mapping[str, Channel], clock: Clock) -> None:
        self._post = post
        self._channels = channels
        self._clock = clock

    async def attend(self, run: Run, delivery: Delivery, feed: Feed) -> None:
        """Show that the run is worked on, until cancelled. A call under way then comes to its end."""
        channel = self._channels[delivery.kind]
        shows = []
        if channel.typing_seconds:
            shows.append(self._type(channel, delivery))
        if channel.edits and channel.options.live:
            shows.append(self._draft(channel, run, delivery, feed))
        async with asyncio.TaskGroup() as group:  # cancels each once, then waits for the calls under way
            for show in shows:
                group.create_task(_tried(show, run))

    async def _type(self, channel: Channel, delivery: Delivery) -> None:
        while True:
            await _whole(channel.typing(delivery.address, delivery.options))
            await self._clock.sleep(channel.typing_seconds)

    async def _draft(self, channel: Channel, run: Run, delivery: Delivery, feed: Feed) -> None:
        """Send the text so far as a message, when there is any after a while, then change it as it grows."""
        shown = ""
        while True:
            await self._clock.sleep(channel.draft_seconds)
            text = text_so_far(feed)
            pieces = split(text, channel.limit - len(MORE), channel.measure)
            if not pieces or text == shown:
                continue
            shown = text
            await _whole(self._show(channel, run, delivery, pieces[0].rstrip() + MORE))

    async def _show(self, channel: Channel, run: Run, delivery: Delivery, text: str) -> None:
        letter = letter_of(delivery, text, run.push_id, 0)
        tenant, push_id = run.principal.tenant, run.push_id
        sent = await self._post.sent(channel, tenant, push_id)
        if sent.draft:
            await channel.edit(letter, sent.draft)
        elif not sent.ids and not sent.trying:
            await self._post.keep(channel, tenant, push_id, Sent(trying=1, drafting=True))
            draft = await channel.send(letter)
            await self._post.keep(channel, tenant, push_id, Sent(trying=1, drafting=True, draft=draft))


async def _tried(show: Coroutine[Any, Any, None], run: Run) -> None:
    """Show something until it fails; then no more of it."""
    try:
        await show
    except AgentError as error:
        log.info("run=<%s> | not shown while it is worked on: %s", run.id, error)


async def _whole(call: Coroutine[Any, Any, None]) -> None:
    """Make a call to its end, even if cancelled meanwhile: half a call would leave a message that nobody knows of."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def text_so_far(feed: Feed) -> str:
    """What the step under way has written: what came before a tool call, or before a new beginning, is no answer."""
    text = ""
    for event in feed.events:
        if event.type in ("tool_call", "restart"):
            text = ""
        elif event.type == "text" and isinstance(event.data, dict):
            text += event.data.get("text", "")
    return text
