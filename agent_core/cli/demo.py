"""What a person sees when the server has come up: a first question answered over HTTP, and where to go on."""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

import httpx
import msgspec

from agent_core.app import App
from agent_core.cli.client import call, connect
from agent_core.cli.live import failure, figures, show, writer_for_people
from agent_core.cli.screen import complain, installed_version, on_terminal, say
from agent_core.cli.talk import RemoteTalk, Stopwatch, agent_label
from agent_core.errors import AgentError
from agent_core.messages import Principal
from agent_core.security import scopes

KEY_SECONDS = 3600.0
"""How long the greeting's own key lives, should nobody be left to revoke it."""

EXAMPLE = "What is the capital of France?"


@runtime_checkable
class Warmable(Protocol):
    """A model that is slow the first time, unless it was asked to load before."""

    async def warm(self) -> None:
        """Load now."""


async def greet(url: str, question: str, once: bool, app: App) -> bool:
    """Wait until the server is ready, ask the question (if any), say where things are. Says whether all went well.

    With `once` nobody is told where, since the server is about to go.
    """
    access = logging.getLogger("uvicorn.access")
    access.setLevel(logging.WARNING)  # our own requests are not worth a line
    names = ", ".join(agent_label(bound) for bound in app.engine.agents.values())
    say(f"Sampan {installed_version()} · {names}", "bold")
    try:
        async with _own_key(app) as key, connect(url, key) as client:
            await call(client, "GET", "/readyz")
            if question:
                await _ask(client, question, app)
            else:
                await _warm(app)
        well = True
    except AgentError as error:
        complain(error)
        well = False
    if not once:
        _where(url, question or EXAMPLE, asked=app.door.asked == "everybody")
    access.setLevel(logging.INFO)
    return well


@asynccontextmanager
async def _own_key(app: App) -> AsyncIterator[str]:
    """A key for the question of the greeting, where everybody must show one; it ends with it."""
    if app.door.asked != "everybody":
        yield ""
        return
    who = Principal(scopes=(scopes.RUN,))
    key, text = await app.door.keys.create("greeting", principal=who, seconds=KEY_SECONDS)
    try:
        yield text
    finally:
        await app.door.keys.revoke(key.id)


async def _warm(app: App) -> None:
    """Load models that live in this process, so that the first message need not wait for that."""
    for model in app.models:
        if isinstance(model, Warmable):
            await model.warm()


async def _ask(client: httpx.AsyncClient, question: str, app: App) -> None:
    """Ask over HTTP as anybody would, and print the answer as it comes."""
    say(f"\n> {question}\n", "cyan")
    watch = Stopwatch(app.clock)
    run = await show(RemoteTalk(client), question, watch, writer_for_people())
    if problem := failure(run):
        raise AgentError(problem)
    say(f"\n{figures(run, watch)}", "dim")


def _where(url: str, question: str, *, asked: bool) -> None:
    body = msgspec.json.encode({"message": question}).decode()
    key = '-H "Authorization: Bearer $SAMPAN_API_KEY" ' if asked else ""
    say(f"\nChat page  {url}/console/", "bold green")
    say(f"API        curl {url}/api/v1/agent {key}-H 'Content-Type: application/json' -d {shlex.quote(body)}")
    if asked:
        say("Keys       every request needs one: `sampan keys create` makes it, docs/security.md says more")
    say("Stop       Ctrl-C" if on_terminal() else "Stop       SIGINT or SIGTERM")
