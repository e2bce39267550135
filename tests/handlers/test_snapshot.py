"""Lambda SnapStart: processes that are restored from one snapshot share nothing that must be different."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.snapshot import RESTORED


def restored(root: Path, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    environ = {
        **os.environ,
        "SAMPAN_AGENTS": str(root / "tests" / "projects" / "history" / "agents"),
        "SAMPAN_DATA": str(folder),
        "SAMPAN_STORE": "memory",
        "IS_LOCAL": "true",  # nobody is asked for a key
    }
    command = [sys.executable, "-m", "tests.handlers.snapshot", *arguments]
    done = subprocess.run(
        command, cwd=root, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == RESTORED, done.stderr
    return found


def test_two_restored_processes_never_give_the_same_id(root: Path, tmp_path: Path) -> None:
    processes = restored(root, tmp_path)
    ids = [one for process in processes for one in (*process["noise"], process["run"][10:])]
    assert len(set(ids)) == len(ids)
    assert len({process["chance"] for process in processes}) == RESTORED


def test_credentials_and_settings_are_read_anew_and_agents_are_not(root: Path, tmp_path: Path) -> None:
    for number, process in enumerate(restored(root, tmp_path)):
        assert process["token"] == f"token {number}"
        assert not process["same"]
        assert process["text"] == "The capital of France is Paris."
        assert len(process["agents"]) == 1


def test_without_renewal_they_would_share_chance_and_ids(root: Path, tmp_path: Path) -> None:
    """What the hooks are for; and that this test would see it if they did nothing."""
    processes = restored(root, tmp_path, "--without")
    assert len({process["chance"] for process in processes}) == 1
    assert {process["token"] for process in processes} == {""}


@pytest.mark.parametrize("handler", ["api", "webhook", "websocket", "worker", "schedule", "dashboard"])
def test_every_handler_is_ready_before_the_snapshot(handler: str, root: Path, tmp_path: Path) -> None:
    """Importing it connects nothing and makes nothing; the hook makes what it needs."""
    code = (
        f"import handlers.{handler}, snapshot_restore_py as hooks\n"
        "from handlers import _shared\n"
        "assert not _shared.app.cache_info().currsize\n"
        "for function, args, kwargs in reversed(hooks.get_before_snapshot()): function(*args, **kwargs)\n"
        "assert _shared.app.cache_info().currsize\n"
    )
    environ = {
        **os.environ,
        "SAMPAN_AGENTS": str(root / "tests" / "projects" / "history" / "agents"),
        "SAMPAN_DATA": str(tmp_path),
        "IS_LOCAL": "true",  # nobody is asked for a key
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
