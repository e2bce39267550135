"""HTTP on Lambda: deadlines, versions of events, what is left when the process is frozen."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_core import Agent, App, Principal, tool
from agent_core.clock import SystemClock
from agent_core.engine.runs import Inbound
from agent_core.messages import Message, ToolCall
from agent_core.queues.memory import MemoryQueue
from agent_core.testing import ManualClock, ScriptedModel, test_app
from agent_core.worker import Waker
from handlers import _http, _shared, api, dashboard, worker
from tests.handlers.conftest import Context

Process = Callable[..., None]
WAIT = ToolCall(id="1", name="wait", arguments="{}")


def read(root: Path, name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((root / "events" / f"{name}.json").read_text())
    return event


@pytest.fixture
def served(process: Process, monkeypatch: pytest.MonkeyPatch) -> Callable[..., App]:
    """Makes the process's app: on memory, with a queue, with these lines and tools of its agent."""
    process()
    monkeypatch.setattr(_shared, "RESERVE_SECONDS", 0.7)
    monkeypatch.setattr(_shared, "HANDING_OVER_SECONDS", 0.2)

    def make(*script: Any, tools: Any = (), queue: bool = True, clock: Any = None) -> App:
        app = test_app(
            Agent(name="assistant", model=ScriptedModel(script), tools=tools),
            clock=clock or ManualClock(),
            auth="off",  # who may come in: tests/agent_core/security
        )
        if queue:
            waiting = MemoryQueue(app.clock)
            app.engine._wake = Waker(waiting)
            app.__dict__["queue"] = waiting
        build = _shared.build_app
        monkeypatch.setattr(_shared, "build_app", lambda: app)
        assert _shared.app() is app is not build
        return app

    return make


