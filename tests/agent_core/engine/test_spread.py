"""What every turn writes to is spread over partitions; no list of one user, session or run reads those of all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from agent_core import Agent
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Inbound, Run
from agent_core.engine.switches import Switch, Switches
from agent_core.errors import WireError
from agent_core.messages import Message, Principal, Prompt
from agent_core.store.base import Delete, Page, Put, Record, Write
from agent_core.store.memory import MemoryStore
from agent_core.store.shards import is_list
from agent_core.testing import ManualClock, ScriptedModel, test_app

ME = Principal()
ADA, BOB = Principal(tenant="acme", user="ada"), Principal(tenant="acme", user="bob/1")


class Watched(MemoryStore):
    """A store that knows which partitions were queried and written to."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.queried: list[str] = []
        self.read = 0
        self.written: Counter[str] = Counter()

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        self.queried.append(partition)
        page = await super().query(partition, prefix, after=after, limit=limit, reverse=reverse)
        self.read += len(page.records)
        return page

    async def write(self, *writes: Write) -> None:
        self.written.update(write.key.partition for write in writes)
        await super().write(*writes)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Watched(self.clock)

    def start(self, *script: object, shards: int = 16, **settings: Any) -> App:
        agent = Agent(name="assistant", model=ScriptedModel(script or [echo] * 500))
        return test_app(agent, store=self.store, clock=self.clock, shards=shards, **settings)

    async def due(self) -> list[Record]:
        found: list[Record] = []
        for partition in {record for record in self.store.written if is_list(record)}:
            found += (await MemoryStore.query(self.store, partition, limit=1000)).records
        return found


def echo(prompt: Prompt) -> str:
    return f"answer to {prompt.messages[-1].text}"


def said(text: str = "Hi", who: Principal = ME, **fields: Any) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), principal=who, **fields)


async def test_no_partition_gets_a_share_of_all_turns_that_grows_with_them() -> None:
    """400 turns of one user: what is due and the ledger are spread, whoever asks."""
    world = World()
    app = world.start()
    for number in range(400):
        await app.engine.answer(said(session_id=f"s{number}"))
    due = {name: count for name, count in world.store.written.items() if is_list(name)}
    ledger = {name: count for name, count in world.store.written.items() if "/ledger/" in name}
    assert (len(due), sum(due.values())) == (16, 800)  # an entry is put, and taken away
    assert (len(ledger), sum(ledger.values())) == (16, 400)
    assert max(due.values()) < 2.2 * 800 / 16
    assert max(ledger.values()) < 2.2 * 400 / 16
    assert await world.due() == []


@pytest.mark.parametrize(("before", "after"), [(1, 16), (16, 1), (16, 3)])
async def test_another_number_orphans_nothing(before: int, after: int) -> None:
    world = World()
    old = world.start(shards=before)
    await old.sweep()
    runs = [await old.engine.submit(said(session_id=f"s{n}"), work=False) for n in range(20)]
    done = [await old.engine.answer(said(session_id=f"d{n}")) for n in range(20)]
    world.clock.advance(61)
    new = world.start(shards=after)
    assert (await new.sweep()).resumed == 20
    await new.engine.drain()
    assert {(await new.engine.run(ME, run.id)).status for run in runs} == {"succeeded"}
    assert await world.due() == []
    assert {run.id for run in await new.engine.runs(ME)} == {run.id for run in (*runs, *done)}
    await new.engine.erase(ME, "s0")


# The list of a user's runs


async def ids(app: App, who: Principal, limit: int) -> list[str]:
    """All runs, page by page."""
    found: list[str] = []
    while page := await app.engine.runs(who, limit=limit, before=found[-1] if found else ""):
        found += [run.id for run in page]
    return found


async def as_before(world: World, runs: list[Run]) -> None:
    """Have these runs stand in the ledger as older versions put them there."""
    for run in runs:
        place = keys.ledger(run.principal.tenant, run.created_at, run.id, user=run.principal.user, shards=16)
        record = await world.store.get(place)
        assert record is not None
        old = keys.ledger(run.principal.tenant, run.created_at, run.id)
        await world.store.write(Delete(place), Put(old, record.fields))


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_a_user_finds_all_runs_newest_first_those_of_older_versions_too(limit: int) -> None:
    world = World()
    app = world.start()
    own: list[Run] = []
    for number in range(24):
        for who in (ADA, BOB):
            run = await app.engine.answer(said(who=who, session_id=f"s{number % 5}"))
            own += [run] if who is BOB else []
        world.clock.advance(7 * 3600)
    old = own[:10]
    await as_before(world, old)
    assert await ids(app, BOB, limit) == [run.id for run in reversed(own)]
    await app.engine.erase(BOB, "s1")
    left = [run.id for run in reversed(own) if run.session_id != "s1"]
    assert await ids(app, BOB, limit) == left
    for run in old:
        record = await world.store.get(keys.ledger("acme", run.created_at, run.id))
        assert record is not None
        assert (record.fields["session_id"] == "") == (run.session_id == "s1")


