"""Turns of any shape, up to what the API takes, are answered and paid for once; and all of them can be erased."""

from __future__ import annotations

import asyncio
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core import Agent, Limits, tool
from agent_core.agent import Compaction
from agent_core.app import App, build_app
from agent_core.blobs.memory import MemoryBlobs
from agent_core.engine import keys
from agent_core.engine.accept import lease_of, take
from agent_core.engine.runs import Inbound, Run
from agent_core.engine.tenant import Tenants
from agent_core.engine.worker import Worker
from agent_core.errors import InputError, NotFoundError
from agent_core.messages import Message, Principal, Reply, Text, ToolCall, Usage
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings
from agent_core.store.base import Store
from agent_core.store.memory import MemoryStore
from agent_core.store.overflow import OverflowStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock
from tests.aws.emulator import Emulator

ANN = Principal(tenant="acme", user="ann")
CANARY = "kanarienvogel7391"


@tool
def read(page: int, note: str = "") -> str:
    """Read a page."""
    return f"{page}" * 16_000


def wish(calls: int, argument: int) -> Reply:
    arguments = json.dumps({"page": 7, "note": "n" * argument})
    wanted = tuple(ToolCall(f"c{n}", "read", arguments) for n in range(calls))
    return Reply(
        message=Message(role="assistant", tool_calls=wanted), finish="tool_calls", usage=Usage(9, 0, 9)
    )


def inbound(sizes: list[list[int]], letter: str = "x", **more: Any) -> Inbound:
    messages = tuple(Message(role="user", parts=tuple(Text(letter * size) for size in one)) for one in sizes)
    return Inbound(messages=messages, principal=ANN, session_id="s", **more)


def made(store: Store, clock: ManualClock, *script: Any, **more: Any) -> tuple[App, ScriptedModel]:
    model = ScriptedModel(script, context_window=100_000_000)
    agent = Agent(name="assistant", model=model, tools=[read], limits=Limits(steps=200), **more)
    app = build_app(Settings(auth="off"), agents=[agent], store=store, blobs=MemoryBlobs(), clock=clock)
    return app, model


async def answered_once(store: Store, clock: ManualClock, sizes: list[list[int]], calls: int, argument: int,
                        reply: int, letter: str) -> None:  # fmt: skip
    script = [*([wish(calls, argument)] if calls else []), letter * reply or "Yes.", "And again."]
    app, model = made(store, clock, *script)
    run = await app.engine.answer(inbound(sizes, letter, key="k", fingerprint="f"))
    assert (run.status, run.failure) == ("succeeded", None)
    again = await app.engine.answer(inbound(sizes, letter, key="k", fingerprint="f"))
    assert again.replayed
    assert again.reply is not None
    assert again.reply.text == (letter * reply or "Yes.")
    assert len(model.prompts) == len(script) - 1
    assert (await app.engine.answer(inbound([[5]]))).status == "succeeded"
    await app.close()


SHAPES = st.lists(
    st.lists(st.sampled_from([1, 4_000, 60_000, 65_000, 300_000]), min_size=1, max_size=6),
    min_size=1,
    max_size=40,
)
TURNS: dict[str, Any] = {
    "sizes": SHAPES,
    "calls": st.sampled_from([0, 1, 8, 30, 45]),
    "argument": st.sampled_from([0, 2_000, 100_000]),
    "reply": st.sampled_from([0, 60_000, 500_000, 2_000_000]),
    "letter": st.sampled_from(["x", "é", '"']),
}


@given(**TURNS)
@settings(max_examples=12, deadline=None)
def test_turns_of_any_shape_on_sqlite(tmp_path_factory: pytest.TempPathFactory, **turn: Any) -> None:
    clock = ManualClock()
    store = SqliteStore(tmp_path_factory.mktemp("sizes") / "s.db", clock)
    asyncio.run(answered_once(store, clock, **turn))


@given(**TURNS)
@settings(max_examples=4, deadline=None)
def test_turns_of_any_shape_on_dynamodb(emulator: Emulator, **turn: Any) -> None:
    clock = ManualClock()
    with emulator.store(clock) as store:
        asyncio.run(answered_once(store, clock, **turn))


