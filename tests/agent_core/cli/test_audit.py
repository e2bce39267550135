"""`sampan audit`: shows who did what by the command line, and finds a line that was changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from agent_core.clock import SystemClock
from agent_core.store.base import Key, Put
from agent_core.store.sqlite import SqliteStore
from tests.agent_core.cli.conftest import Sampan


def test_from_beginning_to_end(sampan: Sampan, project: Path) -> None:
    assert sampan("audit", "show").out == ""
    key = json.loads(sampan("keys", "create", "--name", "shop", "--json").out)["id"]
    sampan("kill", "tool", "refund", "--reason", "it pays too much")
    sampan("keys", "revoke", key)
    shown = json.loads(sampan("audit", "show", "--json").out)
    assert [line["act"] for line in shown] == ["key.created", "switch.thrown", "key.revoked"]
    assert all(line["by"].startswith("cli/") for line in shown)
    only = json.loads(sampan("audit", "show", "--act", "key", "--after", "1", "--json").out)
    assert [line["number"] for line in only] == [3]
    assert sampan("audit", "show").out.count("\n") == 3

    well = sampan("audit", "verify")
    assert well.code == 0
    assert "3 lines, all as they were written." in well.out
    anchor = json.loads(sampan("audit", "verify", "--json").out)["head"]
    assert f"--anchor next time: {anchor}" in well.out

    asyncio.run(change(project / ".sampan" / "sampan.db"))
    found = sampan("audit", "verify", "--anchor", anchor)
    assert found.code == 1
    assert "WRONG: line 2 was changed" in found.out


async def change(path: Path) -> None:
    store = SqliteStore(path, SystemClock())
    place = Key("default/audit", "line/000000000002")
    record = await store.get(place)
    assert record is not None
    await store.write(Put(place, {**record.fields, "subject": "tool greet"}))
    await store.close()
