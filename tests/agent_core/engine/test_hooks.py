"""Outgoing webhooks: what happens is told once it is stored, under one id, signed, and until it arrives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from agent_core import Agent, Limits, tool
from agent_core.app import App, build_app, make_hooks
from agent_core.engine import keys
from agent_core.engine.hook_post import PATIENCE_SECONDS
from agent_core.engine.hooks import MOST, TYPES, Hooks, Notice
from agent_core.engine.outbox import SCHEDULE
from agent_core.engine.runs import Delivery, Inbound, Run
from agent_core.engine.switches import Switch
from agent_core.errors import ChannelRefusedError, InputError, NotFoundError
from agent_core.messages import Message, Principal, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings
from agent_core.store.memory import MemoryStore
from agent_core.testing import CountingStore, ManualClock
from tests.agent_core.engine.receiver import Got, Receiver, receiving

ME = Principal()
CANARY = "kanarienvogel"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@tool(approval=True)
def pay() -> str:
    """Pay."""
    return "paid"


class House:
    """A service that tells, on a clock of its own."""

    def __init__(self, *script: Any, **options: Any) -> None:
        self.clock = ManualClock(start=datetime.now(UTC).timestamp())  # the standard's library knows no other
        self.store = MemoryStore(self.clock)
        agent = Agent(name="shop", model=ScriptedModel(script), **{"tools": [pay], **options})
        settings = Settings(store="memory", auth="off", hooks=True, local_callbacks=True)
        self.app: App = build_app(settings, agents=[agent], store=self.store, clock=self.clock)
        hooks = self.app.engine._kit.hooks
        assert hooks is not None
        self.hooks: Hooks = hooks

    async def say(self, text: str = CANARY, who: Principal = ME, **fields: Any) -> Any:
        run = await self.app.engine.answer(
            Inbound(messages=(Message.of("user", text),), principal=who, **fields)
        )
        await self.app.engine.drain()
        return run

    async def add(self, url: str, *events: str, tenant: str = "default") -> tuple[str, str]:
        endpoint, secret = await self.hooks.add(tenant, url, events, by="ann")
        return endpoint.id, secret

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.app.sweep()
        await self.app.engine.drain()

    async def notices(self) -> list[Notice]:
        return (await self.hooks.sent("default", limit=1000))[0]


def told(got: Got, secret: str) -> dict[str, Any]:
    """What was told, once the standard's own library has found it good."""
    Webhook(secret).verify(got.body, got.headers)
    return dict(json.loads(got.body))


async def test_every_end_of_a_run_is_told_and_signed(receiver: Receiver) -> None:
    house = House("Hello.", ToolCall("1", "pay", "{}"), "Done.", ValueError("broken"))
    _, secret = await house.add(f"{receiver.url}/all")
    done = await house.say()
    waiting = await house.say("Pay")
    question = waiting.questions[0]
    await house.app.engine.deny(ME, waiting.id, question.hash)
    await house.app.engine.drain()
    failed = await house.say()
    found = [told(got, secret) for got in receiver.got]
    assert [(one["type"], one["data"]["run_id"]) for one in found] == [
        ("run.succeeded", done.id),
        ("run.waiting", waiting.id),
        ("run.succeeded", waiting.id),
        ("run.failed", failed.id),
    ]
    assert found[1]["data"]["questions"][0]["hash"] == question.hash
    assert found[0]["data"]["usage"]["input"] > 0
    assert found[0]["timestamp"].endswith("Z")
    assert len(set(receiver.ids())) == 4
    assert CANARY not in repr(receiver.got)  # never the words of a conversation
    assert {notice.status for notice in await house.notices()} == {"delivered"}
    await house.app.close()


async def test_each_is_told_what_it_wants_to_know_and_nobody_of_another_tenant(receiver: Receiver) -> None:
    house = House(*["Hello."] * 3, ValueError("broken"))
    await house.add(f"{receiver.url}/failures", "run.failed")
    await house.add(f"{receiver.url}/runs", "run.*")
    await house.add(f"{receiver.url}/others", tenant="acme")
    await house.say()
    await house.say(who=Principal(tenant="acme"))
    await house.say(who=Principal(tenant="third"))
    await house.say()
    assert sorted(got.path for got in receiver.got) == ["/failures", "/others", "/runs", "/runs"]
    await house.app.close()


class Refuses:
    """A chat service that knows no such place."""

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        raise ChannelRefusedError("no such chat")


