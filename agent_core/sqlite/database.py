"""One SQLite file for the tasks of this process, safe beside other processes and over a fork.

What writes queues up for one thread, which commits all that wait as one transaction. What only reads runs where it is
asked for: a lookup takes less time than a change of threads, and in WAL mode a reader waits for no writer.
https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from weakref import WeakSet

from agent_core.errors import AgentError, StoreBusyError, StoreError
from agent_core.sqlite.commits import GroupCommit
from agent_core.sqlite.files import Schema, identity, is_busy, open_file, translated

R = TypeVar("R")

Work = Callable[[sqlite3.Connection], Any]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.5
"""Seconds between tries of a read that found the file locked, which is rare and short: a recovery after a crash."""

_OPEN_SECONDS = 0.02
"""Seconds that a reading connection waits for a lock: little, for it may wait on the event loop."""


class _Job(NamedTuple):
    work: Work
    durable: bool


class Database:
    """The file at `path`, made with its folder and tables when first used.

    `busy_seconds` is about how long it waits for other processes before that is a StoreBusyError.
    """

    def __init__(self, path: str | Path, schema: Schema, *, busy_seconds: float = 10.0) -> None:
        self.path = Path(path)
        self._schema = schema
        self._busy_seconds = busy_seconds
        self._commits: GroupCommit[_Job, Any] = GroupCommit(self._commit, name=f"sampan-{self.path.name}")
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._durable = True
        self._closed = False
        _databases.add(self)

    async def write(self, work: Callable[[sqlite3.Connection], R | AgentError], *, durable: bool = True) -> R:
        """Do the work in a write transaction, and give its result once that is committed.

        It runs in another thread, together with others' and maybe more than once: so it must change nothing but the
        file. An error that it returns is raised here and leaves the others alone, so it must have written nothing;
        one that it raises undoes all. What is not `durable` outlives the end of this process, but a power cut may
        undo it.
        """
        return cast(R, await self._commits.do(_Job(work, durable)))

    async def read(self, sql: str, arguments: Sequence[Any]) -> list[Any]:
        """The rows of a short query."""
        return await self.gather(sql, arguments, list)

    async def gather(self, sql: str, arguments: Sequence[Any], take: Callable[[Iterator[Any]], R]) -> R:
        """What `take` makes of the rows of a short query; it may stop before the last."""
        waited, pause = 0.0, _FIRST_PAUSE
        while True:
            try:
                if self._reader is None:
                    await asyncio.to_thread(self._open_reader)
                with self._reading:
                    if self._closed:
                        raise StoreError(f"{self.path} is closed")
                    if self._reader is not None:  # else it was let go of since: a fault, or a fork
                        cursor = self._reader.execute(sql, arguments)
                        try:
                            return take(cursor)
                        finally:
                            cursor.close()  # ends the read transaction, so that the next one sees later writes
            except (sqlite3.Error, OSError) as error:
                if not is_busy(error):
                    self._drop_reader()
                    raise translated(error, self.path) from error
            if waited >= self._busy_seconds:
                raise StoreBusyError(f"{self.path} is locked by another process")
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)

    async def scrub(self) -> None:
        """Write the file anew and empty its log, so that nothing is left of what was deleted.

        Raises StoreBusyError where another process reads or writes all the time.
        """
        await asyncio.to_thread(self._scrub)

    async def empty_log(self) -> bool:
        """Move the log into the file and empty it; False where another process reads it."""
        return await asyncio.to_thread(self._empty_log)

    def _scrub(self) -> None:
        if not self._empty_log(anew=True):
            raise StoreBusyError(f"{self.path} is read by another process: its log holds what was deleted")

    def _empty_log(self, *, anew: bool = False) -> bool:
        try:
            with self._writing:
                connection = self._connection()
                if anew:
                    connection.execute("VACUUM")
                [[busy, _, _]] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (sqlite3.Error, OSError) as error:
            raise translated(error, self.path) from error
        return not busy

    async def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        self._closed = True
        await self._commits.close()
        with self._writing:
            self._let_go()

    def _commit(self, jobs: Sequence[_Job]) -> list[Any]:
        try:
            with self._writing:
                return self._transact(jobs)
        except (sqlite3.Error, OSError, StoreError) as error:
            busy = is_busy(error)
            if not busy:
                with self._writing:
                    self._let_go()
            if busy or len(jobs) == 1:
                declared = error if isinstance(error, StoreError) else translated(error, self.path)
                return [declared for _ in jobs]
        # Something in the batch does not go: then each for itself, so that only the culprit pays.
        return [result for job in jobs for result in self._commit([job])]

    def _transact(self, jobs: Sequence[_Job]) -> list[Any]:
        connection = self._connection()
        durable = any(job.durable for job in jobs)
        if durable != self._durable:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [job.work(connection) for job in jobs]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _connection(self) -> sqlite3.Connection:
        if self._writer is not None and self._file != identity(self.path):
            self._let_go()  # somebody removed or replaced the file: what we wrote there would be lost
        if self._writer is None:
            self._writer = open_file(self.path, self._schema, self._busy_seconds)
            self._file, self._durable = identity(self.path), True
        return self._writer

    def _open_reader(self) -> None:
        if self._closed:
            return
        opened: sqlite3.Connection | None = open_file(self.path, self._schema, _OPEN_SECONDS)
        with self._reading:
            if self._reader is None and not self._closed:
                self._reader, opened = opened, None
        if opened is not None:
            opened.close()

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


# SQLite must not carry a connection over a fork (https://www.sqlite.org/howtocorrupt.html, 2.6). So before one, all
# databases finish the batch at hand and let go of their files; parent and child open them again when they need them.
_databases: WeakSet[Database] = WeakSet()
_held: list[Database] = []
_forking = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    for database in sorted(_databases, key=id):
        database._writing.acquire()
        _held.append(database)
        database._let_go()
        database._reading.acquire()


def _after_fork_in_parent() -> None:
    while _held:
        database = _held.pop()
        database._reading.release()
        database._writing.release()
    _forking.release()


def _after_fork_in_child() -> None:
    for database in _held:
        database._commits.reset()
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
