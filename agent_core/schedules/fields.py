"""The fields of a cron expression: from text to the numbers, or the days of a month, that they stand for."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from agent_core.errors import ConfigError

Days = Callable[[int, int], frozenset[int]]
"""The days of a year's month that a field stands for."""

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


class Field(NamedTuple):
    """What a field may hold: numbers from `low` to `high`, or names for them from `low` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of the month", 1, 31)
MONTH = Field("month", 1, 12, MONTHS)
YEAR = Field("year", 1970, 2199)
AWS_WEEKDAY = Field("day of the week", 1, 7, WEEKDAYS)
UNIX_WEEKDAY = Field("day of the week", 0, 7, WEEKDAYS)

_ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)


def numbers(text: str, field: Field) -> frozenset[int]:
    """The numbers that `*`, `5`, `1-5`, `*/10`, `5/10`, `1-9/2`, names, and lists of these stand for."""
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ConfigError(f"{field.name} {text!r}: {item!r} is no number, range or step")
        star, first, last, step = match.groups()
        low = field.low if star else _number(first, field)
        if last:
            high = _number(last, field)
        else:
            high = field.high if star or step else low
        if low > high:
            raise ConfigError(f"{field.name} {text!r}: {item} runs backwards; write it as two")
        if step == "0":
            raise ConfigError(f"{field.name} {text!r}: a step is at least 1")
        found.update(range(low, high + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, field: Field) -> int:
    if text.upper() in field.names:
        return field.low + field.names.index(text.upper())
    if not (text.isdigit() and len(text) <= 4 and field.low <= int(text) <= field.high):
        raise ConfigError(f"{field.name} {text!r}: give {field.low} to {field.high}")
    return int(text)


def month_days(text: str) -> Days:
    """EventBridge's day of the month: numbers, `L` for the last one, `15W` for the weekday nearest to the 15th."""
    if text == "L":
        return lambda year, month: frozenset((monthrange(year, month)[1],))
    if nearest := re.fullmatch(r"(\d+)W", text):
        day = _number(nearest[1], DAY)
        return lambda year, month: _nearest_weekday(year, month, day)
    return calendar_days(text)


def calendar_days(text: str) -> Days:
    """Days of the month by their numbers, as far as the month has them."""
    chosen = numbers(text, DAY)
    return lambda year, month: frozenset(day for day in chosen if day <= monthrange(year, month)[1])


def _nearest_weekday(year: int, month: int, day: int) -> frozenset[int]:
    """Monday to Friday, in the same month; none where the month has no such day."""
    last = monthrange(year, month)[1]
    if day > last:
        return frozenset()
    weekday = date(year, month, day).weekday()
    if weekday == 5:  # Saturday
        day += -1 if day > 1 else 2
    elif weekday == 6:
        day += 1 if day < last else -2
    return frozenset((day,))


def week_days(text: str, field: Field) -> Days:
    """Days of the week, from Sunday; EventBridge's `6#2` is the second Friday, `6L` the last one, `L` Saturday."""
    if field is AWS_WEEKDAY:
        if text == "L":
            text = "SAT"
        if special := re.fullmatch(r"(\w+)#([1-5])", text, re.ASCII):
            weekday, place = _number(special[1], field) - 1, int(special[2])
            return lambda year, month: frozenset(_on_weekday(year, month, weekday)[place - 1 : place])
        if last := re.fullmatch(r"(\w+)L", text, re.ASCII):
            weekday = _number(last[1], field) - 1
            return lambda year, month: frozenset(_on_weekday(year, month, weekday)[-1:])
    chosen = {(number - field.low) % 7 for number in numbers(text, field)}
    return lambda year, month: frozenset(day for sunday in chosen for day in _on_weekday(year, month, sunday))


def _on_weekday(year: int, month: int, weekday: int) -> list[int]:
    """The days of a month that are a Sunday (0), a Monday (1), ..."""
    first, length = monthrange(year, month)  # a Monday is 0 here
    return list(range(1 + (weekday - 1 - first) % 7, length + 1, 7))
