"""Slack: direct messages and mentions in, slash commands too; answers in the thread, in Slack's own markup.

https://docs.slack.dev/apis/events-api, https://docs.slack.dev/reference/methods/chat.postMessage
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

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
from agent_core.channels.calls import lies_with, read_answer, refused
from agent_core.channels.markdown import Dialect, render
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, items_at, read_object, text_at
from agent_core.channels.schemes.hmacs import SLACK, HmacScheme
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ChannelRefusedError, ConfigError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Wire

PASSING = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
"""Errors of the API that may pass."""

FILES = ("files.slack.com", "slack-files.com")
"""Where files lie: the bot's token goes to no other host."""

_MENTION = re.compile(r"<@[A-Z0-9]+(?:\|[^>]*)?>\s*")
_ANGLED = re.compile(r"<(?P<kind>[@#!]?)(?P<target>[^|>]*)(?:\|(?P<label>[^>]*))?>")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


MRKDWN = Dialect(
    escape=_escape,
    bold=lambda words: f"*{words}*",
    italic=lambda words: f"_{words}_",
    strike=lambda words: f"~{words}~",
    quote=lambda words: "\n".join(f"> {line}" for line in words.split("\n")),
    code=lambda code: f"`{_escape(code)}`",
    block=lambda language, code: f"```\n{_escape(code)}\n```",
    link=lambda words, url: f"<{_escape(url)}|{words}>",
)
"""https://docs.slack.dev/messaging/formatting-message-text"""


class SlackOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for Slack."""

    secret: tuple[str, ...] = ()
    """Signing secret of the app; several while it is changed."""

    token: str = ""
    """Bot token (`xoxb-...`) with `chat:write`, and `files:read` for files."""

    api: str = "https://slack.com/api"
    """Base URL of Slack's API."""


