"""What can't be stored, given back by a user's own agent or plugin: that run fails, and the session goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agent_core import Agent, Chunk, Message, Reply, Stop
from agent_core.engine.runs import Inbound
from agent_core.messages import Principal
from agent_core.models.scripted import ScriptedModel
from agent_core.testing import test_app

HALF = "half of it: \ud83d"


def said(text: str) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), session_id="s")


class Framework:
    """Another framework's agent; what it gives back the second time is sound."""

    name = "a"

    def __init__(self, given: Any) -> None:
        self.given = [given, Chunk(reply=Reply(message=Message.of("assistant", "Of course.")))]

    async def respond(self, messages: list[Message], turn: Any) -> AsyncIterator[Any]:
        yield Chunk(text="I begin ")
        yield self.given.pop(0)


class Awaited(Framework):
    """The same, without streaming."""

    async def respond(self, messages: list[Message], turn: Any) -> Any:  # type: ignore[override]
        given = self.given.pop(0)
        return given.reply if isinstance(given, Chunk) else given


class Broken:
    """A plugin that spoils the first message, on its way in or out."""

    def __init__(self, hook: str, spoil: Callable[[], Message]) -> None:
        self.spoilt = False
        self.spoil = spoil
        setattr(self, hook, self.work)

    def work(self, message: Message) -> Message:
        if self.spoilt:
            return message
        self.spoilt = True
        return self.spoil()


def _stop() -> Message:
    raise Stop(HALF)


def _plugged(hook: str, spoil: Callable[[], Message]) -> Agent:
    model = ScriptedModel(["Of course."] * (2 if hook == "on_reply" else 1))
    return Agent(name="a", model=model, plugins=[Broken(hook, spoil)])


UNSOUND = {
    "half a surrogate pair": Framework(Chunk(reply=Reply(message=Message.of("assistant", HALF)))),
    "the same, awaited": Awaited(Chunk(reply=Reply(message=Message.of("assistant", HALF)))),
    "a number for text": Framework(Chunk(reply=Reply(message=Message.of("assistant", 5)))),  # type: ignore[arg-type]
    "a text for a chunk": Framework("words"),
    "a text for a reply": Framework(Chunk(reply="words")),  # type: ignore[arg-type]
    "a text for a reply, awaited": Awaited("words"),
    "a plugin's message": _plugged("process", lambda: Message.of("user", HALF)),
    "a plugin's reply": _plugged("on_reply", lambda: Message.of("assistant", HALF)),
    "a plugin's last word": _plugged("process", _stop),
}


@pytest.mark.parametrize("agent", UNSOUND.values(), ids=UNSOUND)
async def test_the_run_fails_and_the_session_goes_on(agent: Any) -> None:
    app = test_app(agent)
    run = await app.engine.answer(said("one"))
    assert run.status == "failed"
    assert run.failure is not None
    assert run.failure.slug == ("plugin" if isinstance(agent, Agent) else "model-malformed")
    again = await app.engine.answer(said("two"))
    assert again.reply is not None
    assert again.reply.text == "Of course."
    page = await app.engine.session(Principal(), "s")
    assert not page.session.busy
    await app.close()


async def test_half_a_character_in_a_stream_is_replaced() -> None:
    app = test_app(Framework(Chunk(text=HALF)))
    events = [event async for event in app.engine.stream(said("one"))]
    assert [event.data["text"] for event in events if event.type == "text"] == ["I begin ", "half of it: ?"]
    assert events[-1].type == "error"
    await app.close()
