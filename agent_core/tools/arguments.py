"""What a tool takes, seen from the tool: a schema to show, and a check of what came."""

from __future__ import annotations

from typing import Any, Protocol


class ArgumentsError(Exception):
    """The arguments a model gave don't fit; each of `problems` names one and says what would be right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Arguments(Protocol):
    """What a tool takes: the schema for the model, and the check of what the model gave."""

    schema: dict[str, Any]

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments to call the function with; raises ArgumentsError."""
