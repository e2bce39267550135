"""A project to stand in, and the command as a function."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from agent_core.cli import root


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Sampan = Callable[..., Done]


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose agent answers from its history, as the folder one stands in."""
    folder = tmp_path / "project"
    shutil.copytree(root / "tests" / "projects" / "history", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


@pytest.fixture
def sampan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sampan:
    """The command, run in this process; stdin, stdout and stderr are no terminals."""

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        for module in [name for name in sys.modules if name.startswith("sampan_agents_")]:
            del sys.modules[module]  # as in a new process
        capsys.readouterr()
        code = root.main(list(arguments))
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run
