"""A batch: lines in, results in the same order, nothing run twice, whatever stops it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core import Agent, Message, Principal
from agent_core.batches.records import Batch
from agent_core.batches.service import Batches, Options
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import AgentError, ConflictError, InputError, ModelBusyError
from agent_core.messages import Prompt, Reply, Usage
from agent_core.models.scripted import ScriptedModel
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, test_app

ME = Principal()


class Plain:
    """Lines of {"say": text}."""

    name = "plain"

    def claims(self, line: bytes) -> bool:
        return True

    def read(self, batch: Batch, line: bytes) -> Inbound:
        try:
            return Inbound(messages=(Message.of("user", json.loads(line)["say"]),))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"write an object with `say`: {error}", field="$.say") from error

    def result(self, number: int, line: bytes, run: Run) -> dict[str, Any]:
        return {"line": number, "status": run.status, "text": run.reply.text if run.reply else ""}

    def refusal(self, number: int, line: bytes, error: AgentError) -> dict[str, Any]:
        return {"line": number, "error": error.slug}


class Echo(ScriptedModel):
    """Says what it hears, and counts it; fails first for words with `busy`."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.heard_many = asyncio.Event()

    async def reply(self, prompt: Prompt) -> Reply:
        said = prompt.messages[-1].text
        self.heard.append(said)
        if len(self.heard) == 700:
            self.heard_many.set()
        await asyncio.sleep(0)
        if "busy" in said and self.heard.count(said) == 1:
            raise ModelBusyError("later")
        return Reply(message=Message.of("assistant", said.upper()), usage=Usage(10, 0, 5))


class World:
    def __init__(self) -> None:
        self.clock = ManualClock(jump=False)
        self.store = MemoryStore(self.clock)
        self.start()

    def start(self) -> None:
        self.model = Echo()
        app = test_app(Agent(name="assistant", model=self.model), store=self.store, clock=self.clock)
        self.blobs = getattr(self, "blobs", app.blobs)
        self.batches = Batches(app.engine, self.store, self.blobs, self.clock, {"plain": Plain()})

    async def upload(self, *lines: object, **options: Any) -> Batch:
        batch, _ = await self.batches.create(ME, Options(**options))
        return await self.batches.append(ME, batch.id, 0, pieces(*lines))

    async def results(self, batch: Batch) -> list[dict[str, Any]]:
        data = b"".join([part async for part in self.batches.results(batch)])
        return [json.loads(line) for line in data.splitlines()]


async def pieces(*lines: object, size: int = 7) -> AsyncIterator[bytes]:
    data = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_results_stand_in_the_order_of_the_lines() -> None:
    world = World()
    batch = await world.upload(*({"say": f"word {n}"} for n in range(1200)))
    assert (batch.lines, batch.segments, batch.invalid) == (1200, 3, 0)
    await world.batches.start(ME, batch.id)
    await world.batches.drain()
    done = await world.batches.get(ME, batch.id)
    assert (done.status, done.done, done.failed, done.input_tokens) == ("succeeded", 1200, 0, 12_000)
    assert [r["text"] for r in await world.results(done)] == [f"WORD {n}" for n in range(1200)]


async def test_bad_lines_are_told_by_number_and_the_others_run() -> None:
    world = World()
    batch = await world.upload({"say": "a"}, b"not json", {"said": "b"}, {"say": "c"})
    assert [(error.line, error.field) for error in batch.errors] == [(2, "$.say"), (3, "$.say")]
    await world.batches.start(ME, batch.id)
    await world.batches.drain()
    results = await world.results(batch)
    assert [r.get("text") or r["error"] for r in results] == ["A", "invalid-input", "invalid-input", "C"]
    done = await world.batches.get(ME, batch.id)
    assert (done.done, done.failed) == (4, 2)


async def test_a_batch_whose_worker_died_is_gone_on_with_and_no_line_is_paid_twice() -> None:
    world = World()
    batch = await world.upload(*({"say": f"word {n}"} for n in range(1000)), concurrency=4)
    await world.batches.start(ME, batch.id)
    await world.model.heard_many.wait()
    first = world.model
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    world.clock.advance(31)
    world.start()
    await world.batches.look_after((await world.store.query("due")).records[0].key, _due(batch))
    await world.batches.drain()
    done = await world.batches.get(ME, batch.id)
    assert (done.status, done.done) == ("succeeded", 1000)
    assert [r["text"] for r in await world.results(done)] == [f"WORD {n}" for n in range(1000)]
    twice = set(first.heard) & set(world.model.heard)
    assert len(twice) <= 4  # only what was between the model's answer and our write


