"""A run of any length fits its model's window, step by step; nothing is paid for twice, and no word of the user is lost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import pytest

from agent_core import Agent, Compaction, Limits, Message, Principal, Reply, ToolCall, Usage, tool
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.points import watch
from agent_core.engine.runs import Inbound, Run
from agent_core.engine.summaries import INSTRUCTIONS
from agent_core.engine.window import tokens
from agent_core.errors import ContextLengthError, ModelBusyError, ModelRefusedError, TooLargeError
from agent_core.messages import Chunk, Prompt
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, ScriptedModel, test_app

ME = Principal()
Calls = tuple[ToolCall, ...]


def counted(prompt: Prompt, rate: float = 1.0) -> int:
    """What a provider would count."""
    told = len(prompt.system) // 4 + len(msgspec.json.encode(prompt.tools)) // 4
    return int((told + sum(map(tokens, prompt.messages))) * rate)


class Narrow:
    """A model that follows a plan of calls, one step after the other, and refuses what is longer than its window.

    Which step a prompt is of it reads from the number of its calls so far, which is in each call's id. A provider's
    tokens are `rate` of ours.
    """

    tools = True

    def __init__(self, plan: list[Calls], window: int, rate: float = 1.0, real: int = 0) -> None:
        self.name = "openai:gpt-5-mini"
        self.context_window = window
        self.plan, self.rate, self.real = plan, rate, real or window
        self.prompts: list[Prompt] = []
        self.summaries = 0
        self.refused = 0
        self.fail: list[Exception] = []

    async def reply(self, prompt: Prompt) -> Reply:
        size = counted(prompt, self.rate)
        if size + (prompt.max_tokens or 0) > self.real:
            self.refused += 1
            raise ModelRefusedError(f"This model's maximum context length is {self.real} tokens, not {size}")
        if prompt.system == INSTRUCTIONS:
            if self.fail:
                raise self.fail.pop(0)
            self.summaries += 1
            words = "Steps so far gave nothing new. " * 400  # longer than was asked for
            return Reply(message=Message.of("assistant", words), usage=Usage(size, 0, 10))
        step = len(self.prompts)
        self.prompts.append(prompt)
        if step >= len(self.plan):
            return Reply(message=Message.of("assistant", "Done."), usage=Usage(size, 0, 5))
        message = Message(role="assistant", tool_calls=self.plan[step])
        return Reply(message=message, finish="tool_calls", usage=Usage(size, 0, 20))

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None:
        pass


def paired(prompt: Prompt) -> None:
    """No call without its result, no result without its call."""
    open_calls: list[str] = []
    for message in prompt.messages:
        if message.role == "tool":
            assert sorted(open_calls) == sorted(result.call_id for result in message.tool_results)
            open_calls = []
        else:
            assert not open_calls
        open_calls += [call.id for call in message.tool_calls]
    assert not open_calls


def cuts(prompts: Iterable[Prompt]) -> int:
    """How often a prompt does not begin with the one before, byte by byte."""
    found, before = 0, b""
    for prompt in prompts:
        now = msgspec.json.encode([prompt.system, prompt.tools]) + b"".join(map(msgspec.json.encode, prompt.messages))
        found += not now.startswith(before)
        before = now
    return found


def reading(size: int, kind: str) -> Any:
    words = {"words": "word ", "numbers": "1234567890 ", "chinese": "一页文字"}[kind]

    @tool
    async def read(page: int) -> str:
        """Read a page."""
        length = size * (1 + page % 3) // 2
        return f"page {page} " + (words * (length // len(words) + 1))[:length]

    return read


def planned(steps: int, parallel: int) -> list[Calls]:
    return [
        tuple(ToolCall(f"c{step}.{n}", "read", f'{{"page": {step * parallel + n}}}') for n in range(parallel))
        for step in range(steps)
    ]


def said(text: str, **fields: Any) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), session_id="s", **fields)


LONG = Limits(steps=10_000, tool_calls=100_000, tokens=10**12, seconds=1e9)


@pytest.mark.parametrize("seed", range(40))
async def test_each_prompt_fits_whatever_the_shape(seed: int) -> None:
    chance = random.Random(seed)
    window = chance.choice((2_000, 4_000, 8_000, 16_000, 32_000))
    steps, parallel = chance.randint(5, 60), chance.choice((1, 1, 2, 5))
    size = chance.choice((100, 2_000, window, 4 * window))
    model = Narrow(planned(steps, parallel), window, rate=chance.choice((1.0, 1.3)))
    rules = chance.choice((None, Compaction(at_tokens=window // 4, keep=4)))
    kind = chance.choice(("words", "numbers", "chinese"))
    app = test_app(Agent(name="a", model=model, tools=[reading(size, kind)], limits=LONG, compaction=rules))
    words = "Read all pages, please. " * chance.choice((1, window // 60))
    run = await app.engine.answer(said(words, key="k"))
    assert (run.status, len(model.prompts)) == ("succeeded", steps + 1), run.failure
    for prompt in model.prompts:
        paired(prompt)
        assert any(message.text == words for message in prompt.messages)
    assert model.refused <= 1
    assert cuts(model.prompts) <= 3 + steps // 2


async def test_a_long_chat_before_a_long_run_gives_way_first_and_the_pinned_stays() -> None:
    plan = planned(30, 1)
    model = Narrow([], 8_000)
    app = test_app(Agent(name="a", model=model, tools=[reading(2_000, "words")], limits=LONG))
    pin = Message.of("user", "My name is Ada.", metadata={"pinned": "yes"})
    await app.engine.answer(Inbound(messages=(pin,), session_id="s"))
    for n in range(10):
        await app.engine.answer(said(f"{n} " + "word " * 300))
    model.plan, model.prompts = plan, []
    run = await app.engine.answer(said("Read all"))
    assert run.status == "succeeded"
    for prompt in model.prompts:
        paired(prompt)
        assert any("My name is Ada." in message.text for message in prompt.messages)
    assert cuts(model.prompts) < 10


class Died(BaseException):
    pass


async def killed_at(kill: int, plan: list[Calls], rules: Compaction | None) -> tuple[Run, Narrow, int, int]:
    """The run, with its process killed at the `kill`-th point; how often a model's answer was lost, and the points."""
    clock, model = ManualClock(), Narrow(plan, 4_000)
    store = MemoryStore(clock)
    agent = Agent(name="a", model=model, tools=[reading(3_000, "words")], limits=LONG, compaction=rules)
    app = test_app(agent, store=store, clock=clock)
    seen = 0
    raise NotImplementedError
