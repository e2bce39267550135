"""The Python examples of the docs run, and print what the page says they print.

A page's ```python block that begins with `# file: name.py` is written to the page's temporary folder and run there; one
that begins with `# run` is run only. Where a ```text block follows, it is what the example prints, to the letter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"# (?:file: (?P<name>\S+\.py)|run)\n")
FULLY_RUN = (
    "tools.md",
    "plugins.md",
    "schedules.md",
    "queues.md",
    "durability.md",
    "replay.md",
    "batches.md",
    "channels/write-your-own.md",
)


def examples(page: Path) -> list[tuple[str, str, str]]:
    """The examples of a page in order: file name ("" for none), code, what it prints."""
    found = []
    for code, printed in BLOCK.findall(page.read_text(encoding="utf-8")):
        if mark := MARK.match(code):
            found.append((mark["name"] or "", code, printed))
    return found


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if examples(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SAMPAN_", "MODEL_"))
    }
    environ |= {"PYTHONWARNINGS": "error", "PYTHONPATH": str(DOCS.parent)}
    for number, (name, code, printed) in enumerate(examples(page), start=1):
        file = tmp_path / (name or f"example_{number}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(file.relative_to(tmp_path))],
            cwd=tmp_path,
            env={**environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{environ['PYTHONPATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}, example {number}:\n{done.stderr}"
        assert done.stdout == printed, f"{page.name}, example {number} prints otherwise"


@pytest.mark.parametrize("name", FULLY_RUN)
def test_no_example_is_left_out(name: str) -> None:
    """On these pages every block of Python is run."""
    page = (DOCS / name).read_text(encoding="utf-8")
    assert len(examples(DOCS / name)) == page.count("```python") > 0
