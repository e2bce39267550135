"""Microsoft Teams: messages to a bot, by the Bot Framework.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference#activity-object
"""

from __future__ import annotations

import re
from typing import Any

from agent_core.channels.base import Channel, Event, Options, Receipt, acknowledged
from agent_core.channels.calls import read_answer
from agent_core.channels.payload import items_at, read_object, text_at
from agent_core.channels.schemes.bot_framework import BotFrameworkScheme, key_id
from agent_core.clock import Clock
from agent_core.errors import ChannelError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Timeouts, Wire

KEYS_SECONDS = 86_400.0
"""How long the issuer's keys are kept; Microsoft asks for a day."""

AGAIN_SECONDS = 300.0
"""How soon they are fetched again for a key that is not among them."""

PAUSE_SECONDS = 10.0
"""From one try to fetch them to the next."""

_AT = re.compile(r"<at>[^<]*</at>\s*")


class TeamsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Teams."""

    app_id: str = ""
    """Microsoft app id of the bot: tokens must be for it."""

    keys: str = "https://login.botframework.com/v1/.well-known/keys"
    """Where the Bot Framework publishes the keys that its tokens are signed with."""


class Teams(Channel):
    """A bot in Microsoft Teams."""

    Options = TeamsOptions

    def __init__(self, name: str, options: TeamsOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = BotFrameworkScheme(options.app_id)
        self._keys: dict[str, Any] = {}
        self._fetched_at = 0.0
        self._tried_at = 0.0

    async def verify(self, hook: Webhook) -> bytes:
        """The body, sent by who holds a token of the Bot Framework for this bot."""
        return self._scheme.verify(hook, self.clock.now(), await self._key_set(key_id(hook)))

    async def _key_set(self, wanted: str) -> dict[str, Any]:
        """The issuer's keys, kept for a day; fetched anew, though not often, where the wanted one is not there.

        Whoever sends nonsense can't have us call the key service for each of it. Raises a ChannelError or WireError.
        """
        now = self.clock.now()
        there = any(text_at(key, "kid") == wanted for key in items_at(self._keys, "keys"))
        stale = now - self._fetched_at > (KEYS_SECONDS if there else AGAIN_SECONDS)
        if stale and now - self._tried_at > PAUSE_SECONDS:
            self._tried_at = now
            self._keys = await self._fetched()
            self._fetched_at = now
        if not self._keys:
            raise ChannelError("the Bot Framework's keys can't be had now", retry_after=PAUSE_SECONDS)
        return self._keys

    async def _fetched(self) -> dict[str, Any]:
        timeouts = Timeouts(connect=2.0, first_byte=3.0, between_chunks=3.0, total=5.0)
        answer = await self.wire.send(Request(method="GET", url=self.options.keys, timeouts=timeouts))
        found = read_answer(answer, self.clock.now(), "the Bot Framework's key service")
        keys = items_at(found, "keys")
        if not keys or not all(isinstance(key, dict) for key in keys):
            raise ChannelError("the Bot Framework's keys can't be read")
        return found

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """A message to the bot."""
        activity = read_object(body)
        text = _AT.sub("", text_at(activity, "text")).strip()
        sender = text_at(activity, "from", "aadObjectId") or text_at(activity, "from", "id")
        if activity.get("type") != "message" or not text or not sender:
            return Receipt(ack=acknowledged({}))
        conversation = text_at(activity, "conversation", "id")
        group, _, root = conversation.partition(";messageid=")
        direct = text_at(activity, "conversation", "conversationType") == "personal"
        event = Event(
            id=f"{conversation}/{text_at(activity, 'id')}",
            app=text_at(activity, "recipient", "id"),
            parts=(Text(text),),
            sender=sender,
            group="" if direct else group,
            thread=root,
        )
        return Receipt(events=(event,), ack=acknowledged({}))
