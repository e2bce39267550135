"""`sampan sessions`: the conversations that are stored."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from agent_core.api.views import MessageList, MessageView, SessionList
from agent_core.cli import options, stepup
from agent_core.cli.screen import clipped, json_out, moment, rows, say
from agent_core.errors import InputError
from agent_core.messages import Text
from agent_core.settings import Settings

app = typer.Typer(help="The conversations that are stored.", no_args_is_help=True)

SessionId = Annotated[str, typer.Argument(help="A session's id, as `sampan sessions list` shows it.")]


@app.command("list")
def list_(
    limit: options.Limit = 20,
    url: options.Url = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """List sessions, newest first."""
    # Only once something is asked for: it loads an HTTP client.
    from agent_core.cli.client import read

    found = read(Settings.from_env(data=data), url, "/api/v1/sessions", SessionList, limit=limit)
    if json:
        json_out(found)
        return
    lines = [
        [session.session_id, moment(session.created_at), session.agent, clipped(session.title)]
        for session in found.sessions
    ]
    rows(["session", "begun", "agent", "about"], lines, empty="No session yet.")


@app.command()
def show(
    session_id: SessionId,
    after: Annotated[int, typer.Option(min=0, help="Begin after this message's number.")] = 0,
    limit: options.Limit = 100,
    url: options.Url = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show a session's messages, oldest first."""
    # Only once something is asked for: it loads an HTTP client.
    from agent_core.cli.client import read

    page = read(Settings.from_env(data=data), url, _path(session_id), MessageList, after=after, limit=limit)
    if json:
        json_out(page)
        return
    for message in page.messages:
        _message(message)
    if page.next:
        say(f"more: --after {page.next}", "dim", stderr=True)


def _message(message: MessageView) -> None:
    if message.text:
        say(f"{message.seq} {message.role}> {message.text}", "cyan" if message.role == "user" else "")
    for part in message.parts:
        if not isinstance(part, Text):
            say(f"{message.seq} {message.role}> [{part.media_type} {part.name}]")
    for call in message.tool_calls:
        say(f"{message.seq} → {call.name} {call.arguments}", "magenta")
    for result in message.tool_results:
        say(f"{message.seq} ← {clipped(result.content, 200)}", "red" if result.error else "dim")


@app.command()
def erase(
    session_id: SessionId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    code: stepup.Code = "",
    url: options.Url = "",
    data: options.Data = None,
) -> None:
    """Erase a session for good: messages, runs, journals, large parts. The ledger keeps its figures."""
    if not yes and not typer.confirm(f"Erase session {session_id} for good?"):
        raise InputError("nothing was erased")
    if not url:
        stepup.confirm("erasing a session", data, code)
    # Only once something is asked for: it loads an HTTP client.
    from agent_core.cli.client import delete

    delete(Settings.from_env(data=data), url, _path(session_id), code)
    say(f"Session {session_id} is erased.")


def _path(session_id: str) -> str:
    return f"/api/v1/sessions/{quote(session_id, safe='')}"
