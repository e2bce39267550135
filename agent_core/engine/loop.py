"""The agent's loop: plugins in, model, tools, model again, plugins out; every step journaled, limits checked first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import msgspec

from agent_core.agent import Agent
from agent_core.engine import steps, window
from agent_core.engine.attempt import Attempt
from agent_core.engine.bound import Bound
from agent_core.engine.calls import tool_steps
from agent_core.engine.compaction import compact
from agent_core.engine.events import event_id, text_event
from agent_core.engine.pieces import Pieces
from agent_core.engine.points import point
from agent_core.engine.prompting import Prompts
from agent_core.engine.runs import RunEvent
from agent_core.engine.steps import MODEL
from agent_core.errors import (
    ContextLengthError,
    ModelError,
    ModelMalformedError,
    ModelRefusedError,
    PluginError,
    WireError,
)
from agent_core.messages import Chunk, Finish, Message, Prompt, Reply, ToolCall, Usage, sound
from agent_core.models.base import Model
from agent_core.models.length import overlong
from agent_core.plugins.base import Stop
from agent_core.tools.results import clean


async def perform(attempt: Attempt) -> Finish:
    """Work until there is a reply; it is the last of the attempt's messages then."""
    try:
        await _take_in(attempt, attempt.inbound.messages)
    except Stop as stop:
        words = stop.reply if isinstance(stop.reply, Message) else Message.of("assistant", stop.reply)
        attempt.messages = [*attempt.inbound.messages]
        return await _answered(attempt, Reply(message=words))
    await compact(attempt)
    prompts = Prompts(attempt)
    while True:
        reply = await _model_step(attempt, prompts)
        attempt.chain = steps.replied(attempt.chain, reply)
        own, theirs = _split(attempt, reply.message.tool_calls)
        if theirs:
            # The caller runs these itself; its next request brings the results.
            message = msgspec.structs.replace(reply.message, tool_calls=tuple(theirs))
            return await _answered(
                attempt, msgspec.structs.replace(reply, message=message, finish="tool_calls")
            )
        if not own:
            return await _answered(attempt, reply)
        attempt.messages.append(attempt.dated(reply.message))
        results = await tool_steps(attempt, own)
        attempt.chain = steps.resulted(attempt.chain, results)
        attempt.messages.append(attempt.dated(Message(role="tool", tool_results=tuple(results))))
        await _join(attempt)


async def _join(attempt: Attempt) -> None:
    """Take in what joins the run here: what did in an earlier attempt, or behind its steps what has come since."""
    again: tuple[str, ...] | None = None
    for stored in attempt.journal.at(MODEL, attempt.places[MODEL]):
        if stored.input in (steps.joined(attempt.chain, stored.joined), ""):
            again = stored.joined
            break
    attempt.joined = ()
    if attempt.join is None or again == () or (again is None and attempt.bound.busy != "merge"):
        return
    runs, messages = await attempt.join(again)
    # A message whose own run has ended is not given to a model again, but what was done upon it stays done.
    attempt.joined = again or runs
    attempt.chain = steps.joined(attempt.chain, attempt.joined)
    await _take_in(attempt, messages)


async def _take_in(attempt: Attempt, messages: Sequence[Message]) -> None:
    for message in messages:
        if message.role == "user" and attempt.bound.plugins.reads_messages:
            # Plugins see the whole of a long part, not the beginning that its record holds.
            (message,) = await window.inline([message], attempt.blobs, attempt.run.principal.tenant)
            message = await attempt.bound.plugins.process(message, attempt.turn())
        attempt.messages.append(message)


def _split(attempt: Attempt, calls: Sequence[ToolCall]) -> tuple[list[ToolCall], list[ToolCall]]:
    """Calls of the agent's tools (unknown names too: the model is told), and calls of the caller's tools."""
    names = {spec.name for spec in attempt.inbound.tools}
    return [call for call in calls if call.name not in names], [call for call in calls if call.name in names]


async def _answered(attempt: Attempt, reply: Reply) -> Finish:
    if attempt.bound.plugins.awaits_replies:
        await attempt.journal.save()
    try:
        message = await attempt.bound.plugins.on_reply(reply.message, attempt.turn())
    except PluginError:
        attempt.journal.refuse(attempt.number)
        raise
    if attempt.holds_back and message.text:
        attempt.feed.emit(text_event(attempt.number, attempt.fence, len(message.text), message.text))
    attempt.messages.append(attempt.dated(message))
    return reply.finish


async def _model_step(attempt: Attempt, prompts: Prompts) -> Reply:
    stored = attempt.recall(MODEL, attempt.chain)
    if stored is not None and stored.reply is not None:
        if not _refusal(attempt, stored.reply):
            text = stored.reply.message.text
            if text and not attempt.holds_back:
                attempt.feed.emit(text_event(stored.number, stored.fence, len(text), text))
            await prompts.resume(stored)
            return stored.reply
        attempt.anew()  # since it was stored, the agent wants another type of answer
    # A run that began when this process did not know of a switch yet is not marked: it looks every few seconds.
    await attempt.switches.look()
    attempt.switches.check(attempt.run.principal.tenant, attempt.run.agent)
    started = attempt.clock.now()
    attempt.meter.check()
    attempt.check_time()
    point("before model")
    await attempt.journal.hold()
    reply, refusal = _taken(attempt, await _respond(attempt, prompts))
    point("after model")
    attempt.journal_reply(
        _paid(attempt.bound, reply), reply, started, refused=bool(refusal), fitted=prompts.fitted
    )
    prompts.answered(reply)
    if refusal:
        raise ModelMalformedError(refusal)
    return reply


