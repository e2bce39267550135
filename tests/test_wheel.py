"""What is shipped: the package alone, with the template in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_nothing_but_the_package_lands_in_site_packages(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"agent_core"}
    assert not [name for name in wheel if name.endswith(".pyc")]


def test_all_modules_are_in_it(wheel: set[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "agent_core").rglob("*.py")}
    assert len(modules) > 20
    assert modules <= wheel
    assert "agent_core/py.typed" in wheel


@pytest.mark.parametrize("folder", ["agents", "events", "handlers"])
def test_the_template_is_this_repository(wheel: set[str], folder: str) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".json"}
    }
    assert here
    assert {f"agent_core/template/{name}" for name in here} <= wheel


def test_what_deploys_is_in_the_template(wheel: set[str]) -> None:
    files = {"serverless.yml", "package.json", "package-lock.json", "requirements/lambda.txt"}
    files |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy" / "aws").glob("*.*")}
    assert len(files) > 10
    assert {f"agent_core/template/{name}" for name in files} <= wheel
    assert not [name for name in wheel if "deploy/local" in name]


def test_the_licence_is_in_it(wheel: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
