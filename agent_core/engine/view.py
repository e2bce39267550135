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


@dataclass(frozen=True)
class View:
    """The head, the inbox (oldest first, with the records' keys), the latest messages in order."""

    head: Head
    inbox: tuple[tuple[Key, Pending], ...]
    history: tuple[Message, ...]


async def read_view(store: Store, partition: str, history: int, *, whole: bool = False) -> View:
    """The session by one query from the end of its partition; more only where the inbox is long.

    `whole` reads all messages that no summary covers, however many.
    """
    records: list[Record] = []
    after = ""
    while True:
        page = await store.query(
            partition, after=after, limit=min(1000, history + ROOM_FOR_INBOX), reverse=True
        )
        records += page.records
        after = page.after
        if not after or _enough(records, history, whole):
            break
    head = Head()
    inbox: list[tuple[Key, Pending]] = []
    messages: list[Message] = []
    for record in records:
        sort = record.key.sort
        if sort == keys.STATE:
            head = from_record(Head, record.fields)
        elif sort.startswith(keys.PENDING):
            inbox.append((record.key, from_record(Pending, record.fields)))
        elif head.covered < _seq(sort) <= head.messages and (whole or len(messages) < history):
            messages.append(from_record(Message, record.fields))
    return View(head, tuple(reversed(inbox)), tuple(reversed(messages)))


def _enough(records: list[Record], history: int, whole: bool) -> bool:
    """Whether the inbox was read to its end and the messages far enough.

    Messages beyond the head's count were left by a worker that died before its commit: they count for nothing.
    """
    last = records[-1].key.sort
    if not last.startswith(keys.MESSAGE):
        return False
    head = records[0].fields
    if _seq(last) <= int(head.get("covered", 0)):
        return True
    return not whole and _seq(last) <= max(int(head.get("messages", 0)) - history, 0) + 1


def _seq(sort: str) -> int:
    return int(sort[len(keys.MESSAGE) :])
