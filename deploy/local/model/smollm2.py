"""The small model of the laptop for whoever asks over OpenAI's API: `sampan run` with this as its only agent.

It stands where an Agent would, since an agent would refuse requests with tools: this model has none, and answers as if
there were none.
"""

from collections.abc import AsyncIterator, Sequence

from agent_core import Chunk, Message, Turn
from agent_core.app import make_wire
from agent_core.clock import SystemClock
from agent_core.messages import Prompt
from agent_core.models.catalog import make_model, resolve
from agent_core.settings import Settings


class SmolLM2:
    name = "smollm2"
    description = "SmolLM2-135M-Instruct."

    def __init__(self) -> None:
        settings, clock = Settings(), SystemClock()
        self._model = make_model(
            resolve("local:smollm2", settings), settings, make_wire(settings, clock), clock
        )

    async def respond(self, messages: Sequence[Message], turn: Turn) -> AsyncIterator[Chunk]:
        system = "\n".join(message.text for message in messages if message.role == "system")
        others = tuple(message for message in messages if message.role != "system")
        async for chunk in self._model.stream(Prompt(system=system, messages=others)):
            yield chunk


agent = SmolLM2()
