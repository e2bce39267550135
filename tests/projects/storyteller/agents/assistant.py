"""An agent for tests: it tells a long story slowly, the same one each time, and counts how often it began."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from agent_core import Agent, Chunk, Message, Reply, Usage
from agent_core.clock import SystemClock
from agent_core.messages import Prompt

PACE = SystemClock()
STORY = "".join(f"sentence {number} of the story. " for number in range(120))


def begin() -> None:
    """Count a beginning where the test looks."""
    with Path(os.environ["BEGUN"]).open("a") as begun:
        begun.write(f"{os.getpid()}\n")


class Storyteller:
    """A model that streams the story, four letters at a time."""

    name, tools, context_window = "scripted:story", False, 100_000

    async def reply(self, prompt: Prompt) -> Reply:
        """The whole story."""
        return Reply(message=Message.of("assistant", STORY), usage=Usage(input=10, output=1000))

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The story as it is told."""
        begin()
        for start in range(0, len(STORY), 4):
            yield Chunk(text=STORY[start : start + 4])
            await PACE.sleep(0.005)
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None:
        """Nothing is held."""


agent = Agent(name="assistant", model=Storyteller())
