"""Microsoft Teams: messages to a bot in, answers in reply, by the Bot Framework's connector.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference,
.../rest-api/bot-framework-rest-connector-authentication (client credentials),
https://learn.microsoft.com/microsoftteams/platform/bots/how-to/rate-limit,
.../format-your-bot-messages (40 KB for all of a message in UTF-16, else 413; others say 28 KB, which is kept)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from agent_core.blobs.base import Blob
from agent_core.channels.base import (
    Channel,
    Choice,
    Click,
    Event,
    Letter,
    Options,
    Receipt,
    acknowledged,
    attachment,
)
from agent_core.channels.calls import json_request, lies_with, read_answer
from agent_core.channels.media import media_part
from agent_core.channels.payload import items_at, read_object, text_at
from agent_core.channels.schemes.bot_framework import BotFrameworkScheme, key_id
from agent_core.channels.split import utf16_units
from agent_core.channels.tokens import AccessToken
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Timeouts, Wire

KEYS_SECONDS = 86_400.0
"""How long the issuer's keys are kept; Microsoft asks for a day."""

AGAIN_SECONDS = 300.0
"""How soon they are fetched again for a key that is not among them."""

PAUSE_SECONDS = 10.0
"""From one try to fetch them to the next."""

SERVICES = (
    "smba.trafficmanager.net",
    "smba.infra.gcc.teams.microsoft.com",
    "smba.infra.gov.teams.microsoft.us",
    "smba.infra.dod.teams.microsoft.us",
)
"""Where Teams has answers sent: the bot's token goes to no other host."""

DRIVES = (".sharepoint.com", ".sharepoint.us", ".sharepoint-mil.us")
"""Where files that are shared in a chat lie. Their addresses carry their own leave; the token does not go there."""

CARD = "application/vnd.microsoft.card.adaptive"
DOWNLOAD = "application/vnd.microsoft.teams.file.download.info"

_AT = re.compile(r"<at>[^<]*</at>\s*")


class TeamsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Teams."""

    app_id: str = ""
    """Microsoft app id of the bot: tokens must be for it."""

    app_secret: str = ""
    """Client secret of the app; without it nothing is answered in the chat."""

    directory: str = "botframework.com"
    """Directory (tenant) id of a single-tenant bot; a multi-tenant bot's is botframework.com."""

    login: str = "https://login.microsoftonline.com"
    """Where access tokens are given."""

    service: str = ""
    """Base URL of another connector that answers may go to, besides those of Teams."""

    keys: str = "https://login.botframework.com/v1/.well-known/keys"
    """Where the Bot Framework publishes the keys that its tokens are signed with."""


