"""The SQLite store under many processes, killed processes, forks and faults of the system."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a worker; whatever a test leaves running is killed."""
    with ExitStack() as stack:

        def start(task: str, path: Path, *numbers: int) -> subprocess.Popen[str]:
            command = [sys.executable, str(WORKER), task, str(path), *map(str, numbers)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            return process

        yield start


def said(process: subprocess.Popen[str], lines: int) -> set[int]:
    """The next numbers it says."""
    assert process.stdout is not None
    return {int(process.stdout.readline()) for _ in range(lines)}


def kill(process: subprocess.Popen[str]) -> set[int]:
    """Kill it and return what else it said in whole lines."""
    assert process.stdout is not None
    process.kill()
    rest = {int(line) for line in process.stdout if line.endswith("\n")}
    process.wait(10)
    return rest


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The words it said; it must have ended well."""
    words, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return words.split()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="sampan-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def rows(path: Path, sql: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def counter(path: Path) -> int:
    [(fields,)] = rows(path, "SELECT CAST(fields AS TEXT) FROM records WHERE partition = 'counters'")
    return int(json.loads(fields)["n"])


def check_whole(path: Path, answered: set[int]) -> set[int]:
    """Every answered transaction is there, and none in part; the numbers of all that are."""
    left = {int(sort) for (sort,) in rows(path, "SELECT sort FROM records WHERE partition = 'left'")}
    right = {int(sort) for (sort,) in rows(path, "SELECT sort FROM records WHERE partition = 'right'")}
    [(count,)] = rows(
        path, "SELECT json_extract(CAST(fields AS TEXT), '$.n') FROM records WHERE partition = 'counters'"
    )
    assert answered <= left
    assert left == right
    assert count == len(left)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    return left


def test_four_processes_claim_the_same_keys_and_count_together(start: Start, path: Path) -> None:
    processes = [start("claim", path, 50, 25) for _ in range(4)]
    won = Counter(int(number) for process in processes for number in finish(process))
    assert won == {number: 1 for number in range(50)}
    assert rows(path, "SELECT CAST(fields AS TEXT) FROM records WHERE partition = 'counters'") == [
        ('{"n":400}',)
    ]


@pytest.mark.parametrize("lines", [1, 40, 400])
def test_a_killed_process_loses_nothing_that_was_answered_and_leaves_nothing_half_done(
    start: Start, path: Path, lines: int
) -> None:
    answered: set[int] = set()
    for life in range(2):  # the second begins with the first one's remains
        process = start("stream", path, 1_000_000 * life, 8)
        answered |= said(process, lines)
        answered |= kill(process)
        there = check_whole(path, answered)
    assert len(there) - len(answered) <= 2 * 8, "only what was under way may be there unanswered"


def test_a_process_goes_on_while_others_are_killed_beside_it(start: Start, path: Path) -> None:
    survivor = start("stream", path, 0, 4)
    answered = said(survivor, 1)
    for life in (1, 2, 3):
        victim = start("stream", path, 1_000_000 * life, 4)
        answered |= said(victim, 20)
        answered |= kill(victim)
        answered |= said(survivor, 20)
    answered |= kill(survivor)
    check_whole(path, answered)


def test_a_store_in_use_may_be_forked(start: Start, path: Path) -> None:
    assert finish(start("fork", path, 100)) == []
    assert counter(path) == 5 * 100
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_disk_that_takes_no_more_is_a_declared_error_and_loses_nothing(start: Start, path: Path) -> None:
    answered, error = finish(start("full", path, 400_000))
    assert int(answered) > 10
    assert error == "StoreError"
    left = rows(path, "SELECT sort FROM records WHERE partition = 'left' ORDER BY sort")
    assert left == [(f"{number:08}",) for number in range(int(answered) + 1)]
    assert counter(path) == int(answered) + 1
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_may_only_be_read_is_a_declared_error(start: Start, open_folder: Path) -> None:
    path = open_folder / "store.db"
    finish(start("claim", path, 1, 1))
    path.chmod(0o444)
    open_folder.chmod(0o555)
    words = finish(start("unwritable", path))
    assert words[0] == "StoreError"
    assert "may only be read" in " ".join(words)
