"""When a call is tried again, how long is waited, and when it is not."""

from __future__ import annotations

import pytest

from agent_core.errors import ConnectError, CutError, LostError, ProtocolError, StalledError, WireError
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.base import Repeat, Request, Response
from agent_core.wire.retry import RETRIED, UNDONE, RetryWire, may_repeat, retry_after
from agent_core.wire.scripted import CUT, STALL, Answer

CALL = Request(method="POST", url="https://api.example.com/v1", body=b"{}", repeat="safe")
OK = Answer(body=b"fine")
DOWN = Answer(status=503)
REFUSED = ConnectError("refused")
SILENT = StalledError("nothing", timeout="first_byte")


def wires(*script: Answer | WireError, retries: int = 2) -> tuple[ScriptedWire, RetryWire, ManualClock]:
    inner, clock = ScriptedWire(script), ManualClock(jump=True)
    return inner, RetryWire(inner, clock, retries=retries), clock


async def send(wire: RetryWire) -> bytes:
    return (await wire.send(CALL)).body


async def stream(wire: RetryWire) -> bytes:
    async with wire.stream(CALL) as answer:
        return await answer.read()


ways = pytest.mark.parametrize("way", [send, stream])


@ways
@pytest.mark.parametrize(
    "fault",
    [REFUSED, SILENT, StalledError("x", timeout="connect"), *(Answer(status=s) for s in sorted(RETRIED))],
    ids=repr,
)
async def test_passing_faults_are_tried_again(way: object, fault: Answer | WireError) -> None:
    inner, wire, clock = wires(fault, fault, OK)
    assert await way(wire) == b"fine"  # type: ignore[operator]
    inner.assert_used_up()
    assert len(clock.slept) == 2
    assert inner.requests == [CALL] * 3


@ways
@pytest.mark.parametrize(
    "fault",
    [
        CutError("x"),
        ProtocolError("x"),
        StalledError("x", timeout="total"),
        StalledError("x", timeout="between_chunks"),
    ],
    ids=repr,
)
async def test_other_faults_are_not(way: object, fault: WireError) -> None:
    _, wire, clock = wires(fault, OK)
    with pytest.raises(type(fault)):
        await way(wire)  # type: ignore[operator]
    assert not clock.slept


@ways
@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 422, 501])
async def test_other_statuses_are_answers(way: object, status: int) -> None:
    _, wire, clock = wires(Answer(status=status, body=b"it"), OK)
    assert await way(wire) == b"it"  # type: ignore[operator]
    assert not clock.slept


@ways
async def test_the_last_answer_is_given_on(way: object) -> None:
    """Its caller reads the provider's words and the time to wait from it."""
    inner, wire, _ = wires(DOWN, DOWN, Answer(status=503, body=b"sorry"))
    assert await way(wire) == b"sorry"  # type: ignore[operator]
    inner.assert_used_up()


@ways
async def test_the_last_error_is_raised(way: object) -> None:
    inner, wire, _ = wires(REFUSED, REFUSED, SILENT)
    with pytest.raises(StalledError):
        await way(wire)  # type: ignore[operator]
    inner.assert_used_up()


async def test_waits_grow_and_differ() -> None:
    """Full jitter: between 0 and a bound that doubles, never beyond 8 s."""
    longest: dict[int, float] = {}
    for seed in range(200):
        clock = ManualClock(jump=True, seed=seed)
        wire = RetryWire(ScriptedWire([REFUSED] * 3 + [OK]), clock, retries=3)
        await wire.send(CALL)
        for number, slept in enumerate(clock.slept):
            longest[number] = max(longest.get(number, 0.0), slept)
            assert 0 <= slept <= 0.5 * 2**number
    assert longest[0] > 0.45
    assert longest[1] > 0.9
    assert longest[2] > 1.8


@ways
async def test_retry_after_in_seconds(way: object) -> None:
    _, wire, clock = wires(Answer(status=429, headers={"retry-after": "7"}), OK)
    await way(wire)  # type: ignore[operator]
    assert 7 <= clock.slept[0] <= 7.5


@ways
async def test_retry_after_as_a_date(way: object) -> None:
    _, wire, clock = wires(Answer(status=503, headers={"retry-after": "Sun, 15 Jun 2025 15:06:45 GMT"}), OK)
    await way(wire)  # type: ignore[operator]
    assert 5 <= clock.slept[0] <= 5.5


@ways
async def test_a_long_retry_after_is_left_to_the_caller(way: object) -> None:
    inner, wire, clock = wires(Answer(status=429, headers={"retry-after": "3600"}, body=b"later"), OK)
    assert await way(wire) == b"later"  # type: ignore[operator]
    assert not clock.slept
    assert inner.left == 1


NOW = 1_750_000_000.0  # Sun, 15 Jun 2025 15:06:40 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        (" 20 ", 20.0),
        ("-3", 0.0),
        ("Sun, 15 Jun 2025 15:07:40 GMT", 60.0),
        ("Sunday, 15-Jun-25 15:07:40 GMT", 60.0),  # RFC 850's form, which RFC 9110 wants to be read
        ("Sun Jun 15 15:07:40 2025", 60.0),  # asctime's
        ("Sun, 15 Jun 2025 15:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("Sun, 99 Jun 2025 99:07:40 GMT", None),
        ("Sun, 15 Jun 99999 15:07:40 GMT", None),
    ],
)
def test_both_forms_of_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds
    assert retry_after({}, NOW) is None


