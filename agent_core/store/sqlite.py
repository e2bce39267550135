"""A store in one SQLite file, for one machine: safe over many processes, durable, nothing to install."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from agent_core.clock import Clock
from agent_core.errors import AgentError
from agent_core.sqlite.database import Database
from agent_core.sqlite.files import Schema
from agent_core.store.apply import Change, Prepared, Row, bounds, decode, plan, prepare
from agent_core.store.base import (
    MAX_PAGE,
    Condition,
    Fields,
    Key,
    Page,
    Record,
    Scan,
    Update,
    Write,
    check_key,
    check_query,
)

# A plain rowid table: with records of 1 KB it takes a third of the CPU to write that WITHOUT ROWID does, and no more to
# query. `fields` holds JSON as bytes, so that nothing decodes it twice.
_SCHEMA = Schema(
    version=1,
    tables="""
CREATE TABLE IF NOT EXISTS records (
    partition TEXT NOT NULL,
    sort TEXT NOT NULL,
    fields BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (partition, sort)
);
CREATE INDEX IF NOT EXISTS expiring ON records (expires_at) WHERE expires_at > 0;
""",
)

_SWEEP_SECONDS = 60.0
_SWEEP_ROWS = 100
"""Expired records that one write removes at most."""

_ROW = "SELECT fields, version, expires_at FROM records WHERE partition = ? AND sort = ?"
_LIVE_ROW = """SELECT fields, version FROM records
    WHERE partition = ? AND sort = ? AND (expires_at = 0 OR expires_at > ?)"""
_PAGE = """SELECT sort, fields, version FROM records
    WHERE partition = ? AND (expires_at = 0 OR expires_at > ?) AND sort >= ?"""
_SCAN = """SELECT partition, sort, fields, version FROM records
    WHERE (partition, sort) > (?, ?) ORDER BY partition, sort"""
_PUT = """INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT (partition, sort)
    DO UPDATE SET fields = excluded.fields, version = excluded.version, expires_at = excluded.expires_at"""
_DELETE = "DELETE FROM records WHERE partition = ? AND sort = ?"
_SWEEP = """DELETE FROM records WHERE (partition, sort) IN
    (SELECT partition, sort FROM records WHERE expires_at > 0 AND expires_at <= ? LIMIT ?)"""


class SqliteStore:
    """All four verbs over the file at `path`, made with its folder when first used.

    `busy_seconds` is how long a write waits for other processes before it is a StoreBusyError.
    """

    def __init__(self, path: str | Path, clock: Clock, *, busy_seconds: float = 10.0) -> None:
        self._clock = clock
        self._database = Database(path, _SCHEMA, busy_seconds=busy_seconds)
        self._next_sweep = 0.0

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""
        check_key(key)
        rows = await self._database.read(_LIVE_ROW, (key.partition, key.sort, self._clock.now()))
        return Record(key, decode(rows[0][0]), rows[0][1]) if rows else None

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """Records of one partition whose sort key begins with `prefix`, in order (or in reverse)."""
        check_query(partition, prefix, after, limit)
        low, high = bounds(prefix, after, reverse)
        order = "DESC" if reverse else "ASC"
        below = "" if high is None else "AND sort < ?"
        sql = f"{_PAGE} {below} ORDER BY sort {order} LIMIT ?"
        arguments = (partition, self._clock.now(), low, *(() if high is None else (high,)), limit + 1)
        return await self._database.gather(sql, arguments, _page_of(partition, limit))

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none."""
        await self._database.write(self._work(prepare(writes)))

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """Add to counters atomically and return all fields as they are then."""
        [change] = await self._database.write(
            self._work(prepare([Update(key, add=numbers, when=when, expires_at=expires_at)]))
        )
        return decode(change.row.body) if change.row else {}

    async def scan(self, *, after: Key | None = None) -> Scan:
        """Records of all partitions, also expired ones."""
        return await self._database.gather(_SCAN, after or ("", ""), _some_of)

    async def empty_log(self) -> None:
        """Move the log's pages into the file and empty it; pages of it hold what was deleted since."""
        await self._database.empty_log()

    async def scrub(self) -> None:
        """Write the file anew and empty its log: pages that were moved may hold what was deleted since."""
        await self._database.scrub()

    async def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        await self._database.close()

    def _work(self, writes: Sequence[Prepared]) -> Callable[[sqlite3.Connection], list[Change] | AgentError]:
        def work(connection: sqlite3.Connection) -> list[Change] | AgentError:
            now = self._clock.now()
            if now >= self._next_sweep:
                removed = connection.execute(_SWEEP, (now, _SWEEP_ROWS)).rowcount
                self._next_sweep = now if removed == _SWEEP_ROWS else now + _SWEEP_SECONDS
            return _do(connection, writes, now)

        return work


def _page_of(partition: str, limit: int) -> Callable[[Iterator[tuple[str, bytes, int]]], Page]:
    def take(rows: Iterator[tuple[str, bytes, int]]) -> Page:
        records: list[Record] = []
        size = 0
        for sort, body, version in rows:
            if len(records) == limit or size >= MAX_PAGE:
                return Page(tuple(records), after=records[-1].key.sort)
            records.append(Record(Key(partition, sort), decode(body), version))
            size += len(body)
        return Page(tuple(records))

    return take


def _some_of(rows: Iterator[tuple[str, str, bytes, int]]) -> Scan:
    found: list[Record] = []
    size = 0
    for partition, sort, body, version in rows:
        if size >= MAX_PAGE:
            return Scan(tuple(found), found[-1].key)
        found.append(Record(Key(partition, sort), decode(body), version))
        size += len(body)
    return Scan(tuple(found))


def _do(connection: sqlite3.Connection, writes: Sequence[Prepared], now: float) -> list[Change] | AgentError:
    def read(key: Key) -> Row | None:
        row = connection.execute(_ROW, key).fetchone()
        return Row(*row) if row else None

    try:
        changes = plan(writes, read, now)
    except AgentError as error:  # nothing is written yet, so the rest of the batch may stand
        return error
    for key, row in changes:
        if row is None:
            connection.execute(_DELETE, key)
        else:
            connection.execute(_PUT, (*key, *row))
    return changes
