"""When a schedule is due: EventBridge's `rate(5 minutes)` and `cron(0 9 ? * MON-FRI *)`, or crontab's `0 9 * * 1-5`.

Times are in seconds since 1970. A cron expression is read on the wall clock of its time zone, as EventBridge Scheduler
does it: a time that daylight saving leaves out is left out, and one that comes twice counts once, the first time. So
`*/10 * * * *` pauses in the hour that is repeated; where that matters use UTC or a rate. A rate is a length of time,
`rate(1 day)` always 24 hours. https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Protocol
from zoneinfo import ZoneInfo

from agent_core.errors import ConfigError
from agent_core.schedules.fields import (
    AWS_WEEKDAY,
    HOUR,
    MINUTE,
    MONTH,
    UNIX_WEEKDAY,
    YEAR,
    Days,
    calendar_days,
    month_days,
    numbers,
    week_days,
)

_UNITS = {"minute": 60, "hour": 3600, "day": 86_400}
_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EXAMPLES = "write rate(5 minutes), cron(0 9 ? * MON-FRI *) or 0 9 * * 1-5"


class Expression(Protocol):
    """When something is due."""

    def next_after(self, moment: float) -> float | None:
        """The first time after this one; None where there is none up to the year 2199."""

    def between(self, after: float, upto: float) -> Iterator[float]:
        """All times later than `after` and not later than `upto`, in order."""


def parse(expression: str, zone: str = "UTC", *, start: float = 0.0) -> Expression:
    """The expression on the wall clock of an IANA time zone. Raises ConfigError that says what is wrong.

    A rate counts from `start`, which is due too; from 1970 unless told, so that all processes agree and `rate(1 hour)`
    is each full hour.
    """
    text = " ".join(expression.split())
    clock = _zone(zone)
    try:
        if match := re.fullmatch(r"rate ?\((.*)\)", text):
            return _rate(match[1].strip(), start)
        if match := re.fullmatch(r"cron ?\((.*)\)", text):
            return _aws_cron(match[1].split(), clock)
        return _unix_cron(_NAMES.get(text, text).split(), clock)
    except ConfigError as error:
        raise ConfigError(f"schedule {expression!r}: {error}") from None


@dataclass(frozen=True)
class Rate:
    """Every so many seconds from a start on."""

    seconds: int
    start: float = 0.0

    def next_after(self, moment: float) -> float | None:
        """The first time after this one."""
        if moment < self.start:
            return self.start
        return self.start + ((moment - self.start) // self.seconds + 1) * self.seconds

    def between(self, after: float, upto: float) -> Iterator[float]:
        """All times later than `after` and not later than `upto`, in order."""
        return _between(self, after, upto)


@dataclass(frozen=True)
class Cron:
    """Each of these minutes of these hours of these days, on the wall clock of a zone."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    years: frozenset[int]
    days: Days
    zone: ZoneInfo

    def next_after(self, moment: float) -> float | None:
        """The first time after this one; None where there is none up to the year 2199."""
        try:
            wall = datetime.fromtimestamp(moment, self.zone).replace(tzinfo=None)
        except (OverflowError, ValueError, OSError):
            return None if moment > 0 else self.next_after(-172_800.0)  # before 1970 in any zone
        for due in self._walls_after(wall):
            aware = due.replace(tzinfo=self.zone)  # fold 0: of a time that comes twice, the first
            found = aware.timestamp()
            left_out = datetime.fromtimestamp(found, self.zone).replace(tzinfo=None) != due
            if found > moment and not left_out:
                return found
        return None

    def between(self, after: float, upto: float) -> Iterator[float]:
        """All times later than `after` and not later than `upto`, in order."""
        return _between(self, after, upto)

    def ever(self) -> bool:
        """Whether there is any such day at all."""
        return next(self._days_from(date(YEAR.low, 1, 1)), None) is not None

    def _walls_after(self, wall: datetime) -> Iterator[datetime]:
        for day in self._days_from(wall.date()):
            today = day == wall.date()
            for hour in self.hours:
                if today and hour < wall.hour:
                    continue
                for minute in self.minutes:
                    due = datetime.combine(day, time(hour, minute))
                    if due > wall:
                        yield due

    def _days_from(self, first: date) -> Iterator[date]:
        for year in range(max(first.year, YEAR.low), YEAR.high + 1):
            if year not in self.years:
                continue
            for month in range(first.month if year == first.year else 1, 13):
                if month not in self.months:
                    continue
                for day in sorted(self.days(year, month)):
                    if (found := date(year, month, day)) >= first:
                        yield found


def _between(expression: Expression, after: float, upto: float) -> Iterator[float]:
    moment = expression.next_after(after)
    while moment is not None and moment <= upto:
        yield moment
        moment = expression.next_after(moment)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ConfigError(
            f"there is no time zone {name!r}; write one like Europe/Paris, and install tzdata if it is missing"
        ) from None


def _rate(text: str, start: float) -> Rate:
    match = re.fullmatch(r"([1-9]\d{0,5}) (minute|hour|day)s?", text)
    if match is None:
        raise ConfigError(f"{text!r} is no number of minutes, hours or days, as in rate(5 minutes)")
    return Rate(int(match[1]) * _UNITS[match[2]], start)


def _aws_cron(fields: list[str], zone: ZoneInfo) -> Cron:
    if len(fields) != 6:
        raise ConfigError("cron(...) takes minute, hour, day of the month, month, day of the week and year")
    minute, hour, day, month, weekday, year = fields
    if (day == "?") == (weekday == "?"):
        raise ConfigError("exactly one of day of the month and day of the week is a ?")
    days = month_days(day.upper()) if weekday == "?" else week_days(weekday.upper(), AWS_WEEKDAY)
    return _cron(minute, hour, month, year, days, zone)


def _unix_cron(fields: list[str], zone: ZoneInfo) -> Cron:
    if len(fields) != 5:
        raise ConfigError(_EXAMPLES)
    minute, hour, day, month, weekday = fields
    of_month, of_week = calendar_days(day), week_days(weekday, UNIX_WEEKDAY)
    # crontab(5): where both are given either will do, unless one begins with a star.
    either = not day.startswith("*") and not weekday.startswith("*")

    def days(year: int, number: int) -> frozenset[int]:
        if either:
            return of_month(year, number) | of_week(year, number)
        return of_month(year, number) & of_week(year, number)

    return _cron(minute, hour, month, "*", days, zone)


def _cron(minute: str, hour: str, month: str, year: str, days: Days, zone: ZoneInfo) -> Cron:
    cron = Cron(
        minutes=tuple(sorted(numbers(minute, MINUTE))),
        hours=tuple(sorted(numbers(hour, HOUR))),
        months=numbers(month, MONTH),
        years=numbers(year, YEAR),
        days=days,
        zone=zone,
    )
    if not cron.ever():
        raise ConfigError("there is no such day in any year")
    return cron
