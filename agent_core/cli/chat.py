"""`sampan chat`: talk to an agent in the terminal."""

from __future__ import annotations

import typer

from agent_core.cli import options
from agent_core.settings import Settings


def chat(
    agent: options.AgentName = "",
    session: options.Session = "",
    url: options.Url = "",
    data: options.Data = None,
    agents: options.Agents = None,
) -> None:
    """Talk to an agent here in the terminal."""
    # Only when it is wanted: it loads an HTTP client and a markdown renderer.
    from agent_core.cli.conversation import converse

    settings = Settings.from_env(data=data, agents=agents)
    raise typer.Exit(0 if converse(settings, url=url, agent=agent, session=session) else 1)
