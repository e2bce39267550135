"""How DynamoDB is spoken to: how many calls, what is tried again, what a refusal means."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from agent_core.aws.client import TRIES, AwsClient, JsonService
from agent_core.aws.credentials import Chain, Given
from agent_core.aws.sigv4 import Credentials
from agent_core.errors import (
    ConditionError,
    ConnectError,
    InputError,
    LostError,
    StalledError,
    StoreBusyError,
    StoreError,
    TooLargeError,
    WireError,
)
from agent_core.store.attributes import attribute, attributes, fields_of, number
from agent_core.store.base import Above, Absent, AtMost, Check, Equals, Key, Put, Update
from agent_core.store.dynamodb import DynamoStore
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.base import Request, Response, Wire
from agent_core.wire.httpcore import HttpcoreWire
from agent_core.wire.scripted import Answer
from tests.aws.emulator import REGION, Emulator

KEY, OTHER = Key("p", "a"), Key("p", "b")
DONE = Answer(body=b"{}")
LOST = LostError("the answer was lost")


class CountingWire:
    """Counts calls by operation."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.calls: Counter[str] = Counter()

    async def send(self, request: Request) -> Response:
        self.calls[request.headers["x-amz-target"].rpartition(".")[2]] += 1
        return await self._wire.send(request)

    def stream(self, request: Request) -> Any:
        return self._wire.stream(request)

    async def close(self) -> None:
        await self._wire.close()


def store_on(
    wire: Wire, clock: ManualClock, url: str = "http://dynamodb.test/", table: str = "t"
) -> DynamoStore:
    client = AwsClient(wire, clock, Chain((Given(Credentials("A", "s")),), clock), REGION)
    return DynamoStore(
        JsonService(client=client, service="dynamodb", url=url, target="DynamoDB_20120810"), table
    )


def refusal(code: str, status: int = 400, **more: Any) -> Answer:
    return Answer(status=status, body=msgspec.json.encode({"__type": f"com.amazonaws#{code}", **more}))


