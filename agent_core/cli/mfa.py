"""`sampan mfa`: second factors of those who approve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from agent_core.app import make_store
from agent_core.cli import options
from agent_core.cli.screen import json_out, moment, rows, say
from agent_core.clock import SystemClock
from agent_core.messages import Principal
from agent_core.security.seal import Seal
from agent_core.security.totp import Factors
from agent_core.settings import Settings

app = typer.Typer(help="Second factors: authenticator apps of those who approve.", no_args_is_help=True)

T = TypeVar("T")
Tenant = Annotated[str, typer.Option(help="Whose.")]
User = Annotated[str, typer.Option(help="Which user of the tenant.")]


@app.command()
def add(
    user: User = "local", tenant: Tenant = "default", data: options.Data = None, json: options.Json = False
) -> None:
    """Give a user a second factor. Its secret is shown this once, for their authenticator app."""
    address = _with(
        data, lambda factors: factors.add(Principal(tenant=tenant, user=user), by=options.operator())
    )
    if json:
        json_out({"tenant": tenant, "user": user, "otpauth": address})
        return
    say(address)
    say(
        f"Next: put it into an authenticator app, then: sampan mfa confirm CODE --user {user} --tenant {tenant}"
    )


@app.command()
def confirm(
    code: Annotated[str, typer.Argument(help="The six digits that the app shows now.")],
    user: User = "local",
    tenant: Tenant = "default",
    data: options.Data = None,
) -> None:
    """Show a first code of a new factor: from then on it counts."""
    _with(data, lambda factors: factors.confirm(Principal(tenant=tenant, user=user), code))
    say(f"{user} has a second factor.")


@app.command("list")
def list_(tenant: Tenant = "default", data: options.Data = None, json: options.Json = False) -> None:
    """List who has one; never its secret."""
    found = _with(data, lambda factors: factors.list(tenant))
    if json:
        json_out([{"user": one.user, "confirmed": one.confirmed, "made_at": one.made_at} for one in found])
        return
    rows(
        ["user", "state", "made"],
        [[one.user, "good" if one.confirmed else "not confirmed", moment(one.made_at)] for one in found],
    )


@app.command()
def remove(user: User = "local", tenant: Tenant = "default", data: options.Data = None) -> None:
    """Take a user's factor away, as when the phone is lost."""
    _with(data, lambda factors: factors.remove(Principal(tenant=tenant, user=user), by=options.operator()))
    say(f"{user} has no second factor any more.")


def _with(data: str | None, work: Callable[[Factors], Awaitable[T]]) -> T:
    async def run() -> T:
        settings = Settings.from_env(data=data)
        clock = SystemClock()
        store = make_store(settings, clock)
        try:
            return await work(Factors(store, Seal(settings.seal_keys), clock))
        finally:
            await store.close()

    return asyncio.run(run())
