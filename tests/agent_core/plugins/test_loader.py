"""Plugins found by name: built-in, installed, or by their place."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from agent_core.errors import ConfigError
from agent_core.plugins.audit import Audit
from agent_core.plugins.greeting import Greeting
from agent_core.plugins.loader import BUILT_IN, GROUP, load_plugins
from agent_core.plugins.redact import Redact


def test_built_in_ones_in_the_order_of_their_names() -> None:
    assert [type(plugin) for plugin in load_plugins(["redact", " audit", "greeting"])] == [
        Redact,
        Audit,
        Greeting,
    ]
    assert load_plugins([]) == []


def test_the_project_names_the_same_built_in_ones(root: Path) -> None:
    """As entry points they are seen by other tools; as a table they work in a package without metadata."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["entry-points"][GROUP] == BUILT_IN


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that looks like an installed package with entry points."""
    (tmp_path / "my_bits.py").write_text(
        textwrap.dedent(
            """
            class Shout:
                def process(self, message):
                    return message

            shout = Shout()

            def make():
                return Shout()

            def picky(size):
                return shout

            def broken():
                return "no plugin"

            class Shelf:
                inner = shout
            """
        )
    )
    info = tmp_path / "my_bits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-bits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nshout = my_bits:Shout\nmade = my_bits:make\nready = my_bits:shout\n"
        "broken = my_bits:broken\ngone = my_bits:gone\nnowhere = my_nothing:x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_bits", None)


@pytest.mark.parametrize(
    "name",
    ["shout", "made", "ready", "my_bits:Shout", "my_bits:make", "my_bits:shout", "my_bits:Shelf.inner"],
)
def test_installed_ones_and_ones_by_place(installed: Path, name: str) -> None:
    (plugin,) = load_plugins([name])
    assert type(plugin).__name__ == "Shout"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "shuot",
            "there is no plugin 'shuot'; there are: audit, broken, gone, greeting, made, nowhere, ready, redact, shout",
        ),
        ("gone", "plugin gone: my_bits:gone can't be loaded: module 'my_bits' has no attribute 'gone'"),
        ("nowhere", "plugin nowhere: my_nothing:x can't be loaded: No module named 'my_nothing'"),
        ("broken", "'no plugin' is no plugin: it has none of process"),
        ("my_bits:picky", "plugin my_bits:picky: my_bits:picky can't be made without arguments"),
        ("my_bits:", "plugin my_bits:: my_bits: can't be loaded"),
    ],
)
def test_what_can_t_be_loaded_says_what_there_is(installed: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plugins([name])
    assert words in caught.value.detail


def test_two_of_one_name_are_told_apart(installed: Path) -> None:
    info = installed / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nshout = other:Shout\n")
    with pytest.raises(ConfigError, match="'shout' is there more than once: my_bits:Shout, other:Shout"):
        load_plugins(["shout"])


def test_installed_packages_are_read_only_when_asked_for() -> None:
    code = """
        import sys
        from agent_core.plugins.loader import load_plugins
        load_plugins(["greeting"])
        assert "importlib.metadata" not in sys.modules
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
