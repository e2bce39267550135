"""FallbackModel: asks the next model where one is out of order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from agent_core.errors import ConfigError, ModelError
from agent_core.messages import Chunk, Prompt, Reply
from agent_core.models.base import Model


class FallbackModel:
    """The first of several models that answers.

    The next one is asked after an error that may pass (ModelBusyError, ModelStalledError, ModelCutError,
    ModelMalformedError), but not once a piece of a stream was given out, and not after a refusal, which the next one
    would only repeat. `Reply.model` is the name of the model that answered, so that its price is found.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ConfigError("a FallbackModel needs at least one model")
        self._models = tuple(models)

    @property
    def name(self) -> str:
        """The first model's name."""
        return self._models[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """All models' names, in order: one of them stands in `Reply.model`."""
        return tuple(model.name for model in self._models)

    @property
    def tools(self) -> bool:
        """Whether all of them can call tools."""
        return all(model.tools for model in self._models)

    @property
    def context_window(self) -> int:
        """The smallest of theirs."""
        return min(model.context_window for model in self._models)

    async def reply(self, prompt: Prompt) -> Reply:
        """The reply of the first model that gives one. Raises the last one's error."""
        for model in self._models[:-1]:
            try:
                return _signed(model, await model.reply(prompt))
            except ModelError as error:
                if not error.retryable:
                    raise
        return _signed(self._models[-1], await self._models[-1].reply(prompt))

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The chunks of the first model that gives any. Raises the last one's error."""
        for model in self._models:
            begun = False
            try:
                async for chunk in model.stream(prompt):
                    begun = True
                    yield chunk if chunk.reply is None else Chunk(reply=_signed(model, chunk.reply))
                return
            except ModelError as error:
                if begun or not error.retryable or model is self._models[-1]:
                    raise

    async def close(self) -> None:
        """Close all of them."""
        for model in self._models:
            await model.close()


def _signed(model: Model, reply: Reply) -> Reply:
    return msgspec.structs.replace(reply, model=model.name)
