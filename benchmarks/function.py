"""A Lambda function in a fresh process, under AWS's own runtime client (awslambdaric) and a Runtime API of ours.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import BenchmarkError, clean_environment

PATH = "/2018-06-01/runtime/"
ANSWER_SECONDS = 60.0
TIMEOUT_MS = 29_000


class Used(NamedTuple):
    """What a function's process has used so far: CPU in ms, user and system; peak memory in MiB."""

    cpu: float
    peak: float


class Function:
    """A running function. `answer` invokes it; `used` is looked at between two invocations, when it waits."""

    def __init__(self, process: subprocess.Popen[bytes], api: RuntimeApi, log: Path) -> None:
        self._process = process
        self._api = api
        self._log = log

    def answer(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to an event, once the function waits for the next one. Raises BenchmarkError where it fails."""
        self._api.events.put(json.dumps(event).encode())
        answer = self._take(self._api.answers)
        self._take(self._api.waiting)
        if answer.get("statusCode") != 200:
            raise BenchmarkError(f"a function answered {json.dumps(answer)[:300]}; {self._last_words()}")
        return answer

    def begin(self) -> None:
        """Return when it has been loaded and waits for its first event."""
        self._take(self._api.waiting)

    def used(self) -> Used:
        """What its process has used until now."""
        # The process's CPU clock, as clock_getcpuclockid(3) numbers it: /proc counts in hundredths of a second.
        cpu = time.clock_gettime((~self._process.pid << 3) | 2)
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return Used(cpu * 1000, peak / 1024)

    def _take(self, place: queue.Queue[Any]) -> Any:
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                return place.get(timeout=0.2)
            except queue.Empty:
                continue
        raise BenchmarkError(
            f"a function did not answer (exit code {self._process.poll()}): {self._last_words()}"
        )

    def _last_words(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])[-600:]


class RuntimeApi(ThreadingHTTPServer):
    """The Runtime API of one function."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.events: queue.Queue[bytes] = queue.Queue()
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.waiting: queue.Queue[bool] = queue.Queue()


class _Call(BaseHTTPRequestHandler):
    """A call of the runtime client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: RuntimeApi

    def do_GET(self) -> None:
        """The next event, once there is one."""
        self.server.waiting.put(True)
        event = self.server.events.get()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", os.urandom(16).hex())
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + TIMEOUT_MS))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:1:function:bench")
        self.send_header("Content-Type", "application/json")
        self._body(event)

    def do_POST(self) -> None:
        """The answer to an event, or what went wrong, also before the first event."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.answers.put(json.loads(body))
        if self.path == f"{PATH}init/error":
            self.server.waiting.put(True)
        self.send_response(202)
        self._body(b"{}")

    def _body(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the table is what this prints."""


@contextmanager
def function(
    handler: str, folder: Path, log: Path, *, python: str = sys.executable, **environment: str
) -> Iterator[Function]:
    """A fresh process of the function whose code lies in `folder`; ended with the context."""
    api = RuntimeApi()
    threading.Thread(target=api.serve_forever, daemon=True).start()
    known = clean_environment(
        AWS_LAMBDA_RUNTIME_API=f"127.0.0.1:{api.server_port}",
        AWS_LAMBDA_FUNCTION_NAME="bench",
        AWS_LAMBDA_FUNCTION_VERSION="$LATEST",
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512",
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        LAMBDA_TASK_ROOT=str(folder),
        PYTHONPATH=str(folder),
        PYTHONDONTWRITEBYTECODE="1",
        **environment,
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", "awslambdaric", handler], cwd=folder, env=known, stdout=output, stderr=output
        )
    try:
        yield Function(process, api, log)
    finally:
        process.kill()
        process.wait()
        api.shutdown()
        api.server_close()
