"""Every due time is found and no other, also where clocks are put forward or back."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agent_core.errors import ConfigError
from agent_core.schedules.cron import parse


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def due(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next times, as the clock on the wall shows them."""
    schedule = parse(expression, zone)
    found, moment = [], at(after, zone)
    for _ in range(count):
        following = schedule.next_after(moment)
        if following is None:
            break
        moment = following
        found.append(f"{datetime.fromtimestamp(moment, ZoneInfo(zone)):%Y-%m-%d %H:%M}")
    return found


# -- what the expressions mean


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # From EventBridge's own pages.
        ("cron(0 10 * * ? *)", ["2026-01-01 10:00", "2026-01-02 10:00"]),
        ("cron(15 12 * * ? *)", ["2026-01-01 12:15", "2026-01-02 12:15"]),
        ("cron(0 18 ? * MON-FRI *)", ["2026-01-01 18:00", "2026-01-02 18:00", "2026-01-05 18:00"]),
        ("cron(0 8 1 * ? *)", ["2026-01-01 08:00", "2026-02-01 08:00"]),
        (
            "cron(0/15 * * * ? *)",
            ["2026-01-01 00:15", "2026-01-01 00:30", "2026-01-01 00:45", "2026-01-01 01:00"],
        ),
        ("cron(0/10 * ? * MON-FRI *)", ["2026-01-01 00:10"]),
        ("cron(0/5 8-17 ? * MON-FRI *)", ["2026-01-01 08:00", "2026-01-01 08:05"]),
        ("cron(15 10 ? * 6L 2026-2027)", ["2026-01-30 10:15", "2026-02-27 10:15", "2026-03-27 10:15"]),
        ("cron(0 9 ? * 2#1 *)", ["2026-01-05 09:00", "2026-02-02 09:00"]),
        ("cron(0 9 ? * 3#5 *)", ["2026-03-31 09:00", "2026-06-30 09:00"]),
        ("cron(0 9 ? * fri#2 *)", ["2026-01-09 09:00"]),
        (
            "cron(30 8 3W * ? *)",
            ["2026-01-02 08:30", "2026-02-03 08:30", "2026-03-03 08:30", "2026-04-03 08:30"],
        ),
        ("cron(0 0 1W 8 ? *)", ["2026-08-03 00:00", "2027-08-02 00:00", "2028-08-01 00:00"]),
        ("cron(0 0 31W * ? *)", ["2026-01-30 00:00", "2026-03-31 00:00", "2026-05-29 00:00"]),
        ("cron(0 0 L * ? *)", ["2026-01-31 00:00", "2026-02-28 00:00", "2026-03-31 00:00"]),
        ("cron(0 0 ? * L *)", ["2026-01-03 00:00", "2026-01-10 00:00"]),
        ("cron(0 0 29 2 ? *)", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("cron(0 0 1 1 ? 2027,2030)", ["2027-01-01 00:00", "2030-01-01 00:00"]),
        ("cron(0 0 1 1 ? 2020)", []),
        ("cron( 0  0 1 JAN,jul ? * )", ["2026-07-01 00:00", "2027-01-01 00:00"]),
        # crontab(5)
        ("0 9 * * 1-5", ["2026-01-01 09:00", "2026-01-02 09:00", "2026-01-05 09:00"]),
        ("*/20 3 * * *", ["2026-01-01 03:00", "2026-01-01 03:20", "2026-01-01 03:40", "2026-01-02 03:00"]),
        ("5-15/5 0 * * *", ["2026-01-01 00:05", "2026-01-01 00:10", "2026-01-01 00:15", "2026-01-02 00:05"]),
        ("0 0 * * 7", ["2026-01-04 00:00"]),
        ("0 0 * * sun,SAT", ["2026-01-03 00:00", "2026-01-04 00:00"]),
        ("0 0 * * 5-7", ["2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00", "2026-01-09 00:00"]),
        ("30 4 1,15 * 5", ["2026-01-01 04:30", "2026-01-02 04:30", "2026-01-09 04:30", "2026-01-15 04:30"]),
        ("0 0 */2 * 1", ["2026-01-05 00:00", "2026-01-19 00:00"]),
        ("0 0 13 * */2", ["2026-01-13 00:00", "2026-06-13 00:00"]),
        ("0 22 31 * *", ["2026-01-31 22:00", "2026-03-31 22:00"]),
        ("@daily", ["2026-01-02 00:00"]),
        ("@monthly", ["2026-02-01 00:00"]),
        # rates
        ("rate(5 minutes)", ["2026-01-01 00:05", "2026-01-01 00:10"]),
        ("rate(1 hour)", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        ("rate(1 day)", ["2026-01-02 00:00"]),
    ],
)
def test_what_an_expression_means(expression: str, expected: list[str]) -> None:
    assert due(expression, "UTC", "2026-01-01T00:00", max(len(expected), 1)) == expected


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("", "rate"),
        ("daily", "rate"),
        ("0 9 * *", "rate"),
        ("@reboot", "rate"),
        ("rate(0 minutes)", "number of"),
        ("rate(5)", "number of"),
        ("rate(5 seconds)", "number of"),
        ("rate(-1 hours)", "number of"),
        ("rate(1.5 hours)", "number of"),
        ("rate(9999999 days)", "number of"),
        ("cron(0 9 * * *)", "year"),
        ("cron(0 9 * * * *)", "exactly one"),
        ("cron(0 9 ? * ? *)", "exactly one"),
        ("cron(60 9 * * ? *)", "0 to 59"),
        ("cron(0 24 * * ? *)", "0 to 23"),
        ("cron(0 0 0 * ? *)", "1 to 31"),
        ("cron(0 0 32W * ? *)", "1 to 31"),
        ("cron(0 0 * 13 ? *)", "1 to 12"),
        ("cron(0 0 ? * 0 *)", "1 to 7"),
        ("cron(0 0 ? * 8L *)", "1 to 7"),
        ("cron(0 0 ? * 2#6 *)", "no number"),
        ("cron(0 0 ? * MON#1,TUE#2 *)", "no number"),
        ("cron(0 0 * * ? 1969)", "1970 to 2199"),
        ("cron(0 0 30 2 ? *)", "no such day"),
        ("cron(0 0 29 2 ? 2027)", "no such day"),
        ("0 0 30 2 *", "no such day"),
        ("0 0 * * 8", "0 to 7"),
        ("0 0 L * *", "1 to 31"),
        ("0 22-2 * * *", "backwards"),
        ("*/0 * * * *", "at least 1"),
        ("1,,2 * * * *", "no number"),
        ("1- * * * *", "no number"),
        ("-1 * * * *", "no number"),
        ("*5 * * * *", "no number"),
        ("١ * * * *", "no number"),
        ("MON * * * *", "0 to 59"),
        ("99999999999999999999 * * * *", "0 to 59"),
    ],
)
def test_an_expression_that_cant_be_used_says_why(expression: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        parse(expression)
    assert repr(expression) in str(caught.value)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "/etc/passwd", "../UTC", "a\x00b"])
