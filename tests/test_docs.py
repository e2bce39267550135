"""The docs say what the code does: every setting with its default, every command with its options."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

from agent_core import settings
from agent_core.cli.root import app
from agent_core.settings import SECRET, Settings, variable


def _sentences() -> dict[str, str]:
    """The docstring below each field of Settings."""
    tree = ast.parse(inspect.getsource(settings))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    found = {}
    for field, words in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(words, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(words.value, ast.Constant)
            found[field.target.id] = " ".join(words.value.value.split())
    return found


def _default(value: Any) -> str:
    text = (
        ",".join(value)
        if isinstance(value, tuple | dict)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
    return f"`{text}`" if text else "unset"


def test_settings_page_is_the_code(root: Path) -> None:
    """docs/settings.md has one row for each field: its variable, its default and its sentence, word for word."""
    plain, sentences = Settings(), _sentences()
    assert set(sentences) == set(Settings.__struct_fields__)
    expected = [
        f"| `{variable(field)}` | {_default(getattr(plain, field))} | {sentences[field].replace('|', chr(92) + '|')} |"
        for field in Settings.__struct_fields__
    ]
    page = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| `[A-Z0-9_]+` \|", line)]
    assert rows == expected, "docs/settings.md should have these rows:\n" + "\n".join(expected)


def test_settings_page_says_which_are_secret(root: Path) -> None:
    page = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    (sentence,) = [line for line in page.splitlines() if line.startswith("Secrets: ")]
    assert set(re.findall(r"`([A-Z0-9_]+)`", sentence)) == {variable(field) for field in SECRET}


def _commands() -> list[tuple[str, typer.core.TyperCommand]]:
    found = []
    for name, command in typer.main.get_group(app).commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found += [(name, below) for below in command.commands.values()]
        else:
            found.append((name, command))
    return found


@pytest.mark.parametrize(("section", "command"), _commands(), ids=lambda value: getattr(value, "name", value))
def test_command_line_page_names_every_option(section: str, command: Any, root: Path) -> None:
    """Each command has a section in docs/cli.md that names all its options."""
    page = (root / "docs" / "cli.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section {section}"
    options = {name for param in command.params for name in param.opts if name.startswith("--")} - {"--help"}
    missing = {name for name in options if not re.search(rf"{name}\b", found[1])}
    assert not missing, f"docs/cli.md, section {section}, does not name {sorted(missing)}"


def test_links_between_pages_lead_somewhere(root: Path) -> None:
    """Every relative link in README and docs points at a file that is there."""
    pages = [root / "README.md", root / "README.zh-CN.md", *(root / "docs").rglob("*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken, broken


def test_the_quickstart_works(root: Path, tmp_path: Path) -> None:
    """The agents of docs/quickstart.md load and answer, and its test passes."""
    page = (root / "docs" / "quickstart.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "agents").mkdir()
    for text in code:
        if named := re.match(r"# agents/(\w+\.py)\n", text):
            (tmp_path / "agents" / named[1]).write_text(text, encoding="utf-8")
    (example,) = [text for text in code if "def test_" in text]
    (tmp_path / "test_shop.py").write_text(example, encoding="utf-8")
    for command, expected in (
        (["-m", "pytest", "-q", "-p", "no:cacheprovider"], "1 passed"),
        (["-m", "agent_core.cli", "ask", "--agent", "echo", "hello"], "You said: hello"),
    ):
        environ = {**os.environ, "OPENAI_API_KEY": "none"}  # `ask` loads all agents; only the echo is asked
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )
        assert expected in done.stdout, done.stdout + done.stderr
