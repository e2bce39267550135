"""A run that hangs ends by itself, and says where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watchdog import EXIT

HANGS = {
    "in a test": "def test_it():\n    hang()\n",
    "in a fixture's teardown": (
        "import pytest\n@pytest.fixture\ndef it():\n    yield\n    hang()\ndef test_it(it):\n    pass\n"
    ),
    "at the exit": "import atexit\natexit.register(lambda: hang())\ndef test_it():\n    pass\n",
}
HANG = """
import subprocess, sys, threading
def hang():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    print("child", child.pid, file=sys.__stderr__, flush=True)
    open("child", "w").write(str(child.pid))
    threading.Event().wait()
"""


def run(folder: Path, root: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_hang.py").write_text(HANG + text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.watchdog",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), "SAMPAN_TESTS_QUIET": "5"},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["alone", "with workers"])
@pytest.mark.parametrize("text", [HANGS["in a test"], HANGS["in a fixture's teardown"]], ids=list(HANGS)[:2])
def test_what_hangs_ends_with_its_stacks(
    tmp_path: Path, root: Path, text: str, options: tuple[str, ...]
) -> None:
    done = run(tmp_path, root, text, *options)
    assert done.returncode == EXIT, done
    assert "no test finished for 5 s" in done.stderr
    assert " in hang" in done.stderr
    child = int((tmp_path / "child").read_text())
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or ") Z " in status.read_text(), "what the test started has ended too"


def test_an_exit_that_hangs_ends_too(tmp_path: Path, root: Path) -> None:
    done = run(tmp_path, root, HANGS["at the exit"])
    assert done.returncode == EXIT, done
    assert " in hang" in done.stderr


def test_a_teardown_has_a_time_of_its_own_after_the_tests_ran_out(tmp_path: Path, root: Path) -> None:
    text = HANGS["in a fixture's teardown"].replace("    pass", "    threading.Event().wait()")
    done = run(tmp_path, root, text, "--timeout", "1")
    assert done.returncode == 1, done
    assert "1 failed, 1 error" in done.stdout
