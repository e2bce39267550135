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
from tests.agent_core.channels.services.everyone import SPEAKERS

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


def test_killed_after_the_acknowledgement_on_every_channel(
    serve: Callable[..., Any], fake: Callable[..., Watched], project: Path
) -> None:
    """The agent was at work on all of them. Nobody sends a webhook again: the services were told that they arrived."""
    watched = {speaker.kind: fake(speaker()) for speaker in SPEAKERS}
    environ = {**QUICK, "SAMPAN_CHANNELS": ",".join(watched), "SAMPAN_PUBLIC_URL": "https://sampan.test"}
    for kind, one in watched.items():
        options = {"open": "true", "live": "false", **one.service.settings()}
        environ |= {f"SAMPAN_{kind.upper()}_{name.upper()}": value for name, value in options.items()}
    served = serve(project, HOLD="1", **environ)
    for kind, one in watched.items():
        hook = one.service.hook("this", name="1", who="ada", group="", file="", now=time.time())
        url = f"{served.url}/webhooks/{kind}" + (f"?{hook.query}" if hook.query else "")
        answer = httpx.post(url, content=hook.body, headers=dict(hook.headers), trust_env=False, timeout=20)
        assert 200 <= answer.status_code < 300, (kind, answer.text)
    served.process.kill()
    served.process.wait()
    assert {kind: one.service.texts for kind, one in watched.items() if one.service.texts} == {}
    served = serve(project, **environ)
    for kind, one in watched.items():
        assert one.came.wait(60), f"the answer on {kind} never came"
    assert served.end() == 0
    assert {kind: one.service.texts for kind, one in watched.items()} == {
        kind: ["You said: this"] for kind in watched
    }


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
