"""Runs the hooks of an agent's plugins in order, within their time."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from agent_core import user_code
from agent_core.clock import Clock, SystemClock
from agent_core.errors import ConfigError, PluginError
from agent_core.messages import Message, ToolCall, ToolResult, Turn, sound
from agent_core.plugins.base import HOOKS, Stop

log = logging.getLogger("sampan.plugins")

T = TypeVar("T", Message, ToolCall, ToolResult)


class Hook(NamedTuple):
    """One hook of one plugin, and how it wants to be called."""

    plugin: str
    name: str
    function: Callable[..., Any]
    takes_turn: bool
    is_async: bool
    inline: bool


class PluginChain:
    """The plugins of one agent. What comes in passes them first to last, what goes out last to first.

    `process` and `before_tool` go first to last, `on_reply` and `after_tool` last to first, so that the first plugin
    is the outermost. A plugin that raises, takes longer than `timeout_seconds` or gives back the wrong thing
    raises PluginError with its name.
    """

    def __init__(
        self, plugins: Sequence[object], *, timeout_seconds: float, clock: Clock | None = None
    ) -> None:
        self._seconds = timeout_seconds
        self._clock = clock or SystemClock()
        hooks = [hook for plugin in plugins for hook in hooks_of(plugin)]
        self._process = [hook for hook in hooks if hook.name == "process"]
        self._before_tool = [hook for hook in hooks if hook.name == "before_tool"]
        self._on_reply = [hook for hook in reversed(hooks) if hook.name == "on_reply"]
        self._after_tool = [hook for hook in reversed(hooks) if hook.name == "after_tool"]
        self.reads_messages = bool(self._process)
        """Whether any plugin looks at inbound messages."""
        self.changes_replies = any(
            hasattr(plugin, "on_reply") and not getattr(plugin, "observes", False) for plugin in plugins
        )
        """Whether a reply may come out otherwise than the model gave it; then it must not be shown before its end."""
        self.awaits_replies = any(hook.is_async for hook in self._on_reply)
        """Whether a plugin may wait for somebody else with the reply; then that is stored first."""

    async def process(self, message: Message, turn: Turn) -> Message:
        """The message to go on with; raises Stop where a plugin answers itself."""
        return await self._pass(self._process, message, turn)

    async def on_reply(self, message: Message, turn: Turn) -> Message:
        """The reply to give."""
        return await self._pass(self._on_reply, message, turn)

    async def before_tool(self, call: ToolCall, turn: Turn) -> ToolCall:
        """The call to run."""
        return await self._pass(self._before_tool, call, turn)

    async def after_tool(self, result: ToolResult, turn: Turn) -> ToolResult:
        """The result to show to the model."""
        return await self._pass(self._after_tool, result, turn)

    async def _pass(self, hooks: Sequence[Hook], value: T, turn: Turn) -> T:
        for hook in hooks:
            given = await self._call(hook, value, turn)
            if given is None:
                continue
            if not isinstance(given, type(value)):
                raise _failed(hook, f"gave back {type(given).__name__}, not {type(value).__name__} or None")
            if given is not value:
                value = _storable(hook, given)
        return value

    async def _call(self, hook: Hook, value: Message | ToolCall | ToolResult, turn: Turn) -> Any:
        function = functools.partial(hook.function, value, *((turn,) if hook.takes_turn else ()))
        try:
            if hook.inline:
                return _inline(function)
            threaded = not hook.is_async
            return await user_code.run(function, seconds=self._seconds, clock=self._clock, threaded=threaded)
        except Stop as stop:
            if hook.name != "process":
                raise _failed(hook, "raised Stop, which belongs into process") from stop
            if not isinstance(stop.reply, str | Message):
                raise _failed(hook, f"stopped with {type(stop.reply).__name__}, not str or Message") from stop
            words = stop.reply if isinstance(stop.reply, Message) else Message.of("assistant", stop.reply)
            _storable(hook, words)
            raise
        except user_code.Overdue as error:
            raise _failed(hook, f"took longer than {self._seconds:g} s") from error
        except (user_code.Exited, user_code.Refused) as error:
            raise _failed(hook, str(error)) from error
        except Exception as error:  # the hook is the outermost boundary of a user's code
            # The error's own words may quote the message: they go to the log by data class, never to the caller.
            secret = turn.data_class in ("confidential", "restricted")
            log.warning(
                "run=<%s>, plugin=<%s>, hook=<%s>, error=<%s> | a plugin failed",
                turn.run_id,
                hook.plugin,
                hook.name,
                type(error).__name__,
                exc_info=None if secret else error,
            )
            raise _failed(hook, f"raised {type(error).__name__}") from error


def _storable(hook: Hook, given: T) -> T:
    """What the hook gave back, found out here if it can't be stored: later, nobody would know whose fault it is."""
    try:
        return sound(given)
    except (TypeError, ValueError) as error:
        raise _failed(hook, f"gave back a {type(given).__name__} that can't be stored") from error


def _inline(function: Callable[[], Any]) -> Any:
    """Call it here, on the loop, where an exit or a cancellation must not pass for one of ours."""
    try:
        return function()
    except (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError) as error:
        raise user_code.Exited(f"it raised {type(error).__name__}") from error


def hooks_of(plugin: object) -> list[Hook]:
    """The plugin's hooks; raises ConfigError where it is no plugin."""
    name = plugin_name(plugin)
    if inspect.isclass(plugin):
        raise ConfigError(f"plugin {name} is a class: give an object of it, {name}()")
    hooks = []
    for hook in HOOKS:
        function = getattr(plugin, hook, None)
        if function is None:
            continue
        if not callable(function):
            raise ConfigError(f"plugin {name}: {hook} is not a function")
        asynchronous = user_code.is_async(function)
        inline = bool(getattr(plugin, "inline", False)) and not asynchronous
        hooks.append(Hook(name, hook, function, _takes_turn(name, hook, function), asynchronous, inline))
    if not hooks:
        raise ConfigError(f"{plugin!r} is no plugin: it has none of {', '.join(HOOKS)}")
    return hooks


def plugin_name(plugin: object) -> str:
    """What the plugin is called in errors and logs: its `name`, else its class."""
    name = getattr(plugin, "name", None)
    if isinstance(name, str) and name:
        return name
    return plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__


def _takes_turn(plugin: str, hook: str, function: Callable[..., Any]) -> bool:
    signature = inspect.signature(function)
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    raise ConfigError(
        f"plugin {plugin}: write `def {hook}(self, {_WORDS[hook]})` or `(self, {_WORDS[hook]}, turn)`"
    )


_WORDS = {"process": "message", "on_reply": "message", "before_tool": "call", "after_tool": "result"}


def _failed(hook: Hook, words: str) -> PluginError:
    return PluginError(f"the plugin {hook.plugin} failed: {hook.name} {words}", plugin=hook.plugin)
