"""An agent for tests: it notes every model call in the file `CALLS`, and dies by SIGKILL at the call `DIE_AT`."""

import os
import signal

from agent_core import Agent
from agent_core.messages import Message, Prompt, Reply, Usage
from agent_core.models.scripted import ScriptedModel


def note(said: str) -> None:
    with open(os.environ["CALLS"], "a", encoding="utf-8") as file:
        file.write(said + "\n")


class Counting(ScriptedModel):
    """Says what it hears in capitals."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    async def reply(self, prompt: Prompt) -> Reply:
        said = prompt.messages[-1].text
        self._calls += 1
        if self._calls == int(os.environ.get("DIE_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        note(said)
        return Reply(message=Message.of("assistant", said.upper()), usage=Usage(10, 0, 5))


agent = Agent(name="assistant", model=Counting())
