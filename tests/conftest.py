"""What every test may rely on: no network but loopback, a clean environment, the shared data."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN_VARIABLES = ("SAMPAN_", "MODEL_", "OPENAI_", "ANTHROPIC_")
LOCAL_NAMES = {"", "localhost", socket.gethostname()}


@pytest.fixture(scope="session", autouse=True)
def _only_loopback() -> Iterator[None]:
    """A test that reaches for the network fails where it does so. (uvloop goes past this: tests use asyncio's loop.)"""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, method, _guarded(getattr(socket.socket, method)))
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            _refuse_strangers(host)
            return resolve(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


def _guarded(method: Any) -> Any:
    def guarded(self: socket.socket, *args: Any) -> Any:
        address = args[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_strangers(address[0])
        return method(self, *args)

    return guarded


def _refuse_strangers(host: str | bytes | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host or ""
    if name in LOCAL_NAMES:
        return
    try:
        local = ipaddress.ip_address(name).is_loopback
    except ValueError:
        local = False
    if not local:
        # Not an OSError: code under test that handles network errors must not swallow it.
        raise AssertionError(f"a test reached for {name!r}; tests use loopback alone")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell says about agents and models must not reach a test."""
    for variable in list(os.environ):
        if variable.startswith(OWN_VARIABLES):
            monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data that lies beside the repository: test suites, facts and recorded traffic of others."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.fail(f"no reference data: {os.path.relpath(folder, ROOT)} is missing (see CONTRIBUTING.md)")
    return folder
