"""The journal of a run: each step is stored before anything uses it, and read instead of being done again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.events import Piece
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.runs import Run, Step
from agent_core.engine.steps import MODEL, TOOL, placed, same_call
from agent_core.engine.switches import Switches
from agent_core.errors import (
    CancelledError,
    ConditionError,
    InterruptedByMessageError,
    LeaseLostError,
    StoreError,
)
from agent_core.messages import ToolCall, to_record
from agent_core.store.base import MAX_WRITES, AtMost, Check, Key, Put, Store, Update, Write

log = logging.getLogger("sampan.engine")


class Journal:
    """The steps of one run: those stored by an earlier attempt, and those of this one that are not stored yet.

    `notes` are for the audit log, stored together with the next steps.
    """

    def __init__(
        self, store: Store, clock: Clock, run: Run, lease: Lease, expires_at: float, switches: Switches
    ) -> None:
        self._store = store
        self._clock = clock
        self._partition = keys.run(run.principal.tenant, run.id)
        self._lease = lease
        self._run = run
        self._switches = switches
        self._switched = run.switched
        self._expires_at = expires_at
        self._earlier: dict[tuple[str, int], list[Step]] = {}
        self._stored: dict[int, Step] = {}
        self._taken: set[int] = set()
        self._used: set[int] = set()
        self.shift = 0
        """How far an older Sampan numbered its steps on from where they stand in their run."""
        self.unsaved: list[Step] = []
        self.notes: list[Put] = []

    def load(self, steps: Iterable[Step]) -> None:
        """Take over what an earlier attempt has stored."""
        found = placed(steps)
        self._earlier = {}
        for step in found:
            if step.series and not step.refused:
                self._earlier.setdefault((step.series, step.place), []).append(step)
        self._stored = {step.number: step for step in found}
        self._taken = set(self._stored)
        first = self._earlier.get((MODEL, 0), [])
        self.shift = first[0].number - 1 if first and not first[0].input else 0

    def at(self, series: str, place: int) -> list[Step]:
        """The steps stored at this place of a series, the latest first; refused ones are not among them.

        There are several where one was done anew, as its input was another; one of an older Sampan, which kept no
        input, comes last.
        """
        stored = self._earlier.get((series, place), [])
        return sorted(stored, key=lambda step: (not step.input, -step.number))

    def find(self, series: str, place: int, input: str) -> Step | None:
        """The step stored at this place of a series upon this input, or upon nobody knows which."""
        return next((step for step in self.at(series, place) if step.input in (input, "")), None)

    def use(self, step: Step) -> None:
        """Remember that this stored step has its place in this attempt."""
        self._used.add(step.number)

    def stray(self, call: ToolCall, *, alike: bool = False) -> Step | None:
        """A stored call of the same tool with the same arguments that has no place in this attempt any more.

        `alike` has it with any arguments.
        """
        for steps in self._earlier.values():
            for step in steps:
                if step.series != TOOL or step.number in self._used or step.call is None:
                    continue
                if same_call(step.call, call) or (alike and step.call.name == call.name):
                    return step
        return None

    def refuse(self, number: int) -> None:
        """Have this step's reply paid for and never used."""
        step = next((step for step in self.steps() if step.number == number), None)
        if step is not None:
            kept = [other for other in self.unsaved if other.number != number]
            self.unsaved = [*kept, msgspec.structs.replace(step, refused=True)]

    def take_number(self, after: int, series: str, place: int) -> int:
        """The next free number behind this one, for the step at this place of a series, which is not stored yet."""
        number = after + 1
        while number in self._taken:
            number += 1
        self._taken.add(number)
        return number

    def steps(self) -> list[Step]:
        """All steps done so far, stored or not, in order."""
        done = {**self._stored, **{step.number: step for step in self.unsaved}}
        return [done[number] for number in sorted(done)]

    @property
    def run_key(self) -> Key:
        """Where the run itself is."""
        return Key(self._partition, keys.RUN)

    def writes(self) -> list[Write]:
        """The writes that store the unsaved steps."""
        return [self._write(step) for step in self.unsaved]

    def _write(self, step: Step) -> Write:
        return Put(keys.step(self._partition, step.number), to_record(step), expires_at=self._expires_at)

    async def save(self) -> None:
        """Store the unsaved steps, in one round trip unless they are very many, and renew the lease with it.

        Raises LeaseLostError where another worker took over, CancelledError where the run was cancelled meanwhile or
        a newer message interrupts it, KilledError where its agent or tenant was stopped.
        """
        while self.unsaved:
            await self._save(self.unsaved[: MAX_WRITES - 2 - len(self.notes)])

    async def _save(self, steps: list[Step]) -> None:
        done = max(step.number for step in steps)
        progress = {"status": "running", "steps": done}
        since = self._lease.moment()
        point("before journal")
        try:
            await self._store.write(
                self._lease.step(),
                Update(
                    self.run_key,
                    set=progress,
                    when=(AtMost("cancelling", 0), AtMost("switched", self._switched)),
                ),
                *map(self._write, steps),
                *self.notes,
            )
        except ConditionError as error:
            if error.index == 0 and not self._lease.lost(error):
                raise InterruptedByMessageError(
                    "a newer message of the session interrupted the run"
                ) from error
            if error.index == 0:
                raise LeaseLostError("another worker took over the session") from error
            current = error.current or {}
            if current.get("cancelling") or current.get("switched", 0) <= self._switched:
                raise CancelledError("the run was cancelled") from error
            # A switch was thrown since. If it is not for this run, or for a tool alone, the step is stored now.
            self._switched = current["switched"]
            await self._switches.refresh()
            self._switches.check(self._run.principal.tenant, self._run.agent)
            return
        point("after journal")
        self._lease.kept(since)
        self._stored.update({step.number: step for step in steps})
        del self.unsaved[: len(steps)]
        self.notes.clear()

    async def rescue(self, error: StoreError) -> None:
        """Store what was done and paid for before the attempt ends by this error: the next one need not pay again.

        Only that: whether the write that failed has reached the store, nobody knows; and a tool that was about to run
        has not.
        """
        done = [step for step in self.unsaved if step.kind == "model" or step.result is not None]
        if isinstance(error, LeaseLostError) or not done:
            return
        held = Check(self._lease.head, when=self._lease.held)
        try:
            for first in range(0, len(done), MAX_WRITES - 1):
                await self._store.write(held, *map(self._write, done[first : first + MAX_WRITES - 1]))
        except StoreError as failed:
            log.warning("run=<%s> | its last steps are not stored: %s", self._run.id, failed)

    async def hold(self) -> None:
        """Make sure that the session is still this worker's, before it does what can't be undone.

        Costs nothing within the lease. A worker that was frozen past it, and wakes, must ask. Raises LeaseLostError.
        """
        since = self._lease.moment()
        if self._lease.left > 0:
            return
        try:
            await self._store.write(self._lease.renewal())
        except ConditionError as error:
            raise LeaseLostError("another worker took over the session") from error
        self._lease.kept(since)

    async def save_piece(self, step: int, fence: int, at: int, text: str) -> None:
        """Store a piece of a text that is still streaming, for those who read it in another process."""
        piece = Piece(step=step, fence=fence, at=at, text=text)
        key = keys.piece(self._partition, step, fence, at)
        held = Check(self._lease.head, when=self._lease.held)
        try:
            await self._store.write(held, Put(key, to_record(piece), expires_at=self._expires_at))
        except ConditionError as error:
            raise LeaseLostError("another worker took over the session") from error
