"""An emulated AWS on this machine with the service deployed to it: `python cloud.py up`, and `python cloud.py down`.

`up` starts the emulator and, where neither MODEL_NAME nor MODEL_ENDPOINT says another, a server with the small model of
the laptop; then `serverless deploy --stage local` does what it would do for AWS. Where both run already it deploys what
has changed. All state is in the folder; `down` ends both servers, and what was in the cloud is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
QUESTION = """{"message": "What is the capital of France?"}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["up", "down"])
    parser.add_argument("--project", type=Path, default=PROJECT, help="what is deployed, if not this project")
    parser.add_argument(
        "--folder", type=Path, default=PROJECT / ".make" / "local", help="where state and logs are"
    )
    parser.add_argument(
        "--seconds", type=float, default=8 * 3600.0, help="how long the emulator runs at the most"
    )
    given = parser.parse_args()
    cloud = Cloud(given.folder.resolve(), given.project.resolve())
    if given.verb == "down":
        cloud.down()
    else:
        cloud.up(given.seconds)


class Cloud:
    """The emulator and the model's server; `state.json` in the folder says where they are."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.project = project
        self.file = folder / "state.json"
        self.state: dict[str, Any] = json.loads(self.file.read_text("utf-8")) if self.file.exists() else {}

    def up(self, seconds: float) -> None:
        """Start what does not run, deploy, and say how to use it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not answers(self.state.get("endpoint", ""), "/_ministack/health"):
            self.down()
            self._start_emulator(seconds)
        environ = self._environment()
        if not environ.get("MODEL_NAME") and not environ.get("MODEL_ENDPOINT"):
            if not answers(self.state.get("model", ""), "/readyz"):
                self._start_model()
            # Our own server speaks OpenAI's API; there, an agent is a model.
            environ |= {"MODEL_ENDPOINT": f"{self.state['model']}/v1", "MODEL_NAME": "smollm2"}
        self._deploy(environ)
        say(
            f"The API is at     {self.state['url']}\n"
            f"WebSockets are at {self.state['websocket']}\n"
            f"AWS itself is at  {self.state['endpoint']} (AWS_ENDPOINT_URL; key and secret: test)\n\n"
            f"Ask the agent:\n\n  curl -s '{self.state['url']}/api/v1/agent' \\\n"
            f"    -H 'Content-Type: application/json' -d '{QUESTION}'\n\n"
            "Stop all of it: make deploy-local-stop"
        )

    def down(self) -> None:
        """End what this folder's `up` has started."""
        for name, path in (("endpoint", "/_ministack/health"), ("model", "/readyz")):
            base, pid = self.state.get(name, ""), self.state.get(f"{name}_pid", 0)
            # A pid may belong to another process by now: only one that still serves what we started is ended.
            if answers(base, path):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                wait_until(partial(is_gone, base, path), f"the {name} to end")
        self.state = {}
        self.file.unlink(missing_ok=True)

    def _start_emulator(self, seconds: float) -> None:
        python = PROJECT / ".make" / "emulator" / "bin" / "python"
        if not python.exists():
            raise SystemExit("cloud: the emulator is not installed here: make deploy-local does it")
        port = free_port()
        command = [str(python), str(PROJECT / "deploy" / "local" / "emulator.py"), str(port), str(seconds)]
        self._start("endpoint", port, command, "/_ministack/health")

    def _start_model(self) -> None:
        port = free_port()
        command = [sys.executable, "-m", "agent_core.cli", "run", "--port", str(port)]
        environ = {**os.environ, "SAMPAN_AGENTS": str(PROJECT / "deploy" / "local" / "model")}
        self._start("model", port, [*command, "--data", str(self.folder / "model")], "/readyz", environ)

    def _start(
        self, name: str, port: int, command: list[str], path: str, environ: dict[str, str] | None = None
    ) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.state |= {name: f"http://127.0.0.1:{port}", f"{name}_pid": process.pid}
        self._save()
        wait_until(
            lambda: process.poll() is not None or answers(self.state[name], path),
            f"the {name} to start; see {log}",
        )
        if process.poll() is not None:
            raise SystemExit(f"cloud: the {name} ended at once:\n{log.read_text('utf-8')[-2000:]}")

    def _environment(self) -> dict[str, str]:
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AWS_") or name == "AWS_REGION"
        }
        environ.setdefault("AWS_REGION", "us-east-1")
        environ.setdefault("NODE_OPTIONS", "--no-warnings")
        machine = platform.machine()
        return environ | {
            "AWS_ENDPOINT_URL": self.state["endpoint"],
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "SAMPAN_LOCAL_PYTHON": f"3.{sys.version_info.minor}",
            "SAMPAN_LOCAL_ARCHITECTURE": "arm64" if machine == "aarch64" else machine,
            "SAMPAN_LOCAL_ENDPOINT": self.state["endpoint"],
            "PYTHON": sys.executable,
        }

    def _deploy(self, environ: dict[str, str]) -> None:
        log = self.folder / "deploy.log"
        say("serverless deploy --stage local")
        with log.open("wb") as out:
            serverless = PROJECT / "node_modules" / ".bin" / "serverless"
            done = subprocess.run(
                [str(serverless), "deploy", "--stage", "local", "--verbose"],
                cwd=self.project,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=300,
            )
        text = log.read_text("utf-8")
        if done.returncode:
            raise SystemExit(f"{text[-3000:]}\ncloud: the deployment failed, see above and {log}")
        outputs = dict(re.findall(r"^ +(\w+): (\S+)$", text.partition("Stack Outputs:")[2], re.MULTILINE))
        gateway = f"{self.state['endpoint']}/_aws/execute-api"
        socket_id = outputs["ServiceEndpointWebsocket"].partition("//")[2].partition(".")[0]
        function_id = outputs["StreamLambdaFunctionUrl"].partition("//")[2].partition(".")[0]
        self.state |= {
            "url": f"{gateway}/{outputs['HttpApiId']}/$default",
            "websocket": f"ws{gateway.removeprefix('http')}/{socket_id}/local",
            "stream": f"{self.state['endpoint']}/_aws/lambda-url/{function_id}",
            "outputs": outputs,
        }
        self._save()

    def _save(self) -> None:
        self.file.write_text(json.dumps(self.state, indent=1), encoding="utf-8")


def answers(base: str, path: str) -> bool:
    """Whether a server of ours is there and well."""
    if not base:
        return False
    try:
        with urllib.request.urlopen(base + path, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_gone(base: str, path: str) -> bool:
    return not answers(base, path)


def wait_until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"cloud: waited {PATIENCE:g} s for {what}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()
