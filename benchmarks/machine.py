"""The machine that measures, and what a process on it has used. Linux only: all of it comes from /proc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

VERSIONS = ("starlette", "uvicorn", "uvloop", "httptools", "aiohttp", "httpcore", "msgspec")


class BenchmarkError(Exception):
    """A benchmark could not be run; the words say what to do."""


def require_linux() -> None:
    """Raise BenchmarkError where /proc can't be read."""
    if not Path("/proc/self/stat").exists():
        raise BenchmarkError("benchmarks read CPU and memory from /proc: run them on Linux")


def describe() -> list[str]:
    """When, on what and with which versions was measured, as lines of Markdown."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    load = " ".join(f"{number:.1f}" for number in os.getloadavg())
    return [
        f"- when: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Sampan {version('sampan')} ({commit or 'no commit'})",
        f"- machine: {_cpu()}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}; load average before: {load}",
        f"- software: {platform.python_implementation()} {platform.python_version()}, {packages}",
    ]


def _cpu() -> str:
    lines = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return lines[0].partition(":")[2].strip() if lines else platform.machine()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def resident_mib(pid: int) -> float:
    """Memory of a process now, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def open_files(pid: int) -> int:
    """How many files and sockets a process holds open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def compile_all() -> None:
    """Write all .pyc files: without them every start compiles anew, which no deployment does."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", "agent_core"], cwd=ROOT, check=True)


def clean_environment(**more: str) -> dict[str, str]:
    """The shell's environment without what it says about agents and models, and free to write .pyc files."""
    own = ("SAMPAN_", "MODEL_", "OPENAI_", "ANTHROPIC_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | more
