"""`sampan kill`: stop an agent, a tool or a tenant, on every process at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from agent_core.app import make_hooks, make_shards, make_store
from agent_core.cli import options, stepup
from agent_core.cli.screen import json_out, moment, rows, say
from agent_core.clock import SystemClock
from agent_core.engine.switches import Kind, Switch, Switches
from agent_core.errors import NotFoundError
from agent_core.settings import Settings

app = typer.Typer(help="Stop an agent, a tool or a tenant, on every process.", no_args_is_help=True)

T = TypeVar("T")
Tenant = Annotated[str, typer.Option(help="Whose; `*` for every tenant.")]
Reason = Annotated[str, typer.Option(help="Why: those whose messages are refused are told.")]


@app.command()
def agent(
    name: Annotated[str, typer.Argument(help="The agent's name.")],
    reason: Reason = "",
    tenant: Tenant = "default",
    code: stepup.Code = "",
    data: options.Data = None,
) -> None:
    """Stop an agent: its runs end at their next step, new messages to it are refused."""
    _throw("agent", name, reason, tenant, data, code)


@app.command()
def tool(
    name: Annotated[str, typer.Argument(help="The tool's name.")],
    reason: Reason = "",
    tenant: Tenant = "default",
    code: stepup.Code = "",
    data: options.Data = None,
) -> None:
    """Stop a tool: it is called no more, and the model is told. Runs go on without it."""
    _throw("tool", name, reason, tenant, data, code)


@app.command()
def tenant(
    name: Annotated[str, typer.Argument(help="The tenant; `*` for every tenant.")] = "default",
    reason: Reason = "",
    code: stepup.Code = "",
    data: options.Data = None,
) -> None:
    """Stop all that runs for a tenant."""
    _throw("tenant", "", reason, name, data, code)


@app.command("list")
def list_(tenant: Tenant = "default", data: options.Data = None, json: options.Json = False) -> None:
    """List what is stopped."""
    found = _with(data, lambda switches, _: switches.list(tenant))
    if json:
        json_out(found)
        return
    lines = [[one.kind, one.name, one.tenant, moment(one.at), one.by, one.reason] for one in found]
    rows(["what", "name", "tenant", "since", "by", "why"], lines, empty="Nothing is stopped.")


@app.command()
def lift(
    kind: Annotated[str, typer.Argument(help="agent, tool or tenant.")],
    name: Annotated[str, typer.Argument(help="The agent's or tool's name; none for a tenant.")] = "",
    tenant: Tenant = "default",
    code: stepup.Code = "",
    data: options.Data = None,
) -> None:
    """Let go again what was stopped; servers notice within five seconds."""
    stepup.confirm("letting something go again", data, code)
    if not _with(data, lambda switches, _: switches.lift(tenant, kind, name, by=options.operator())):
        raise NotFoundError(f"the {kind} {name or tenant!r} is not stopped; `sampan kill list` shows what is")
    say(f"The {kind} {name or tenant} may run again.")


def _throw(kind: Kind, name: str, reason: str, tenant: str, data: str | None, code: str) -> None:
    stepup.confirm("stopping something", data, code)

    async def throw(switches: Switches, clock: SystemClock) -> int:
        switch = Switch(
            kind=kind, name=name, tenant=tenant, reason=reason[:500], by=options.operator(), at=clock.now()
        )
        return await switches.throw(switch)

    told = _with(data, throw)
    say(f"The {kind} {name or tenant} is stopped; runs under way that were told: {told}.")


def _with(data: str | None, work: Callable[[Switches, SystemClock], Awaitable[T]]) -> T:
    """Do it on the service's store; no agent is needed for that."""

    async def run() -> T:
        clock, settings = SystemClock(), Settings.from_env(data=data)
        store = make_store(settings, clock)
        hooks = make_hooks(settings, store, clock) if settings.hooks else None
        try:
            return await work(Switches(store, clock, hooks, make_shards(settings, store, clock)), clock)
        finally:
            await store.close()

    return asyncio.run(run())
