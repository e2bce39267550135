"""The processes of a benchmark over HTTP: the model's double, servers under test, the loader. All on 127.0.0.1."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import ROOT, BenchmarkError, clean_environment

TOOLS = ROOT.parent / "shared" / "bench"
START_SECONDS = 60.0

AGENT = """from agent_core import Agent

agent = Agent(
    name="assistant",
    instructions="You are a helpful assistant who gives short, correct answers.",
    model="openai:mock",
)
"""


@dataclass(frozen=True)
class Server:
    """A running server and what must be known to load it. `bodies` by mode: what a request sends."""

    name: str
    pid: int
    url: str
    bodies: Mapping[str, str]
    content_type: str = "application/json"


def tool(name: str) -> str:
    """A program of ../shared/bench; raises BenchmarkError where it is missing."""
    path = TOOLS / name
    if not path.is_file():
        raise BenchmarkError(
            f"../shared/bench/{name} is missing: this benchmark needs the model double and the loader of the "
            "folder `shared` beside the clone (see CONTRIBUTING.md). `start`, `session` and `trips` run without it."
        )
    return str(path)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[int]:
    """A process that listens on the port, by its pid; ended with the context. Its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(**environment), stdout=output, stderr=output
        )
    try:
        _wait_for(process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise BenchmarkError(f"the server did not start: {''.join(last)[:300]}")


class Mock(NamedTuple):
    """The model's double."""

    port: int
    pid: int

    @property
    def endpoint(self) -> str:
        """Its base URL, as an OpenAI-compatible model's."""
        return f"http://127.0.0.1:{self.port}/v1"

    def ask(self, path: str, **body: object) -> dict[str, Any]:
        """Control it ("_config"), or read its counts ("_stats")."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", data=json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@contextmanager
def mock_model(log: Path, *, latency_ms: int = 50, chunks: int = 50, seconds: int = 3600) -> Iterator[Mock]:
    """The model's double. It ends by itself after `seconds`, should we die."""
    port = free_port()
    options = {"port": port, "latency-ms": latency_ms, "chunks": chunks, "max-seconds": seconds}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with running([sys.executable, tool("mock_model.py"), "--uvloop", *arguments], port, log) as pid:
        yield Mock(port, pid)


@contextmanager
def sampan(name: str, folder: Path, mock: Mock, *, store: str = "sqlite") -> Iterator[Server]:
    """`sampan run` as a user starts it, with an agent of one file and its data in `folder`."""
    agents = folder / "agents"
    agents.mkdir(parents=True)
    (agents / "assistant.py").write_text(AGENT)
    port = free_port()
    command = [sys.executable, "-m", "agent_core.cli", "run", f"--port={port}"]
    command += [f"--data={folder / 'data'}", f"--agents={agents}"]
    settings = {"MODEL_ENDPOINT": mock.endpoint, "MODEL_NAME": "mock", "SAMPAN_STORE": store}
    with running(command, port, folder / "sampan.log", **settings) as pid:
        yield Server(name, pid, f"http://127.0.0.1:{port}/api/v1/agent", JSON_BODIES)


JSON_BODIES = {
    "whole": '{"message": "Hello {i}, how are you?", "stream": false}',
    "streamed": '{"message": "Hello {i}, how are you?", "stream": true}',
}


def load(
    server: Server, mode: str, *, concurrency: int, requests: int, base_ms: float = 0.0
) -> dict[str, Any]:
    """So many requests by the loader; what it found. Raises BenchmarkError where one was not answered well."""
    command = [sys.executable, tool("load.py"), server.url, "--json", f"--pid={server.pid}", "--warm=0"]
    command += [f"-c{concurrency}", f"-n{requests}", f"--body={server.bodies[mode]}", f"--base={base_ms}"]
    command += ["-H", f"content-type: {server.content_type}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if result.returncode:
        raise BenchmarkError(f"the loader failed: {result.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(result.stdout)
    if found["errors"] or found["ok"] < requests:
        raise BenchmarkError(
            f"{server.name} gave {found['ok']} of {requests} answers; errors: {found['errors']}"
        )
    return found
