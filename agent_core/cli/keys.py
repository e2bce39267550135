"""`sampan keys`: who may call the service, and with what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from agent_core.app import make_store
from agent_core.cli import options, stepup
from agent_core.cli.screen import json_out, moment, rows, say
from agent_core.clock import SystemClock
from agent_core.errors import InputError
from agent_core.messages import Principal
from agent_core.security.keys import ApiKey, Keys
from agent_core.security.scopes import DEFAULT, SCOPES
from agent_core.settings import Settings

app = typer.Typer(help="API keys: who may call the service, and what they may do.", no_args_is_help=True)

T = TypeVar("T")
KeyId = Annotated[str, typer.Argument(help="A key's id, as `sampan keys list` shows it.")]
Tenant = Annotated[str, typer.Option(help="Whose keys.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,8})([smhd])")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for, in your words.")] = "",
    tenant: Annotated[str, typer.Option(help="Whose data it opens.")] = "default",
    user: Annotated[str, typer.Option(help="Which user of the tenant calls with it.")] = "local",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What it may do; give it several times: {', '.join(SCOPES)}.",
            show_default=", ".join(DEFAULT),
        ),
    ] = None,
    expires: Annotated[
        str, typer.Option(help="When it ends: 90d, 12h, 30m; without it, when it is revoked.")
    ] = "",
    rate: Annotated[str, typer.Option(help="Its own limit of requests, as in 60/minute.")] = "",
    code: stepup.Code = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Make a key and print it. It is shown this once: only a hash of it is kept."""
    seconds = seconds_of("expires", expires) if expires else 0.0
    stepup.confirm("making a key", data, code)
    principal = Principal(tenant=tenant, user=user, scopes=tuple(scope or ()))

    async def make(keys: Keys) -> tuple[ApiKey, str]:
        return await keys.create(name, principal=principal, seconds=seconds, rate=rate, by=options.operator())

    _shown(*_with(data, make), json=json)


@app.command("list")
def list_(tenant: Tenant = "default", data: options.Data = None, json: options.Json = False) -> None:
    """List a tenant's keys, those that ended, too; never their secrets."""
    found = _with(data, lambda keys: keys.list(tenant))
    now = SystemClock().now()
    if json:
        json_out([{**_public(key), "state": _state(key, now)} for key in found])
        return
    titles = ["key", "state", "user", "scopes", "made", "expires", "rate", "name"]
    lines = [
        [
            key.id,
            _state(key, now),
            key.user,
            " ".join(key.scopes),
            moment(key.made_at),
            moment(key.expires_at) if key.expires_at else "",
            key.rate,
            key.name,
        ]
        for key in found
    ]
    rows(titles, lines, empty="There is no key yet: `sampan keys create` makes one.")


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old one still goes: 1d, 1h, 0s.")] = "1d",
    code: stepup.Code = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Give a key a new secret and print it; the old one goes on for a while, so that nobody is cut off."""
    seconds = seconds_of("overlap", overlap)
    stepup.confirm("rotating a key", data, code)
    _shown(*_with(data, lambda keys: keys.rotate(key_id, overlap=seconds, by=options.operator())), json=json)


@app.command()
def revoke(key_id: KeyId, code: stepup.Code = "", data: options.Data = None) -> None:
    """End a key for good. Servers that have just seen it notice within five seconds."""
    stepup.confirm("revoking a key", data, code)
    key = _with(data, lambda keys: keys.revoke(key_id, by=options.operator()))
    say(f"The key {key.id} is revoked.")


def _shown(key: ApiKey, text: str, *, json: bool) -> None:
    """The key alone on stdout, for a program or a file; what to know of it beside."""
    if json:
        json_out({**_public(key), "key": text})
        return
    say(text)
    what = f"Key {key.id} of user {key.user}, tenant {key.tenant}: {', '.join(key.scopes)}."
    say(f"{what} Keep it now: it is not shown again.", "dim", stderr=True)


def _public(key: ApiKey) -> dict[str, object]:
    names = (
        "id",
        "name",
        "tenant",
        "user",
        "scopes",
        "made_at",
        "expires_at",
        "revoked_at",
        "rate",
        "old_until",
    )
    return {name: getattr(key, name) for name in names}


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at:
        return "revoked"
    if not key.alive(now):
        return "expired"
    return "rotating" if key.old_digest and now < key.old_until else "good"


def seconds_of(option: str, text: str) -> float:
    """A time as in 90d or 12h, in seconds; raises InputError that names the option."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise InputError(f"--{option} is a time as in 90d, 12h, 30m or 20s, not {text[:40]!r}", field=option)
    return float(found[1]) * _UNITS[found[2]]


def _with(data: str | None, work: Callable[[Keys], Awaitable[T]]) -> T:
    """Do it on the service's store; no agent is needed for that."""

    async def run() -> T:
        clock = SystemClock()
        store = make_store(Settings.from_env(data=data), clock)
        try:
            return await work(Keys(store, clock))
        finally:
            await store.close()

    return asyncio.run(run())