async def test_budgets_dead_letters_and_switches_are_told(receiver: Receiver) -> None:
    house = House(ToolCall("1", "nothing", "{}"), "Hello.", limits=Limits(tokens=1))
    await house.add(f"{receiver.url}/alarms", "alarm.*", "budget.exceeded")
    house.app.engine._kit.deliverers["nobody"] = Refuses()
    await house.say()
    await house.say(delivery=Delivery("nobody", "here"))
    at = house.clock.now()
    await house.app.engine.switches.throw(Switch(kind="tool", name="pay", tenant="default", by="ann", at=at))
    await house.pass_time(1)
    types = [json.loads(got.body)["type"] for got in receiver.got]
    assert "budget.exceeded" in types
    assert "alarm.switch" in types
    assert "alarm.dead_letter" in types
    assert "run.failed" not in types
    await house.app.close()


async def test_it_is_tried_by_the_schedule_under_one_id(receiver: Receiver) -> None:
    house = House("Hello.")
    _, secret = await house.add(receiver.url)
    receiver.answers = [(500, {})] * len(SCHEDULE)
    await house.say()
    for tries, seconds in enumerate(SCHEDULE, 1):
        await house.pass_time(seconds * 0.99)
        assert len(receiver.got) == tries  # not before its time
        await house.pass_time(seconds * 0.22)
        assert len(receiver.got) == tries + 1
        assert len(set(receiver.ids())) == 1
    [notice] = await house.notices()
    assert (notice.status, notice.tries) == ("delivered", len(SCHEDULE) + 1)
    told(receiver.got[0], secret)
    assert len({got.headers["webhook-signature"] for got in receiver.got}) == len(
        receiver.got
    )  # of its own time
    await house.pass_time(200_000)
    assert len(receiver.got) == len(SCHEDULE) + 1
    await house.app.close()


async def test_after_the_last_try_it_is_given_up_and_can_be_sent_again(receiver: Receiver) -> None:
    house = House("Hello.")
    await house.add(receiver.url)
    receiver.answers = [(503, {})] * (len(SCHEDULE) + 1)
    await house.say()
    for seconds in SCHEDULE:
        await house.pass_time(seconds * 1.21)
    [notice] = await house.notices()
    assert (notice.status, notice.told) == ("failed", "503")
    [one] = await house.hooks.all("default")
    assert one.failing_since > 0
    [(key, due)] = await house.hooks.resend("default", notice.id)
    await house.app.engine._kit.due["hook"](key, due)
    [notice] = await house.notices()
    assert notice.status == "delivered"
    assert len(set(receiver.ids())) == 1
    [one] = await house.hooks.all("default")
    assert one.failing_since == 0
    with pytest.raises(NotFoundError):
        await house.hooks.resend("default", "nothing")
    await house.app.close()


async def test_who_is_gone_is_told_no_more_and_the_others_hear_of_it(receiver: Receiver) -> None:
    house = House("Hello.", "Hello.", "Hello.")
    gone, _ = await house.add(f"{receiver.url}/gone", "run.*")
    await house.add(f"{receiver.url}/other", "alarm.*")
    receiver.answers = [(410, {})]
    await house.say()
    await house.pass_time(1)
    [disabled, _] = await house.hooks.all("default")
    assert disabled.disabled == "it answered 410: it wants no more"
    assert [(got.path, json.loads(got.body)["type"]) for got in receiver.got] == [
        ("/gone", "run.succeeded"),
        ("/other", "alarm.hook_disabled"),
    ]
    await house.say()
    assert len(receiver.got) == 2
    await house.hooks.enable("default", gone, by="ann")
    house.clock.advance(5)
    await house.say()
    assert receiver.got[-1].path == "/gone"
    await house.app.close()


async def test_five_days_of_failures_disable(receiver: Receiver) -> None:
    house = House(*["Hello."] * 9)
    await house.add(receiver.url)
    receiver.answers = [(500, {})] * 1000
    await house.say()
    for _ in range(6):
        await house.pass_time(PATIENCE_SECONDS / 5.5)
        await house.say()
    [endpoint] = await house.hooks.all("default")
    assert endpoint.disabled.startswith("it has failed for 5 days: 500")
    await house.app.close()


async def test_a_pause_that_it_asks_for_is_kept_and_no_redirect_followed(receiver: Receiver) -> None:
    house = House("Hello.")
    await house.add(receiver.url)
    receiver.answers = [(429, {"Retry-After": "3600"}), (302, {"Location": f"{receiver.url}/elsewhere"})]
    await house.say()
    await house.pass_time(3000)
    assert len(receiver.got) == 1
    await house.pass_time(700)
    assert [got.path for got in receiver.got] == ["/", "/"]
    await house.pass_time(400)
    assert [got.path for got in receiver.got] == ["/", "/", "/"]
    [notice] = await house.notices()
    assert notice.status == "delivered"
    await house.app.close()


