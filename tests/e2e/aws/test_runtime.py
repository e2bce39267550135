"""The unzipped package under Lambda's own runtime client and AWS's Runtime Interface Emulator."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.aws.conftest import until
from tests.e2e.aws.model_server import ModelServer

ROOT = Path(__file__).resolve().parents[3]
RIE = ROOT / ".make" / "rie" / "aws-lambda-rie"
RUNTIME = ("awslambdaric", "runtime_client*.so", "simplejson", "snapshot_restore_py.py")

# As Lambda starts it: the runtime's own packages, and the task's; nothing of this environment.
START = """
import runpy, sys
task, runtime = sys.argv[1:3]
sys.path[:0] = [task, runtime]
sys.argv = ["awslambdaric", sys.argv[3]]
runpy.run_module("awslambdaric", run_name="__main__")
"""


class Invoke(NamedTuple):
    """Calls a running function."""

    url: str

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = httpx.post(self.url, json=event, timeout=40).json()
        return found


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/var/task: the package of this machine."""
    folder = tmp_path_factory.mktemp("runtime")
    build = [sys.executable, str(ROOT / "deploy/aws/package.py"), "--here", "--output", str(folder / "l.zip")]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    with zipfile.ZipFile(folder / "l.zip") as archive:
        archive.extractall(folder / "task")
        for entry in archive.infolist():
            (folder / "task" / entry.filename).chmod(entry.external_attr >> 16 & 0o777)
    return folder / "task"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/var/runtime: the client of the Runtime API, and what it needs."""
    folder, installed = tmp_path_factory.mktemp("var-runtime"), Path(sysconfig.get_path("purelib"))
    for pattern in RUNTIME:
        (found,) = installed.glob(pattern)
        if found.is_dir():
            shutil.copytree(found, folder / found.name)
        else:
            shutil.copy(found, folder)
    return folder


@pytest.fixture
def model() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def function(
    task: Path, runtime: Path, model: ModelServer, tmp_path: Path
) -> Iterator[Callable[..., Invoke]]:
    """Start one function; gives what invokes it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *, wrapper: str = "", **environ: str) -> Invoke:
        assert RIE.exists(), (
            "AWS's runtime emulator is missing: make test fetches it (scripts/setup.sh cloud)"
        )
        front, api = free_port(), free_port()
        python = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            START,
            str(task),
            str(runtime),
            f"handlers.{name}.handler",
        ]
        if wrapper:
            python = [str(task / wrapper), sys.executable]
        addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{front}"]
        addresses += ["--runtime-api-address", f"127.0.0.1:{api}"]
        told = {
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_FUNCTION_TIMEOUT": "29",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
            "AWS_REGION": "us-east-1",
            "LAMBDA_TASK_ROOT": str(task),
            "MODEL_ENDPOINT": model.url,
            "MODEL_NAME": "echo",
            "SAMPAN_STORE": "memory",
            "IS_LOCAL": "true",  # nobody is asked for a key; test_without_a_key_nobody_gets_in is without it
        }
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(RIE), *addresses, *python], cwd=task, env={**told, **environ}, stdout=log, stderr=log
            )
        started.append(process)
        until(lambda: listens(front), seconds=20)

        return Invoke(f"http://127.0.0.1:{front}/2015-03-31/functions/function/invocations")

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=10)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def test_a_request_is_answered_and_the_process_stays(
    function: Callable[..., Invoke], model: ModelServer
) -> None:
    invoke = function("api")
    for times in (1, 2):
        answer = invoke(example("api.hello"))
        assert answer["statusCode"] == 200, answer
        assert json.loads(answer["body"])["reply"]["text"] == "You said: What is the capital of France?"
        assert len(model.asked) == times


def test_of_a_batch_the_poison_alone_comes_again(function: Callable[..., Invoke]) -> None:
    done = function("worker")(example("worker.poison"))
    assert done == {"batchItemFailures": [{"itemIdentifier": "059f36b4-87a3-44ab-83d2-661975830005"}]}


def test_a_tick_and_an_event_that_is_none(function: Callable[..., Invoke]) -> None:
    invoke = function("schedule")
    assert set(invoke(example("schedule.tick"))) == {"resumed", "pushed", "given_up", "others"}
    refused = invoke(example("api.hello"))
    assert refused["errorType"] == "InputError"
    assert "this function takes ticks of EventBridge" in refused["errorMessage"]
    assert set(invoke(example("schedule.tick"))) == {"resumed", "pushed", "given_up", "others"}


def test_without_a_key_nobody_gets_in(function: Callable[..., Invoke]) -> None:
    refused = function("api", IS_LOCAL="")(example("api.hello"))
    assert refused["statusCode"] == 401, refused
    assert "sampan keys create" in refused["body"]
    page = function("dashboard", IS_LOCAL="")(example("dashboard.runs"))
    assert page["statusCode"] == 303, page
    assert page["headers"]["Location"].startswith("/console/login?"), page


def test_a_page_is_rendered(function: Callable[..., Invoke]) -> None:
    page = function("dashboard")(example("dashboard.runs"))
    assert page["statusCode"] == 200, page
    assert "<!doctype html>" in page["body"].lower()


def test_the_streaming_runtime_takes_the_place_of_the_managed_one(function: Callable[..., Invoke]) -> None:
    """AWS_LAMBDA_EXEC_WRAPPER's program is given the managed runtime's command and starts ours instead.

    AWS's emulator passes on what the runtime says: the answer's head as JSON, eight zero bytes, its body.
    """
    url = function("stream", wrapper="streaming").url
    for _ in range(2):
        head, body = httpx.post(url, json=example("api.url"), timeout=40).content.split(b"\0" * 8)
        assert json.loads(head)["statusCode"] == 200
        assert json.loads(body)["reply"]["text"].startswith("You said: ")


def test_a_setting_that_can_t_be_used_is_told_with_its_name(function: Callable[..., Invoke]) -> None:
    refused = function("worker", SAMPAN_STORE="dynamodb")(example("worker.messages"))
    assert "SAMPAN_TABLE is not set" in refused["errorMessage"], refused
