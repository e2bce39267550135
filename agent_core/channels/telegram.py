"""Telegram: messages to a bot in; answers in Telegram's HTML, as a reply where others speak too.

https://core.telegram.org/bots/api
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

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
from agent_core.channels.calls import json_of, refused
from agent_core.channels.markdown import PLAIN, Dialect, render
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.hmacs import TokenScheme
from agent_core.channels.split import utf16_units
from agent_core.clock import Clock
from agent_core.errors import ChannelRefusedError, ConfigError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

SECRET_HEADER = "x-telegram-bot-api-secret-token"  # noqa: S105 - the name of a header
_TOKEN = re.compile(r"\d+:[A-Za-z0-9_-]{10,}")

MEDIA = {
    "document": "application/octet-stream",
    "voice": "audio/ogg",
    "audio": "audio/mpeg",
    "video": "video/mp4",
    "video_note": "video/mp4",
    "animation": "video/mp4",
}
"""Fields of a message that hold a file, with the media type where none is said."""


def _block(language: str, code: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9+#_-]+", language):
        return f'<pre><code class="language-{language}">{escape(code, quote=False)}</code></pre>'
    return f"<pre>{escape(code, quote=False)}</pre>"


HTML = Dialect(
    escape=lambda text: escape(text, quote=False),
    bold=lambda words: f"<b>{words}</b>",
    italic=lambda words: f"<i>{words}</i>",
    strike=lambda words: f"<s>{words}</s>",
    quote=lambda words: f"<blockquote>{words}</blockquote>",
    code=lambda code: f"<code>{escape(code, quote=False)}</code>",
    block=_block,
    link=lambda words, url: f'<a href="{escape(url)}">{words}</a>',
)
"""https://core.telegram.org/bots/api#html-style"""


class TelegramOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Telegram."""

    secret: tuple[str, ...] = ()
    """The `secret_token` given to setWebhook; several while it is changed."""

    token: str = ""
    """Token of the bot, from @BotFather."""

    username: str = ""
    """Name of the bot without @, by which it is spoken to in groups."""

    api: str = "https://api.telegram.org"
    """Base URL of the Bot API."""


class Telegram(Channel):
    """A Telegram bot."""

    Options = TelegramOptions
    limit = 4096
    edits = True
    buttons = True
    typing_seconds = 4.5

    def __init__(self, name: str, options: TelegramOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = TokenScheme(SECRET_HEADER, self.secrets("secret"))
        if not _TOKEN.fullmatch(options.token):
            raise ConfigError("the bot's token from @BotFather (123456:ABC...) is not set, or no token")
        self._bot = options.token.partition(":")[0]

    async def verify(self, hook: Webhook) -> bytes:
        """The body, sent by who knows the secret token."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """A message to the bot: any in private, in groups one that speaks to it."""
        update = read_object(body)
        if isinstance(update.get("callback_query"), dict):
            return Receipt(click=self._click(update["callback_query"]))
        message = update.get("message")
        sender = text_at(message, "from", "id")
        if not isinstance(message, dict) or not sender or dig(message, "from", "is_bot"):
            return Receipt()
        chat = text_at(message, "chat", "id")
        direct = text_at(message, "chat", "type") == "private"
        text = text_at(message, "text") or text_at(message, "caption")
        if not direct and not self._spoken_to(message, text):
            return Receipt()
        parts = self._parts(self._without_name(text), message)
        topic = text_at(message, "message_thread_id") if message.get("is_topic_message") else ""
        options = {"topic": topic} if topic else {}
        if not direct:
            options["reply_to"] = text_at(message, "message_id")
        event = Event(
            id=text_at(update, "update_id"),
            app=self._bot,
            parts=parts,
            sender=sender,
            group="" if direct else chat,
            thread=topic,
            address=chat,
            options=options,
        )
        return Receipt(events=(event,) if parts else ())

    def _click(self, query: Mapping[str, Any]) -> Click | None:
        """A button that was pressed."""
        chat, sender = text_at(query, "message", "chat", "id"), text_at(query, "from", "id")
        direct = text_at(query, "message", "chat", "type") == "private"
        if not chat or not sender or not text_at(query, "data"):
            return None
        event = Event(
            id=text_at(query, "id"), app=self._bot, parts=(), sender=sender, group="" if direct else chat
        )
        return Click(event=event, value=text_at(query, "data"))

    def told(self, click: Click, words: str) -> Response:
        """Telegram takes a call as the answer to a webhook: the button's sign goes, and the words are shown."""
        call = {"method": "answerCallbackQuery", "callback_query_id": click.event.id, "text": words}
        return acknowledged(call)

    def _spoken_to(self, message: Mapping[str, Any], text: str) -> bool:
        """Whether a message in a group is for the bot: it names it, answers it, or is a command."""
        if text_at(message, "reply_to_message", "from", "id") == self._bot:
            return True
        name = self.options.username
        if text.startswith("/"):
            addressed = text.split(maxsplit=1)[0].partition("@")[2]
            return not addressed or (bool(name) and addressed.lower() == name.lower())
        return bool(name) and re.search(rf"@{re.escape(name)}\b", text, re.IGNORECASE) is not None

    def _without_name(self, text: str) -> str:
        name = self.options.username
        called = rf"@{re.escape(name)}\b[,:]*"
        return re.sub(called, "", text, count=1, flags=re.IGNORECASE).strip() if name else text.strip()

    def _parts(self, text: str, message: Mapping[str, Any]) -> tuple[Part, ...]:
        parts: list[Part] = [Text(text)] if text else []
        photos = items_at(message, "photo")
        if photos:  # the sizes of one picture, the largest last
            parts.append(media_part("image/jpeg", ref=attachment(self.name, text_at(photos[-1], "file_id"))))
        for field, usual in MEDIA.items():
            file_id = text_at(message, field, "file_id")
            if file_id and not (field == "document" and "animation" in message):
                kind = text_at(message, field, "mime_type") or usual
                ref = attachment(self.name, file_id)
                parts.append(media_part(kind, ref=ref, name=text_at(message, field, "file_name")))
        return tuple(parts)

    def measure(self, text: str) -> int:
        """UTF-16 units of what is read, without the markup: so Telegram counts."""
        return utf16_units(render(text, PLAIN))

    async def send(self, letter: Letter) -> str:
        """Send one message; to a group that has become a supergroup, there."""
        return await self._say(letter)

    async def ask(self, letter: Letter, choices: tuple[Choice, ...]) -> str:
        """Ask with buttons under the message. https://core.telegram.org/bots/api#inlinekeyboardbutton (64 bytes)"""
        row = [
            {"text": one.label} | ({"url": one.url} if one.url else {"callback_data": one.value})
            for one in choices
        ]
        return await self._say(letter, {"reply_markup": {"inline_keyboard": [row]}})

    async def _say(self, letter: Letter, more: Mapping[str, Any] | None = None) -> str:
        asked: dict[str, Any] = {
            "chat_id": letter.address,
            "text": render(letter.text, HTML),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
            **(more or {}),
        }
        if letter.options.get("topic"):
            asked["message_thread_id"] = int(letter.options["topic"])
        if letter.options.get("reply_to") and not letter.number:
            asked["reply_parameters"] = {
                "message_id": int(letter.options["reply_to"]),
                "allow_sending_without_reply": True,
            }
        return text_at(await self._call("sendMessage", asked), "message_id")

    async def edit(self, letter: Letter, sent: str) -> None:
        """Put other words in place of a message's."""
        asked = {
            "chat_id": letter.address,
            "message_id": int(sent),
            "text": render(letter.text, HTML),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        try:
            await self._call("editMessageText", asked)
        except ChannelRefusedError as error:
            if "message is not modified" not in error.detail:
                raise

    async def typing(self, address: str, options: Mapping[str, str]) -> None:
        """The typing sign, which Telegram shows for five seconds."""
        asked: dict[str, Any] = {"chat_id": address, "action": "typing"}
        if options.get("topic"):
            asked["message_thread_id"] = int(options["topic"])
        await self._call("sendChatAction", asked)

    async def _call(self, method: str, asked: Mapping[str, Any]) -> Any:
        """Call a method of the Bot API and give its result; raises a ChannelError."""
        answer = await self.wire.send(
            Request(
                method="POST",
                url=f"{self.options.api}/bot{self.options.token}/{method}",
                headers={"content-type": "application/json"},
                body=msgspec.json.encode(asked),
            )
        )
        result = json_of(answer, f"Telegram's {method}")
        if result.get("ok") is True:
            return result.get("result")
        moved = text_at(result, "parameters", "migrate_to_chat_id")
        if moved and moved != asked.get("chat_id"):
            return await self._call(method, {**asked, "chat_id": moved})
        wait = dig(result, "parameters", "retry_after")
        what = f"Telegram's {method} says {text_at(result, 'description')[:200]!r}:"
        raise refused(answer, self.clock.now(), what, wait=wait if isinstance(wait, int) else None)

    async def fetch(self, handle: str) -> Blob:
        """A file by its id: where it lies is asked first. Telegram gives files of up to 20 MB."""
        found = await self._call("getFile", {"file_id": handle})
        path = text_at(found, "file_path")
        if not path or ".." in path or "://" in path:
            raise ChannelRefusedError("Telegram does not say where the file is")
        url = f"{self.options.api}/file/bot{self.options.token}/{path}"
        answer = await self.wire.send(Request(method="GET", url=url))
        if answer.status != 200:
            raise refused(answer, self.clock.now(), "Telegram's file")
        return Blob(answer.body, answer.headers.get("content-type", ""))
