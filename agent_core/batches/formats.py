"""The port of a line's format: how a line of a batch becomes a message, and its run a line of the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agent_core.batches.records import Batch
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import AgentError


class LineFormat(Protocol):
    """A way to write lines: OpenAI's batch lines, or our own."""

    @property
    def name(self) -> str:
        """What the batch records."""

    def claims(self, line: bytes) -> bool:
        """Whether a batch whose first line is this one, and that names no format, is of this format."""

    def read(self, batch: Batch, line: bytes) -> Inbound:
        """The message in a line, without its key and principal. Raises InputError."""

    def result(self, number: int, line: bytes, run: Run) -> dict[str, Any]:
        """The line of the results for a run at its end, or waiting for a person."""

    def refusal(self, number: int, line: bytes, error: AgentError) -> dict[str, Any]:
        """The line of the results for a line that was not run: it can't be, or the batch was stopped before."""


def detect(formats: Mapping[str, LineFormat], line: bytes) -> LineFormat:
    """The format of a batch by its first line: the first that claims it, else the last one."""
    known = list(formats.values())
    return next((format for format in known if format.claims(line)), known[-1])