async def test_large_messages_that_join_a_run_end_with_it() -> None:
    clock = ManualClock()
    app, model = made(MemoryStore(clock), clock, wish(1, 0), *["Read."] * 20, busy="merge")
    runs = [await app.engine.submit(inbound([[60_000] * 4], key=f"k{n}"), work=False) for n in range(19)]
    await app.engine.resume(ANN, "s")
    await app.engine.drain()
    assert {(await app.engine.run(ANN, run.id)).status for run in runs} == {"succeeded"}
    assert len(model.prompts) == 2


async def test_pinned_words_may_outgrow_the_record_of_the_session() -> None:
    clock = ManualClock()
    rules = Compaction(at_tokens=1_000, keep=2)
    app, _ = made(MemoryStore(clock), clock, *["Noted."] * 60, compaction=rules)
    for n in range(12):
        message = Message.of("user", f"{n}" * 50_000, metadata={"pinned": "yes"})
        run = await app.engine.answer(Inbound(messages=(message,), principal=ANN, session_id="s"))
        assert (run.status, run.failure) == ("succeeded", None)


async def test_a_message_of_any_size_can_be_given_up_and_brought_back() -> None:
    clock = ManualClock()
    app, _ = made(MemoryStore(clock), clock, "Hello.")
    large = inbound([[64_000] * 3] * 40, key="k")
    await app.engine.submit(large, work=False)
    lease = lease_of(app.engine._kit, ANN, "s")
    assert await take(app.engine._kit, lease)
    run_id = keys.run_id(ANN, "k")
    await Worker(app.engine._kit, ANN, "s", lease, {}, 0.0).give_up(run_id, 6)
    assert (await app.engine.run(ANN, run_id)).status == "failed"
    await app.engine.redrive(ANN, run_id)
    await app.engine.drain()
    assert (await app.engine.run(ANN, run_id)).status == "succeeded"


async def lived(store: Store, clock: ManualClock) -> tuple[App, Run]:
    app, _ = made(store, clock, wish(30, 2_000), f"{CANARY} " * 30_000)
    messages = tuple(Message.of("user", CANARY * 200) for _ in range(131))
    return app, await app.engine.answer(
        Inbound(messages=messages, principal=ANN, session_id="s", metadata={"note": CANARY * 20_000})
    )


async def words(store: OverflowStore) -> int:
    found, after = 0, None
    while True:
        page = await store._store.scan(after=after)  # type: ignore[attr-defined]
        found += sum(CANARY in json.dumps(record.fields) for record in page.records)
        after = page.after
        if after is None:
            return found


async def test_an_erased_session_leaves_nothing_of_its_large_records() -> None:
    clock = ManualClock()
    store = OverflowStore(MemoryStore(clock), clock)
    _, run = await lived(store, clock)
    assert await words(store) > 100
    other, _ = made(store, clock)  # another process, which has read nothing of it
    await other.engine.erase(ANN, "s")
    assert await words(store) == 0
    with pytest.raises(NotFoundError):
        await other.engine.run(ANN, run.id)


async def test_a_tenant_with_large_records_is_exported_whole_and_erased(tmp_path: Path) -> None:
    clock = ManualClock(jump=True)
    store = OverflowStore(MemoryStore(clock), clock)
    app, _ = await lived(store, clock)
    tenants = Tenants(store, app.blobs, clock)
    exported = await tenants.export(ANN.tenant, tmp_path / "e.zip", by="me")
    assert "overflow" not in exported.records
    with zipfile.ZipFile(tmp_path / "e.zip") as archive:
        [line] = archive.read("records/run.jsonl").decode().splitlines()[:1]
        assert json.loads(line)["fields"]["metadata"] == {"note": CANARY * 20_000}
    await tenants.erase(ANN.tenant, by="me")
    assert await words(store) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"session_id": "s" * 2_000},
        {"session_id": "/" * 700},
        {"session_id": "s", "principal": Principal(tenant="t" * 600, user="ann")},
        {"session_id": "s", "principal": Principal(tenant="acme", user="u" * 2_000)},
    ],
)
async def test_names_too_long_for_keys_are_refused_at_the_door(more: dict[str, Any]) -> None:
    clock = ManualClock()
    app, model = made(MemoryStore(clock), clock, "Hello.")
    with pytest.raises(InputError, match="names of tenant, user and session"):
        await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),), **more))
    assert model.prompts == []


async def test_a_key_may_be_of_any_length() -> None:
    clock = ManualClock()
    app, _ = made(MemoryStore(clock), clock, "Hello.")
    run = await app.engine.answer(inbound([[5]], key="k" * 5_000))
    assert run.status == "succeeded"
