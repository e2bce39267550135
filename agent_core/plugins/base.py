"""What a plugin is: any object with one or more of the four hooks. No base class is needed."""

from __future__ import annotations

from typing import Protocol

from agent_core.messages import Message, ToolCall, ToolResult, Turn

HOOKS = ("process", "on_reply", "before_tool", "after_tool")
"""The names of the hooks."""


class Stop(Exception):
    """Raise it in `process` to end the run with this reply; no model is called."""

    def __init__(self, reply: str | Message) -> None:
        super().__init__("the run ends with this reply")
        self.reply = reply


class Plugin(Protocol):
    """All hooks a plugin may have; each may be `async def`, and each may leave out `turn`.

    A hook gives back what to go on with, or None for "unchanged". A synchronous hook runs in a thread; with the class
    attribute `inline = True` it runs on the event loop, which saves the thread's hop but stops all others meanwhile:
    only for hooks that take microseconds. With `observes = True` a plugin promises that its `on_reply` changes
    nothing, so that replies may go on streaming.
    """

    def process(self, message: Message, turn: Turn) -> Message | None:
        """An inbound message on its way to the model; may raise Stop."""

    def on_reply(self, message: Message, turn: Turn) -> Message | None:
        """The reply on its way out."""

    def before_tool(self, call: ToolCall, turn: Turn) -> ToolCall | None:
        """A tool call, before it is checked and run."""

    def after_tool(self, result: ToolResult, turn: Turn) -> ToolResult | None:
        """What the tool gave, before the model reads it."""
