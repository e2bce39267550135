"""How many requests in how long: token buckets in the store, exact over any number of processes.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm; ATM Forum TM 4.0,
section 4.4.2). A request moves it on by one interval, by one conditional write: that decides and pays at once.

    <tenant>/door     rate/<whose>   full_at, in microseconds since 1970
"""

from __future__ import annotations

import math
import re

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError, InputError, QuotaError, StoreBusyError
from agent_core.store.base import Above, AtMost, Key, Store, Update, quoted

UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_FORM = re.compile(r"([1-9][0-9]{0,8})/(?:(second|minute|hour|day)|([1-9][0-9]{0,7}))")
_FULL_AT = "full_at"
_TRIES = 20


class Rate(msgspec.Struct, frozen=True):
    """So many requests in so many seconds; that many at once where none came for as long."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """`60/minute`, `5/second`, `1000/day`, or `100/30` for 30 seconds. Raises InputError."""
        parts = _FORM.fullmatch(text.strip())
        if parts is None:
            raise InputError(
                f"a rate is a count and a time, as in 60/minute, 5/second or 100/30 (seconds), not {text[:40]!r}",
                field="rate",
            )
        return cls(int(parts[1]), UNITS[parts[2]] if parts[2] else int(parts[3]))


class Standing(msgspec.Struct, frozen=True):
    """A bucket after a request: what is left of which rate, and seconds until there is more."""

    policy: str
    rate: Rate
    left: int
    more_in: int


class Buckets:
    """Takes one token at a time."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._busy: set[Key] = set()

    async def take(self, policy: str, tenant: str, whose: str, rate: Rate) -> Standing:
        """Take a token, in one round trip. Raises QuotaError where there is none, and then nothing is changed."""
        key = Key(f"{quoted(tenant)}/door", f"rate/{quoted(whose)}")
        window = rate.seconds * 1_000_000
        interval = max(1, window // rate.count)
        for _ in range(_TRIES):
            now = int(self._clock.now() * 1_000_000)
            try:
                # Which of the two is guessed by what this process saw last; a wrong guess costs a round trip.
                if key in self._busy:
                    when = (Above(_FULL_AT, now), AtMost(_FULL_AT, now + window - interval))
                    expires_at = (now + 2 * window) / 1_000_000
                    fields = await self._store.add(
                        key, {_FULL_AT: interval}, when=when, expires_at=expires_at
                    )
                    full_at = int(fields[_FULL_AT])
                else:
                    full_at = now + interval
                    update = Update(
                        key,
                        set={_FULL_AT: full_at},
                        when=(AtMost(_FULL_AT, now),),
                        expires_at=(now + 2 * window) / 1_000_000,
                    )
                    await self._store.write(update)
                    self._remember(key)
            except ConditionError as error:
                stands = int((error.current or {}).get(_FULL_AT, 0))
                if stands > now + window - interval:
                    self._remember(key)
                    raise _exceeded(policy, rate, (stands + interval - window - now) / 1_000_000) from None
                if stands > now:
                    self._remember(key)
                else:
                    self._busy.discard(key)
                continue
            left = max(0, (now + window - full_at) // interval)
            more = (full_at - now - (rate.count - left - 1) * interval) / 1_000_000
            return Standing(policy, rate, left, max(1, math.ceil(more)))
        raise StoreBusyError("the count of requests is fought over: try again", retry_after=1.0)

    async def give_back(self, tenant: str, whose: str, rate: Rate) -> None:
        """Return a token that was not used after all."""
        key = Key(f"{quoted(tenant)}/door", f"rate/{quoted(whose)}")
        interval = max(1, rate.seconds * 1_000_000 // rate.count)
        try:
            await self._store.add(key, {_FULL_AT: -interval}, when=(Above(_FULL_AT, interval),))
        except ConditionError:
            return  # full again and forgotten

    def _remember(self, key: Key) -> None:
        if len(self._busy) >= 10_000:
            self._busy.clear()
        self._busy.add(key)


def _exceeded(policy: str, rate: Rate, seconds: float) -> QuotaError:
    wait = max(1, math.ceil(seconds))
    return QuotaError(
        f"more than {rate.count} requests in {rate.seconds} s ({policy}): come back in {wait} s",
        policy=policy,
        retry_after=wait,
    )


def headers_of(standings: list[Standing]) -> list[tuple[bytes, bytes]]:
    """The RateLimit headers. https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (section 4)"""
    if not standings:
        return []
    policies = ", ".join(f'"{one.policy}";q={one.rate.count};w={one.rate.seconds}' for one in standings)
    left = ", ".join(f'"{one.policy}";r={one.left};t={one.more_in}' for one in standings)
    return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", left.encode())]
