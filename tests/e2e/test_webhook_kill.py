"""kill -9 of the real server after a webhook was acknowledged: its answer comes all the same, and once."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent_core.channels.conftest import SLACK_SECRET, slack_message, telegram_message
from tests.agent_core.channels.fakes import FakeSlack, FakeTelegram, Said, Service, serving

AGENT = '''
"""Answers with what it was told, or never where HOLD is set."""

import asyncio
import os
from agent_core import Message, Reply


class Assistant:
    name = "assistant"

    async def respond(self, messages, turn):
        if "HOLD" in os.environ:
            await asyncio.Event().wait()
        return Reply(message=Message.of("assistant", f"You said: {messages[-1].text}"))


agent = Assistant()
'''
QUICK = {"SAMPAN_LEASE_SECONDS": "1.5", "SAMPAN_SWEEP_SECONDS": "0.3"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "assistant.py").write_text(AGENT, encoding="utf-8")
    return tmp_path


class Watched:
    """A fake service that tells when a call has come, and may hold its answer until the caller is dead."""

    def __init__(self, service: Service, *, hold: str = "") -> None:
        self.service = service
        self.came = threading.Event()
        self.go_on = threading.Event()
        answer = service.answer

        def watched(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
            said = answer(method, path, headers, body)  # what is asked for is done
            if hold and path.endswith(hold) and not self.came.is_set():
                self.came.set()
                self.go_on.wait(30)
            elif not hold and service.messages:
                self.came.set()
            return said

        service.answer = watched  # type: ignore[method-assign]


@pytest.fixture
def fake() -> Iterator[Callable[..., Any]]:
    contexts = []

    def make(service: Service, hold: str = "") -> Watched:
        watched = Watched(service, hold=hold)
        context = serving(service)
        service.url = context.__enter__()
        contexts.append((context, watched))
        return watched

    yield make
    for context, watched in contexts:
        watched.go_on.set()
        context.__exit__(None, None, None)


def environment(kind: str, url: str) -> dict[str, str]:
    own = {
        "slack": {"SECRET": SLACK_SECRET, "TOKEN": FakeSlack.TOKEN, "API": f"{url}/api"},
        "telegram": {"SECRET": "s3cret_TOKEN-1", "TOKEN": FakeTelegram.TOKEN, "API": url},
    }[kind]
    options = {f"SAMPAN_{kind.upper()}_{name}": value for name, value in own.items()}
    return {**QUICK, "SAMPAN_CHANNELS": kind, f"SAMPAN_{kind.upper()}_OPEN": "true", **options}


def post(url: str, kind: str, text: str) -> httpx.Response:
    payload = slack_message(text, thread_ts="1.1") if kind == "slack" else telegram_message(text)
    body = json.dumps(payload).encode()
    stamp = str(int(time.time()))
    digest = hmac.new(SLACK_SECRET.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "x-slack-request-timestamp": stamp,
        "x-slack-signature": f"v0={digest}",
        "x-telegram-bot-api-secret-token": "s3cret_TOKEN-1",
    }
    return httpx.post(f"{url}/webhooks/{kind}", content=body, headers=headers, trust_env=False, timeout=20)


@pytest.mark.parametrize("kind", ["slack", "telegram"])
def test_killed_after_the_acknowledgement(
    serve: Callable[..., Any], fake: Callable[..., Watched], project: Path, kind: str
) -> None:
    """The agent was at work on it. Nobody sends the webhook again: the service was told that it arrived."""
    watched = fake(FakeSlack() if kind == "slack" else FakeTelegram())
    environ = environment(kind, watched.service.url)
    served = serve(project, HOLD="1", **environ)
    assert post(served.url, kind, "this").status_code == 200
    served.process.kill()
    served.process.wait()
    assert watched.service.texts == []
    served = serve(project, **environ)
    assert watched.came.wait(30), "the answer never came"
    assert served.end() == 0
    assert watched.service.texts == ["You said: this"]


def test_killed_while_slack_takes_the_answer(
    serve: Callable[..., Any], fake: Callable[..., Watched], project: Path
) -> None:
    """Slack has the message, and the process that sent it died before it heard so: it is not sent again."""
    slack = FakeSlack()
    watched = fake(slack, hold="chat.postMessage")
    environ = environment("slack", slack.url)
    served = serve(project, **environ)
    assert post(served.url, "slack", "hello").status_code == 200
    assert watched.came.wait(30)
    served.process.kill()
    served.process.wait()
    watched.go_on.set()
    served = serve(project, **environ)
    asked = threading.Event()
    answer = slack.answer

    def asking(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        said = answer(method, path, headers, body)
        if path.endswith("conversations.replies"):
            asked.set()
        return said

    slack.answer = asking  # type: ignore[method-assign]
    assert asked.wait(30), "Slack was not asked"
    assert served.end() == 0
    assert slack.texts == ["You said: hello"]
    assert slack.calls == ["chat.postMessage", "conversations.replies"]


def test_the_same_webhook_before_and_after_the_kill(
    serve: Callable[..., Any], fake: Callable[..., Watched], project: Path
) -> None:
    """A service that did not hear the acknowledgement sends it again to the server that came after: one answer."""
    watched = fake(FakeTelegram())
    environ = environment("telegram", watched.service.url)
    served = serve(project, HOLD="1", **environ)
    for _ in range(2):
        assert post(served.url, "telegram", "this").status_code == 200
    served.process.kill()
    served.process.wait()
    served = serve(project, **environ)
    for _ in range(3):
        assert post(served.url, "telegram", "this").status_code == 200
    assert watched.came.wait(30)
    assert served.end() == 0
    assert watched.service.texts == ["You said: this"]
