"""What a person says to a run: yes or no to what it asks, or that it is to stop."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from agent_core.engine import keys
from agent_core.engine.due import moved
from agent_core.engine.kit import Kit
from agent_core.engine.points import point
from agent_core.engine.runs import Pending, Question, Run
from agent_core.errors import ConditionError, ConfigError, ConflictError, NotFoundError, StepUpError
from agent_core.messages import Principal, from_record
from agent_core.security import audit
from agent_core.store.base import Equals, Key, Update, Version, Write

Decision = Literal["approved", "denied"]


async def decide(
    kit: Kit,
    by: Principal,
    run_id: str,
    digest: str,
    decision: Decision,
    code: str = "",
    *,
    stepped: bool = False,
) -> Run:
    """Store the answer to the question with this hash and return the run.

    A yes to a tool with `stepup` needs a `code` of the person's second factor, unless they have just `stepped` up
    elsewhere. Raises NotFoundError where the run asks
    no such question, ConflictError where it was answered before or expired, StepUpError.
    """
    key = Key(keys.run(by.tenant, run_id), keys.RUN)
    record = await kit.store.get(key)
    if record is None:
        raise NotFoundError(f"there is no run {run_id}")
    run = from_record(Run, record.fields)
    question = next((asked for asked in run.questions if asked.hash == digest), None)
    if question is None:
        raise NotFoundError(f"run {run_id} asks no question with this hash; read the run for what it asks")
    if question.status != "asked":
        raise ConflictError(f"the question was answered before: {question.status}")
    now = kit.clock.now()
    if not question.open_at(now) or run.done:
        raise ConflictError("the question has expired; nothing was done")
    if question.stepup and decision == "approved" and not stepped:
        await _step_up(kit, by, run, question, code)
    answered = msgspec.structs.replace(question, status=decision, answered_by=by.user, answered_at=now)
    questions = tuple(answered if asked is question else asked for asked in run.questions)
    after = msgspec.structs.replace(run, questions=questions)
    told = [] if after.asks_at(now) else await _roused(kit, run)
    told.append(
        audit.entry(
            kit.clock,
            by.tenant,
            "approval.approved" if decision == "approved" else "approval.denied",
            by=by.user,
            subject=question.tool,
            session_id=run.session_id,
            run_id=run.id,
            shards=kit.shards.number,
            arguments=hashlib.sha256(question.arguments.encode()).hexdigest(),
            question=question.hash,
            owner=run.principal.user if run.principal.user != by.user else "",
        )
    )
    point("before answer")
    try:
        await kit.store.write(
            Update(key, set={"questions": msgspec.to_builtins(questions)}, when=(Version(record.version),)),
            *told,
        )
    except ConditionError as error:
        raise ConflictError("somebody else answered in the same moment; read the run again") from error
    point("after answer")
    return after


async def _step_up(kit: Kit, by: Principal, run: Run, question: Question, code: str) -> None:
    """Have the person show who they are; raises StepUpError with what they would agree to."""
    asked = {
        "run_id": run.id,
        "tool": question.tool,
        "arguments": question.arguments,
        "hash": question.hash,
        "expires_at": question.expires_at,
    }
    if not code:
        raise StepUpError(
            f"the tool {question.tool} needs a second factor: send `code`, six digits of your authenticator app "
            "(`sampan mfa add` sets one up)",
            asked=asked,
        )
    if kit.factors is None:
        raise ConfigError("second factors are not set up here")
    try:
        await kit.factors.prove(by, code, question.hash)
    except StepUpError as error:
        raise StepUpError(error.detail, retry_after=error.retry_after, asked=asked) from None


async def cancel(kit: Kit, run: Run) -> bool:
    """Have a run stop at its next step, or at once where it waits; False where it has gone on since it was read."""
    told = await _roused(kit, run) if run.status == "waiting" else []
    key = Key(keys.run(run.principal.tenant, run.id), keys.RUN)
    point("before cancel")
    try:
        await kit.store.write(
            Update(key, set={"cancelling": 1}, when=(Equals("status", run.status),)),
            *told,
        )
    except ConditionError:
        return False
    point("after cancel")
    return True


async def _roused(kit: Kit, run: Run) -> list[Write]:
    """The writes that have a waiting run gone on with.

    Whoever holds its session sees that something came before it can let go; and should nobody be there to be woken,
    the sweeper looks after the run within a lease's time, not only when its questions expire.
    """
    partition = keys.session(run.principal, run.session_id)
    writes: list[Write] = [Update(Key(partition, keys.STATE), set={"v": 1}, add={"arrivals": 1})]
    page = await kit.store.query(partition, keys.PENDING, limit=1)
    for record in page.records:
        item = from_record(Pending, record.fields)
        if item.run_id == run.id:  # it waits at the head of its inbox
            writes += moved(record.key, item, run, kit.clock.now() + kit.lease_seconds)
    return writes
