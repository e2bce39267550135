"""A model's price per token and per request, and the exact arithmetic from usage to nano-dollars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal

import msgspec

from agent_core.messages import Usage

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""

MILLION = 1_000_000

_PER_TOKEN = ("input", "cached_input", "cache_write", "output")


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices that hold instead for all tokens of a call whose input is over `tokens`; the others stay."""

    tokens: int
    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices in USD per million tokens, and in USD per `request`. None where a price is not known.

    Without a price of its own, `cached_input` and `cache_write` cost what `input` costs. `since` is the first UTC day
    (2026-09-01) the rate holds on, `between` the UTC hours (["00:30", "16:30"], the second one excluded).
    """

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None
    request: Decimal | None = None
    over: tuple[Tier, ...] = ()
    since: str = ""
    between: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where the rate can't be counted with."""
        prices = [getattr(row, name, None) for row in (self, *self.over) for name in (*_PER_TOKEN, "request")]
        if not any(price is not None for price in prices):
            raise ValueError("a rate needs a price: input, output or request")
        for price in prices:
            if price is not None and (not price.is_finite() or price < 0 or price * NANO % 1):
                raise ValueError(f"price {price}: use a number from 0 on, of at most nine decimals")
        if self.since and date.fromisoformat(self.since).isoformat() != self.since:
            raise ValueError(f"since {self.since}: write a day as 2026-09-01")
        for hour in self.between or ():
            if time.fromisoformat(hour).isoformat("minutes") != hour:
                raise ValueError(f"between {hour}: write an hour as 16:30")

    def holds(self, at: float) -> bool:
        """Whether the rate's conditions hold at a time (seconds since 1970)."""
        if not self.since and self.between is None:
            return True
        moment = datetime.fromtimestamp(at, UTC).isoformat()
        if moment[:10] < self.since:
            return False
        if self.between is None:
            return True
        start, end = self.between
        hour = moment[11:16]
        return start <= hour < end if start <= end else hour >= start or hour < end

    def cost(self, usage: Usage) -> int | None:
        """What one call of this usage costs in nano-dollars, rounded half up; None where a price is missing."""
        cached = min(usage.cached_input, usage.input)
        written = min(usage.cache_write, usage.input - cached)
        price = self._over(usage.input)
        total = (self.request or Decimal(0)) * MILLION
        for tokens, per_million in (
            (usage.input - cached - written, price.input),
            (cached, price.input if price.cached_input is None else price.cached_input),
            (written, price.input if price.cache_write is None else price.cache_write),
            (usage.output, price.output),
        ):
            if tokens <= 0:
                continue
            if per_million is None:
                return None
            total += per_million * tokens
        # Nano-dollars times a million: a whole number, since no price has more than nine decimals.
        return (int(total * NANO) + MILLION // 2) // MILLION

    def _over(self, tokens: int) -> Rate | Tier:
        """The prices for a call of so many input tokens."""
        reached = [tier for tier in self.over if tokens > tier.tokens]
        if not reached:
            return self
        tier = max(reached, key=lambda tier: tier.tokens)
        own = {name: getattr(self if getattr(tier, name) is None else tier, name) for name in _PER_TOKEN}
        return Tier(tokens=tier.tokens, **own)


def rate_at(rates: Sequence[Rate], at: float) -> Rate:
    """The rate that holds at a time: the last one whose conditions do, else the first."""
    return next((rate for rate in reversed(rates) if rate.holds(at)), rates[0])
