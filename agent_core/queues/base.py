"""The Queue port: hand a piece of work to later, with the semantics of Amazon SQS, so that SQS itself fits exactly.

A message is given out at least once. Whoever receives it has it to himself until its visibility time-out; deleted by
then, it is done, else it comes again, and after `Rules.max_receives` times it goes to the dead-letter queue.

On a FIFO queue the messages of a group come in the order they were sent, and while one of them is in flight no other
of its group is given out. On a standard queue order is only likely, and groups (tenants) take turns: one with a backlog
holds up no other. https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues.html
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from agent_core.errors import ConfigError, InputError, TooLargeError

MAX_ENTRIES = 10
"""Entries of one send, and messages of one receive."""

MAX_BYTES = 1024 * 1024
"""Bodies and attributes of one send in all, in bytes of UTF-8."""

MAX_ATTRIBUTES = 8
"""Attributes of one message; SQS takes 10, and two are kept for a dead letter's."""

MAX_DELAY = 900
MAX_VISIBILITY = 12 * 3600
MAX_WAIT = 20
DEDUPE_SECONDS = 300.0
"""How long a deduplication id is remembered, also after its message was deleted."""

REASON = "dead-reason"
"""Attribute of a dead letter: why it is one."""

SOURCE = "dead-source"
"""Attribute of a dead letter: the queue it comes from."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}")  # SQS takes 80; ".fifo" may follow
_TOKEN = re.compile(r"[!-~]{1,128}")
_ATTRIBUTE = re.compile(r"(?!aws\.|amazon\.)(?!.*\.\.)(?!\.)[A-Za-z0-9_.-]{1,256}(?<!\.)", re.IGNORECASE)
# What SQS refuses in a body or an attribute: all that XML 1.0 has no place for.
_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue promises; a queue in the cloud must have been made with the same.

    `content_dedupe` takes the SHA-256 of the body where a FIFO message has no deduplication id. `max_receives` 0 means
    that there is no dead-letter queue.
    """

    name: str = "work"
    fifo: bool = False
    content_dedupe: bool = False
    visibility_seconds: int = 30
    max_receives: int = 5
    delay_seconds: int = 0
    retention_seconds: int = 4 * 86_400

    def __post_init__(self) -> None:
        """Raise ConfigError where SQS could not promise the same."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"queue name {self.name!r}: use 1 to 75 letters, digits, - and _")
        for field, low, high in (
            ("visibility_seconds", 0, MAX_VISIBILITY),
            ("max_receives", 0, 1000),
            ("delay_seconds", 0, MAX_DELAY),
            ("retention_seconds", 60, 14 * 86_400),
        ):
            if not low <= getattr(self, field) <= high:
                raise ConfigError(f"queue {self.name}: {field} is from {low} to {high}")
        if self.content_dedupe and not self.fifo:
            raise ConfigError(f"queue {self.name}: only a FIFO queue leaves out duplicates")

    def for_dead(self) -> Rules:
        """The rules of the dead-letter queue: as long a memory as there is, and no further dead-letter queue."""
        return Rules(
            name=f"{self.name}-dead",
            fifo=self.fifo,
            visibility_seconds=self.visibility_seconds,
            max_receives=0,
            retention_seconds=14 * 86_400,
        )


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message to send. `delay_seconds` None takes the queue's own; a FIFO queue takes no other.

    `group` and `dedupe` are 1 to 128 visible ASCII characters or "". A FIFO queue needs a group, and a deduplication id
    unless it makes them from the content: a message whose id was sent in the last five minutes is not sent again.
    """

    body: str
    delay_seconds: int | None = None
    group: str = ""
    dedupe: str = ""
    attributes: Mapping[str, str] = {}


class Sent(msgspec.Struct, frozen=True):
    """What became of an entry: the id of its message (of the first one, for a duplicate), or why it was not sent.

    `retryable`: the same entry may be taken later.
    """

    id: str = ""
    error: str = ""
    retryable: bool = False


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A message in hand, until its visibility time-out. `receipt` is what this one receive is known by.

    `receive_count` counts this receive too; `sent_at` is in seconds since 1970.
    """

    id: str
    receipt: str
    body: str
    attributes: dict[str, str] = {}
    receive_count: int = 1
    sent_at: float = 0.0
    group: str = ""
    dedupe: str = ""

    @property
    def reason(self) -> str:
        """Why a dead letter is one."""
        return self.attributes.get(REASON, "")


class Counts(msgspec.Struct, frozen=True):
    """About how many messages wait, are in hands, and are not to be given out yet."""

    visible: int = 0
    in_flight: int = 0
    delayed: int = 0


class Queue(Protocol):
    """Send, receive, delete; what the caller did wrong is an InputError, all else a StoreError.

    A send that was answered is on the disk. A receipt is refused when its message was received again meanwhile, was
    deleted, or (FIFO) timed out; SQS itself may not notice that on a standard queue. So a worker must bear a message
    that comes twice.
    """

    @property
    def rules(self) -> Rules:
        """What this queue promises."""

    @property
    def dead(self) -> Queue | None:
        """The dead-letter queue; None on one that is one itself."""

    async def send(self, *entries: Entry) -> tuple[Sent, ...]:
        """Send 1 to 10 messages of 1 MiB in all, in order; what became of each."""

    async def receive(
        self, limit: int = MAX_ENTRIES, *, visibility_seconds: int | None = None, wait_seconds: int = 0
    ) -> tuple[Received, ...]:
        """Take up to `limit` (1 to 10) messages, and hide them from others for a time.

        Where there is none, wait up to `wait_seconds` (0 to 20) for one. May give fewer than there are. A receive that
        is cancelled may have taken messages; they come again after their time-out.
        """

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        """Done with these messages. Returns the receipts that were refused."""

    async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
        """Hide these messages for `seconds` more, counted from now; 0 hands them back at once.

        At most 12 hours from their receive. Returns the receipts that were refused.
        """

    async def bury(self, record: Received, reason: str) -> bool:
        """Move a message in hand to the dead-letter queue, for good reason; False where its receipt was refused."""

    async def redrive(self, ids: Collection[str] = ()) -> int:
        """Send the messages with these ids, or all that are visible, from the dead-letter queue back to this one.

        They begin anew, with new ids and at the end of their groups. Returns how many went.
        """

    async def counts(self) -> Counts:
        """About how many messages there are."""

    async def oldest_seconds(self) -> float | None:
        """How long the oldest message has been here, in hands or not: the age of the backlog; 0 where there is none.

        None where the queue can't be asked: SQS tells it to CloudWatch alone (ApproximateAgeOfOldestMessage).
        """

    async def close(self) -> None:
        """Finish what was asked for and let go of files and connections, also of the dead-letter queue's."""


