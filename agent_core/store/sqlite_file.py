"""How an SQLite file is opened, and what its errors mean in ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agent_core.errors import StoreBusyError, StoreError

SCHEMA = 1
"""What PRAGMA user_version says of the files this Sampan writes."""

# A plain rowid table: with records of 1 KB it takes a third of the CPU to write that WITHOUT ROWID does, and no more to
# query. `fields` holds JSON as bytes, so that nothing decodes it twice.
_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    partition TEXT NOT NULL,
    sort TEXT NOT NULL,
    fields BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (partition, sort)
);
CREATE INDEX IF NOT EXISTS expiring ON records (expires_at) WHERE expires_at > 0;
"""

_MEANING = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk can't be read or written",
    sqlite3.SQLITE_READONLY: "it may only be read",
    sqlite3.SQLITE_PERM: "it may not be used",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no SQLite file",
}


def open_file(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """A connection that may be used from any thread, one at a time; waits `busy_seconds` for other processes.

    Raises sqlite3.Error or OSError; StoreError where a newer Sampan wrote the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        # Answered writes must outlive a power cut: the log is flushed at each commit, on Apple's disks too.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        if _schema(connection, path) < SCHEMA:
            _create(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
    connection.execute("BEGIN IMMEDIATE")
    if _schema(connection, path) < SCHEMA:  # or another process was quicker
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")


def _schema(connection: sqlite3.Connection, path: Path) -> int:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise StoreError(
            f"{path} was written by a newer Sampan (schema {version}, this one knows {SCHEMA}): update"
        )
    return int(version)


def is_busy(error: sqlite3.Error | OSError) -> bool:
    """Whether another connection holds the lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translated(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """The declared error for what SQLite, or the folder, said."""
    if isinstance(error, sqlite3.Error):
        if is_busy(error):
            return StoreBusyError(f"{path} is locked by another process")
        return StoreError(f"{path}: {_MEANING.get(_code(error), 'SQLite failed')} ({error})")
    return StoreError(f"{path}: {error.strerror or error}")


def _code(error: sqlite3.Error | OSError) -> int:
    # The low byte is the primary code. Errors of the module itself, such as a closed connection, have none.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
