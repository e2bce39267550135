"""The talk of `sampan chat`: lines in, answers out, a few commands."""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextlib import AsyncExitStack, suppress

from agent_core.cli.live import failure, figures, show, writer_for_people
from agent_core.cli.screen import complain, say
from agent_core.cli.talk import Stopwatch, Talk, opened
from agent_core.clock import Clock
from agent_core.errors import AgentError
from agent_core.settings import Settings

HELP = """\
/new    begin a new session
/help   show this list
/quit   leave (Ctrl-D does, too)
Ctrl-C  stop the answer that is coming"""


def converse(settings: Settings, *, url: str, agent: str, session: str) -> bool:
    """Talk until the input ends. False where a line that a program sent got no answer."""
    # One loop for the whole conversation, run only while an answer comes: in between, Ctrl-C and the editing of a
    # line are the terminal's own business.
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            talk, clock = runner.run(
                stack.enter_async_context(opened(settings, url=url, agent=agent, session=session))
            )
            return _lines(runner, talk, clock)
        finally:
            runner.run(stack.aclose())


def _lines(runner: asyncio.Runner, talk: Talk, clock: Clock) -> bool:
    person = sys.stdin.isatty()
    if person:
        with suppress(ImportError):  # not there on every platform; with it, input() has editing and history
            importlib.import_module("readline")
        say(f"Talking to {talk.label}. /help lists the commands.", "bold")
    well = True
    while True:
        try:
            line = input("\n> " if person else "").strip()
        except EOFError:
            return well or person
        except KeyboardInterrupt:
            say("\n/quit leaves.", "dim")
            continue
        if line in ("/quit", "/exit"):
            return well or person
        if line.startswith("/"):
            _command(line, talk)
        elif line:
            well = _answer(runner, talk, clock, line, person=person) and well


def _command(line: str, talk: Talk) -> None:
    if line == "/new":
        talk.session_id = ""
        say("A new session begins with your next message.", "dim")
    elif line == "/help":
        say(HELP)
    else:
        say(f"There is no command {line.split()[0]}.\n{HELP}")


def _answer(runner: asyncio.Runner, talk: Talk, clock: Clock, line: str, *, person: bool) -> bool:
    watch = Stopwatch(clock)
    try:
        run = runner.run(show(talk, line, watch, writer_for_people()))
        if problem := failure(run):
            raise AgentError(problem)
    except KeyboardInterrupt:
        runner.run(talk.cancel())
        say("\nStopped.", "dim")
        return False
    except AgentError as error:
        complain(error)
        return False
    if person:
        say(figures(run, watch), "dim")
    return True
