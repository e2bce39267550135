"""What every test may rely on: no network but loopback, a clean environment, the shared data."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.aws.emulator import Emulator, Ministack, running, running_ministack

pytest_plugins = ["tests.watchdog"]
ROOT = Path(__file__).resolve().parents[1]
OWN_VARIABLES = ("SAMPAN_", "MODEL_", "OPENAI_", "ANTHROPIC_", "AWS_")
LOCAL_NAMES = {"", "localhost", socket.gethostname()}


# How long an example takes says nothing on a shared machine: time is measured in benchmarks.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


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


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """AWS services on loopback: DynamoDB, SQS and S3, as moto emulates them."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def ministack() -> Iterator[Ministack]:
    """The same services once more, as ministack emulates them."""
    with running_ministack() as server:
        yield server


@dataclass
class Served:
    """`sampan run` as a process of its own, in a process group of its own."""

    process: subprocess.Popen[str]
    said: str
    url: str

    def end(self, signal_number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Ask it to stop; gives its exit code."""
        self.process.send_signal(signal_number)
        return self.wait(seconds)

    def wait(self, seconds: float = 30) -> int:
        """The exit code; `said` has the rest of its output then."""
        rest, _ = self.process.communicate(timeout=seconds)
        self.said += rest
        return self.process.returncode

    def until(self, words: str, seconds: float = 60) -> str:
        """Its output up to the line with these words; fails where they do not come."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(seconds, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.said += line
                if words in line:
                    return self.said
        finally:
            watchdog.cancel()
        raise AssertionError(f"{words!r} did not come; there was: {self.said}")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start `sampan run` in a folder, on a free port and with fresh state, and wait until it tells its address."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, *arguments: str, command: Sequence[str] = (), **environ: str) -> Served:
        data = [] if "--data" in arguments else ["--data", str(tmp_path / "served")]
        full = [sys.executable, "-m", "agent_core.cli", "run", "--port", "0", *data, *arguments]
        process = subprocess.Popen(
            [*command] or full,
            cwd=folder,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        served = Served(process, "", "")
        served.url = served.until("Chat page").split("Chat page")[1].split()[0].removesuffix("/console/")
        return served

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
