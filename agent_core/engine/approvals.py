"""A person's answer to a run that waits: bound to the hash of the arguments, counted once, until it expires."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent_core.engine import keys
from agent_core.engine.kit import Kit
from agent_core.engine.points import point
from agent_core.engine.runs import Run
from agent_core.errors import ConditionError, ConflictError, NotFoundError
from agent_core.messages import Principal, from_record
from agent_core.store.base import Key, Update, Version

Decision = Literal["approved", "denied"]


async def decide(kit: Kit, by: Principal, run_id: str, digest: str, decision: Decision) -> Run:
    """Store the answer to the question with this hash and return the run.

    Raises NotFoundError where the run asks no such question, ConflictError where it was answered before or expired.
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
    answered = msgspec.structs.replace(question, status=decision, answered_by=by.user, answered_at=now)
    questions = tuple(answered if asked is question else asked for asked in run.questions)
    point("before answer")
    try:
        await kit.store.write(
            Update(key, set={"questions": msgspec.to_builtins(questions)}, when=(Version(record.version),))
        )
    except ConditionError as error:
        raise ConflictError("somebody else answered in the same moment; read the run again") from error
    point("after answer")
    return msgspec.structs.replace(run, questions=questions)
