"""Who takes part: a model driven by its prompt, tools that log their effects, a receiver of pushes, a person."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from agent_core import Agent, Tool, Turn, tool
from agent_core.engine.calls import DENIED, EXPIRED, UNCERTAIN
from agent_core.engine.points import point
from agent_core.engine.runs import Delivery, Question, Run
from agent_core.messages import Chunk, Message, Prompt, Reply, ToolCall, ToolResult, Usage
from tests.durability.world import World

Rounds = Sequence[Sequence[ToolCall]]
Plan = Callable[[str], Rounds]
"""The rounds of tool calls that a user's words lead to."""


def call(name: str, **arguments: Any) -> ToolCall:
    """A call whose id tells it apart from the others of its round."""
    words = json.dumps(arguments, sort_keys=True)
    return ToolCall(f"{name}-{abs(hash_of(words)):x}", name, words)


def hash_of(words: str) -> int:
    """The same in every process, unlike hash()."""
    return sum((place + 1) * letter for place, letter in enumerate(words.encode())) % 65_521


class PromptedModel:
    """Says what the prompt asks for, whoever asks and however often: so it goes on in the same way after a restart.

    Each call is logged before it is answered: a call that was made is a call to be paid.
    """

    name = "prompted:test"
    tools = True
    context_window = 128_000

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan

    async def reply(self, prompt: Prompt) -> Reply:
        """The next round of calls, or the last words."""
        asked = max(place for place, message in enumerate(prompt.messages) if message.role == "user")
        words, since = prompt.messages[asked].text, prompt.messages[asked + 1 :]
        rounds = self._plan(words)
        done = sum(bool(message.tool_calls) for message in since)
        self._world.log("calls", words=words, round=done)
        point("model called")
        usage = Usage(input=100, output=10)
        if done < len(rounds):
            message = Message(role="assistant", tool_calls=tuple(rounds[done]))
            return Reply(message=message, usage=usage, model=self.name, finish="tool_calls")
        results = {result.call_id: result for message in since for result in message.tool_results}
        receipts = [receipt(made, results[made.id]) for calls in rounds for made in calls]
        text = "; ".join([f"You said: {words}", *receipts])
        return Reply(message=Message.of("assistant", text), usage=usage, model=self.name)

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The same in two pieces."""
        reply = await self.reply(prompt)
        text = reply.message.text
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            if piece:
                yield Chunk(text=piece)
        yield Chunk(reply=reply)

    async def close(self) -> None:
        """Nothing to let go of."""


def receipt(made: ToolCall, result: ToolResult) -> str:
    """What the model tells of a call. A person who settled an uncertain one knows that it was done."""
    if result.content in (DENIED, EXPIRED):
        return f"{made.name} refused"
    if result.error and result.content != UNCERTAIN:
        return f"{made.name} FAILED: {result.content}"
    return f"{made.name} {made.arguments}"


class Backend:
    """Where the tools' effects are: a log by idempotency key. What it was told is on the disk before it answers."""

    def __init__(self, world: World) -> None:
        self._world = world

    def runs_of(self, key: str) -> int:
        """How often something was done under this key."""
        return sum(entry["key"] == key for entry in self._world.read("effects"))

    def do(self, turn: Turn, name: str, **what: Any) -> str:
        """Do it, however often it was done before."""
        self._world.log("effects", tool=name, key=turn.idempotency_key, what=what, repeat=False)
        point("effect done")
        return f"{name} {json.dumps(what, sort_keys=True)}: done"

    def do_by_key(self, turn: Turn, name: str, **what: Any) -> str:
        """Do it unless it was done under this key before, as payment providers do."""
        with open(self._world.folder / "backend.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = [e for e in self._world.read("effects") if e["key"] == turn.idempotency_key]
            self._world.log("effects", tool=name, key=turn.idempotency_key, what=what, repeat=bool(known))
        point("effect done")
        return f"{name} {json.dumps(what, sort_keys=True)}: done"


def tools_of(backend: Backend) -> list[Tool]:
    """A tool of each kind. They are async, so that a process can be killed at a known place inside them."""

    @tool
    async def look(order: str, turn: Turn) -> str:
        """Look an order up."""
        return backend.do(turn, "look", order=order)

    @tool(effects="repeatable")
    async def pay(order: str, turn: Turn) -> str:
        """Pay an order; once per key, however often it is asked."""
        return backend.do_by_key(turn, "pay", order=order)

    @tool(effects="once")
    async def refund(order: str, turn: Turn) -> str:
        """Pay an order back; each time it is asked."""
        return backend.do(turn, "refund", order=order)

    @tool(effects="once", approval=True)
    async def transfer(order: str, turn: Turn) -> str:
        """Move money, if a person agrees."""
        return backend.do(turn, "transfer", order=order)

    async def sent(key: str) -> str | None:
        return "found: sent" if backend.runs_of(key) else None

    @tool(effects="once", lookup=sent)
    async def send(order: str, turn: Turn) -> str:
        """Send a parcel; can be asked whether it was sent."""
        return backend.do(turn, "send", order=order)

    return [look, pay, refund, transfer, send]


def agent_of(world: World, plan: Plan, **options: Any) -> Agent:
    """The agent under test."""
    tools = tools_of(Backend(world))
    # What tools say is not what is tried here: nobody is asked because of it.
    return Agent(
        name="assistant", model=PromptedModel(world, plan), tools=tools, untrusted="allow", **options
    )


class Postbox:
    """A deliverer: takes every push and logs it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        """Take it."""
        text = run.reply.text if run.reply else ""
        self._world.log("pushes", id=push_id, run=run.id, address=delivery.address, text=text)
        point("push arrived")


def verdict(world: World, run: Run, question: Question) -> bool:
    """What a person says: yes to what is asked for the first time; else what the log of effects tells."""
    if question.reason == "approval":
        return True
    return not Backend(world).runs_of(f"{run.id}-{question.step}")


def log_pid(world: World) -> None:
    """Note which process this is."""
    world.log("processes", pid=os.getpid())
