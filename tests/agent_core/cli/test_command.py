"""The command as such: help, version, what it loads, what it says where packages are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _without(package: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter where this package can't be imported."""
    code = (
        "import sys\n"
        "from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder\n"
        "class Partial(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        missing = name.partition('.')[0] == {package!r}\n"
        "        return None if missing else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Partial]\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "from agent_core.cli import main\n"
        "main()\n"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_help_is_plain_for_programs(sampan: Any) -> None:
    out = sampan("--help").out
    for command in ("new", "run", "ask", "chat", "doctor", "runs", "sessions"):
        assert f"\n  {command} " in out
    assert out.isascii()
    assert "\x1b" not in out


def test_version(sampan: Any) -> None:
    assert sampan("--version").out == "sampan 0.1.0\n"


def test_starting_loads_little(root: Path) -> None:
    """`--help`, a typing mistake and completion must not wait for servers, HTTP clients and markdown."""
    code = (
        "import sys, json\n"
        "from agent_core.cli import root\n"
        "root.main(['--version'])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {
        "uvicorn",
        "httpx",
        "flask",
        "aiohttp",
        "pydantic",
        "xllamacpp",
        "boto3",
        "redis",
        "markdown_it",
        "pygments",
    }
    assert not loaded & heavy


@pytest.mark.parametrize(
    ("package", "arguments", "words"),
    [
        ("typer", ["--help"], "the package typer: pip install 'sampan[cli]'"),
        ("rich", ["--help"], "pip install 'sampan[cli]'"),
        ("httpx", ["ask", "hello"], "pip install 'sampan[cli]'"),
        ("uvicorn", ["run"], "pip install 'sampan[server]'"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    project: Path, package: str, arguments: list[str], words: str
) -> None:
    done = _without(package, *arguments, cwd=project)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_tells_what_is_missing(project: Path) -> None:
    """Without the server's packages all else still works; doctor says what to install."""
    done = _without("uvicorn", "doctor", "--offline", "--port", "0", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (
        "missing  extra server: not installed: uvicorn\n         -> pip install 'sampan[server]'"
        in done.stdout
    )


def test_no_color_on_a_terminal_is_honoured(project: Path) -> None:
    """NO_COLOR takes colour away, and nothing else (https://no-color.org)."""
    code = "from agent_core.cli.screen import say; say('words', 'red')"
    for variable, expected in (("NO_COLOR", "words\n"), ("UNUSED", "\x1b[31mwords\x1b[0m\n")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=project,
            env={"TERM": "xterm-256color", "FORCE_COLOR": "1", variable: "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == expected
