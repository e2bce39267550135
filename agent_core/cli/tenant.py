"""`sampan tenant`: all of a tenant in a file, or erased for good."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from agent_core.app import make_blobs, make_queue, make_store
from agent_core.cli import options, stepup
from agent_core.cli.progress import PLAIN_SECONDS
from agent_core.cli.screen import console, json_out, say
from agent_core.clock import SystemClock
from agent_core.engine.tenant import Erased, Exported, Tenants
from agent_core.errors import InputError
from agent_core.settings import Settings
from agent_core.worker import Letters

app = typer.Typer(help="All of a tenant: export it, or erase it for good.", no_args_is_help=True)

T = TypeVar("T")
Name = Annotated[str, typer.Argument(help="The tenant.")]


@app.command()
def export(
    tenant: Name,
    to: Annotated[Path, typer.Option(help="The zip file to write.")],
    code: stepup.Code = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Write all that is stored of a tenant into a zip: JSON lines by kind, blobs, and a manifest with hashes."""
    if not to.parent.is_dir():
        raise InputError(f"--to {to}: there is no folder {to.parent}")
    stepup.confirm("exporting a tenant", data, code)
    told: Exported = _with(data, "exporting", lambda all_: all_.export(tenant, to, by=options.operator()))
    if json:
        json_out(told)
        return
    say(f"{sum(told.records.values())} records and {told.blobs} blobs of {tenant} are in {to}.")


@app.command()
def erase(
    tenant: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    audit_log: Annotated[
        bool, typer.Option("--audit-log", help="Also the audit log, which stays otherwise.")
    ] = False,
    code: stepup.Code = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Remove all of a tenant for good; figures of the ledger stay, without names. Broken off, repeat it: it goes on."""
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nobody can be asked here: give --yes")
        if typer.prompt(f"Everything of {tenant} will be gone. Type its name to go on") != tenant:
            raise InputError("nothing was erased")
    stepup.confirm("erasing a tenant", data, code)
    done: Erased = _with(
        data, "erasing", lambda all_: all_.erase(tenant, by=options.operator(), log_too=audit_log)
    )
    if json:
        json_out(done)
        return
    say(
        f"{tenant} is erased: {done.records} records and {done.letters} queued messages are gone, "
        f"{done.ledger} entries of the ledger have no names."
    )
    say(
        "Not reached: backups, logs until they end, messages in a worker's hand, and what the provider keeps.",
        "dim",
    )


def _with(data: str | None, doing: str, work: Callable[[Tenants], Awaitable[T]]) -> T:
    """Do it on the service's store and blobs; no agent is needed for that."""

    async def run() -> T:
        clock, settings = SystemClock(), Settings.from_env(data=data)
        store, blobs = make_store(settings, clock), make_blobs(settings, clock)
        queue = make_queue(settings, clock)
        try:
            with console(stderr=True).status(f"{doing} ...") as status:
                seen, next_line = 0, clock.monotonic() + PLAIN_SECONDS

                def tell(looked_at: int) -> None:
                    nonlocal seen, next_line
                    seen += looked_at
                    words = f"{doing}: {seen:,} records looked at"
                    status.update(words)
                    if not console(stderr=True).is_terminal and clock.monotonic() >= next_line:
                        next_line = clock.monotonic() + PLAIN_SECONDS
                        say(words, stderr=True)

                letters = [Letters(queue, clock)] if queue is not None else []
                return await work(Tenants(store, blobs, clock, tell, letters))
        finally:
            if queue is not None:
                await queue.close()
            await blobs.close()
            await store.close()

    return asyncio.run(run())