def _taken(attempt: Attempt, given: object) -> tuple[Reply, str]:
    """The reply as it goes on, and why it is refused, if it is: it is paid for all the same."""
    if not isinstance(given, Reply):
        raise ModelMalformedError(f"the agent gave back {type(given).__name__}, not a Reply")
    if attempt.bound.model is None:  # another framework's: it may be anything
        try:
            sound(given)
        except (TypeError, ValueError) as error:
            return _bill(given), f"the agent's reply can't be stored: {error}"
    return _identified(attempt, given), _refusal(attempt, given)


def _bill(given: Reply) -> Reply:
    """What can be stored of a reply that can't: what it cost."""
    for usage, model in ((given.usage, given.model), (Usage(), "")):
        with suppress(TypeError, ValueError):
            return sound(Reply(message=Message(role="assistant"), usage=usage, model=model))
    raise AssertionError("an empty reply can be stored")


def _identified(attempt: Attempt, reply: Reply) -> Reply:
    """The reply with an id of its own for each tool call, whatever its model gave: none, or one for two calls.

    It is the same whenever the reply is taken in again.
    """
    seen = {call.id for message in (*attempt.history, *attempt.messages) for call in message.tool_calls}
    calls: list[ToolCall] = []
    for place, call in enumerate(reply.message.tool_calls):
        if not call.id.strip() or call.id in seen:
            unique = f"call_{attempt.run.id[-20:]}_{attempt.ordinal}_{place}"
            call = msgspec.structs.replace(call, id=unique)
        seen.add(call.id)
        calls.append(call)
    if tuple(calls) == reply.message.tool_calls:
        return reply
    message = msgspec.structs.replace(reply.message, tool_calls=tuple(calls))
    return msgspec.structs.replace(reply, message=message)


def _paid(bound: Bound, reply: Reply) -> str:
    """The model to be paid for, as prices know it.

    What a provider calls its model is not that name ("qwen3:8b"). But a FallbackModel says which of its models
    answered, and another framework may say "provider:model".
    """
    if bound.model is None:
        return reply.model if ":" in reply.model else bound.name
    return reply.model if reply.model in getattr(bound.model, "names", ()) else bound.model.name


async def _respond(attempt: Attempt, prompts: Prompts) -> object:
    bound = attempt.bound
    if not isinstance(bound.agent, Agent):
        tenant = attempt.run.principal.tenant
        messages = await window.inline([*attempt.history, *attempt.messages], attempt.blobs, tenant)
        answer = bound.agent.respond(messages, attempt.turn())
        return await (_collect(attempt, answer) if isinstance(answer, AsyncIterator) else answer)
    assert bound.model is not None  # the wiring gives every Agent a model
    prompt = await prompts.prompt()
    try:
        return await _asked(attempt, bound.model, prompt)
    except ModelRefusedError as error:
        if not overlong(error.detail) and not isinstance(error, ContextLengthError):
            raise
        prompts.learn(error)
    # Nothing of that was paid for. A shorter one may be taken, once.
    return await _asked(attempt, bound.model, await prompts.prompt())


async def _asked(attempt: Attempt, model: Model, prompt: Prompt) -> object:
    if attempt.feed.wanted:
        return await _collect(attempt, model.stream(prompt))
    return await model.reply(prompt)


async def _collect(attempt: Attempt, chunks: AsyncIterator[Chunk]) -> object:
    reply: object = None
    show = attempt.feed.wanted and not attempt.holds_back
    pieces = Pieces(attempt.journal, attempt.clock, attempt.number, attempt.fence)
    try:
        async for chunk in chunks:
            if not isinstance(chunk, Chunk):
                raise ModelMalformedError(f"the agent gave out {type(chunk).__name__}, not a Chunk")
            if chunk.reply is not None:
                reply = chunk.reply
            elif show and chunk.text:
                text = clean(chunk.text)
                attempt.feed.emit(text_event(attempt.number, attempt.fence, pieces.add(text), text))
                await pieces.save_now_and_then()
            elif show and chunk.reasoning:
                place = event_id(attempt.number, attempt.fence, pieces.length)
                attempt.feed.emit(RunEvent(place, "reasoning", {"text": clean(chunk.reasoning)}))
    except (ModelError, WireError):
        if reply is None:
            raise  # else it is there whole, however its stream came to an end
    if reply is None:
        raise ModelMalformedError("the stream ended without a reply")
    return reply


def _refusal(attempt: Attempt, reply: Reply) -> str:
    """Why the reply is none that the agent may give; "" where it may."""
    check = attempt.bound.check_output
    if check is None or reply.message.tool_calls or attempt.inbound.output_schema is not None:
        return ""
    try:
        check(reply.message.text)
    except ValueError as error:
        return f"the reply is not of the agent's output type: {error}"
    return ""
