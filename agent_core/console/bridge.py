"""From the threads in which pages are rendered to the loop on which the engine lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from agent_core.clock import Clock, SystemClock
from agent_core.engine.engine import Engine
from agent_core.errors import AgentError

T = TypeVar("T")

READ_SECONDS = 10.0
"""How long a page waits for what is stored."""


class SlowError(AgentError):
    """The engine did not answer while the page waited; what it was asked to do goes on."""

    status, slug, title, retryable = 504, "slow", "The service did not answer in time", True


class EngineBridge:
    """Runs the engine's coroutines on its loop and waits for them in the calling thread.

    The loop may run in another thread (an ASGI server), or stand still between calls (a WSGI handler of its own).
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, clock: Clock | None = None) -> None:
        self.engine = engine
        self.clock = clock or SystemClock()
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T], seconds: float = READ_SECONDS) -> T:
        """What the coroutine gives. Raises what it raises, SlowError after so many seconds."""
        limited = asyncio.wait_for(work, seconds)
        try:
            if self._loop.is_running():
                return asyncio.run_coroutine_threadsafe(limited, self._loop).result()
            return self._loop.run_until_complete(limited)
        except TimeoutError:
            raise SlowError(f"no answer within {seconds:g} s", retry_after=seconds) from None
        except CancelledError:
            raise SlowError("the service is stopping", retry_after=seconds) from None
