"""Each kind of channel: in the table, in the docs with every option of its own, and no dearer than it must be."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from agent_core.channels.base import Channel, Options, option_variable
from agent_core.channels.catalog import KINDS


def channel(kind: str) -> type[Channel]:
    module, _, name = KINDS[kind].partition(":")
    found: type[Channel] = getattr(import_module(module), name)
    return found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_its_options_are_documented(kind: str, root: Path) -> None:
    page = (root / "docs" / "channels.md").read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{kind}` | `")]
    own = set(channel(kind).Options.__struct_fields__) - set(Options.__struct_fields__)
    missing = [field for field in own if f"`{field.upper()}`" not in row]
    assert not missing, f"docs/channels.md: the options of {kind} do not name {missing}"
    assert channel(kind).__doc__
    assert f"| `{kind}`" in page or f"[`{kind}`]" in page


def test_options_of_all_channels_are_documented(root: Path) -> None:
    page = (root / "docs" / "channels.md").read_text(encoding="utf-8")
    assert [field for field in Options.__struct_fields__ if f"| `{field.upper()}` |" not in page] == []


def test_names_of_variables() -> None:
    assert option_variable("my-shop", "id_field") == "SAMPAN_MY_SHOP_ID_FIELD"


def test_a_channel_loads_no_cipher_before_it_needs_one(root: Path) -> None:
    """Slack and Telegram verify with the standard library alone; the cipher library takes long to load."""
    code = """
import json, sys
from agent_core import Agent, build_app
from agent_core.settings import Settings
channels = {
    "slack": {"kind": "slack", "secret": "a" * 32, "token": "xoxb-1"},
    "telegram": {"kind": "telegram", "secret": "a" * 32, "token": "123456:ABC-DEF1234ghIkl"},
}
settings = Settings(store="memory", model_api_key="k", channels=channels)
build_app(settings, agents=[Agent(name="a", model="openai:c")])
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "agent_core.channels.slack" in loaded
    for name in (
        "cryptography",
        "joserfc",
        "xml.parsers.expat",
        "starlette",
        "httpx",
        "agent_core.channels.feishu",
    ):
        assert name not in loaded, f"{name} is loaded"
