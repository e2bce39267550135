"""New code is deployed in the middle of a run: what was done is not done again, what was paid for is used."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core import Agent, Compaction, Limits, Tool, Turn, tool
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.compaction import INSTRUCTIONS
from agent_core.engine.points import watch
from agent_core.engine.runs import Run
from agent_core.messages import Chunk, Message, Prompt, Reply, ToolCall, ToolResult, Usage
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, test_app
from tests.durability.stage import ME, Mortal, said

RUN = keys.run_id(ME, "k")
LONG = "word " * 100

Rounds = list[list[str]]


class World:
    """What outlives processes: the store, the clock, and what models and tools have really done."""

    def __init__(self, rounds: Rounds, joins: int) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.rounds, self.joins = rounds, joins
        self.asked = Counter[int]()
        self.summaries = 0
        self.effects = Counter[str]()
        self.app: App | None = None

    def deploy(self, code: dict[str, object]) -> None:
        """Start a process with this code."""
        self.mortal = Mortal(self.store)
        rules = Compaction(at_tokens=150, keep=2) if code["compacts"] else None
        made = Agent(
            name="assistant",
            model=Clerk(self),
            instructions=f"Version {code['version']}.",
            tools=[*map(self.tool, ("look", "send", "pay", "sign")), *([extra] if code["extra"] else [])],
            history=int(str(code["history"])),
            compaction=rules,
            plugins=[Polite()] if code["plugin"] else [],
            busy="merge" if code["merges"] else "enqueue",
            untrusted="allow",
            limits=Limits(steps=500, tool_calls=500),
        )
        self.app = test_app(made, store=self.mortal, clock=self.clock)

    def tool(self, name: str) -> Tool:
        """A tool that counts what it did: by what it was called with, and by its key."""
        effects = {"look": "none", "send": "repeatable"}.get(name, "once")

        async def work(what: str, turn: Turn) -> str:
            """Work."""
            if self.joins and what.startswith(f"{self.joins}."):
                assert self.app is not None
                await self.app.engine.submit(said("By the way", session_id="s", key="joins"))
            if effects == "repeatable":
                self.effects[f"{name} {what}"] += f"key {turn.idempotency_key}" not in self.effects
            else:
                self.effects[f"{name} {what}"] += 1
            self.effects[f"key {turn.idempotency_key}"] += 1
            return f"<{what}>"

        def lookup(key: str) -> str | None:
            return "<found>" if f"key {key}" in self.effects else None

        work.__name__ = name
        return tool(effects=effects, approval=name == "sign", lookup=lookup if effects == "once" else None)(
            work
        )


@tool
def extra(word: str) -> str:
    """Does nothing that anybody wants."""
    return word


class Polite:
    """A plugin that changes what comes in, what goes out, and what is called."""

    def process(self, message: Message) -> Message:
        return Message.of("user", f"Please: {message.text}")

    async def on_reply(self, message: Message) -> None:
        """Waits for somebody else."""
        await asyncio.sleep(0)

    def after_tool(self, result: ToolResult) -> ToolResult:
        return result


class Clerk:
    """A model that knows from its prompt how far it is, and gives all calls of a round one id."""

    name, tools, context_window = "scripted:clerk", True, 100_000

    def __init__(self, world: World) -> None:
        self.world = world

    async def reply(self, prompt: Prompt) -> Reply:
        if prompt.system == INSTRUCTIONS:
            self.world.summaries += 1
            return Reply(message=Message.of("assistant", "SUMMARY"), usage=Usage(1, 0, 1))
        aside = prompt.messages[-1].text.endswith("By the way") and prompt.messages[-2].role != "tool"
        if aside or prompt.messages[-1].text.endswith(LONG):
            return Reply(message=Message.of("assistant", "Small talk."), usage=Usage(1, 0, 1))
        calls = [call for message in prompt.messages for call in message.tool_calls]
        at = 1 + max((int(call.arguments.split('"')[3].split(".")[0]) for call in calls), default=0)
        self.world.asked[at] += 1
        if at > len(self.world.rounds):
            return Reply(message=Message.of("assistant", "THE ANSWER"), usage=Usage(1, 0, 1))
        made = (
            ToolCall("", name, f'{{"what": "{at}.{place}"}}')
            for place, name in enumerate(self.world.rounds[at - 1])
        )
        return Reply(
            message=Message(role="assistant", tool_calls=tuple(made)),
            usage=Usage(1, 0, 1),
            finish="tool_calls",
        )

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None: ...


async def lives(world: World, boundaries: int) -> bool:
    """Work until the run has ended, or waits, or so many boundaries were passed: then the process is killed."""
    assert world.app is not None
    passed, dead, others = 0, asyncio.Event(), asyncio.all_tasks()

    def kill(name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == boundaries:
            world.mortal.dead = True
            dead.set()
        if dead.is_set():
            raise asyncio.CancelledError

    async def work() -> None:
        for _ in range(4):
            await agreed(world)

    watch(kill)
    working, died = asyncio.create_task(work()), asyncio.create_task(dead.wait())
    try:
        await asyncio.wait((working, died), return_when=asyncio.FIRST_COMPLETED, timeout=20)
    finally:
        watch(None)
    tasks = asyncio.all_tasks() - others
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    world.clock.advance(31)
    return not dead.is_set()


async def agreed(world: World) -> Run:
    """A person says yes to whatever the run asks, and it goes on; how it stood before."""
    assert world.app is not None
    run = await world.app.engine.run(ME, RUN)
    for question in run.questions:
        if question.open_at(world.clock.now()):
            await world.app.engine.approve(ME, RUN, question.hash)
    await world.app.engine.sweep()
    await world.app.engine.drain()
    return run


async def ended(world: World) -> Run:
    """Go on until the run has ended."""
    for _ in range(40):
        run = await agreed(world)
        if run.done:
            return run
        world.clock.advance(31)
    raise AssertionError("the run does not end")


codes = st.fixed_dictionaries(
    {
        "version": st.integers(1, 9),
        "compacts": st.booleans(),
        "history": st.sampled_from([2, 4, 40]),
        "extra": st.booleans(),
        "plugin": st.booleans(),
        "merges": st.booleans(),
    }
)
rounds = st.lists(
    st.lists(st.sampled_from(["look", "look", "send", "pay", "sign"]), min_size=1, max_size=3), max_size=4
)


@settings(deadline=None, max_examples=60)
@given(
    rounds=rounds,
    joins=st.integers(0, 4),
    lifes=st.lists(st.tuples(codes, st.integers(1, 40)), min_size=1, max_size=3),
    last=codes,
)
def test_a_run_survives_deploys(
    rounds: Rounds, joins: int, lifes: list[tuple[dict[str, object], int]], last: dict[str, object]
) -> None:
    asyncio.run(asyncio.wait_for(_survives(World(rounds, joins), lifes, last), 20))


async def _survives(
    world: World, lifes: list[tuple[dict[str, object], int]], last: dict[str, object]
) -> None:
    world.deploy(last)
    assert world.app is not None
    for n in range(3):
        await world.app.engine.answer(said(f"{n} {LONG}", session_id="s"))
    await world.app.engine.submit(said("Do it", session_id="s", key="k"), work=False)
    world.clock.advance(31)
    kills, before = 0, world.summaries
    for code, boundaries in lifes:
        world.deploy(code)
        kills += not await lives(world, boundaries)
    world.deploy(last)
    run = await ended(world)
    assert (run.status, run.reply and run.reply.text) == ("succeeded", "THE ANSWER")
    for what, times in world.effects.items():
        tool_name = what.split()[0]
        assert times == 1 or tool_name in ("look", "key"), (what, times)
    wanted = {
        f"{name} {at}.{place}" for at, names in enumerate(world.rounds, 1) for place, name in enumerate(names)
    }
    assert {what for what in world.effects if not what.startswith("key")} == wanted
    assert world.asked.total() <= len(world.rounds) + 1 + kills, (world.asked, kills)
    assert world.summaries - before <= 1 + kills + len(lifes) + 1
    steps = await world.app.engine.steps(ME, RUN)
    assert len({step.number for step in steps}) == len(steps)
    assert run.usage.total == sum(step.usage.total for step in steps)
