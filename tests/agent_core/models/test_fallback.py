"""When the next model is asked, and when not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent_core.errors import (
    ConfigError,
    ModelBusyError,
    ModelCutError,
    ModelError,
    ModelMalformedError,
    ModelRefusedError,
    ModelStalledError,
)
from agent_core.messages import Chunk, Message, Prompt, Reply
from agent_core.models.fallback import FallbackModel
from agent_core.testing import ScriptedModel

PROMPT = Prompt(messages=(Message.of("user", "Hi"),))


def models(*scripts: list[str | Exception]) -> tuple[FallbackModel, list[ScriptedModel]]:
    given = [ScriptedModel(script, name=f"scripted:{number}") for number, script in enumerate(scripts)]
    return FallbackModel(given), given


async def reply(model: FallbackModel) -> Reply:
    return await model.reply(PROMPT)


async def stream(model: FallbackModel) -> Reply:
    chunks = [chunk async for chunk in model.stream(PROMPT)]
    last = chunks[-1].reply
    assert last is not None
    assert "".join(chunk.text for chunk in chunks) == last.message.text
    return last


ways = pytest.mark.parametrize("way", [reply, stream])


@ways
async def test_the_first_answers(way: object) -> None:
    model, given = models(["one"], [])
    got = await way(model)  # type: ignore[operator]
    assert (got.message.text, got.model) == ("one", "scripted:0")
    assert not given[1].prompts


@ways
@pytest.mark.parametrize("kind", [ModelBusyError, ModelStalledError, ModelCutError, ModelMalformedError])
async def test_the_next_answers(way: object, kind: type[ModelError]) -> None:
    model, _ = models([kind("x")], [kind("y")], ["three"])
    got = await way(model)  # type: ignore[operator]
    assert (got.message.text, got.model) == ("three", "scripted:2")


@ways
async def test_a_refusal_is_final(way: object) -> None:
    model, given = models([ModelRefusedError("no")], ["two"])
    with pytest.raises(ModelRefusedError):
        await way(model)  # type: ignore[operator]
    assert not given[1].prompts


@ways
async def test_the_last_error_is_raised(way: object) -> None:
    model, given = models([ModelBusyError("one")], [ModelStalledError("two")])
    with pytest.raises(ModelStalledError, match="two"):
        await way(model)  # type: ignore[operator]
    for one in given:
        one.assert_used_up()


class Breaking(ScriptedModel):
    """Gives a piece of a reply, then breaks off."""

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        yield Chunk(text="one")
        raise ModelCutError("broke off")


async def test_not_after_a_piece_was_given_out() -> None:
    """The client has read it; another model's reply can't be put behind it."""
    other = ScriptedModel(["two"])
    chunks = FallbackModel([Breaking(), other]).stream(PROMPT)
    assert await anext(chunks) == Chunk(text="one")
    with pytest.raises(ModelCutError):
        await anext(chunks)
    assert not other.prompts


async def test_what_it_says_of_itself() -> None:
    given = [
        ScriptedModel(context_window=9_000, name="a:b"),
        ScriptedModel(context_window=5_000, tools=False),
    ]
    model = FallbackModel(given)
    assert (model.name, model.tools, model.context_window) == ("a:b", False, 5_000)
    await model.close()
    assert all(one.closed for one in given)
    with pytest.raises(ConfigError):
        FallbackModel([])
