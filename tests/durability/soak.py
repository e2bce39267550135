"""The long versions of the proofs, one after the other. `make soak`.

    python -m tests.durability.soak [NAME ...]

Each prints what it found when it has ended. Ends with 1 where one broke a promise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from rich.console import Console

from tests.durability.command import ROOT

PROOFS = {
    "crash-points": ("crash_points", "--twice", "150"),
    "in-cloud": ("in_cloud", "--rate", "0.1"),
    "faults": ("faults",),
    "paused": ("paused",),
    "batch": ("stopped_batch",),
    "disorder": (
        *("disorder", "--messages", "10000", "--sessions", "500", "--kills", "12"),
        *("--seed", "7", "--seconds", "1800"),
    ),
}


def prove(name: str, console: Console) -> bool:
    """Run one proof to its end, print what it says, and tell whether all promises held."""
    module, *arguments = PROOFS[name]
    command = [sys.executable, "-m", f"tests.durability.{module}", *arguments]
    console.print(f"{name}: {' '.join(command[1:])}", highlight=False, soft_wrap=True)
    began = time.monotonic()
    with console.status(f"{name} ..."):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode not in (0, 1):
        print(done.stderr[-4000:], file=sys.stderr)
    verdict = "holds" if done.returncode == 0 else "DOES NOT HOLD"
    console.print(f"{name}: {verdict}, {time.monotonic() - began:.0f} s", highlight=False)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(PROOFS)} (all)")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in PROOFS]:
        parser.error(f"there is no {unknown[0]!r}; there are: {', '.join(PROOFS)}")
    console = Console()
    held = [prove(name, console) for name in given.names or PROOFS]
    print(f"{sum(held)} passed, {len(held) - sum(held)} failed")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