def cancelled(*codes: str) -> Answer:
    return refusal("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


class House:
    """A store over a scripted wire."""

    def __init__(self, *script: Answer | WireError) -> None:
        self.clock = ManualClock(jump=True)
        self.wire = ScriptedWire(script)
        self.store = store_on(self.wire, self.clock)

    def asked(self, place: int) -> dict[str, Any]:
        return dict(msgspec.json.decode(self.wire.requests[place].body))


# -- how many calls


async def test_calls_of_each_kind_of_write(emulator: Emulator) -> None:
    clock = ManualClock(jump=True)
    with emulator.table() as table:
        wire, fresh = CountingWire(HttpcoreWire()), CountingWire(HttpcoreWire())
        store = store_on(wire, clock, emulator.url, table)
        await store.write(Put(KEY, {"n": 1}, when=(Absent(),)))
        await store.write(Update(KEY, add={"n": 1}))
        await store.write(Put(KEY, {"n": 9}, expires_at=clock.now() + 10))
        await store.add(KEY, {"n": 1})
        await store.write(Put(KEY, {"n": 5}), Check(OTHER, (Absent(),)))
        assert wire.calls == {"PutItem": 2, "UpdateItem": 2, "TransactWriteItems": 1}
        another = store_on(fresh, clock, emulator.url, table)
        await another.write(Put(KEY, {"n": 6}))
        assert fresh.calls == {"PutItem": 2}, "it took the record for a new one, and saw that it was not"
        await another.write(Put(KEY, {"n": 7}))
        assert fresh.calls == {"PutItem": 3}
        record = await store.get(KEY)
        assert record is not None
        assert (record.version, record.fields) == (7, {"n": 7})
        await store.close()
        await another.close()


async def test_the_time_to_live_is_in_whole_seconds_and_the_expiry_exact() -> None:
    house = House(DONE)
    await house.store.write(Put(KEY, {}, expires_at=1_750_000_010.25))
    item = house.asked(0)["Item"]
    assert (item["ttl"], item["e"]) == ({"N": "1750000011"}, {"N": "1750000010.25"})


# -- what is tried again


async def test_a_throttled_call_waits_longer_each_time_and_goes_through() -> None:
    slow = refusal("ProvisionedThroughputExceededException")
    house = House(slow, slow, refusal("ThrottlingException"), DONE)
    await house.store.write(Put(KEY, {}))
    assert len(house.clock.slept) == 3
    assert all(0 <= slept <= bound for slept, bound in zip(house.clock.slept, (0.05, 0.1, 0.2), strict=True))


async def test_a_table_that_throttles_for_long_is_busy() -> None:
    house = House(*[refusal("RequestLimitExceeded")] * TRIES)
    with pytest.raises(StoreBusyError):
        await house.store.get(KEY)
    house.wire.assert_used_up()


@pytest.mark.parametrize("codes", [("TransactionConflict", "None"), ("None", "ThrottlingError")])
async def test_a_transaction_that_met_another_goes_out_again_under_a_new_token(
    codes: tuple[str, ...],
) -> None:
    house = House(cancelled(*codes), DONE)
    await house.store.write(Put(KEY, {}), Put(OTHER, {}))
    assert house.asked(0)["ClientRequestToken"] != house.asked(1)["ClientRequestToken"]


async def test_a_transaction_that_always_meets_others_is_busy() -> None:
    house = House(*[cancelled("TransactionConflict", "None")] * 8)
    with pytest.raises(StoreBusyError):
        await house.store.write(Put(KEY, {}), Put(OTHER, {}))
    house.wire.assert_used_up()


@pytest.mark.parametrize(
    "lost", [LOST, StalledError("", timeout="first_byte"), refusal("InternalServerError", 500)]
)
async def test_a_transaction_whose_answer_was_lost_goes_out_again_under_the_same_token(
    lost: Answer | WireError,
) -> None:
    house = House(lost, DONE)
    await house.store.write(Put(KEY, {}), Put(OTHER, {}))
    assert house.asked(0) == house.asked(1)


@pytest.mark.parametrize(
    "lost",
    [LOST, StalledError("", timeout="first_byte"), refusal("InternalServerError", 500), Answer(status=503)],
)
async def test_a_single_write_whose_answer_was_lost_may_have_happened_and_is_not_repeated(
    lost: Answer | WireError,
) -> None:
    house = House(lost)
    with pytest.raises(StoreError) as caught:
        await house.store.add(KEY, {"n": 1})
    assert not isinstance(caught.value, ConditionError)


@pytest.mark.parametrize("fault", [StalledError("", timeout="connect"), ConnectError("refused")], ids=repr)
async def test_no_connection_is_tried_again_whatever_the_call(fault: WireError) -> None:
    house = House(fault, DONE)
    await house.store.write(Update(KEY, add={"n": 1}))
    house.wire.assert_used_up()


async def test_a_read_is_tried_again() -> None:
    house = House(LOST, refusal("InternalServerError", 500), Answer(body=b"{}"))
    assert await house.store.get(KEY) is None


# -- what refusals mean


async def test_a_missing_table_is_named() -> None:
    with pytest.raises(StoreError, match="no DynamoDB table 't'"):
        await House(refusal("ResourceNotFoundException")).store.get(KEY)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"Item": ', b"[1]"])
async def test_an_answer_that_is_no_json_is_a_declared_error(body: bytes) -> None:
    with pytest.raises(StoreError):
        await House(Answer(body=body)).store.get(KEY)
    with pytest.raises(StoreError):
        await House(Answer(status=400, body=body)).store.get(KEY)


async def test_a_record_of_somebody_else_is_a_declared_error() -> None:
    for item in (
        {"pk": {"S": "p"}, "sk": {"S": "a"}},
        {"pk": {"S": "p"}, "sk": {"S": "a"}, "r": {"N": "1"}, "x": {"B": "AA=="}},
    ):
        with pytest.raises(StoreError, match="damaged"):
            await House(Answer(body=msgspec.json.encode({"Item": item}))).store.get(KEY)


async def test_a_transaction_is_at_most_four_megabytes() -> None:
    big = {"x": "y" * 390_000}
    with pytest.raises(TooLargeError):
        await House().store.write(*(Put(Key("p", str(number)), big) for number in range(12)))


# -- fields and attributes


@pytest.mark.parametrize(
    "fields",
    [
        {"pk": 1, "sk": "x", "r": True, "e": None, "ttl": 2.5, "~": 0, "~x": 1, "": 2},
        {
            "huge": 1e300,
            "tiny": 5e-324,
            "long": 10**37 + 1,
            "longer": 10**60 + 7,
            "zero": 0.0,
            "minus": -1e-7,
        },
        {"nested": {"": [1.0, {"a": None}], "\u2028": "\x00"}, "text": "[1]", "list": []},
    ],
)
def test_fields_go_through_attributes_and_back(fields: dict[str, Any]) -> None:
    body = msgspec.json.encode(fields)
    sent = msgspec.json.decode(msgspec.json.encode(attributes(body)))
    assert not {"pk", "sk", "r", "e", "ttl", ""}.intersection(sent)
    assert fields_of(sent) == fields


def test_bounds_fit_into_a_number_of_dynamodb() -> None:
    assert number(float("inf")) == {"N": "9e+124"}
    assert number(-1e300) == {"N": "-9e+124"}
    assert number(1e-300) == {"N": "0"}
    for condition in (AtMost("n", float("nan")), Above("n", float("nan"))):
        with pytest.raises(InputError):
            number(condition.value)
    with pytest.raises(InputError):
        attribute("\ud800")


async def test_a_number_that_only_we_can_compare_stands_in_the_way(emulator: Emulator) -> None:
    clock = ManualClock(jump=True)
    with emulator.store(clock) as store:
        await store.write(Put(KEY, {"n": 1e300, "text": "x"}))
        await store.write(Put(OTHER, {}), Check(KEY, (Equals("n", 1e300),)))
        with pytest.raises(ConditionError) as caught:
            await store.write(Update(KEY, {"text": "y"}, when=(Above("n", 1),)))
        assert caught.value.current == {"n": 1e300, "text": "x"}
        await store.close()
