"""Telegram, from its raw webhook to the call its API gets; the fake refuses what Telegram refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent_core.messages import Audio, File, Image
from tests.agent_core.channels.conftest import telegram_message
from tests.agent_core.channels.fakes import Said

House = Callable[..., Any]
GROUP = {"chat": {"id": -100, "type": "supergroup", "title": "Team"}}


async def test_the_secret_token_is_compared(house: House) -> None:
    home = house("telegram")
    body = b'{"update_id":1}'
    assert (await home.post(body, {"x-telegram-bot-api-secret-token": "wrong"})).status_code == 401
    assert (await home.post(body)).status_code == 401
    assert (await home.post(body, home.signed(body))).status_code == 200


async def test_an_answer_is_html(house: House) -> None:
    home = house("telegram", "**Bold**, `a < b` and [docs](https://a.b).")
    await home.say(telegram_message("Hi"))
    await home.settled()
    [sent] = home.service.messages
    assert sent["text"] == '<b>Bold</b>, <code>a &lt; b</code> and <a href="https://a.b">docs</a>.'
    assert (sent["chat_id"], "reply_parameters" in sent) == ("42", False)


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"text": "@Sampan_Bot: what now?"}, "what now?"),
        ({"text": "what now?", "reply_to_message": {"from": {"id": 123456, "is_bot": True}}}, "what now?"),
        ({"text": "/ask@sampan_bot now"}, "/ask now"),
        ({"text": "/ask@other_bot now"}, ""),
        ({"text": "just talk"}, ""),
        ({"text": "@sampan_bots are many"}, ""),
    ],
)
async def test_in_a_group_it_answers_who_speaks_to_it(house: House, message: Any, heard: str) -> None:
    home = house("telegram", *(["Now."] if heard else []))
    await home.say(telegram_message(**GROUP, **message))
    await home.settled()
    assert [prompt.messages[-1].text for prompt in home.model.prompts] == ([heard] if heard else [])
    if heard:
        [sent] = home.service.messages
        assert sent["reply_parameters"] == {"message_id": 7, "allow_sending_without_reply": True}


async def test_a_topic_is_a_conversation_of_its_own(house: House) -> None:
    home = house("telegram", "a", "b", "c")
    for number, topic in enumerate((5, 6, 5)):
        message = {**GROUP, "message_thread_id": topic, "is_topic_message": True}
        await home.say(telegram_message(f"@sampan_bot {number}", update_id=number, **message))
        await home.settled()
    seen = [[m.text for m in prompt.messages if m.role == "user"] for prompt in home.model.prompts]
    assert seen == [["0"], ["1"], ["0", "2"]]
    assert [sent["message_thread_id"] for sent in home.service.messages] == [5, 6, 5]


@pytest.mark.parametrize(
    ("message", "kind", "media_type"),
    [
        ({"photo": [{"file_id": "small"}, {"file_id": "it"}], "caption": "Look"}, Image, "image/jpeg"),
        ({"voice": {"file_id": "it", "mime_type": "audio/ogg"}}, Audio, "audio/ogg"),
        ({"document": {"file_id": "it", "mime_type": "text/csv", "file_name": "a.csv"}}, File, "text/csv"),
        ({"video": {"file_id": "it"}}, File, "video/mp4"),
    ],
)
async def test_pictures_voice_notes_and_files(
    house: House, message: Any, kind: type, media_type: str
) -> None:
    home = house("telegram", "Seen.")
    home.service.files["it"] = ("application/octet-stream", b"bytes")
    await home.say(telegram_message("", **message))
    assert await home.settled() == ["Seen."]
    part = home.model.prompts[0].messages[-1].parts[-1]
    assert (type(part), part.media_type, part.data) == (kind, media_type, b"bytes")


async def test_a_long_answer_is_cut_by_utf16_units(house: House) -> None:
    home = house("telegram", "\U0001f600" * 3000)
    await home.say(telegram_message("Smile"))
    assert [len(text) for text in await home.settled()] == [2048, 952]


async def test_the_wait_that_telegram_asks_for_is_kept(house: House) -> None:
    home = house("telegram", "Patience.")
    limit = {
        "ok": False,
        "error_code": 429,
        "description": "Too Many Requests",
        "parameters": {"retry_after": 90},
    }
    home.service.next_answers = [Said(429, limit)]
    await home.say(telegram_message("Hi"))
    assert await home.settled() == []
    home.clock.advance(89)
    assert (await home.app.engine.sweep()).pushed == 0
    home.clock.advance(30)
    assert (await home.app.engine.sweep()).pushed == 1
    assert home.service.texts == ["Patience."]


async def test_a_group_that_became_a_supergroup_is_followed(house: House) -> None:
    home = house("telegram", "Moved.")
    await home.say(telegram_message("/ask", chat={"id": -50, "type": "group"}))
    assert await home.settled() == ["Moved."]
    assert home.service.messages[0]["chat_id"] == "-200"


@pytest.mark.parametrize(
    "update",
    [
        {"update_id": 1},
        {"update_id": 1, "edited_message": {"text": "x"}},
        {"update_id": 1, "message": {"from": {"id": 5, "is_bot": True}, "chat": {"id": 5}, "text": "x"}},
        {"update_id": 1, "message": "nonsense"},
        {"update_id": 1, "message": {"from": [], "chat": 5, "text": {}}},
        {"update_id": 1, "callback_query": {"id": "1"}},
    ],
)
async def test_what_is_no_message_of_a_person_is_left_alone(house: House, update: Any) -> None:
    home = house("telegram")
    assert (await home.say(update)).status_code == 200
    assert await home.settled() == []
