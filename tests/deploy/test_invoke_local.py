"""`serverless invoke local` runs a function here, with no account: store and model are those of the laptop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.aws.model_server import ModelServer

ROOT = Path(__file__).resolve().parents[2]
SERVERLESS = ROOT / "node_modules" / ".bin" / "serverless"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of `sampan new`, so that what it stores does not lie in this repository."""
    folder = tmp_path_factory.mktemp("local") / "shop"
    made = [sys.executable, "-m", "agent_core.cli", "new", str(folder)]
    subprocess.run(made, cwd=folder.parent, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def model() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


def invoke(project: Path, *arguments: str, **environ: str) -> Any:
    done = subprocess.run(
        [str(SERVERLESS), "invoke", "local", *arguments],
        cwd=project,
        env={**os.environ, "PYTHON": sys.executable, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_the_example_event_is_answered_by_the_small_model(project: Path) -> None:
    answer = invoke(project, "-f", "api", "-p", "events/api.hello.json")
    assert answer["statusCode"] == 200, answer
    assert "Paris" in json.loads(answer["body"])["reply"]["text"]


def test_a_model_of_the_shell_answers_and_the_session_is_on_disk(project: Path, model: ModelServer) -> None:
    shutil.rmtree(project / ".sampan", ignore_errors=True)
    answer = invoke(
        project, "-f", "api", "-p", "events/api.hello.json", MODEL_ENDPOINT=model.url, MODEL_NAME="echo"
    )
    assert json.loads(answer["body"])["reply"]["text"] == "You said: What is the capital of France?"
    assert (project / ".sampan" / "sampan.db").exists()


def test_another_store_can_be_asked_for(project: Path, model: ModelServer) -> None:
    shutil.rmtree(project / ".sampan", ignore_errors=True)
    arguments = ("-f", "api", "-p", "events/api.hello.json", "--env", "SAMPAN_STORE=memory")
    answer = invoke(project, *arguments, MODEL_ENDPOINT=model.url, MODEL_NAME="echo")
    assert answer["statusCode"] == 200
    assert not (project / ".sampan").exists()


def test_a_queue_event_is_handled(project: Path, model: ModelServer) -> None:
    done = invoke(
        project,
        "-f",
        "worker",
        "-p",
        "events/worker.poison.json",
        MODEL_ENDPOINT=model.url,
        MODEL_NAME="echo",
    )
    (failed,) = done["batchItemFailures"]
    assert failed["itemIdentifier"] == "059f36b4-87a3-44ab-83d2-661975830005"