async def test_a_list_of_runs_reads_those_of_nobody_else() -> None:
    world = World()
    app = world.start(shards=1)
    await app.sweep()
    world.clock.advance(10 * 86_400)
    mine = await app.engine.answer(said(who=BOB))
    for number in range(200):
        await app.engine.answer(said(who=ADA, session_id=f"s{number}"))
    world.clock.advance(3 * 86_400)
    world.store.queried.clear()
    world.store.read = 0
    assert [run.id for run in await app.engine.runs(BOB, limit=10)] == [mine.id]
    # Not before the user's first session: its list is one query, and each day one.
    assert len(world.store.queried) <= 1 + 3 + 1 + 8
    assert world.store.read == 2
    world.store.queried.clear()
    assert await app.engine.runs(Principal(tenant="acme", user="eve")) == []
    assert len(world.store.queried) == 1


async def test_a_user_whose_name_is_long_or_looks_like_a_time_has_an_entry() -> None:
    world = World()
    app = world.start()
    for name in ("/" * 400, "1750000000000", "17", "%:", "a%:1", "a"):
        who = Principal(user=name)
        run = await app.engine.answer(said(who=who, session_id="s"))
        assert [one.id for one in await app.engine.runs(who)] == [run.id], name


# Erasing and switches


class Fails:
    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        raise WireError("nothing came")


async def test_erasing_finds_what_is_due_for_a_session_without_the_list() -> None:
    world = World()
    app = world.start(hooks=True, local_callbacks=True)
    hooks = app.engine._kit.hooks
    assert hooks is not None
    await hooks.add("acme", "http://127.0.0.1:9/nobody", (), by="ada")
    app.engine._kit.deliverers["letter"] = Fails()
    for number in range(30):
        letter = Delivery("letter", f"address {number % 3}")
        await app.engine.answer(said(who=ADA, session_id=f"s{number % 3}", delivery=letter))
    await app.engine.drain()
    for _ in range(3):  # tried again, and put off
        world.clock.advance(400)
        await app.sweep()
    assert len(await world.due()) == 60
    world.store.queried.clear()
    await app.engine.erase(ADA, "s1")
    assert not any(map(is_list, world.store.queried))
    left = [record for record in await world.due() if record.fields["kind"] != "audit"]
    assert len(left) == 40
    assert "address 1" not in str(left)
    world.clock.advance(86_400)
    del app.engine._kit.deliverers["letter"]


async def test_a_delivered_reply_leaves_no_note_behind() -> None:
    world = World()
    app = world.start()

    class Takes:
        async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
            pass

    app.engine._kit.deliverers["letter"] = Takes()
    run = await app.engine.answer(said(delivery=Delivery("letter", "here")))
    await app.engine.drain()
    partition = keys.run(ME.tenant, run.id)
    assert [record.key.sort for record in (await world.store.query(partition)).records] == [
        "run",
        "step/000001",
    ]


async def test_a_switch_reads_what_is_due_soon_and_not_the_whole_list() -> None:
    world = World()
    app = world.start(shards=2)
    for number in range(2500):
        key = keys.due(world.clock.now() + 3600 + number, "acme", f"run{number}", shards=2)
        fields = {"v": 1, "kind": "run", "tenant": "acme", "user": "u", "session_id": "s", "run_id": "none"}
        await world.store.write(Put(key, fields))
    run = await app.engine.submit(said(session_id="s"), work=False)
    world.store.queried.clear()
    switch = Switch(kind="tenant", tenant=ME.tenant, by="ada", at=1.0)
    switches = Switches(world.store, world.clock, shards=app.engine._kit.shards)
    assert await switches.throw(switch) == 1
    assert sorted(name for name in world.store.queried if is_list(name)) == ["due", "due/1"]
    world.clock.advance(61)
    await app.sweep()
    await app.engine.drain()
    assert (await app.engine.run(ME, run.id)).failure is not None


async def test_a_switch_that_cannot_be_read_stops_all_the_same() -> None:
    world = World()
    app = world.start()
    await app.engine.switches.throw(Switch(kind="agent", name="assistant", tenant="a/b", by="ada", at=1.0))
    [record] = (await world.store.query("switches")).records
    await world.store.write(Put(record.key, {**record.fields, "v": 99}))
    await app.engine.switches.refresh()
    with pytest.raises(Exception, match="stopped by an operator"):
        app.engine.switches.check("a/b", "assistant")


# Lists with one record that can't be read


async def test_one_record_that_cannot_be_read_hides_no_other_of_its_list() -> None:
    world = World()
    app = world.start()
    for number in range(3):
        await app.engine.answer(said(session_id="s" if number else "first"))
    sessions = await app.engine.sessions(ME)
    runs = await app.engine.runs(ME)
    listed = (await world.store.query(keys.sessions(ME))).records[0]
    messages = (await world.store.query(keys.session(ME, "s"), keys.MESSAGE)).records
    run = await world.store.get(await _run_key(world, runs[0]))
    assert run is not None
    for record in (listed, messages[1], run):
        await world.store.write(Put(record.key, {**record.fields, "v": 99}))
    assert len(await app.engine.sessions(ME)) == len(sessions) - 1
    assert len(await app.engine.runs(ME)) == len(runs) - 1
    page = await app.engine.session(ME, "s", limit=2)
    assert ([message.seq for message in page.messages], page.after) == ([1], 2)
    assert [m.seq for m in (await app.engine.session(ME, "s", after=page.after)).messages] == [3, 4]
    await app.engine.erase(ME, "s")
    assert (await world.store.query(keys.session(ME, "s"))).records == ()


async def _run_key(world: World, run: Run) -> Any:
    [record] = (await world.store.query(keys.run(ME.tenant, run.id), keys.RUN)).records
    return record.key
