"""`sampan new`: a project that runs at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_project_has_all_it_needs(sampan: Any) -> None:
    done = sampan("new", "shop-bot")
    assert done.code == 0
    assert "cd shop-bot" in done.out
    made = {path.relative_to("shop-bot").as_posix() for path in Path("shop-bot").rglob("*") if path.is_file()}
    repository = Path(__file__).resolve().parents[3]
    shared = {
        path.relative_to(repository).as_posix()
        for folder, kind in (
            ("agents", "*.py"),
            ("deploy/aws", "*"),
            ("events", "*.json"),
            ("handlers", "*.py"),
            (".", "package*.json"),
        )
        for path in (repository / folder).glob(kind)
        if path.is_file()
    }
    assert "agents/assistant.py" in shared
    assert made == {
        ".gitignore",
        "Makefile",
        "README.md",
        "requirements.txt",
        "requirements/lambda.txt",
        "serverless.yml",
        "tests/test_assistant.py",
        *shared,
    }
    assert Path("shop-bot/README.md").read_text().startswith("# shop-bot\n")
    assert Path("shop-bot/Makefile").read_text().count("$(SAMPAN) run") == 1


@pytest.mark.parametrize(
    ("name", "service"), [("Shop_bot.v2", "shop-bot-v2"), ("2nd", "agent-2nd"), ("shop", "shop")]
)
def test_its_service_has_a_name_that_aws_takes(sampan: Any, name: str, service: str) -> None:
    assert sampan("new", name).code == 0
    assert f"\nservice: {service}\n" in Path(name, "serverless.yml").read_text()
    for file in ("package.json", "package-lock.json"):
        assert json.loads(Path(name, file).read_text())["name"] == service


def test_its_agent_is_found_and_sound(sampan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampan("new", "shop")
    monkeypatch.chdir("shop")
    done = sampan("doctor", "--offline", "--port", "0")
    assert done.code == 0, done.out
    assert "agents: assistant in agents" in done.out


def test_its_tests_pass(sampan: Any) -> None:
    """The test that comes with the project needs no model and no network."""
    sampan("new", "shop")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd="shop",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_overwritten(sampan: Any) -> None:
    sampan("new", "shop")
    Path("shop/agents/assistant.py").write_text("# mine")
    done = sampan("new", "shop")
    assert done.code == 1
    assert "shop exists already" in done.err
    assert Path("shop/agents/assistant.py").read_text() == "# mine"
    Path("file").write_text("")
    assert sampan("new", "file").code == 1


def test_an_empty_folder_may_be_filled(sampan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    assert sampan("new", "empty").code == 0
    Path("here").mkdir()
    monkeypatch.chdir("here")
    assert sampan("new", ".").code == 0
    assert Path("README.md").read_text().startswith("# here\n")


@pytest.mark.parametrize("name", ["", "a b", "é", "a/b;c", ".hidden"])
def test_names_that_cant_be(sampan: Any, name: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    done = sampan("new", "--", name)
    assert done.code == 1
    assert sorted(Path.cwd().rglob("*")) == before
