"""`sampan run`: the API and the chat page in one process."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent_core.cli import options
from agent_core.cli.address import bind, url_of
from agent_core.errors import ConfigError
from agent_core.settings import Settings

HELLO = Path("events/api.hello.json")
"""The event whose message `--demo` sends."""


def run(
    host: options.Host = None,
    port: options.Port = None,
    data: options.Data = None,
    agents: options.Agents = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew whenever an agent's file changes.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help=f"First send the message of {HELLO} over HTTP.")
    ] = False,
    ask: Annotated[str, typer.Option(help="First send this message over HTTP.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Stop when that message was answered.")] = False,
) -> None:
    """Serve the agents: API and chat page."""
    settings = Settings.from_env(host=host, port=port, data=data, agents=agents)
    question = ask or (_hello() if demo else "")
    if once and not question:
        raise ConfigError("--once stops when a message was answered: give one with --ask, or use --demo")
    if once and reload:
        raise ConfigError("--once and --reload don't go together")
    # Only here: the server's packages are an extra, and slow to load.
    from agent_core.cli.demo import greet
    from agent_core.cli.server import serve, serve_reloading

    if not settings.wire and find_spec("aiohttp"):  # less CPU per call than the one that loads quickly
        settings = msgspec.structs.replace(settings, wire="aiohttp")
    if not settings.queue and settings.store in ("sqlite", "memory"):
        settings = msgspec.structs.replace(settings, queue=settings.store)
    with bind(settings) as listener:
        greeting = partial(greet, url_of(listener), question, once)
        if reload:
            code = serve_reloading(settings, listener, greeting)
        else:
            code = serve(settings, listener, greeting, once=once)
    raise typer.Exit(code)


def _hello() -> str:
    """The message in the project's hello event."""
    try:
        event = msgspec.json.decode(HELLO.read_bytes())
        return str(msgspec.json.decode(event["body"])["message"])
    except FileNotFoundError:
        raise ConfigError(
            f"{HELLO} is not here: run this in a project's folder, or ask with --ask TEXT"
        ) from None
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{HELLO} is no API event with a message in its body: {error}") from error
