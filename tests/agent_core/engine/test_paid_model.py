"""Which model a step is paid for: the one that answered, under the name that prices know."""

from __future__ import annotations

import pytest

from agent_core import Agent
from agent_core.engine.runs import Inbound, Run, Step
from agent_core.errors import ModelBusyError
from agent_core.messages import Message, Principal, Reply, Usage
from agent_core.models.fallback import FallbackModel
from agent_core.testing import ScriptedModel, test_app

USAGE = Usage(input=1000, output=100)


def said(model: str) -> Reply:
    return Reply(message=Message.of("assistant", "hi"), usage=USAGE, model=model)


async def step_of(agent: object, prices: str = "") -> tuple[Run, Step]:
    app = test_app(agent, prices=prices)
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "hello"),)))
    (step,) = await app.engine.steps(Principal(), run.id)
    await app.close()
    return run, step


@pytest.mark.parametrize("provider_says", ["gpt-5-mini-2025-08-07", "qwen3:8b", "local:cheat", ""])
async def test_what_a_provider_calls_its_model_does_not_matter(provider_says: str) -> None:
    model = ScriptedModel([said(provider_says)], name="openai:gpt-5-mini")
    run, step = await step_of(Agent(name="assistant", model=model))
    assert (step.name, step.cost) == ("openai:gpt-5-mini", 450_000)
    assert run.cost == 450_000
    assert not run.unpriced


async def test_of_several_models_the_one_that_answered_is_paid() -> None:
    first = ScriptedModel([ModelBusyError("503")], name="openai:gpt-5-mini")
    second = ScriptedModel([said("claude-haiku-4-5-20251001")], name="anthropic:claude-haiku-4-5")
    run, step = await step_of(Agent(name="assistant", model=FallbackModel([first, second])))
    assert (step.name, step.cost) == ("anthropic:claude-haiku-4-5", 1_500_000)
    assert run.models == ("anthropic:claude-haiku-4-5",)


async def test_an_unpriced_model_that_stepped_in_is_named() -> None:
    first = ScriptedModel([ModelBusyError("503")], name="openai:gpt-5-mini")
    second = ScriptedModel([said("qwen3:8b")], name="openai@http://127.0.0.1:11434/v1:qwen3:8b")
    run, step = await step_of(Agent(name="assistant", model=FallbackModel([first, second])))
    assert step.cost is None
    assert run.unpriced == ("openai@http://127.0.0.1:11434/v1:qwen3:8b",)


class Framework:
    """Another framework in an agent's place."""

    name = "framework"

    def __init__(self, model: str) -> None:
        self._model = model

    async def respond(self, messages: object, turn: object) -> Reply:
        return said(self._model)


async def test_another_framework_may_say_whom_to_pay() -> None:
    _, step = await step_of(Framework("openai:gpt-5-mini"))
    assert (step.name, step.cost) == ("openai:gpt-5-mini", 450_000)
    run, step = await step_of(Framework("something"))
    assert (step.name, step.cost) == ("framework", None)
    assert run.unpriced == ("framework",)
