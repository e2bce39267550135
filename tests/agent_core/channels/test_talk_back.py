"""One suite for all channels that talk back: from the raw webhook, signed, to the call that the service's API gets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agent_core import Agent, Settings, build_app, tool
from agent_core.app import App
from agent_core.errors import StoreBusyError
from agent_core.messages import Image, Message, Principal, Reply, ToolCall, Usage
from agent_core.models.scripted import ScriptedModel
from agent_core.store.base import Store
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock
from tests.agent_core.channels.fakes import serving
from tests.agent_core.channels.services import Hook, Speaker
from tests.agent_core.channels.services.dingtalk import FakeDingTalk
from tests.agent_core.channels.services.discord import FakeDiscord
from tests.agent_core.channels.services.everyone import SPEAKERS
from tests.agent_core.channels.services.feishu import FakeFeishu
from tests.agent_core.channels.services.line import FakeLine
from tests.agent_core.channels.services.teams import FakeTeams
from tests.agent_core.channels.services.wechat import FakeWeChat
from tests.agent_core.channels.services.wecom import FakeWeCom
from tests.agent_core.channels.services.whatsapp import FakeWhatsApp

NOW = 1_700_000_000.0


@dataclass
class Talk:
    """An app with one channel on, and its service."""

    app: App
    model: ScriptedModel
    clock: ManualClock
    service: Any

    def hook(self, text: str, *, name: str = "1", who: str = "ada", group: str = "", file: str = "") -> Hook:
        return self.service.hook(text, name=name, who=who, group=group, file=file, now=self.clock.now())

    async def post(self, hook: Hook) -> httpx.Response:
        transport = httpx.ASGITransport(self.app.asgi())
        query = f"?{hook.query}" if hook.query else ""
        async with httpx.AsyncClient(transport=transport, base_url="https://sampan.test") as client:
            return await client.post(
                f"/webhooks/{self.service.kind}{query}", content=hook.body, headers=hook.headers
            )

    async def say(self, text: str, **how: str) -> None:
        answer = await self.post(self.hook(text, **how))
        assert 200 <= answer.status_code < 300, answer.text

    async def settled(self) -> list[str]:
        await self.app.engine.drain()
        texts: list[str] = self.service.texts
        return texts

    def heard(self) -> list[list[str]]:
        """What the agent was shown of each conversation: what people said, answers left out."""
        return [[m.text for m in prompt.messages if m.role == "user"] for prompt in self.model.prompts]


Make = Callable[..., Talk]


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.kind)
def talk(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes an app with a script for its agent."""
    with ExitStack() as stack:

        def make(
            *script: Any,
            store: Store | None = None,
            clock: ManualClock | None = None,
            tools: Sequence[Any] = (),
            **options: str,
        ) -> Talk:
            service: Speaker = request.param()
            service.url = stack.enter_context(serving(service))
            clock = clock or ManualClock(NOW, jump=True)
            model = ScriptedModel(script)
            own = {"kind": service.kind, "open": "true", **service.settings(), **options}
            app = build_app(
                Settings(store="memory", channels={service.kind: own}, public_url="https://sampan.test"),
                agents=[Agent(name="assistant", model=model, tools=list(tools))],
                clock=clock,
                store=store,
            )
            return Talk(app, model, clock, service)

        yield make


async def test_the_same_webhooks_shuffled_give_one_answer_each(talk: Make) -> None:
    home = talk("First.", "Second.")
    hooks = [home.hook("One?", name="11"), home.hook("Two?", name="12")] * 5
    random.Random(5).shuffle(hooks)
    answers = {(await home.post(hook)).status_code for hook in hooks}
    assert answers <= {200, 202, 204}
    assert sorted(await home.settled()) == ["First.", "Second."]
    assert sorted(said[-1] for said in home.heard()) == ["One?", "Two?"]


async def test_an_unsigned_webhook_is_refused(talk: Make) -> None:
    home = talk()
    assert (await home.post(home.service.unsigned(home.hook("One?")))).status_code == 401
    assert await home.settled() == []


