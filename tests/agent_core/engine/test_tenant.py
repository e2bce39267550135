"""A tenant exported and erased: a word that was said is nowhere any more, whatever the place, and others keep all."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_core import Agent, tool
from agent_core.app import App, build_app
from agent_core.blobs.base import Blobs
from agent_core.blobs.folder import FolderBlobs
from agent_core.blobs.memory import MemoryBlobs
from agent_core.channels.guests import Guest, _guest
from agent_core.engine import keys
from agent_core.engine.hooks import Hooks
from agent_core.engine.runs import Delivery, Inbound
from agent_core.engine.switches import CACHE_SECONDS, Switch, Switches
from agent_core.engine.tenant import Tenants, belongs, kind_of
from agent_core.errors import AgentError, InputError, KilledError
from agent_core.messages import Message, Principal, Text, ToolCall, to_record
from agent_core.models.scripted import ScriptedModel
from agent_core.queues.base import Entry
from agent_core.queues.sqlite import SqliteQueue
from agent_core.security.addresses import CALLBACKS
from agent_core.security.keys import Keys
from agent_core.security.seal import Seal
from agent_core.security.totp import Factors
from agent_core.settings import Settings
from agent_core.store.base import Put, Record, WholeStore
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock
from agent_core.worker import Letters
from tests.aws.emulator import Emulator

CANARY = "kanarienvogel7391"
ANN = Principal(tenant=f"acme-{CANARY}", user=f"ann-{CANARY}")
BOB = Principal(tenant="other", user="bob")
SEAL = base64.b64encode(bytes(32)).decode()


class Place:
    """A store and blobs of one kind, and all bytes that they left anywhere."""

    def __init__(self, kind: str, folder: Path, emulator: Emulator | None, stack: ExitStack) -> None:
        self.clock = ManualClock(jump=True)
        self._folder = folder
        self.store: WholeStore
        self.blobs: Blobs
        if kind == "memory":
            self.store, self.blobs = MemoryStore(self.clock), MemoryBlobs()
        elif kind == "sqlite":
            self.store, self.blobs = SqliteStore(folder / "s.db", self.clock), FolderBlobs(folder / "blobs")
        else:
            assert emulator is not None
            self.store = stack.enter_context(emulator.store(self.clock))
            self.blobs = emulator.blobs(self.clock)

    async def bytes(self) -> list[bytes]:
        """What is there now: of each record, each blob and each file, name and content."""
        found = [path.read_bytes() + str(path).encode() for path in self._folder.rglob("*") if path.is_file()]
        after = None
        while True:
            page = await self.store.scan(after=after)
            found += [json.dumps([*record.key, record.fields]).encode() for record in page.records]
            after = page.after
            if after is None:
                break
        for tenant in (ANN.tenant, BOB.tenant):
            found += [name.encode() + blob.data async for name, blob in self.blobs.all(tenant)]
        return found

    async def canaries(self) -> int:
        """In how many of them the word is."""
        return sum(CANARY.encode() in one for one in await self.bytes())


@pytest.fixture(params=["memory", "sqlite", "aws"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    with ExitStack() as stack:
        emulator = request.getfixturevalue("emulator") if request.param == "aws" else None
        place = Place(request.param, tmp_path / "data", emulator, stack)
        yield place
        await place.store.close()
        await place.blobs.close()


@tool(effects="once", approval=True)
def pay(to: str) -> str:
    """Pay somebody."""
    return f"paid {to}"


@tool
def look(word: str) -> str:
    """Look something up."""
    return f"all about {word} " * 2_000


def open_app(place: Place, *script: Any) -> App:
    agent = Agent(name="shop", model=ScriptedModel(script), tools=[pay, look], untrusted="allow")
    settings = Settings(auth="off", seal_keys=SEAL)
    return build_app(settings, agents=[agent], store=place.store, blobs=place.blobs, clock=place.clock)


def said(who: Principal, text: str, session: str, **more: Any) -> Inbound:
    parts = (
        (Text(f"{text} {CANARY} " + "x" * 70_000),)
        if session.startswith("long")
        else (Text(f"{text} {CANARY}"),)
    )
    return Inbound(
        messages=(Message(role="user", parts=parts),),
        principal=who,
        session_id=f"{session}-{CANARY}",
        agent="shop",
        metadata={"note": CANARY},
        **more,
    )


async def live(place: Place, who: Principal) -> None:
    """All that somebody may leave behind: talks, tools, a question, keys, factors, endpoints, guests, batches."""
    call = ToolCall("1", "look", json.dumps({"word": CANARY}))
    ask = ToolCall("2", "pay", json.dumps({"to": CANARY}))
    app = open_app(place, call, f"I found {CANARY}", "Short", ask, *["Line"] * 3)
    await app.engine.answer(said(who, "Look", "talk", key=f"key-{CANARY}"))
    await app.engine.answer(said(who, "Long", "long"))
    waiting = await app.engine.answer(said(who, "Pay", "money", delivery=Delivery("letter", CANARY)))
    assert waiting.status == "waiting"
    key, text = await app.door.keys.create(CANARY, principal=who)
    await app.door.logins.begin(who, key)
    await Factors(place.store, Seal(SEAL), place.clock).add(who)
    hooks = Hooks(place.store, Seal(SEAL), place.clock, CALLBACKS)
    await hooks.add(who.tenant, f"https://hooks.example/{CANARY}", (), by=who.user)
    guests = f"{keys.quoted(who.tenant)}/guests/slack"
    guest = Guest(person=CANARY, app="app", at=1.0)
    await place.store.write(Put(_guest(guests, "app", CANARY), to_record(guest)))
    lines = b"".join(json.dumps({"message": f"{CANARY} {n}"}).encode() + b"\n" for n in range(3))
    transport = httpx.ASGITransport(app.asgi(), client=("203.0.113.7", 1))
    headers = {"Authorization": f"Bearer {text}", "Content-Type": "application/jsonl"}
    door = build_app(
        Settings(auth="on", seal_keys=SEAL),
        agents=[Agent(name="shop", model=ScriptedModel(["Line"] * 3))],
        store=place.store,
        blobs=place.blobs,
        clock=place.clock,
    )
    transport = httpx.ASGITransport(door.asgi(), client=("203.0.113.7", 1))
    async with httpx.AsyncClient(
        transport=transport, base_url="https://a.example", headers=headers
    ) as client:
        answer = await client.post("/api/v1/batches", content=lines)
        assert answer.status_code == 202, answer.text
    await door.batches.drain()
    await door.batches.close()
    await app.engine.drain()
    await app.engine.audit.link(
        who.tenant
    )  # a write behind all others, which a store may still have had in hand


async def records_of(place: Place, tenant: str) -> list[Record]:
    found, after = [], None
    while True:
        page = await place.store.scan(after=after)
        found += [record for record in page.records if belongs(record, tenant)]
        after = page.after
        if after is None:
            return found


async def test_nothing_is_left_of_a_tenant_and_all_of_another(
    home: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await live(home, ANN)
    await live(home, BOB)
    before = {record.key: record for record in await records_of(home, BOB.tenant)}
    blobs = [one async for one in home.blobs.all(BOB.tenant)]
    assert len(before) > 20
    assert blobs
    figures = sorted(tokens(record) for record in await ledger(home, ANN))
    assert len(figures) > 3
    assert min(figures) > 0

    done = await Tenants(home.store, home.blobs, home.clock).erase(ANN.tenant, by="cli/root")
    assert done.records > 20
    assert done.ledger == len(figures) + 1  # and the run that waits for an answer
    left = await records_of(home, ANN.tenant)
    assert {kind_of(record.key) for record in left} == {"ledger", "audit"}
    assert [one async for one in home.blobs.all(ANN.tenant)] == []
    assert {record.key: record for record in await records_of(home, BOB.tenant)} == before
    assert [one async for one in home.blobs.all(BOB.tenant)] == blobs
    kept = await ledger(home, ANN)
    added = sorted(tokens(record) for record in kept)
    for figure in figures:
        added.remove(figure)
    assert len(added) == 1
    assert added[0] > 0  # what the run that waited had cost until then
    assert not [record for record in kept if CANARY in json.dumps(record.fields).replace(ANN.tenant, "")]
    assert caplog.text.replace(ANN.tenant, "").count(CANARY) == 0

    again = await Tenants(home.store, home.blobs, home.clock).erase(ANN.tenant, by="cli/root")
    assert (again.records, again.ledger) == (0, 0)


def tokens(record: Record) -> int:
    return sum(one["usage"]["input"] for one in record.fields["entries"])


async def ledger(place: Place, who: Principal) -> list[Record]:
    return [record for record in await records_of(place, who.tenant) if kind_of(record.key) == "ledger"]


async def test_the_word_is_in_no_byte_any_more(home: Place) -> None:
    """Files, logs of files, rows, objects: all bytes, with the tenant's own log erased too."""
    await live(home, ANN)
    assert await home.canaries() > 20
    await Tenants(home.store, home.blobs, home.clock).erase(ANN.tenant, by="cli/root", log_too=True)
    left = [one for one in await home.bytes() if CANARY.encode() in one]
    # The ledger's figures lie under the tenant's name, which is all that is left of it.
    assert not [one for one in left if CANARY.encode() in one.replace(ANN.tenant.encode(), b"")]
    assert all(b"/ledger/" in one for one in left)
    if isinstance(home.store, SqliteStore):
        assert len(left) <= 2 + len(await ledger(home, ANN))  # the rows, their file, and the file's log


