"""`sampan hooks`: who is told what happens in a tenant, what they were told, and telling it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from agent_core.app import make_hooks, make_store, make_wire
from agent_core.cli import options, stepup
from agent_core.cli.keys import seconds_of
from agent_core.cli.screen import clipped, json_out, moment, rows, say
from agent_core.clock import SystemClock
from agent_core.engine.hook_post import HookPost
from agent_core.engine.hooks import TYPES, Endpoint, Hooks, Notice
from agent_core.settings import Settings
from agent_core.wire.outside import OutsideWire

app = typer.Typer(
    help="Outgoing webhooks: who is told what happens, and what they were told.", no_args_is_help=True
)

T = TypeVar("T")
Tenant = Annotated[str, typer.Option(help="Whose.")]
Id = Annotated[str, typer.Argument(help="An endpoint's id, as `sampan hooks list` shows it.")]


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where to: https, into the public internet.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help=f"What of; several times, or as in 'run.*': {', '.join(TYPES)}.", show_default="*"),
    ] = None,
    tenant: Tenant = "default",
    code: stepup.Code = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Tell an address what happens, and print the secret that signs it. It is shown this once."""
    stepup.confirm("adding a webhook", data, code)
    endpoint, secret = _with(
        data, lambda hooks, _: hooks.add(tenant, url, event or ["*"], by=options.operator())
    )
    _shown(endpoint, secret, json=json)
    if not Settings.from_env(data=data).hooks:
        say("Servers tell nothing before SAMPAN_HOOKS=true is set for them.", "yellow", stderr=True)


@app.command("list")
def list_(tenant: Tenant = "default", data: options.Data = None, json: options.Json = False) -> None:
    """List who is told, of what, and whether they listen."""
    found = _with(data, lambda hooks, _: hooks.all(tenant))
    if json:
        json_out([_public(one) for one in found])
        return
    lines = [[one.id, _state(one), " ".join(one.events), one.url] for one in found]
    rows(["endpoint", "state", "events", "url"], lines, empty="Nobody is told anything.")


@app.command()
def remove(
    endpoint: Id, tenant: Tenant = "default", code: stepup.Code = "", data: options.Data = None
) -> None:
    """Tell it nothing any more."""
    stepup.confirm("removing a webhook", data, code)
    _with(data, lambda hooks, _: hooks.remove(tenant, endpoint, by=options.operator()))
    say(f"{endpoint} is told nothing any more.")


