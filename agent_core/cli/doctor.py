"""`sampan doctor`: what is set up, what is reachable, what is wrong and how to mend it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from agent_core.cli import options
from agent_core.cli.screen import json_out, say
from agent_core.settings import Settings

MARKS = {"ok": ("ok     ", "green"), "missing": ("missing", "yellow"), "wrong": ("WRONG  ", "bold red")}


def doctor(
    host: options.Host = None,
    port: options.Port = None,
    data: options.Data = None,
    agents: options.Agents = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not call any model.")] = False,
    json: options.Json = False,
) -> None:
    """Check the set-up; exit code 1 where something is wrong."""
    settings = Settings.from_env(host=host, port=port, data=data, agents=agents)
    raise typer.Exit(0 if asyncio.run(_examine(settings, offline=offline, json=json)) else 1)


async def _examine(settings: Settings, *, offline: bool, json: bool) -> bool:
    # Only once the options are right: it loads the whole application.
    from agent_core.cli.checks import Finding, examine

    found: list[Finding] = []
    async for finding in examine(settings, offline=offline):
        found.append(finding)
        if not json:
            word, colour = MARKS[finding.status]
            say(f"{word}  {finding.about}: {finding.detail}", "" if finding.status == "ok" else colour)
            if finding.mend:
                say(f"         -> {finding.mend}")
    wrong = sum(finding.status == "wrong" for finding in found)
    if json:
        json_out({"ok": not wrong, "findings": found})
    else:
        say()
        say("All is well." if not wrong else f"{wrong} to mend.", "green" if not wrong else "bold red")
    return not wrong
