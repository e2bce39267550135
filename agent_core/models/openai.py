"""OpenAIModel: any endpoint that speaks OpenAI's chat completions (OpenAI, vLLM, Ollama, LiteLLM and many more)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agent_core.clock import Clock, SystemClock
from agent_core.errors import ConfigError
from agent_core.messages import Chunk, Prompt, Reply
from agent_core.models.base import Model
from agent_core.models.batching import BatchEndpoint
from agent_core.models.chat import ChunkReader, from_wire, to_wire
from agent_core.models.http import Caller
from agent_core.models.spec import ModelSpec
from agent_core.settings import Settings
from agent_core.wire.base import DEFAULT_TIMEOUTS, Timeouts, Wire

ENDPOINT = "https://api.openai.com/v1"


class OpenAIModel:
    """A model behind an OpenAI-compatible endpoint. `name` is provider:model, `model` the server's name for it."""

    tools = True
    context_window = 128_000

    def __init__(
        self,
        name: str,
        model: str,
        endpoint: str,
        api_key: str,
        wire: Wire,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._model = model
        # OpenAI's newer models refuse max_tokens, older servers know nothing else.
        self._limit_field = "max_completion_tokens" if endpoint == ENDPOINT else "max_tokens"
        self._caller = Caller(
            name=name,
            url=endpoint.rstrip("/") + "/chat/completions",
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            key=api_key,
            wire=wire,
            timeouts=timeouts,
            clock=clock or SystemClock(),
        )

    async def reply(self, prompt: Prompt) -> Reply:
        """The whole reply."""
        return await self._caller.reply(lambda: self._to_wire(prompt, stream=False), self._from_wire)

    def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The reply in pieces; the last chunk, and only that, holds the whole `reply`."""
        reader = ChunkReader(self._model)
        return self._caller.stream(lambda: self._to_wire(prompt, stream=True), reader, self._from_wire)

    def _to_wire(self, prompt: Prompt, *, stream: bool) -> dict[str, Any]:
        return to_wire(prompt, self._model, stream, limit_field=self._limit_field)

    def _from_wire(self, body: bytes) -> Reply:
        return from_wire(body, self._model)

    def batches(self) -> BatchEndpoint:
        """The provider's batch endpoint. Not every server behind an OpenAI-compatible address has one."""
        # Loaded only where there is a batch, for cold start.
        from agent_core.models.openai_batches import OpenAIBatches

        return OpenAIBatches(
            self._caller, lambda prompt: self._to_wire(prompt, stream=False), self._from_wire
        )

    async def close(self) -> None:
        """Nothing to let go of: the wire belongs to whoever gave it."""


def build(spec: ModelSpec, settings: Settings, wire: Wire, clock: Clock) -> Model:
    """The model of a spec, for the catalog. Raises ConfigError where OpenAI itself is meant and no key is known."""
    own = spec.endpoint in ("", ENDPOINT)
    key = spec.api_key or (settings.openai_api_key if own else "")
    if own and not key:
        raise ConfigError(f"{spec.name} needs a key: set OPENAI_API_KEY (or MODEL_API_KEY)")
    timeouts = Timeouts(
        first_byte=settings.model_first_byte_seconds,
        between_chunks=settings.model_chunk_seconds,
        total=settings.model_total_seconds,
    )
    model = OpenAIModel(spec.name, spec.model, spec.endpoint or ENDPOINT, key, wire, timeouts, clock=clock)
    model.context_window = settings.model_window or model.context_window
    return model
