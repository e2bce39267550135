"""The gateway: what is not verified is refused, what is acknowledged is stored, the same event is one run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agent_core import Agent, Settings, build_app
from agent_core.errors import ConfigError, StoreBusyError
from agent_core.messages import Principal
from agent_core.models.scripted import ScriptedModel
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock
from tests.agent_core.channels.conftest import SLACK_SECRET, slack_message, telegram_message
from tests.agent_core.channels.fakes import Said

House = Callable[..., Any]
SAID = {"slack": slack_message, "telegram": telegram_message}


@pytest.mark.parametrize("kind", ["slack", "telegram"])
async def test_a_message_is_acknowledged_and_answered(house: House, kind: str) -> None:
    home = house(kind, "Hello, Ada.")
    answer = await home.say(SAID[kind]("Hi"))
    assert (answer.status_code, answer.content) == (200, b"")
    assert await home.settled() == ["Hello, Ada."]
    assert home.model.prompts[0].messages[-1].text == "Hi"


@pytest.mark.parametrize("kind", ["slack", "telegram"])
async def test_the_same_webhook_five_times_shuffled_is_one_answer(house: House, kind: str) -> None:
    """Three events, five times each, all at once and in any order; retry headers change nothing."""
    home = house(kind, "One.", "Two.", "Three.")
    names = ({"event_id": f"Ev{number}"} if kind == "slack" else {"update_id": number} for number in range(3))
    webhooks = [SAID[kind](f"Question {number}", **name) for number, name in enumerate(names)] * 5
    random.Random(7).shuffle(webhooks)
    answers = await asyncio.gather(*(home.say(webhook) for webhook in webhooks))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(await home.settled()) == ["One.", "Three.", "Two."]
    again = await home.say(webhooks[0])
    assert again.status_code == 200
    assert len(await home.settled()) == 3


async def test_a_retry_header_does_not_drop_what_was_never_stored(house: House) -> None:
    """The first try died before the accept write; the second, marked as a retry, is the one that counts."""
    clock = ManualClock(1_700_000_000.0, jump=True)
    store = FaultyStore(MemoryStore(clock))
    home = house("slack", "Here.", store=store, clock=clock)
    store.plan(Fault(1, StoreBusyError("locked"), "write"))
    assert (await home.say(slack_message("Hi"))).status_code == 503
    assert await home.settled() == []
    body = httpx.Request("POST", "http://x", json=slack_message("Hi")).content
    headers = {**home.signed(body), "x-slack-retry-num": "1", "x-slack-retry-reason": "http_error"}
    assert (await home.post(body, headers)).status_code == 200
    assert await home.settled() == ["Here."]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda headers: {**headers, "x-slack-signature": headers["x-slack-signature"][:-1] + "x"},
        lambda headers: {**headers, "x-slack-request-timestamp": "1699999699"},
        lambda headers: {**headers, "x-slack-request-timestamp": "1700000301"},
        lambda headers: {name: value for name, value in headers.items() if name != "x-slack-signature"},
        lambda headers: [*headers.items(), ("X-Slack-Signature", headers["x-slack-signature"])],
        lambda headers: {**headers, "x-slack-signature": "v0=\u00e9".encode()},
    ],
    ids=["signature", "old", "future", "none", "twice", "not ascii"],
)
async def test_what_is_not_signed_rightly_is_refused(house: House, spoil: Any) -> None:
    home = house("slack")
    body = httpx.Request("POST", "http://x", json=slack_message("Hi")).content
    answer = await home.post(body, spoil(home.signed(body)))
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:sampan:problem:webhook-unverified"
    assert SLACK_SECRET not in answer.text
    assert await home.settled() == []


async def test_the_body_is_looked_at_only_after_its_signature(house: House) -> None:
    home = house("slack")
    deep = b'{"a":' * 70 + b"1" + b"}" * 70
    for body in (b"{", deep, b'{"type":"a","type":"b"}', b'{"a":NaN}', b'{"a":"\xff"}'):
        assert (await home.post(body, {"x-slack-signature": "v0=0"})).status_code == 401
        answer = await home.post(body, home.signed(body))
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:sampan:problem:malformed")


async def test_too_large_and_unknown(house: House) -> None:
    home = house("slack")
    assert (await home.post(b"x" * (8 * 1024 * 1024 + 1))).status_code == 413
    async with home.client() as client:
        assert (await client.post("/webhooks/fax", content=b"")).status_code == 404
        assert (await client.put("/webhooks/slack", content=b"")).status_code == 405


async def test_escapes_are_signed_as_they_stand(house: House) -> None:
    """The same words with an escape and in UTF-8 are two bodies: each is signed for itself."""
    home = house("slack", "Un.", "Deux.")
    plain = httpx.Request("POST", "http://x", json=slack_message("Caf\u00e9", event_id="E1")).content
    escaped = plain.replace("\u00e9".encode(), b"\\u00e9").replace(b"E1", b"E2")
    assert (await home.post(escaped, home.signed(plain))).status_code == 401
    for body in (plain, escaped):
        assert (await home.post(body, home.signed(body))).status_code == 200
        await home.settled()
    assert [prompt.messages[-1].text for prompt in home.model.prompts] == ["Caf\u00e9"] * 2


async def test_several_secrets_hold_at_once(house: House) -> None:
    home = house("slack", "Fine.", options={"secret": f"another-secret-soon {SLACK_SECRET}"})
    assert (await home.say(slack_message("Hi"))).status_code == 200
    assert await home.settled() == ["Fine."]


async def test_without_any_channel_there_is_no_webhook() -> None:
    app = build_app(Settings(store="memory"), agents=[Agent(name="assistant", model=ScriptedModel([]))])
    transport = httpx.ASGITransport(app.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://sampan.test") as client:
        answer = await client.post("/webhooks/slack", content=b"{}")
    assert (answer.status_code, "SAMPAN_CHANNELS" in answer.json()["detail"]) == (404, True)


def configured(environ: dict[str, str]) -> Any:
    settings = Settings.from_env({"SAMPAN_STORE": "memory", **environ})
    return build_app(settings, agents=[Agent(name="assistant", model=ScriptedModel([]))])


SLACK = {"SAMPAN_CHANNELS": "slack", "SAMPAN_SLACK_TOKEN": "xoxb-1", "SAMPAN_SLACK_SECRET": SLACK_SECRET}


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SAMPAN_SLACK_SECRET": ""}, "SAMPAN_SLACK_SECRET is not set"),
        ({"SAMPAN_SLACK_SECRET": "short"}, "SAMPAN_SLACK_SECRET needs 8 characters"),
        ({"SAMPAN_SLACK_TOKEN": ""}, "bot token"),
        ({"SAMPAN_SLACK_SECRETS": "x"}, "there is no SAMPAN_SLACK_SECRETS"),
        ({"SAMPAN_SLACK_OPEN": "perhaps"}, "SAMPAN_SLACK_OPEN can't be used"),
        ({"SAMPAN_SLACK_SCOPE": "world"}, "SAMPAN_SLACK_SCOPE can't be used"),
        ({"SAMPAN_SLACK_AGENT": "nobody"}, "no agent 'nobody'"),
        ({"SAMPAN_CHANNELS": "fax"}, "no kind 'fax'"),
        ({"SAMPAN_CHANNELS": "slack,slack"}, "given twice"),
        ({"SAMPAN_CHANNELS": "Slack"}, "small letters"),
        ({"SAMPAN_CHANNELS": "a=json:loads"}, "no subclass of Channel"),
        ({"SAMPAN_CHANNELS": "a=no_such_module:A"}, "can't be imported"),
    ],
)
def test_what_is_set_up_wrongly_does_not_start(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configured({**SLACK, **environ})


REQUIRED = {
    "dingtalk": {},
    "discord": {},
    "email": {},
    "feishu": {"verification_token": "token-token"},
    "generic": {},
    "github": {},
    "line": {},
    "slack": {"token": "xoxb-1"},
    "standard": {},
    "stripe": {},
    "teams": {},
    "telegram": {"token": "123456:ABC-DEF1234ghIkl"},
    "twilio": {},
    "wechat": {},
    "wecom": {"verification_token": "token", "receiver": "corp"},
    "whatsapp": {"verify_token": "word"},
}


@pytest.mark.parametrize("kind", sorted(REQUIRED))
def test_no_channel_starts_without_its_secret(kind: str) -> None:
    from agent_core.channels.catalog import KINDS

    assert set(KINDS) == set(REQUIRED)
    options = {f"SAMPAN_{kind.upper()}_{name.upper()}": value for name, value in REQUIRED[kind].items()}
    with pytest.raises(ConfigError, match=r"is not set|missing or empty|neither"):
        configured({"SAMPAN_CHANNELS": kind, **options})


def test_settings_show_no_secret_of_a_channel() -> None:
    settings = Settings.from_env({**SLACK, "SAMPAN_CHANNELS": "slack,work=slack", "SAMPAN_WORK_SECRET": "x"})
    assert settings.public()["channels"] == "slack,work"
    assert settings.channels["work"] == {"kind": "slack", "secret": "x"}


@pytest.mark.parametrize("kind", ["slack", "telegram"])
async def test_strangers_get_a_code_and_nothing_else(house: House, kind: str) -> None:
    """However often they write; with the code they are let in, and shown out again."""
    home = house(kind, "Welcome.", "Welcome again.", options={"open": "false"})
    guests = home.app.webhooks.guests
    for number in range(3):
        name = {"event_id": f"Ev{number}"} if kind == "slack" else {"update_id": number}
        assert (await home.say(SAID[kind]("Let me in", **name))).status_code == 200
    await home.settled()
    assert (await home.app.engine.sweep()).others == 0, "the code was told at once"
    [told] = home.service.texts
    [knock] = await guests.knocks("default", kind)
    assert knock.code in told
    assert home.model.prompts == []
    await guests.pair("default", kind, knock.code.lower())
    name = {"event_id": "Ev9"} if kind == "slack" else {"update_id": 9}
    await home.say(SAID[kind]("Thanks", **name))
    assert (await home.settled())[1:] == ["Welcome."]
    assert await guests.remove("default", kind, knock.person) == 1
    assert await guests.guests("default", kind) == []


async def test_those_on_the_list_need_no_code(house: House) -> None:
    home = house("slack", "Yes.", "Yes, too.", options={"open": "false", "allow": "U1, C1"})
    await home.say(slack_message("Hi"))
    mention = slack_message(
        "<@UBOT> hi", event_id="E2", type="app_mention", channel_type="channel", channel="C1", user="U2"
    )
    await home.say(mention)
    assert sorted(await home.settled()) == ["Yes, too.", "Yes."]


async def test_conversations_of_people_do_not_meet(house: House) -> None:
    """Each person's direct messages, each thread and each group topic are sessions of their own."""
    home = house("slack", *"abcdefg")
    said = [
        slack_message("1", event_id="1"),
        slack_message("2", event_id="2", user="U2"),
        slack_message(
            "<@B> 3", event_id="3", type="app_mention", channel_type="channel", channel="C1", ts="5.1"
        ),
        slack_message(
            "<@B> 4", event_id="4", type="app_mention", channel_type="channel", channel="C1", ts="5.2"
        ),
        slack_message(
            "<@B> 5",
            event_id="5",
            type="app_mention",
            channel_type="channel",
            channel="C1",
            ts="5.3",
            thread_ts="5.1",
            user="U2",
        ),
        slack_message("6", event_id="6"),
    ]
    for payload in said:
        await home.say(payload)
        await home.settled()
    seen = [[m.text for m in prompt.messages if m.role == "user"] for prompt in home.model.prompts]
    assert seen == [["1"], ["2"], ["3"], ["4"], ["3", "5"], ["1", "6"]]
    sessions = await home.app.engine.sessions(Principal(user="slack/T1/C1"))
    assert {session.id for session in sessions} == {"slack-C1-5.1", "slack-C1-5.2"}


