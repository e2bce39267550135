"""A session as a worker reads it: head, inbox and latest messages by one query."""

from __future__ import annotations

from dataclasses import dataclass

from agent_core.engine import keys
from agent_core.engine.runs import Head, Pending
from agent_core.messages import Message, from_record
from agent_core.store.base import Key, Record, Store

ROOM_FOR_INBOX = 4
"""Records read beyond the history by one query: the head and what usually waits in an inbox.

Each costs something, in CPU and where reads are billed; an inbox with more in it costs a second query.
"""


INBOX = 25
"""Messages of a long inbox that are read at once: more than may join one run."""


@dataclass(frozen=True)
class View:
    """The head, the inbox (oldest first, with the records' keys), the latest messages in order.

    `more` says that the inbox was not read to its end.
    """

    head: Head
    inbox: tuple[tuple[Key, Pending], ...]
    history: tuple[Message, ...]
    more: bool = False


async def read_view(store: Store, partition: str, history: int, *, whole: bool = False) -> View:
    """The session by one query from the end of its partition; by two more where the inbox is long.

    `whole` reads all messages that no summary covers, however many.
    """
    page = await store.query(partition, limit=min(1000, history + ROOM_FOR_INBOX), reverse=True)
    records = list(page.records)
    head = Head()
    if records and records[0].key.sort == keys.STATE:
        head = from_record(Head, records.pop(0).fields)
    inbox = [record for record in records if record.key.sort.startswith(keys.PENDING)]
    found = records[len(inbox) :]
    more = False
    if page.after.startswith((keys.PENDING, keys.STATE)):
        # What waits is read from its beginning, so that the cost of an answer does not grow with what waits behind it.
        first = await store.query(partition, keys.PENDING, limit=INBOX)
        inbox, more = list(first.records), bool(first.after)
        page = await store.query(partition, keys.MESSAGE, limit=min(1000, history + 1), reverse=True)
        found = list(page.records)
    else:
        inbox.reverse()
    while page.after and not _enough(found, head, history, whole):
        page = await store.query(
            partition, keys.MESSAGE, after=page.after, limit=min(1000, history + ROOM_FOR_INBOX), reverse=True
        )
        found += page.records
    # Messages beyond the head's count were left by a worker that died before its commit: they count for nothing.
    counted = [record for record in found if head.covered < _seq(record.key.sort) <= head.messages]
    messages = [from_record(Message, record.fields) for record in (counted if whole else counted[:history])]
    waiting = tuple((record.key, from_record(Pending, record.fields)) for record in inbox)
    return View(head, waiting, tuple(reversed(messages)), more)


def _enough(found: list[Record], head: Head, history: int, whole: bool) -> bool:
    """Whether the messages were read far enough."""
    if not found:
        return not whole and not history
    last = _seq(found[-1].key.sort)
    if last <= head.covered:
        return True
    return not whole and last <= max(head.messages - history, 0) + 1


def _seq(sort: str) -> int:
    return int(sort[len(keys.MESSAGE) :])
