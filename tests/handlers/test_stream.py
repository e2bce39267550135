"""The streaming runtime as a process of its own, against a strict Runtime API: answers in pieces, and faults."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_core import Agent, Principal
from agent_core.app import build_app
from agent_core.clock import SystemClock
from agent_core.settings import Settings
from agent_core.testing import ScriptedModel, test_app
from handlers import _shared
from handlers._runtime import RuntimeApi as Client
from handlers.stream import handle
from tests.aws.runtime_api import RuntimeApi, Told

Start = Callable[..., AbstractAsyncContextManager[RuntimeApi]]

# That of tests/projects/storyteller.
STORY = "".join(f"sentence {number} of the story. " for number in range(120))


@pytest.fixture
def event(root: Path) -> Callable[[str], dict[str, Any]]:
    """An event of events/."""

    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((root / "events" / f"stream.{name}.json").read_text())
        return found

    return read


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Start:
    """Starts the runtime by the wrapper, as Lambda does; leaves it running while in the context."""

    @asynccontextmanager
    async def started(**environ: str) -> AsyncIterator[RuntimeApi]:
        async with RuntimeApi().running() as api:
            wrapper = root / "deploy" / "aws" / "streaming"
            process = await asyncio.create_subprocess_exec(
                wrapper,
                sys.executable,
                "/var/runtime/bootstrap.py",
                env={
                    "PATH": "/usr/bin:/bin",
                    "AWS_LAMBDA_RUNTIME_API": api.address,
                    "LAMBDA_TASK_ROOT": str(root),
                    "SAMPAN_AGENTS": str(root / "tests" / "projects" / "storyteller" / "agents"),
                    "SAMPAN_DATA": str(tmp_path / "data"),
                    "IS_LOCAL": "true",  # nobody is asked for a key
                    "BEGUN": str(tmp_path / "begun"),
                    **environ,
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                async with asyncio.timeout(60):
                    await api.started
                    yield api
            finally:
                if process.returncode is None:
                    process.kill()
                output, _ = await process.communicate()
                print(output.decode())  # shown where the test fails

    return started


def told_in(events: bytes) -> str:
    """The text that a stream of events told."""
    text = ""
    for frame in events.decode().split("\n\n"):
        lines = dict(line.partition(": ")[::2] for line in frame.splitlines())
        if lines.get("event") == "text":
            text += json.loads(lines["data"])["text"]
    return text


def last_id(events: bytes) -> str:
    return [line[4:] for line in events.decode().splitlines() if line.startswith("id: ")][-1]


def follow(event: dict[str, Any], run_id: str, last: str = "") -> dict[str, Any]:
    """The request that goes on with a stream."""
    path = f"/api/v1/runs/{run_id}/events"
    http = {**event["requestContext"]["http"], "method": "GET", "path": path}
    headers = {**event["headers"], **({"last-event-id": last} if last else {})}
    return {
        **event,
        "rawPath": path,
        "body": "",
        "headers": headers,
        "requestContext": {**event["requestContext"], "http": http},
    }


def run_of(told: Told | Any) -> str:
    line = next(line for line in told.content.decode().splitlines() if line.startswith("data: "))
    run_id: str = json.loads(line[6:])["run_id"]
    return run_id


@pytest.mark.parametrize("name", ["story", "rest", "base64"])
async def test_a_stream_goes_out_in_pieces(name: str, event: Any, start: Start) -> None:
    async with start() as api:
        asked = api.invoke(event(name))
        first = await asked.pieces(2)
        assert not asked.told.done()  # it comes while the story is still told
        assert b"event: run" in first[0]
        told = await asked.told
    assert told.kind == "response"
    assert told.headers["lambda-runtime-function-response-mode"] == "streaming"
    assert told.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert told.head["statusCode"] == 200
    assert told.head["headers"]["content-type"] == "text/event-stream; charset=utf-8"
    assert told.head["headers"]["x-content-type-options"] == "nosniff"
    assert told.head["cookies"] == []
    assert len(told.pieces) > 10
    assert told_in(told.content) == STORY
    assert told.trailers == {}


async def test_what_is_no_stream_is_answered_whole_and_one_process_takes_many(
    event: Any, start: Start
) -> None:
    async with start() as api:
        whole = await api.invoke(event("whole")).told
        nothing = await api.invoke({**event("whole"), "rawPath": "/nothing"}).told
        broken = await api.invoke(event("base64-broken")).told
        again = await api.invoke(event("whole")).told
    assert json.loads(whole.content)["reply"]["text"] == STORY
    assert whole.head["headers"]["content-length"] == str(len(whole.content))
    assert (nothing.head["statusCode"], broken.head["statusCode"]) == (404, 400)
    assert "base64" in json.loads(broken.content)["detail"]
    assert json.loads(again.content)["session_id"] == "stories"


async def test_a_client_that_leaves_does_not_cancel_its_run(event: Any, start: Start, tmp_path: Path) -> None:
    async with start() as api:
        left = await api.invoke(event("story"), leave_after=3).told
        assert left.broken
        seen = told_in(left.content)
        assert 0 < len(seen) < len(STORY)
        rest = await api.invoke(follow(event("story"), run_of(left), last_id(left.content))).told
    assert seen + told_in(rest.content) == STORY
    assert len((tmp_path / "begun").read_text().splitlines()) == 1  # one model call, seen through


async def test_near_the_deadline_the_stream_ends_and_goes_on_from_another_process(
    event: Any, start: Start, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as api:
        short = await api.invoke(event("story"), seconds=2.6).told
        assert short.kind == "response"
        assert short.trailers == {}
        seen = told_in(short.content)
        assert 0 < len(seen) < len(STORY)
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    agents = str(root / "tests" / "projects" / "storyteller" / "agents")
    worker = build_app(Settings(agents=agents, data=str(tmp_path / "data")))
    async with start() as api:
        rest = api.invoke(follow(event("story"), run_of(short), last_id(short.content)))
        assert await worker.engine.resume(Principal(), "stories")
        told = await rest.told
    await worker.close()
    events = told.content.decode()
    assert "event: restart" in events  # what was told of the step that was cut no longer counts
    assert told_in(told.content[told.content.index(b"event: restart") :]) == STORY
    assert "event: reply" in events


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b'{"Records": []}', "InputError"), (b"7", "InputError"), (b"[1, 2", "DecodeError")],
)
async def test_what_is_no_request_is_an_error_of_the_invocation(
    payload: bytes, words: str, event: Any, start: Start
) -> None:
    async with start() as api:
        told = await api.invoke(payload).told
        after = await api.invoke(event("whole")).told
    assert told.kind == "error"
    assert told.headers["lambda-runtime-function-error-type"] == f"Function.{words}"
    assert json.loads(told.body)["errorType"] == f"Function.{words}"
    assert after.head["statusCode"] == 200


BROKEN = """
from agent_core import Agent, Chunk
from agent_core.clock import SystemClock

