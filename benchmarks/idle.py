"""What sessions cost that nobody uses: calls of the store while a thousand of them lie there for an hour."""

from __future__ import annotations

import asyncio

from agent_core import Agent, Message
from agent_core.engine.runs import Inbound
from agent_core.store.memory import MemoryStore
from agent_core.testing import CountingStore, ManualClock, ScriptedModel, test_app
from benchmarks.table import Goal, Report

SESSIONS = (0, 1000, 10_000)
MINUTES = 60


def run(*, quick: bool = False) -> Report:
    """The table; `quick` leaves out the most sessions."""
    found = {sessions: asyncio.run(_idle(sessions)) for sessions in (SESSIONS[:2] if quick else SESSIONS)}
    return Report(
        name="idle",
        title="Idle sessions",
        columns=("sessions", "store calls in an hour", "per minute"),
        rows=[(sessions, calls, calls / MINUTES) for sessions, calls in found.items()],
        goals=[Goal("store calls per minute with 1,000 idle sessions", found[1000] / MINUTES, 1.0)],
        notes=[
            "Each session had one turn. Then, for an hour, what a server's loop and `handlers/schedule.py` do each "
            "minute: a sweep. Leases are released with the commit, so nothing is kept alive. The same for any "
            "number of sessions: the sweep reads the list of what is due, which is empty. Besides, once an hour and "
            "once in each new process, the stored schedules are compared with the code's: one call more."
        ],
    )


async def _idle(sessions: int) -> int:
    """Calls of the store in an hour of sweeps."""
    clock = ManualClock()
    store = CountingStore(MemoryStore(clock))
    model = ScriptedModel(["Hello."] * sessions)
    app = test_app(Agent(name="assistant", model=model), store=store, clock=clock)
    for number in range(sessions):
        await app.engine.answer(
            Inbound(messages=(Message.of("user", "Hello?"),), session_id=f"session-{number}")
        )
    await app.engine.drain()
    model.assert_used_up()
    store.reset()
    for _ in range(MINUTES):
        clock.advance(60.0)
        await app.engine.sweep()
    calls = store.trips.total()
    await app.close()
    return calls
