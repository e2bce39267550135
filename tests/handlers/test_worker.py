"""The function that SQS triggers, with the events of events/: what it answers, and what became of the messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_core import Agent, App, Message, Principal
from agent_core.engine.runs import Inbound
from agent_core.errors import ModelBusyError, ModelRefusedError, StoreError
from agent_core.messages import Chunk, Prompt, Reply
from agent_core.models.scripted import Line
from agent_core.queues.base import Entry, Received, Rules
from agent_core.queues.memory import MemoryQueue
from agent_core.queues.pushed import PushedQueue
from agent_core.testing import ManualClock, ScriptedModel, test_app
from handlers import _shared, worker
from tests.aws.emulator import Emulator, ServedClock

ME = Principal()


@dataclass
class Context:
    """As much of Lambda's context as is asked for."""

    milliseconds: int = 30_000

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def event(root: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "events" / f"worker.{case}.json").read_text())
    return found


def answer(prompt: Prompt) -> Line:
    text = prompt.messages[-1].text
    return ModelRefusedError("no") if text == "fail" else f"You said: {text}"


def echo(clock: ManualClock | None = None) -> App:
    return test_app(Agent(name="assistant", model=ScriptedModel([answer] * 10)), clock=clock)


async def texts(app: App, session: str) -> list[str]:
    return [message.text for message in (await app.engine.session(ME, session)).messages]


def failed(result: dict[str, Any]) -> list[str]:
    return [item["itemIdentifier"][-4:] for item in result["batchItemFailures"]]


def test_the_events_have_the_shape_of_the_recorded_one(root: Path, shared_data: Path) -> None:
    recorded = json.loads((shared_data / "aws_events" / "sqsEvent.json").read_text())["Records"][0]
    for path in sorted((root / "events").glob("worker.*.json")):
        for record in json.loads(path.read_text())["Records"]:
            assert record.keys() == recorded.keys(), path.name
            assert record["attributes"].keys() >= recorded["attributes"].keys(), path.name


async def test_whole_messages_are_answered(root: Path) -> None:
    app = echo()
    assert await worker.handle(app, event(root, "messages"), Context()) == {"batchItemFailures": []}
    assert await texts(app, "geography") == [
        "What is the capital of France?",
        "You said: What is the capital of France?",
    ]
    assert await texts(app, "greeting") == ["Hello", "You said: Hello"]


async def test_a_batch_that_comes_twice_is_answered_once(root: Path) -> None:
    app = echo()
    for _ in range(2):
        assert failed(await worker.handle(app, event(root, "messages"), Context())) == []
    assert await texts(app, "greeting") == ["Hello", "You said: Hello"]


async def test_a_wake_up_has_the_waiting_message_answered(root: Path) -> None:
    app = echo()
    run = await app.engine.submit(
        Inbound(messages=(Message.of("user", "Hi"),), session_id="waiting"), work=False
    )
    assert failed(await worker.handle(app, event(root, "wakeup"), None)) == []
    assert (await app.engine.run(ME, run.id)).status == "succeeded"


async def test_a_poison_record_alone_comes_again(root: Path) -> None:
    app = echo()
    assert failed(await worker.handle(app, event(root, "poison"), Context())) == ["0005"]
    assert await texts(app, "a") == await texts(app, "b") == ["Hello", "You said: Hello"]


async def test_of_a_group_the_failed_one_and_all_behind_it_come_again(root: Path) -> None:
    app = echo()
    assert failed(await worker.handle(app, event(root, "fifo"), Context())) == ["0008", "0010"]
    assert (await texts(app, "s1"))[:2] == ["one", "You said: one"]
    assert "three" not in await texts(app, "s1")
    assert await texts(app, "s2") == ["other", "You said: other"]


async def test_the_recorded_event_of_aws_is_read(shared_data: Path) -> None:
    app = echo()
    recorded = json.loads((shared_data / "aws_events" / "sqsEvent.json").read_text())
    result = await worker.handle(app, recorded, Context())
    assert result == {"batchItemFailures": [{"itemIdentifier": "059f36b4-87a3-44ab-83d2-661975830a7d"}]}
    [run] = await app.engine.runs(ME)
    assert run.reply is not None
    assert run.reply.text == "You said: foo1"


