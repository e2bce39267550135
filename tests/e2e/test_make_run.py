"""The newcomer's one command: `make run` sets up, serves, and a real model answers a real message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

VENV = {"VENV": sys.prefix}
"""What the tests run in is set up already, so `make run` has nothing to install."""


def _make_run(root: Path, *variables: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "run", "PORT=0", "ONCE=1", *variables],
        cwd=root,
        env={**os.environ, **VENV, **environ},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_a_real_model_answers_and_the_server_stays_up(root: Path, tmp_path: Path, serve: Any) -> None:
    """The hello event's message, answered over HTTP; tokens, cost, times; the chat page; a curl line that works."""
    command = ["make", "run", "PORT=0", f"DATA={tmp_path / 'data'}"]
    served = serve(root, command=command, **VENV)
    assert "\n> What is the capital of France?\n" in served.said
    answer = served.said.split("France?\n")[1].split("local:smollm2 ·")[0]
    assert "Paris" in answer
    figures = next(line for line in served.said.splitlines() if line.startswith("local:smollm2 · "))
    assert " tokens in, " in figures
    assert " · $0 · " in figures
    assert "first byte " in figures
    assert "total " in figures
    assert f"Chat page  {served.url}/console/" in served.said
    page = httpx.get(f"{served.url}/console/", trust_env=False, follow_redirects=True, timeout=30)
    assert page.status_code == 200
    served.until("API")
    curl = served.said.splitlines()[-1].removeprefix("API").strip()
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60)
    assert "Paris" in done.stdout
    assert (tmp_path / "data" / "sampan.db").is_file()
    os.killpg(served.process.pid, signal.SIGINT)  # what Ctrl-C does
    served.wait()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/healthz", trust_env=False)


def test_nothing_is_left_when_make_is_ended(root: Path, serve: Any) -> None:
    """A supervisor ends `make` alone; the server goes with it."""
    served = serve(
        root,
        command=["make", "run", "PORT=0"],
        SAMPAN_AGENTS="tests/projects/history/agents",
        SAMPAN_STORE="memory",
        **VENV,
    )
    served.end()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/healthz", trust_env=False)


def test_the_question_is_asked_as_it_was_written(root: Path) -> None:
    """Quotes, dollars, back-quotes and semicolons of a question are no business of make's or the shell's."""
    question = """it's "quoted"; $HOME $(date) `id` & 100% \\n"""
    done = _make_run(
        root, f"ASK={question}", SAMPAN_AGENTS="tests/projects/history/agents", SAMPAN_STORE="memory"
    )
    assert done.returncode == 0, done
    assert f"> {question}\n" in done.stdout
    assert f"You said: {question}\n" in done.stdout


def test_an_answer_that_fails_is_an_exit_code(root: Path) -> None:
    done = _make_run(root, "ASK=fail", SAMPAN_AGENTS="tests/projects/history/agents", SAMPAN_STORE="memory")
    assert done.returncode != 0
    assert "sampan: the model does not want to" in done.stderr


@pytest.mark.measured
def test_a_second_start_answers(root: Path, tmp_path: Path) -> None:
    """From the command to the model's answer and the end, once all is installed; what it took is printed."""
    start = time.monotonic()
    done = _make_run(root, "ASK=What is the capital of France?", f"DATA={tmp_path / 'data'}")
    took = time.monotonic() - start
    assert done.returncode == 0, done
    assert "Paris" in done.stdout
    print(f"answered after {took:.1f} s (goal 10)")
