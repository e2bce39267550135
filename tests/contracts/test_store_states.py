"""Every store against a plain dict, through any sequence of transactions, reads, passing time and reopening."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_core.errors import ConditionError, StoreError
from agent_core.store.base import (
    Above,
    Absent,
    AtMost,
    Check,
    Condition,
    Delete,
    Equals,
    Fields,
    Key,
    Put,
    Store,
    Update,
    Version,
    Write,
)
from agent_core.store.dynamodb import DynamoStore
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock
from tests.aws.emulator import Emulator

# Few of everything, so that writes meet.
KEYS = st.builds(Key, st.sampled_from("pq"), st.sampled_from(["a", "a#1", "a#2", "b"]))
NAMES = st.sampled_from("xyz")
VALUES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, "", "s"])
FIELDS = st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=2), max_size=3)
NUMBERS = st.integers(-2, 2) | st.sampled_from([0.5, 1.5])
CONDITIONS = st.lists(
    st.one_of(
        st.just(Absent()),
        st.builds(Version, st.integers(1, 3)),
        st.builds(Equals, NAMES, VALUES),
        st.builds(AtMost, NAMES, NUMBERS),
        st.builds(Above, NAMES, NUMBERS),
    ),
    max_size=2,
).map(tuple)
LIVES = st.sampled_from([0.0, 0.0, 1.0, 5.0])
"""Seconds until a record expires; 0 for never."""


@st.composite
def updates(draw: st.DrawFn) -> tuple[Fields, dict[str, int]]:
    fields, add = draw(FIELDS), draw(st.dictionaries(NAMES, st.integers(-3, 3), max_size=2))
    return fields, {name: number for name, number in add.items() if name not in fields}


class Row:
    def __init__(self, fields: Fields, version: int, expires_at: float) -> None:
        self.fields, self.version, self.expires_at = fields, version, expires_at


def passes(condition: Condition, row: Row | None) -> bool:
    match condition:
        case Absent():
            return row is None
        case Version(number):
            return row is not None and row.version == number
        case Equals(field, value):
            if row is None or field not in row.fields:
                return False
            stored = row.fields[field]
            return (
                (stored is value)
                if isinstance(value, bool) or isinstance(stored, bool)
                else bool(stored == value)
            )
        case AtMost(field, most):
            return (
                row is None
                or field not in row.fields
                or (type(row.fields[field]) in (int, float) and row.fields[field] <= most)
            )
        case Above(field, least):
            return (
                row is not None and type(row.fields.get(field)) in (int, float) and row.fields[field] > least
            )
    raise AssertionError(condition)


class StoreMachine(RuleBasedStateMachine):
    """One store and its model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.model: dict[Key, Row] = {}
        self.store = self.open()

    def open(self) -> Store:
        return MemoryStore(self.clock)

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    # --- the model

    def there(self, key: Key) -> Row | None:
        row = self.model.get(key)
        return row if row and not (row.expires_at and row.expires_at <= self.clock.now()) else None

    def expect(self, writes: list[Write]) -> tuple[int, Fields | None] | str | None:
        """What comes of a transaction: None where it is done, else its failure."""
        after = dict(self.model)
        for index, write in enumerate(writes):
            row = self.there(write.key)
            if not all(passes(condition, row) for condition in write.when):
                return index, row.fields if row else None
            version = row.version + 1 if row else 1
            if isinstance(write, Put):
                after[write.key] = Row(dict(write.fields), version, write.expires_at)
            elif isinstance(write, Update):
                fields = {**(row.fields if row else {}), **write.set}
                for name, number in write.add.items():
                    if type(fields.get(name, 0)) not in (int, float):
                        return "not a number"
                    fields[name] = fields.get(name, 0) + number
                kept = row.expires_at if row else 0.0
                after[write.key] = Row(
                    fields, version, kept if write.expires_at is None else write.expires_at
                )
            elif isinstance(write, Delete):
                after.pop(write.key, None)
        self.model = after
        return None

    def until(self, life: float | None) -> Any:
        return self.clock.now() + life if life else life

    # --- what may happen

    @rule(
        parts=st.lists(
            st.tuples(
                st.sampled_from([Put, Update, Delete, Check]),
                KEYS,
                FIELDS,
                updates(),
                CONDITIONS,
                LIVES,
                st.booleans(),
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda part: part[1],
        )
    )
    def transact(
        self, parts: list[tuple[type, Key, Fields, tuple[Fields, dict[str, int]], Any, float, bool]]
    ) -> None:
        writes: list[Write] = []
        for kind, key, fields, (some, add), when, life, keep in parts:
            if kind is Put:
                writes.append(Put(key, fields, when, self.until(life)))
            elif kind is Update:
                writes.append(Update(key, some, add, when, None if keep else self.until(life)))
            else:
                writes.append(kind(key, when))
        expected = self.expect(writes)
        actual: tuple[int, Fields | None] | str | None = None
        try:
            self.runner.run(self.store.write(*writes))
        except ConditionError as error:
            actual = (error.index, error.current)
        except StoreError:
            actual = "not a number"
        assert repr(actual) == repr(expected)  # repr: 1 is not True

    @rule(key=KEYS, numbers=st.dictionaries(NAMES, st.integers(-3, 3), max_size=2), life=st.none() | LIVES)
    def add(self, key: Key, numbers: dict[str, int], life: float | None) -> None:
        expected = self.expect([Update(key, add=numbers, expires_at=self.until(life))])
        try:
            fields = self.runner.run(self.store.add(key, numbers, expires_at=self.until(life)))
        except StoreError:
            assert expected == "not a number"
            return
        assert expected is None
        assert repr(sorted(fields.items())) == repr(sorted(self.model[key].fields.items()))

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(
        partition=st.sampled_from("pqr"),
        prefix=st.sampled_from(["", "a", "a#", "a#1", "c"]),
        after=st.sampled_from(["", "a", "a#", "a#1", "z"]),
        limit=st.integers(1, 4),
        reverse=st.booleans(),
    )
    def query(self, partition: str, prefix: str, after: str, limit: int, reverse: bool) -> None:
        keys = sorted(
            (key for key in self.model if key.partition == partition and self.there(key)), reverse=reverse
        )
        keys = [key for key in keys if key.sort.startswith(prefix)]
        keys = [key for key in keys if not after or (key.sort < after if reverse else key.sort > after)]
        page = self.runner.run(self.store.query(partition, prefix, after=after, limit=limit, reverse=reverse))
        assert [record.key for record in page.records] == keys[: len(page.records)]
        assert page.after == (page.records[-1].key.sort if len(page.records) < len(keys) else "")
        assert len(page.records) == min(limit, len(keys))

    @invariant()
    def holds_the_same(self) -> None:
        for partition in "pq":
            page = self.runner.run(self.store.query(partition))
            stored = [(record.key, sorted(record.fields.items()), record.version) for record in page.records]
            rows = [(key, sorted(self.model[key].fields.items()), self.model[key].version) for key in sorted(self.model)
                    if key.partition == partition and self.there(key)]  # fmt: skip
            assert repr(stored) == repr(rows)


class SqliteMachine(StoreMachine):
    """The same, with a file that is closed and opened again now and then."""

    def open(self) -> Store:
        if not hasattr(self, "folder"):
            self.folder = Path(tempfile.mkdtemp(prefix="sampan-test-"))
        return SqliteStore(self.folder / "store.db", self.clock)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.store = self.open()

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("machine", [StoreMachine, SqliteMachine])
def test_any_sequence_of_steps_agrees_with_a_dict(machine: type[StoreMachine]) -> None:
    case = machine.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
    case().runTest()


class DynamoMachine(StoreMachine):
    """The same on a table of its own. Now and then it is opened anew, and knows nothing of its records then."""

    emulator: Emulator

    def __init__(self) -> None:
        self.table = ExitStack()
        self.name = self.table.enter_context(self.emulator.table())
        super().__init__()

    def open(self) -> Store:
        return DynamoStore(self.emulator.dynamodb(self.clock), self.name)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.store = self.open()

    def teardown(self) -> None:
        super().teardown()
        self.table.close()


def test_any_sequence_of_steps_agrees_with_a_dict_on_dynamodb(emulator: Emulator) -> None:
    case = type("Case", (DynamoMachine,), {"emulator": emulator}).TestCase
    case.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
    case().runTest()