class Teams(Channel):
    """A bot in Microsoft Teams."""

    Options = TeamsOptions
    limit = 12_000  # 28 KB with two bytes for each; the rest is for what stands around the text
    edits = True
    buttons = True
    typing_seconds = 4.0

    def __init__(self, name: str, options: TeamsOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = BotFrameworkScheme(options.app_id)
        self._keys: dict[str, Any] = {}
        self._fetched_at = 0.0
        self._tried_at = 0.0
        self._token = AccessToken(self._fetch_token, clock)

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
        parts = self._parts(activity)
        sender = text_at(activity, "from", "aadObjectId") or text_at(activity, "from", "id")
        pressed = text_at(activity, "value", "sampan")
        if activity.get("type") != "message" or not (parts or pressed) or not sender:
            return Receipt(ack=acknowledged({}))
        conversation = text_at(activity, "conversation", "id")
        group, _, root = conversation.partition(";messageid=")
        direct = text_at(activity, "conversation", "conversationType") == "personal"
        options = {
            "service": text_at(activity, "serviceUrl"),
            "bot": text_at(activity, "recipient", "id"),
            "reply_to": text_at(activity, "id"),
        }
        event = Event(
            id=f"{conversation}/{text_at(activity, 'id')}",
            app=options["bot"],
            parts=parts,
            sender=sender,
            group="" if direct else group,
            thread=root,
            address=conversation if self.options.app_secret else "",
            options=options,
        )
        if pressed:
            return Receipt(click=Click(event=event, value=pressed))
        return Receipt(events=(event,), ack=acknowledged({}))

    def _parts(self, activity: Mapping[str, Any]) -> tuple[Part, ...]:
        """Text, pictures, and files that were shared; the message in HTML comes along too and is left."""
        text = _AT.sub("", text_at(activity, "text")).strip()
        parts: list[Part] = [Text(text)] if text else []
        for file in items_at(activity, "attachments"):
            kind, url = text_at(file, "contentType"), text_at(file, "contentUrl")
            name = text_at(file, "name")
            if kind == DOWNLOAD:
                kind, url = "application/octet-stream", text_at(file, "content", "downloadUrl")
            elif not kind.startswith(("image/", "audio/", "video/")):
                continue
            if url:
                kind = "image/png" if kind == "image/*" else kind
                parts.append(media_part(kind, ref=attachment(self.name, url), name=name))
        return tuple(parts)

    def measure(self, text: str) -> int:
        """UTF-16 units of the text in JSON, for Teams counts the whole message; it writes Markdown itself."""
        return utf16_units(msgspec.json.encode(text).decode())

    async def send(self, letter: Letter) -> str:
        """Reply in the conversation. Teams can't tell what it has: after a crash a message may come twice."""
        reply_to = letter.options.get("reply_to", "")
        answer = await self._call("POST", letter.address, letter.options, self._message(letter), reply_to)
        return text_at(answer, "id") or "sent"

    async def ask(self, letter: Letter, choices: tuple[Choice, ...]) -> str:
        """Ask with a card. https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-actions"""
        actions = [
            {"type": "Action.OpenUrl", "title": one.label, "url": one.url}
            if one.url
            else {"type": "Action.Submit", "title": one.label, "data": {"sampan": one.value}}
            for one in choices
        ]
        words = {"type": "TextBlock", "text": letter.text, "wrap": True}
        card = {"type": "AdaptiveCard", "version": "1.4", "body": [words], "actions": actions}
        asked = {**self._message(letter), "attachments": [{"contentType": CARD, "content": card}]}
        del asked["text"]
        reply_to = letter.options.get("reply_to", "")
        answer = await self._call("POST", letter.address, letter.options, asked, reply_to)
        return text_at(answer, "id") or "sent"

    async def edit(self, letter: Letter, sent: str) -> None:
        """Put other words in place of a message's."""
        await self._call("PUT", letter.address, letter.options, {**self._message(letter), "id": sent}, sent)

    async def typing(self, address: str, options: Mapping[str, str]) -> None:
        """The typing sign, for a few seconds."""
        await self._call("POST", address, options, {"type": "typing", "from": {"id": options.get("bot", "")}})

    def _message(self, letter: Letter) -> dict[str, Any]:
        return {
            "type": "message",
            "from": {"id": letter.options.get("bot", "")},
            "conversation": {"id": letter.address},
            "replyToId": letter.options.get("reply_to", ""),
            "text": letter.text,
            "textFormat": "markdown",
        }

    async def _call(
        self, method: str, conversation: str, options: Mapping[str, str], asked: object, activity: str = ""
    ) -> dict[str, Any]:
        """Call the connector that the message came by, if it is one of Teams'; raises a ChannelError."""
        service = options.get("service", "").rstrip("/")
        if not self._is_ours(f"{service}/"):
            raise ChannelRefusedError("the serviceUrl of the message is not one of Teams'")
        url = f"{service}/v3/conversations/{quote(conversation, safe='')}/activities"
        url += f"/{quote(activity, safe='')}" if activity else ""

        async def send(token: str) -> Response:
            return await self.wire.send(json_request(method, url, asked, token=token))

        answer = await self._token.call(send, lambda answer: answer.status == 401)
        if answer.status == 412:  # Teams is busy with the conversation: to be tried again
            raise ChannelError("Teams answered 412")
        if 200 <= answer.status < 300 and not answer.body:
            return {}
        return read_answer(answer, self.clock.now(), "Teams")

    def _is_ours(self, url: str) -> bool:
        return lies_with(url, SERVICES, self.options.service.rstrip("/"))

    async def _fetch_token(self) -> tuple[str, float]:
        """A token of the bot, by its client secret."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.options.app_id,
            "client_secret": self.options.app_secret,
            "scope": "https://api.botframework.com/.default",
        }
        url = f"{self.options.login}/{self.options.directory}/oauth2/v2.0/token"
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await self.wire.send(
            Request(method="POST", url=url, headers=headers, body=urlencode(form).encode())
        )
        result = read_answer(answer, self.clock.now(), "Microsoft's token service")
        token, seconds = text_at(result, "access_token"), result.get("expires_in")
        if not token or not isinstance(seconds, int):
            raise ChannelRefusedError("Microsoft gives no access token")
        return token, float(seconds)

    async def fetch(self, handle: str) -> Blob:
        """A picture from the connector with the bot's token, or a shared file by its own address."""
        if self._is_ours(handle):
            if not self.options.app_secret:
                raise ChannelRefusedError("files are read only where APP_SECRET is set")
            headers = {"authorization": f"Bearer {await self._token.get()}"}
            return await self.download(handle, "Teams' file", headers)
        if lies_with(handle, DRIVES):
            return await self.download(handle, "the shared file")
        raise ChannelRefusedError("the file does not lie with Teams")
