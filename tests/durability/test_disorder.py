"""Duplicates and disorder over four processes break no promise; the checker that says so finds each broken one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest

from tests.durability.command import prove
from tests.durability.history import (
    Arrival,
    Bill,
    Effect,
    Entry,
    History,
    Hold,
    Outcome,
    Sent,
    answer_to,
    problems,
)


@pytest.mark.timeout(400)
def test_messages_doubled_and_shuffled_are_answered_once_and_in_order() -> None:
    """2,000 messages in 100 sessions; `make soak` sends 10,000 in 500."""
    print(prove("disorder", "--messages", "2000", "--sessions", "100", "--kills", "2"))


def good() -> History:
    """Three messages to a session through a FIFO queue, the second of them tried twice, the third with a tool."""
    sent = [
        Sent("s says 0 ok", "s", "fifo"),
        Sent("s says 1 ok", "s", "fifo"),
        Sent("s says 2 pay", "s", "fifo"),
    ]
    texts = [answer_to(one.words) for one in sent]
    hidden = Entry(3, "r1", "user", sent[1].words, True)
    transcript = [
        Entry(1, "r0", "user", sent[0].words, False),
        Entry(2, "r0", "assistant", texts[0], False),
        hidden,
        Entry(4, "r1", "user", sent[1].words, False),
        Entry(5, "r1", "assistant", texts[1], False),
        Entry(6, "r2", "user", sent[2].words, False),
        Entry(7, "r2", "assistant", "", False),
        Entry(8, "r2", "tool", "", False),
        Entry(9, "r2", "assistant", texts[2], False),
    ]
    return History(
        sent,
        lease_seconds=10.0,
        arrivals=[
            Arrival(1, "s", "r0", sent[0].words),
            Arrival(3, "s", "r1", sent[1].words),
            Arrival(5, "s", "r1", sent[1].words),
            Arrival(7, "s", "r2", sent[2].words),
        ],
        holds=[
            Hold(2, "s", 1, "a", 110.0),
            Hold(4, "s", 1, "a", 0.0),
            Hold(6, "s", 2, "b", 120.0),
            Hold(8, "s", 3, "c", 130.0),  # b died, and its time had just run out
            Hold(9, "s", 3, "c", 0.0),
        ],
        transcripts={"s": transcript},
        reads=[("s", transcript[:2]), ("s", transcript[:5]), ("s", transcript[:])],
        runs={f"r{place}": Outcome("succeeded", text, 1) for place, text in enumerate(texts)},
        bills={"r0": Bill(1, 1, 1), "r1": Bill(1, 1, 1), "r2": Bill(1, 2, 2)},
        effects=[Effect("pay", sent[2].words, "k", False), Effect("pay", sent[2].words, "k", True)],
        answered={sent[0].words: 1, sent[1].words: 2, sent[2].words: 2},
        told=[(sent[0].words, texts[0])],
        kills=1,
        inflight=1,
    )


def swapped(history: History) -> None:
    told = history.transcripts["s"]
    history.transcripts["s"] = [
        entry._replace(seq=place) for place, entry in enumerate([*told[5:], *told[:5]], 1)
    ]
    history.reads = []


def hidden_later(history: History) -> None:
    history.transcripts["s"][0] = history.transcripts["s"][0]._replace(hidden=True)


def without(name: str, place: int) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        del getattr(history, name)[place]

    mutate.__name__ = f"without {name}[{place}]"
    return mutate


def changed(name: str, place: object, **fields: object) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        things = getattr(history, name)
        things[place] = things[place]._replace(**fields)

    mutate.__name__ = f"{name}[{place}] with {fields}"
    return mutate


MUTATIONS: list[tuple[Callable[[History], None], set[str]]] = [
    (changed("arrivals", 0, run="r9"), {"lost", "order", "money"}),
    (changed("arrivals", 1, run="r9"), {"double"}),
    (changed("arrivals", 3, session="t"), {"order"}),
    (changed("arrivals", 0, words="something else"), {"lost", "double", "money", "order"}),
    (changed("runs", "r1", status="failed"), {"lost"}),
    (changed("runs", "r1", text="You said: something else"), {"lost"}),
    (changed("runs", "r1", endings=2), {"double"}),
    (lambda history: history.transcripts["s"].pop(), {"lost", "prefix"}),
    (lambda history: history.transcripts["s"].append(history.transcripts["s"][-1]), {"double", "order"}),
    (swapped, {"order"}),
    (hidden_later, {"lost", "prefix"}),
    (lambda history: history.reads.append(("s", history.transcripts["s"][3:5])), {"prefix"}),
    (lambda history: history.reads.append(("t", history.transcripts["s"][:1])), {"prefix"}),
    (changed("holds", 1, owner="z"), {"fence"}),
    (changed("holds", 3, until=125.0), {"fence"}),
    (changed("holds", 4, fence=2, owner="b"), {"fence"}),
    (changed("holds", 2, fence=5), {"fence"}),
    (changed("effects", 1, repeat=False), {"double"}),
    (changed("effects", 0, repeat=True), {"lost"}),
    (changed("effects", 0, words="s says 0 ok"), {"lost", "double"}),
    (changed("bills", "r0", entries=2), {"money"}),
    (changed("bills", "r0", calls=2), {"money"}),
    (changed("bills", "r2", journaled=3, calls=3), {"money"}),
    (without("bills", "r0"), {"money"}),
    (lambda history: setattr(history, "kills", 0), {"money"}),
    (lambda history: setattr(history, "inflight", 0), {"money"}),
    (lambda history: setattr(history, "told", [("s says 0 ok", "something else")]), {"double"}),
    (lambda history: history.left.append("a message in an inbox"), {"stuck"}),
    (lambda history: history.sent.append(Sent("s says 3 ok", "s", "http")), {"lost", "money"}),
]


def test_the_checker_is_content_with_a_good_history() -> None:
    assert problems(good()) == []


@pytest.mark.parametrize(("mutate", "kinds"), MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_checker_finds_what_is_wrong(mutate: Callable[[History], None], kinds: set[str]) -> None:
    history = deepcopy(good())
    mutate(history)
    assert {kind for kind, _ in problems(history)} == kinds
