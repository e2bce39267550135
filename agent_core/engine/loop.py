"""The agent's loop: plugins in, model, tools, model again, plugins out; every step journaled, limits checked first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from agent_core.agent import Responder
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.pricing import Prices
from agent_core.engine import window
from agent_core.engine.bound import Bound
from agent_core.engine.feed import Feed
from agent_core.engine.journal import Journal
from agent_core.engine.limits import Meter
from agent_core.engine.points import point
from agent_core.engine.runs import Inbound, Run, Step
from agent_core.errors import ModelMalformedError, ModelRefusedError
from agent_core.messages import (
    DATA_CLASSES,
    Chunk,
    DataClass,
    Finish,
    Message,
    Prompt,
    Reply,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from agent_core.plugins.base import Stop

REPLY_RESERVE = 1024
"""Tokens of the model's window that are kept free for its reply, where nobody says how long it may be."""

UNCERTAIN = (
    "It is not known whether this was done: the service stopped in the middle of it. "
    "Do not call it again; tell the user that a person has to check."
)


@dataclass
class Attempt:
    """One worker's attempt to answer one inbound message; `messages` grows as the work goes on."""

    run: Run
    inbound: Inbound
    bound: Bound
    history: Sequence[Message]
    journal: Journal
    feed: Feed
    clock: Clock
    blobs: Blobs
    prices: Prices
    meter: Meter
    messages: list[Message] = field(default_factory=list)
    number: int = 0

    async def perform(self) -> Finish:
        """Work until there is a reply; it is the last of `messages` then."""
        try:
            for message in self.inbound.messages:
                if message.role == "user":
                    message = await self.bound.plugins.process(message, self.turn())
                self.messages.append(message)
        except Stop as stop:
            reply = stop.reply if isinstance(stop.reply, Message) else Message.of("assistant", stop.reply)
            self.messages = [*self.inbound.messages]
            return await self._answered(Reply(message=reply))
        while True:
            reply = await self._model_step()
            own, theirs = self._split(reply.message.tool_calls)
            if theirs:
                # The caller runs these itself; its next request brings the results.
                message = msgspec.structs.replace(reply.message, tool_calls=tuple(theirs))
                return await self._answered(msgspec.structs.replace(reply, message=message, finish="tool_calls"))
            if not own:
                return await self._answered(reply)
            self.messages.append(self._dated(reply.message))
            results = await self._tool_steps(own)
            self.messages.append(self._dated(Message(role="tool", tool_results=tuple(results))))

    def turn(self) -> Turn:
        """What plugins and tools may know now."""
        return Turn(
            session_id=self.run.session_id,
            run_id=self.run.id,
            agent=self.bound.name,
            step=self.number,
            principal=self.run.principal,
            data_class=self.data_class,
            channel=self.run.channel,
            deadline=self.meter.deadline,
            spent=self.meter.cost,
            idempotency_key=f"{self.run.id}-{self.number}",
        )

    @property
    def data_class(self) -> DataClass:
        """The highest data class of the conversation."""
        seen = [message.data_class for message in (*self.history, *self.inbound.messages)]
        return max(seen, key=DATA_CLASSES.index, default="internal")

    def _dated(self, message: Message) -> Message:
        return msgspec.structs.replace(
            message, run_id=self.run.id, created_at=self.clock.now(), data_class=self.data_class
        )

    def _split(self, calls: Sequence[ToolCall]) -> tuple[list[ToolCall], list[ToolCall]]:
        """Calls of the agent's tools (unknown names too: the model is told), and calls of the caller's tools."""
        theirs = {spec.name for spec in self.inbound.tools}
        return [call for call in calls if call.name not in theirs], [call for call in calls if call.name in theirs]

    async def _answered(self, reply: Reply) -> Finish:
        message = await self.bound.plugins.on_reply(reply.message, self.turn())
        if self._holds_back and message.text:
            self.feed.emit("text", {"text": message.text})
        self.messages.append(self._dated(message))
        return reply.finish

    @property
    def _holds_back(self) -> bool:
        """Whether text is shown only when it is whole, since a plugin may change it."""
        return self.bound.plugins.changes_replies

    # Model

    async def _model_step(self) -> Reply:
        self.number += 1
        stored = self.journal.stored(self.number)
        if stored is not None and stored.reply is not None:
            self.meter.count(stored)
            self._tell(stored.reply)
            return stored.reply
        self.meter.check(self.clock.now())
        started = self.clock.now()
        point("before model")
        reply = await self._respond()
        point("after model")
        name = self.bound.model.name if self.bound.model else self.bound.name
        step = Step(
            number=self.number,
            kind="model",
            name=name,
            reply=reply,
            usage=reply.usage,
            cost=self._cost(name, reply, started),
            started_at=started,
            finished_at=self.clock.now(),
        )
        self.journal.unsaved.append(step)
        self.meter.count(step)
        self._check_output(reply)
        return reply

    def _cost(self, name: str, reply: Reply, at: float) -> int | None:
        answered_by = reply.model if ":" in reply.model else name  # FallbackModel says which of its models it was
        return self.prices.cost(answered_by, reply.usage, at)

    async def _respond(self) -> Reply:
        if isinstance(self.bound.agent, Responder):
            messages = await window.inline([*self.history, *self.messages], self.blobs, self.run.principal.tenant)
            answer = self.bound.agent.respond(messages, self.turn())
            return await self._collect(answer) if isinstance(answer, AsyncIterator) else await answer
        model = self.bound.model
        assert model is not None  # the wiring gives every Agent a model
        prompt = await self._prompt()
        if self.feed.wanted:
            return await self._collect(model.stream(prompt))
        return await model.reply(prompt)

    async def _collect(self, chunks: AsyncIterator[Chunk]) -> Reply:
        reply = None
        show = self.feed.wanted and not self._holds_back
        async for chunk in chunks:
            if chunk.reply is not None:
                reply = chunk.reply
            elif show and chunk.text:
                self.feed.emit("text", {"text": chunk.text})
            elif show and chunk.reasoning:
                self.feed.emit("reasoning", {"text": chunk.reasoning})
        if reply is None:
            raise ModelMalformedError("the stream ended without a reply")
        return reply

    def _tell(self, reply: Reply) -> None:
        """Tell followers of a reply that was read from the journal."""
        if reply.message.text and not self._holds_back:
            self.feed.emit("text", {"text": reply.message.text})

    async def _prompt(self) -> Prompt:
        agent, model, inbound = self.bound.agent, self.bound.model, self.inbound
        assert model is not None and not isinstance(agent, Responder)
        if inbound.tools and not model.tools:
            raise ModelRefusedError(f"the model {model.name} has no tool use; choose another by MODEL_NAME")
        max_tokens = inbound.max_tokens or agent.max_tokens
        budget = model.context_window - (max_tokens or REPLY_RESERVE) - len(agent.instructions) // 3
        new = [message for message in self.messages if not message.hidden]
        budget -= sum(window.tokens(message) for message in new)
        history = window.window(self.history[-self.bound.history :] if self.bound.history else (), budget)
        return Prompt(
            system=agent.instructions,
            messages=await window.inline([*history, *new], self.blobs, self.run.principal.tenant),
            tools=(*self.bound.toolbox.specs, *inbound.tools) if model.tools else (),
            tool_choice=inbound.tool_choice,
            output_schema=inbound.output_schema or self.bound.output_schema,
            max_tokens=max_tokens,
            temperature=agent.temperature if inbound.temperature is None else inbound.temperature,
        )

    def _check_output(self, reply: Reply) -> None:
        if self.bound.check_output is None or reply.message.tool_calls or self.inbound.output_schema is not None:
            return
        try:
            self.bound.check_output(reply.message.text)
        except ValueError as error:
            raise ModelMalformedError(f"the reply is not of the agent's output type: {error}") from error

    # Tools

    async def _tool_steps(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run the calls, those that may at the same time, and journal what they gave."""
        self.meter.check_tool_calls(len(calls))
        toolbox = self.bound.toolbox
        results: dict[str, ToolResult] = {}
        for group in toolbox.groups(calls):
            numbered = []
            for call in group:
                self.number += 1
                numbered.append((self.number, call))
                known = self.journal.stored(self.number)
                if known is None and toolbox.effects_of(call.name) == "once":
                    intent = Step(number=self.number, kind="tool", name=call.name, call=call)
                    self.journal.unsaved.append(intent)
            await self.journal.save()
            steps = await asyncio.gather(*(self._tool_step(number, call) for number, call in numbered))
            for call, step in zip(group, steps, strict=True):
                assert step.result is not None
                results[call.id] = step.result
        await self.journal.save()
        return [results[call.id] for call in calls]

    async def _tool_step(self, number: int, call: ToolCall) -> Step:
        stored = self.journal.stored(number)
        if stored is not None and stored.result is not None:
            self.meter.count(stored)
            return stored
        turn = msgspec.structs.replace(self.turn(), step=number, idempotency_key=f"{self.run.id}-{number}")
        self.feed.emit("tool_call", msgspec.to_builtins(call))
        started = self.clock.now()
        if stored is not None:  # an intent without a result
            result = ToolResult(call_id=call.id, name=call.name, content=UNCERTAIN, error=True)
        else:
            call = await self.bound.plugins.before_tool(call, turn)
            point("before tool")
            result = await self.bound.toolbox.call(call, turn)
            point("after tool")
            result = await self.bound.plugins.after_tool(result, turn)
        self.feed.emit("tool_result", msgspec.to_builtins(result))
        step = Step(
            number=number,
            kind="tool",
            name=call.name,
            call=call,
            result=result,
            started_at=started,
            finished_at=self.clock.now(),
        )
        self.journal.unsaved.append(step)
        self.meter.count(step)
        return step

    # What stays when the work fails

    def remains(self) -> list[Message]:
        """The messages of a failed run, hidden from later prompts: the transcript keeps them, a model is spared."""
        messages = self.messages or list(self.inbound.messages)
        if messages[-1].tool_calls:
            messages = messages[:-1]
        return [msgspec.structs.replace(message, hidden=True) for message in messages]


def words(message: Message) -> str:
    """The first words of a message, as a title."""
    text = next((part.text for part in message.parts if isinstance(part, Text)), "")
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"
