"""Keeps personal data from the model, from replies and from tools: a mask stands where it was."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from agent_core.errors import ConfigError
from agent_core.messages import Message, Text, ToolCall, ToolResult
from agent_core.plugins.base import HOOKS
from agent_core.plugins.personal import KINDS, REGIONS, find, finders


class Redact:
    """Masks e-mail addresses, phone numbers, payment cards, IBANs and Chinese resident ids.

    `kinds` are those to look for, `mask` what stands in their place ("{kind}" is replaced), `regions` where phone
    numbers without a country code are looked for, `hooks` where it works: on messages (`process`), replies
    (`on_reply`), what tools are given (`before_tool`) and what they give back (`after_tool`). Only text is looked at,
    not images or files. What counts is told in `agent_core/plugins/personal.py`. Raises ConfigError.
    """

    def __init__(
        self,
        kinds: Collection[str] = KINDS,
        *,
        mask: str = "[{kind}]",
        regions: Sequence[str] = REGIONS,
        hooks: Collection[str] = HOOKS,
    ) -> None:
        self._finders = finders(kinds, regions)
        self._masks = {kind: mask.replace("{kind}", kind) for kind in KINDS}
        if unknown := set(hooks) - set(HOOKS):
            raise ConfigError(
                f"redact knows no hook {', '.join(sorted(unknown))}; there are: {', '.join(HOOKS)}"
            )
        self._hooks = frozenset(hooks)
        self.observes = "on_reply" not in self._hooks

    def redact(self, text: str) -> str:
        """The text with masks."""
        pieces, place = [], 0
        for found in find(text, self._finders):
            pieces += [text[place : found.start], self._masks[found.kind]]
            place = found.end
        return "".join([*pieces, text[place:]]) if pieces else text

    def process(self, message: Message) -> Message:
        """The message as the model may see it."""
        return self._message(message) if "process" in self._hooks else message

    def on_reply(self, message: Message) -> Message:
        """The reply as the caller may see it."""
        return self._message(message) if "on_reply" in self._hooks else message

    def before_tool(self, call: ToolCall) -> ToolCall:
        """The call with masked arguments, still JSON."""
        if "before_tool" not in self._hooks:
            return call
        return msgspec.structs.replace(call, arguments=self._json(call.arguments))

    def after_tool(self, result: ToolResult) -> ToolResult:
        """The result as the model may see it; JSON stays JSON."""
        if "after_tool" not in self._hooks:
            return result
        return msgspec.structs.replace(result, content=self._json(result.content))

    def _message(self, message: Message) -> Message:
        parts = tuple(
            msgspec.structs.replace(part, text=self.redact(part.text)) if isinstance(part, Text) else part
            for part in message.parts
        )
        calls = tuple(
            msgspec.structs.replace(call, arguments=self._json(call.arguments)) for call in message.tool_calls
        )
        return msgspec.structs.replace(message, parts=parts, tool_calls=calls)

    def _json(self, text: str) -> str:
        """Redact within JSON's strings and numbers, so that it stays JSON; other text as it is."""
        if text.lstrip()[:1] in ("{", "["):
            try:
                value = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError):
                return self.redact(text)
            masked = self._walk(value)
            return text if masked == value else msgspec.json.encode(masked).decode()
        return self.redact(text)

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, int) and not isinstance(value, bool):
            masked = self.redact(str(value))
            return value if masked == str(value) else masked
        if isinstance(value, list):
            return [self._walk(item) for item in value]
        if isinstance(value, dict):
            return {self.redact(name): self._walk(item) for name, item in value.items()}
        return value
