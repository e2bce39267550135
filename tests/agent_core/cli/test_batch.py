"""`sampan batch`: a file of lines in, a file of answers out, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LINES = 3000
CONCURRENCY = 8


def write(path: Path, count: int) -> Path:
    text = "".join(json.dumps({"id": f"q{n}", "message": f"word {n}"}) + "\n" for n in range(count))
    path.write_text(text, encoding="utf-8")
    return path


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def batch(
    root: Path, folder: Path, file: Path, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent_core.cli", "batch", str(file), *arguments]
    environment = {
        **os.environ,
        "CALLS": str(folder / "calls.log"),
        "SAMPAN_LEASE_SECONDS": "2",
        "SAMPAN_DATA": str(folder / "data"),
        "SAMPAN_AGENTS": str(root / "tests" / "projects" / "counting" / "agents"),
        **environ,
    }
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=110
    )


def test_a_batch_killed_twice_in_the_middle_answers_every_line_once(root: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "lines.jsonl", LINES)
    for _ in range(2):
        killed = batch(root, tmp_path, file, "--concurrency", str(CONCURRENCY), DIE_AT="900")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "lines.results.jsonl").exists()
    done = batch(root, tmp_path, file, "--concurrency", str(CONCURRENCY))
    assert done.returncode == 0, done.stderr
    assert f"succeeded: {LINES:,} of {LINES:,} lines" in done.stdout
    found = results(tmp_path / "lines.results.jsonl")
    assert [(r["line"], r["id"], r["status"], r["reply"]["text"]) for r in found] == [
        (n + 1, f"q{n}", "succeeded", f"WORD {n}") for n in range(LINES)
    ]
    assert len({r["run_id"] for r in found}) == len({r["session_id"] for r in found}) == LINES
    calls = Counter((tmp_path / "calls.log").read_text().splitlines())
    assert len(calls) == LINES
    # Paid twice is only what was between the model's answer and its commit when the process was killed.
    assert sum(calls.values()) <= LINES + 2 * CONCURRENCY
    again = batch(root, tmp_path, file, "--concurrency", str(CONCURRENCY))
    assert again.returncode == 0
    assert "done before" in again.stderr
    assert sum(Counter((tmp_path / "calls.log").read_text().splitlines()).values()) == sum(calls.values())


def test_a_batch_at_a_server(
    root: Path, tmp_path: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.log"))
    served = serve(root / "tests" / "projects" / "counting")
    file = write(tmp_path / "lines.jsonl", 700)
    handed_in = batch(root, tmp_path, file, "--url", served.url, "--json")
    assert handed_in.returncode == 0, handed_in.stderr
    assert json.loads(handed_in.stdout)["lines"]["total"] == 700
    out = tmp_path / "answers.jsonl"
    watched = batch(root, tmp_path, file, "--url", served.url, "--watch", "--out", str(out))
    assert watched.returncode == 0, watched.stderr
    assert [r["reply"]["text"] for r in results(out)] == [f"WORD {n}" for n in range(700)]
    assert len((tmp_path / "calls.log").read_text().splitlines()) == 700


def test_bad_lines_are_told_and_the_others_answered(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"message": "a"}\nnot json\n{"mesage": "b"}\n')
    done = batch(root, tmp_path, file)
    assert done.returncode == 0
    assert "line 2: the body is not JSON" in done.stderr
    assert "line 3" in done.stderr
    assert [r["status"] for r in results(tmp_path / "lines.results.jsonl")] == [
        "succeeded",
        "failed",
        "failed",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--deadline", "1h"], "--deadline takes 24h"),
        (["--usd", "0"], "more than 0"),
        (["--agent", "nobody"], "there is no agent 'nobody'"),
    ],
)
def test_what_is_refused(root: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = batch(root, tmp_path, write(tmp_path / "lines.jsonl", 1), *arguments)
    assert done.returncode == 1
    assert words in done.stderr


def test_no_such_file(root: Path, tmp_path: Path) -> None:
    assert "there is no file" in batch(root, tmp_path, tmp_path / "none.jsonl").stderr
