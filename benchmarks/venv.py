"""The peers' packages, in a folder of their own (.make/bench), from requirements/bench.txt with hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import ROOT, BenchmarkError

FOLDER = ROOT / ".make" / "bench"
LOCK = ROOT / "requirements" / "bench.txt"
PYTHON = FOLDER / "bin" / "python"


def peers_python() -> Path:
    """The interpreter that has the peers installed, made when needed. Raises BenchmarkError with pip's last words."""
    stamp = FOLDER / "stamp"
    if stamp.exists() and stamp.read_bytes() == LOCK.read_bytes():
        return PYTHON
    print(f"installing the peers of {LOCK.relative_to(ROOT)} (a minute, the first time)", flush=True)
    _run(sys.executable, "-m", "venv", str(FOLDER))
    pip = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
    ]
    _run(*pip, "--require-hashes", "-r", str(LOCK))
    # Compiled now, so that no start pays for it. Some packages carry files of other versions, which do not compile.
    free = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([PYTHON, "-m", "compileall", "-qq", "-j0", FOLDER / "lib"], env=free, check=False)
    stamp.write_bytes(LOCK.read_bytes())
    return PYTHON


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        words = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise BenchmarkError(f"the peers can't be installed: {' '.join(words[-1:])[:200]}")
