"""BedrockModel: the models of Amazon Bedrock, by its Converse API.

Signed like all our calls of AWS, or with a Bedrock API key. https://docs.aws.amazon.com/bedrock/latest/userguide/
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

from agent_core.aws.credentials import credentials_of
from agent_core.aws.services import bedrock_url
from agent_core.aws.signing import SigningWire
from agent_core.aws.sigv4 import Scope
from agent_core.clock import Clock, SystemClock
from agent_core.errors import ConfigError
from agent_core.messages import Chunk, Prompt, Reply
from agent_core.models.base import Model
from agent_core.models.converse import ChunkReader, from_wire, to_wire
from agent_core.models.http import Caller
from agent_core.models.spec import ModelSpec
from agent_core.settings import Settings
from agent_core.wire.base import DEFAULT_TIMEOUTS, Timeouts, Wire


class BedrockModel:
    """A model behind Converse. `model` is a model's id, an inference profile's, or the ARN of either.

    `wire` signs the requests, unless an `api_key` says who calls.
    """

    tools = True
    context_window = 128_000
    """What most of the models there take; some take more."""

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
        url = f"{endpoint.rstrip('/')}/model/{quote(model, safe='')}/converse"
        self._whole, self._streamed = (
            Caller(
                name=name,
                url=path,
                headers={"authorization": f"Bearer {api_key}"} if api_key else {},
                key=api_key,
                wire=wire,
                timeouts=timeouts,
                clock=clock or SystemClock(),
            )
            for path in (url, f"{url}-stream")
        )

    async def reply(self, prompt: Prompt) -> Reply:
        """The whole reply."""
        return await self._whole.reply(lambda: to_wire(prompt), self._from_wire)

    def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The reply in pieces; the last chunk, and only that, holds the whole `reply`."""
        return self._streamed.stream(lambda: to_wire(prompt), ChunkReader(self._model), self._from_wire)

    def _from_wire(self, body: bytes) -> Reply:
        return from_wire(body, self._model)

    async def close(self) -> None:
        """Nothing to let go of: the wire belongs to whoever gave it."""


def build(spec: ModelSpec, settings: Settings, wire: Wire, clock: Clock) -> Model:
    """The model of a spec, for the catalog. Raises ConfigError where no region is set."""
    if not settings.aws_region:
        raise ConfigError(
            f"{spec.name} needs a region: set AWS_REGION to where the model is, such as eu-west-1"
        )
    if not spec.api_key:
        scope = Scope(settings.aws_region, "bedrock")
        wire = SigningWire(wire, credentials_of(settings, wire, clock), scope, clock)
    timeouts = Timeouts(
        first_byte=settings.model_first_byte_seconds,
        between_chunks=settings.model_chunk_seconds,
        total=settings.model_total_seconds,
    )
    endpoint = spec.endpoint or bedrock_url(settings)
    model = BedrockModel(spec.name, spec.model, endpoint, spec.api_key, wire, timeouts, clock=clock)
    model.context_window = settings.model_window or model.context_window
    return model
