"""Five seconds of fuzzing a target: no undeclared error, nothing accepted that was not signed. `make soak` takes 60."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

SECONDS = 5
LEAST_RUNS = 500
"""A target that did less was not fuzzed: it hung, or could not begin."""


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_five_seconds_find_nothing(target: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", target, f"--seconds={SECONDS}"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        timeout=100,
    )
    said = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said[-4000:]
    found = re.search(r"Done (\d+) runs", said)
    assert found, said[-4000:]
    assert int(found[1]) > LEAST_RUNS


def test_a_verifier_that_accepts_anything_is_found(root: Path, tmp_path: Path) -> None:
    """The fuzzer can fail: a target that only looks at the beginning of a signature does not last its time."""
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        "from tests.fuzz import run\n"
        "from agent_core.channels.schemes import hmacs\n"
        "hmacs.same = lambda given, expected: any(one[:6] == other[:6] for one in given for other in expected)\n"
        "sys.exit(run.main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "broken.py"), "slack", "--seconds=20"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        timeout=100,
    )
    assert done.returncode != 0
    assert b"accepted: Webhook" in done.stderr + done.stdout
