"""Fuzz one target, or all one after the other: python -m tests.fuzz.run [TARGET] [--seconds 60]"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

# Branches are seen only in what is imported here: so the fuzzer finds its way into them.
with atheris.instrument_imports(include=["agent_core.channels", "agent_core.security"]):
    from tests.fuzz.targets import TARGETS, write_corpus


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz in this process; it ends the process."""
    target = TARGETS[name]()
    write_corpus(name, folder)
    limits = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=8192",
        "-len_control=0",
    ]
    atheris.Setup(["fuzz", *limits, f"-artifact_prefix={folder}/", str(folder)], target)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz webhooks.")
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    if asked.target:
        with tempfile.TemporaryDirectory() as folder:
            fuzz(asked.target, asked.seconds, Path(folder))
        return 0
    worst = 0
    for name in TARGETS:
        print(f"fuzzing {name} for {asked.seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.run", name, f"--seconds={asked.seconds}"]
        worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return worst


if __name__ == "__main__":
    sys.exit(main())