class Held:
    """A tool that holds its run until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls = 0

        @tool
        async def wait() -> str:
            """Wait."""
            self.calls += 1
            await self.open.wait()
            return "waited"

        self.tool = wait


def woken(app: App) -> int:
    """How many wake-ups wait in the queue."""
    assert app.queue is not None
    return len(_shared.wait_for(app.queue.receive(limit=10)))


def stored(app: App, run_id: str) -> Any:
    return _shared.wait_for(app.engine.run(Principal(), run_id))


def test_a_run_without_time_is_handed_over_and_answered_202(root: Path, served: Any) -> None:
    held = Held()
    app = served(WAIT, tools=[held.tool])
    answer = api.handler(read(root, "api.hello"), Context(1_000))
    assert answer["statusCode"] == 202
    run = json.loads(answer["body"])
    assert answer["headers"]["location"] == f"/api/v1/runs/{run['run_id']}"
    assert answer["headers"]["retry-after"] == "1"
    assert not app.engine._tasks, "nothing is under way when the process is frozen"
    assert stored(app, run["run_id"]).status == "running"
    assert woken(app) == 1


def test_the_worker_goes_on_with_what_was_handed_over(root: Path, served: Any) -> None:
    held = Held()
    app = served(WAIT, "Done.", tools=[held.tool])
    answer = api.handler(read(root, "api.hello"), Context(1_000))
    run_id = json.loads(answer["body"])["run_id"]
    assert held.calls == 1
    [wake_up] = _shared.wait_for(app.queue.receive(limit=10))
    held.open.set()
    event = read(root, "worker.wakeup")
    event["Records"][0]["body"] = wake_up.body
    assert worker.handler(event, Context()) == {"batchItemFailures": []}
    run = stored(app, run_id)
    assert (run.status, run.reply.text) == ("succeeded", "Done.")
    assert held.calls == 2, (
        "the step under way is done again, those before it are not: the model's script is used up"
    )
    answer = api.handler(read(root, "api.health"), Context())
    assert answer["statusCode"] == 200, "the engine works on"


def test_a_session_that_was_handed_over_is_free_at_once(root: Path, served: Any) -> None:
    held = Held()
    app = served(WAIT, "Done.", "Again.", tools=[held.tool])
    event = read(root, "api.hello")
    event["body"] = json.dumps({"message": "Hi", "session_id": "s"})
    api.handler(event, Context(1_000))
    held.open.set()
    assert _shared.wait_for(app.engine.work(Principal(), "s")), "no lease is in the way"
    page = _shared.wait_for(app.engine.session(Principal(), "s"))
    assert page.messages[-1].text == "Done."


def test_without_a_queue_the_sweep_goes_on(root: Path, served: Any) -> None:
    held, clock = Held(), ManualClock()
    app = served(WAIT, "Done.", tools=[held.tool], queue=False, clock=clock)
    run_id = json.loads(api.handler(read(root, "api.hello"), Context(1_000))["body"])["run_id"]
    assert not app.engine._tasks
    held.open.set()

    async def later() -> None:
        clock.advance(31)
        await app.engine.sweep()
        await app.engine.drain()

    _shared.wait_for(later())
    assert stored(app, run_id).status == "succeeded"


def test_a_worker_does_not_wake_another_one_for_a_step_that_is_too_long(root: Path, served: Any) -> None:
    held = Held()
    app = served(WAIT, tools=[held.tool], clock=SystemClock())
    _shared.wait_for(
        app.engine.submit(Inbound(messages=(Message.of("user", "Hi"),), session_id="waiting"), work=False)
    )
    result = worker.handler(read(root, "worker.wakeup"), Context(1_000))
    assert len(result["batchItemFailures"]) == 1, "it comes again, and its receives are counted"
    assert woken(app) == 0
    assert not app.engine._tasks


def test_no_step_begins_when_the_end_is_near(root: Path, served: Any) -> None:
    """Less than five seconds are left, so that after the first step, which is always done, a worker goes on."""
    held = Held()
    app = served(WAIT, "Not said here.", tools=[held.tool])
    model = app.models[0]
    answer = api.handler(read(root, "api.hello"), Context(600))
    assert answer["statusCode"] == 202
    assert (model.left, held.calls) == (1, 0)
    assert woken(app) == 1


def test_an_asynchronous_run_is_a_workers(root: Path, served: Any) -> None:
    app = served()
    answer = api.handler(read(root, "api.async"), Context())
    assert answer["statusCode"] == 202
    assert json.loads(answer["body"])["status"] == "queued"
    assert woken(app) == 1


def test_a_stream_without_time_ends_where_it_is(root: Path, served: Any) -> None:
    held = Held()
    served(WAIT, tools=[held.tool])
    answer = api.handler(read(root, "api.stream"), Context(1_000))
    assert answer["statusCode"] == 200
    events = [line for line in answer["body"].splitlines() if line.startswith("event: ")]
    assert events[0] == "event: run"
    assert "event: reply" not in events
    assert "event: error" not in events


def test_a_chat_completion_without_time_says_where_its_run_is(root: Path, served: Any) -> None:
    held = Held()
    served(WAIT, tools=[held.tool])
    answer = api.handler(read(root, "api.chat"), Context(1_000))
    assert answer["statusCode"] == 409
    assert "/api/v1/runs/" in answer["body"]


def test_a_streamed_completion_without_time_is_told_so(root: Path, served: Any) -> None:
    held = Held()
    served(WAIT, tools=[held.tool])
    event = read(root, "api.chat")
    event["body"] = json.dumps({**json.loads(event["body"]), "stream": True})
    answer = api.handler(event, Context(1_000))
    assert "takes longer" in answer["body"]
    assert "[DONE]" not in answer["body"]


def test_a_page_without_time_shows_what_there_is(root: Path, served: Any) -> None:
    held = Held()
    app = served(WAIT, tools=[held.tool])
    answer = dashboard.handler(read(root, "dashboard.send"), Context(1_000))
    assert answer["statusCode"] == 303
    assert not app.engine._tasks


def test_an_address_behind_a_stage_leads_back_to_it(root: Path, served: Any) -> None:
    served()
    answer = api.handler(read(root, "api.stage"), Context())
    assert answer["headers"]["location"].startswith("/dev/api/v1/runs/")
    answer = api.handler(read(root, "api.rest-async"), Context())
    assert answer["headers"]["location"].startswith("/dev/api/v1/runs/")
    answer = dashboard.handler(read(root, "dashboard.rest"), Context())
    assert "/dev/console/" in answer["body"]


async def test_headers_come_as_they_were_sent(root: Path) -> None:
    event = _http.read(read(root, "api.rest-query"))
    assert event["multiValueHeaders"]["cookie"] == ["a=1; b=2"]
    assert event["multiValueHeaders"]["accept"] == ["application/json", "text/plain"]
    assert event["headers"]["host"] == "api-id.execute-api.us-east-1.amazonaws.com"


def test_several_cookies_go_out_one_by_one(root: Path, process: Process) -> None:
    process()
    event = read(root, "dashboard.rest")
    answer = dashboard.handler(event, Context())
    [cookie] = answer["multiValueHeaders"]["Set-Cookie"]
    assert cookie.startswith("sampan_language=zh")
    assert "Path=/dev/console" in cookie


def test_what_is_no_text_goes_out_in_base64(process: Process, root: Path) -> None:
    process()
    event = read(root, "dashboard.style")
    event["rawPath"] = "/console/static/icon.svg"
    answer = dashboard.handler(event, Context())
    assert not answer["isBase64Encoded"]
    problem = api.handler(read(root, "api.nothing"), Context())
    assert not problem["isBase64Encoded"], "a REST API would hand base64 on as it is"
    assert json.loads(problem["body"])["status"] == 404


def test_a_body_in_base64_is_the_same_request(root: Path, process: Process) -> None:
    process()
    plain = read(root, "api.hello")
    coded = {**plain, "body": base64.b64encode(plain["body"].encode()).decode(), "isBase64Encoded": True}
    texts = {json.loads(api.handler(event, Context())["body"])["reply"]["text"] for event in (plain, coded)}
    assert texts == {"The capital of France is Paris."}


def test_the_log_is_flushed_before_the_freeze(root: Path, process: Process) -> None:
    process(SAMPAN_LOG_LEVEL="warning")
    flushed = []

    class Slow(logging.Handler):
        def flush(self) -> None:
            flushed.append(True)

        def emit(self, record: logging.LogRecord) -> None:
            pass

    handler = Slow()
    logging.getLogger().addHandler(handler)
    try:
        api.handler(read(root, "api.health"), Context())
    finally:
        logging.getLogger().removeHandler(handler)
    assert flushed
    assert logging.getLogger("sampan").level == logging.WARNING
    logging.getLogger("sampan").setLevel(logging.NOTSET)