class Broken:
    name, tools, context_window = "scripted:broken", False, 100_000

    async def reply(self, prompt):
        raise AssertionError("secret words")

    async def stream(self, prompt):
        yield Chunk(text="So far so good.")
        await SystemClock().sleep(0.1)
        raise AssertionError("secret words")

    async def close(self):
        pass

agent = Agent(name="assistant", model=Broken())
"""


async def test_a_run_that_fails_in_mid_stream_ends_with_its_error(
    event: Any, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "broken.py").write_text(BROKEN)
    async with start(SAMPAN_AGENTS=str(tmp_path / "agents")) as api:
        told = await api.invoke(event("story")).told
    assert told.kind == "response"
    assert "So far so good." in told_in(told.content)
    assert "event: error" in told.content.decode()
    assert "secret" not in told.body.decode()


async def told_by(app: Any, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Told:
    """What the runtime says of an event that this ASGI app answers."""
    made = test_app(Agent(name="assistant", model=ScriptedModel([])), clock=SystemClock())
    monkeypatch.setattr(_shared, "app", lambda: made)
    monkeypatch.setattr(_shared, "asgi", lambda: app)
    async with RuntimeApi().running() as api:
        asked = api.invoke(event)
        client = Client(api.address)
        await handle(client, await client.next())
        return await asked.told


async def test_an_app_that_breaks_in_mid_stream_is_told_in_the_trailers(
    event: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"set-cookie", b"a=1")] * 2})
        await send({"type": "http.response.body", "body": b"half of ", "more_body": True})
        raise ZeroDivisionError("secret words")

    told = await told_by(half, event("whole"), monkeypatch)
    assert told.head == {"statusCode": 200, "headers": {}, "cookies": ["a=1", "a=1"]}
    assert told.content == b"half of "
    assert told.trailers["lambda-runtime-function-error-type"] == "Function.ZeroDivisionError"
    failure = json.loads(base64.b64decode(told.trailers["lambda-runtime-function-error-body"]))
    assert failure["errorType"] == "Function.ZeroDivisionError"
    assert "secret" not in failure["errorMessage"]


async def test_a_start_that_fails_is_told(root: Path, start: Start) -> None:
    async with start(SAMPAN_AGENTS="nowhere") as api:
        told = await api.started
    assert told is not None
    assert told.kind == "init"
    assert told.headers["lambda-runtime-function-error-type"] == "Function.ConfigError"
    assert "nowhere" in json.loads(told.body)["errorMessage"]


async def test_an_answer_larger_than_a_buffered_one_may_be_goes_through(
    event: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight megabytes, piece by piece; the limit is six there."""

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(8):
            piece = bytes([number]) * 1_000_000
            await send({"type": "http.response.body", "body": piece, "more_body": number < 7})

    told = await told_by(large, event("whole"), monkeypatch)
    assert told.content == b"".join(bytes([number]) * 1_000_000 for number in range(8))
    assert told.trailers == {}
