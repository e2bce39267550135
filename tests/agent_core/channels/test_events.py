"""Every event of events/ through the gateway: acknowledged as its service wants, stored once, refused if spoilt."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from agent_core import Agent, Settings, build_app
from agent_core.app import App
from agent_core.models.scripted import ScriptedModel
from agent_core.testing import ManualClock
from agent_core.wire.scripted import Answer, ScriptedWire
from tests.agent_core.channels.conftest import EVENTS, SLACK_SECRET, TELEGRAM_SECRET
from tests.marks import inside

NOW = 1_700_000_000.0
QUESTION = "Where is my order 1001?"
CHINESE = "\u8ba2\u5355 1001 \u5728\u54ea\u91cc\uff1f"
WECOM = {
    "secret": "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C",
    "verification_token": "QDG6eK",
    "receiver": "wx5823bf96d3bd56c7",
}
DINGTALK = {
    "secret": "4g5j64qlyl3zvetqxz5jiocdr586fn2zvjpa8zls3ij",
    "verification_token": "123456",
    "receiver": "suite4xxxxxxxxxxxxxxx",
    "app_secret": "this-is-secret",
}
# RFC 8032 section 7.1, test 1
ED25519 = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
OPTIONS = {
    "dingtalk": DINGTALK,
    "discord": {"secret": ED25519},
    "email": {"topic": "arn:aws:sns:us-east-1:123456789012:mail", "sender": "bot@shop.example"},
    "feishu": {"secret": "test-key", "verification_token": "TOK-TOK-"},
    "generic": {"secret": SLACK_SECRET, "id_field": "data.order"},
    "github": {"secret": SLACK_SECRET},
    "line": {"secret": "channel_secret"},
    "slack": {"secret": SLACK_SECRET, "token": "xoxb-1"},
    "standard": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    "stripe": {"secret": "whsec_test_secret"},
    "teams": {"app_id": "00000000-0000-0000-0000-000000000001"},
    "telegram": {"secret": TELEGRAM_SECRET, "token": "123456:ABC-DEF1234ghIkl"},
    "twilio": {"secret": "12345678"},
    "wechat": {"verification_token": "test"},
    "wecom": WECOM,
    "whatsapp": {"secret": SLACK_SECRET, "verify_token": "TOK"},
}
# Made for these events; nobody has its private half any more.
TEAMS_KEYS = Path(__file__).with_name("teams_keys.json").read_bytes()
SNS_CERTIFICATE = Path(__file__).with_name("sns_certificate.pem").read_bytes()
KEYS = {"teams": TEAMS_KEYS, "email": SNS_CERTIFICATE}
"""What is fetched to verify an event."""


class Expected(NamedTuple):
    """How an event is acknowledged, what the agent hears (None: nothing), and when it was signed."""

    ack: object = b""
    heard: str | None = None
    status: int = 200
    now: float = NOW


JSON_BODY = "<the body>"
NOT_YOURS = "Only the person who asked can answer this."
EXPECTED = {
    "dingtalk": Expected({}, CHINESE),
    "dingtalk.callback": Expected(None, now=1_445_827_045.067),
    "discord": Expected({"type": 5}, QUESTION),
    "discord.event": Expected(b"", JSON_BODY, 204),
    "discord.ping": Expected({"type": 1}),
    "email": Expected(b"", QUESTION),
    "feishu": Expected({}, CHINESE),
    "feishu.click": Expected({"toast": {"type": "info", "content": NOT_YOURS}}),
    "feishu.card": Expected({}),
    "feishu.handshake": Expected({"challenge": "ajls384kdjx98XX"}),
    "generic": Expected(b"", JSON_BODY),
    "github": Expected(b"", "GitHub event issues:\n" + JSON_BODY),
    "github.comment": Expected(b"", "GitHub event issue_comment:\n" + JSON_BODY),
    "line": Expected(b"", QUESTION),
    "slack": Expected(b"", QUESTION),
    "slack.command": Expected(b"", QUESTION),
    "slack.handshake": Expected({"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}),
    "slack.interactivity": Expected(b""),
    "standard": Expected(b"", JSON_BODY),
    "stripe": Expected(b"", JSON_BODY),
    "teams": Expected({}, QUESTION),
    "teams.click": Expected(b""),
    "telegram": Expected(b"", QUESTION),
    "telegram.click": Expected(
        {
            "method": "answerCallbackQuery",
            "callback_query_id": "4382bfdwdsb323b2d9",
            "text": "This button means nothing here.",
        }
    ),
    "twilio": Expected(b"<Response></Response>", QUESTION),
    "wechat": Expected(b"success", CHINESE, now=1_410_685_589.0),
    "wechat.handshake": Expected(b"4572314239547123", now=1_410_685_589.0),
    "wecom": Expected(b"success", "hello", now=1_409_659_813.0),
    "wecom.handshake": Expected(b"1616140317555161061", now=1_409_659_589.0),
    "whatsapp": Expected(b"", "O\u00f9 est ma commande 1001 ?"),
    "whatsapp.handshake": Expected(b"1158201444"),
    "whatsapp.status": Expected(b""),
}


def test_each_kind_has_an_event() -> None:
    names = {
        path.name.removeprefix("webhook.").removesuffix(".json") for path in EVENTS.glob("webhook.*.json")
    }
    assert names == set(EXPECTED)
    assert {name.partition(".")[0] for name in names} == set(OPTIONS)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EVENTS / f"webhook.{name}.json").read_text(encoding="utf-8"))
    return found


def body_of(event: dict[str, Any]) -> bytes:
    body = event.get("body", "")
    return base64.b64decode(body) if event["isBase64Encoded"] else body.encode()


def make_app(kind: str, now: float, **other: str) -> tuple[App, ScriptedModel]:
    options = {**OPTIONS[kind], "kind": kind, "open": "true", **other}
    model = ScriptedModel(["On its way."])
    app = build_app(
        Settings(
            store="memory",
            channels={kind: options},
            public_url="https://api-id.execute-api.us-east-1.amazonaws.com",
        ),
        agents=[Agent(name="assistant", model=model)],
        clock=ManualClock(now, jump=True),
        wire=ScriptedWire([Answer(body=KEYS[kind])] if kind in KEYS else []),
    )
    return app, model


async def send(app: App, event: dict[str, Any], body: bytes, headers: Any = None) -> httpx.Response:
    """The event as a gateway hands it to the app."""
    transport = httpx.ASGITransport(app.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.7") as client:
        return await client.request(
            event["requestContext"]["http"]["method"],
            f"{event['rawPath']}?{event['rawQueryString']}",
            content=body,
            headers=event["headers"] if headers is None else headers,
        )


@pytest.mark.parametrize("name", sorted(EXPECTED))
async def test_it_is_acknowledged_and_stored_once(name: str) -> None:
    """Five times: five times the same acknowledgement, one run at most."""
    expected, event = EXPECTED[name], read(name)
    kind = name.partition(".")[0]
    app, model = make_app(kind, expected.now)
    body = body_of(event)
    for _ in range(5):
        answer = await send(app, event, body)
        assert answer.status_code == expected.status, answer.text
        if expected.ack is not None:
            assert (answer.json() if isinstance(expected.ack, dict) else answer.content) == expected.ack
        # No drain in between: what comes while the first is at work is the same run too.
    app.engine._kit.deliverers.clear()  # answers on the way out have tests of their own
    await app.engine.drain()
    heard = [prompt.messages[-1].text for prompt in model.prompts]
    if kind in ("generic", "github", "standard", "stripe"):  # events, which hold words of strangers
        heard = [inside(text) for text in heard]
    wanted = [] if expected.heard is None else [expected.heard.replace(JSON_BODY, body.decode())]
    assert heard == wanted


def spoilt_signature(event: dict[str, Any]) -> dict[str, Any]:
    """The event with one character of what vouches for it changed."""
    spoilt = json.loads(json.dumps(event))
    for name, value in spoilt["headers"].items():
        if any(word in name for word in ("signature", "secret", "sign", "authorization")):
            spoilt["headers"][name] = value[:-3] + ("AAA" if value[-3:] != "AAA" else "BBB")
    query = spoilt["rawQueryString"]
    for word in ("signature=", "hub.verify_token="):
        place = query.find(word)
        if place >= 0:
            at = place + len(word)
            query = query[:at] + ("0" if query[at] != "0" else "1") + query[at + 1 :]
    spoilt["rawQueryString"] = query
    if event["rawPath"].endswith("feishu") and "x-lark-signature" not in event["headers"]:
        spoilt["body"] = spoilt["body"].replace("TOK", "TOC")
    if event["rawPath"].endswith("email"):  # its signature stands in the body
        body = json.loads(spoilt["body"])
        other = "A" if body["Signature"][0] != "A" else "B"
        spoilt["body"] = json.dumps({**body, "Signature": other + body["Signature"][1:]})
    return spoilt


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("how", ["signature", "twice", "missing"])
async def test_it_is_refused_if_spoilt(name: str, how: str) -> None:
    event = read(name)
    kind = name.partition(".")[0]
    app, _ = make_app(kind, EXPECTED[name].now)
    spoilt = spoilt_signature(event)
    headers: Any = list(event["headers"].items())
    signed = [key for key, value in event["headers"].items() if spoilt["headers"][key] != value]
    if how == "signature" or not signed:
        answer = await send(app, spoilt, body_of(spoilt))
    elif how == "twice":
        answer = await send(
            app, event, body_of(event), [*headers, (signed[0].title(), event["headers"][signed[0]])]
        )
    else:
        answer = await send(app, event, body_of(event), [pair for pair in headers if pair[0] != signed[0]])
    assert answer.status_code in (401, 403), answer.text
    assert answer.json()["type"].startswith("urn:sampan:problem:webhook-")
    asked = kind == "email" or (kind == "teams" and how == "signature")
    assert len(app.wire.requests) == asked, "its keys alone are asked for"


async def test_teams_refuses_what_its_token_does_not_cover() -> None:
    """Another service address, another channel, an hour later, a token of another app."""
    event = read("teams")
    body = body_of(event)
    spoilt: list[Callable[[bytes], bytes]] = [
        lambda text: text.replace(b"emea", b"amer"),
        lambda text: text.replace(b"msteams", b"webchat"),
    ]
    for change in spoilt:
        app, _ = make_app("teams", NOW)
        assert (await send(app, event, change(body))).status_code == 401
    app, _ = make_app("teams", NOW + 4000)
    assert (await send(app, event, body)).status_code == 401
    app, _ = make_app("teams", NOW, app_id="another")
    assert (await send(app, event, body)).status_code == 401


async def test_the_order_of_events_does_not_matter() -> None:
    """All that Slack may send, in any order: one run for each message."""
    names = [name for name in EXPECTED if name.startswith("slack")] * 3
    random.Random(3).shuffle(names)
    app, model = make_app("slack", NOW)
    model.add("And this one.")
    app.engine._kit.deliverers.clear()
    for name in names:
        event = read(name)
        assert (await send(app, event, body_of(event))).status_code == 200
    await app.engine.drain()
    assert len(model.prompts) == 2


def test_events_hold_no_secret_of_anybody(root: Path) -> None:
    """They are signed with secrets that stand in published examples, or in this file."""
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "events").glob("webhook.*.json"))
    assert "xoxb-" not in text
    assert "whsec_" not in text
