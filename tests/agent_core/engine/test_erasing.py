"""A session erased, whatever its life was: a word that was said in it is in no record and no blob any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agent_core import Agent, tool
from agent_core.app import App, build_app
from agent_core.batches.service import Options
from agent_core.blobs.memory import MemoryBlobs
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Inbound, Run
from agent_core.errors import ModelBusyError, NotFoundError, SessionBusyError, StoreError
from agent_core.messages import Message, Principal, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings
from agent_core.store.base import Put
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock

CANARY = "kanarienvogel7391"
ANN = Principal(tenant="acme", user="ann")


class House:
    """An app with a tool that can be held, and all that it stored."""

    def __init__(
        self, *script: Any, busy: str = "enqueue", hooks: bool = False, blobs: MemoryBlobs | None = None
    ) -> None:
        self.clock = ManualClock()
        self.store, self.blobs = MemoryStore(self.clock), blobs or MemoryBlobs()
        self.called, self.hold = asyncio.Event(), asyncio.Event()

        @tool
        async def wait() -> str:
            """Wait."""
            self.called.set()
            await self.hold.wait()
            return f"waited {CANARY}"

        agent = Agent(name="shop", model=ScriptedModel(script), tools=[wait], busy=busy)
        self.app: App = build_app(
            Settings(auth="off", hooks=hooks, local_callbacks=True),
            agents=[agent],
            store=self.store,
            blobs=self.blobs,
            clock=self.clock,
        )

    async def say(self, text: str, **more: Any) -> Run:
        return await self.app.engine.answer(said(text, **more))

    async def two(self) -> None:
        """One message, and another that comes while a tool of the first is under way."""
        first = asyncio.create_task(self.say("First"))
        await self.called.wait()
        second = asyncio.create_task(self.say("Second"))
        await self.both()
        self.hold.set()
        await asyncio.gather(first, second)

    async def both(self) -> None:
        """Until two messages stand in the inbox."""
        while len((await self.store.query(keys.session(ANN, "s"), keys.PENDING)).records) < 2:
            pass

    async def left(self) -> list[str]:
        """All records, as text, but what says that a session was erased."""
        found, after = [], None
        while True:
            page = await self.store.scan(after=after)
            found += [json.dumps([*record.key, record.fields]) for record in page.records]
            after = page.after
            if after is None:
                break
        found += [f"{name} {blob.data!r}" async for name, blob in self.blobs.all(ANN.tenant)]
        return [one for one in found if "session.erased" not in one]


def said(text: str, **more: Any) -> Inbound:
    return Inbound(
        messages=(Message.of("user", f"{text} {CANARY}"),),
        principal=ANN,
        session_id="s",
        metadata={"note": CANARY},
        **more,
    )


WAIT = ToolCall("1", "wait", "{}")


async def merged(house: House) -> None:
    await house.two()


async def cancelled_in_the_inbox(house: House) -> None:
    run = await house.app.engine.submit(said("First"), work=False)
    await house.app.engine.cancel(ANN, run.id)


async def failed_and_tried_again(house: House) -> None:
    assert (await house.say("First", key=CANARY)).status == "failed"
    assert (await house.say("First", key=CANARY)).status == "succeeded"


async def merged_and_tried_again(house: House) -> None:
    first = asyncio.create_task(house.say("First", key="k"))
    await house.called.wait()
    second = asyncio.create_task(house.say("Second"))
    await house.both()
    house.hold.set()
    assert [run.status for run in await asyncio.gather(first, second)] == ["failed", "failed"]
    assert (await house.say("First", key="k")).status == "succeeded"


LIVES: dict[str, tuple[str, tuple[Any, ...], Callable[[House], Awaitable[None]]]] = {
    "merged": ("merge", (WAIT, f"Both {CANARY}"), merged),
    "interrupted": ("interrupt", (WAIT, f"The second {CANARY}"), merged),
    "one after the other": ("enqueue", (WAIT, f"One {CANARY}", f"Two {CANARY}"), merged),
    "cancelled in the inbox": ("enqueue", (), cancelled_in_the_inbox),
    "failed and tried again": (
        "enqueue",
        (ModelBusyError(f"busy {CANARY}"), f"One {CANARY}"),
        failed_and_tried_again,
    ),
    "merged and tried again": (
        "merge",
        (WAIT, ModelBusyError("busy"), f"One {CANARY}"),
        merged_and_tried_again,
    ),
}


@pytest.mark.parametrize("life", LIVES)
async def test_nothing_of_a_session_is_left_whatever_its_life(life: str) -> None:
    busy, script, live = LIVES[life]
    house = House(*script, busy=busy)
    await live(house)
    await house.app.engine.drain()
    assert sum(CANARY in one for one in await house.left()) > 1
    await house.app.engine.erase(ANN, "s")
    left = await house.left()
    assert not [one for one in left if CANARY in one]
    assert not [one for one in left if '"acme/run/' in one or '"acme/session' in one]
    with pytest.raises(NotFoundError):
        await house.app.engine.session(ANN, "s")


async def test_the_ledger_forgets_the_name_also_of_runs_whose_records_have_expired() -> None:
    house = House("One", "Two")
    await house.say("First")
    house.clock.advance(house.app.settings.run_days * 86_400 + 1)
    await house.say("Second")
    days = [
        await house.store.query(keys.ledger("acme", house.clock.now() - back, "").partition)
        for back in (0, house.app.settings.run_days * 86_400 + 1)
    ]
    assert [record.fields["session_id"] for page in days for record in page.records] == ["s", "s"]
    await house.app.engine.erase(ANN, "s")
    for page in days:
        [record] = page.records
        kept = await house.store.get(record.key)
        assert kept is not None
        assert kept.fields == record.fields | {"session_id": ""}


async def test_what_arrived_at_a_channel_is_forgotten_with_the_session() -> None:
    class Chat:
        async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
            """As the post notes it."""
            place = keys.Key(keys.sent(run.principal.tenant, "chat"), push_id)
            await house.store.write(Put(place, {"v": 1, "ids": [CANARY]}))

    house = House("One")
    house.app.engine._kit.deliverers["chat"] = Chat()
    await house.say("First", channel="chat", delivery=Delivery("chat", CANARY))
    await house.app.engine.drain()
    assert [one for one in await house.left() if '"acme/sent/chat"' in one]
    await house.app.engine.erase(ANN, "s")
    assert not [one for one in await house.left() if CANARY in one]


async def test_what_is_told_outside_is_forgotten_with_the_session() -> None:
    house = House("One", ModelBusyError("busy"), "Other", hooks=True)
    hooks = house.app.engine._kit.hooks
    assert hooks is not None
    await hooks.add("acme", "http://127.0.0.1:9/nobody", (), by="ann")
    await house.say("First", key=CANARY)
    await house.say("Second")
    other = await house.app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),), principal=ANN))
    await house.app.engine.drain()
    place = keys.hooks("acme")
    assert len((await house.store.query(place, keys.NOTICE)).records) == 3
    due = [record.fields["run_id"] for record in (await house.store.query(keys.DUE)).records]
    assert len([run_id for run_id in due if run_id.endswith((".succeeded.0", ".failed.0"))]) == 3
    await house.app.engine.erase(ANN, "s")
    assert not [one for one in await house.left() if CANARY in one]
    [kept] = (await house.store.query(place, keys.NOTICE)).records
    assert other.id in kept.fields["body"]
    [told] = [
        record for record in (await house.store.query(keys.DUE)).records if record.fields["kind"] == "hook"
    ]
    assert told.fields["run_id"].startswith(other.id)


async def lines(*texts: str) -> AsyncIterator[bytes]:
    for number, text in enumerate(texts):
        session = "s" if CANARY in text else f"other{number}"
        yield json.dumps({"message": text, "session_id": session}).encode() + b"\n"


async def results_of(house: House, batch_id: str) -> list[dict[str, Any]]:
    batch = await house.app.batches.get(ANN, batch_id)
    data = b"".join([piece async for piece in house.app.batches.results(batch)])
    return [json.loads(line) for line in data.splitlines()]


async def test_a_batch_forgets_the_lines_of_an_erased_session_and_keeps_the_others() -> None:
    house = House(*[lambda prompt: f"You said: {prompt.messages[-1].text}"] * 3)
    batches = house.app.batches
    batch, _ = await batches.submit(ANN, Options(), lines("One", f"Two {CANARY}", "Three"))
    await batches.drain()
    before = await results_of(house, batch.id)
    assert CANARY in json.dumps(before[1])
    await house.app.engine.erase(ANN, "s")
    assert not [one for one in await house.left() if CANARY in one]
    assert await results_of(house, batch.id) == [before[0], before[2]]
    await house.app.engine.erase(ANN, "other0")
    assert await results_of(house, batch.id) == [before[2]]
    kept = await batches.get(ANN, batch.id)
    assert (kept.lines, kept.done) == (3, 3)


class FailingBlobs(MemoryBlobs):
    """Removes nothing the first time."""

    failures = 1

    async def remove(self, tenant: str, ref: str) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is gone")
        await super().remove(tenant, ref)


async def test_lines_that_were_not_removed_at_once_are_removed_when_it_is_done_again() -> None:
    house = House("One", "Two", blobs=FailingBlobs())
    batches = house.app.batches
    batch, _ = await batches.submit(ANN, Options(), lines("One", f"Two {CANARY}"))
    await batches.drain()
    before = await results_of(house, batch.id)
    with pytest.raises(StoreError, match="the disk is gone"):
        await house.app.engine.erase(ANN, "s")
    assert [one for one in await house.left() if CANARY in one]
    house.clock.advance(house.app.settings.lease_seconds + 1)
    await house.app.engine.erase(ANN, "s")
    assert not [one for one in await house.left() if CANARY in one]
    assert await results_of(house, batch.id) == before[:1]


async def test_segments_of_the_same_bytes_share_a_blob_and_each_keeps_its_own() -> None:
    """Only the segment that holds the erased line changes."""
    house = House(*["Same"] * 1002)
    batches = house.app.batches
    same = [b'{"message": "Same"}\n'] * 1001

    async def stream() -> AsyncIterator[bytes]:
        for line in same:
            yield line

    batch, _ = await batches.submit(ANN, Options(concurrency=8), stream())
    await batches.drain()
    found = await results_of(house, batch.id)
    segments = [segment async for segment in batches.segments(batch)]
    await house.app.engine.erase(ANN, found[0]["session_id"])
    after = [segment async for segment in batches.segments(batch)]
    changed = [old.number for old, new in zip(segments, after, strict=True) if old != new]
    assert changed == [0]
    assert len(await results_of(house, batch.id)) == 1000
    for segment in after:
        assert len((await house.blobs.get("acme", segment.source)).data) == segment.size
        assert segment.gone == ()


async def test_a_session_whose_batch_is_not_over_is_busy_and_free_afterwards() -> None:
    house = House(WAIT, "One", "Two")
    batches = house.app.batches
    batch, _ = await batches.submit(ANN, Options(concurrency=1), lines(f"Two {CANARY}", "Three"))
    await house.called.wait()
    await batches.cancel(ANN, batch.id)
    with pytest.raises(SessionBusyError):
        await house.app.engine.erase(ANN, "s")
    house.hold.set()
    await batches.drain()
    await house.app.engine.erase(ANN, "s")
    assert not [one for one in await house.left() if CANARY in one]
