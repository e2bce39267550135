"""`sampan runs`: what became of earlier messages."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import quote

import typer

from agent_core.api.views import RunDetail, RunList, StepView
from agent_core.cli import options, stepup
from agent_core.cli.screen import clipped, json_out, moment, money, rows, say, seconds
from agent_core.errors import InputError
from agent_core.settings import Settings

app = typer.Typer(help="What became of earlier messages.", no_args_is_help=True)


@app.command("list")
def list_(
    limit: options.Limit = 20,
    url: options.Url = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """List ended runs, newest first."""
    # Only once something is asked for: it loads an HTTP client.
    from agent_core.cli.client import read

    found = read(Settings.from_env(data=data), url, "/api/v1/runs", RunList, limit=limit)
    if json:
        json_out(found)
        return
    lines = [
        [
            run.run_id,
            moment(run.created_at),
            run.agent,
            run.status,
            str(run.usage.input + run.usage.output),
            money(run.cost),
            clipped(run.reply.text if run.reply else run.problem.detail if run.problem else ""),
        ]
        for run in found.runs
    ]
    rows(["run", "accepted", "agent", "status", "tokens", "cost", "answer"], lines, empty="No run yet.")


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="A run's id, as `sampan runs list` shows it.")],
    url: options.Url = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show one run: its answer, and each step with what it took."""
    # Only once something is asked for: it loads an HTTP client.
    from agent_core.cli.client import read

    run = read(Settings.from_env(data=data), url, f"/api/v1/runs/{quote(run_id, safe='')}", RunDetail)
    if json:
        json_out(run)
        return
    say(f"run       {run.run_id}\nsession   {run.session_id}\nagent     {run.agent}\nstatus    {run.status}")
    say(f"accepted  {moment(run.created_at)}\ntook      {_took(run.created_at, run.finished_at)}")
    say(f"cost      {money(run.cost)} · {run.usage.input} tokens in, {run.usage.output} out")
    if run.problem:
        say(f"problem   {run.problem.detail or run.problem.title}", "red")
    if run.reply:
        say(f"answer    {run.reply.text}")
    for question in run.questions:
        if question.status == "asked":
            say(
                f"asks      {question.tool} {question.arguments} until {moment(question.expires_at)}",
                "yellow",
            )
            say(f"          sampan runs approve {run.run_id} --hash {question.hash}")
    say()
    rows(["step", "kind", "name", "took", "tokens", "what"], [_step(step) for step in run.journal])


RunId = Annotated[str, typer.Argument(help="A run that waits, as its answer or the console shows it.")]
Hash = Annotated[str, typer.Option("--hash", help="Which question; needed where it asks several.")]


@app.command()
def approve(
    run_id: RunId,
    digest: Hash = "",
    code: stepup.Code = "",
    url: options.Url = "",
    data: options.Data = None,
    agents: options.Agents = None,
) -> None:
    """Let a run make the call that it asks about; `runs show` shows the call. Without --url it goes on here."""
    asyncio.run(_decide(Settings.from_env(data=data, agents=agents), url, run_id, digest, "approve", code))


@app.command()
def deny(
    run_id: RunId,
    digest: Hash = "",
    url: options.Url = "",
    data: options.Data = None,
    agents: options.Agents = None,
) -> None:
    """Keep a run from the call that it asks about; it goes on without it."""
    asyncio.run(_decide(Settings.from_env(data=data, agents=agents), url, run_id, digest, "deny"))


async def _decide(
    settings: Settings, url: str, run_id: str, digest: str, verb: Literal["approve", "deny"], code: str = ""
) -> None:
    # Only once something is asked for: the wiring is slow to load.
    from agent_core.cli.client import api, call, fetch

    async with api(settings, url, own_agents=True) as client:
        path = f"/api/v1/runs/{quote(run_id, safe='')}"
        run = await fetch(client, path, RunDetail)
        body = {"hash": digest or _only(run), **({"code": code} if code else {})}
        await call(client, "POST", f"{path}/{verb}", json=body)
        say(f"Run {run_id} goes on.")


def _only(run: RunDetail) -> str:
    """The one question that is open."""
    found = [question.hash for question in run.questions if question.status == "asked"]
    if len(found) != 1:
        told = ", ".join(found) or "none"
        raise InputError(f"run {run.run_id} asks {len(found)} questions: give one as --hash ({told})")
    return found[0]


def _step(step: StepView) -> list[str]:
    calls = " ".join(f"{call.name} {call.arguments}" for call in step.tool_calls)
    words = step.result.content if step.result else " ".join(filter(None, (step.text, calls)))
    took = _took(step.started_at, step.finished_at)
    return [
        str(step.number),
        step.kind,
        step.name,
        took,
        str(step.usage.input + step.usage.output),
        clipped(words),
    ]


def _took(start: datetime | None, end: datetime | None) -> str:
    return seconds((end - start).total_seconds()) if start and end else "-"
