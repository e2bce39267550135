"""A greeting alone is answered without a model; anything more goes on."""

from __future__ import annotations

import pytest

from agent_core.agent import Agent
from agent_core.engine.runs import Inbound
from agent_core.messages import Image, Message, Text
from agent_core.plugins.base import Stop
from agent_core.plugins.greeting import Greeting
from agent_core.testing import ScriptedModel, test_app


@pytest.mark.parametrize("words", ["Hi", "hello!", "  Good morning. ", "你好！", "Hey there 👋", "GRÜEZI"])
def test_a_greeting_is_answered(words: str) -> None:
    with pytest.raises(Stop) as caught:
        Greeting("Welcome.").process(Message.of("user", words))
    assert caught.value.reply == "Welcome."


@pytest.mark.parametrize("words", ["hi, where is my order?", "high", "", "hello world", "你好吗"])
def test_anything_more_goes_on(words: str) -> None:
    Greeting().process(Message.of("user", words))


def test_a_greeting_with_a_picture_goes_on() -> None:
    Greeting().process(Message(role="user", parts=(Text("hi"), Image("image/png", data=b"1"))))


def test_words_can_be_chosen() -> None:
    with pytest.raises(Stop):
        Greeting(words=["Ahoi"]).process(Message.of("user", "ahoi"))


async def test_in_an_app_no_model_is_called() -> None:
    model = ScriptedModel(["It is on its way."])
    app = test_app(Agent(name="a", model=model, plugins=[Greeting()]))
    hello = await app.engine.answer(Inbound(messages=(Message.of("user", "Hello"),)))
    assert hello.reply is not None
    assert (hello.reply.text, hello.usage.total, model.prompts) == ("Hello! How can I help you?", 0, [])
    order = await app.engine.answer(Inbound(messages=(Message.of("user", "Where is my order?"),)))
    assert order.reply is not None
    assert order.reply.text == "It is on its way."
    await app.close()
