"""`sampan new NAME`: an agent project from the template in the wheel."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from agent_core.cli.screen import say
from agent_core.errors import ConfigError

TEMPLATE = Path(__file__).parents[1] / "template"
SOURCE = Path(__file__).parents[2]
SHARED = ("agents", "events", "handlers")
"""Folders that the wheel carries in its template and a source checkout has at its top."""


def new(
    name: Annotated[str, typer.Argument(help="The folder to make; its last part names the project.")],
) -> None:
    """Make an agent project that runs at once."""
    target = Path(name).resolve()
    title = target.name
    if not name or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", title):
        raise ConfigError(f"{name!r} can't name a project: use letters, digits, - and _")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{name} exists already and is not an empty folder: take another name")
    _copy(target, title)
    say(f"{title} is ready.", "bold green")
    say(f"\n  cd {name}\n  sampan run          # API and chat page; sampan chat talks in the terminal")
    say("\nYour agent is in agents/assistant.py.")


def _copy(target: Path, title: str) -> None:
    leave = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(TEMPLATE, target, ignore=leave, dirs_exist_ok=True)
    for folder in SHARED:
        if not (target / folder).exists():
            shutil.copytree(SOURCE / folder, target / folder, ignore=leave)
    (target / "gitignore").rename(target / ".gitignore")
    readme = target / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace("PROJECT_NAME", title), encoding="utf-8")
