"""kill -9 of the real server, between any two requests and in the middle of one: nothing is lost, nothing twice."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

AGENT = '''
"""Answers with all it was told so far. Asked to hold, it does so for ever, but only the first time."""

import asyncio
from pathlib import Path
from agent_core import Chunk, Message, Reply

CALLS = Path("calls")


class Assistant:
    name = "assistant"

    async def respond(self, messages, turn):
        said = [message.text for message in messages if message.role == "user"]
        before = CALLS.read_text().splitlines() if CALLS.exists() else []
        CALLS.write_text("".join(f"{line}\\n" for line in [*before, said[-1]]))
        yield Chunk(text="You said: ")
        if said[-1] == "hold" and "hold" not in before:
            await asyncio.Event().wait()
        yield Chunk(reply=Reply(message=Message.of("assistant", "You said: " + ", ".join(said))))


agent = Assistant()
'''
SESSION = "conversation"
API = "/api/v1/agent"
QUICK = {"SAMPAN_LEASE_SECONDS": "1.5", "SAMPAN_SWEEP_SECONDS": "0.3"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "assistant.py").write_text(AGENT, encoding="utf-8")
    return tmp_path


def client(served: Any) -> httpx.Client:
    return httpx.Client(base_url=served.url, timeout=60, trust_env=False)


def page(http: httpx.Client) -> list[str]:
    """The conversation as the chat page shows it to a browser without JavaScript: the words of each message."""
    shown = http.get(f"/console/chat/{SESSION}")
    assert shown.status_code == 200
    log = re.search(r'<ol id="log".*?</ol>', shown.text, re.DOTALL)
    assert log is not None
    words = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", log[0])))
    return re.findall(r"You said: \w+(?:, \w+)*", words)


def by_json(http: httpx.Client, text: str) -> str:
    answer = http.post(API, json={"message": text, "session_id": SESSION})
    return str(answer.json()["reply"]["text"])


def by_stream(http: httpx.Client, text: str) -> str:
    body = {"message": text, "session_id": SESSION, "stream": True}
    answer = http.post(API, json=body).text
    return str(re.findall(r'"reply":\{"text":"([^"]*)"', answer)[-1])


def by_form(http: httpx.Client, text: str) -> str:
    """As a browser without JavaScript sends it: the form's hidden fields, then the page it is led to."""
    form = http.get(f"/console/chat/{SESSION}").text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    origin = {"Origin": str(http.base_url).rstrip("/")}
    sent = http.post(f"/console/chat/{SESSION}", data={**hidden, "text": text}, headers=origin)
    assert sent.status_code == 303, sent.text
    return page(http)[-1]


def by_key(http: httpx.Client, text: str) -> str:
    answer = http.post(
        API, json={"message": text, "session_id": SESSION}, headers={"Idempotency-Key": "the-key"}
    )
    return str(answer.json()["reply"]["text"])


def test_between_any_two_requests_nothing_is_lost(serve: Callable[..., Any], project: Path) -> None:
    """Each request goes to a server that was started after the one before was killed with kill -9."""
    asked: list[str] = []
    answers: list[str] = []
    for text, ask in {"one": by_json, "two": by_stream, "three": by_form, "four": by_key}.items():
        served = serve(project)
        with client(served) as http:
            assert answers == (page(http) if asked else []), "the chat page has the whole history"
            asked.append(text)
            answers.append(ask(http, text))
            assert answers[-1] == "You said: " + ", ".join(asked)
        served.process.kill()
        served.process.wait()
    served = serve(project)
    with client(served) as http:
        assert page(http) == answers
        assert by_key(http, "four") == answers[-1], "a retry of what was answered before the kill is replayed"
        runs = http.get("/api/v1/runs").json()["runs"]
        assert [run["status"] for run in runs] == ["succeeded"] * len(asked)
        session = http.get(f"/api/v1/sessions/{SESSION}").json()
        assert [message["seq"] for message in session["messages"]] == list(range(1, 2 * len(asked) + 1))
    assert (project / "calls").read_text().split() == asked, "every message was worked on once"


@pytest.mark.parametrize("retry", [True, False], ids=["the caller tries again", "nobody asks again"])
def test_in_the_middle_of_a_request_nothing_is_lost(
    serve: Callable[..., Any], project: Path, retry: bool
) -> None:
    """What was accepted before the kill is answered after it, once, whether its caller comes back or not."""
    served = serve(project, **QUICK)
    with client(served) as http:
        by_json(http, "one")
        body = {"message": "hold", "session_id": SESSION, "stream": True}
        key = {"Idempotency-Key": "held"}
        with (
            contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),
            http.stream("POST", API, json=body, headers=key) as answer,
        ):
            run_id = ""
            for line in answer.iter_lines():
                run_id = run_id or "".join(re.findall(r'"run_id":"(\w+)"', line))
                if "You said" in line:  # the agent is at work
                    served.process.kill()
    served.process.wait()
    served = serve(project, **QUICK)
    with client(served) as http:
        if retry:  # at once: the answer, or that somebody is at it
            again = http.post(API, json=body, headers=key)
            assert again.status_code in (200, 409)
        followed = http.get(f"/api/v1/runs/{run_id}/events").text  # until the run is over
        assert "You said: one, hold" in followed
        assert http.get(f"/api/v1/runs/{run_id}").json()["status"] == "succeeded"
        assert page(http) == ["You said: one", "You said: one, hold"]
        if retry:
            again = http.post(API, json=body, headers=key)
            assert again.headers["Idempotency-Replayed"] == "true"
            assert "You said: one, hold" in again.text
        assert by_json(http, "two") == "You said: one, hold, two"
    assert (project / "calls").read_text().splitlines() == ["one", "hold", "hold", "two"]
