"""The tool calls of one model reply: asked for where a person must be asked, run, journaled, never run twice."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from agent_core.engine.attempt import Attempt, Parked
from agent_core.engine.events import call_event, result_event
from agent_core.engine.points import point
from agent_core.engine.runs import Question, Reason, Step
from agent_core.engine.steps import TOOL, canonical, same_call, wished
from agent_core.errors import LeaseLostError, ToolError
from agent_core.messages import ToolCall, ToolResult
from agent_core.security import audit
from agent_core.store.base import Put

log = logging.getLogger("sampan.engine")

UNCERTAIN = (
    "It is not known whether this was done: the service stopped in the middle of it, and a person says to leave it. "
    "Do not call it again."
)
DENIED = "A person said no to this call. Do not try it again unless the user asks for it anew."
REFUSED = (
    "This call was not made: text from elsewhere ({sources}) was read in this conversation, and after that this tool "
    "is not run. Tell the user what you would have done."
)
EXPIRED = "Nobody said yes to this call in time. It was not made."


@dataclass(frozen=True)
class Spot:
    """Where a tool call stands in its run: its place among all tool calls, its hash, and what is stored of it.

    `ordinal` is its place among all steps, `key` its idempotency key, `wish` the call as the model wrote it.
    """

    number: int
    place: int
    ordinal: int
    input: str
    key: str
    wish: ToolCall
    stored: Step | None = None

    @property
    def done(self) -> bool:
        """Whether its result is stored."""
        return self.stored is not None and self.stored.result is not None


@dataclass(frozen=True)
class Planned:
    """A tool call and what is to be done about it.

    `tries` counts the intents that are stored: the tool may have run that often; `found` is what its lookup says it
    gave then.
    """

    spot: Spot
    call: ToolCall
    once: bool = False
    tries: int = 0
    found: ToolResult | None = None
    refusal: str = ""
    question: Question | None = None

    @property
    def number(self) -> int:
        """Where its step is stored."""
        return self.spot.number

    @property
    def runs(self) -> bool:
        """Whether the tool is to be run."""
        return not self.spot.done and self.found is None and not self.refusal


def question_hash(plan: Planned) -> str:
    """What binds an answer to a call: its tool, its arguments, whatever their spelling, and its place in the run.

    The same call at another step, or begun once more, is another question: a person's yes is good for one try.
    """
    asked = f"{plan.spot.ordinal}\n{plan.tries}\n{plan.call.name}\n{canonical(plan.call.arguments)}"
    return hashlib.sha256(asked.encode()).hexdigest()


async def tool_steps(attempt: Attempt, calls: Sequence[ToolCall]) -> list[ToolResult]:
    """Run the calls, those that may at the same time, and journal what they gave, in the order of the calls.

    Raises Parked where a person must be asked first.
    """
    spots = [_spot(attempt, call) for call in calls]
    attempt.meter.check_tool_calls(sum(not spot.done for spot in spots))
    await attempt.switches.look()
    plans = [await _plan(attempt, spot) for spot in spots]
    _ask(attempt, plans)
    results: list[ToolResult] = []
    for group in attempt.bound.toolbox.groups(calls):
        planned = plans[len(results) : len(results) + len(group)]
        if not all(plan.spot.done for plan in planned):
            attempt.check_time()  # before the intents: what is handed over was not begun
        await _intend(attempt, [plan for plan in planned if plan.once and plan.runs])
        results += await _together([_tool_step(attempt, plan) for plan in planned])
    await attempt.journal.save()
    # By its place, whatever ids plugins and tools gave: the model knows a result by the id of its call.
    return [_of(result, call) for result, call in zip(results, calls, strict=True)]


def _of(result: ToolResult, call: ToolCall) -> ToolResult:
    return result if result.call_id == call.id else msgspec.structs.replace(result, call_id=call.id)


def _spot(attempt: Attempt, call: ToolCall) -> Spot:
    """The next place among the tool calls, with what is stored of the call."""
    journal, place = attempt.journal, attempt.places[TOOL]
    attempt.places[TOOL] += 1
    input, ordinal = wished(attempt.chain, place, call), attempt.ordinal
    stored = journal.find(TOOL, place, input)
    if stored is not None and not stored.input and not same_call(stored.call, call):
        stored = None  # an older Sampan's, and of another call, unless a plugin made it that: see _recorded
    key = f"{attempt.run.id}-{ordinal}"
    if stored is None:
        if journal.at(TOOL, place):  # another call was made here, under that key
            key = f"{key}-{hashlib.sha256(input.encode()).hexdigest()[:12]}"
        attempt.number = journal.take_number(attempt.number, TOOL, place)
        return Spot(attempt.number, place, ordinal, input, key, call)
    journal.use(stored)
    attempt.number = stored.number
    return Spot(stored.number, place, ordinal, input, stored.key or key, call, stored)


async def _together(steps: Sequence[Coroutine[Any, Any, ToolResult]]) -> list[ToolResult]:
    """What they give. Where one fails, the others come to their end first: a call that was begun is not cut off.

    Only a worker that was stopped, or lost its session, cuts them off. None of them goes on after this has ended.
    """
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        left = set(tasks)
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if any(task.cancelled() or isinstance(task.exception(), LeaseLostError) for task in done):
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    for error in sorted(failed, key=lambda error: not isinstance(error, LeaseLostError)):
        raise error
    return [task.result() for task in tasks]


async def _intend(attempt: Attempt, plans: Sequence[Planned]) -> None:
    """Store that these tools are about to run, together with what was done before them."""
    for plan in plans:
        attempt.journal.unsaved.append(_step(attempt, plan, tries=plan.tries + 1))
        attempt.journal.notes.append(_note(attempt, plan))
        point("before intent")
    await attempt.journal.save()
    if plans:
        point("after intent")


def _step(attempt: Attempt, plan: Planned, **done: Any) -> Step:
    return Step(
        number=plan.number,
        kind="tool",
        name=plan.call.name,
        call=plan.call,
        fence=attempt.fence,
        series=TOOL,
        place=plan.spot.place,
        input=plan.spot.input,
        key=plan.spot.key,
        **done,
    )


async def _plan(attempt: Attempt, spot: Spot) -> Planned:
    """What is to be done about a call: nothing where its result is stored, else run it, ask first, or not run it."""
    if spot.done:
        return Planned(spot, spot.wish)
    tool = attempt.bound.toolbox.get(spot.wish.name)
    call = await attempt.bound.plugins.before_tool(spot.wish, attempt.turn(spot.number, spot.key))
    if call.name != spot.wish.name:
        tool = attempt.bound.toolbox.get(call.name)
    once = tool is not None and tool.effects == "once"
    spot = _recorded(attempt, spot, call)
    if spot.done:
        return Planned(spot, call)
    tries = max(spot.stored.tries, 1) if spot.stored is not None else 0
    plan = Planned(spot, call, once=once, tries=tries)
    if plan.tries:
        return await _recovered(attempt, plan)
    if once and attempt.journal.stray(call, alike=True):
        # The tool ran in this run, and that call has no place any more: is this the same one, worded otherwise?
        return _decided(attempt, plan, "uncertain", UNCERTAIN)
    if attempt.switches.refusal(attempt.run.principal.tenant, call.name):
        return plan  # nobody is asked about a call that is not made
    if tool is None or not (tool.approval or tool.guarded) or attempt.bound.toolbox.refuses(call):
        return plan
    return _decided(attempt, plan, "approval", DENIED) if tool.approval else _guarded(attempt, plan)


def _recorded(attempt: Attempt, spot: Spot, call: ToolCall) -> Spot:
    """The spot with what is stored of its call elsewhere, where the tool does something that must not be done twice.

    What was done before it may be another than it was (a record is damaged, or an older Sampan's): the call itself
    still was made in this run, and this one is not made again under a new key.
    """
    if spot.stored is not None or attempt.bound.toolbox.effects_of(call.name) == "none":
        return spot
    stored = attempt.journal.stray(call)
    if stored is None:
        return spot
    attempt.journal.use(stored)
    return replace(spot, stored=stored, key=stored.key or f"{attempt.run.id}-{stored.number}")


def _guarded(attempt: Attempt, plan: Planned) -> Planned:
    """The plan for a call that does something: it is not made on the word of strangers, unless the agent allows it.

    What the model had read when it wished for this counts; not what its other calls of the same step will give.
    """
    if attempt.bound.untrusted == "allow" or not attempt.sources:
        return plan
    if attempt.bound.untrusted == "refuse":
        return replace(plan, refusal=REFUSED.format(sources=", ".join(attempt.sources)))
    return _decided(attempt, plan, "untrusted", DENIED)


async def _recovered(attempt: Attempt, plan: Planned) -> Planned:
    """The plan for a tool that may have run before a crash: its lookup tells, else a person must."""
    tool = attempt.bound.toolbox.get(plan.call.name)
    if tool is not None and tool.lookup is not None:
        point("before lookup")
        try:
            return replace(
                plan,
                found=await attempt.bound.toolbox.lookup(plan.call, attempt.turn(plan.number, plan.spot.key)),
            )
        except ToolError as error:
            log.warning("run=<%s>, tool=<%s> | asking a person: %s", attempt.run.id, plan.call.name, error)
    return _decided(attempt, plan, "uncertain", UNCERTAIN)


def _decided(attempt: Attempt, plan: Planned, reason: Reason, denied: str) -> Planned:
    """The plan after what a person said to the call with just these arguments; unasked, it carries a question."""
    digest = question_hash(plan)
    now = attempt.clock.now()
    for question in attempt.run.questions:
        if (question.reason, question.hash) != (reason, digest):
            continue
        if question.status == "approved":
            return plan
        if question.open_at(now):
            return replace(plan, question=question)
        return replace(plan, refusal=denied if question.status == "denied" else EXPIRED)
    question = Question(
        step=plan.number,
        tool=plan.call.name,
        arguments=attempt.bound.toolbox.shown(plan.call),
        hash=digest,
        asked_at=now,
        expires_at=now + attempt.bound.approval_seconds,
        reason=reason,
        stepup=(tool := attempt.bound.toolbox.get(plan.call.name)) is not None and tool.stepup,
        sources=attempt.sources,
    )
    return replace(plan, question=question)


def _ask(attempt: Attempt, plans: Sequence[Planned]) -> None:
    """Raise Parked where a person must be asked first.

    What was asked before and is open is asked again here, or it is of no use any more.
    """
    asked = [plan.question for plan in plans if plan.question is not None]
    if asked:
        now, anew = attempt.clock.now(), {(question.step, question.reason) for question in asked}
        kept = [
            old
            for old in attempt.run.questions
            if not old.open_at(now) and (old.step, old.reason) not in anew
        ]
        raise Parked((*kept, *asked))


def _note(attempt: Attempt, plan: Planned) -> Put:
    """What the audit log is told of a call that is made once."""
    run = attempt.run
    return audit.entry(
        attempt.clock,
        run.principal.tenant,
        "tool.called",
        by=run.principal.user,
        subject=plan.call.name,
        session_id=run.session_id,
        run_id=run.id,
        agent=run.agent,
        arguments=hashlib.sha256(attempt.bound.toolbox.shown(plan.call).encode()).hexdigest(),
        step=str(plan.number),
    )


async def _tool_step(attempt: Attempt, plan: Planned) -> ToolResult:
    stored = plan.spot.stored
    if stored is not None and stored.result is not None:
        return stored.result
    call = plan.call
    attempt.feed.emit(call_event(plan.number, attempt.fence, msgspec.to_builtins(call)))
    started = attempt.clock.now()
    refusal = plan.refusal
    if plan.runs:
        refusal = attempt.switches.refusal(attempt.run.principal.tenant, call.name)
    if refusal:
        result = ToolResult(call_id=call.id, name=call.name, content=refusal, error=True, trusted=True)
    else:
        result = plan.found or await _run(attempt, plan)
        result = await attempt.bound.plugins.after_tool(result, attempt.turn(plan.number, plan.spot.key))
    result = _of(result, plan.spot.wish)
    attempt.feed.emit(result_event(plan.number, attempt.fence, msgspec.to_builtins(result)))
    step = _step(
        attempt,
        plan,
        result=result,
        started_at=started,
        finished_at=attempt.clock.now(),
        elapsed=attempt.meter.elapsed,
    )
    attempt.journal.unsaved.append(step)
    attempt.meter.count(step)
    return result


async def _run(attempt: Attempt, plan: Planned) -> ToolResult:
    point("before tool")
    await attempt.journal.hold()
    result = await attempt.bound.toolbox.call(plan.call, attempt.turn(plan.number, plan.spot.key))
    point("after tool")
    return result
