"""`sampan ask "..."`: one question, one answer."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from agent_core.cli import options
from agent_core.cli.screen import json_out, on_terminal, say
from agent_core.errors import AgentError, InputError
from agent_core.settings import Settings


def ask(
    question: Annotated[str, typer.Argument(help='What to ask; "-" reads it from standard input.')],
    agent: options.AgentName = "",
    session: options.Session = "",
    url: options.Url = "",
    data: options.Data = None,
    agents: options.Agents = None,
    json: options.Json = False,
) -> None:
    """Ask one question and print the answer."""
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise InputError('there is no question: sampan ask "What is the capital of France?"')
    settings = Settings.from_env(data=data, agents=agents)
    asyncio.run(_ask(settings, text, agent=agent, session=session, url=url, json=json))


async def _ask(settings: Settings, text: str, *, agent: str, session: str, url: str, json: bool) -> None:
    # Imported here, so that a wrong option is told at once.
    from agent_core.cli.live import failure, figures, show, writer_for_people
    from agent_core.cli.talk import Stopwatch, opened

    for_people = on_terminal() and not json
    async with opened(settings, url=url, agent=agent, session=session) as (talk, clock):
        watch = Stopwatch(clock)
        run = await show(talk, text, watch, writer_for_people() if for_people else None)
    if json:
        json_out(run)
    elif not for_people and run.reply is not None:
        sys.stdout.write(run.reply.text + "\n")
    if problem := failure(run):
        raise AgentError(problem)
    if for_people:
        say(f"{figures(run, watch)} · session {run.session_id}", "dim", stderr=True)
