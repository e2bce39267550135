"""A second factor of whoever gives a command that only admins may: asked where they have one, or must have one."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from agent_core.app import make_store
from agent_core.cli import options
from agent_core.clock import SystemClock
from agent_core.errors import StepUpError
from agent_core.messages import Principal
from agent_core.security.stepup import StepUp
from agent_core.security.visitor import Caller
from agent_core.settings import Settings

Code = Annotated[
    str, typer.Option("--code", help="Six digits of your authenticator app, where you have a second factor.")
]


def confirm(what: str, data: str | None, code: str) -> None:
    """See that it is them. Raises StepUpError, or NoFactorError where there must be a factor.

    Whoever reaches the store could do it without us: this keeps an open terminal from being enough.
    """
    settings = Settings.from_env(data=data)
    caller = Caller(principal=Principal(user=options.operator()))

    async def check(shown: str) -> None:
        clock = SystemClock()
        store = make_store(settings, clock)
        try:
            await StepUp(settings, store, clock).check(caller, shown, what)
        finally:
            await store.close()

    try:
        asyncio.run(check(code))
    except StepUpError:
        if code:
            raise
        if not sys.stdin.isatty():
            raise StepUpError(f"{what} needs a second factor of {options.operator()}: give --code") from None
        asyncio.run(check(typer.prompt("Code of your authenticator app")))
