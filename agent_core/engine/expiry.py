"""How long what belongs to a run is kept: together, and in the right order.

A run that is open, whose reply is still to be pushed, or that has a dead letter, does not expire: whoever comes back
to it finds it. After that its record is kept for `SAMPAN_RUN_DAYS`, and with it its idempotency key. Its steps are kept
longer still, so that a retry never finds a run without its journal. They are not written again at its end, which would
cost as much as writing them did; a worker that takes up a run has those of its steps kept on that have grown old.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agent_core.engine import keys
from agent_core.engine.kit import Kit
from agent_core.engine.runs import Run, Step
from agent_core.errors import ConditionError
from agent_core.store.base import Above, Update

log = logging.getLogger("sampan.engine")

SLACK = 7 * 86_400.0
"""Seconds by which steps outlive what they are for; the outbox, for one, tries for four days."""

_AT_ONCE = 25


def of_run(kit: Kit, run: Run, *, kept: bool = False) -> float:
    """When a run's record expires; 0 for never. `kept`: its reply is still to be pushed, or it has a letter."""
    return run.finished_at + kit.run_seconds if run.done and not kept else 0.0


def of_step(kit: Kit, until: float = 0.0) -> float:
    """When a step expires that is written now, of a run that is worked on again by `until`."""
    return max(kit.clock.now(), until) + kit.run_seconds + SLACK


async def keep(kit: Kit, run: Run, steps: Sequence[Step], *, until: float = 0.0) -> None:
    """Have the steps of a run that is taken up, or waits `until` then, outlive its record."""
    waits = until - kit.clock.now() > SLACK / 2
    limit = kit.clock.now() - SLACK / 2
    old = [step for step in steps if waits or 0 < max(step.started_at, step.finished_at) < limit]
    await _renew(kit, run, old, of_step(kit, until))


async def keep_for_ever(kit: Kit, run: Run, steps: Sequence[Step]) -> None:
    """Have the steps of a run that is given up wait for it to be brought back."""
    await _renew(kit, run, steps, 0.0)


async def _renew(kit: Kit, run: Run, steps: Sequence[Step], expires_at: float) -> None:
    partition = keys.run(run.principal.tenant, run.id)
    for start in range(0, len(steps), _AT_ONCE):
        batch = [
            Update(keys.step(partition, step.number), when=(Above("number", -1),), expires_at=expires_at)
            for step in steps[start : start + _AT_ONCE]
        ]
        try:
            await kit.store.write(*batch)
        except ConditionError as error:
            log.warning("run=<%s> | a step of it is gone: %s", run.id, error)
