"""Reading several records at once: one that can't be read hides none of the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from agent_core.errors import UnreadableError
from agent_core.messages import from_record
from agent_core.store.base import Record

log = logging.getLogger("sampan.records")

S = TypeVar("S", bound=msgspec.Struct)


def readable(kind: type[S], records: Iterable[Record]) -> list[S]:
    """Those that this Sampan can read, in order.

    The others are of a newer Sampan, or damaged: they stay as they are, and the log tells where they lie.
    """
    found = []
    for record in records:
        if (one := readable_or_none(kind, record)) is not None:
            found.append(one)
    return found


def readable_or_none(kind: type[S], record: Record) -> S | None:
    """The record if this Sampan can read it; else None, and the log tells where it lies."""
    try:
        return from_record(kind, record.fields)
    except UnreadableError as error:
        log.error("record=<%s %s> | left as it is: %s", *record.key, error)
        return None