class Slack(Channel):
    """A Slack app."""

    Options = SlackOptions
    limit = 4000
    edits = True
    buttons = True

    def __init__(self, name: str, options: SlackOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = HmacScheme(SLACK, self.secrets("secret"))
        if not options.token:
            raise ConfigError("the bot token (xoxb-...) is not set: nothing could be answered without it")

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by Slack just now."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """An event, a slash command, or a click; the handshake is answered with its challenge."""
        if not body.lstrip().startswith(b"{"):
            form = hook.form()
            if "payload" in form:
                return Receipt(click=_click(read_object(form["payload"].encode())))
            return Receipt(events=self._command(form))
        payload = read_object(body)
        if payload.get("type") == "url_verification":
            return Receipt(ack=acknowledged({"challenge": text_at(payload, "challenge")}))
        if payload.get("type") != "event_callback":
            return Receipt()
        return Receipt(events=self._message(payload))

    def _message(self, payload: Mapping[str, Any]) -> tuple[Event, ...]:
        """A direct message, or one that mentions the bot; not what bots say, nor edits."""
        event = payload.get("event")
        kind, direct = text_at(event, "type"), text_at(event, "channel_type") == "im"
        spoken = kind == "app_mention" or (kind == "message" and direct)
        subtype = text_at(event, "subtype")
        sender = text_at(event, "user")
        if not spoken or not sender or dig(event, "bot_id") or subtype not in ("", "file_share"):
            return ()
        text = (
            _MENTION.sub("", text_at(event, "text"), count=1)
            if kind == "app_mention"
            else text_at(event, "text")
        )
        parts = self._parts(_readable(text).strip(), items_at(event, "files"))
        if not parts:
            return ()
        conversation, stamp = text_at(event, "channel"), text_at(event, "ts")
        root = text_at(event, "thread_ts")
        thread = root if direct else root or stamp
        return (
            Event(
                id=text_at(payload, "event_id"),
                app=text_at(payload, "team_id"),
                parts=parts,
                sender=sender,
                group="" if direct else conversation,
                thread=thread,
                address=conversation,
                options={"thread": thread} if thread else {},
            ),
        )

    def _command(self, form: Mapping[str, str]) -> tuple[Event, ...]:
        """A slash command: its words are the message, and its answer goes where the command was given."""
        text = form.get("text", "").strip()
        if not text or not form.get("command"):
            return ()
        conversation = form.get("channel_id", "")
        direct = conversation.startswith("D")
        return (
            Event(
                id=form.get("trigger_id", ""),
                app=form.get("team_id", ""),
                parts=(Text(_readable(text)),),
                sender=form.get("user_id", ""),
                group="" if direct else conversation,
                address=conversation,
                options={"response_url": form.get("response_url", "")},
            ),
        )

    def _parts(self, text: str, files: list[Any]) -> tuple[Part, ...]:
        parts: list[Part] = [Text(text)] if text else []
        for file in files:
            url = text_at(file, "url_private_download") or text_at(file, "url_private")
            if url:
                ref = attachment(self.name, url)
                parts.append(media_part(text_at(file, "mimetype"), ref=ref, name=text_at(file, "name")))
        return tuple(parts)

    def measure(self, text: str) -> int:
        """Characters as they are sent, markup and escapes included."""
        return len(render(text, MRKDWN))

    async def send(self, letter: Letter) -> str:
        """Post one message, marked with the letter's id so that it can be found again."""
        return await self._post(letter, render(letter.text, MRKDWN))

    async def ask(self, letter: Letter, choices: tuple[Choice, ...]) -> str:
        """Ask with buttons, in the thread. https://docs.slack.dev/reference/block-kit/blocks/actions-block"""
        text = render(letter.text, MRKDWN)
        buttons = [
            {
                "type": "button",
                "text": {"type": "plain_text", "text": one.label},
                "action_id": f"sampan_{number}",
            }
            | ({"url": one.url} if one.url else {"value": one.value})
            for number, one in enumerate(choices)
        ]
        section = {"type": "section", "text": {"type": "mrkdwn", "text": text}}
        return await self._post(letter, text, [section, {"type": "actions", "elements": buttons}])

    async def _post(self, letter: Letter, text: str, blocks: list[Any] | None = None) -> str:
        response_url = letter.options.get("response_url", "")
        if response_url and not blocks:
            return await self._respond(response_url, text)
        asked: dict[str, Any] = {
            "channel": letter.address,
            "text": text,
            "unfurl_links": False,
            "unfurl_media": False,
            "metadata": {"event_type": "sampan_answer", "event_payload": {"id": letter.id}},
        }
        if blocks:
            asked["blocks"] = blocks
        if letter.options.get("thread"):
            asked["thread_ts"] = letter.options["thread"]
        return text_at(await self._call("chat.postMessage", asked), "ts")

    async def edit(self, letter: Letter, sent: str) -> None:
        """Put other words in place of a message's."""
        text = render(letter.text, MRKDWN)
        await self._call("chat.update", {"channel": letter.address, "ts": sent, "text": text})

    async def _respond(self, url: str, text: str) -> str:
        """Answer a slash command where it was given, even where the bot is no member."""
        if not lies_with(url, ("hooks.slack.com",), self.options.api):
            raise ChannelRefusedError("the response_url of the command is not Slack's")
        body = msgspec.json.encode({"response_type": "ephemeral", "text": text})
        headers = {"content-type": "application/json; charset=utf-8"}
        answer = await self.wire.send(Request(method="POST", url=url, headers=headers, body=body))
        if answer.status != 200:
            raise refused(answer, self.clock.now(), "Slack's response_url")
        return "response"

    async def find(self, letter: Letter) -> str:
        """The message that carries the letter's id, if it is among the latest of its conversation."""
        if letter.options.get("response_url"):
            return ""
        thread = letter.options.get("thread", "")
        method = "conversations.replies" if thread else "conversations.history"
        query = {"channel": letter.address, "limit": "100", "include_all_metadata": "true"}
        if thread:
            query["ts"] = thread
        try:
            found = await self._call(method, query)
        except ChannelRefusedError:
            return ""  # the app has no scope to read what was said: then it can't tell
        for message in items_at(found, "messages"):
            if text_at(message, "metadata", "event_payload", "id") == letter.id:
                return text_at(message, "ts")
        return ""

    async def _call(self, method: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Call a method of the API; raises a ChannelError that knows whether it may pass."""
        headers = {"authorization": f"Bearer {self.options.token}"}
        if method.startswith("conversations."):  # these take no JSON
            headers["content-type"] = "application/x-www-form-urlencoded"
            body = urlencode(asked).encode()
        else:
            headers["content-type"] = "application/json; charset=utf-8"
            body = msgspec.json.encode(asked)
        url = f"{self.options.api}/{method}"
        answer = await self.wire.send(Request(method="POST", url=url, headers=headers, body=body))
        result = read_answer(answer, self.clock.now(), f"Slack's {method}")
        if result.get("ok") is True:
            return result
        error = text_at(result, "error")
        kind = ChannelError if error in PASSING else ChannelRefusedError
        raise kind(f"Slack's {method} says {error[:100]!r}")

    async def fetch(self, handle: str) -> Blob:
        """A file that was shared, by the bot's token."""
        if not lies_with(handle, FILES, self.options.api):
            raise ChannelRefusedError("the file does not lie with Slack")
        blob = await self.download(handle, "Slack's file", {"authorization": f"Bearer {self.options.token}"})
        if blob.media_type == "text/html":  # what Slack gives to whom it does not know: its sign-in page
            raise ChannelRefusedError("Slack gives no file: the bot's token lacks files:read")
        return blob


def _click(payload: Mapping[str, Any]) -> Click | None:
    """A button of ours that was pressed. https://docs.slack.dev/reference/interaction-payloads/block_actions-payload"""
    actions, sender = items_at(payload, "actions"), text_at(payload, "user", "id")
    value = text_at(actions[0], "value") if actions else ""
    if payload.get("type") != "block_actions" or not value or not sender:
        return None
    conversation = text_at(payload, "channel", "id")
    event = Event(
        id=text_at(payload, "trigger_id"),
        app=text_at(payload, "team", "id"),
        parts=(),
        sender=sender,
        group="" if conversation.startswith("D") else conversation,
    )
    return Click(event=event, value=value)


def _readable(text: str) -> str:
    """Slack's text with its escapes undone: links as their address, names as they are shown."""

    def shown(found: re.Match[str]) -> str:
        target, label = found["target"], found["label"]
        if found["kind"]:
            return f"{found['kind'].replace('!', '@')}{label or target}"
        return target if not label or label == target else f"{label} ({target})"

    text = _ANGLED.sub(shown, text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
