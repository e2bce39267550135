"""`sampan schedules`: what the clock has in store for the agents."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from agent_core.cli import options
from agent_core.cli.screen import clipped, json_out, moment, rows
from agent_core.settings import Settings

app = typer.Typer(help="What the clock sends to the agents.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """What the clock sends to the agents."""


@app.command("list")
def list_(data: options.Data = None, json: options.Json = False) -> None:
    """List the schedules that a server has planned, with their next and latest times."""
    found = asyncio.run(_stored(Settings.from_env(data=data)))
    if json:
        json_out(found)
        return
    lines = [
        [
            f"{known.agent}.{known.name}",
            known.when,
            known.zone,
            moment(known.at) if known.at else "never again",
            moment(known.last_at) if known.last_at else "-",
            known.last_run or "-",
            clipped(known.message),
        ]
        for known in found
    ]
    titles = ["schedule", "when", "zone", "next", "latest", "its run", "message"]
    rows(titles, lines, empty="No schedule yet: a server plans them when it starts.")


async def _stored(settings: Settings) -> list[Any]:
    # Only once something is asked for: the wiring is slow to load.
    from agent_core.app import build_app
    from agent_core.cli.client import Nobody

    app = build_app(settings, agents=[Nobody()])
    try:
        return list(await app.schedules.list())
    finally:
        await app.close()
