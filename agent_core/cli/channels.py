"""`sampan channels`: which are on, who waits to be let in, and who was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from agent_core.cli import options
from agent_core.cli.screen import json_out, moment, rows, say
from agent_core.errors import NotFoundError
from agent_core.settings import Settings

app = typer.Typer(help="Chat services: which are on, and who is answered there.", no_args_is_help=True)

T = TypeVar("T")
Name = Annotated[str, typer.Argument(help="A channel's name, as SAMPAN_CHANNELS has it.")]


@app.command("list")
def list_(data: options.Data = None, json: options.Json = False) -> None:
    """List the channels that are on: where their webhooks come in, who waits, how many were let in."""
    settings = Settings.from_env(data=data)

    async def read(guests: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "kind": values["kind"],
                "webhook": f"{settings.public_url.rstrip('/')}/webhooks/{name}",
                "open": values.get("open", "false"),
                "waiting": len(await guests.knocks(values.get("tenant", "default"), name)),
                "guests": len(await guests.guests(values.get("tenant", "default"), name)),
            }
            for name, values in settings.channels.items()
        ]

    found = _with(settings, read)
    if json:
        json_out(found)
        return
    titles = ["name", "kind", "webhook", "open", "waiting", "guests"]
    rows(titles, [[str(one[title]) for title in titles] for one in found], empty="No channel is on.")


@app.command()
def guests(name: Name, data: options.Data = None, json: options.Json = False) -> None:
    """List who was let in on a channel, and who waits. A code is told to nobody but the stranger."""
    settings = Settings.from_env(data=data)
    tenant = _tenant(settings, name)

    async def read(known: Any) -> list[dict[str, Any]]:
        let_in = [("let in", one) for one in await known.guests(tenant, name)]
        waiting = [("waits", one) for one in await known.knocks(tenant, name)]
        return [
            {"person": one.person, "app": one.app, "state": state, "since": one.at}
            for state, one in [*let_in, *waiting]
        ]

    found = _with(settings, read)
    if json:
        json_out(found)
        return
    lines = [[one["person"], one["app"], one["state"], moment(one["since"])] for one in found]
    rows(["person", "app", "state", "since"], lines, empty="Nobody yet.")


@app.command()
def pair(
    name: Name,
    code: Annotated[str, typer.Argument(help="The code that the stranger was told.")],
    data: options.Data = None,
) -> None:
    """Let in the stranger who has this code."""
    settings = Settings.from_env(data=data)
    tenant = _tenant(settings, name)
    guest = _with(settings, lambda known: known.pair(tenant, name, code))
    say(f"{guest.person} is answered on {name} from now on")


@app.command()
def remove(
    name: Name,
    person: Annotated[str, typer.Argument(help="A person's id, as `sampan channels guests` shows it.")],
    data: options.Data = None,
) -> None:
    """Answer somebody no longer who was let in."""
    settings = Settings.from_env(data=data)
    tenant = _tenant(settings, name)
    if not _with(settings, lambda known: known.remove(tenant, name, person)):
        raise NotFoundError(
            f"{person} was not let in on {name}; those in SAMPAN_..._ALLOW are taken out there"
        )
    say(f"{person} is answered on {name} no longer")


def _tenant(settings: Settings, name: str) -> str:
    if name not in settings.channels:
        known = ", ".join(settings.channels) or "none"
        raise NotFoundError(f"there is no channel {name!r}; on are: {known}")
    return settings.channels[name].get("tenant", "default")


def _with(settings: Settings, use: Callable[[Any], Awaitable[T]]) -> T:
    """What can be said of guests; it needs no agents, and no channel to be set up rightly."""

    async def using() -> T:
        # Only once something is asked for: the wiring is slow to load.
        from agent_core.app import build_app
        from agent_core.channels.guests import Guests
        from agent_core.cli.client import Nobody

        app = build_app(msgspec.structs.replace(settings, channels={}), agents=[Nobody()])
        try:
            return await use(Guests(app.store, app.clock))
        finally:
            await app.close()

    return asyncio.run(using())
