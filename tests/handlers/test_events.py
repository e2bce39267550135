"""Each event of events/ and each recorded one, given to its handler as the platform does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from agent_core.errors import InputError
from tests.handlers.conftest import Context
from tests.handlers.gateway import ENVIRON, Gateway

ROOT = Path(__file__).resolve().parents[2]
EVENTS = sorted(path.name.removesuffix(".json") for path in (ROOT / "events").glob("*.json"))
PARIS = "The capital of France is Paris."

EXPECTED: dict[str, tuple[Any, str]] = {
    # the status of the answer, or what it is; and words in it
    "api.async": (202, '"status":"'),
    "api.base64": (200, "You said: Grüße, 世界"),
    "api.base64-broken": (400, "base64"),
    "api.chat": (200, PARIS),
    "api.health": (200, "ok"),
    "api.hello": (200, PARIS),
    "api.nothing": (404, "not-found"),
    "api.refused": (422, "massage"),
    "api.rest": (200, PARIS),
    "api.rest-async": (202, '"status":"'),
    "api.rest-query": (200, '"runs":[]'),
    "api.stage": (202, '"status":"'),
    "api.stream": (200, "event: reply"),
    "api.url": (200, PARIS),
    "dashboard.forged": (403, "<html"),
    "dashboard.home": (308, ""),
    "dashboard.nothing": (404, "<html"),
    "dashboard.rest": (200, 'lang="zh'),
    "dashboard.runs": (200, 'lang="zh'),
    "dashboard.send": (303, ""),
    "dashboard.style": (200, "{"),
    "schedule.message": ({"session_id": "morning"}, ""),
    "schedule.scheduler": ({"resumed": 0, "pushed": 0, "given_up": 0, "others": 0}, ""),
    "schedule.tick": ({"resumed": 0, "pushed": 0, "given_up": 0, "others": 0}, ""),
    "websocket.base64": (200, '"pong"'),
    "websocket.connect": (200, ""),
    "websocket.connect-browser": (200, "sampan"),
    "websocket.connect-forged": (403, "SAMPAN_ORIGINS"),
    "websocket.default": (200, PARIS),
    "websocket.disconnect": (200, ""),
    "websocket.ping": (200, '"pong"'),
    "websocket.refused": (200, "not JSON"),
    # The second of them comes again and is known then, unless the first is done when its turn comes.
    "worker.duplicates": ({"batchItemFailures": (["0001"], [])}, ""),
    "worker.fifo": ({"batchItemFailures": ["0008", "0010"]}, ""),
    "worker.messages": ({"batchItemFailures": []}, ""),
    "worker.poison": ({"batchItemFailures": ["0005"]}, ""),
    "worker.wakeup": ({"batchItemFailures": []}, ""),
}

RECORDED: dict[str, tuple[str, Any, str]] = {
    # the handler that it belongs to, what it answers, and words in it
    "apiGatewayProxyEvent": ("api", 404, "/my/path"),
    "apiGatewayProxyEventNoOrigin": ("api", 404, "/my/path"),
    "apiGatewayProxyEvent_noVersionAuth": ("api", 400, "base64"),
    "apiGatewayProxyV2Event": ("api", 404, "/my/path"),
    "apiGatewayProxyV2EventPathTrailingSlash": ("api", 404, "/my/path/"),
    "apiGatewayProxyV2IamEvent": ("api", 404, "/my/path"),
    "apiGatewayProxyV2OtherGetEvent": ("api", 404, "/other/path"),
    "eventBridgeEvent": ("schedule", InputError, "'EC2 Instance State-change Notification' of 'aws.ec2'"),
    "lambdaFunctionUrlEvent": ("api", 303, "console/"),
    "lambdaFunctionUrlIAMEvent": ("api", 404, "/my/path"),
    "snsSqsEvent": ("worker", {"batchItemFailures": ["cb30"]}, ""),
    "sqsDlqTriggerEvent": ("worker", {"batchItemFailures": ["a72a"]}, ""),
    "sqsEvent": ("worker", {"batchItemFailures": ["0a7d"]}, ""),
}

Process = Callable[..., None]


def check(answer: Any, expected: Any, words: str, pushed: str = "") -> None:
    if isinstance(expected, int):
        assert answer["statusCode"] == expected
        assert words in str(answer) + pushed
    elif "batchItemFailures" in expected:
        failed = [item["itemIdentifier"][-4:] for item in answer["batchItemFailures"]]
        wanted = expected["batchItemFailures"]
        assert failed in wanted if isinstance(wanted, tuple) else failed == wanted
    else:
        assert answer.items() >= expected.items()


def test_each_event_has_an_expectation() -> None:
    """Those of channels are in the tests of channels, too; those of the streaming function in its own."""
    own = {name for name in EVENTS if name.split(".")[0] not in ("webhook", "stream")}
    assert own == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_event_is_answered(name: str, root: Path, process: Process, gateway: Gateway) -> None:
    process(SAMPAN_WEBSOCKET_URL=gateway.url, **ENVIRON)
    gateway.open.add("L0SM9cOFvHcCIhw=")
    handler = import_module(f"handlers.{name.split('.')[0]}").handler
    if name.startswith("websocket.") and "connect" not in name:
        handler(read(root / "events" / "websocket.connect.json"), Context())
    answer = handler(read(root / "events" / f"{name}.json"), Context())
    json.dumps(answer)  # the platform sends it on as JSON
    check(answer, *EXPECTED[name], pushed=json.dumps(gateway.said("L0SM9cOFvHcCIhw=")))


@pytest.mark.parametrize("name", [name for name in EVENTS if name.startswith("webhook.")])
def test_a_webhook_of_a_channel_that_is_off_is_not_found(name: str, root: Path, process: Process) -> None:
    process()
    answer = import_module("handlers.webhook").handler(read(root / "events" / f"{name}.json"), Context())
    assert answer["statusCode"] == 404
    assert json.loads(answer["body"])["type"] == "urn:sampan:problem:not-found"


def test_all_recorded_events_are_tried(shared_data: Path) -> None:
    assert {path.stem for path in (shared_data / "aws_events").glob("*.json")} == set(RECORDED)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_event_is_answered_or_refused(name: str, shared_data: Path, process: Process) -> None:
    process()
    kind, expected, words = RECORDED[name]
    handler = import_module(f"handlers.{kind}").handler
    event = read(shared_data / "aws_events" / f"{name}.json")
    if expected is InputError:
        with pytest.raises(InputError, match=words):
            handler(event, Context())
    else:
        check(handler(event, Context()), expected, words)


@pytest.mark.parametrize("kind", ["api", "webhook", "dashboard", "worker", "schedule", "websocket"])
@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({}, "fields"),
        ({"Records": [{"eventSource": "aws:s3"}]}, "records of 'aws:s3'"),
        ({"Records": []}, "fields"),
        ({"source": "aws.ec2", "detail-type": "A change"}, "'A change' of 'aws.ec2'"),
    ],
)
def test_what_belongs_to_no_handler_is_refused(
    kind: str, event: dict[str, Any], words: str, process: Process
) -> None:
    process(SAMPAN_WEBSOCKET_URL="https://a.example/dev", **ENVIRON)
    with pytest.raises(InputError, match=words):
        import_module(f"handlers.{kind}").handler(event, None)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
