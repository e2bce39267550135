"""`sampan dead`: what was given up, why, and how it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from agent_core.cli import options, stepup
from agent_core.cli.screen import clipped, json_out, moment, rows, say, seconds
from agent_core.engine.dead import DeadLetter
from agent_core.engine.runs import Step
from agent_core.messages import Principal
from agent_core.settings import Settings

app = typer.Typer(help="What was given up, and how it comes back.", no_args_is_help=True)

T = TypeVar("T")
RunId = Annotated[str, typer.Argument(help="A run's id, as `sampan dead list` shows it.")]


@app.command("list")
def list_(
    limit: options.Limit = 20,
    after: Annotated[str, typer.Option(help="Go on behind this run's id.")] = "",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """List dead letters: runs whose work was given up, and replies that could not be delivered."""
    settings = Settings.from_env(data=data)
    letters = _with(settings, lambda app: app.engine.dead(Principal(), limit=limit, after=after))
    if json:
        json_out(letters)
        return
    lines = [
        [one.run_id, moment(one.died_at), one.agent, one.kind, clipped(one.reason), clipped(_words(one))]
        for one in letters
    ]
    rows(["run", "given up", "agent", "what", "why", "message"], lines, empty="Nothing was given up.")


@app.command()
def show(run_id: RunId, data: options.Data = None, json: options.Json = False) -> None:
    """Show a dead letter: its reason, its message, and the journal of its run."""
    letter, journal = _with(Settings.from_env(data=data), lambda app: _read(app, run_id))
    if json:
        json_out({"letter": letter, "journal": journal})
        return
    what = "its work was given up" if letter.kind == "run" else "its reply was not delivered"
    say(f"run       {letter.run_id}\nsession   {letter.session_id}\nagent     {letter.agent}")
    say(f"given up  {moment(letter.died_at)}: {what}\nreason    {letter.reason}")
    if letter.delivery:
        say(f"to        {letter.delivery.kind} {letter.delivery.address}")
    if letter.pending:
        say(f"message   {_words(letter)}")
    say()
    rows(
        ["step", "kind", "name", "took", "what"], [_step(step) for step in journal], empty="No step was done."
    )


@app.command()
def redrive(
    run_id: RunId, code: stepup.Code = "", data: options.Data = None, agents: options.Agents = None
) -> None:
    """Bring a dead letter back and have it worked on: by the queue's workers, here where no queue is set."""
    stepup.confirm("bringing a dead letter back", data, code)
    asyncio.run(_redrive(Settings.from_env(data=data, agents=agents), run_id))


async def _redrive(settings: Settings, run_id: str) -> None:
    # Only once something is asked for: the wiring is slow to load.
    from agent_core.app import build_app

    app = build_app(settings)
    try:
        letter = await app.engine.redrive(Principal(), run_id)
        await app.engine.drain()
        run = await app.engine.run(Principal(), run_id)
        again = letter.kind == "push" and any(
            one.run_id == run_id for one in await app.engine.dead(Principal(), limit=200)
        )
        say(f"run {run_id} is back: {'its reply was refused again' if again else run.status}")
    finally:
        await app.close()


def _with(settings: Settings, read: Callable[[Any], Awaitable[T]]) -> T:
    """What can be read of the store; it needs no agents."""

    async def reading() -> T:
        # Only once something is asked for: the wiring is slow to load.
        from agent_core.app import build_app
        from agent_core.cli.client import Nobody

        app = build_app(settings, agents=[Nobody()])
        try:
            return await read(app)
        finally:
            await app.close()

    return asyncio.run(reading())


async def _read(app: Any, run_id: str) -> tuple[DeadLetter, tuple[Step, ...]]:
    letter = await app.engine.dead_letter(Principal(), run_id)
    return letter, await app.engine.steps(Principal(), run_id)


def _words(letter: DeadLetter) -> str:
    return " ".join(message.text for message in letter.pending.inbound.messages) if letter.pending else ""


def _step(step: Step) -> list[str]:
    if step.result is not None:
        words = step.result.content
    elif step.reply is not None:
        calls = " ".join(f"{call.name} {call.arguments}" for call in step.reply.message.tool_calls)
        words = " ".join(filter(None, (step.reply.message.text, calls)))
    else:
        words = "begun; whether it was done is not known"
    took = seconds(step.finished_at - step.started_at) if step.finished_at else "-"
    return [str(step.number), step.kind, step.name, took, clipped(words)]
