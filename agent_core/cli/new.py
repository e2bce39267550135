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
SHARED = (
    *("agents", "events", "handlers"),
    *("serverless.yml", "package.json", "package-lock.json", "deploy/aws", "requirements/lambda.txt"),
)
"""What the wheel carries in its template and a source checkout has at its top."""


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
    for name in SHARED:
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if (SOURCE / name).is_dir():
                shutil.copytree(SOURCE / name, target / name, ignore=leave)
            else:
                shutil.copy(SOURCE / name, target / name)
    (target / "gitignore").rename(target / ".gitignore")
    _replace(target / "README.md", "PROJECT_NAME", title)
    # The service names stacks, tables and queues of AWS: letters, digits and hyphens, a letter first.
    service = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    service = service if service[0].isalpha() else f"agent-{service}"
    _replace(target / "serverless.yml", "service: sampan\n", f"service: {service}\n")
    _replace(target / "package.json", '"name": "sampan"', f'"name": "{service}"')
    _replace(target / "package-lock.json", '"name": "sampan"', f'"name": "{service}"')


def _replace(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
