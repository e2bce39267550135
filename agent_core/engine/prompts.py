"""The start-up check of prompts: what a model is told must hold no secret, since a model tells whoever asks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent_core.agent import Agent, Responder
from agent_core.errors import ConfigError
from agent_core.security.secrets import Secrets


def check_prompts(agents: Iterable[Agent | Responder], secrets: Secrets) -> None:
    """Raise ConfigError where the instructions, a tool's words or a schedule's message hold a secret."""
    for agent in agents:
        if isinstance(agent, Agent):
            _check(agent, secrets)


def _check(agent: Agent, secrets: Secrets) -> None:
    told = {"its instructions": agent.instructions, "its description": agent.description}
    told |= {f"the description of its tool {tool.name}": tool.description for tool in agent.tools}
    told |= {
        f"the schema of its tool {tool.name}": msgspec.json.encode(tool.given_schema).decode()
        for tool in agent.tools
        if tool.given_schema is not None
    }
    told |= {f"the message of its schedule {one.name}": one.message for one in agent.schedules}
    for place, text in told.items():
        found = secrets.find(text)
        if found:
            raise ConfigError(
                f"agent {agent.name}: {place} holds {found}; a model tells whoever asks. Give it to the tool that "
                "needs it instead, from the environment"
            )
