"""`sampan keys`: made, listed, rotated, revoked, and used with --url."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent_core.cli.conftest import Sampan


def test_a_key_from_beginning_to_end(sampan: Sampan, project: Path) -> None:
    made = sampan(
        "keys", "create", "--name", "shop", "--scope", "agents:run", "--expires", "90d", "--rate", "5/minute"
    )
    assert made.code == 0
    text = made.out.strip()
    assert text.startswith("sampan_")
    assert "not shown again" in made.err
    assert text not in made.err
    [line] = sampan("keys", "list").out.splitlines()
    key_id, state, user, scopes, _, expires, rate, name = line.split("\t")
    assert (state, user, scopes, rate, name) == ("good", "local", "agents:run", "5/minute", "shop")
    assert expires
    assert text.split("_")[2] not in line
    rotated = json.loads(sampan("keys", "rotate", key_id, "--overlap", "1h", "--json").out)
    assert rotated["key"] != text
    assert rotated["id"] == key_id
    assert "\trotating\t" in sampan("keys", "list").out
    assert sampan("keys", "revoke", key_id).out == f"The key {key_id} is revoked.\n"
    [listed] = json.loads(sampan("keys", "list", "--json").out)
    assert listed["state"] == "revoked"
    assert "digest" not in listed
    assert sampan("keys", "list", "--tenant", "other").out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "--scope", "fly"), "there is no scope 'fly'; there are agents:run"),
        (("create", "--expires", "soon"), "--expires is a time as in 90d"),
        (("create", "--rate", "many"), "60/minute"),
        (("create", "--tenant", "a/b"), "a tenant has 1 to 128"),
        (("rotate", "nokey"), "there is no key 'nokey'"),
        (("revoke", "nokey"), "`sampan keys list`"),
    ],
)
def test_what_is_wrong_is_said(sampan: Sampan, project: Path, arguments: tuple[str, ...], words: str) -> None:
    done = sampan("keys", *arguments)
    assert done.code == 1
    assert words in done.err
    assert done.out == ""


def test_a_server_for_others_asks_for_a_key(
    serve: Callable[..., Any], sampan: Sampan, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HOST=0.0.0.0 make run`: its own first question is answered, nobody else without a key."""
    data = str(tmp_path / "served")
    served = serve(project, "--host", "0.0.0.0", "--ask", "Hello?", "--data", data)
    said = served.until("Stop")
    assert "Authorization: Bearer $SAMPAN_API_KEY" in said
    assert "sampan keys create" in said
    question = {"message": "Hi"}
    refused = httpx.post(f"{served.url}/api/v1/agent", json=question)
    assert refused.status_code == 401
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="sampan"'
    page = httpx.get(f"{served.url}/console/", headers={"Accept": "text/html"}, follow_redirects=True)
    assert page.url.path == "/console/login"
    done = sampan("ask", "Hi", "--url", served.url)
    assert (done.code, "every request needs a key" in done.err) == (1, True)
    key = sampan("keys", "create", "--data", data).out.strip()
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.post(f"{served.url}/api/v1/agent", json=question, headers=headers).status_code == 200
    monkeypatch.setenv("SAMPAN_API_KEY", key)
    done = sampan("ask", "Hi", "--url", served.url)
    assert (done.code, done.err) == (0, "")
    assert sampan("runs", "list", "--url", served.url).code == 0
    states = [line.split("\t")[1] for line in sampan("keys", "list", "--data", data).out.splitlines()]
    assert sorted(states) == ["good", "revoked"]  # the greeting's own key is gone
    assert served.end() == 0
