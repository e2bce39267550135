"""What people see: rich on a terminal; plain text, tabs and no colour everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from rich.console import Console

from agent_core.api.views import Cost
from agent_core.errors import AgentError


@cache
def console(*, stderr: bool = False) -> Console:
    """The console on stdout or stderr; it finds out by itself whether that is a terminal, and honours NO_COLOR."""
    return Console(stderr=stderr, highlight=False)


def on_terminal() -> bool:
    """Whether a person reads along."""
    return sys.stdout.isatty()


def say(text: str = "", style: str = "", *, stderr: bool = False) -> None:
    """One line or more of plain words, never read as markup; long ones are not wrapped where a program reads."""
    console(stderr=stderr).print(text, style=style or None, markup=False, soft_wrap=True)


def rows(titles: Sequence[str], lines: Sequence[Sequence[str]], *, empty: str = "") -> None:
    """A table on a terminal (or the words for an empty one), tab-separated lines with no heading elsewhere."""
    if not on_terminal():
        for line in lines:
            sys.stdout.write("\t".join(line) + "\n")
        return
    if not lines:
        say(empty, "dim")
        return
    # Only where it is shown.
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        # Where the terminal is narrow the others wrap; an id stays whole, people copy it.
        table.add_column(title, no_wrap=title == titles[0], overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console().print(table)


def complain(error: BaseException) -> None:
    """An error as one line on stderr."""
    words = error.detail if isinstance(error, AgentError) else f"{type(error).__name__}: {error}"
    say(f"sampan: {words}", "red", stderr=True)


def money(cost: Cost) -> str:
    """The dollars, and which models' price is not in them."""
    return f"${cost.usd}" if cost.known else f"${cost.usd} + unknown price of {', '.join(cost.unpriced)}"


def seconds(value: float) -> str:
    """A duration with as many digits as matter."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def moment(value: float | datetime) -> str:
    """A point in time, in the zone of the person who reads it."""
    when = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def installed_version() -> str:
    """Sampan's version."""
    try:
        return version("sampan")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "from source"


def clipped(text: str, width: int = 60) -> str:
    """The text on one line, cut to the width."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def json_out(value: Any) -> None:
    """A value as indented JSON on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