async def test_while_a_secret_is_changed_both_sign(receiver: Receiver) -> None:
    house = House("Hello.", "Hello.")
    endpoint, old = await house.add(receiver.url)
    _, new = await house.hooks.rotate("default", endpoint, by="ann", overlap=60)
    await house.say()
    assert told(receiver.got[0], old) == told(receiver.got[0], new)
    house.clock.advance(61)
    await house.say()
    told(receiver.got[1], new)
    with pytest.raises(Exception, match="No matching signature"):
        told(receiver.got[1], old)
    await house.app.close()


async def test_one_that_is_dead_holds_up_nobody(receiver: Receiver) -> None:
    house = House("Hello.")
    with receiving() as dead:
        address = dead.url
    await house.add(address)
    await house.add(f"{receiver.url}/alive")
    await house.say()
    assert [got.path for got in receiver.got] == ["/alive"]
    assert sorted(notice.status for notice in await house.notices()) == ["delivered", "pending"]
    await house.app.close()


@pytest.mark.parametrize("endpoints", [2, MOST])
async def test_as_many_messages_join_a_run_as_one_transaction_can_tell_of(
    receiver: Receiver, endpoints: int
) -> None:
    called, go = asyncio.Event(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Slow."""
        called.set()
        await go.wait()
        return "ok"

    house = House(ToolCall("1", "slow", "{}"), *["Done."] * 20, busy="merge", tools=[slow])
    for number in range(endpoints):
        await house.add(f"{receiver.url}/{number}")
    first = asyncio.create_task(house.say("one", session_id="s"))
    await called.wait()
    others = [asyncio.create_task(house.say(f"m{number}", session_id="s")) for number in range(12)]
    inbox = keys.session(ME, "s")
    while len((await house.store.query(inbox, keys.PENDING)).records) < 13:  # noqa: ASYNC110 # the store has no event
        await asyncio.sleep(0)
    go.set()
    runs = await asyncio.gather(first, *others)
    assert {run.status for run in runs} == {"succeeded"}
    assert bool(runs[0].joined) == (endpoints == 2)
    ends = {notice.id.partition(".")[0] for notice in await house.notices() if notice.type == "run.succeeded"}
    assert ends == {run.id for run in runs}
    assert len(await house.notices()) == 13 * endpoints
    await house.app.close()


async def test_what_was_erased_meanwhile_stays_erased(receiver: Receiver) -> None:
    house = House("Hello.")
    await house.add(receiver.url)
    receiver.answers = [(500, {})]
    await house.say(session_id="s", metadata={"who": CANARY})
    [notice] = await house.notices()

    async def erase() -> None:
        await house.app.engine.erase(ME, "s")

    receiver.before = lambda: asyncio.run_coroutine_threadsafe(erase(), loop).result(10)
    loop = asyncio.get_running_loop()
    await house.pass_time(10)
    assert len(receiver.got) == 2
    assert await house.notices() == []
    assert notice.body.count(CANARY) == 1
    await house.app.close()


async def test_a_quiet_endpoint_is_not_disabled_by_one_failure(receiver: Receiver) -> None:
    house = House("Hello.", "Hello.")
    await house.add(receiver.url)
    receiver.answers = [(500, {})] * 11
    await house.say()
    for seconds in SCHEDULE:
        await house.pass_time(seconds * 1.3)
    house.clock.advance(PATIENCE_SECONDS)
    await house.say()
    [endpoint] = await house.hooks.all("default")
    assert endpoint.disabled == ""
    assert endpoint.failing_since > 0
    await house.app.close()


async def test_that_one_is_disabled_is_told_whatever_crashes(receiver: Receiver) -> None:
    house = House("Hello.")
    await house.add(f"{receiver.url}/gone", "run.*")
    await house.add(f"{receiver.url}/other", "alarm.*")
    receiver.answers = [(410, {})]
    store = house.hooks._store
    house.hooks._store = counting = CountingStore(store)
    await house.say()
    # One write disables it and makes the notice (the other says that it fails): a crash finds nothing between them.
    assert counting.trips["write"] == 2
    await house.pass_time(1)
    assert [got.path for got in receiver.got] == ["/gone", "/other"]
    await house.app.close()


async def test_a_switch_of_any_name_is_told(receiver: Receiver) -> None:
    house = House("Hello.")
    await house.add(receiver.url)
    switch = Switch(
        tenant="default", kind="tool", name="überweisen\n", reason="r", by="ann", at=house.clock.now()
    )
    await house.app.engine._kit.switches.throw(switch)
    await house.pass_time(1)
    assert [json.loads(got.body)["data"]["name"] for got in receiver.got] == ["überweisen\n"]
    await house.app.close()


async def test_a_sweep_tries_a_dead_endpoint_once_and_after_all_else(receiver: Receiver) -> None:
    house = House(*["Hello."] * 6)
    with receiving() as dead:
        address = dead.url
        await house.add(f"{address}/dead", "run.*")
        dead.answers = [(500, {})] * 99
        for _ in range(5):
            await house.say()
        tried = len(dead.got)
        await house.add(f"{receiver.url}/alive", "run.*")
        house.clock.advance(6)
        await house.say()
        again = len(dead.got)
        await house.app.sweep()
        assert (tried, again - tried, len(dead.got) - again) == (5, 1, 1)
    assert len(receiver.got) == 1
    await house.app.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://10.0.0.1/",
        "ftp://example.com",
        "https://user@example.com",
        "no url",
    ],
)
async def test_addresses_that_are_told_nothing(url: str) -> None:
    house = House()
    with pytest.raises(InputError, match="notices can't go there"):
        await house.hooks.add("default", url, (), by="ann")
    strict = make_hooks(Settings(store="memory"), house.store, house.clock)
    with pytest.raises(InputError):
        await strict.add("default", "http://127.0.0.1:80/", (), by="ann")
    await house.app.close()


async def test_what_is_wrong_is_named() -> None:
    house = House()
    with pytest.raises(InputError, match=r"there is no event 'run.exploded'; there are: run.succeeded"):
        await house.add("https://example.com", "run.exploded")
    for number in range(MOST):
        await house.add(f"https://example.com/{number}")
    with pytest.raises(InputError, match="at most"):
        await house.add("https://example.com/more")
    with pytest.raises(NotFoundError):
        await house.hooks.remove("acme", (await house.hooks.all("default"))[0].id, by="eve")
    await house.app.close()


async def test_what_it_costs_a_turn() -> None:
    """One read of the endpoints every five seconds; with nobody to tell, no record more."""
    clock = ManualClock()
    store = CountingStore(MemoryStore(clock))
    agent = Agent(name="shop", model=ScriptedModel(["Hello."] * 3))
    app = build_app(Settings(auth="off", hooks=True), agents=[agent], store=store, clock=clock)
    trips = []
    for _ in range(3):
        store.reset()
        await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),)))
        await app.engine.drain()
        trips.append(sum(store.trips.values()))
    assert trips == [4, 3, 3]
    await app.close()


@given(
    st.sampled_from(TYPES),
    st.lists(st.sampled_from([*TYPES, "*", "run.*", "alarm.*", "budget.*"]), min_size=1),
)
def test_patterns_mean_what_they_say(kind: str, events: list[str]) -> None:
    async def run() -> None:
        clock = ManualClock()
        hooks = make_hooks(Settings(), MemoryStore(clock), clock)
        endpoint, _ = await hooks.add("default", "https://example.com", events, by="ann")
        wanted = "*" in events or kind in events or f"{kind.split('.')[0]}.*" in events
        assert endpoint.wants(kind) is wanted

    asyncio.run(run())


KILLED = """
import asyncio, os, signal, sys
from agent_core import Agent
from agent_core.app import build_app
from agent_core.engine import points
from agent_core.engine.runs import Inbound
from agent_core.messages import Message
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings

def watch(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    points.watch(watch)
    settings = Settings(data=sys.argv[1], auth="off", hooks=True, local_callbacks=True)
    app = build_app(settings, agents=[Agent(name="shop", model=ScriptedModel(["Hello."]))])
    await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),), key="k"))
    await app.engine.drain()

asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "times"), [("after commit", 1), ("before notice", 1), ("after notice", 2)])
async def test_killed_anywhere_it_is_told_under_one_id(
    receiver: Receiver, tmp_path: Path, point: str, times: int
) -> None:
    """A process of its own dies after the commit, before it told, and after it told but before it wrote that down."""
    clock = ManualClock(start=datetime.now(UTC).timestamp())
    settings = Settings(data=str(tmp_path), auth="off", hooks=True, local_callbacks=True)
    app = build_app(settings, agents=[Agent(name="shop", model=ScriptedModel([]))], clock=clock)
    hooks = app.engine._kit.hooks
    assert hooks is not None
    _, secret = await hooks.add("default", receiver.url, (), by="ann")
    command = [sys.executable, "-c", KILLED, str(tmp_path), point]
    died = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=60, env={**os.environ}
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    clock.advance(120)
    await app.sweep()
    await app.engine.drain()
    assert len(receiver.got) == times
    assert len(set(receiver.ids())) == 1
    assert told(receiver.got[-1], secret)["type"] == "run.succeeded"
    await app.close()
