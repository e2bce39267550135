"""The command tree of `sampan`, and the boundary where every error becomes a line that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from agent_core.cli import (
    ask,
    audit,
    batch,
    channels,
    chat,
    dead,
    doctor,
    hooks,
    keys,
    kill,
    mfa,
    new,
    replay,
    run,
    runs,
    schedules,
    sessions,
    tenant,
    tools,
)
from agent_core.cli.extras import remedy
from agent_core.cli.screen import complain, installed_version, say
from agent_core.errors import AgentError, ConfigError

app = typer.Typer(
    name="sampan",
    help="Sampan: write an agent in one file; run it anywhere, unchanged.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Boxes and colours are for people; where a program reads, the help is plain text.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
app.command()(new.new)
app.command()(run.run)
app.command()(ask.ask)
app.command()(chat.chat)
app.command()(batch.batch)
app.command()(doctor.doctor)
app.command()(replay.replay)
app.add_typer(runs.app, name="runs")
app.add_typer(sessions.app, name="sessions")
app.add_typer(schedules.app, name="schedules")
app.add_typer(dead.app, name="dead")
app.add_typer(keys.app, name="keys")
app.add_typer(mfa.app, name="mfa")
app.add_typer(kill.app, name="kill")
app.add_typer(tenant.app, name="tenant")
app.add_typer(audit.app, name="audit")
app.add_typer(hooks.app, name="hooks")
app.add_typer(channels.app, name="channels")
app.add_typer(tools.app, name="tools")


def _version(wanted: bool) -> None:
    if wanted:
        say(f"sampan {installed_version()}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        _Debug.on = True


class _Debug:
    on = False


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code: 0 well, 1 it failed, 2 it was called wrongly."""
    _Debug.on = False
    try:
        app(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the outermost boundary: a person gets a line, with --debug the traceback
        if _Debug.on:
            raise
        return _told(error)
    return 0


def _told(error: Exception) -> int:
    missing = remedy(error) if isinstance(error, ModuleNotFoundError) else ""
    complain(ConfigError(missing) if missing else error)
    if not missing and not isinstance(error, AgentError):
        say("This should not have happened. `sampan --debug ...` shows where it did.", stderr=True)
    return 1