def test_a_zone_that_is_none(zone: str) -> None:
    with pytest.raises(ConfigError, match="time zone"):
        parse("0 9 * * *", zone)


# -- daylight saving, as EventBridge Scheduler has it


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # 02:00-03:00 is left out: so is what is due then, and no other.
        ("30 2 * * *", "Europe/Paris", "2026-03-28T00:00", ["2026-03-28 02:30", "2026-03-30 02:30"]),
        ("30 1-3 * * *", "Europe/Paris", "2026-03-29T00:00", ["2026-03-29 01:30", "2026-03-29 03:30"]),
        ("0 3 * * *", "Europe/Paris", "2026-03-29T00:00", ["2026-03-29 03:00"]),
        ("30 2 8 3 *", "America/New_York", "2026-01-01T00:00", ["2027-03-08 02:30"]),
        # 02:00-03:00 comes twice: what is due then is due once.
        ("30 2 * * *", "Europe/Paris", "2026-10-25T00:00", ["2026-10-25 02:30", "2026-10-26 02:30"]),
        ("*/30 2-3 * * *", "Europe/Paris", "2026-10-25T02:10", ["2026-10-25 02:30", "2026-10-25 03:00"]),
        ("0 1 1 11 *", "America/New_York", "2026-10-31T00:00", ["2026-11-01 01:00", "2027-11-01 01:00"]),
        # A clock put back over midnight, half an hour, and a day that never was.
        ("45 23 * * *", "America/Scoresbysund", "2025-10-25T00:00", ["2025-10-25 23:45", "2025-10-26 23:45"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["2026-10-03 02:15", "2026-10-05 02:15"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00", ["2011-12-31 12:00"]),
    ],
)
def test_daylight_saving(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert due(expression, zone, after, len(expected)) == expected


def test_a_time_that_comes_twice_is_due_the_first_time() -> None:
    schedule = parse("30 2 * * *", "Europe/Paris")
    first, second = (at("2026-10-25T02:30", "Europe/Paris", fold) for fold in (0, 1))
    assert second - first == 3600
    assert schedule.next_after(first - 1) == first
    assert schedule.next_after(first) == at("2026-10-26T02:30", "Europe/Paris")
    assert schedule.next_after(second - 1) == at("2026-10-26T02:30", "Europe/Paris")


def test_a_day_of_a_rate_has_24_hours() -> None:
    schedule = parse("rate(1 day)", "Europe/Paris", start=at("2026-03-28T09:00", "Europe/Paris"))
    found = list(schedule.between(0, at("2026-03-30T12:00", "Europe/Paris")))
    assert [f"{datetime.fromtimestamp(moment, ZoneInfo('Europe/Paris')):%d %H:%M}" for moment in found] == [
        "28 09:00",
        "29 10:00",
        "30 10:00",
    ]


# -- next_after and between


def test_between_takes_its_end_and_leaves_its_beginning() -> None:
    schedule = parse("0 * * * *")
    a, b = at("2026-01-01T00:00"), at("2026-01-01T02:00")
    assert list(schedule.between(a, b)) == [a + 3600, b]
    assert list(schedule.between(a - 0.001, b - 0.001)) == [a, a + 3600]
    assert list(schedule.between(b, a)) == []
    assert list(schedule.between(a, a)) == []


@pytest.mark.parametrize("moment", [-1e300, -1e12, -1.0, 0.0])
def test_the_first_time_of_all(moment: float) -> None:
    assert parse("cron(0 0 1 1 ? *)").next_after(moment) == (0.0 if moment < 0 else 365 * 86_400.0)


@pytest.mark.parametrize("moment", [7.3e9, 1e12, 1e300])
def test_after_the_last_year(moment: float) -> None:
    assert parse("* * * * *").next_after(moment) is None


@given(
    st.integers(1, 2000), st.sampled_from(["minutes", "hours", "days"]), st.floats(0, 4e9), st.floats(0, 4e9)
)
def test_a_rate_comes_at_its_intervals(count: int, unit: str, start: float, moment: float) -> None:
    schedule = parse(f"rate({count} {unit})", start=float(int(start)))
    period = count * {"minutes": 60, "hours": 3600, "days": 86_400}[unit]
    found = schedule.next_after(moment)
    assert found is not None
    assert found > moment
    assert (found - int(start)) % period == 0
    assert found == int(start) or found - moment <= period


# -- against a scan of every minute, by rules of its own


def matches(text: str, value: int, low: int, high: int, names: list[str]) -> bool:
    """Whether a plain field covers a value, by trying its items one by one."""
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        else:
            begin = names.index(first) + low if first in names else int(first)
            end = (names.index(last) + low if last in names else int(last)) if last else begin
            if step and not last:
                end = high
        if begin <= value <= end and (value - begin) % int(step or 1) == 0:
            return True
    return False


MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


def day_matches(text: str, day: date) -> bool:
    last = monthrange(day.year, day.month)[1]
    if text == "L":
        return day.day == last
    if text.endswith("W"):
        wanted = int(text[:-1])
        if wanted > last or day.isoweekday() > 5:
            return False
        weekdays = [d for d in range(1, last + 1) if day.replace(day=d).isoweekday() <= 5]
        return day.day == min(weekdays, key=lambda d: (abs(d - wanted), d))
    return matches(text, day.day, 1, 31, [])


def aws_weekday_matches(text: str, day: date) -> bool:
    number = day.isoweekday() % 7 + 1
    if text == "L":
        return number == 7
    if "#" in text:
        weekday, place = text.split("#")
        return matches(weekday, number, 1, 7, DAYS) and (day.day + 6) // 7 == int(place)
    if text.endswith("L"):
        return matches(text[:-1], number, 1, 7, DAYS) and (day + timedelta(7)).month != day.month
    return matches(text, number, 1, 7, DAYS)


def unix_days_match(day: str, weekday: str, today: date) -> bool:
    of_month = matches(day, today.day, 1, 31, [])
    sunday = today.isoweekday() % 7
    of_week = matches(weekday, sunday, 0, 7, DAYS) or (sunday == 0 and matches(weekday, 7, 0, 7, DAYS))
    return of_month and of_week if "*" in (day[0], weekday[0]) else of_month or of_week


def is_due(expression: str, wall: datetime) -> bool:
    aws = expression.startswith("cron(")
    minute, hour, day, month, weekday, *year = expression.removeprefix("cron(").removesuffix(")").split()
    if not (
        matches(minute, wall.minute, 0, 59, [])
        and matches(hour, wall.hour, 0, 23, [])
        and matches(month, wall.month, 1, 12, MONTHS)
    ):
        return False
    if not aws:
        return unix_days_match(day, weekday, wall.date())
    if not matches(year[0], wall.year, 1970, 2199, []):
        return False
    return day_matches(day, wall.date()) if weekday == "?" else aws_weekday_matches(weekday, wall.date())


def scanned(expression: str, zone: str, after: int, upto: int) -> list[float]:
    """Minute by minute of the world's time: what does the clock on the wall show, and for the first time?"""
    place, found, seen = ZoneInfo(zone), [], set()
    for moment in range(after - 86_400 + (-after) % 60, upto + 1, 60):
        wall = datetime.fromtimestamp(moment, place).replace(tzinfo=None)
        first_time = wall not in seen
        seen.add(wall)
        if moment > after and first_time and is_due(expression, wall):
            found.append(float(moment))
    return found


def plain(low: int, high: int, names: list[str] | None = None) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    name = st.sampled_from(names).map(str) if names else st.nothing()
    one = number.map(str) | name
    span = st.tuples(number, number).map(sorted).map(lambda ends: f"{ends[0]}-{ends[1]}")
    stepped = st.tuples(st.just("*") | number.map(str) | span, st.integers(1, high)).map(
        lambda pair: f"{pair[0]}/{pair[1]}"
    )
    return st.lists(one | span | stepped, min_size=1, max_size=3).map(",".join)


minutes = st.just("*") | plain(0, 59)
hours = st.just("*") | plain(0, 23)
months = st.just("*") | plain(1, 12, MONTHS)
unix = st.tuples(minutes, hours, st.just("*") | plain(1, 31), months, st.just("*") | plain(0, 7, DAYS)).map(
    " ".join
)
aws_days = st.one_of(
    st.tuples(
        st.just("*") | plain(1, 31) | st.just("L") | st.integers(1, 31).map(lambda day: f"{day}W"),
        months,
        st.just("?"),
    ),
    st.tuples(
        st.just("?"),
        months,
        st.just("*")
        | plain(1, 7, DAYS)
        | st.just("L")
        | st.sampled_from([*DAYS, *"1234567"]).map(lambda day: f"{day}L")
        | st.tuples(st.sampled_from([*DAYS, *"1234567"]), st.integers(1, 5)).map(
            lambda pair: f"{pair[0]}#{pair[1]}"
        ),
    ),
)
aws = st.tuples(minutes, hours, aws_days, st.just("*") | st.just("2020-2030/2")).map(
    lambda parts: f"cron({parts[0]} {parts[1]} {' '.join(parts[2])} {parts[3]})"
)
ZONES = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Scoresbysund",
    "America/Havana",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Asia/Shanghai",
]
CHANGES = [
    at("2026-03-29T01:00"),  # Europe forward
    at("2026-10-25T01:00"),  # and back
    at("2026-03-08T07:00"),  # New York forward
    at("2026-11-01T06:00"),  # and back
    at("2026-10-03T15:30"),  # Lord Howe by half an hour
    at("2026-04-04T15:00"),
    at("2026-03-08T05:00"),  # Havana at midnight
    at("2026-11-01T05:00"),
    at("2011-12-30T10:00"),  # Apia leaves out a day
    at("2026-02-15T02:00"),  # Casablanca before Ramadan
]


@settings(max_examples=150, deadline=None)
@given(
    expression=unix | aws,
    zone=st.sampled_from(ZONES),
    around=st.sampled_from(CHANGES) | st.integers(int(at("2024-01-01T00:00")), int(at("2030-01-01T00:00"))),
    before=st.integers(0, 2 * 86_400),
)
@example(expression="*/10 * * * *", zone="America/Havana", around=at("2026-11-01T05:00"), before=3600)
@example(
    expression="cron(0/7 * 31W * ? *)", zone="Europe/Paris", around=at("2026-05-29T01:00"), before=86_400
)
def test_no_time_is_missed_and_none_made_up(expression: str, zone: str, around: float, before: int) -> None:
    try:
        schedule = parse(expression, zone)
    except ConfigError as error:
        assume("no such day" not in str(error))
        raise
    after = int(around) - before
    upto = after + 3 * 86_400
    assert list(schedule.between(after, upto)) == scanned(expression, zone, after, upto)


@settings(max_examples=100, deadline=None)
@given(expression=unix | aws, moment=st.integers(0, int(datetime(2190, 1, 1, tzinfo=UTC).timestamp())))
def test_the_next_time_is_due_and_later(expression: str, moment: int) -> None:
    """Over long stretches, where a scan of each minute would not end."""
    try:
        schedule = parse(expression, "America/New_York")
    except ConfigError as error:
        assume("no such day" not in str(error))
        raise
    found = schedule.next_after(moment)
    if found is not None:
        assert found > moment
        assert is_due(
            expression, datetime.fromtimestamp(found, ZoneInfo("America/New_York")).replace(tzinfo=None)
        )
        assert schedule.next_after(found - 1) == found
