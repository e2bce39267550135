"""Dead letters: what was given up, with its reason, so that a person can look at it and bring it back."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent_core.engine.runs import Delivery, Pending, Run
from agent_core.messages import Principal


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
    )
