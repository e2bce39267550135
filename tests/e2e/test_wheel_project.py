"""From the wheel alone: a project is made, and its agent answers, with no source tree in sight."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel in it; its dependencies are those of this one."""
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    pip = [
        str(folder / "env" / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True, timeout=100)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # A line in a .pth file adds the folder alone: the editable install over there stays out of this.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "env" / "bin"


def _sampan(installed: Path, folder: Path, *arguments: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(installed / "sampan"), *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_project_answers(installed: Path, tmp_path: Path) -> None:
    """`sampan new demo && cd demo && sampan ask ...`, then `sampan run`, by the small model."""
    _sampan(installed, tmp_path, "new", "demo")
    assert "Paris" in _sampan(installed, tmp_path / "demo", "ask", "What is the capital of France?")
    out = _sampan(installed, tmp_path / "demo", "run", "--demo", "--once", "--port", "0")
    assert "The capital of France is Paris." in out


def test_the_code_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    """Not the source tree's, or the test above would prove nothing."""
    code = "import agent_core; print(agent_core.__file__)"
    python = str(installed / "python")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent)
