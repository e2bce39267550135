"""What SQS is asked for and what its answers mean, where the emulator can't show it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent_core.aws.client import AwsClient, JsonService
from agent_core.aws.credentials import Chain, Given
from agent_core.aws.sigv4 import Credentials
from agent_core.errors import ConnectError, StoreBusyError, StoreError, TooLargeError, WireError
from agent_core.queues.base import Entry, Rules, Sent
from agent_core.queues.sqs import SqsQueue, rules_of
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/work"


def answer(status: int = 200, **body: Any) -> Answer:
    return Answer(status=status, body=msgspec.json.encode(body))


class House:
    """A queue over a scripted wire."""

    def __init__(self, *script: Answer | WireError, **rules: Any) -> None:
        self.clock = ManualClock(jump=True)
        self.wire = ScriptedWire(script)
        client = AwsClient(
            self.wire, self.clock, Chain((Given(Credentials("A", "s")),), self.clock), "eu-west-1"
        )
        service = JsonService(client=client, service="sqs", url="https://sqs.test/", target="AmazonSQS")
        self.queue = SqsQueue(service, URL, Rules(**rules), dead_url=URL + "-dead")

    def asked(self, place: int = -1) -> dict[str, Any]:
        return dict(msgspec.json.decode(self.wire.requests[place].body))


async def test_a_wait_is_left_to_sqs_and_the_wire_waits_longer() -> None:
    house = House(answer(), answer())
    assert await house.queue.receive(3, wait_seconds=20) == ()
    await house.queue.receive()
    waiting, at_once = house.wire.requests
    assert house.asked(0)["WaitTimeSeconds"] == 20
    assert house.asked(0)["MaxNumberOfMessages"] == 3
    assert waiting.timeouts.first_byte == at_once.timeouts.first_byte + 20
    assert waiting.timeouts.total == at_once.timeouts.total + 20


async def test_a_fifo_receive_that_lost_its_answer_asks_for_the_same_messages() -> None:
    house = House(ConnectError("lost"), answer(), fifo=True)
    await house.queue.receive()
    assert house.asked(0)["ReceiveRequestAttemptId"] == house.asked(1)["ReceiveRequestAttemptId"]


async def test_each_entry_has_its_own_fate() -> None:
    failed = [
        {"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no"},
        {"Id": "2", "SenderFault": False, "Code": "InternalError"},
    ]
    house = House(answer(Successful=[{"Id": "0", "MessageId": "m"}], Failed=failed))
    assert await house.queue.send(*(Entry(body=name) for name in "abcd")) == (
        Sent("m"),
        Sent(error="InvalidMessageContents: no"),
        Sent(error="InternalError", retryable=True),
        Sent(error="SQS said nothing of it", retryable=True),
    )


async def test_twelve_receipts_go_in_two_calls() -> None:
    refused = [{"Id": "1", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}]
    house = House(answer(), answer(Failed=refused))
    receipts = [f"r{number}" for number in range(12)]
    assert await house.queue.delete(receipts) == ("r11",)
    assert [len(house.asked(place)["Entries"]) for place in (0, 1)] == [10, 2]


async def test_a_fault_of_sqs_is_no_refused_receipt() -> None:
    house = House(answer(Failed=[{"Id": "0", "SenderFault": False, "Code": "InternalError"}]))
    with pytest.raises(StoreBusyError):
        await house.queue.delete(["r"])


async def test_a_letter_that_sqs_moved_itself_has_its_reason() -> None:
    message = {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": "b",
        "Attributes": {"ApproximateReceiveCount": "2"},
    }
    house = House(answer(Messages=[message]), max_receives=7)
    assert house.queue.dead is not None
    (letter,) = await house.queue.dead.receive()
    assert (letter.reason, letter.attributes["dead-source"]) == ("received 7 times and never done", "work")
    assert house.asked()["QueueUrl"] == URL + "-dead"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("com.amazonaws.sqs#QueueDoesNotExist", StoreError),
        ("com.amazonaws.sqs#BatchRequestTooLong", TooLargeError),
        ("AccessDeniedException", StoreError),
    ],
)
async def test_a_refused_call_is_a_declared_error(code: str, error: type[Exception]) -> None:
    house = House(answer(400, __type=code, message="why"))
    with pytest.raises(error):
        await house.queue.send(Entry(body="a"))


async def test_an_answer_that_is_no_json_is_a_declared_error() -> None:
    with pytest.raises(StoreError, match="can't be read"):
        await House(Answer(body=b"<html>")).queue.receive()


def test_a_url_tells_name_and_kind() -> None:
    assert rules_of(URL) == Rules(name="work")
    assert rules_of(URL + ".fifo") == Rules(name="work", fifo=True)