def _due(batch: Batch) -> Any:
    from agent_core.engine.runs import Due

    return Due(kind="batch", tenant="default", user="local", session_id="", run_id=batch.id)


async def test_a_cap_of_money_stops_the_batch_and_the_rest_is_skipped() -> None:
    world = World()
    world.model.name = "openai:gpt-5-mini"
    batch = await world.upload(*({"say": f"{n}"} for n in range(50)), usd=0.0000001, concurrency=2)
    await world.batches.start(ME, batch.id)
    await world.batches.drain()
    done = await world.batches.get(ME, batch.id)
    assert done.status == "failed"
    assert done.skipped >= 46
    assert done.done + done.skipped == 50
    assert "cap" in done.reason


@given(
    costs=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    lines=st.integers(2, 30),
    concurrency=st.integers(1, 16),
)
@settings(max_examples=60, deadline=None)
def test_a_cap_is_passed_by_one_line_at_the_most(costs: list[int], lines: int, concurrency: int) -> None:
    """Whatever the cap and how many run at once: all lines cost the same here, 12.5 millionths of a dollar."""

    async def spent() -> tuple[int, int]:
        world = World()
        world.model.name = "openai:gpt-5-mini"
        cap = sum(costs) * 1e-6
        batch = await world.upload(*({"say": f"{n}"} for n in range(lines)), usd=cap, concurrency=concurrency)
        await world.batches.start(ME, batch.id)
        await world.batches.drain()
        done = await world.batches.get(ME, batch.id)
        assert done.done + done.skipped == lines
        each = done.cost // done.done
        needed = -(-int(cap * 1e9) // each)  # lines until the cap is reached
        assert done.done in (min(lines, needed), min(lines, needed + 1))
        return done.cost, each

    asyncio.run(spent())


async def test_an_upload_goes_on_where_it_stopped() -> None:
    world = World()
    batch, _ = await world.batches.create(ME, Options(format="plain"))
    data = b"".join(json.dumps({"say": str(n)}).encode() + b"\n" for n in range(1300))

    async def broken() -> AsyncIterator[bytes]:
        yield data[:9000]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await world.batches.append(ME, batch.id, 0, broken())
    batch = await world.batches.get(ME, batch.id)
    with pytest.raises(ConflictError, match=str(batch.received)):
        await world.batches.append(ME, batch.id, batch.received + 1, pieces())

    async def rest() -> AsyncIterator[bytes]:
        yield data[batch.received :]

    batch = await world.batches.append(ME, batch.id, batch.received, rest())
    assert (batch.received, batch.lines) == (len(data), 1300)


async def test_another_users_batch_is_not_there() -> None:
    world = World()
    batch = await world.upload({"say": "mine"})
    with pytest.raises(AgentError, match="no batch"):
        await world.batches.get(Principal(user="eve"), batch.id)
    assert await world.batches.list(Principal(user="eve")) == []
    assert [b.id for b in await world.batches.list(ME)] == [batch.id]


async def test_a_batch_that_is_stopped_can_be_gone_on_with_at_once() -> None:
    world = World()
    batch = await world.upload(*({"say": f"word {n}"} for n in range(1000)), concurrency=4)
    await world.batches.start(ME, batch.id)
    await world.model.heard_many.wait()
    await world.batches.close()
    left = await world.batches.get(ME, batch.id)
    assert (left.status, left.lease_until) == ("running", 0.0)
    world.batches.go_on(left)
    await world.batches.drain()
    done = await world.batches.get(ME, batch.id)
    assert (done.status, done.done, len(set(world.model.heard))) == ("succeeded", 1000, 1000)
    assert len(world.model.heard) == 1000


async def test_a_cancelled_batch_skips_what_was_not_begun() -> None:
    world = World()
    batch = await world.upload(*({"say": f"word {n}"} for n in range(1500)), concurrency=2)
    await world.batches.start(ME, batch.id)
    await world.model.heard_many.wait()
    await world.batches.cancel(ME, batch.id)
    world.clock.advance(2)
    await world.batches.drain()
    done = await world.batches.get(ME, batch.id)
    assert (done.status, done.done + done.skipped) == ("cancelled", 1500)
    assert 700 <= done.done < 1500
    assert len(await world.results(done)) == 1500
