"""Writes one JSON line for each message, reply, tool call and tool result: who, when, how large, with a hash."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from agent_core.clock import Clock, SystemClock
from agent_core.errors import ConfigError
from agent_core.messages import DATA_CLASSES, DataClass, Message, Text, ToolCall, ToolResult, Turn

_OPEN: tuple[DataClass, ...] = ("public", "internal")


class Audit:
    """Where the lines go: `to` is a file, a logger, or None for the logger `sampan.audit` at level INFO.

    A file is only appended to, one write per line, so that several processes may share it. With `text`, words stand in
    the line too, but never those above the data class `internal`. The hash tells whether two texts are the same; short
    texts can be guessed from a plain hash, so give a secret `key` (then it is an HMAC) where that matters. Put the
    plugin first to see what comes in and goes out, or after `redact` to see what the model sees.
    """

    inline = True
    observes = True

    def __init__(
        self,
        to: str | Path | logging.Logger | None = None,
        *,
        text: bool = False,
        key: bytes = b"",
        clock: Clock | None = None,
    ) -> None:
        self._logger = to if isinstance(to, logging.Logger) else logging.getLogger("sampan.audit")
        self._path = Path(to) if isinstance(to, str | Path) else None
        self._file = -1
        self._text = text
        self._key = key
        self._clock = clock or SystemClock()

    def process(self, message: Message, turn: Turn) -> None:
        """A message on its way to the model."""
        self._message("message", message, turn)

    def on_reply(self, message: Message, turn: Turn) -> None:
        """A reply on its way out."""
        self._message("reply", message, turn)

    def before_tool(self, call: ToolCall, turn: Turn) -> None:
        """A tool call before it runs."""
        self._write("tool_call", call.arguments, turn, tool=call.name, call=call.id)

    def after_tool(self, result: ToolResult, turn: Turn) -> None:
        """What the tool gave."""
        error = {"error": True} if result.error else {}
        ref = {"ref": result.ref} if result.ref else {}
        self._write(
            "tool_result", result.content, turn, tool=result.name, call=result.call_id, **error, **ref
        )

    def _message(self, event: str, message: Message, turn: Turn) -> None:
        parts = [
            {"type": "text", "bytes": len(part.text.encode())}
            if isinstance(part, Text)
            else {"type": part.media_type, "bytes": len(part.data), "ref": part.ref}
            for part in message.parts
        ]
        data_class = max(message.data_class, turn.data_class, key=DATA_CLASSES.index)
        self._write(event, message.text, turn, data_class=data_class, role=message.role, parts=parts)

    def _write(self, event: str, text: str, turn: Turn, **more: Any) -> None:
        data = text.encode("utf-8", "replace")
        digest = hmac.new(self._key, data, hashlib.sha256) if self._key else hashlib.sha256(data)
        fields = {
            "time": self._clock.now(),
            "event": event,
            "tenant": turn.principal.tenant,
            "user": turn.principal.user,
            "channel": turn.channel,
            "agent": turn.agent,
            "session": turn.session_id,
            "run": turn.run_id,
            "step": turn.step,
            "data_class": turn.data_class,
            "bytes": len(data),
            "hash": digest.hexdigest(),
            **more,
        }
        if self._text and fields["data_class"] in _OPEN:
            fields["text"] = text
        line = msgspec.json.encode(fields)
        if self._path is None:
            self._logger.info("%s", line.decode())
        else:
            self._append(self._path, line + b"\n")

    def _append(self, path: Path, line: bytes) -> None:
        """One write to the end of the file. The file is opened with the first line, not when the agent is built."""
        if self._file < 0:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                raise ConfigError(f"the audit file {path} can't be opened: {error}") from error
        os.write(self._file, line)
