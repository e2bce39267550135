"""Has SQLite itself write down what the engine did, in the order of its writes, and reads it as a History.

Triggers run within the transactions that they watch, so no process can leave anything out, nor write it later.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.durability.history import Arrival, Bill, Entry, Hold, Outcome

_TRIGGER = """
CREATE TRIGGER {name} AFTER {verb} ON records WHEN {when} BEGIN
    INSERT INTO history (kind, partition, sort, fields) VALUES ('{name}', new.partition, new.sort, new.fields);
END;
"""
_WATCHED = (
    ("arrival", "INSERT", "new.sort LIKE 'pending/%'"),
    ("head_made", "INSERT", "new.sort = 'state'"),
    ("head_changed", "UPDATE", "new.sort = 'state'"),
    ("run_made", "INSERT", "new.sort = 'run'"),
    ("run_changed", "UPDATE", "new.sort = 'run'"),
)


def record(database: Path) -> None:
    """Watch the store in this file, which must be there, from now on."""
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE history (at INTEGER PRIMARY KEY AUTOINCREMENT, kind, partition, sort, fields)"
        )
        for name, verb, when in _WATCHED:
            connection.execute(_TRIGGER.format(name=name, verb=verb, when=when))
    connection.close()


class Recording:
    """What was written down, and what the store holds now. Reads the file past the engine and past the store."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def answered(self) -> int:
        """How many runs have come to their answer so far."""
        sql = "SELECT count(*) FROM records WHERE sort = 'run' AND json_extract(fields, '$.status') = 'succeeded'"
        [(count,)] = self._connection.execute(sql)
        return int(count)

    def arrivals(self) -> list[Arrival]:
        """All acceptances, in order."""
        found = []
        for at, partition, _, fields in self._history("arrival"):
            [message] = fields["inbound"]["messages"]
            words = "".join(part["text"] for part in message["parts"])
            found.append(Arrival(at, _session(partition), fields["run_id"], words))
        return found

    def holds(self) -> list[Hold]:
        """The heads of all sessions after each write, in order."""
        return [
            Hold(
                at,
                _session(partition),
                fields.get("fence", 0),
                fields.get("owner", ""),
                fields.get("lease_until", 0.0),
                fields.get("holder", {}).get("process", ""),
            )
            for at, partition, _, fields in self._history("head_made", "head_changed")
        ]

    def transcripts(self) -> dict[str, list[Entry]]:
        """The messages of all sessions that their heads count."""
        counted = {_session(p): fields.get("messages", 0) for p, _, fields in self._records("state")}
        found: dict[str, list[Entry]] = {session: [] for session in counted}
        for partition, _, fields in self._records("message/%"):
            entry = entry_of(fields)
            if entry.seq <= counted[_session(partition)]:
                found[_session(partition)].append(entry)
        return found

    def runs(self) -> dict[str, Outcome]:
        """All runs as they are, and how often each came to an answer."""
        ends: dict[str, set[float]] = defaultdict(set)
        for _, _, _, fields in self._history("run_made", "run_changed"):
            if fields["status"] == "succeeded":
                ends[fields["id"]].add(fields["finished_at"])
        return {
            fields["id"]: Outcome(fields["status"], _text(fields.get("reply") or {}), len(ends[fields["id"]]))
            for _, _, fields in self._records("run")
        }

    def bills(self) -> dict[str, Bill]:
        """What the ledger has of each run, beside its journal."""
        journaled = Counter(
            partition.rpartition("/")[2]
            for partition, _, fields in self._records("step/%")
            if fields["kind"] == "model"
        )
        entries, calls = Counter[str](), Counter[str]()
        sql = "SELECT fields FROM records WHERE partition LIKE '%/ledger/%'"
        for (body,) in self._connection.execute(sql):
            fields = json.loads(body)
            entries[fields["run_id"]] += 1
            calls[fields["run_id"]] += len(fields["entries"])
        return {run: Bill(entries[run], calls[run], journaled[run]) for run in {*entries, *journaled}}

    def left(self) -> list[str]:
        """What still lies about: messages in inboxes, what is due, dead letters, leases that were not released."""
        sql = """SELECT partition, sort FROM records
            WHERE sort LIKE 'pending/%' OR partition = 'due' OR partition LIKE '%/dead'"""
        found = [f"{partition} {sort}" for partition, sort in self._connection.execute(sql)]
        held = [p for p, _, fields in self._records("state") if fields.get("lease_until", 0.0)]
        return [*found, *(f"{partition} is held" for partition in held)]

    def _history(self, *kinds: str) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        marks = ", ".join("?" * len(kinds))
        sql = f"SELECT at, partition, sort, fields FROM history WHERE kind IN ({marks}) ORDER BY at"
        for at, partition, sort, body in self._connection.execute(sql, kinds):
            yield at, partition, sort, json.loads(body)

    def _records(self, pattern: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        sql = "SELECT partition, sort, fields FROM records WHERE sort LIKE ? ORDER BY partition, sort"
        for partition, sort, body in self._connection.execute(sql, (pattern,)):
            yield partition, sort, json.loads(body)


def entry_of(message: dict[str, Any]) -> Entry:
    """A stored message as a reader sees it."""
    return Entry(
        seq=message["seq"],
        run=message["run_id"],
        role=message["role"],
        text=_text(message),
        hidden=message.get("hidden", False),
    )


def _text(message: dict[str, Any]) -> str:
    parts: Sequence[dict[str, Any]] = message.get("parts", ())
    return "".join(part.get("text", "") for part in parts)


def _session(partition: str) -> str:
    return partition.rpartition("/")[2]
