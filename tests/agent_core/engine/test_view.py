"""A session is read by one query, unless its inbox is long; the history is whole either way."""

from __future__ import annotations

import pytest

from agent_core.engine import keys
from agent_core.engine.runs import Head, Inbound, Pending
from agent_core.engine.view import INBOX, ROOM_FOR_INBOX, read_view
from agent_core.messages import Message, to_record
from agent_core.store.base import Key, Put
from agent_core.store.memory import MemoryStore
from agent_core.testing import CountingStore, ManualClock

SESSION = "default/session/me/s"


async def stored(messages: int, waiting: int, **head: int) -> CountingStore:
    store = CountingStore(MemoryStore(ManualClock()))
    await store.write(
        Put(Key(SESSION, keys.STATE), to_record(Head(messages=messages, **head))),
        *(
            Put(keys.message(SESSION, seq), to_record(Message.of("user", str(seq), seq=seq)))
            for seq in range(1, messages + 1)
        ),
        *(
            Put(
                Key(SESSION, f"{keys.PENDING}{place:03d}"),
                to_record(Pending(run_id=str(place), inbound=Inbound(messages=()))),
            )
            for place in range(waiting)
        ),
    )
    store.reset()
    return store


@pytest.mark.parametrize(
    ("waiting", "queries"), [(1, 1), (ROOM_FOR_INBOX - 1, 1), (ROOM_FOR_INBOX, 2), (30, 3)]
)
async def test_the_history_is_whole_however_many_messages_wait(waiting: int, queries: int) -> None:
    store = await stored(messages=50, waiting=waiting)
    view = await read_view(store, SESSION, 20)
    assert [message.text for message in view.history] == [str(seq) for seq in range(31, 51)]
    assert [pending.run_id for _, pending in view.inbox] == [
        str(place) for place in range(min(waiting, INBOX))
    ]
    assert view.more == (waiting > INBOX)
    assert view.head.messages == 50
    assert store.trips.total() == queries


async def test_a_young_session_is_read_to_its_beginning() -> None:
    store = await stored(messages=5, waiting=1)
    view = await read_view(store, SESSION, 20)
    assert [message.seq for message in view.history] == [1, 2, 3, 4, 5]
    assert store.trips.total() == 1


async def test_what_a_summary_covers_is_not_read_for() -> None:
    store = await stored(messages=50, waiting=8, covered=42)
    view = await read_view(store, SESSION, 20)
    assert [message.seq for message in view.history] == list(range(43, 51))
    assert store.trips.total() == 1


async def test_all_that_no_summary_covers_can_be_asked_for() -> None:
    store = await stored(messages=50, waiting=1, covered=3)
    view = await read_view(store, SESSION, 20, whole=True)
    assert [message.seq for message in view.history] == list(range(4, 51))


async def test_only_the_inbox_can_be_asked_for() -> None:
    store = await stored(messages=50, waiting=2)
    view = await read_view(store, SESSION, 0)
    assert view.history == ()
    assert len(view.inbox) == 2
