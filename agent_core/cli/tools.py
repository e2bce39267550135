"""`sampan tools`: what the agents may call, who declares it, and accepting what others declare."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from agent_core.agent import Agent
from agent_core.cli import options
from agent_core.cli.screen import json_out, rows, say
from agent_core.errors import ConfigError, NotFoundError
from agent_core.loader import load_agents
from agent_core.plugins.loader import declarations
from agent_core.security.declarations import Accepted, Declaration, beside, of_tool
from agent_core.settings import Settings

app = typer.Typer(
    help="What agents may call, who declares it, and accepting what others declare.", no_args_is_help=True
)


@app.command("list")
def list_(agents: options.Agents = None, json: options.Json = False) -> None:
    """List the tools of all agents and the installed plugins: whose they are, and whether they were accepted."""
    settings = Settings.from_env(agents=agents)
    accepted = Accepted(beside(settings.agents))
    found = [*_tools(settings, accepted), *_plugins(settings, accepted)]
    if json:
        json_out(found)
        return
    titles = ["name", "kind", "agent", "effects", "source", "state"]
    rows(titles, [[one[title] for title in titles] for one in found], empty="No agent has a tool.")


@app.command()
def accept(
    names: Annotated[list[str] | None, typer.Argument(help="Tools, plugins or sources; none: all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    agents: options.Agents = None,
) -> None:
    """Show what is new or changed since it was accepted, and accept it: it is written into the agents' folder."""
    settings = Settings.from_env(agents=agents)
    accepted = Accepted(beside(settings.agents))
    declared = _declared(settings)
    wanted = [one for one in declared if not names or one.name in names or one.source in names]
    for name in names or []:
        if not any(name in (one.name, one.source) for one in declared):
            raise NotFoundError(f"nobody else declares {name!r}; `sampan tools list` shows what there is")
    fresh = [one for one in wanted if accepted.state(one) != "accepted"]
    if not fresh:
        say("All that others declare was accepted." if declared else "Nobody but you declares anything here.")
        return
    for one in fresh:
        say(f"{one.title}: {accepted.state(one)}")
        say(accepted.difference(one))
    if not yes:
        _ask(len(fresh))
    accepted.accept(fresh)
    say(
        f"Accepted {len(fresh)}, in {accepted.path}. Commit and deploy that file; servers read it when they start."
    )


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here: read what changed above, then give --yes")
    if not typer.confirm(f"Accept {count}?"):
        raise typer.Abort


def _tools(settings: Settings, accepted: Accepted) -> list[dict[str, Any]]:
    return [
        {
            "name": tool.name,
            "kind": "tool",
            "agent": agent.name,
            "effects": tool.effects,
            "source": tool.source,
            "state": accepted.state(of_tool(tool)) if tool.source else "yours",
        }
        for agent in _agents(settings)
        for tool in agent.tools
    ]


def _plugins(settings: Settings, accepted: Accepted) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "kind": "plugin",
            "agent": "",
            "effects": "",
            "source": f"{one.source} {one.declares['version']}",
            "state": accepted.state(one),
        }
        for one in declarations(settings.plugins)
    ]


def _declared(settings: Settings) -> list[Declaration]:
    """All that others declare, each once."""
    tools = [of_tool(tool) for agent in _agents(settings) for tool in agent.tools if tool.source]
    return list({one.place: one for one in [*tools, *declarations(settings.plugins)]}.values())


def _agents(settings: Settings) -> Sequence[Agent]:
    return [agent for agent in load_agents(settings) if isinstance(agent, Agent)]
