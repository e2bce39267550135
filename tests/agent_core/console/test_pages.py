"""What the pages show and do for somebody without JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent_core import Agent, ToolCall, tool
from agent_core.engine.runs import Inbound
from agent_core.errors import ModelBusyError
from agent_core.messages import Image, Message, Principal, Reply, Usage
from agent_core.testing import ScriptedModel

Sites = Callable[..., Any]


@tool
def order_status(order_id: str) -> str:
    """Where an order is now."""
    return f"order {order_id} is <shipped>"


def agent(*script: object, name: str = "assistant", **fields: object) -> Agent:
    return Agent(name=name, model=ScriptedModel(script), **fields)


def call(name: str = "order_status", arguments: str = '{"order_id": "4711"}') -> ToolCall:
    return ToolCall(id="c1", name=name, arguments=arguments)


def path_of(location: str) -> str:
    parts = urlsplit(location)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def test_the_front_page_is_a_new_chat(site: Sites) -> None:
    pages = site(agent())
    assert pages.client.get("/").headers["Location"] == "/chat"
    page = pages.get("/chat")
    assert page.one("h1").text == "What can I do for you?"
    action, fields = pages.form_of(page)
    assert action.startswith("/chat/")
    assert fields["agent"] == "assistant"
    assert pages.form_of(pages.get("/chat"))[0] != action


def test_a_message_by_form_is_answered_and_survives_a_reload(site: Sites) -> None:
    pages = site(agent([call()], "It is **on its way**.", tools=[order_status]))
    location = pages.say("Where is <b>4711</b>?")
    for _ in range(2):
        page = pages.get(path_of(location))
        assert page.one("h1").text == "Where is <b>4711</b>?"
        assert page.one("li", "user").text.split() == ["You", "Where", "is", "<b>4711</b>?"]
        assert page.one("strong").text == "on its way"
        shown = page.one("li", "tool", **{"data-state": "done"})
        assert "order_status" in shown.text
        assert '"order_id": "4711"' in shown.text
        assert "order 4711 is <shipped>" in shown.text
        assert "data-working" not in page.one("ol", "log").attributes


def test_a_conversation_goes_on_under_its_address(site: Sites) -> None:
    model = ScriptedModel(["one", "two"])
    pages = site(Agent(name="assistant", model=model))
    first = path_of(pages.say("first"))
    assert path_of(pages.say("second", first)) == first
    bubbles = pages.get(first).all("div", "bubble")
    assert [bubble.text.strip() for bubble in bubbles] == ["first", "one", "second", "two"]
    assert [message.text for message in model.prompts[1].messages] == ["first", "one", "second"]


def test_a_form_sent_twice_is_answered_once(site: Sites) -> None:
    model = ScriptedModel(["only once"])
    pages = site(Agent(name="assistant", model=model))
    action, fields = pages.new_chat()
    answers = [pages.client.post(action, data={**fields, "text": "hello"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert len(pages.get(action).all("li", "user")) == 1
    assert len(model.prompts) == 1


def test_a_key_used_for_another_message_is_refused_and_the_text_kept(site: Sites) -> None:
    pages = site(agent("first"))
    action, fields = pages.new_chat()
    pages.client.post(action, data={**fields, "text": "hello"})
    answer = pages.client.post(action, data={**fields, "text": "something <else>"})
    assert answer.status_code == 422
    assert "something &lt;else&gt;</textarea>" in answer.text
    assert "not sent" in answer.text


@pytest.mark.parametrize("text", ["", "   \n "])
def test_an_empty_message_is_not_sent(site: Sites, text: str) -> None:
    pages = site(agent())
    action, fields = pages.new_chat()
    answer = pages.client.post(action, data={**fields, "text": text})
    assert answer.status_code == 422
    assert "Write something first." in answer.text


def test_a_failed_run_says_why_in_the_conversation_and_on_its_page(site: Sites) -> None:
    pages = site(agent(ModelBusyError("the provider answers <503>"), "better now"))
    location = path_of(pages.say("hello"))
    failure = pages.get(location).one("li", "failure")
    assert "The model is not available now" in failure.text
    assert "the provider answers <503>" in failure.text
    pages.say("again", location)
    page = pages.get(location)
    assert [each.attributes["class"] for each in page.all("li", "item")] == [
        "item user",
        "item failure",
        "item user",
        "item assistant",
    ]
    runs = pages.get("/runs")
    assert {each.attributes["data-status"] for each in runs.all("span", "status")} == {"failed", "succeeded"}


def test_a_run_shows_its_steps_tokens_and_cost(site: Sites) -> None:
    reply = Reply(
        message=Message.of("assistant", "done <i>"),
        usage=Usage(input=10_000, cached_input=8_000, output=1_000, reasoning=600),
    )
    model = ScriptedModel([[call()], reply], name="openai:gpt-5-mini")
    pages = site(Agent(name="assistant", model=model, tools=[order_status]))
    pages.say("hello")
    page = pages.get(pages.get("/runs").one("a", "title").attributes["href"])
    assert [each.attributes["data-kind"] for each in page.all("li")] == ["model", "tool", "model"]
    steps = page.one("ol", "steps").text
    assert "10,000 in, 1,000 out" in steps
    assert "$0.0027" in steps  # 2,000 x 0.25 + 8,000 x 0.025 + 1,000 x 2 millionths
    assert "order 4711 is <shipped>" in steps
    assert "done <i>" in steps
    facts = page.one("dl").text
    assert "8,000 of the input from the cache" in facts
    assert "600 of the output for reasoning" in facts
    assert "openai:gpt-5-mini" in facts


def test_a_price_that_is_not_known_is_never_shown_as_nothing(site: Sites) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel(["hi"], name="openai:gpt-99")))
    pages.say("hello")
    runs = pages.get("/runs")
    assert "not known" in runs.one("ul", "cards").text
    page = pages.get(runs.one("a", "title").attributes["href"])
    assert page.source.count("not known") == 2
    assert "$" not in page.one("dl").text


def test_conversations_and_runs_are_listed_newest_first_in_pages(site: Sites) -> None:
    pages = site(agent(*[f"answer {number}" for number in range(35)]))
    for number in range(35):
        pages.app.clock.advance(60)
        pages.say(f"question {number}")
    first = pages.get("/sessions")
    titles = [link.text for link in first.all("a", "title")]
    assert titles == [f"question {number}" for number in range(34, 4, -1)]
    older = pages.get(first.one("a", rel="next").attributes["href"])
    assert [link.text for link in older.all("a", "title")] == [f"question {n}" for n in range(4, -1, -1)]
    assert not older.all("a", rel="next")
    runs = pages.get("/runs")
    assert len(runs.all("a", "title")) == 30
    assert len(pages.get(runs.one("a", rel="next").attributes["href"]).all("a", "title")) == 5


def test_a_long_conversation_is_shown_from_its_end_and_can_be_gone_back(site: Sites) -> None:
    pages = site(agent(*[f"answer {number}" for number in range(60)]))
    location = path_of(pages.say("question 0"))
    for number in range(1, 60):
        pages.say(f"question {number}", location)
    page = pages.get(location)
    bubbles = [bubble.text.strip() for bubble in page.all("div", "bubble")]
    assert len(bubbles) == 100
    assert bubbles[0] == "question 10"
    assert bubbles[-1] == "answer 59"
    (earlier,) = [each for each in page.all("a") if each.text == "Earlier messages"]
    before = pages.get(earlier.attributes["href"])
    shown = [bubble.text.strip() for bubble in before.all("div", "bubble")]
    assert shown[0] == "question 0"
    assert shown[-1] == "answer 9"
    assert not [each for each in before.all("a") if each.text == "Earlier messages"]


def test_messages_after_a_place_come_without_a_page_around_them(site: Sites) -> None:
    pages = site(agent("one", "two"))
    location = path_of(pages.say("first"))
    pages.say("second", location)
    part = pages.get(f"{location}/since/2")
    assert part.elements[0].tag == "ol"
    assert part.elements[0].attributes["data-last"] == "4"
    assert [bubble.text.strip() for bubble in part.all("div", "bubble")] == ["second", "two"]
    assert not pages.get(f"{location}/since/4").all("li")


def test_pictures_are_named_not_fetched(site: Sites) -> None:
    pages = site(agent("a cat"))
    message = Message(role="user", parts=(Image(media_type="image/png", data=b"png", name="<cat>.png"),))
    pages.bridge.run(pages.app.engine.answer(Inbound(messages=(message,), session_id="s1")))
    page = pages.get("/chat/s1")
    assert page.one("span", "media").text == "<cat>.png (image/png)"
    assert not page.all("img")


def test_a_run_that_waits_for_a_person_is_decided_on_its_page(site: Sites) -> None:
    done: list[str] = []

    @tool(effects="once", approval=True)
    def refund(order_id: str) -> str:
        """Pay an order back."""
        done.append(order_id)
        return "paid"

    pages = site(agent([call("refund")], "It is paid back.", tools=[refund]))
    location = path_of(pages.say("Give me my money"))
    waiting = pages.get(location).one("div", "waiting")
    assert "waits for a person" in waiting.text
    (link,) = [each for each in pages.get(location).all("a") if each.text == "Look and decide"]
    page = pages.get(link.attributes["href"])
    form = page.one("form", "waiting")
    assert "May the tool refund be called" in form.text
    assert '"order_id": "4711"' in form.text
    assert not done
    digest = page.one("input", name="hash").attributes["value"]
    answer = pages.client.post(form.attributes["action"], data={"hash": digest, "decision": "approve"})
    assert answer.status_code == 303
    pages.bridge.run(pages.app.engine.drain())
    assert done == ["4711"]
    assert "It is paid back." in pages.get(path_of(answer.headers["Location"])).one("ol", "log").text
    again = pages.client.post(form.attributes["action"], data={"hash": digest, "decision": "deny"})
    assert again.status_code == 409
    assert pages.client.post(form.attributes["action"], data={"hash": digest}).status_code == 400


def test_an_agent_is_chosen_where_there_are_several(site: Sites) -> None:
    pages = site(agent(), agent("I sell books.", name="books", description="Sells books."))
    page = pages.get("/chat?agent=books")
    assert [option.text for option in page.all("option")] == ["assistant", "books"]
    assert page.one("p", "lead").text == "Sells books."
    action, fields = pages.form_of(page)
    answer = pages.client.post(action, data={**fields, "agent": "books", "text": "hello"})
    shown = pages.get(path_of(answer.headers["Location"]))
    assert "I sell books." in shown.one("ol", "log").text
    assert not shown.all("select")
    assert pages.form_of(shown)[1]["agent"] == "books"


def test_an_agent_nobody_knows_is_refused_and_the_text_kept(site: Sites) -> None:
    pages = site(agent())
    action, fields = pages.new_chat()
    answer = pages.client.post(action, data={**fields, "agent": "nobody", "text": "hello"})
    assert answer.status_code == 404
    assert "hello</textarea>" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/chat/none",
        "/chat/a%20b",
        "/chat/" + "x" * 129,
        "/runs/none",
        "/nothing",
        "/sessions?before=none",
        "/static/x",
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(site: Sites, path: str) -> None:
    page = site(agent()).get(path, status=404)
    assert page.one("h1").text == "There is nothing here"
    assert "To the chat" in page.one("main").text


def test_a_message_that_is_too_large_is_a_page_that_says_so(site: Sites) -> None:
    pages = site(agent(), max_body_bytes=1000)
    action, fields = pages.new_chat()
    answer = pages.client.post(action, data={**fields, "text": "x" * 2000})
    assert answer.status_code == 413
    assert "That is too large" in answer.text


def test_another_users_conversation_is_not_there(site: Sites) -> None:
    pages = site(agent("secret"))
    inbound = Inbound(
        messages=(Message.of("user", "x"),), session_id="s1", principal=Principal(user="somebody")
    )
    run = pages.bridge.run(pages.app.engine.answer(inbound))
    pages.get("/chat/s1", status=404)
    pages.get(f"/runs/{run.id}", status=404)
    assert "no conversation yet" in pages.get("/sessions").one("main").text