@runtime_checkable
class FileQueue(Protocol):
    """A queue in a file of its own, which holds what was deleted until it is scrubbed."""

    async def scrub(self) -> None:
        """Have nothing left of what was deleted; raises StoreBusyError where another process reads all the time."""


def check_entries(entries: Sequence[Entry], rules: Rules) -> None:
    """Raise InputError, or TooLargeError, for a send that not every queue takes."""
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise InputError(f"a send takes 1 to {MAX_ENTRIES} entries, not {len(entries)}")
    size = 0
    for entry in entries:
        _check_entry(entry, rules)
        size += len(entry.body.encode())
        for name, value in entry.attributes.items():
            size += len(name) + len("String") + len(value.encode())
    if size > MAX_BYTES:
        raise TooLargeError(f"a send of {size} bytes is over {MAX_BYTES}; put large parts into blobs")


def _check_entry(entry: Entry, rules: Rules) -> None:
    if not entry.body:
        raise InputError("a message has a body of at least one character", field="$.body")
    if found := _REFUSED.search(entry.body):
        raise InputError(f"a body can't hold {found.group()!r}; JSON escapes it", field="$.body")
    if len(entry.attributes) > MAX_ATTRIBUTES:
        raise InputError(f"a message takes {MAX_ATTRIBUTES} attributes", field="$.attributes")
    for name, value in entry.attributes.items():
        if not _ATTRIBUTE.fullmatch(name):
            raise InputError(f"{name!r} can't be an attribute's name", field="$.attributes")
        if not value or _REFUSED.search(value):
            raise InputError(f"attribute {name} is empty or holds control characters", field="$.attributes")
    for field, value in (("group", entry.group), ("dedupe", entry.dedupe)):
        if value and not _TOKEN.fullmatch(value):
            raise InputError(f"{field} takes 1 to 128 visible ASCII characters", field=f"$.{field}")
    if rules.fifo:
        if entry.delay_seconds is not None:
            raise InputError("a FIFO queue has one delay for all messages", field="$.delay_seconds")
        if not entry.group:
            raise InputError("a message of a FIFO queue needs a group", field="$.group")
        if not entry.dedupe and not rules.content_dedupe:
            raise InputError("a message of a FIFO queue needs a deduplication id", field="$.dedupe")
    elif entry.dedupe:
        raise InputError("only a FIFO queue leaves out duplicates", field="$.dedupe")
    elif not 0 <= (entry.delay_seconds or 0) <= MAX_DELAY:
        raise InputError(f"a delay is from 0 to {MAX_DELAY} seconds", field="$.delay_seconds")


def check_receive(limit: int, visibility_seconds: int, wait_seconds: int) -> None:
    """Raise InputError for a receive that not every queue can do."""
    if not 1 <= limit <= MAX_ENTRIES:
        raise InputError(f"a receive takes a limit of 1 to {MAX_ENTRIES}, not {limit}")
    check_visibility(visibility_seconds)
    if not 0 <= wait_seconds <= MAX_WAIT:
        raise InputError(f"a receive waits 0 to {MAX_WAIT} seconds, not {wait_seconds}")


def check_visibility(seconds: int) -> None:
    """Raise InputError for a visibility time-out over 12 hours."""
    if not 0 <= seconds <= MAX_VISIBILITY:
        raise InputError(f"a visibility time-out is from 0 to {MAX_VISIBILITY} seconds, not {seconds}")


def dedupe_id(entry: Entry, rules: Rules) -> str:
    """By what a duplicate of this entry is known; "" on a standard queue."""
    if rules.fifo and not entry.dedupe:
        return hashlib.sha256(entry.body.encode()).hexdigest()
    return entry.dedupe


def dead_attributes(attributes: Mapping[str, str], source: str, reason: str) -> dict[str, str]:
    """A message's attributes as a dead letter's: its own, the queue it comes from, and why."""
    reason = _REFUSED.sub("\ufffd", reason)[:1000] or "unknown"
    return {**attributes, SOURCE: source, REASON: reason}


def living_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """A dead letter's attributes as they were before it was one."""
    return {name: value for name, value in attributes.items() if name not in (SOURCE, REASON)}


def never_done(receives: int) -> str:
    """The reason of a message that used up its receives."""
    return f"received {receives} times and never done"


def share(wanted: int, groups: int) -> int:
    """How many messages to take from the next of some groups: from as many groups as can be, to work side by side."""
    return -(-wanted // groups)
