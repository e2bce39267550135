"""`sampan replay`: a stored run again, from its journal, with no model and no tool called."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from agent_core.agent import Agent
from agent_core.cli import options
from agent_core.cli.screen import clipped, say
from agent_core.engine.runs import Step
from agent_core.errors import AgentError, InputError, NotFoundError
from agent_core.messages import Message, Principal, to_json
from agent_core.settings import Settings


def replay(
    run_id: Annotated[str, typer.Argument(help="A run's id, as `sampan runs list` shows it.")],
    save: Annotated[
        Path | None, typer.Option(help="Write a recording there, for assert_replays in a test.")
    ] = None,
    data: options.Data = None,
    agents: options.Agents = None,
) -> None:
    """Run a stored run again, step by step, as the agent's code is today."""
    recording, found = asyncio.run(_replay(Settings.from_env(data=data, agents=agents), run_id))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_bytes(msgspec.json.format(to_json(recording), indent=1) + b"\n")
        say(f"saved to {save}")
    for different in found:
        say(different, "yellow")
    if found:
        raise AgentError("the agent behaves otherwise than when the run was made")
    say("the agent behaves as it did")


async def _replay(settings: Settings, run_id: str) -> tuple[msgspec.Struct, list[str]]:
    """The recording of a run with its prompts of today, and what is different today."""
    # Only once something is asked for: the wiring is slow to load.
    from agent_core.app import build_app
    from agent_core.engine.replay import describe, record
    from agent_core.engine.replay import replay as again

    app = build_app(settings)
    try:
        run = await app.engine.run(Principal(), run_id)
        bound = app.engine.agents.get(run.agent)
        if bound is None:
            raise NotFoundError(f"the run is of the agent {run.agent!r}, which is not in {settings.agents!r}")
        if not isinstance(bound.agent, Agent):
            raise InputError(
                f"{run.agent!r} is another framework's: what it does between steps is not journaled"
            )
        recording = await record(app.store, run.principal.tenant, run_id, bound.history)
        say(f"run {run_id}, agent {run.agent}, {run.status}, {len(recording.steps)} steps")
        prompts, found = await again(recording, bound, app.blobs, _show)
        return msgspec.structs.replace(recording, prompts=prompts), [describe(one) for one in found]
    finally:
        await app.close()


def _show(step: Step, prompt: dict[str, Any] | None) -> None:
    if prompt is not None and step.reply is not None:
        say(f"{step.number} model {step.name} · {len(prompt['messages'])} messages")
        say(f"    {_said(step.reply.message)}")
    elif step.call is not None and step.result is not None:
        say(f"{step.number} tool {step.call.name} {clipped(step.call.arguments, 200)}")
        say(f"    {clipped(step.result.content, 200)}")


def _said(message: Message) -> str:
    calls = [f"calls {call.name} {call.arguments}" for call in message.tool_calls]
    return clipped(" ".join(filter(None, (message.text, *calls))), 200)
