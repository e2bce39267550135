"""The port of a chat service: verify a webhook, read what it says, write an answer. One service is one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from agent_core.blobs.base import Blob
from agent_core.channels.calls import refused
from agent_core.clock import Clock
from agent_core.errors import ChannelRefusedError, ConfigError
from agent_core.messages import Part
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

Scope = Literal["", "person", "thread", "group"]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for every channel: `SAMPAN_<NAME>_<OPTION>`. A channel adds its own, such as its secrets.

    An option of several words (a tuple) is split at spaces, `allow` at commas too.
    """

    agent: str = ""
    """Agent that answers; unset, the default one."""

    tenant: str = "default"
    """Tenant that the conversations belong to."""

    open: bool = False
    """Whether strangers are answered; else they get a pairing code, once, and nothing more."""

    allow: tuple[str, ...] = ()
    """Ids of persons and groups that are answered without pairing."""

    scope: Scope = ""
    """Who shares a conversation in a group: `person`, `thread` or `group`; unset, the thread, else the group."""

    live: bool = True
    """Whether a message shows an answer while it is written, where the service lets messages be changed."""

    greeting: str = "I don't know you yet. Give this code to whoever runs me, who lets you in with it: {code}"
    """What a stranger is told, with `{code}` where the pairing code stands."""

    sorry: str = "Sorry, that did not work. Please try again."
    """What is said where an answer failed."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something said on a channel.

    `id` is the service's own id of the event, the same however often it is sent, within `app` (the workspace or bot).
    `sender` is who said it; "" for a machine, whose signature is trusted. `group` is "" between two; `thread` is a
    conversation inside. `address` and `options` say where the answer goes; without an address nobody is answered.
    A file stands in a part whose `ref` is made by `attachment`; it is fetched later.
    """

    id: str
    parts: tuple[Part, ...]
    app: str = ""
    sender: str = ""
    group: str = ""
    thread: str = ""
    address: str = ""
    options: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A button: a click gives its `value`, or it leads to `url`."""

    label: str
    value: str = ""
    url: str = ""


class Click(msgspec.Struct, frozen=True, kw_only=True):
    """A person chose a button with this value. The event says who and where; it has no parts."""

    event: Event
    value: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook says: events, and how the service wants to be answered."""

    events: tuple[Event, ...] = ()
    click: Click | None = None
    ack: Response = Response(status=200)


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One message to be sent: Markdown of a length that the service takes.

    `id` is the same whenever this message is tried again. `number` counts the messages of one answer, from 0.
    """

    address: str
    options: Mapping[str, str]
    text: str
    id: str
    number: int = 0


class Channel:
    """A service that sends webhooks. Make a subclass: `verify` and `read`, and `send` where it can be answered."""

    Options: ClassVar[type[Options]] = Options
    """What can be set for this channel."""

    people: bool = True
    """Whether its messages are what a person says to the agent; events hold words of whoever caused them."""

    limit: ClassVar[int] = 4000
    """The longest message, as `measure` counts."""

    pause: ClassVar[float] = 1.0
    """Seconds from one message of an answer to the next: what the service takes in one conversation."""

    edits: ClassVar[bool] = False
    """Whether a message can be changed after it was sent: then an answer is shown while it is written."""

    draft_seconds: ClassVar[float] = 3.0
    """Seconds from one change of such a message to the next."""

    buttons: ClassVar[bool] = False
    """Whether it can ask with buttons."""

    typing_seconds: ClassVar[float] = 0.0
    """How long the service shows a typing sign; 0 where it has none."""

    def __init__(self, name: str, options: Any, *, wire: Wire, clock: Clock) -> None:
        self.name = name
        self.options = options
        self.wire = wire
        self.clock = clock

    def secrets(self, field: str, *, least: int = 8) -> tuple[str, ...]:
        """The values of an option that holds secrets; any of them will do, so that they can be changed one by one.

        Raises ConfigError where there is none, or one of fewer than `least` characters: a phrase with spaces would
        count as several short secrets.
        """
        values: tuple[str, ...] = getattr(self.options, field)
        variable = option_variable(self.name, field)
        if not values:
            raise ConfigError(f"{variable} is not set: no webhook could be verified without it")
        if any(len(value) < least for value in values):
            raise ConfigError(
                f"each secret in {variable} needs {least} characters at least; several are parted by spaces"
            )
        return values

    async def download(self, url: str, what: str, headers: Mapping[str, str] | None = None) -> Blob:
        """The file at an address; raises a ChannelError or WireError.

        Where the service sends us on, we go without `headers`, as a token is for the service alone, and only into the
        public internet: who put the file there may have had a say in where that is.
        """
        answer = await self.wire.send(Request(method="GET", url=url, headers=headers or {}))
        if answer.status in (301, 302, 303, 307, 308):
            there = answer.headers.get("location", "")
            if not there.startswith("https://"):
                raise ChannelRefusedError(f"{what} lies at no address that can be read")
            # Loaded with the first file that lies elsewhere.
            from agent_core.security.addresses import CALLBACKS
            from agent_core.wire.outside import OutsideWire

            answer = await OutsideWire(self.wire, CALLBACKS).send(Request(method="GET", url=there))
        if answer.status != 200:
            raise refused(answer, self.clock.now(), what)
        return Blob(answer.body, answer.headers.get("content-type", "").partition(";")[0])

    async def verify(self, hook: Webhook) -> bytes:
        """The bytes that the service vouches for; raises SignatureError. Called before anything is read."""
        raise NotImplementedError

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """What the verified body says; raises MalformedError. Quick and pure: the service waits for the answer."""
        raise NotImplementedError

    async def send(self, letter: Letter) -> str:
        """Send one message and return its id; raises a ChannelError or WireError."""
        raise ChannelRefusedError(f"the channel {self.name} takes no answers")

    async def edit(self, letter: Letter, sent: str) -> None:
        """Put the letter in place of the message with the id `sent`. Only called where `edits` is set."""
        raise ChannelRefusedError(f"the channel {self.name} changes no messages")

    async def ask(self, letter: Letter, choices: tuple[Choice, ...]) -> str:
        """Send a message with buttons and return its id. Only called where `buttons` is set."""
        raise ChannelRefusedError(f"the channel {self.name} has no buttons")

    def told(self, click: Click, words: str) -> Response:
        """How a click is acknowledged, with what came of it where the service shows that."""
        return acknowledged()

    async def typing(self, address: str, options: Mapping[str, str]) -> None:
        """Show that an answer is on its way. Only called where `typing_seconds` is set."""

    async def find(self, letter: Letter) -> str:
        """The id of a message that may have been sent before a crash; "" where it was not, or nobody can tell."""
        return ""

    async def fetch(self, handle: str) -> Blob:
        """The file behind an attachment; raises a ChannelError or WireError."""
        raise ChannelRefusedError(f"the channel {self.name} has no files")

    def measure(self, text: str) -> int:
        """How long the service finds this Markdown."""
        return len(text)


def option_variable(name: str, field: str) -> str:
    """The environment variable of a channel's option."""
    return f"SAMPAN_{name.upper().replace('-', '_')}_{field.upper()}"


ATTACHMENT = "channel:"


def attachment(channel: str, handle: str) -> str:
    """The reference of a file that is still with its service; `handle` is what `fetch` needs."""
    return f"{ATTACHMENT}{channel}:{handle}"


def acknowledged(value: object = None, status: int = 200) -> Response:
    """An answer to a webhook: JSON, or nothing."""
    if value is None:
        return Response(status=status)
    return Response(
        status=status, headers={"content-type": "application/json"}, body=msgspec.json.encode(value)
    )


def plain(text: str) -> Response:
    """An answer to a webhook in plain text."""
    return Response(status=200, headers={"content-type": "text/plain; charset=utf-8"}, body=text.encode())