async def test_an_erased_session_is_in_no_byte_any_more(home: Place) -> None:
    who = Principal(tenant="acme", user="ann")
    app = open_app(
        home,
        ToolCall("1", "look", json.dumps({"word": CANARY})),
        f"I found {CANARY}",
        "Short",
        ToolCall("2", "pay", json.dumps({"to": CANARY})),
    )
    sessions = ["talk", "long", "money"]
    for session in sessions:
        await app.engine.answer(said(who, "Say", session, delivery=Delivery("letter", CANARY)))
    await app.engine.drain()
    assert await home.canaries() > 10
    for session in sessions:
        await app.engine.erase(who, f"{session}-{CANARY}")
    left = [one for one in await home.bytes() if CANARY.encode() in one]
    # That a session of this name was erased is in the audit log, and nothing else.
    assert all(b"session.erased" in one for one in left)
    assert not [one for one in left if b"I found" in one or b"all about" in one]
    assert len(await ledger(home, who)) == len(sessions)


async def test_the_export_holds_all_but_secrets(home: Place, tmp_path: Path) -> None:
    await live(home, ANN)
    await live(home, BOB)
    file = tmp_path / "out.zip"
    told = await Tenants(home.store, home.blobs, home.clock).export(ANN.tenant, file, by="cli/root")
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        names = set(archive.namelist())
        assert archive.testzip() is None
        lines = {
            name: [json.loads(line) for line in archive.read(name).splitlines()]
            for name in names
            if name.startswith("records/")
        }
        text = b"".join(archive.read(name) for name in names)
    assert names == {"manifest.json", *manifest["sha256"]}
    assert manifest["records"] == told.records
    assert {"session", "run", "ledger", "batch", "key", "factor", "hooks", "guests", "audit"} <= set(
        told.records
    )
    assert sum(len(found) for found in lines.values()) == sum(told.records.values())
    assert told.blobs == len([one async for one in home.blobs.all(ANN.tenant)]) > 0
    assert any("I found" in json.dumps(line) for line in lines["records/session.jsonl"])
    assert b"other" not in {
        line["partition"].split("/")[0].encode() for found in lines.values() for line in found
    }
    assert b'"digest"' not in text
    assert b'"seed"' not in text
    assert b'"secret"' not in text
    assert not file.with_name(".out.zip.part").exists()


