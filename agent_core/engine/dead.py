"""Dead letters: what was given up, with its reason, so that a person can look at it and bring it back."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent_core.engine import keys
from agent_core.engine.kit import Kit
from agent_core.engine.reading import made_anew
from agent_core.engine.runs import Delivery, Due, Head, Pending, Run
from agent_core.errors import ConditionError, ConflictError, NotFoundError
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.store.base import Absent, AtMost, Delete, Equals, Key, Put, Update, Write


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run whose work, or whose push, was given up. `pending` is its message as it stood in the inbox."""

    run_id: str
    session_id: str
    agent: str
    principal: Principal
    kind: Literal["run", "push"]
    reason: str
    died_at: float
    attempts: int = 0
    pending: Pending | None = None
    delivery: Delivery | None = None
    push_id: str = ""


def dead_letter(
    run: Run,
    kind: Literal["run", "push"],
    reason: str,
    now: float,
    *,
    pending: Pending | None = None,
    delivery: Delivery | None = None,
) -> DeadLetter:
    """The letter of a run that is given up."""
    return DeadLetter(
        run_id=run.id,
        session_id=run.session_id,
        agent=run.agent,
        principal=run.principal,
        kind=kind,
        reason=reason,
        died_at=now,
        pending=pending,
        delivery=delivery,
        push_id=run.push_id if kind == "push" else "",
    )


async def list_dead(kit: Kit, tenant: str, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
    """Dead letters of a tenant, by run id; `after` is the id of the last one already seen."""
    page = await kit.store.query(keys.dead(tenant, "").partition, after=after, limit=limit)
    return [from_record(DeadLetter, record.fields) for record in page.records]


async def read_dead(kit: Kit, tenant: str, run_id: str) -> DeadLetter:
    """The dead letter of a run; raises NotFoundError."""
    for suffix in ("", "/push"):
        record = await kit.store.get(keys.dead(tenant, run_id + suffix))
        if record is not None:
            return from_record(DeadLetter, record.fields)
    raise NotFoundError(f"there is no dead letter of run {run_id}")


async def redrive(kit: Kit, tenant: str, run_id: str, by: str) -> DeadLetter:
    """Bring a dead letter back: its message to the inbox (the journal is kept), its push to the outbox.

    Raises NotFoundError, or ConflictError where somebody else brought it back in this moment.
    """
    letter = await read_dead(kit, tenant, run_id)
    writes = _push_again(kit, letter) if letter.kind == "push" else await _run_again(kit, letter)
    suffix = "/push" if letter.kind == "push" else ""
    try:
        await kit.store.write(
            Delete(keys.dead(tenant, run_id + suffix), when=(Equals("run_id", run_id),)),
            audit.entry(
                kit.clock, tenant, "run.redriven", by=by, session_id=letter.session_id, run_id=run_id
            ),
            *writes,
        )
    except ConditionError as error:
        raise ConflictError(f"run {run_id} was brought back by somebody else, or runs again") from error
    return letter


async def _run_again(kit: Kit, letter: DeadLetter) -> list[Write]:
    assert letter.pending is not None  # a run's letter carries its message
    principal = letter.principal
    due = keys.due(kit.clock.now(), principal.tenant, letter.run_id)
    state = Key(keys.session(principal, letter.session_id), keys.STATE)
    record = await kit.store.get(state)
    latest = from_record(Head, record.fields).latest if record is not None else 0
    stamp = max(int(kit.clock.now() * 1e6), latest + 1)
    run = Key(keys.run(principal.tenant, letter.run_id), keys.RUN)
    entry = Due(
        kind="run",
        tenant=principal.tenant,
        user=principal.user,
        session_id=letter.session_id,
        run_id=letter.run_id,
    )
    queued: Write = Update(
        run,
        set={"status": "queued", "failure": None, "finished_at": 0.0},
        add={"retries": 1},
        when=(Equals("status", "failed"),),
        expires_at=0.0,
    )
    if await kit.store.get(run) is None:
        # An older Sampan let it expire under its letter.
        queued = Put(run, to_record(made_anew(letter.pending, kit.clock.now())), when=(Absent(),))
    return [
        queued,
        Update(state, set={"v": 1, "latest": stamp}, add={"arrivals": 1}, when=(AtMost("latest", stamp),)),
        Put(
            keys.pending(state.partition, stamp, kit.clock.new_id()),
            to_record(msgspec.structs.replace(letter.pending, due=due.sort)),
        ),
        Put(due, to_record(entry)),
    ]


def _push_again(kit: Kit, letter: DeadLetter) -> list[Write]:
    principal = letter.principal
    entry = Due(
        kind="push",
        tenant=principal.tenant,
        user=principal.user,
        session_id=letter.session_id,
        run_id=letter.run_id,
        delivery=letter.delivery,
        push_id=letter.push_id,
    )
    return [Put(keys.due(kit.clock.now(), principal.tenant, letter.run_id, suffix="/push"), to_record(entry))]
