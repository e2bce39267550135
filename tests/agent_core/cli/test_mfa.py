"""`sampan mfa`: from a new factor to one that is good, and away again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from agent_core.cli.root import app
from agent_core.security.totp import code_at

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("SAMPAN_SEAL_KEYS", KEY)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["mfa", *arguments, "--data", str(tmp_path)])

    return call


def test_a_factors_life(run: Callable[..., Any]) -> None:
    made = run("add", "--user", "ada", "--json")
    assert made.exit_code == 0, made.output
    address = json.loads(made.output)["otpauth"]
    seed = base64.b32decode(parse_qs(urlsplit(address).query)["secret"][0])
    assert json.loads(run("list", "--json").output)[0]["confirmed"] is False
    code = code_at(seed, int(time.time()) // 30).decode()
    assert run("confirm", code, "--user", "ada").exit_code == 0
    assert json.loads(run("list", "--json").output) == [
        {"user": "ada", "confirmed": True, "made_at": json.loads(run("list", "--json").output)[0]["made_at"]}
    ]
    assert run("remove", "--user", "ada").exit_code == 0
    assert json.loads(run("list", "--json").output) == []
