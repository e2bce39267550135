"""The tool calls of one model reply: asked for where a person must be asked, run, journaled, never run twice."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from agent_core.engine.attempt import Attempt, Parked
from agent_core.engine.events import call_event, result_event
from agent_core.engine.points import point
from agent_core.engine.runs import Question, Reason, Step
from agent_core.errors import ToolError
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
class Planned:
    """A tool call and what is to be done about it.

    `tries` counts the intents that are stored: the tool may have run that often; `found` is what its lookup says it
    gave then.
    """

    number: int
    call: ToolCall
    once: bool = False
    tries: int = 0
    stored: Step | None = None
    found: ToolResult | None = None
    refusal: str = ""
    question: Question | None = None

    @property
    def runs(self) -> bool:
        """Whether the tool is to be run."""
        return self.stored is None and self.found is None and not self.refusal


def question_hash(plan: Planned) -> str:
    """What binds an answer to a call: its tool, its arguments, whatever their spelling, and its place in the run.

    The same call at another step, or begun once more, is another question: a person's yes is good for one try.
    """
    try:
        arguments = msgspec.json.encode(msgspec.json.decode(plan.call.arguments), order="sorted")
    except msgspec.DecodeError:
        arguments = plan.call.arguments.encode()
    asked = f"{plan.number}\n{plan.tries}\n{plan.call.name}\n".encode()
    return hashlib.sha256(asked + arguments).hexdigest()


async def tool_steps(attempt: Attempt, calls: Sequence[ToolCall]) -> list[ToolResult]:
    """Run the calls, those that may at the same time, and journal what they gave, in the order of the calls.

    Raises Parked where a person must be asked first.
    """
    attempt.meter.check_tool_calls(len(calls))
    await attempt.switches.look()
    groups: list[list[Planned]] = []
    for group in attempt.bound.toolbox.groups(calls):
        planned = []
        for call in group:
            attempt.number += 1
            planned.append(await _plan(attempt, attempt.number, call))
        groups.append(planned)
    _ask(attempt, [plan for group in groups for plan in group])
    results: dict[str, ToolResult] = {}
    for planned in groups:
        if not all(plan.stored for plan in planned):
            attempt.check_time()  # before the intents: what is handed over was not begun
        await _intend(attempt, [plan for plan in planned if plan.once and plan.runs])
        steps = await asyncio.gather(*(_tool_step(attempt, plan) for plan in planned))
        results |= {plan.call.id: result for plan, result in zip(planned, steps, strict=True)}
    await attempt.journal.save()
    return [results[call.id] for call in calls]


async def _intend(attempt: Attempt, plans: Sequence[Planned]) -> None:
    """Store that these tools are about to run, together with what was done before them."""
    for plan in plans:
        intent = Step(
            number=plan.number,
            kind="tool",
            name=plan.call.name,
            call=plan.call,
            fence=attempt.fence,
            tries=plan.tries + 1,
        )
        attempt.journal.unsaved.append(intent)
        attempt.journal.notes.append(_note(attempt, plan))
        point("before intent")
    await attempt.journal.save()
    if plans:
        point("after intent")


async def _plan(attempt: Attempt, number: int, call: ToolCall) -> Planned:
    """What is to be done about a call: nothing where its result is stored, else run it, ask first, or not run it."""
    tool = attempt.bound.toolbox.get(call.name)
    stored = attempt.journal.stored(number)
    if stored is not None and stored.result is not None:
        return Planned(number, call, stored=stored)
    call = await attempt.bound.plugins.before_tool(call, attempt.turn(number))
    once = tool is not None and tool.effects == "once"
    plan = Planned(number, call, once=once, tries=max(stored.tries, 1) if stored is not None else 0)
    if plan.tries:
        return await _recovered(attempt, plan)
    if attempt.switches.refusal(attempt.run.principal.tenant, call.name):
        return plan  # nobody is asked about a call that is not made
    if tool is None or not (tool.approval or tool.guarded) or attempt.bound.toolbox.refuses(call):
        return plan
    return _decided(attempt, plan, "approval", DENIED) if tool.approval else _guarded(attempt, plan)


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
                plan, found=await attempt.bound.toolbox.lookup(plan.call, attempt.turn(plan.number))
            )
        except ToolError as error:
            log.warning("run=<%s>, tool=<%s> | asking a person: %s", attempt.run.id, plan.call.name, error)
    return _decided(attempt, plan, "uncertain", UNCERTAIN)


def _decided(attempt: Attempt, plan: Planned, reason: Reason, denied: str) -> Planned:
    """The plan after what a person said to the call with just these arguments; unasked, it carries a question."""
    digest = question_hash(plan)
    now = attempt.clock.now()
    for question in attempt.run.questions:
        if (question.step, question.reason, question.hash) != (plan.number, reason, digest):
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
    """Raise Parked where a person must be asked first."""
    asked = [plan.question for plan in plans if plan.question is not None]
    if asked:
        anew = {(question.step, question.reason) for question in asked}
        kept = [old for old in attempt.run.questions if (old.step, old.reason) not in anew]
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
        shards=attempt.shards,
    )


async def _tool_step(attempt: Attempt, plan: Planned) -> ToolResult:
    if plan.stored is not None and plan.stored.result is not None:
        attempt.meter.count(plan.stored)
        return plan.stored.result
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
        result = await attempt.bound.plugins.after_tool(result, attempt.turn(plan.number))
    attempt.feed.emit(result_event(plan.number, attempt.fence, msgspec.to_builtins(result)))
    step = Step(
        number=plan.number,
        kind="tool",
        name=call.name,
        call=call,
        result=result,
        started_at=started,
        finished_at=attempt.clock.now(),
        fence=attempt.fence,
        elapsed=attempt.meter.elapsed,
    )
    attempt.journal.unsaved.append(step)
    attempt.meter.count(step)
    return result


async def _run(attempt: Attempt, plan: Planned) -> ToolResult:
    point("before tool")
    await attempt.journal.hold()
    result = await attempt.bound.toolbox.call(plan.call, attempt.turn(plan.number))
    point("after tool")
    return result
