"""Small services on loopback: each sends webhooks as its service does, and takes what its service's API takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from tests.agent_core.channels.fakes import Said, Service


class Hook(NamedTuple):
    """A webhook as it is sent: raw bytes, headers, query."""

    body: bytes
    headers: Mapping[str, str]
    query: str = ""


class Speaker(Service):
    """A service that speaks both ways. One suite runs over all of them: `test_talk_back.py`."""

    kind: ClassVar[str]
    limit: ClassVar[int]
    """The longest message it takes, as `size` counts."""

    once: ClassVar[bool] = False
    """Whether the same letter sent again is one message for the service."""

    groups: ClassVar[bool] = True

    LIMITED: ClassVar[Said] = Said(429, {}, {"retry-after": "30"})
    """What it says to who sends too fast; to wait 30 seconds."""

    REFUSED: ClassVar[Said] = Said(403, {"error": "forbidden"})
    """What it says where it never will take a message."""

    def settings(self) -> dict[str, str]:
        """The options of the channel."""
        raise NotImplementedError

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        """Something said by `who`, in a group or to the bot alone, with a picture of that name or without."""
        raise NotImplementedError

    def unsigned(self, hook: Hook) -> Hook:
        """The same webhook as somebody sends it who has no key."""
        return Hook(hook.body, {"content-type": "application/json"})

    def buttons(self) -> dict[str, str]:
        """The buttons of its last message by their words: the value, or the address that it leads to."""
        raise NotImplementedError

    def press(self, value: str, *, name: str, who: str, group: str, now: float) -> Hook:
        """The webhook of a click on the button with this value."""
        raise NotImplementedError

    def size(self, text: str) -> int:
        """How long it finds a text."""
        return len(text)

    def reached(self) -> list[str]:
        """Where each message went: a person, a group or a thread, as the service names them."""
        raise NotImplementedError

    def add(self, text: str, **message: Any) -> str:
        """Keep a message; its id."""
        self.messages.append({"text": text, **message})
        return str(len(self.messages))