@pytest.mark.parametrize("name", ["key", "login", "socket", "default", "run"])
async def test_tenants_with_the_names_of_partitions_are_tenants_like_others(
    tmp_path: Path, name: str
) -> None:
    clock = ManualClock(jump=True)
    store, blobs = MemoryStore(clock), MemoryBlobs()
    keyring = Keys(store, clock)
    _, token = await keyring.create(principal=BOB, by="root")
    _, own = await keyring.create(principal=Principal(tenant=name, user="run"), by="root")
    await Factors(store, Seal(SEAL), clock).add(Principal(tenant=name, user="run"), by="root")
    switches = Switches(store, clock)
    await switches.throw(
        Switch(tenant=name, kind="tool", name="pay", reason=CANARY, by="ann", at=clock.now())
    )
    await Tenants(store, blobs, clock).erase(name, by="root", log_too=True)
    left = [record async for record in Tenants(store, blobs, clock)._records(name)]
    assert left == []
    found = json.dumps([[*record.key, record.fields] for record in (await store.scan()).records])
    assert CANARY not in found
    kept = await keyring.find(token)
    assert kept is not None
    assert (kept.principal.tenant, kept.principal.user) == (BOB.tenant, BOB.user)
    assert await keyring.find(own) is None


@pytest.mark.parametrize("name", ["", "*"])
async def test_all_tenants_at_once_are_none(tmp_path: Path, name: str) -> None:
    clock = ManualClock(jump=True)
    store = MemoryStore(clock)
    with pytest.raises(InputError, match="name one"):
        await Tenants(store, MemoryBlobs(), clock).erase(name, by="root")
    assert list((await store.scan()).records) == []


