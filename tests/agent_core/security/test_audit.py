"""The audit log: every act is in it once, and whatever is done to its lines is found."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core import Agent, tool
from agent_core.app import App, build_app
from agent_core.engine.runs import Inbound
from agent_core.engine.switches import Switch, Switches
from agent_core.errors import ConfigError, StepUpError
from agent_core.messages import Message, Principal, ToolCall
from agent_core.security.audit import Audit, Line, entry
from agent_core.security.keys import Keys
from agent_core.security.logins import Logins
from agent_core.security.seal import Seal
from agent_core.security.totp import Factors
from agent_core.settings import Settings
from agent_core.store.base import Delete, Key, Put, Store
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock, ScriptedModel
from tests.aws.emulator import Emulator

ADA = Principal(tenant="acme", user="ada")
SIGNING = "0123456789abcdef0123456789abcdef"
SEAL = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "dynamodb"])
async def store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Store]:
    with ExitStack() as stack:
        made: Store
        if request.param == "memory":
            made = MemoryStore(clock)
        elif request.param == "sqlite":
            made = SqliteStore(tmp_path / "s.db", clock)
        else:
            emulator: Emulator = request.getfixturevalue("emulator")
            made = stack.enter_context(emulator.store(ManualClock(jump=True)))
        yield made
        await made.close()


async def acts(store: Store, clock: ManualClock, count: int, tenant: str = "acme") -> None:
    for number in range(count):
        clock.advance(1)
        await store.write(entry(clock, tenant, "key.created", by="ada", subject=f"key{number}", name="a"))


async def lines(audit: Audit, tenant: str = "acme") -> list[Line]:
    return [line async for line in audit.lines(tenant)]


async def test_entries_become_a_chain_in_order_and_once(store: Store, clock: ManualClock) -> None:
    audit = Audit(store, clock)
    await acts(store, clock, 100)  # more than one transaction holds
    await acts(store, clock, 2, tenant="other")
    assert (await audit.link("acme")).number == 100
    assert (await audit.link("acme")).number == 100  # nothing waits any more
    found = await lines(audit)
    assert [(line.number, line.subject) for line in found] == [(n + 1, f"key{n}") for n in range(100)]
    assert [line.previous for line in found] == ["", *(line.hash for line in found[:-1])]
    verdict = await audit.verify("acme")
    assert (verdict.lines, verdict.problems, verdict.unsigned) == (100, [], 100)
    assert verdict.head == f"100:{found[-1].hash}"
    assert [line.subject for line in await audit.page("acme", after=98)] == ["key98", "key99"]
    assert (await audit.verify("other")).lines == 2
    assert (await audit.verify("nobody")).problems == []


async def test_many_link_at_once(store: Store, clock: ManualClock) -> None:
    """Whoever comes second starts anew: no entry is lost, none is in twice."""
    await acts(store, clock, 60)
    await asyncio.gather(*(Audit(store, clock).link("acme") for _ in range(6)))
    found = await lines(Audit(store, clock))
    assert sorted(line.subject for line in found) == sorted(f"key{n}" for n in range(60))
    assert (await Audit(store, clock).verify("acme")).problems == []


async def test_the_log_is_told_where_it_ends(
    store: Store, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await acts(store, clock, 3)
    with caplog.at_level(logging.INFO, "sampan.audit_log"):
        head = await Audit(store, clock).link("acme")
    assert f"head=<{head.anchor}>" in caplog.text


# What is done to the lines


def place(number: int) -> Key:
    return Key("acme/audit", f"line/{number:012d}")


async def read(store: Store, number: int) -> dict[str, Any]:
    record = await store.get(place(number))
    assert record is not None
    return dict(record.fields)


async def change_who(store: Store) -> None:
    await store.write(Put(place(4), {**await read(store, 4), "by": "mallory"}))


async def change_and_hash(store: Store) -> None:
    """As an attacker would who knows how it is made."""
    fields = {**await read(store, 4), "by": "mallory"}
    del fields["hash"]
    text = msgspec.json.encode(fields, order="sorted")
    await store.write(Put(place(4), {**fields, "hash": hashlib.sha256(text).hexdigest()}))


async def take_out(store: Store) -> None:
    await store.write(Delete(place(4)))


async def take_out_and_move_up(store: Store) -> None:
    for number in range(4, 9):
        await store.write(Put(place(number), {**await read(store, number + 1), "number": number}))
    await store.write(Delete(place(9)))


async def swap(store: Store) -> None:
    four, five = await read(store, 4), await read(store, 5)
    await store.write(Put(place(4), five), Put(place(5), four))


async def swap_and_renumber(store: Store) -> None:
    four, five = await read(store, 4), await read(store, 5)
    await store.write(Put(place(4), {**five, "number": 4}), Put(place(5), {**four, "number": 5}))


async def cut_off_the_end(store: Store) -> None:
    await store.write(Delete(place(9)))


async def put_one_more(store: Store) -> None:
    await store.write(Put(place(10), {**await read(store, 9), "number": 10}))


async def bring_another_tenants(store: Store) -> None:
    record = await store.get(Key("other/audit", "line/000000000004"))
    assert record is not None
    await store.write(Put(place(4), record.fields))


async def take_all(store: Store) -> None:
    await store.write(*(Delete(place(number)) for number in range(1, 10)))


TAMPERING = {
    change_who: "line 4 was changed",
    change_and_hash: "line 5 does not follow line 4",
    take_out: "line 4 is missing",
    take_out_and_move_up: "line 4 was changed",
    swap: "line 4 belongs elsewhere",
    swap_and_renumber: "line 4 was changed",
    cut_off_the_end: "the log ends with line 8, its head names line 9",
    put_one_more: "line 10 does not follow line 9",
    bring_another_tenants: "line 4 belongs elsewhere",
    take_all: "the log ends with line 0, its head names line 9",
}


@pytest.mark.parametrize("keys", ["", SIGNING], ids=["plain", "signed"])
@pytest.mark.parametrize("tampering", TAMPERING, ids=lambda tampering: tampering.__name__)
async def test_whatever_is_done_to_the_lines_is_found(
    store: Store, clock: ManualClock, tampering: Any, keys: str
) -> None:
    audit = Audit(store, clock, keys)
    await acts(store, clock, 9)
    await acts(store, clock, 9, tenant="other")
    await audit.link("other")
    assert (await audit.verify("acme")).problems == []
    await tampering(store)
    problems = (await audit.verify("acme")).problems
    assert TAMPERING[tampering] in " | ".join(problems)


async def test_a_log_that_was_written_anew_is_found_by_its_anchor_or_its_key(clock: ManualClock) -> None:
    """Whoever may write everything, head and all, makes a log without fault; but not one with this end, nor signed."""
    store = MemoryStore(clock)
    await acts(store, clock, 5)
    anchor = (await Audit(store, clock).verify("acme")).head
    await acts(store, clock, 3)
    assert (await Audit(store, clock).verify("acme", anchor)).problems == []  # it grew, as logs do

    for keys in ("", SIGNING):
        forged = MemoryStore(clock)
        await acts(forged, clock, 8)
        await Audit(forged, clock).link("acme")
        verdict = await Audit(forged, clock, keys).verify("acme", anchor)
        assert "line 5 is not the one that the anchor names" in verdict.problems
        assert len(verdict.problems) == (4 if keys else 1)  # the anchor vouches for no line behind it
        assert verdict.unsigned == 8
    short = MemoryStore(clock)
    await acts(short, clock, 2)
    verdict = await Audit(short, clock).verify("acme", anchor)
    assert verdict.problems == ["the anchor's line 5 is not there"]


async def test_signed_lines_need_the_key_and_keys_are_changed(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    other = SIGNING[::-1]
    await acts(store, clock, 2)
    early = await Audit(store, clock).verify("acme")
    await acts(store, clock, 2)
    await Audit(store, clock, SIGNING).link("acme")
    await acts(store, clock, 2)
    await Audit(store, clock, f"{other} {SIGNING}").link("acme")
    verdict = await Audit(store, clock, f"{other} {SIGNING}").verify("acme")
    assert (verdict.lines, verdict.unsigned) == (6, 2)
    assert [problem.partition(",")[0] for problem in verdict.problems] == [
        "line 1 is not signed",
        "line 2 is not signed",
    ]
    assert (await Audit(store, clock, f"{other} {SIGNING}").verify("acme", early.head)).problems == []
    unknown = (await Audit(store, clock, other).verify("acme")).problems
    assert len([problem for problem in unknown if "can't be checked" in problem]) == 2
    with pytest.raises(ConfigError, match="32 characters"):
        Audit(store, clock, "short")


async def test_a_signed_log_is_not_written_anew_without_the_key(clock: ManualClock) -> None:
    store, forged = MemoryStore(clock), MemoryStore(clock)
    await acts(store, clock, 3)
    assert (await Audit(store, clock, SIGNING).verify("acme")).problems == []
    await acts(forged, clock, 3)
    assert (await Audit(forged, clock).verify("acme")).problems == []
    assert len((await Audit(forged, clock, SIGNING).verify("acme")).problems) == 3
    empty = await Audit(MemoryStore(clock), clock).verify("acme")
    assert (await Audit(MemoryStore(clock), clock).verify("acme", empty.head)).problems == []


async def test_a_line_in_the_file_itself(clock: ManualClock, tmp_path: Path) -> None:
    """Not by our own store: somebody opens the SQLite file."""
    store = SqliteStore(tmp_path / "s.db", clock)
    await acts(store, clock, 6)
    assert (await Audit(store, clock).verify("acme")).problems == []
    await store.close()
    with sqlite3.connect(tmp_path / "s.db") as file:
        [(table,)] = file.execute(
            "select name from sqlite_master where type = 'table' and sql like '%partition%'"
        ).fetchall()
        names = [row[1] for row in file.execute(f"pragma table_info({table})")]
        body = next(name for name in names if name in ("body", "fields"))
        sort = next(name for name in names if name.startswith("sort"))
        done = file.execute(
            f"update {table} set {body} = replace({body}, 'ada', 'eve') where {sort} = 'line/000000000003'"
        )
        assert done.rowcount == 1
    file.close()
    store = SqliteStore(tmp_path / "s.db", clock)
    assert "line 3 was changed" in (await Audit(store, clock).verify("acme")).problems
    await store.close()


NAMES = ("number", "at", "tenant", "act", "by", "subject", "detail", "id", "previous", "hash")


@given(st.integers(1, 6), st.sampled_from(NAMES), st.data())
def test_any_change_of_any_field_is_found(number: int, name: str, data: st.DataObject) -> None:
    async def run() -> None:
        clock = ManualClock()
        store = MemoryStore(clock)
        await acts(store, clock, 6)
        await Audit(store, clock).link("acme")
        fields = await read(store, number)
        before = fields.get(name, "")
        kinds = {int: st.integers(0, 2**40), str: st.text(max_size=8)}
        kind = kinds.get(type(before), st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
        after = data.draw(kind.filter(lambda value: value != before))
        if name == "previous" and number == 1 and not after:
            return
        await store.write(Put(place(number), {**fields, name: after}))
        assert (await Audit(store, clock).verify("acme")).problems

    asyncio.run(run())


# What is in it


def refund_app(store: Store, clock: ManualClock, *script: Any, **options: Any) -> App:
    @tool(effects="once", approval=True, **options)
    def refund(order: str) -> str:
        """Pay it back."""
        return "paid"

    agent = Agent(name="shop", model=ScriptedModel(script), tools=[refund])
    return build_app(Settings(auth="off", seal_keys=SEAL), agents=[agent], store=store, clock=clock)


async def test_an_approval_and_the_call_it_let_through(store: Store, clock: ManualClock) -> None:
    """Who said yes, to what, and that it was done; never the words, nor the arguments themselves."""
    secret = "order-4711-canary"
    call = ToolCall("1", "refund", json.dumps({"order": secret}))
    app = refund_app(store, clock, call, "Done.")
    ask = Inbound(messages=(Message.of("user", f"Refund {secret}"),), principal=ADA, agent="shop")
    run = await app.engine.answer(ask)
    await app.engine.approve(ADA, run.id, run.questions[0].hash)
    await app.engine.drain()
    await app.sweep()
    yes, called = await lines(app.engine.audit)
    shown = hashlib.sha256(run.questions[0].arguments.encode()).hexdigest()
    assert (yes.act, yes.by, yes.subject, yes.run_id) == ("approval.approved", "ada", "refund", run.id)
    assert yes.detail["arguments"] == called.detail["arguments"] == shown
    assert (called.act, called.by, called.subject, called.run_id) == ("tool.called", "ada", "refund", run.id)
    assert called.detail["agent"] == "shop"
    assert secret not in msgspec.json.encode([yes, called]).decode()
    assert await app.sweep() == msgspec.structs.replace(await app.sweep())  # nothing is left to do
    assert (await app.engine.audit.verify("acme")).problems == []
    await app.close()


async def test_a_refusal_an_erasure_and_a_switch(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    app = refund_app(store, clock, ToolCall("1", "refund", '{"order": "7"}'), "Not done.")
    ask = Inbound(messages=(Message.of("user", "Refund 7"),), principal=ADA, agent="shop", session_id="s1")
    run = await app.engine.answer(ask)
    await app.engine.deny(ADA, run.id, run.questions[0].hash)
    await app.engine.drain()
    await app.engine.erase(ADA, "s1")
    switches = Switches(store, clock)
    await switches.throw(Switch(kind="tool", name="refund", tenant="acme", by="cli/root", at=clock.now()))
    await switches.lift("acme", "tool", "refund", by="cli/root")
    await app.engine.audit.link("acme")
    assert [
        (line.act, line.by, line.subject or line.session_id) for line in await lines(app.engine.audit)
    ] == [
        ("approval.denied", "ada", "refund"),
        ("session.erased", "ada", "s1"),
        ("switch.thrown", "cli/root", "tool refund"),
        ("switch.lifted", "cli/root", "tool refund"),
    ]
    await app.close()


async def test_keys_factors_and_logins(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    keys, factors = Keys(store, clock), Factors(store, Seal(SEAL), clock)
    key, text = await keys.create("web", principal=ADA, by="cli/root")
    await keys.rotate(key.id, by="cli/root")
    token = await Logins(store, keys, clock).begin(ADA, key)
    await keys.revoke(key.id, by="cli/root")
    await factors.add(ADA, by="cli/root")
    with pytest.raises(StepUpError):
        await factors.confirm(ADA, "000000")
    await factors.remove(ADA, by="cli/root")
    audit = Audit(store, clock)
    await audit.link("acme")
    found = await lines(audit)
    assert [(line.act, line.by, line.subject) for line in found] == [
        ("key.created", "cli/root", key.id),
        ("key.rotated", "cli/root", key.id),
        ("login", "ada", key.id),
        ("key.revoked", "cli/root", key.id),
        ("factor.added", "cli/root", "ada"),
        ("factor.refused", "ada", "ada"),
        ("factor.removed", "cli/root", "ada"),
    ]
    told = msgspec.json.encode(found).decode()
    assert text.rpartition("_")[2] not in told
    assert token not in told


async def test_an_act_that_did_not_happen_is_not_in_it(clock: ManualClock) -> None:
    """The entry is in the act's own transaction: of five who say yes at once, one did."""
    store = MemoryStore(clock)
    app = refund_app(store, clock, ToolCall("1", "refund", '{"order": "7"}'), "Done.")
    ask = Inbound(messages=(Message.of("user", "Refund 7"),), principal=ADA, agent="shop")
    run = await app.engine.answer(ask)
    said = [app.engine.approve(ADA, run.id, run.questions[0].hash) for _ in range(5)]
    outcomes = await asyncio.gather(*said, return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    await app.engine.drain()
    await app.engine.audit.link("acme")
    acts = [line.act for line in await lines(app.engine.audit)]
    assert acts == ["approval.approved", "tool.called"]
    await app.close()


async def test_admins_read_it_page_by_page(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    app = refund_app(store, clock)
    await acts(store, clock, 5, tenant="default")
    transport = httpx.ASGITransport(app.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        page = (await client.get("/api/v1/audit", params={"limit": 3})).json()
        assert [line["number"] for line in page["lines"]] == [1, 2, 3]
        page = (await client.get("/api/v1/audit", params={"after": page["next"], "limit": 3})).json()
        assert [line["subject"] for line in page["lines"]] == ["key3", "key4"]
        assert page["next"] is None
        assert (await client.get("/api/v1/audit", params={"limit": 0})).status_code == 422
    await app.close()
