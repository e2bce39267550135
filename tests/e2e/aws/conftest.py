"""A project made by `sampan new`, deployed by the real command to an emulated AWS that asks for permissions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
import pytest

from tests.e2e.aws.model_server import ModelServer

ROOT = Path(__file__).resolve().parents[3]
T = TypeVar("T")

ECHO = '''"""An agent beside the one of the template."""

from agent_core import Agent

agent = Agent(name="second", instructions="Be short.", model="openai:gpt-5-mini")
'''


def until(look: Callable[[], T], seconds: float = 30) -> T:
    """What `look` finds at last; it is another process that decides when."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < end, "it did not come"
        pause.wait(0.1)
    return found


class Cloud:
    """The deployed project: its addresses, and clients of the services below it."""

    def __init__(self, project: Path, folder: Path, model: ModelServer) -> None:
        self.project = project
        self.folder = folder
        self.model = model
        self.said = ""
        self.http = httpx.Client(timeout=60)
        self._clients: dict[str, Any] = {}

    def up(self, **environ: str) -> None:
        """Deploy what the project is now."""
        self.said = self._run("up", "--seconds", "600", **environ)
        self.state: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        self.outputs: dict[str, str] = self.state["outputs"]
        self.http.base_url = httpx.URL(self.state["url"])

    def serverless(self, *arguments: str) -> str:
        """Another command of the same tool."""
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
        environ = {**os.environ, **keys, "AWS_ENDPOINT_URL": self.state["endpoint"], "PYTHON": sys.executable}
        return self._checked(
            [str(ROOT / "node_modules/.bin/serverless"), *arguments, "--stage", "local"], environ
        )

    def down(self) -> None:
        self.http.close()
        for client in self._clients.values():
            client.close()
        self._run("down")

    def client(self, service: str) -> Any:
        """A client of boto3 with the account's own keys."""
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                region_name="us-east-1",
                endpoint_url=self.state["endpoint"],
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self._clients[service]

    def session(self, session_id: str) -> list[str]:
        """What was said in a session, or nothing where there is none yet."""
        answer = self.http.get(f"/api/v1/sessions/{session_id}")
        if answer.status_code == 404:
            return []
        messages = answer.raise_for_status().json()["messages"]
        return ["".join(part.get("text", "") for part in message["parts"]) for message in messages]

    def log(self) -> str:
        return (self.folder / "endpoint.log").read_text(encoding="utf-8")

    def _run(self, *arguments: str, **environ: str) -> str:
        command = [sys.executable, str(ROOT / "deploy/local/cloud.py"), *arguments]
        command += ["--folder", str(self.folder), "--project", str(self.project)]
        model = {"MODEL_ENDPOINT": self.model.url, "MODEL_NAME": "echo", "MODEL_API_KEY": "key-of-the-test"}
        return self._checked(command, {**os.environ, **model, **environ})

    def _checked(self, command: list[str], environ: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.project,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    project = folder / "shop"
    made = [sys.executable, "-m", "agent_core.cli", "new", str(project)]
    subprocess.run(made, cwd=folder, check=True, capture_output=True, timeout=60)
    shutil.rmtree(project / "tests")
    (project / ".make").mkdir()
    (project / ".make" / "package").symlink_to(ROOT / ".make" / "package")  # the wheels, fetched beforehand
    server = ModelServer()
    there = Cloud(project, folder / "state", server)
    try:
        there.up()
        yield there
    finally:
        there.down()
        server.close()
