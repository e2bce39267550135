"""How an SQLite file is opened, and what its errors mean in ours."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import msgspec

from agent_core.errors import StoreBusyError, StoreError

_MEANING = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk can't be read or written",
    sqlite3.SQLITE_READONLY: "it may only be read",
    sqlite3.SQLITE_PERM: "it may not be used",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no SQLite file",
}


class Schema(msgspec.Struct, frozen=True):
    """The tables of a file, as statements that end in a semicolon each, and their version (PRAGMA user_version)."""

    version: int
    tables: str


def open_file(path: Path, schema: Schema, busy_seconds: float) -> sqlite3.Connection:
    """A connection that may be used from any thread, one at a time; waits `busy_seconds` for other processes.

    Raises sqlite3.Error or OSError; StoreError where a newer Sampan wrote the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        # Answered writes must outlive a power cut: the log is flushed at each commit, on Apple's disks too.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what was erased is overwritten, not only unlinked
        connection.execute("PRAGMA journal_size_limit = 67108864")  # a log that once grew gives its room back
        if _version(connection, path, schema) < schema.version:
            _create(connection, path, schema)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
    connection.execute("BEGIN IMMEDIATE")
    if _version(connection, path, schema) < schema.version:  # or another process was quicker
        for statement in schema.tables.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.version}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: Path, schema: Schema) -> int:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > schema.version:
        known = f"schema {version}, this one knows {schema.version}"
        raise StoreError(f"{path} was written by a newer Sampan ({known}): update")
    return int(version)


def identity(path: Path) -> tuple[int, int]:
    """Which file stands there; (0, 0) for none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds the lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translated(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """The declared error for what SQLite, or the folder, said."""
    if isinstance(error, sqlite3.Error):
        if is_busy(error):
            return StoreBusyError(f"{path} is locked by another process")
        return StoreError(f"{path}: {_MEANING.get(_code(error), 'SQLite failed')} ({error})")
    return StoreError(f"{path}: {error.strerror or error}")


def _code(error: BaseException) -> int:
    # The low byte is the primary code. Errors of the module itself, such as a closed connection, have none.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
