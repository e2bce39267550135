"""What every handler is given besides the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp

from agent_core.batches.service import Batches
from agent_core.clock import Clock
from agent_core.engine.engine import Engine
from agent_core.security.door import Door
from agent_core.security.webhook import Receiver
from agent_core.settings import Settings


@dataclass(frozen=True)
class Service:
    """The engine, the settings and the clock. `console` is where the pages are mounted, "" where they are not.

    `batches` are made when first asked for; `webhooks` is None where no channel is on.
    Without a `door` nobody is asked who they are: for commands in their own process.
    """

    engine: Engine
    settings: Settings
    clock: Clock
    console: str = ""
    batches: Callable[[], Batches] | None = None
    webhooks: Receiver | None = None
    door: Door | None = None


Handler = Callable[[Service, Request], Awaitable[ASGIApp]]
"""Answers a request; raises AgentErrors, which become problems."""
