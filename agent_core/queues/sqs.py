"""A queue that is one of Amazon SQS, standard or FIFO, or of any service that speaks its JSON protocol.

The queue must have been made with the same rules that it is given here. What differs from the embedded queues: an
order is only likely, also between groups; SQS may give out a message of a standard queue twice, and take a stale
receipt for good; a message that failed does not come alone. A letter that `bury` moves gets a new id.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from agent_core.aws.client import AwsError, JsonService
from agent_core.errors import InputError, StoreBusyError, StoreError, TooLargeError
from agent_core.queues.base import (
    MAX_ENTRIES,
    REASON,
    SOURCE,
    Counts,
    Entry,
    Received,
    Rules,
    Sent,
    check_entries,
    check_receive,
    check_visibility,
    dead_attributes,
    dedupe_id,
    living_attributes,
    never_done,
)

_SYSTEM = ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "MessageDeduplicationId"]
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_LOOK_SECONDS = 300
"""How long a redrive hides what it looks at, should it die on the way."""

_encode = msgspec.json.encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class SqsQueue:
    """All verbs over the queue at `url`; `dead_url` is that of its dead-letter queue, if it has one."""

    def __init__(
        self,
        service: JsonService,
        url: str,
        rules: Rules | None = None,
        *,
        dead_url: str = "",
        source: Rules | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.dead: SqsQueue | None = (
            SqsQueue(service, dead_url, self.rules.for_dead(), source=self.rules) if dead_url else None
        )
        self._service = service
        self.url = url
        self._source = source

    async def send(self, *entries: Entry) -> tuple[Sent, ...]:
        """Send 1 to 10 messages of 1 MiB in all, in order; what became of each."""
        check_entries(entries, self.rules)
        batch = [self._outgoing(place, entry) for place, entry in enumerate(entries)]
        answer = await self._call("SendMessageBatch", {"Entries": batch})
        sent = [Sent(error="SQS said nothing of it", retryable=True)] * len(entries)
        for one in answer.get("Successful") or ():
            sent[int(one["Id"])] = Sent(one["MessageId"])
        for one in answer.get("Failed") or ():
            words = f"{one.get('Code')}: {one.get('Message') or ''}".rstrip(": ")
            sent[int(one["Id"])] = Sent(error=words, retryable=not one.get("SenderFault"))
        return tuple(sent)

    async def receive(
        self, limit: int = MAX_ENTRIES, *, visibility_seconds: int | None = None, wait_seconds: int = 0
    ) -> tuple[Received, ...]:
        """Take up to `limit` messages, and hide them from others for a time."""
        visibility = self.rules.visibility_seconds if visibility_seconds is None else visibility_seconds
        check_receive(limit, visibility, wait_seconds)
        request: dict[str, Any] = {
            "MaxNumberOfMessages": limit,
            "VisibilityTimeout": visibility,
            "WaitTimeSeconds": wait_seconds,
            "MessageSystemAttributeNames": _SYSTEM,
            "MessageAttributeNames": ["All"],
        }
        if self.rules.fifo:
            # Asked again after a lost answer, SQS gives the same messages, which would else be hidden.
            request["ReceiveRequestAttemptId"] = self._service.client.clock.new_id()
        answer = await self._call("ReceiveMessage", request, wait_seconds=wait_seconds)
        return tuple([self._incoming(message) for message in answer.get("Messages") or ()])

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        """Done with these messages. Returns the receipts that were refused."""
        return await self._each("DeleteMessageBatch", receipts, {})

    async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
        """Hide these messages for `seconds` more, counted from now; 0 hands them back at once."""
        check_visibility(seconds)
        return await self._each("ChangeMessageVisibilityBatch", receipts, {"VisibilityTimeout": seconds})

    async def bury(self, record: Received, reason: str) -> bool:
        """Move a message in hand to the dead-letter queue, for good reason.

        A crash on the way leaves it in both queues, never in none.
        """
        dead = self._dead()
        # Still ours? Asked before the letter is sent, and it stays ours meanwhile.
        if await self.extend([record.receipt], max(self.rules.visibility_seconds, 30)):
            return False
        attributes = dead_attributes(record.attributes, self.rules.name, reason)
        # Under the message's own id: tried again after a crash it is one letter.
        await dead._pass_on(record, attributes, record.dedupe or record.id)
        await self.delete([record.receipt])
        return True

    async def redrive(self, ids: Collection[str] = ()) -> int:
        """Send messages from the dead-letter queue back to this one."""
        dead = self._dead()
        kept: list[str] = []
        went = 0
        while found := await dead.receive(visibility_seconds=_LOOK_SECONDS):
            for letter in found:
                if ids and letter.id not in ids:
                    kept.append(letter.receipt)
                    continue
                # Its old deduplication id may still be remembered, and it would be left out.
                await self._pass_on(letter, living_attributes(letter.attributes), letter.id)
                await dead.delete([letter.receipt])
                went += 1
        await dead.extend(kept, 0)
        return went

    async def counts(self) -> Counts:
        """About how many messages there are."""
        answer = await self._call("GetQueueAttributes", {"AttributeNames": list(_COUNTS)})
        numbers = answer.get("Attributes") or {}
        return Counts(*(int(numbers.get(name, 0)) for name in _COUNTS))

    async def oldest_seconds(self) -> float | None:
        """Not known here: CloudWatch has it, as ApproximateAgeOfOldestMessage."""
        return None

    def sibling(self, account: str, name: str) -> SqsQueue:
        """Another queue of the region, over the same connections: whoever closes this one closes it."""
        url = "/".join((*self.url.rstrip("/").split("/")[:-2], account, name))
        return SqsQueue(self._service, url, rules_of(url))

    async def close(self) -> None:
        """Finish what was asked for and let go of the connections, which are the dead-letter queue's too."""
        await self._service.client.close()

    def _dead(self) -> SqsQueue:
        if self.dead is None:
            raise StoreError(f"queue {self.rules.name} has no dead-letter queue")
        return self.dead

    async def _pass_on(self, record: Received, attributes: Mapping[str, str], dedupe: str) -> None:
        outgoing: dict[str, Any] = {"Id": "0", "MessageBody": record.body, **_named(attributes)}
        if record.group:
            outgoing["MessageGroupId"] = record.group
        if self.rules.fifo:
            outgoing["MessageDeduplicationId"] = dedupe
        answer = await self._call("SendMessageBatch", {"Entries": [outgoing]})
        for one in answer.get("Failed") or ():
            raise StoreError(f"queue {self.rules.name} refused a message: {one.get('Code')}")

    def _outgoing(self, place: int, entry: Entry) -> dict[str, Any]:
        outgoing: dict[str, Any] = {"Id": str(place), "MessageBody": entry.body, **_named(entry.attributes)}
        if entry.delay_seconds is not None:
            outgoing["DelaySeconds"] = entry.delay_seconds
        if entry.group:
            outgoing["MessageGroupId"] = entry.group
        if dedupe := dedupe_id(entry, self.rules):
            outgoing["MessageDeduplicationId"] = dedupe
        return outgoing

    def _incoming(self, message: Mapping[str, Any]) -> Received:
        system: Mapping[str, str] = message.get("Attributes") or {}
        attributes = {
            name: str(value.get("StringValue", ""))
            for name, value in (message.get("MessageAttributes") or {}).items()
            if not value.get("DataType", "").startswith("Binary")
        }
        if self._source is not None and REASON not in attributes:  # SQS itself moved it
            attributes |= {SOURCE: self._source.name, REASON: never_done(self._source.max_receives)}
        return Received(
            id=message["MessageId"],
            receipt=message["ReceiptHandle"],
            body=message["Body"],
            attributes=attributes,
            receive_count=int(system.get("ApproximateReceiveCount", 1)),
            sent_at=int(system.get("SentTimestamp", 0)) / 1000,
            group=system.get("MessageGroupId", ""),
            dedupe=system.get("MessageDeduplicationId", ""),
        )

    async def _each(
        self, operation: str, receipts: Sequence[str], more: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """The operation on all receipts, ten in a call. Those that were refused."""
        refused: list[str] = [""] * list(receipts).count("")  # SQS would refuse the whole batch
        given = [receipt for receipt in receipts if receipt]
        for start in range(0, len(given), MAX_ENTRIES):
            part = given[start : start + MAX_ENTRIES]
            batch = [
                {"Id": str(place), "ReceiptHandle": receipt, **more} for place, receipt in enumerate(part)
            ]
            answer = await self._call(operation, {"Entries": batch})
            for one in answer.get("Failed") or ():
                if not one.get("SenderFault"):
                    raise StoreBusyError(f"SQS could not do it now: {one.get('Code')}", retry_after=1.0)
                refused.append(part[int(one["Id"])])
        return tuple(refused)

    async def _call(
        self, operation: str, request: dict[str, Any], *, wait_seconds: float = 0.0
    ) -> dict[str, Any]:
        request["QueueUrl"] = self.url
        try:
            body = await self._service.call(operation, _encode(request), wait_seconds=wait_seconds)
            return _decode_object(body) if body else {}
        except AwsError as error:
            raise _told(error, self.rules.name) from error
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StoreError(f"the answer of SQS can't be read: {error}") from None


def rules_of(url: str) -> Rules:
    """The rules of a queue of which only the URL is known: its name, and whether it is FIFO; all else by default."""
    name = url.rstrip("/").rpartition("/")[2]
    return Rules(name=name.removesuffix(".fifo"), fifo=name.endswith(".fifo"))


def _named(attributes: Mapping[str, str]) -> dict[str, Any]:
    if not attributes:
        return {}
    typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return {"MessageAttributes": typed}


def _told(error: AwsError, name: str) -> StoreError | InputError:
    """What a refusal of the whole call means to our callers."""
    code = error.code.removeprefix("AWS.SimpleQueueService.")
    if code in ("QueueDoesNotExist", "NonExistentQueue"):
        return StoreError(f"there is no queue {name}: check its URL and region")
    if code == "BatchRequestTooLong":
        return TooLargeError(f"a send is too large for queue {name}: {error.message}")
    return StoreError(f"SQS refused: {error.detail}")
