"""A tenant erased by the command while a server runs on the same files: no byte of it is left, another keeps all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from agent_core.clock import SystemClock
from agent_core.queues.base import Entry
from agent_core.queues.sqlite import SqliteQueue

CANARY = "kanarienvogel7391"
QUEUE = {"SAMPAN_QUEUE": "sqlite"}


def sampan(project: Path, data: Path, *arguments: str) -> str:
    """A command as a process of its own; what it said."""
    command = [sys.executable, "-m", "agent_core.cli", *arguments, "--data", str(data)]
    done = subprocess.run(
        command, cwd=project, env={**os.environ, **QUEUE}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stderr
    return done.stdout


def live(url: str, headers: dict[str, str], word: str) -> None:
    """Talk, call a tool, fail, send much, and submit a batch."""
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        for text in ("My name is", "fail", "x" * 70_000):
            asked = {"message": f"{text} {word}", "session_id": word, "metadata": {"note": word}}
            assert client.post("/api/v1/agent", json=asked).status_code in (200, 502)
        asked = {"message": "add 1 and 2", "session_id": word}
        assert client.post("/api/v1/agent", json=asked).json()["reply"]["text"] == "The tool says 3."
        line = json.dumps({"message": word, "session_id": f"line-{word}"}) + "\n"
        answer = client.post("/api/v1/batches", content=line, headers={"content-type": "application/jsonl"})
        assert answer.status_code == 202, answer.text
        batch = answer.json()["batch_id"]
        end = time.monotonic() + 30
        while client.get(f"/api/v1/batches/{batch}").json()["status"] != "succeeded":
            assert time.monotonic() < end


async def letters(data: Path) -> None:
    """Two dead letters: one of the tenant, one of another."""
    queue = SqliteQueue(data / "queue.db", SystemClock())
    assert queue.dead is not None
    for tenant in ("acme", "other"):
        address = {"tenant": tenant, "user": "ann", "session_id": CANARY if tenant == "acme" else "s"}
        await queue.dead.send(Entry(body=json.dumps({"session": address})))
    await queue.close()


def files(data: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def content(archive: Path) -> dict[str, bytes]:
    """What an export holds, but for what tells of the export itself."""
    with zipfile.ZipFile(archive) as opened:
        return {
            name: opened.read(name)
            for name in opened.namelist()
            if name not in ("manifest.json", "records/audit.jsonl")
        }


async def test_erased_while_a_server_runs(serve: Callable[..., Any], root: Path, tmp_path: Path) -> None:
    project, data = root / "tests" / "projects" / "history", tmp_path / "data"
    keys = {
        tenant: sampan(project, data, "keys", "create", "--tenant", tenant, "--user", user, "--json")
        for tenant, user in (("acme", f"ann-{CANARY}"), ("other", "bob"))
    }
    served = serve(project, "--data", str(data), SAMPAN_AUTH="on", **QUEUE)
    for tenant, told in keys.items():
        word = CANARY if tenant == "acme" else "otherwords"
        live(served.url, {"Authorization": f"Bearer {json.loads(told)['key']}"}, word)
    await letters(data)
    sampan(project, data, "tenant", "export", "other", "--to", str(tmp_path / "before.zip"))
    assert sum(CANARY.encode() in found for found in files(data).values()) > 2

    told = json.loads(sampan(project, data, "tenant", "erase", "acme", "--yes", "--audit-log", "--json"))
    assert told["letters"] == 1
    assert told["ledger"] == 5
    sampan(project, data, "tenant", "export", "other", "--to", str(tmp_path / "after.zip"))
    before, after = content(tmp_path / "before.zip"), content(tmp_path / "after.zip")
    assert b"otherwords" in before["records/session.jsonl"]
    assert after == before
    assert served.process.poll() is None
    assert [name for name, found in files(data).items() if CANARY.encode() in found] == []
    assert [path.name for path in data.glob("blobs/t-*")] == ["t-other"]
    served.end()
    assert CANARY not in served.said
    assert CANARY.encode() not in b"".join(files(data).values())