async def test_what_was_accepted_near_the_end_is_left_to_others(root: Path) -> None:
    """The platform stops us before the model answers: the message is in the store, so the queue may forget it."""
    app = echo(ManualClock())
    assert failed(await worker.handle(app, event(root, "messages"), Context(milliseconds=2600))) == []
    await app.engine.drain()
    assert await texts(app, "greeting") == ["Hello", "You said: Hello"]


@pytest.mark.parametrize("kind", ["whole message", "wake-up"])
async def test_the_record_of_what_is_stopped_in_mid_step_comes_again(root: Path, kind: str) -> None:
    """Else only the sweep would find it: nobody else was woken."""
    asked = asyncio.Event()

    class Slow(ScriptedModel):
        async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
            asked.set()
            await asyncio.Event().wait()
            yield Chunk()

        async def reply(self, prompt: Prompt) -> Reply:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    app = test_app(Agent(name="assistant", model=Slow([])), queue="memory")
    assert app.queue is not None
    if kind == "wake-up":
        await app.engine.submit(
            Inbound(messages=(Message.of("user", "Hi"),), session_id="waiting"), work=False
        )
    records = event(root, "wakeup" if kind == "wake-up" else "messages")
    records["Records"] = records["Records"][:1]
    assert len(failed(await worker.handle(app, records, Context(milliseconds=3_000)))) == 1
    assert asked.is_set()
    assert await app.queue.receive() == ()
    assert await app.engine.resume(ME, "waiting" if kind == "wake-up" else "geography"), "it is free"
    await app.engine.hand_over()


@pytest.mark.parametrize("fifo", [False, True])
async def test_what_failed_comes_again_after_a_short_pause_though_its_queue_would_wait_long(
    emulator: Emulator, fifo: bool
) -> None:
    clock = ServedClock(emulator)
    queue = emulator.queue(clock, Rules(fifo=fifo, visibility_seconds=1800))
    body = json.dumps({"message": "fail", "session_id": "a"})
    await queue.send(Entry(body=body, group="a" if fifo else "", dedupe="1" if fifo else ""))
    (record,) = await queue.receive()
    app = test_app(
        Agent(name="assistant", model=ScriptedModel([ModelBusyError("full")] * 20)),
        clock=clock,
        queue="sqs",
        queue_url=f"{emulator.url}/{emulator.account}/another",
        aws_region="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    try:
        result = await worker.handle(app, event_of(record, emulator, queue.url), None)
        assert result == {"batchItemFailures": [{"itemIdentifier": record.id}]}
        assert await queue.receive() == ()
        clock.advance(300)
        (again,) = await queue.receive()
        assert (again.body, again.receive_count) == (body, 2)
    finally:
        await app.close()
        await queue.close()


def event_of(record: Received, emulator: Emulator, url: str) -> dict[str, Any]:
    attributes = {
        "ApproximateReceiveCount": str(record.receive_count),
        "SentTimestamp": str(int(record.sent_at * 1000)),
        **({"MessageGroupId": record.group} if record.group else {}),
    }
    return {
        "Records": [
            {
                "messageId": record.id,
                "receiptHandle": record.receipt,
                "body": record.body,
                "attributes": attributes,
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:{emulator.account}:{url.rpartition('/')[2]}",
            }
        ]
    }


async def test_a_queue_that_does_not_answer_is_not_waited_for() -> None:
    """The message comes again after the queue's own time-out then."""

    class Silent(MemoryQueue):
        async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
            await asyncio.Event().wait()
            raise AssertionError

    queue = PushedQueue(behind=Silent(ManualClock(), Rules()))
    with pytest.raises(StoreError, match="did not answer within 1 s"):
        await queue.extend(["r"], 5)


def test_the_handler_as_the_platform_calls_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two invocations in one process: one application and one event loop, which outlive the first."""
    monkeypatch.setenv("SAMPAN_AGENTS", str(root / "tests" / "projects" / "history" / "agents"))
    monkeypatch.setenv("SAMPAN_DATA", str(tmp_path))
    _shared.app.cache_clear()
    try:
        for case in ("messages", "poison"):
            result = worker.handler(event(root, case), Context())
            assert failed(result) == ([] if case == "messages" else ["0005"])
        page = _shared.wait_for(_shared.app().engine.session(ME, "geography"))
        assert page.messages[-1].text == "The capital of France is Paris."
    finally:
        _shared.wait_for(_shared.app().close())
        _shared._loop().close()
        _shared.app.cache_clear()
        _shared._loop.cache_clear()
