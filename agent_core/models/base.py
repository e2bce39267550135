"""The Model port: a prompt in, a reply out, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from agent_core.messages import Chunk, Prompt, Reply


class Model(Protocol):
    """A language model.

    `name` is what prices and logs know it by ("openai:gpt-5-mini"), `tools` says whether it can call tools,
    `context_window` is how many tokens of prompt and reply it takes together.
    All errors are ModelErrors (or LimitError); a model keeps no state between calls.
    """

    @property
    def name(self) -> str:
        """provider:model."""

    @property
    def tools(self) -> bool:
        """Whether the model can call tools."""

    @property
    def context_window(self) -> int:
        """Tokens of prompt and reply together."""

    async def reply(self, prompt: Prompt) -> Reply:
        """The whole reply."""

    def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The reply in pieces; the last chunk, and only that, holds the whole `reply`."""

    async def close(self) -> None:
        """Let go of what the model holds."""
