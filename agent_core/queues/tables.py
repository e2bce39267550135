"""The tables of the SQLite queues, and what one transaction does to the messages of one queue."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from agent_core.queues.base import (
    DEDUPE_SECONDS,
    MAX_ENTRIES,
    MAX_VISIBILITY,
    Counts,
    Entry,
    Received,
    Rules,
    dead_attributes,
    dedupe_id,
    living_attributes,
    never_done,
    share,
)
from agent_core.sqlite.files import Schema

# On a FIFO queue only the first message of a group has a `ready_at`: when it is visible and none of its group is in
# flight. So one index tells what to give out next, however many wait. `body` stands last: what comes before it is read
# without it. `latest` is the latest time that anybody saw.
#
# On a standard queue what may be given out has a `turn`, and is given out in that order: a message's is one behind the
# last of its group that waits, and not before those that are next. So groups (tenants) take turns, and one that has
# 100,000 messages holds up no other. What comes again takes turns of its own.
SCHEMA = Schema(
    version=2,
    tables="""
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    fifo INTEGER NOT NULL,
    ready_at REAL,
    visible_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    receive_count INTEGER NOT NULL,
    received_at REAL NOT NULL,
    receipt TEXT NOT NULL,
    id TEXT NOT NULL,
    sent_at REAL NOT NULL,
    lane TEXT NOT NULL,
    dedupe TEXT NOT NULL,
    attributes BLOB NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS ready ON messages (queue, ready_at, seq) WHERE ready_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS lanes ON messages (queue, lane, seq) WHERE fifo = 1;
