"""Ending in peace: runs under way get some time, then the process goes without them."""

from __future__ import annotations

import asyncio

from agent_core.app import App
from agent_core.cli.screen import say


async def shut(app: App, seconds: float) -> None:
    """Close the app. What is not answered by then stays accepted: its session's next worker finds it."""
    try:
        async with asyncio.timeout(seconds):
            await app.engine.close()
    except TimeoutError:
        say("An answer was not finished. Its message is kept in the store.", "yellow", stderr=True)
    await app.close()