async def test_strangers_get_a_code_and_nothing_else(talk: Make) -> None:
    home = talk("Welcome.", open="false")
    for number in range(3):
        await home.say("Let me in", name=f"2{number}")
    [told] = await home.settled()
    guests = home.app.webhooks.guests
    [knock] = await guests.knocks("default", home.service.kind)
    assert knock.code in told
    assert home.model.prompts == []
    await guests.pair("default", home.service.kind, knock.code)
    await home.say("Thanks", name="29")
    assert (await home.settled())[1:] == ["Welcome."]


async def test_who_shares_a_conversation(talk: Make) -> None:
    """Two persons alone with the bot, then both in a group, then the first one alone again."""
    home = talk(*"abcde")
    said = [("ada", ""), ("bob", ""), ("ada", "room"), ("bob", "room"), ("ada", "")]
    for number, (who, group) in enumerate(said, 31):
        if not group or home.service.groups:
            await home.say(str(number), name=str(number), who=who, group=group)
            await home.settled()
    alone = [["31"], ["32"], ["31", "35"]]
    together = [["33"], ["33", "34"]] if home.service.groups else []
    assert sorted(home.heard()) == sorted(alone + together)
    reached = home.service.reached()
    assert reached[0] == reached[-1] or home.service.kind == "discord"
    assert reached[0] != reached[1]


async def test_a_picture_is_seen(talk: Make) -> None:
    home = talk("A cat.")
    home.service.files["cat.png"] = ("image/png", b"\x89PNG of a cat")
    await home.say("What is it?", file="cat.png")
    assert await home.settled() == ["A cat."]
    pictures = [p for m in home.model.prompts[0].messages for p in m.parts if isinstance(p, Image)]
    assert [(p.media_type, p.data) for p in pictures] == [("image/png", b"\x89PNG of a cat")]