CREATE INDEX IF NOT EXISTS expiring ON messages (queue, expires_at);
CREATE TABLE IF NOT EXISTS sent (
    queue TEXT NOT NULL,
    dedupe TEXT NOT NULL,
    id TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (queue, dedupe)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS forgetting ON sent (until);
CREATE TABLE IF NOT EXISTS clock (latest REAL NOT NULL);
INSERT INTO clock SELECT 0 WHERE NOT EXISTS (SELECT * FROM clock);
ALTER TABLE messages ADD COLUMN turn INTEGER;
CREATE INDEX unturned ON messages (queue, ready_at, seq) WHERE fifo = 0 AND turn IS NULL;
CREATE INDEX turns ON messages (queue, turn, seq) WHERE turn IS NOT NULL;
CREATE INDEX turns_of_lane ON messages (queue, lane, receive_count > 0, turn) WHERE turn IS NOT NULL;
CREATE INDEX sending ON messages (queue, sent_at)
""",
)

NEXT = """SELECT (SELECT latest FROM clock),
    (SELECT ready_at FROM messages WHERE queue = ? AND ready_at IS NOT NULL ORDER BY ready_at LIMIT 1)"""
"""The latest time seen in the file, and when the next message of a queue may be given out."""

BACKWARDS = 2.0
"""Seconds that clocks of this machine may differ; more, and the clock was set back."""

_SWEEP_ROWS = 100
_TURNED_ROWS = 100
_INSERT = "INSERT INTO messages VALUES (NULL, ?, ?, ?, ?, ?, 0, 0, '', ?, ?, ?, ?, ?, ?, NULL)"
_HEADS = """SELECT * FROM messages
    WHERE queue = ? AND ready_at <= ? AND (ready_at, seq) > (?, ?) ORDER BY ready_at, seq LIMIT ?"""
_UNTURNED = """SELECT seq, lane, receive_count FROM messages
    WHERE queue = ? AND fifo = 0 AND turn IS NULL AND ready_at <= ? ORDER BY ready_at, seq LIMIT ?"""
_TURN = """UPDATE messages SET turn = MAX(
    (SELECT COALESCE(MIN(turn), 0) FROM messages WHERE queue = :queue AND turn IS NOT NULL),
    (SELECT COALESCE(MAX(turn), 0) + 1 FROM messages
        WHERE queue = :queue AND lane = :lane AND (receive_count > 0) = :again AND turn IS NOT NULL)
    ) WHERE seq = :seq"""
_TURNS = """SELECT * FROM messages WHERE queue = ? AND turn IS NOT NULL AND (turn, seq) > (?, ?)
    ORDER BY turn, seq LIMIT ?"""
_LANE = "SELECT * FROM messages WHERE queue = ? AND lane = ? AND fifo = 1 ORDER BY seq"
_HELD = "SELECT * FROM messages WHERE seq = ? AND queue = ? AND receipt = ?"
_FIRST = """SELECT seq, visible_at, receipt FROM messages
    WHERE queue = ? AND lane = ? AND fifo = 1 ORDER BY seq LIMIT ?"""
_HAND_OUT = """UPDATE messages
    SET visible_at = ?, ready_at = ?, receive_count = ?, received_at = ?, receipt = ?, turn = NULL WHERE seq = ?"""
_COUNTS = """SELECT COUNT(*) FILTER (WHERE visible_at <= :now),
    COUNT(*) FILTER (WHERE visible_at > :now AND receipt <> ''),
    COUNT(*) FILTER (WHERE visible_at > :now AND receipt = '')
    FROM messages WHERE queue = :queue AND expires_at > :now"""
_DEAD = """SELECT * FROM messages WHERE queue = :queue AND expires_at > :now AND expires_at <= :upto
    AND visible_at <= :now AND (:ids = '[]' OR id IN (SELECT value FROM json_each(:ids)))
    ORDER BY expires_at, seq LIMIT :limit"""
_EXPIRED = "SELECT * FROM messages WHERE queue = ? AND expires_at <= ? ORDER BY expires_at LIMIT ?"
_FORGET = (
    """DELETE FROM sent WHERE (queue, dedupe) IN (SELECT queue, dedupe FROM sent WHERE until <= ? LIMIT ?)"""
)

_decode_attributes = msgspec.json.Decoder(dict[str, str]).decode


class Row(NamedTuple):
    """A message as it stands in the table."""

    seq: int
    queue: str
    fifo: int
    ready_at: float | None
    visible_at: float
    expires_at: float
    receive_count: int
    received_at: float
    receipt: str
    id: str
    sent_at: float
    lane: str
    dedupe: str
    attributes: bytes
    body: str
    turn: int | None = None


class Messages:
    """The messages of one queue, within one write transaction at the time `now`."""

    def __init__(self, connection: sqlite3.Connection, rules: Rules, now: float) -> None:
        self._do = connection.execute
        self._connection = connection
        self._rules = rules
        self._now = now
        self._keep_time()

    def _keep_time(self) -> None:
        """Where the clock was set back, set back all that waits for it too: nothing may be stuck for an hour."""
        [latest] = self._do("SELECT latest FROM clock").fetchone()
        back = latest - self._now
        if back > BACKWARDS:
            self._do(
                "UPDATE messages SET visible_at = visible_at - :back, ready_at = ready_at - :back,"
                " expires_at = expires_at - :back, received_at = received_at - :back",
                {"back": back},
            )
            self._do("UPDATE sent SET until = until - ?", (back,))
        if back > BACKWARDS or back < -1.0:
            self._do("UPDATE clock SET latest = ?", (self._now,))

    # Putting in

    def send(self, entry: Entry, new_id: str) -> str:
        """Add a message, unless it is a duplicate; the id of it or of the first one."""
        dedupe = dedupe_id(entry, self._rules)
        if dedupe and (first := self._duplicate(dedupe, new_id)):
            return first
        delay = self._rules.delay_seconds if entry.delay_seconds is None else entry.delay_seconds
        self._add(
            new_id, self._now, delay, entry.group, dedupe, msgspec.json.encode(entry.attributes), entry.body
        )
        return new_id

    def _duplicate(self, dedupe: str, new_id: str) -> str:
        """The id of the message that was sent under this deduplication id, or "" and remember this one."""
        key = (self._rules.name, dedupe)
        found = self._do(
            "SELECT id FROM sent WHERE queue = ? AND dedupe = ? AND until > ?", (*key, self._now)
        )
        if row := found.fetchone():
            return str(row[0])
        self._do(
            "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", (*key, new_id, self._now + DEDUPE_SECONDS)
        )
        return ""

    def _add(
        self, new_id: str, sent_at: float, delay: float, group: str, dedupe: str, attributes: bytes, body: str
    ) -> None:
        rules, visible_at = self._rules, self._now + delay
        behind = rules.fifo and self._do(_FIRST, (rules.name, group, 1)).fetchone() is not None
        ready_at = None if behind else visible_at
        expires_at = self._now + rules.retention_seconds
        added = self._do(
            _INSERT,
            (
                rules.name,
                rules.fifo,
                ready_at,
                visible_at,
                expires_at,
                new_id,
                sent_at,
                group,
                dedupe,
                attributes,
                body,
            ),
        )
        if not rules.fifo and delay <= 0:
            self._give_turn(added.lastrowid, group, again=False)

    def _give_turn(self, seq: int | None, group: str, *, again: bool) -> None:
        self._do(_TURN, {"queue": self._rules.name, "lane": group, "again": again, "seq": seq})

    def _give_turns(self) -> None:
        """Give turns to some whose time has come."""
        due = self._do(_UNTURNED, (self._rules.name, self._now, _TURNED_ROWS)).fetchall()
        for seq, group, receives in due:
            self._give_turn(seq, group, again=receives > 0)

    # Taking out

    def take(self, limit: int, visibility: int, receive_id: str) -> list[Received]:
        """Give out up to `limit` messages, from as many groups as can be."""
        taken = self._take_lanes(limit) if self._rules.fifo else self._take_turns(limit)
        records = [self._hand_out(row, visibility, receive_id) for row in taken]
        for group in {row.lane for row in taken}:
            self._settle(group)
        return records

    def _take_turns(self, limit: int) -> list[Row]:
        taken: list[Row] = []
        last = (-1, 0)
        while (wanted := limit - len(taken)) > 0:
            self._give_turns()
            rows = [Row(*row) for row in self._do(_TURNS, (self._rules.name, *last, wanted))]
            if not rows:
                break
            for row in rows:
                taken += self._take_from(iter((row,)), 1)
            last = (rows[-1].turn or 0, rows[-1].seq)
        return taken

    def _take_lanes(self, limit: int) -> list[Row]:
        taken: list[Row] = []
        last = (-1.0e300, 0)
        while (wanted := limit - len(taken)) > 0:
            heads = [Row(*row) for row in self._do(_HEADS, (self._rules.name, self._now, *last, wanted))]
            for place, head in enumerate(heads):
                last = (head.ready_at or 0.0, head.seq)
                lane = map(Row._make, self._do(_LANE, (head.queue, head.lane)))
                taken += self._take_from(lane, share(limit - len(taken), len(heads) - place))
            if len(heads) < wanted:
                break
        return taken

    def _take_from(self, lane: Iterator[Row], wanted: int) -> list[Row]:
        taken: list[Row] = []
        gone: list[Row] = []
        exhausted: list[Row] = []
        for row in lane:
            if row.expires_at <= self._now:
                gone.append(row)
            elif row.visible_at > self._now or len(taken) == wanted:
                break
            elif 0 < self._rules.max_receives <= row.receive_count:
                exhausted.append(row)
            else:
                taken.append(row)
                if row.receive_count:  # it failed before: those behind it must not use up receives with it
                    break
        for row in gone:
            self.remove(row)
        for row in exhausted:
            self.bury(row, never_done(row.receive_count))
        return taken

    def _hand_out(self, row: Row, visibility: int, receive_id: str) -> Received:
        receipt = f"{row.seq}-{receive_id}"
        visible_at = self._now + visibility
        ready_at = None if self._rules.fifo else visible_at
        self._do(_HAND_OUT, (visible_at, ready_at, row.receive_count + 1, self._now, receipt, row.seq))
        return Received(
            id=row.id,
            receipt=receipt,
            body=row.body,
            attributes=_decode_attributes(row.attributes),
            receive_count=row.receive_count + 1,
            sent_at=row.sent_at,
            group=row.lane,
            dedupe=row.dedupe,
        )

    def held(self, receipt: str) -> Row | None:
        """The message in hand under this receipt; None for one that is refused."""
        seq, _, _ = receipt.partition("-")
        if not (seq.isascii() and seq.isdigit() and len(seq) < 19):
            return None
        columns = self._do(_HELD, (int(seq), self._rules.name, receipt)).fetchone()
        if columns is None:
            return None
        row = Row(*columns)
        return None if self._rules.fifo and row.visible_at <= self._now else row

    def extend(self, row: Row, seconds: int) -> bool:
        """Hide a message in hand for so long; False where it is not in flight, or would be for over 12 hours."""
        visible_at = self._now + seconds
        if row.visible_at <= self._now or visible_at > row.received_at + MAX_VISIBILITY:
            return False
        ready_at = None if self._rules.fifo else visible_at
        self._do(
            "UPDATE messages SET visible_at = ?, ready_at = ? WHERE seq = ?", (visible_at, ready_at, row.seq)
        )
        self._settle(row.lane)
        return True

    def remove(self, row: Row) -> None:
        """Away with it; the next of its group comes to the front."""
        self._do("DELETE FROM messages WHERE seq = ?", (row.seq,))
        self._settle(row.lane)

    def bury(self, row: Row, reason: str) -> None:
        """Move a message to the dead-letter queue."""
        self.remove(row)
        attributes = dead_attributes(_decode_attributes(row.attributes), self._rules.name, reason)
        dead = Messages(self._connection, self._rules.for_dead(), self._now)
        dead._add(row.id, row.sent_at, 0.0, row.lane, row.dedupe, msgspec.json.encode(attributes), row.body)

    def redrive(self, ids: Sequence[str], buried_by: float, new_ids: Sequence[str]) -> int:
        """Bring up to as many dead letters back as there are new ids, of those buried by then; how many."""
        dead = Messages(self._connection, self._rules.for_dead(), self._now)
        arguments = {
            "queue": dead._rules.name,
            "now": self._now,
            "upto": buried_by + dead._rules.retention_seconds,
            "ids": msgspec.json.encode(ids).decode(),
            "limit": len(new_ids),
        }
        rows = [Row(*row) for row in self._do(_DEAD, arguments).fetchall()]
        for row, new_id in zip(rows, new_ids, strict=False):
            dead.remove(row)
            attributes = msgspec.json.encode(living_attributes(_decode_attributes(row.attributes)))
            self._add(new_id, self._now, 0.0, row.lane, row.dedupe, attributes, row.body)
        return len(rows)

    # Looking after

    def counts(self) -> Counts:
        """How many messages there are."""
        row: Any = self._do(_COUNTS, {"queue": self._rules.name, "now": self._now}).fetchone()
        return Counts(*row)

    def oldest_seconds(self) -> float:
        """How long the oldest message has been here; 0 where there is none."""
        [sent_at] = self._do(
            "SELECT MIN(sent_at) FROM messages WHERE queue = ?", (self._rules.name,)
        ).fetchone()
        return 0.0 if sent_at is None else max(self._now - float(sent_at), 0.0)

    def sweep(self) -> bool:
        """Drop some that nobody wanted in their time, and forget old deduplication ids; True when there may be more."""
        expired = [
            Row(*row) for row in self._do(_EXPIRED, (self._rules.name, self._now, _SWEEP_ROWS)).fetchall()
        ]
        for row in expired:
            self.remove(row)
        forgotten = self._do(_FORGET, (self._now, _SWEEP_ROWS)).rowcount
        more = _SWEEP_ROWS in (len(expired), forgotten)
        if self._rules.max_receives:
            more |= Messages(self._connection, self._rules.for_dead(), self._now).sweep()
        return more

    def _settle(self, group: str) -> None:
        """Note when the first of a group may be given out: when it is visible and none of the group in flight."""
        if not self._rules.fifo:
            return
        # What is in flight was received together, so it stands among the first.
        rows = self._do(_FIRST, (self._rules.name, group, MAX_ENTRIES)).fetchall()
        if rows:
            head = rows[0][0]
            ready_at = max(visible_at for seq, visible_at, receipt in rows if seq == head or receipt)
            self._do("UPDATE messages SET ready_at = ? WHERE seq = ?", (ready_at, head))
