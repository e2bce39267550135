"""Runs a model's tool calls: checked, within their time, and so that nothing a tool does breaks the run."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from agent_core import user_code
from agent_core.blobs.base import Blobs, room
from agent_core.clock import Clock
from agent_core.errors import AgentError, ConfigError, ToolError
from agent_core.messages import Effects, ToolCall, ToolResult, ToolSpec, Turn
from agent_core.tools.arguments import ArgumentsError
from agent_core.tools.base import Tool
from agent_core.tools.results import Rendered, clean, head, render

log = logging.getLogger("sampan.tools")

TEXT = "text/plain; charset=utf-8"


class Toolbox:
    """The tools of one agent. `timeout_seconds` is for tools that set none.

    Results longer than `result_bytes` (of UTF-8) are cut; the whole is kept as a blob of the session.
    """

    def __init__(
        self, tools: Sequence[Tool], *, blobs: Blobs, clock: Clock, timeout_seconds: float, result_bytes: int
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            raise ConfigError(f"two tools have one name among {sorted(tool.name for tool in tools)}")
        self._blobs = blobs
        self._clock = clock
        self._timeout = timeout_seconds
        self._limit = result_bytes

    @functools.cached_property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What a model is told of the tools."""
        return tuple(tool.spec for tool in self._tools.values())

    def get(self, name: str) -> Tool | None:
        """The tool of that name."""
        return self._tools.get(name)

    def effects_of(self, name: str) -> Effects:
        """What calling the tool twice does; "none" for a tool that does not exist."""
        tool = self._tools.get(name)
        return tool.effects if tool else "none"

    def groups(self, calls: Sequence[ToolCall]) -> list[list[ToolCall]]:
        """The calls in order, in groups whose members may run side by side: neighbours with effects "none"."""
        groups: list[list[ToolCall]] = []
        open_group = False
        for call in calls:
            free = self.effects_of(call.name) == "none"
            if free and open_group:
                groups[-1].append(call)
            else:
                groups.append([call])
            open_group = free
        return groups

    async def call_all(self, calls: Sequence[ToolCall], turn: Turn) -> list[ToolResult]:
        """The results in the order of the calls; each group runs side by side, one group after another."""
        results: list[ToolResult] = []
        for group in self.groups(calls):
            results += await asyncio.gather(*(self.call(call, turn) for call in group))
        return results

    async def call(self, call: ToolCall, turn: Turn) -> ToolResult:
        """Run one call. What goes wrong becomes a result for the model to read; only cancellation is raised."""
        tool = self._tools.get(call.name)
        try:
            if tool is None:
                return self._failed(call, self._unknown(call.name), trusted=True)
            arguments = tool.arguments.read(_decoded(call.arguments))
            rendered = await self._run(tool, arguments, turn)
            return await self._result(call, rendered, turn)
        except ArgumentsError as error:
            return self._failed(call, _misfit(call.name, error), trusted=True)
        except ToolError as error:
            return self._failed(call, error.detail, trusted=self._trusts(tool))
        except user_code.Overdue as error:
            return self._failed(call, self._late(call.name, tool, error), trusted=True)
        except user_code.Refused as error:
            words = f"The tool {call.name} was not run: {error}. Try again later."
            return self._failed(call, words, trusted=True)
        except user_code.Exited as error:
            self._log(call, turn, tool, error.__cause__ or error)
            return self._failed(call, f"The tool {call.name} failed: {error}.", trusted=True)
        except Exception as error:  # noqa: BLE001 - the tool call is the outermost boundary of a user's code
            self._log(call, turn, tool, error)
            words = f"The tool {call.name} failed: {_words(error)}"
            return self._failed(call, words, trusted=self._trusts(tool))

    def refuses(self, call: ToolCall) -> bool:
        """Whether the call would not be run at all, as its tool is unknown or its arguments don't fit."""
        tool = self._tools.get(call.name)
        try:
            return tool is None or tool.arguments.read(_decoded(call.arguments)) is None
        except Exception:  # noqa: BLE001 - a type may have a validator of the user's; the call itself will tell
            return True

    def shown(self, call: ToolCall) -> str:
        """What the tool would be called with, as JSON; the model's text where it would not be called at all.

        The model's text is no such thing: a name may stand in it twice, a value may have to be mended.
        """
        tool = self._tools.get(call.name)
        try:
            return render(tool.arguments.read(_decoded(call.arguments))).text if tool else call.arguments
        except Exception:  # noqa: BLE001 - as in `refuses`
            return call.arguments

    async def lookup(self, call: ToolCall, turn: Turn) -> ToolResult | None:
        """What an earlier call with this turn's idempotency key gave, as the tool itself tells; None for no call.

        Raises ToolError where the tool can't tell.
        """
        tool = self._tools.get(call.name)
        if tool is None or tool.lookup is None:
            return None
        try:
            value = await user_code.run(
                functools.partial(tool.lookup, turn.idempotency_key),
                seconds=self._timeout if tool.timeout is None else tool.timeout,
                clock=self._clock,
                threaded=not user_code.is_async(tool.lookup),
            )
        except Exception as error:
            self._log(call, turn, tool, error)
            raise ToolError(f"the lookup of {call.name} failed: {_words(error)}") from error
        return None if value is None else await self._result(call, render(value), turn)

    async def _run(self, tool: Tool, arguments: dict[str, Any], turn: Turn) -> Rendered:
        if tool.turn_argument:
            arguments = {**arguments, tool.turn_argument: turn}
        seconds = self._timeout if tool.timeout is None else tool.timeout
        if turn.deadline:
            seconds = min(seconds, turn.deadline - self._clock.now())
            if seconds <= 0:
                raise user_code.Overdue(started=False)
        function = functools.partial(tool.function, **arguments)
        threaded = not user_code.is_async(tool.function)
        rendered: Rendered = await user_code.run(
            functools.partial(_rendered, function)
            if threaded
            else functools.partial(_rendered_later, function),
            seconds=seconds,
            clock=self._clock,
            threaded=threaded,
        )
        return rendered

    async def _result(self, call: ToolCall, rendered: Rendered, turn: Turn) -> ToolResult:
        """The result within the limit; what is beyond it, or no text, is kept as a blob."""
        text, data, kind = rendered.text, rendered.data, rendered.media_type
        beginning = head(text, self._limit)
        trusted = rendered.bare or self._trusts(self._tools.get(call.name))
        if not kind and len(beginning) == len(text):
            return ToolResult(call_id=call.id, name=call.name, content=text, trusted=trusted)
        if not kind:
            data, kind = text.encode(), TEXT
        try:
            ref = await self._blobs.put(
                turn.principal.tenant, room(turn.principal, turn.session_id), data, kind
            )
            place = f"all of it is kept as blob {ref}"
        except (AgentError, OSError) as error:
            # The tool did its work: the model must not take it for failed because a copy of its result is lost.
            ref, place = "", "the rest could not be kept"
            log.warning("run=<%s>, tool=<%s>, error=<%s> | no blob was kept", turn.run_id, call.name, error)
        if kind is not TEXT:
            words = f"[{len(data)} bytes of {kind}, {place}]"
        else:
            words = f"{beginning}\n[cut after {len(beginning.encode())} of {len(data)} bytes; {place}]"
        return ToolResult(call_id=call.id, name=call.name, content=words, ref=ref, trusted=trusted)

    def _trusts(self, tool: Tool | None) -> bool:
        return tool is not None and tool.trusted

    def _failed(self, call: ToolCall, words: str, *, trusted: bool) -> ToolResult:
        words = clean(words)
        beginning = head(words, self._limit)
        if len(beginning) < len(words):
            beginning += "\n[cut]"
        return ToolResult(call_id=call.id, name=call.name, content=beginning, error=True, trusted=trusted)

    def _unknown(self, name: str) -> str:
        known = ", ".join(self._tools) or "none"
        return f"There is no tool {name!r}. There are: {known}."

    def _late(self, name: str, tool: Tool | None, error: user_code.Overdue) -> str:
        if not error.started:
            return f"The tool {name} was not run: there was no time left for it."
        words = f"The tool {name} did not finish in time and was given up."
        if tool is not None and tool.effects != "none":
            words += " What it does may have happened all the same: check before calling it again."
        return words

    def _log(self, call: ToolCall, turn: Turn, tool: Tool | None, error: BaseException) -> None:
        """The error for the developer; its words only where they may be logged."""
        hidden = turn.data_class in ("confidential", "restricted") or (tool is not None and tool.sensitive)
        log.warning(
            "run=<%s>, tool=<%s>, error=<%s> | a tool failed",
            turn.run_id,
            call.name,
            type(error).__name__,
            exc_info=None if hidden else error,
        )


def _rendered(function: functools.partial[Any]) -> Any:
    """The function's result, rendered in its own thread: a result's str() is a user's code too."""
    value = function()
    return _rendered_later(lambda: value) if hasattr(value, "__await__") else render(value)


async def _rendered_later(function: Any) -> Rendered:
    return render(await function())


def _misfit(name: str, error: ArgumentsError) -> str:
    lines = "\n".join(f"- {problem}" for problem in error.problems)
    return f"The tool {name} was not run: its arguments don't fit.\n{lines}\nCall it again with arguments that fit."


def _decoded(text: str) -> dict[str, Any]:
    """The arguments a model wrote, as an object. An empty text is what some models send for no arguments."""
    try:
        arguments = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ArgumentsError([f"they are not JSON: {error}"]) from None
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise ArgumentsError([f"they must be a JSON object, not {type(arguments).__name__}"])
    return arguments


def _words(error: BaseException) -> str:
    """Type and text of an error, in one line, whatever its __str__ does."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - the error is a user's class
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name
