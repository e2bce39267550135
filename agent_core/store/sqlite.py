"""A store in one SQLite file, for one machine: safe over many processes, durable, nothing to install.

Writes of one process queue up for its one writer thread, which commits all that wait as one transaction
(`GroupCommit`). Reads run where they are asked for: a lookup takes less time than a change of threads, and in WAL mode
a reader waits for no writer. https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from agent_core.clock import Clock
from agent_core.errors import AgentError, StoreBusyError, StoreError
from agent_core.store.apply import Change, Prepared, Row, bounds, decode, plan, prepare
from agent_core.store.base import MAX_PAGE, Fields, Key, Page, Record, Update, Write, check_key, check_query
from agent_core.store.commits import GroupCommit
from agent_core.store.sqlite_file import is_busy, open_file, translated

_SWEEP_SECONDS = 60.0
_SWEEP_ROWS = 100
"""Expired records that one batch of writes removes at most."""

_PAUSES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0)
"""Seconds between tries of a read that found the file locked, which is rare and short: a recovery after a crash."""

_OPEN_SECONDS = 0.02
"""Seconds that a reading connection waits for a lock: little, for it may wait on the event loop."""

_ROW = "SELECT fields, version, expires_at FROM records WHERE partition = ? AND sort = ?"
_LIVE_ROW = """SELECT fields, version FROM records
    WHERE partition = ? AND sort = ? AND (expires_at = 0 OR expires_at > ?)"""
_PAGE = """SELECT sort, fields, version FROM records
    WHERE partition = ? AND (expires_at = 0 OR expires_at > ?) AND sort >= ?"""
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
        self._path = Path(path)
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._commits = GroupCommit(self._commit, name=f"sampan-store-{self._path.name}")
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._next_sweep = 0.0
        self._closed = False
        _stores.add(self)

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""
        check_key(key)
        rows, _ = await self._read(_LIVE_ROW, (key.partition, key.sort, self._clock.now()), 1)
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
        arguments = [partition, self._clock.now(), low, *([] if high is None else [high])]
        rows, more = await self._read(sql, (*arguments, limit + 1), limit)
        records = tuple(Record(Key(partition, sort), decode(body), version) for sort, body, version in rows)
        return Page(records, after=records[-1].key.sort if more else "")

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none."""
        await self._commits.do(prepare(writes))

    async def add(self, key: Key, numbers: Mapping[str, int], *, expires_at: float | None = None) -> Fields:
        """Add to counters atomically and return all fields as they are then."""
        [change] = await self._commits.do(prepare([Update(key, add=numbers, expires_at=expires_at)]))
        return decode(change.row.body) if change.row else {}

    async def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        self._closed = True
        await self._commits.close()
        with self._writing:
            self._let_go()

    async def _read(self, sql: str, arguments: Sequence[Any], limit: int) -> tuple[list[Any], bool]:
        for pause in _PAUSES:
            try:
                if self._reader is None:
                    await asyncio.to_thread(self._open_reader)
                found = self._select(sql, arguments, limit)
            except (sqlite3.Error, OSError) as error:
                if not is_busy(error):
                    self._drop_reader()
                    raise translated(error, self._path) from error
            else:
                if found is not None:
                    return found
            await asyncio.sleep(pause)
        raise StoreBusyError(f"{self._path} is locked by another process")

    def _open_reader(self) -> None:
        if self._closed:
            return
        opened: sqlite3.Connection | None = open_file(self._path, _OPEN_SECONDS)
        with self._reading:
            if self._reader is None and not self._closed:
                self._reader, opened = opened, None
        if opened is not None:
            opened.close()

    def _select(self, sql: str, arguments: Sequence[Any], limit: int) -> tuple[list[Any], bool] | None:
        """The rows and whether there are more; None where the connection was let go of since: a fault, or a fork."""
        rows: list[Any] = []
        size = 0
        with self._reading:
            if self._closed:
                raise StoreError("the store is closed")
            if self._reader is None:
                return None
            cursor = self._reader.execute(sql, arguments)
            for row in cursor:
                if len(rows) == limit or size >= MAX_PAGE:
                    cursor.close()  # ends the read transaction, so that the next one sees later writes
                    return rows, True
                rows.append(row)
                size += len(row[-2])
        return rows, False

    def _commit(self, jobs: Sequence[list[Prepared]]) -> list[list[Change] | BaseException]:
        try:
            with self._writing:
                return self._transact(jobs)
        except (sqlite3.Error, OSError, StoreError) as error:
            busy = isinstance(error, sqlite3.Error) and is_busy(error)
            if not busy:
                self._drop_connections()
            if busy or len(jobs) == 1:
                return [self._declared(error) for _ in jobs]
        # Something in the batch does not go: then each for itself, so that only the culprit pays.
        return [result for job in jobs for result in self._commit([job])]

    def _transact(self, jobs: Sequence[list[Prepared]]) -> list[list[Change] | BaseException]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            now = self._clock.now()
            results = [_do(connection, job, now) for job in jobs]
            self._sweep(connection, now)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        if now >= self._next_sweep:
            removed = connection.execute(_SWEEP, (now, _SWEEP_ROWS)).rowcount
            self._next_sweep = now if removed == _SWEEP_ROWS else now + _SWEEP_SECONDS

    def _connection(self) -> sqlite3.Connection:
        if self._writer is not None and self._file != _identity(self._path):
            self._let_go()  # somebody removed or replaced the file: what we wrote there would be lost
        if self._writer is None:
            self._writer = open_file(self._path, self._busy_seconds)
            self._file = _identity(self._path)
        return self._writer

    def _declared(self, error: sqlite3.Error | OSError | StoreError) -> StoreError:
        return error if isinstance(error, StoreError) else translated(error, self._path)

    def _drop_connections(self) -> None:
        with self._writing:
            self._let_go()

    def _drop_reader(self) -> None:
        with self._reading:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()

    def _let_go(self) -> None:
        self._drop_reader()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _do(connection: sqlite3.Connection, job: list[Prepared], now: float) -> list[Change] | BaseException:
    def read(key: Key) -> Row | None:
        row = connection.execute(_ROW, key).fetchone()
        return Row(*row) if row else None

    try:
        changes = plan(job, read, now)
    except AgentError as error:
        return error
    for key, row in changes:
        if row is None:
            connection.execute(_DELETE, key)
        else:
            connection.execute(_PUT, (*key, *row))
    return changes


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


# SQLite must not carry a connection over a fork (https://www.sqlite.org/howtocorrupt.html, 2.6). So before one, all
# stores finish the batch at hand and let go of their files; parent and child open them again when they need them.
_stores: WeakSet[SqliteStore] = WeakSet()
_held: list[SqliteStore] = []
_forking = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    for store in sorted(_stores, key=id):
        store._writing.acquire()
        _held.append(store)
        store._let_go()
        store._reading.acquire()


def _after_fork_in_parent() -> None:
    while _held:
        store = _held.pop()
        store._reading.release()
        store._writing.release()
    _forking.release()


def _after_fork_in_child() -> None:
    for store in _held:
        store._commits.reset()
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
