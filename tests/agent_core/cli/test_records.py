"""`sampan runs` and `sampan sessions`: what is stored, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("project")


def _asked(sampan: Any, text: str, session: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(sampan("ask", "--json", "--session", session, text).out)
    return run


def test_nothing_yet_is_no_error(sampan: Any) -> None:
    assert sampan("runs", "list") == (0, "", "")
    assert sampan("sessions", "list") == (0, "", "")


def test_runs_are_listed_newest_first(sampan: Any) -> None:
    ids = [_asked(sampan, text, "s")["run_id"] for text in ("one", "fail", "three")]
    done = sampan("runs", "list")
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert [line[0] for line in lines] == ids[::-1]
    assert [line[3] for line in lines] == ["succeeded", "failed", "succeeded"]
    assert [line[6] for line in lines] == ["You said: three", "the model does not want to", "You said: one"]
    assert len(sampan("runs", "list", "--limit", "1").out.splitlines()) == 1
    assert [run["run_id"] for run in json.loads(sampan("runs", "list", "--json").out)["runs"]] == ids[::-1]


def test_a_run_is_shown_with_its_journal(sampan: Any) -> None:
    run = _asked(sampan, "add 1 and 2", "s")
    out = sampan("runs", "show", run["run_id"]).out
    assert f"run       {run['run_id']}" in out
    assert "answer    The tool says 3." in out
    journal = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert [(step[1], step[2]) for step in journal] == [
        ("model", "scripted:test"),
        ("tool", "add"),
        ("model", "scripted:test"),
    ]
    assert (
        json.loads(sampan("runs", "show", "--json", run["run_id"]).out)["journal"][1]["result"]["content"]
        == "3"
    )


def test_sessions_are_listed_and_shown(sampan: Any) -> None:
    _asked(sampan, "hello there", "first")
    _asked(sampan, "add 1 and 2", "second")
    lines = [line.split("\t") for line in sampan("sessions", "list").out.splitlines()]
    assert [(line[0], line[3]) for line in lines] == [("second", "add 1 and 2"), ("first", "hello there")]
    assert sampan("sessions", "show", "second").out.splitlines() == [
        "1 user> add 1 and 2",
        '2 → add {"a": 1, "b": 2}',
        "3 ← 3",
        "4 assistant> The tool says 3.",
    ]
    page = sampan("sessions", "show", "second", "--after", "1", "--limit", "2")
    assert page.out.splitlines() == ['2 → add {"a": 1, "b": 2}', "3 ← 3"]
    assert page.err == "more: --after 3\n"


def test_a_session_is_erased_only_when_meant(sampan: Any) -> None:
    _asked(sampan, "hello", "mine")
    assert sampan("sessions", "erase", "mine", stdin="n\n").code == 1
    assert sampan("sessions", "show", "mine").code == 0
    assert sampan("sessions", "erase", "mine", "--yes") == (0, "Session mine is erased.\n", "")
    done = sampan("sessions", "show", "mine")
    assert done.code == 1
    assert "mine" in done.err
    assert sampan("sessions", "list").out == ""


@pytest.mark.parametrize("arguments", [["runs", "show", "nope"], ["sessions", "show", "a/../b"]])
def test_what_is_not_there(sampan: Any, arguments: list[str]) -> None:
    done = sampan(*arguments)
    assert done.code == 1
    assert done.err.startswith("sampan: there is no")


def test_broken_agents_do_not_hide_what_is_stored(sampan: Any) -> None:
    """Who looks at the store needs no agent, no model and no weights."""
    _asked(sampan, "hello", "mine")
    Path("agents/assistant.py").write_text("import nothing_like_this", encoding="utf-8")
    assert sampan("ask", "hello").code == 1
    assert sampan("sessions", "show", "mine").out.startswith("1 user> hello\n")