async def test_meanwhile_the_tenant_is_stopped(tmp_path: Path) -> None:
    """Who comes in while it goes on is refused; afterwards the name is free again."""
    clock = ManualClock()
    store, blobs = MemoryStore(clock), MemoryBlobs()
    agent = Agent(name="shop", model=ScriptedModel(["One", "Two"]))
    app = build_app(Settings(auth="off"), agents=[agent], store=store, blobs=blobs, clock=clock)
    who = Principal(tenant="acme")
    await app.engine.answer(said(who, "Hi", "s"))
    erasing = asyncio.create_task(Tenants(store, blobs, clock).erase("acme", by="cli/root"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert clock.sleeping == 1
    await app.engine.switches.refresh()
    with pytest.raises(KilledError, match="its data is being erased"):
        await app.engine.answer(said(who, "Hi again", "s"))
    clock.advance(10)
    await erasing
    await app.engine.switches.refresh()
    assert (await app.engine.answer(said(who, "Hi", "s"))).status == "succeeded"
    await app.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from agent_core.blobs.folder import FolderBlobs
from agent_core.engine.tenant import Tenants
from agent_core.queues.sqlite import SqliteQueue
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock
from agent_core.worker import Letters

left = int(sys.argv[2])

def step():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

def mortal(kind, *verbs):
    def dying(verb):
        async def do(self, *given, **named):
            result = await getattr(kind, verb)(self, *given, **named)
            step()
            return result
        return do
    return type("Dying", (kind,), {verb: dying(verb) for verb in verbs})

async def main():
    clock = ManualClock(jump=True)
    folder = Path(sys.argv[1])
    store = mortal(SqliteStore, "write", "scan", "scrub")(folder / "s.db", clock)
    blobs = mortal(FolderBlobs, "erase_all")(folder / "blobs")
    queue = mortal(SqliteQueue, "receive", "delete", "extend", "scrub")(folder / "q.db", clock)
    letters = [Letters(queue, clock)]
    await Tenants(store, blobs, clock, elsewhere=letters).erase(sys.argv[3], by="cli/root")
    await queue.close()
    await store.close()

asyncio.run(main())
"""


async def test_killed_between_any_two_steps_it_goes_on(tmp_path: Path) -> None:
    """A process of its own dies after so many steps, for each number of them; another one ends the work."""
    with ExitStack() as stack:
        place = Place("sqlite", tmp_path / "lived", None, stack)
        await live(place, ANN)
        await place.store.close()
    queue = SqliteQueue(tmp_path / "lived" / "q.db", place.clock)
    address = {"tenant": ANN.tenant, "user": ANN.user, "session_id": CANARY}
    await queue.send(Entry(body=json.dumps({"session": address})))
    await queue.close()
    ended = 0
    steps = count(1)
    while not ended:
        ended = sum(await asyncio.gather(*[_killed(tmp_path, next(steps)) for _ in range(2)]))
    assert next(steps) > 20


async def _killed(tmp_path: Path, steps: int) -> bool:
    """Whether the process came to its end before that."""
    folder = tmp_path / f"killed{steps}"
    shutil.copytree(tmp_path / "lived", folder)
    command = [sys.executable, "-c", KILLED, str(folder), str(steps), ANN.tenant]
    died = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
    assert died.returncode in (-signal.SIGKILL, 0), died.stderr.decode()
    with ExitStack() as stack:
        place = Place("sqlite", folder, None, stack)
        queue = SqliteQueue(folder / "q.db", place.clock)
        letters = [Letters(queue, place.clock)]
        await Tenants(place.store, place.blobs, place.clock, elsewhere=letters).erase(
            ANN.tenant, by="cli/root", log_too=True
        )
        await queue.close()
        left = await records_of(place, ANN.tenant)
        assert {kind_of(record.key) for record in left} == {"ledger"}
        names = [
            one for one in await place.bytes() if CANARY.encode() in one.replace(ANN.tenant.encode(), b"")
        ]
        assert names == []
        await place.store.close()
    shutil.rmtree(folder)
    return died.returncode == 0


async def test_it_waits_for_who_is_still_at_work(tmp_path: Path) -> None:
    """A worker that lost its session may still keep something until it wants to renew its lease."""
    clock = ManualClock()
    store, blobs = MemoryStore(clock), MemoryBlobs()
    begun, hold = asyncio.Event(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Take long, and say much."""
        begun.set()
        await hold.wait()
        return f"{CANARY} " * 20_000

    script = [ToolCall("1", "slow", "{}"), "Done"]
    agent = Agent(name="shop", model=ScriptedModel(script), tools=[slow])
    app = build_app(Settings(auth="off"), agents=[agent], store=store, blobs=blobs, clock=clock)
    run = asyncio.create_task(app.engine.answer(said(ANN, "Go", "s")))
    await begun.wait()
    erasing = asyncio.create_task(Tenants(store, blobs, clock).erase(ANN.tenant, by="cli/root"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not [one async for one in blobs.all(ANN.tenant)]
    hold.set()
    with pytest.raises(AgentError):
        await run
    assert [one async for one in blobs.all(ANN.tenant)]  # kept by the worker after all of them were removed
    clock.advance(CACHE_SECONDS + 2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not erasing.done()
    clock.advance(app.settings.lease_seconds)
    await erasing
    assert [one async for one in blobs.all(ANN.tenant)] == []
    await app.close()
