"""What the handlers share: one application and one event loop for as long as the platform keeps the process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

from agent_core.app import App, build_app

T = TypeVar("T")


@cache
def app() -> App:
    """The application, made at the first call."""
    return build_app()


@cache
def _loop() -> asyncio.Runner:
    # One loop over all invocations: connections belong to the loop that they were made on.
    return asyncio.Runner()


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Do the work on the process's event loop."""
    return _loop().run(work)