class TestStreams:
    async def test_not_after_a_piece_was_given(self) -> None:
        for fault in (CUT, STALL, SILENT, REFUSED):
            _, wire, clock = wires(Answer(body=(b"one", fault)), OK)
            got: list[bytes] = []
            async with wire.stream(CALL) as answer:
                got.append(await anext(answer.chunks))
                with pytest.raises(type(fault)):
                    await anext(answer.chunks)
            assert got == [b"one"]
            assert not clock.slept

    async def test_again_while_no_piece_was_given(self) -> None:
        """A server that sends a head and then falls silent has given nothing yet."""
        inner, wire, _ = wires(Answer(body=(SILENT,)), OK)
        assert await stream(wire) == b"fine"
        assert inner.open_streams == 0

    async def test_every_stream_is_closed_before_the_next(self) -> None:
        inner, wire, clock = wires(DOWN, DOWN, OK)
        open_while_asleep = []
        sleep = clock.sleep

        async def watched(seconds: float) -> None:
            open_while_asleep.append(inner.open_streams)
            await sleep(seconds)

        clock.sleep = watched  # type: ignore[method-assign]
        assert await stream(wire) == b"fine"
        assert open_while_asleep == [0, 0]

    async def test_the_body_of_an_error_in_the_caller_is_no_fault_of_the_wire(self) -> None:
        _, wire, clock = wires(OK, OK)
        with pytest.raises(ConnectError, match="mine"):
            async with wire.stream(CALL):
                raise ConnectError("mine")
        assert not clock.slept

    async def test_an_empty_body(self) -> None:
        _, wire, _ = wires(Answer())
        assert await stream(wire) == b""


class TestBudget:
    async def test_while_a_provider_is_down(self) -> None:
        """After a good time, 200 calls to a provider that is down cause at most 10 % more."""
        inner, wire, _ = wires(*[OK] * 500, *[DOWN] * 400)
        for _ in range(500):
            await wire.send(CALL)
        assert await failures(wire, 200) == 200
        assert len(inner.requests) - 700 <= 20

    async def test_from_the_start(self) -> None:
        """A process that starts while its provider is down has three retries, and one more a minute."""
        inner, wire, clock = wires(*[DOWN] * 400)
        await failures(wire, 100)
        assert len(inner.requests) <= 104
        clock.advance(60)
        await failures(wire, 10)
        assert len(inner.requests) <= 115

    async def test_half_of_the_calls_fail(self) -> None:
        """Retries stay at a tenth of the calls when a fault lasts."""
        inner, wire, _ = wires(*[OK, DOWN] * 2000)
        for _ in range(1000):
            await wire.send(CALL)
        assert len(inner.requests) <= 1000 * 1.1 + 10

    async def test_each_host_has_its_own(self) -> None:
        inner, wire, _ = wires(*[DOWN] * 50, DOWN, OK)
        await failures(wire, 50 - 3)
        other = Request(method="GET", url="https://other.example.com/")
        assert (await wire.send(other)).status == 200
        inner.assert_used_up()

    async def test_seldom_calls_are_tried_again(self) -> None:
        """A call an hour has its retries each time."""
        _, wire, clock = wires(*[DOWN, DOWN, OK] * 5)
        for _ in range(5):
            assert (await wire.send(CALL)).body == b"fine"
            clock.advance(3600)


async def failures(wire: RetryWire, calls: int) -> int:
    return sum([(await wire.send(CALL)).status == 503 for _ in range(calls)])


async def test_no_retries_at_all() -> None:
    inner, wire, _ = wires(DOWN, retries=0)
    assert await wire.send(CALL) == Response(status=503)
    await wire.close()
    assert inner.closed


LOST = LostError("closed")
STATUSES = sorted(RETRIED)


def post(repeat: Repeat) -> Request:
    return Request(method="POST", url="https://api.example.com/v1", repeat=repeat)


@pytest.mark.parametrize(
    ("repeat", "statuses", "lost"),
    [
        ("", UNDONE, False),
        ("unsent", UNDONE, False),
        ("on_error", RETRIED - {504}, False),
        ("safe", RETRIED, True),
    ],
)
def test_what_is_a_reason(repeat: Repeat, statuses: frozenset[int], lost: bool) -> None:
    request = post(repeat)
    assert {status for status in STATUSES if may_repeat(request, status)} == statuses
    assert may_repeat(request, REFUSED)
    assert may_repeat(request, StalledError("x", timeout="connect"))
    assert may_repeat(request, SILENT) is lost
    assert may_repeat(request, LOST) is lost


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_idempotent_methods_are_safe(method: str) -> None:
    assert may_repeat(Request(method=method, url="https://api.example.com/"), SILENT)


@pytest.mark.parametrize("fault", [SILENT, LOST], ids=repr)
@pytest.mark.parametrize("repeat", ["", "on_error"])
async def test_silence_is_no_reason(repeat: Repeat, fault: WireError) -> None:
    """Who was silent may have done, and charged, what was asked."""
    inner, wire, _ = wires(fault, fault, OK)
    with pytest.raises(type(fault)):
        await wire.send(post(repeat))
    assert len(inner.requests) == 1
    with pytest.raises(type(fault)):
        async with wire.stream(post(repeat)):
            pass
    assert len(inner.requests) == 2


async def test_a_post_is_not_repeated_after_a_502() -> None:
    """As a provider's batch that was taken before the gateway failed."""
    inner, wire, _ = wires(Answer(status=502), OK)
    assert (await wire.send(post(""))).status == 502
    assert inner.left == 1
