"""`sampan audit`: who did what, and whether the log is as it was written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from agent_core.app import make_shards, make_store
from agent_core.cli import options
from agent_core.cli.screen import json_out, moment, rows, say
from agent_core.clock import SystemClock
from agent_core.security.audit import Audit, Line
from agent_core.settings import Settings

app = typer.Typer(
    help="The audit log: who did what, and whether it is as it was written.", no_args_is_help=True
)

T = TypeVar("T")
Tenant = Annotated[str, typer.Option(help="Whose log; '*' for what was done to all tenants.")]


@app.command()
def show(
    tenant: Tenant = "default",
    after: Annotated[int, typer.Option(min=0, help="Only lines behind this number.")] = 0,
    act: Annotated[str, typer.Option(help="Only acts that begin so: approval, key, tool.called.")] = "",
    by: Annotated[str, typer.Option(help="Only what this user did.")] = "",
    run: Annotated[str, typer.Option(help="Only what was done to this run.")] = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show the lines, oldest first."""

    async def read(audit: Audit) -> list[Line]:
        await audit.link(tenant)
        return [
            line
            async for line in audit.lines(tenant, after=after)
            if line.act.startswith(act) and by in ("", line.by) and run in ("", line.run_id)
        ]

    found = _with(data, read)
    if json:
        json_out(found)
        return
    titles = ["number", "when", "by", "what", "to", "run", "more"]
    rows(titles, [_row(line) for line in found], empty="Nothing was done yet.")


@app.command()
def verify(
    tenant: Tenant = "default",
    anchor: Annotated[
        str, typer.Option(help="The end that an earlier `verify` told you, as NUMBER:HASH.")
    ] = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Check every line; exit code 1, and the number of the line, where one was changed, moved or taken out."""
    verdict = _with(data, lambda audit: audit.verify(tenant, anchor))
    if json:
        json_out(verdict)
    else:
        for problem in verdict.problems:
            say(f"WRONG: {problem}", "bold red")
        if not verdict.problems:
            say(f"{verdict.lines} lines, all as they were written.", "green")
        if verdict.unsigned:
            say(f"{verdict.unsigned} of them are not signed: SAMPAN_AUDIT_KEYS signs those that come.")
        say(f"Keep this elsewhere, and give it as --anchor next time: {verdict.head}")
    raise typer.Exit(1 if verdict.problems else 0)


def _row(line: Line) -> list[str]:
    more = ", ".join(f"{name}={text[:16]}" for name, text in line.detail.items())
    return [str(line.number), moment(line.at / 1000), line.by, line.act, line.subject, line.run_id, more]


def _with(data: str | None, work: Callable[[Audit], Awaitable[T]]) -> T:
    """Do it on the service's store; no agent is needed for that."""

    async def run() -> T:
        clock, settings = SystemClock(), Settings.from_env(data=data)
        store = make_store(settings, clock)
        try:
            return await work(Audit(store, clock, settings.audit_keys, make_shards(settings, store, clock)))
        finally:
            await store.close()

    return asyncio.run(run())
