"""`sampan hooks`: from the first endpoint to a notice that is sent again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from tests.agent_core.cli.conftest import Sampan
from tests.agent_core.engine.receiver import receiving


def test_from_beginning_to_end(sampan: Sampan, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_LOCAL_CALLBACKS", "true")
    with receiving() as receiver:
        made = sampan("hooks", "add", receiver.url, "--event", "run.*")
        assert made.code == 0, made.err
        assert "SAMPAN_HOOKS=true" in made.err
        monkeypatch.setenv("SAMPAN_HOOKS", "true")
        secret = made.out.strip()
        [endpoint] = json.loads(sampan("hooks", "list", "--json").out)
        assert (endpoint["url"], endpoint["events"], endpoint["disabled"]) == (receiver.url, ["run.*"], "")
        assert "secret" not in endpoint

        tried = sampan("hooks", "test", endpoint["id"])
        assert (tried.code, tried.out) == (0, "delivered: 204\n")
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)

        assert sampan("ask", "Hello").code == 0
        [told, _] = json.loads(sampan("hooks", "deliveries", "--json").out)
        assert (told["type"], told["status"]) == ("run.succeeded", "delivered")
        receiver.answers = [(500, {})]
        again = sampan("hooks", "resend", told["id"])
        assert (again.code, again.out) == (1, f"{endpoint['id']} pending: 500\n")
        again = sampan("hooks", "resend", told["id"], "--endpoint", endpoint["id"])
        assert (again.code, again.out) == (0, f"{endpoint['id']} delivered: 204\n")
        assert len(set(receiver.ids()[1:])) == 1
        assert sampan("hooks", "deliveries", "--status", "failed").out == ""

        rotated = sampan("hooks", "rotate", endpoint["id"], "--overlap", "1h")
        assert rotated.code == 0
        assert rotated.out.startswith("whsec_")
        receiver.answers = [(410, {})]
        gone = sampan("hooks", "test", endpoint["id"])
        assert (gone.code, gone.out) == (1, "failed: 410\n")
        assert "disabled: it answered 410" in sampan("hooks", "list").out
        assert sampan("hooks", "enable", endpoint["id"]).code == 0
        assert sampan("hooks", "remove", endpoint["id"]).code == 0
        assert sampan("hooks", "list").out == ""
    acts = [line["act"] for line in json.loads(sampan("audit", "show", "--act", "hook", "--json").out)]
    assert acts == ["hook.added", "hook.rotated", "hook.disabled", "hook.enabled", "hook.removed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "http://127.0.0.1:1/"), "notices can't go there"),
        (("add", "https://example.com", "--event", "nothing"), "there is no event 'nothing'"),
        (("remove", "x"), "there is no endpoint 'x'"),
        (("test", "x"), "there is no endpoint 'x'"),
        (("resend", "x"), "there is no notice 'x'"),
        (("rotate", "x", "--overlap", "soon"), "--overlap is a time"),
    ],
)
def test_what_is_wrong_is_said(sampan: Sampan, project: Path, arguments: tuple[str, ...], words: str) -> None:
    done = sampan("hooks", *arguments)
    assert done.code == 1
    assert words in done.err
