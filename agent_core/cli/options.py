"""Options that several commands take."""

from __future__ import annotations

import getpass
import os
from typing import Annotated

import typer

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000")]
Data = Annotated[
    str | None, typer.Option(help="Folder of the store and of large parts.", show_default=".sampan")
]
Agents = Annotated[
    str | None, typer.Option(help="Folder, .py file or package that defines agents.", show_default="agents")
]
AgentName = Annotated[str, typer.Option("--agent", help="Which agent; without it, the default one.")]
Session = Annotated[str, typer.Option("--session", help="Go on with this session; without it, a new one.")]
Url = Annotated[str, typer.Option(help="Talk to the server at this URL instead of working in this process.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many at most.")]


def operator() -> str:
    """Who is at the keyboard, for the audit log: a user of this machine, not of the service."""
    try:
        import pwd  # here, as Windows has none
    except ImportError:
        return f"cli/{getpass.getuser()}"
    try:
        # Not getpass: that believes the environment, which says what one likes.
        return f"cli/{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user without a name
        return f"cli/{os.getuid()}"
