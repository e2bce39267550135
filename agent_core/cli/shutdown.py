"""Ending in peace: runs under way get some time, then the process goes without them."""

from __future__ import annotations

import asyncio

from agent_core.app import App
from agent_core.cli.screen import say


async def shut(app: App, seconds: float, hurry: asyncio.Event | None = None) -> None:
    """Close the app. What is not answered by then, or when told to hurry, stays accepted: the store has it."""
    ending = asyncio.ensure_future(app.engine.close())
    hurrying = asyncio.ensure_future((hurry or asyncio.Event()).wait())
    await asyncio.wait({ending, hurrying}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not ending.done():
        say("An answer was not finished. Its message is kept in the store.", "yellow", stderr=True)
    for task in (ending, hurrying):
        task.cancel()
    await asyncio.wait({ending, hurrying})
    # Their sessions are free at once, for whoever goes on with them; being stopped is no failed try.
    await app.engine.hand_over(wake=False, counted=False)
    await app.close()