@pytest.mark.parametrize("kind", ["slack", "telegram"])
async def test_no_secret_gets_into_a_log_or_an_answer(
    house: House, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepted, refused, limited, out of reach: neither the secret nor the token is told, nor what was said."""
    caplog.set_level("DEBUG")
    home = house(kind, "The quiet answer.")
    home.service.next_answers = [Said(429, {"ok": False}), Said(500, {"ok": False})]
    answers = [await home.say(SAID[kind]("A quiet question.")), await home.post(b"{}", {"x": "y"})]
    await home.settled()
    told = caplog.text + "".join(answer.text for answer in answers)
    options = home.app.settings.channels[kind]
    for secret in (options["secret"], options["token"], options["token"].rpartition(":")[2], "quiet"):
        assert secret not in told


async def test_half_a_character_in_a_webhook_can_be_stored(house: House) -> None:
    home = house("slack", "Fine.")
    body = httpx.Request("POST", "http://x", json=slack_message("Hi X")).content.replace(b"X", rb"\ud83d")
    assert (await home.post(body, home.signed(body))).status_code == 200
    assert await home.settled() == ["Fine."]
    assert home.model.prompts[0].messages[-1].text == "Hi ?"


async def test_an_event_without_an_id_is_refused(house: House) -> None:
    home = house("slack")
    assert (await home.say(slack_message("Hi", event_id=""))).status_code == 400


@pytest.mark.parametrize(
    ("scope", "seen"),
    [
        ("", [["1"], ["2"], ["1", "3"]]),
        ("thread", [["1"], ["2"], ["1", "3"]]),
        ("group", [["1"], ["1", "2"], ["1", "2", "3"]]),
        ("person", [["1"], ["1", "2"], ["3"]]),
    ],
)
async def test_who_shares_a_conversation_in_a_group(house: House, scope: str, seen: list[list[str]]) -> None:
    """Two threads of one person, then another person in the first of them."""
    home = house("slack", *"abc", options={"scope": scope})
    group = {"type": "app_mention", "channel_type": "channel", "channel": "C1"}
    for number, (thread, user) in enumerate([("5.1", "U1"), ("5.2", "U1"), ("5.1", "U2")], 1):
        event = {**group, "user": user, "thread_ts": thread, "ts": f"6.{number}"}
        await home.say(slack_message(f"<@B> {number}", event_id=str(number), **event))
        await home.settled()
    heard = [[m.text for m in prompt.messages if m.role == "user"] for prompt in home.model.prompts]
    assert heard == seen
    assert [message["thread_ts"] for message in home.service.messages] == ["5.1", "5.2", "5.1"]
