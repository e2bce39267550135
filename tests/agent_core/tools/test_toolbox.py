"""Nothing that a tool or a model does breaks a tool call: each comes back as a result that a model can read."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import enum
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from agent_core.blobs.memory import MemoryBlobs
from agent_core.clock import SystemClock
from agent_core.errors import ConfigError, StoreError, ToolError
from agent_core.messages import File, Image, Principal, ToolCall, ToolResult, Turn, from_json, to_json
from agent_core.testing import ManualClock
from agent_core.tools.base import Tool, tool
from agent_core.tools.toolbox import Toolbox

TURN = Turn(session_id="s1", run_id="r1", agent="a", principal=Principal(tenant="t1"), idempotency_key="r1-1")


def box_of(*tools: Tool, clock: Any = None, blobs: Any = None, limit: int = 1000) -> Toolbox:
    return Toolbox(
        tools,
        blobs=blobs or MemoryBlobs(),
        clock=clock or SystemClock(),
        timeout_seconds=30,
        result_bytes=limit,
    )


async def call(box: Toolbox, name: str, arguments: Any = None, turn: Turn = TURN) -> ToolResult:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    result = await box.call(ToolCall(id="c1", name=name, arguments=text), turn)
    assert (result.call_id, result.name) == ("c1", name)
    assert from_json(ToolResult, to_json(result)) == result, "a result must survive the store"
    return result


async def result_of(function: Callable[[], Any], **options: Any) -> ToolResult:
    """What a tool without arguments gives."""
    return await call(box_of(Tool(function=function, name="t"), **options), "t")


# -- what a model asks for


@tool
def order_status(order_id: str, verbose: bool = False) -> str:
    """Where an order is."""
    return f"{order_id} {verbose}"


async def test_a_good_call() -> None:
    assert await call(box_of(order_status), "order_status", {"order_id": "A7"}) == ToolResult(
        call_id="c1", name="order_status", content="A7 False"
    )


async def test_an_unknown_tool_names_those_there_are() -> None:
    result = await call(box_of(order_status), "orderstatus")
    assert result.error
    assert result.content == "There is no tool 'orderstatus'. There are: order_status."
    assert (await call(box_of(), "x")).content == "There is no tool 'x'. There are: none."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{", "they are not JSON"),
        ("order_id=7", "they are not JSON"),
        ("[" * 100_000, "they are not JSON"),
        ('{"order_id": NaN}', "they are not JSON"),
        ("[]", "they must be a JSON object, not list"),
        ('"A7"', "they must be a JSON object, not str"),
        ("", "order_id: is missing"),
        ("null", "order_id: is missing"),
        ('{"order_id": "A", "colour": 1}', "colour: there is no such argument; there are: order_id, verbose"),
        ('{"order_id": ["A"]}', 'order_id: Input should be a valid string, but got ["A"]'),
        ('{"order_id": "A", "verbose": "maybe"}', "verbose: Input should be a valid boolean"),
    ],
)
async def test_bad_arguments_come_back_readable(arguments: str, words: str) -> None:
    result = await call(box_of(order_status), "order_status", arguments)
    assert result.error
    assert result.content.startswith("The tool order_status was not run: its arguments don't fit.\n- ")
    assert words in result.content
    assert result.content.endswith("Call it again with arguments that fit.")


async def test_each_bad_argument_is_named_with_what_would_be_right() -> None:
    result = await call(box_of(order_status), "order_status", {"verbose": "x" * 500})
    assert 'order_id: is missing; it takes {"type": "string"}' in result.content
    assert 'it takes {"default": false, "type": "boolean"}' in result.content
    assert len(result.content) < 700, "what the model sent is quoted in part only"


@settings(max_examples=150, deadline=None)
@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_no_arguments_text_breaks_a_call(text: str) -> None:
    result = asyncio.run(
        box_of(order_status).call(ToolCall(id="c", name="order_status", arguments=text), TURN)
    )
    assert isinstance(result.content, str)


# -- what a tool does


async def test_a_tool_may_say_what_is_wrong() -> None:
    def fail() -> None:
        raise ToolError("the shop is closed")

    result = await result_of(fail)
    assert (result.error, result.content) == (True, "the shop is closed")


async def test_any_other_error_gives_type_and_words_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("no such\norder")

    result = await result_of(fail)
    assert (result.error, result.content) == (True, "The tool t failed: KeyError: 'no such\\norder'")
    assert "Traceback" not in result.content
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.getMessage() == "run=<r1>, tool=<t>, error=<KeyError> | a tool failed"


@pytest.mark.parametrize("hidden_by", ["data class", "sensitive"])
async def test_what_may_not_be_logged_is_not(caplog: pytest.LogCaptureFixture, hidden_by: str) -> None:
    def fail() -> None:
        raise ValueError("card 4111")

    turn = msgspec.structs.replace(
        TURN, data_class="confidential" if hidden_by == "data class" else "internal"
    )
    await call(box_of(Tool(function=fail, name="t", sensitive=hidden_by == "sensitive")), "t", turn=turn)
    assert "ValueError" in caplog.text
    assert "4111" not in caplog.text


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this works")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Rude(), "The tool t failed: Rude"),
        (ValueError(), "The tool t failed: ValueError"),
        (SystemExit(1), "The tool t failed: it raised SystemExit."),
        (KeyboardInterrupt(), "The tool t failed: it raised KeyboardInterrupt."),
        (asyncio.CancelledError(), "The tool t failed: it raised CancelledError."),
        (MemoryError(), "The tool t failed: MemoryError"),
        (RecursionError("deep"), "The tool t failed: RecursionError: deep"),
        (ValueError("x" * 5000), "The tool t failed: ValueError: xxx"),
        (ValueError("\ud800"), "The tool t failed: ValueError: ?"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_whatever_it_raises(
    error: BaseException, words: str, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # A log line with half a character in it would break the pipe between pytest and its workers.
    caplog.set_level(logging.CRITICAL, logger="sampan.tools")

    def fail() -> None:
        raise error

    async def fail_later() -> None:
        raise error

    result = await result_of(fail_later if asynchronous else fail)
    assert result.error
    assert result.content.startswith(words)
    assert len(result.content.encode()) < 1100


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("effects", ["none", "once"])
async def test_a_tool_that_hangs_is_given_up(asynchronous: bool, effects: Any) -> None:
    clock, begun, release = ManualClock(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(30)

    async def hang_later() -> None:
        begun.set()
        await asyncio.Event().wait()

    function = hang_later if asynchronous else hang
    box = box_of(Tool(function=function, name="t", timeout=3, effects=effects), order_status, clock=clock)
    waiting = asyncio.ensure_future(call(box, "t"))
    await asyncio.to_thread(begun.wait, 10)
    clock.advance(3)
    result = await waiting
    assert result.error
    assert result.content.startswith("The tool t did not finish in time")
    assert ("check before calling it again" in result.content) == (effects == "once")
    assert (await call(box, "order_status", {"order_id": "A"})).content == "A False", "the next call works"
    release.set()


async def test_the_run_s_deadline_is_a_timeout_too() -> None:
    clock = ManualClock()
    over = msgspec.structs.replace(TURN, deadline=clock.now())
    ran = []
    result = await call(box_of(Tool(function=lambda: ran.append(1), name="t"), clock=clock), "t", turn=over)
    assert result.content == "The tool t was not run: there was no time left for it."
    assert not ran
    near = msgspec.structs.replace(TURN, deadline=clock.now() + 2)
    await call(box_of(Tool(function=lambda: None, name="t"), clock=clock), "t", turn=near)
    assert clock.slept == [2.0]


async def test_cancelling_the_run_cancels_the_tool() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.ensure_future(result_of(wait))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_tool_gets_the_turn_and_the_context() -> None:
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen")
    seen.set("yes")

    @tool
    def look(word: str, turn: Turn) -> str:
        """Look."""
        return f"{word} {turn.idempotency_key} {seen.get()}"

    assert (await call(box_of(look), "look", {"word": "w"})).content == "w r1-1 yes"


async def test_a_given_schema_gets_the_arguments_as_they_came_and_the_turn() -> None:
    def remote(turn: Turn, **arguments: Any) -> Any:
        return [turn.run_id, arguments]

    made = Tool.from_schema(
        "remote", "far", {"type": "object", "properties": {"a-b": {"type": "integer"}}}, remote
    )
    assert made.takes_turn
    assert (await call(box_of(made), "remote", {"a-b": 1, "x": [2]})).content == '["r1",{"a-b":1,"x":[2]}]'
    assert "a-b: must be integer" in (await call(box_of(made), "remote", {"a-b": "1"})).content


# -- what a tool returns


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    colour: Colour


class Shop(BaseModel):
    name: str
    open: bool = True


class Record(msgspec.Struct):
    id: int


class Odd:
    def __str__(self) -> str:
        return "an odd thing"


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("no words")


RING: list[Any] = []
RING.append(RING)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("words", "words"),
        ("", ""),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        (None, "done"),
        (True, "true"),
        (3, "3"),
        (2.5, "2.5"),
        (10**40, str(10**40)),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ([Point(1, Colour.RED)], '[{"x":1,"colour":"red"}]'),
        (Shop(name="B"), '{"name":"B","open":true}'),
        ({"shop": Shop(name="B")}, '{"shop":{"name":"B","open":true}}'),
        (Record(4), '{"id":4}'),
        (Odd(), "an odd thing"),
        (datetime.date(2026, 1, 31), "2026-01-31"),
        (Colour.RED, "red"),
        ([Odd(), 1], '["an odd thing",1]'),
        (Unspeakable(), "a Unspeakable that can't be shown"),
        (RING, "[[...]]"),
        ({(1, 2): 3}, '{"(1, 2)":3}'),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_results(value: Any, content: str, asynchronous: bool) -> None:
    async def later() -> Any:
        return value

    result = await result_of(later if asynchronous else lambda: value)
    assert (result.content, result.error, result.ref) == (content, False, "")


async def test_ten_megabytes_are_cut_and_kept_whole() -> None:
    blobs = MemoryBlobs()
    text = "für " * 2_500_000
    result = await result_of(lambda: text, blobs=blobs, limit=1002)
    head, note = result.content.split("\n[cut ")
    assert text.startswith(head)
    assert 1000 < len(head.encode()) <= 1002
    assert (
        note
        == f"after {len(head.encode())} of {len(text.encode())} bytes; all of it is kept as blob {result.ref}]"
    )
    kept = await blobs.get("t1", result.ref)
    assert kept.data.decode() == text
    assert kept.media_type == "text/plain; charset=utf-8"
    assert not result.error


@pytest.mark.parametrize("limit", range(1, 12))
async def test_the_cut_is_between_characters(limit: int) -> None:
    result = await result_of(lambda: "aé漢😀z", limit=limit)
    head = result.content.split("\n[cut")[0]
    assert "aé漢😀z".startswith(head)
    assert len(head.encode()) <= limit
    assert bool(result.ref) == (limit < 11)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n123", "image/png"),
        (bytearray(b"%PDF-1.7"), "application/pdf"),
        (memoryview(b"RIFF1234WEBPVP8"), "image/webp"),
        (b"RIFF1234WAVEfmt", "audio/wav"),
        (b"\x00\x01", "application/octet-stream"),
        (b"", "application/octet-stream"),
        (Image("image/gif", data=b"GIF89a"), "image/gif"),
        (File("text/csv", data=b"a,b"), "text/csv"),
    ],
)
async def test_bytes_become_a_blob(value: Any, kind: str) -> None:
    blobs = MemoryBlobs()
    result = await result_of(lambda: value, blobs=blobs)
    kept = await blobs.get("t1", result.ref)
    assert kept.media_type == kind
    assert result.content == f"[{len(kept.data)} bytes of {kind}, all of it is kept as blob {result.ref}]"


class FullBlobs(MemoryBlobs):
    """Blobs whose disk is full."""

    async def put(self, tenant: str, session: str, data: bytes, media_type: str) -> str:
        raise StoreError("the disk is full")


async def test_a_result_that_can_t_be_kept_is_no_failed_tool() -> None:
    """The tool did its work: the model must not call it again because our copy is lost."""
    result = await result_of(lambda: "x" * 2000, blobs=FullBlobs())
    assert not result.error
    assert result.content.endswith("[cut after 1000 of 2000 bytes; the rest could not be kept]")
    assert not result.ref


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.dates()
        | st.decimals(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
        max_leaves=8,
    )
)
def test_any_value_gives_a_result(value: Any) -> None:
    result = asyncio.run(result_of(lambda: value))
    assert not result.error


# -- what the engine asks besides


class Strict(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _rude(cls, value: int) -> int:
        raise LookupError("a validator's own trouble")


async def test_whether_a_call_would_be_run_at_all() -> None:
    @tool
    def take(it: Strict) -> str:
        """Take."""
        return ""

    box = box_of(order_status, take)
    asked = [
        ("order_status", '{"order_id": "A"}'),
        ("order_status", "{}"),
        ("order_status", "{"),
        ("nope", "{}"),
    ]
    assert [box.refuses(ToolCall(id="1", name=name, arguments=text)) for name, text in asked] == [
        False,
        True,
        True,
        True,
    ]
    assert box.refuses(ToolCall(id="1", name="take", arguments='{"it": {"n": 1}}'))
    result = await call(box, "take", {"it": {"n": 1}})
    assert result.content == "The tool take failed: LookupError: a validator's own trouble"


async def test_a_tool_may_tell_what_an_earlier_call_gave() -> None:
    paid = {"r1-1": {"paid": 5}}

    async def ask(key: str) -> Any:
        return paid.get(key)

    def fail(key: str) -> Any:
        raise OSError("no answer")

    box = box_of(
        Tool(function=lambda: 1, name="sync", effects="once", lookup=paid.get),
        Tool(function=lambda: 1, name="later", effects="once", lookup=ask),
        Tool(function=lambda: 1, name="fails", effects="once", lookup=fail),
        Tool(function=lambda: 1, name="none", effects="once"),
    )
    other = msgspec.structs.replace(TURN, idempotency_key="r1-2")
    for name in ("sync", "later"):
        found = await box.lookup(ToolCall(id="c", name=name), TURN)
        assert found == ToolResult(call_id="c", name=name, content='{"paid":5}')
        assert await box.lookup(ToolCall(id="c", name=name), other) is None
    assert await box.lookup(ToolCall(id="c", name="none"), TURN) is None
    with pytest.raises(ToolError, match="the lookup of fails failed: OSError: no answer"):
        await box.lookup(ToolCall(id="c", name="fails"), TURN)


# -- several calls


def test_groups_keep_the_order() -> None:
    box = box_of(
        Tool(function=lambda: 1, name="read"),
        Tool(function=lambda: 1, name="write", effects="once"),
        Tool(function=lambda: 1, name="put", effects="repeatable"),
    )
    names = ["read", "nope", "write", "put", "read", "read"]
    calls = [ToolCall(id=str(n), name=name) for n, name in enumerate(names)]
    assert [[call.id for call in group] for group in box.groups(calls)] == [
        ["0", "1"],
        ["2"],
        ["3"],
        ["4", "5"],
    ]
    assert [box.effects_of(name) for name in ("read", "write", "put", "nope")] == [
        "none",
        "once",
        "repeatable",
        "none",
    ]
    assert box.groups([]) == []


async def test_calls_without_effects_run_side_by_side_others_one_by_one() -> None:
    meeting = threading.Barrier(3)
    log: list[str] = []

    @tool
    def read(n: int) -> int:
        """Only three at once come through."""
        meeting.wait(10)
        return n

    @tool(effects="once")
    async def write(n: int) -> int:
        """Notes when it begins and ends."""
        log.append(f"begin {n}")
        await asyncio.sleep(0)
        log.append(f"end {n}")
        return n

    names = ["read", "read", "read", "write", "write"]
    calls = [ToolCall(id=f"c{n}", name=name, arguments=json.dumps({"n": n})) for n, name in enumerate(names)]
    results = await box_of(read, write).call_all(calls, TURN)
    assert [(result.call_id, result.content) for result in results] == [(f"c{n}", str(n)) for n in range(5)]
    assert log == ["begin 3", "end 3", "begin 4", "end 4"]


async def test_one_failure_among_many_is_only_its_own() -> None:
    @tool
    def half(n: int) -> float:
        """1 / n"""
        return 1 / n

    calls = [ToolCall(id=str(n), name="half", arguments=json.dumps({"n": n})) for n in (2, 0, 1)]
    results = await box_of(half).call_all(calls, TURN)
    assert [result.error for result in results] == [False, True, False]


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="order_status"):
        box_of(order_status, order_status)


def test_specs_are_what_models_are_told() -> None:
    (spec,) = box_of(order_status).specs
    assert (spec.name, spec.description) == ("order_status", "Where an order is.")
    assert spec.schema["required"] == ["order_id"]


async def test_logs_of_expected_failures_stay_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A bad argument or a ToolError is between the tool and the model."""
    caplog.set_level(logging.INFO)
    await call(box_of(order_status), "order_status")
    assert not caplog.records