@app.command()
def rotate(
    endpoint: Id,
    overlap: Annotated[str, typer.Option(help="How long the old secret signs as well: 1d, 1h, 0s.")] = "1d",
    tenant: Tenant = "default",
    code: stepup.Code = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Give it a new secret and print it; for a while both sign."""
    seconds = seconds_of("overlap", overlap)
    stepup.confirm("rotating a webhook's secret", data, code)
    rotated, secret = _with(
        data, lambda hooks, _: hooks.rotate(tenant, endpoint, by=options.operator(), overlap=seconds)
    )
    _shown(rotated, secret, json=json)


@app.command()
def enable(endpoint: Id, tenant: Tenant = "default", data: options.Data = None) -> None:
    """Tell it of things again, after it was disabled: by its 410, or five days of failures."""
    _with(data, lambda hooks, _: hooks.enable(tenant, endpoint, by=options.operator()))
    say(f"{endpoint} is told of things again. `sampan hooks test {endpoint}` tries it.")


@app.command("test")
def try_(endpoint: Id, tenant: Tenant = "default", data: options.Data = None) -> None:
    """Tell it something that means nothing, now, and say what came of it; exit code 1 where it did not arrive."""

    async def tell(hooks: Hooks, post: HookPost) -> Notice:
        key, due = await hooks.test(tenant, endpoint)
        await post.tell(key, due)
        return await _notice(hooks, tenant, due.run_id, endpoint)

    notice = _with(data, tell)
    say(f"{notice.status}: {notice.told}")
    raise typer.Exit(0 if notice.status == "delivered" else 1)


@app.command()
def deliveries(
    endpoint: Annotated[str, typer.Option(help="Only to this endpoint.")] = "",
    status: Annotated[str, typer.Option(help="Only `pending`, `delivered` or `failed`.")] = "",
    tenant: Tenant = "default",
    limit: options.Limit = 50,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """List what was told in the last thirty days, newest first, and how each attempt ended."""

    async def read(hooks: Hooks, _: HookPost) -> list[Notice]:
        found = await _all_of(hooks, tenant)
        found = [one for one in found if endpoint in ("", one.endpoint) and status in ("", one.status)]
        return sorted(found, key=lambda one: one.at, reverse=True)[:limit]

    found = _with(data, read)
    if json:
        json_out(found)
        return
    lines = [
        [one.id, one.type, moment(one.at), one.endpoint, one.status, str(one.tries), clipped(one.told)]
        for one in found
    ]
    rows(["notice", "type", "at", "endpoint", "status", "tries", "answer"], lines, empty="Nothing was told.")


@app.command()
def resend(
    notice: Annotated[str, typer.Argument(help="A notice's id, as `sampan hooks deliveries` shows it.")],
    endpoint: Annotated[str, typer.Option(help="Only to this endpoint; without it, to all it was for.")] = "",
    tenant: Tenant = "default",
    data: options.Data = None,
) -> None:
    """Tell it once more, now, under the same id; exit code 1 where it did not arrive."""

    async def tell(hooks: Hooks, post: HookPost) -> list[Notice]:
        again = await hooks.resend(tenant, notice, endpoint)
        for key, due in again:
            await post.tell(key, due)
        return [await _notice(hooks, tenant, notice, due.push_id) for _, due in again]

    found = _with(data, tell)
    for one in found:
        say(f"{one.endpoint} {one.status}: {one.told}")
    raise typer.Exit(0 if all(one.status == "delivered" for one in found) else 1)


async def _all_of(hooks: Hooks, tenant: str) -> list[Notice]:
    found: list[Notice] = []
    after = ""
    while True:
        page, after = await hooks.sent(tenant, after=after, limit=1000)
        found += page
        if not after:
            return found


async def _notice(hooks: Hooks, tenant: str, notice: str, endpoint: str) -> Notice:
    return next(one for one in await _all_of(hooks, tenant) if (one.id, one.endpoint) == (notice, endpoint))


def _shown(endpoint: Endpoint, secret: str, *, json: bool) -> None:
    """The secret alone on stdout, for a program or a file; what to know of it beside."""
    if json:
        json_out({**_public(endpoint), "secret": secret})
        return
    say(secret)
    words = f"Endpoint {endpoint.id}: {' '.join(endpoint.events)} to {endpoint.url}. Keep the secret now."
    say(words, "dim", stderr=True)


def _public(endpoint: Endpoint) -> dict[str, Any]:
    names = ("id", "tenant", "url", "events", "made_at", "old_until", "failing_since", "disabled")
    return {name: getattr(endpoint, name) for name in names}


def _state(endpoint: Endpoint) -> str:
    if endpoint.disabled:
        return f"disabled: {endpoint.disabled}"
    return f"failing since {moment(endpoint.failing_since)}" if endpoint.failing_since else "good"


def _with(data: str | None, work: Callable[[Hooks, HookPost], Awaitable[T]]) -> T:
    """Do it on the service's store; no agent is needed for that."""

    async def run() -> T:
        clock, settings = SystemClock(), Settings.from_env(data=data)
        store = make_store(settings, clock)
        # One try means one request: what comes after is the schedule's.
        wire = make_wire(msgspec.structs.replace(settings, model_retries=0), clock)
        hooks = make_hooks(settings, store, clock)
        try:
            return await work(hooks, HookPost(store, hooks, OutsideWire(wire, hooks.reach), clock))
        finally:
            await wire.close()
            await store.close()

    return asyncio.run(run())
