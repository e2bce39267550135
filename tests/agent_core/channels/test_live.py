"""While an answer is written: the typing sign, and a message that grows; at the end it is the answer, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from agent_core import Chunk, Message, Reply
from agent_core.errors import StoreBusyError
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock
from tests.agent_core.channels.conftest import slack_message, telegram_message
from tests.agent_core.channels.fakes import Said

House = Callable[..., Any]
SAID = {"slack": slack_message("Tell me"), "telegram": telegram_message("Tell me")}
CHANGED = {"slack": "chat.update", "telegram": "editMessageText"}
SENT = {"slack": "chat.postMessage", "telegram": "sendMessage"}


class Slow:
    """Says a word whenever it is let to."""

    name = "assistant"

    def __init__(self, *words: str) -> None:
        self.words = words
        self.gates = [asyncio.Event() for _ in words]
        self.said = 0

    async def respond(self, messages: Any, turn: Any) -> AsyncIterator[Chunk]:
        for word, gate in zip(self.words, self.gates, strict=True):
            await gate.wait()
            self.said += 1
            yield Chunk(text=word)
        yield Chunk(reply=Reply(message=Message.of("assistant", "".join(self.words))))


async def until(condition: Callable[[], bool]) -> None:
    """Let everybody else run until it holds; the service, which answers in a thread, too."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for are several parties' doings
            await asyncio.sleep(0)


def paused(clock: ManualClock, times: int) -> Callable[[], bool]:
    """Whether whoever writes drafts sleeps before the next one."""
    return lambda: clock.slept.count(3.0) == times


def still() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.mark.parametrize("kind", ["slack", "telegram"])
async def test_a_message_grows_and_ends_as_the_answer(house: House, kind: str) -> None:
    agent, clock = Slow("One ", "**two** ", "three."), still()
    home = house(kind, clock=clock, agent=agent)
    await home.say(SAID[kind])
    agent.gates[0].set()
    await until(lambda: agent.said == 1 and paused(clock, 1)())
    assert home.service.texts == [], "nothing is shown at once: most answers are quick"
    clock.advance(3)
    await until(lambda: home.service.texts == ["One …"])
    agent.gates[1].set()
    await until(lambda: agent.said == 2 and paused(clock, 2)())
    clock.advance(3)
    bold = "*two*" if kind == "slack" else "<b>two</b>"
    await until(lambda: home.service.texts == [f"One {bold} …"])
    agent.gates[2].set()
    assert await home.settled() == [f"One {bold} three."]
    calls = [call for call in home.service.calls if call in (SENT[kind], CHANGED[kind])]
    assert calls == [SENT[kind], CHANGED[kind], CHANGED[kind]]


async def test_telegram_shows_that_somebody_types(house: House) -> None:
    agent, clock = Slow("Done."), still()
    home = house("telegram", clock=clock, agent=agent)
    await home.say(SAID["telegram"])
    await until(lambda: home.service.calls == ["sendChatAction"] and 4.5 in clock.slept)
    clock.advance(4.5)
    await until(lambda: home.service.calls == ["sendChatAction"] * 2)
    agent.gates[0].set()
    assert await home.settled() == ["Done."]
    assert home.service.calls[-1] == "sendMessage"


async def test_it_can_be_turned_off(house: House) -> None:
    agent, clock = Slow("One ", "two."), still()
    home = house("slack", clock=clock, agent=agent, options={"live": "false"})
    await home.say(SAID["slack"])
    agent.gates[0].set()
    await until(lambda: agent.said == 1)
    clock.advance(10)
    agent.gates[1].set()
    assert await home.settled() == ["One two."]
    assert home.service.calls == ["chat.postMessage"]


@pytest.mark.parametrize("kind", ["slack", "telegram"])
async def test_a_long_answer_keeps_its_draft_as_the_first_message(house: House, kind: str) -> None:
    long = "Word. " * 1200
    agent, clock = Slow("Begin. ", long), ManualClock(1_700_000_000.0)
    home = house(kind, clock=clock, agent=agent)
    await home.say(SAID[kind])
    agent.gates[0].set()
    await until(lambda: agent.said == 1 and paused(clock, 1)())
    clock.advance(3)
    await until(lambda: len(home.service.texts) == 1)
    agent.gates[1].set()
    await until(lambda: agent.said == 2 and 1.0 in clock.slept)
    clock.advance(1)
    texts = await home.settled()
    assert len(texts) == 2
    assert " ".join(texts).split() == ("Begin. " + long).split()


async def test_after_a_crash_slack_finds_the_draft_again(house: House) -> None:
    """The draft arrived, and nobody noted its id: the answer is put into it all the same."""
    agent, clock = Slow("One ", "two."), still()
    store = FaultyStore(MemoryStore(clock))
    home = house("slack", clock=clock, agent=agent, store=store)
    await home.say(slack_message("Tell me", thread_ts="1.1"))
    agent.gates[0].set()
    await until(lambda: agent.said == 1 and paused(clock, 1)())
    store.plan(
        Fault(2, StoreBusyError("locked"), "write")
    )  # a draft is two writes, before it is sent and after
    clock.advance(3)
    await until(lambda: home.service.texts == ["One …"] and not store._faults)
    agent.gates[1].set()
    assert await home.settled() == ["One two."]
    assert home.service.calls == ["chat.postMessage", "conversations.replies", "chat.update"]


async def test_what_can_t_be_shown_costs_no_answer(house: House) -> None:
    """The typing sign and the draft are refused; the answer is sent at the end."""
    agent, clock = Slow("One ", "two."), still()
    home = house("telegram", clock=clock, agent=agent)
    home.service.next_answers = [Said(500, {"ok": False, "description": "Internal"})]
    await home.say(SAID["telegram"])
    await until(lambda: not home.service.next_answers)
    for gate in agent.gates:
        gate.set()
    assert await home.settled() == ["One two."]


async def test_a_draft_that_somebody_deleted_is_sent_anew(house: House) -> None:
    agent, clock = Slow("One ", "two."), still()
    home = house("telegram", clock=clock, agent=agent)
    await home.say(SAID["telegram"])
    agent.gates[0].set()
    await until(lambda: agent.said == 1 and paused(clock, 1)())
    clock.advance(3)
    await until(lambda: len(home.service.texts) == 1)
    await until(paused(clock, 2))
    gone = Said(
        400, {"ok": False, "error_code": 400, "description": "Bad Request: message to edit not found"}
    )
    home.service.next_answers = [gone]
    agent.gates[1].set()
    assert await home.settled() == ["One …", "One two."]


async def test_a_draft_on_its_way_is_waited_for(house: House) -> None:
    """The run ends while Telegram still takes the draft: the answer is put into it, not sent beside it."""
    agent, clock = Slow("One ", "two."), still()
    home = house("telegram", clock=clock, agent=agent)
    there, go_on = threading.Event(), threading.Event()
    answer = home.service.answer

    def slowly(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        if path.endswith("/sendMessage"):
            there.set()
            go_on.wait(20)
        return answer(method, path, headers, body)

    home.service.answer = slowly
    await home.say(SAID["telegram"])
    agent.gates[0].set()
    await until(lambda: agent.said == 1 and paused(clock, 1)())
    clock.advance(3)
    await until(there.is_set)
    agent.gates[1].set()
    await until(lambda: agent.said == 2)
    go_on.set()
    assert await home.settled() == ["One two."]
