"""What tests of handlers share: Lambda's context, the gateway of WebSockets, a process as the platform keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handlers import _shared
from tests.handlers import gateway as gateways


@dataclass
class Context:
    """As much of Lambda's context as is asked for."""

    milliseconds: int = 30_000

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


@pytest.fixture
def context() -> Context:
    """A context with 30 seconds left."""
    return Context()


@pytest.fixture
def gateway() -> Iterator[gateways.Gateway]:
    """API Gateway's management API, on loopback."""
    with gateways.running() as running:
        yield running


@pytest.fixture
def process(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A process as the platform keeps it: call it to set the environment; afterwards all is as if it had not been."""
    monkeypatch.setenv("SAMPAN_AGENTS", str(root / "tests" / "projects" / "history" / "agents"))
    monkeypatch.setenv("SAMPAN_DATA", str(tmp_path))
    monkeypatch.setenv("IS_LOCAL", "true")  # as under `serverless invoke local`: nobody is asked for a key
    _forget()

    def set_environment(**environ: str) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    yield set_environment
    if _shared.app.cache_info().currsize:
        _shared.wait_for(_shared.app().close())
    if _shared._loop.cache_info().currsize:
        _shared.wait_for(_shared._loop().shutdown_default_executor())
        _shared._loop().close()
    _forget()


def _forget() -> None:
    from handlers import dashboard

    for made in (_shared.app, _shared.asgi, _shared._loop, dashboard._wsgi):
        made.cache_clear()
