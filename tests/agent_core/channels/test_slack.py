"""Slack, from its raw webhook to the call its API gets; the fake refuses what Slack refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agent_core.errors import ModelBusyError, StoreBusyError
from agent_core.messages import Image, Principal
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock
from tests.agent_core.channels.conftest import slack_message
from tests.agent_core.channels.fakes import Said

House = Callable[..., Any]
MENTION = {"type": "app_mention", "channel_type": "channel", "channel": "C1", "ts": "1700000000.000200"}


async def test_the_handshake(house: House) -> None:
    """Its signature is verified like any other."""
    home = house("slack")
    shake = {"type": "url_verification", "challenge": "3eZbrw1aB", "token": "old"}
    answer = await home.say(shake)
    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1aB"})
    assert (await home.post(json.dumps(shake).encode())).status_code == 401


async def test_a_mention_is_answered_in_its_thread(house: House) -> None:
    home = house("slack", "**Yes.**")
    await home.say(slack_message("<@UBOT> is &lt;it&gt; <https://a.b|here>?", **MENTION))
    await home.settled()
    assert home.model.prompts[0].messages[-1].text == "is <it> here (https://a.b)?"
    [sent] = home.service.messages
    assert (sent["channel"], sent["thread_ts"], sent["text"]) == ("C1", MENTION["ts"], "*Yes.*")


async def test_what_is_not_for_the_bot_is_left_alone(house: House) -> None:
    """Talk in a channel, other bots, itself, edits, joins: all acknowledged, none answered."""
    home = house("slack")
    for number, event in enumerate(
        [
            {"channel_type": "channel", "channel": "C1"},
            {"bot_id": "B1"},
            {"subtype": "message_changed"},
            {"subtype": "channel_join"},
            {"user": ""},
            {"type": "reaction_added"},
        ]
    ):
        answer = await home.say(slack_message("Hi", event_id=f"E{number}", **event))
        assert answer.status_code == 200
    assert await home.settled() == []


async def test_a_slash_command_is_answered_where_it_was_given(house: House) -> None:
    home = house("slack", "Sunny.")
    fields = {
        "command": "/weather",
        "text": "in Delft",
        "user_id": "U1",
        "team_id": "T1",
        "channel_id": "C9",
        "trigger_id": "398738663015.47445629121.803a0bc887a1",
        "response_url": f"{home.service.url}/api/hook/1",
    }
    for _ in range(2):
        answer = await home.say_form(fields)
        assert (answer.status_code, answer.content) == (200, b"")
    await home.settled()
    assert home.service.messages == [{"response_type": "ephemeral", "text": "Sunny."}]
    elsewhere = {**fields, "trigger_id": "2", "response_url": "https://evil.example/hook"}
    home.model.add("Rainy.")
    await home.say_form(elsewhere)
    await home.settled()
    assert len(home.service.messages) == 1, "an answer goes to no other host"


async def test_a_click_is_acknowledged(house: House) -> None:
    home = house("slack")
    answer = await home.say_form({"payload": json.dumps({"type": "block_actions", "trigger_id": "1"})})
    assert (answer.status_code, answer.content) == (200, b"")


async def test_files_are_fetched_with_the_bots_token(house: House) -> None:
    home = house("slack", "A cat.")
    home.service.files["cat.png"] = ("image/png", b"\x89PNG")
    home.service.files["page"] = ("text/html", b"<title>Sign in</title>")
    api = f"{home.service.url}/api/files"
    files = [
        {"mimetype": "image/png", "name": "cat.png", "url_private_download": f"{api}/cat.png"},
        {"mimetype": "image/png", "name": "lost.png", "url_private_download": f"{api}/page"},
        {"mimetype": "image/png", "name": "evil.png", "url_private_download": "https://evil.example/x"},
    ]
    await home.say(slack_message("What is it?", subtype="file_share", files=files))
    assert await home.settled() == ["A cat."]
    text, picture, *lost = home.model.prompts[0].messages[-1].parts
    assert text.text == "What is it?"
    assert (type(picture), picture.media_type, picture.data) == (Image, "image/png", b"\x89PNG")
    assert ["lost.png" in lost[0].text, "evil.png" in lost[1].text] == [True, True]


async def test_a_long_answer_is_several_messages_in_order(house: House) -> None:
    code = "```\n" + "x = 1\n" * 300 + "```"
    answer = "First. " * 400 + f"\n\n{code}\n\n" + "Last. " * 500
    home = house("slack", answer)
    await home.say(slack_message("Tell me", thread_ts="1.1"))
    texts = await home.settled()
    assert len(texts) == 3
    assert texts[1].startswith("```")
    assert texts[1].endswith("```")
    assert {message["thread_ts"] for message in home.service.messages} == {"1.1"}
    assert home.clock.slept.count(1.0) == 2, "Slack takes about one message a second"


async def test_a_rate_limit_is_waited_out_and_nothing_is_sent_twice(house: House) -> None:
    """The second of three messages is refused for 30 s; the outbox goes on with it, not from the beginning."""
    home = house("slack", "One. " * 700 + "\n\n" + "Two. " * 700 + "\n\n" + "Three. " * 500)
    home.service.next_answers = [None, Said(429, {"ok": False}, {"retry-after": "30"})]
    await home.say(slack_message("Hi"))
    assert len(await home.settled()) == 1
    home.clock.advance(29)
    assert (await home.app.engine.sweep()).pushed == 0
    home.clock.advance(10)
    assert (await home.app.engine.sweep()).pushed == 1
    assert [text.split(".")[0] for text in home.service.texts] == ["One", "Two", "Three"]


async def test_after_a_crash_slack_is_asked_whether_it_has_the_message(house: House) -> None:
    """The message arrived, and the process died before it knew: it is found by its metadata, not sent again."""
    clock = ManualClock(1_700_000_000.0, jump=True)
    store = FaultyStore(MemoryStore(clock))
    home = house("slack", "Only once.", store=store, clock=clock)
    # The writes: accept, commit, then "being sent"; the one that follows the message says that it arrived.
    store.plan(Fault(4, StoreBusyError("locked"), "write"))
    await home.say(slack_message("Hi", thread_ts="1.1"))
    assert await home.settled() == ["Only once."]
    store.check_used_up()
    clock.advance(400)
    assert (await home.app.engine.sweep()).pushed == 1
    assert home.service.texts == ["Only once."]
    assert home.service.calls == ["chat.postMessage", "conversations.replies"]


async def test_what_slack_never_takes_becomes_a_dead_letter(house: House) -> None:
    home = house("slack", "Hello?")
    await home.say(slack_message("Hi", channel="D404"))
    assert await home.settled() == []
    [letter] = await home.app.engine.dead(Principal())
    assert "channel_not_found" in letter.reason


async def test_a_failed_run_says_sorry(house: House) -> None:
    home = house("slack", ModelBusyError("overloaded"), options={"sorry": "Das ging schief."})
    await home.say(slack_message("Hi"))
    assert await home.settled() == ["Das ging schief."]
