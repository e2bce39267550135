"""The ledger: what every run cost, model call by model call, and for whom. Pure; the engine stores it at commit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from agent_core.costs.rates import NANO
from agent_core.messages import Principal, Usage


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one model call cost, in nano-dollars; None where no price is known."""

    step: int
    model: str
    usage: Usage
    cost: int | None


class Ledger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one run cost, for whom and through what. `day` is the UTC day (2026-11-22) on which it was accepted.

    Of an `erased` one the names of run, session and user are gone, and others stand in their place.
    """

    run_id: str
    session_id: str
    agent: str
    tenant: str
    user: str
    channel: str
    day: str
    created_at: float
    entries: tuple[Entry, ...] = ()
    erased: bool = False

    @property
    def cost(self) -> int:
        """Nano-dollars of all entries whose price is known."""
        return sum(entry.cost for entry in self.entries if entry.cost is not None)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The models whose price is not known."""
        return tuple(dict.fromkeys(entry.model for entry in self.entries if entry.cost is None))


class Billed(Protocol):
    """What the ledger needs to know of a run."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def session_id(self) -> str:
        """The session it belongs to."""

    @property
    def agent(self) -> str:
        """Which agent answered."""

    @property
    def principal(self) -> Principal:
        """Who asked."""

    @property
    def channel(self) -> str:
        """The way the message came in."""

    @property
    def created_at(self) -> float:
        """When it was accepted, in seconds since 1970."""


class Spent(Protocol):
    """What the ledger needs to know of a step; only those of kind "model" cost something."""

    @property
    def number(self) -> int:
        """Its place in the run."""

    @property
    def kind(self) -> str:
        """ "model" or "tool"."""

    @property
    def name(self) -> str:
        """The model, or the tool."""

    @property
    def usage(self) -> Usage:
        """Tokens."""

    @property
    def cost(self) -> int | None:
        """Nano-dollars, None where no price is known."""


def ledger_record(run: Billed, steps: Iterable[Spent]) -> Ledger:
    """The ledger's record of a run and its journal."""
    return Ledger(
        run_id=run.id,
        session_id=run.session_id,
        agent=run.agent,
        tenant=run.principal.tenant,
        user=run.principal.user,
        channel=run.channel,
        day=utc_day(run.created_at),
        created_at=run.created_at,
        entries=tuple(
            Entry(step=step.number, model=step.name, usage=step.usage, cost=step.cost)
            for step in steps
            if step.kind == "model"
        ),
    )


def utc_day(at: float) -> str:
    """The UTC day of a time in seconds since 1970, as in 2026-11-22."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def dollars(nano: int) -> str:
    """Nano-dollars as dollars, exactly and with at least two decimals: 2250000 is "0.00225", 10**9 is "1.00"."""
    whole, rest = divmod(abs(nano), NANO)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}{whole}.{decimals}"