async def test_a_long_answer_is_several_messages_in_order(talk: Make) -> None:
    """Cut behind sentences, and none longer than the service takes; a code block stays whole."""
    limit = talk_limit(talk)
    code = "```\n" + "x = 1\n" * (limit // 12) + "```"
    first, last = "First one. " * (limit // 14), "Last one. " * (limit // 14)
    home = talk(f"{first}\n\n{code}\n\n{last}")
    await home.say("Tell me")
    texts = await home.settled()
    assert len(texts) >= 2
    assert all(home.service.size(text) <= home.service.limit for text in texts)
    assert sum(text.count("x = 1") for text in texts) == limit // 12
    assert [text.count("x = 1") for text in texts if "x = 1" in text] == [limit // 12]
    assert texts[0].startswith("First one.")
    assert texts[-1].rstrip().endswith("one.")


def talk_limit(talk: Make) -> int:
    return talk().service.limit


async def test_a_limit_is_waited_out(talk: Make) -> None:
    home = talk("Warm.", "Patience.")
    await home.say("Hi", name="41")
    assert await home.settled() == ["Warm."]
    home.service.next_answers = [home.service.LIMITED]
    await home.say("Hi again", name="42")
    assert await home.settled() == ["Warm."]
    home.clock.advance(29)
    assert (await home.app.engine.sweep()).pushed == 0
    home.clock.advance(60)
    assert (await home.app.engine.sweep()).pushed == 1
    assert home.service.texts == ["Warm.", "Patience."]


async def test_what_is_never_taken_becomes_a_dead_letter(talk: Make) -> None:
    home = talk("Warm.", "Hello?")
    await home.say("Hi", name="51")
    await home.settled()
    home.service.next_answers = [home.service.REFUSED]
    await home.say("Hi", name="52")
    assert await home.settled() == ["Warm."]
    assert len(await home.app.engine.dead(Principal())) == 1


async def test_after_a_crash_nothing_is_lost_nor_doubled_where_the_service_can_tell(talk: Make) -> None:
    """The message arrived, and the process died before it knew."""
    clock = ManualClock(NOW, jump=True)
    store = FaultyStore(MemoryStore(clock))
    home = talk("Only once.", store=store, clock=clock)
    # The writes: accept, commit, then "being sent"; the one that follows the message says that it arrived.
    store.plan(Fault(4, StoreBusyError("locked"), "write"))
    await home.say("Hi")
    assert await home.settled() == ["Only once."]
    store.check_used_up()
    clock.advance(400)
    assert (await home.app.engine.sweep()).pushed == 1
    assert home.service.texts == ["Only once."] * (1 if home.service.once else 2)


BUTTONS = ("slack", "feishu", "telegram", "teams")


def asking(home: Talk) -> bool:
    """Whether the service has buttons; where it has none, nothing is asked in the chat."""
    return home.service.kind in BUTTONS


def wants(name: str) -> Reply:
    """The model wishes to call a tool."""
    call = ToolCall("c1", name, '{"cents": 5}')
    return Reply(
        message=Message(role="assistant", tool_calls=(call,)),
        finish="tool_calls",
        usage=Usage(input=10, output=5),
    )


@pytest.mark.parametrize(("answer", "paid"), [("Approve", [5]), ("Deny", [])])
@pytest.mark.parametrize("group", ["", "room"])
async def test_a_click_answers_what_a_run_asks(talk: Make, answer: str, paid: list[int], group: str) -> None:
    """Only a click of the person who asked, and only the first; in a group too."""
    done: list[int] = []

    @tool(effects="once", approval=True)
    def refund(cents: int) -> str:
        """Pay back."""
        done.append(cents)
        return "paid"

    home = talk(wants("refund"), "As you wish.", clock=ManualClock(NOW), tools=[refund])
    if not asking(home):
        assert home.app.engine._kit.asks == set()
        return
    await home.say("Refund it", name="61", group=group)
    [question] = await home.settled()
    assert "refund" in question
    assert "cents" in question
    value = home.service.buttons()[answer]
    now = home.clock.now()
    for number, (who, forged) in enumerate([("bob", value), ("ada", value[:-3] + "xyz"), ("ada", "yes:1:2")]):
        press = home.service.press(forged, name=f"7{number}", who=who, group=group, now=now)
        assert (await home.post(press)).status_code == 200
    assert await home.settled() == [question], "nothing but the person's own click counts"
    for _ in range(3):
        press = home.service.press(value, name="77", who="ada", group=group, now=now)
        assert (await home.post(press)).status_code == 200
    assert (await home.settled())[1:] == ["As you wish."]
    assert done == paid


async def test_where_a_second_factor_is_needed_the_button_leads_to_the_console(talk: Make) -> None:
    @tool(effects="once", approval=True, stepup=True)
    def refund(cents: int) -> str:
        """Pay back."""
        raise AssertionError("a click must not approve it")

    home = talk(wants("refund"), "No.", clock=ManualClock(NOW), tools=[refund])
    if not asking(home):
        assert home.app.engine._kit.asks == set()
        return
    await home.say("Refund it", name="81")
    await home.settled()
    buttons = home.service.buttons()
    assert buttons["Approve on the console"].startswith("https://sampan.test/console/runs/")
    forged = buttons["Deny"].replace("no:", "yes:")
    for name, value in (("82", forged), ("83", buttons["Deny"])):
        press = home.service.press(value, name=name, who="ada", group="", now=home.clock.now())
        assert (await home.post(press)).status_code == 200
    assert (await home.settled())[1:] == ["No."]


async def test_a_question_that_did_not_arrive_is_asked_again(talk: Make) -> None:
    @tool(effects="once", approval=True)
    def refund(cents: int) -> str:
        """Pay back."""
        return "paid"

    home = talk("Warm.", wants("refund"), clock=ManualClock(NOW), tools=[refund])
    if not asking(home):
        assert home.app.engine._kit.asks == set()
        return
    await home.say("Hi", name="91")
    await home.settled()
    home.service.next_answers = [home.service.LIMITED]
    await home.say("Refund it", name="92")
    assert await home.settled() == ["Warm."]
    home.clock.advance(61)
    await home.app.engine.sweep()
    await home.app.engine.sweep()
    assert len(home.service.texts) == 2
    assert set(home.service.buttons()) == {"Approve", "Deny"}


@pytest.mark.parametrize("talk", [FakeDiscord], indirect=True)
async def test_discord_answers_by_the_bot_when_the_command_has_ended(talk: Make) -> None:
    home = talk("Late.")
    home.service.ended.add("token-1")
    await home.say("Hi", group="room")
    assert await home.settled() == ["Late."]
    assert home.service.reached() == ["room"]


@pytest.mark.parametrize("talk", [FakeDingTalk], indirect=True)
async def test_dingtalk_answers_by_the_robot_when_the_session_has_ended(talk: Make) -> None:
    home = talk("To one.", "To all.")
    home.service.ended = True
    for number, group in enumerate(["", "room"]):
        await home.say("Hi", name=f"1{number}", group=group)
        await home.settled()
    assert [(one["where"], one["by"]) for one in home.service.messages] == [
        ("cid-ada", "robot"),
        ("room", "robot"),
    ]


@pytest.mark.parametrize("talk", [FakeLine], indirect=True)
async def test_line_replies_by_the_token_and_pushes_where_it_is_spent(talk: Make) -> None:
    home = talk("By reply.", "By push.", clock=ManualClock(NOW), reply="true")
    await home.say("Hi", name="1")
    await home.settled()
    hook = home.hook("Hi", name="2")
    home.service.tokens.clear()
    await home.post(hook)
    await home.settled()
    assert [(one["text"], one["by"]) for one in home.service.messages] == [
        ("By reply.", "reply"),
        ("By push.", "push"),
    ]


@pytest.mark.parametrize("talk", [FakeFeishu, FakeWeCom, FakeWeChat], indirect=True)
async def test_an_access_token_is_kept_renewed_and_fetched_anew_where_refused(talk: Make) -> None:
    home = talk(*"abcd")
    for number in range(2):
        await home.say("Hi", name=f"1{number}")
        await home.settled()
    assert home.service.tokens_given == 1
    home.service.token = "revoked"
    await home.say("Hi", name="12")
    await home.settled()
    assert home.service.tokens_given == 2
    home.clock.advance(7200 - 299)
    await home.say("Hi", name="13")
    assert await home.settled() == list("abcd")
    assert home.service.tokens_given == 3


@pytest.mark.parametrize("talk", [FakeTeams], indirect=True)
async def test_teams_gives_its_token_to_no_other_service(talk: Make) -> None:
    """Although the token that signs the message covers the address."""
    home = talk("Secret.", service="https://connector.example")
    await home.say("Hi")
    assert await home.settled() == []
    assert home.service.calls == ["GET /keys"]
    [letter] = await home.app.engine.dead(Principal())
    assert "serviceUrl" in letter.reason


@pytest.mark.parametrize("talk", [FakeLine], indirect=True)
async def test_line_quotes_in_a_group_what_the_answer_is_to(talk: Make) -> None:
    """Once, at the beginning; between two alone there is nothing to tell apart."""
    home = talk("To all.", "Long. " * 1200, "To one.")
    for number, group in enumerate(["room", "room", ""]):
        await home.say("Hi", name=f"1{number}", group=group)
        await home.settled()
    quotes = [message["quote"] for message in home.service.messages]
    assert quotes == ["quote-Croom-10", "quote-Croom-11", "", ""]


@pytest.mark.parametrize("talk", [FakeWeCom], indirect=True)
async def test_wecom_gets_no_more_than_30_messages_a_minute_for_one_person(talk: Make) -> None:
    """It would drop more without a word, so nothing could be sent again."""
    home = talk("A sentence of some length. " * 600)
    await home.say("Tell me")
    texts = await home.settled()
    assert len(texts) > 5
    assert home.clock.now() - NOW >= (len(texts) - 1) * 60 / 30


@pytest.mark.parametrize("talk", [FakeWhatsApp], indirect=True)
async def test_what_whatsapp_did_not_deliver_is_logged(talk: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It took the message first, so there is no other sign of it; what arrived is no news."""
    home = talk()
    failed = {"status": "failed", "biz_opaque_callback_data": "run1/0", "errors": [{"code": 131047}]}
    for status in ({"status": "delivered", "id": "wamid.1"}, failed):
        assert (await home.post(home.service.status(status))).status_code == 200
    [line] = [record.getMessage() for record in caplog.records if record.name == "sampan.whatsapp"]
    assert "run1/0" in line
    assert "131047" in line
    assert await home.settled() == []
