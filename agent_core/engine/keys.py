"""Where the engine's records are. Tenant and user stand in the keys, so a caller can't reach another's session.

    <tenant>/session/<user>/<session>   message/<seq>     the transcript
                                        pending/<arrival> the inbox
                                        state             the head: lease, fence, counts
    <tenant>/sessions/<user>            <made>            the list of a user's sessions
    <tenant>/run/<run>                  run               the run
                                        step/<number>     its journal
                                        piece/<step>/<fence>/<at>   text that is still streaming
    <tenant>/ledger/<day>, .../<shard>  <user>%:<time>/<run>  what each run cost (once: <time>/<run>)
    <tenant>/dead                       <run>             runs given up, with their reason and message
    <tenant>/watch/<run>                <connection>      who waits for the run's end
    <tenant>/outbox/<user>/<session>    <line>/<arrival>   replies to be pushed, in order (outbox.py)
    <tenant>/sent/<channel>             <push id>         how far an answer of the run is (channels/post.py)
    <tenant>/hooks                      notice/<id>/<endpoint>   what is told outside (hooks.py)
                                        due/<kind>/<push> where its entries in the list of what is due are
    due, due/<shard>                    <time>/<tenant>/<run>   what the sweeper looks after (store/shards.py)

In a session's partition, `message` < `pending` < `state`: one query from the end reads the head, the inbox and the
latest messages together.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from agent_core.clock import sortable_id
from agent_core.messages import Principal
from agent_core.store.base import Key
from agent_core.store.base import quoted as quoted
from agent_core.store.shards import LIST, shard_of, timed

STATE = "state"
PENDING = "pending/"
MESSAGE = "message/"
RUN = "run"
STEP = "step/"
PIECE = "piece/"
DUE = LIST
NOTE = "due/"
OF_USER = "%:"
"""Ends the name of a user in a sort key: no quoted name has it."""
PUSH = "push"
NOTICE = "notice/"


def run_id(principal: Principal, key: str) -> str:
    """The id of the run of an idempotency key: the same for the same caller and key."""
    text = "\n".join(quoted(part) for part in (principal.tenant, principal.user, key))
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    return sortable_id(digest >> 80, digest & ((1 << 80) - 1))


def session(principal: Principal, session_id: str) -> str:
    """The partition of a session."""
    return f"{quoted(principal.tenant)}/session/{quoted(principal.user)}/{quoted(session_id)}"


def sessions(principal: Principal) -> str:
    """The partition that lists a user's sessions."""
    return f"{quoted(principal.tenant)}/sessions/{quoted(principal.user)}"


def run(tenant: str, run_id: str) -> str:
    """The partition of a run."""
    return f"{quoted(tenant)}/run/{quoted(run_id)}"


def watchers(tenant: str, run_id: str) -> str:
    """The partition of the WebSocket connections that wait for the end of a run."""
    return f"{quoted(tenant)}/watch/{quoted(run_id)}"


def outbox(principal: Principal, session_id: str) -> str:
    """The partition of a session's lines of replies that are to be pushed, each in the order of its messages."""
    return f"{quoted(principal.tenant)}/outbox/{quoted(principal.user)}/{quoted(session_id)}"


def sent(tenant: str, channel: str) -> str:
    """The partition of what arrived at a channel, by push ids; these begin with the id of the run."""
    return f"{quoted(tenant)}/sent/{quoted(channel)}"


def hooks(tenant: str) -> str:
    """The partition of what is told to endpoints outside; ids of notices of a run begin with its id."""
    return f"{quoted(tenant)}/hooks"


def message(partition: str, seq: int) -> Key:
    """A message by its place in the session."""
    return Key(partition, f"{MESSAGE}{seq:012d}")


def seq(sort: str) -> int:
    """The place of a message by its sort key."""
    return int(sort[len(MESSAGE) :])


def pending(partition: str, stamp: int, unique: str) -> Key:
    """A message in the inbox by when it came, in microseconds since 1970 or a little later; an id makes it unique."""
    return Key(partition, f"{PENDING}{stamp:020d}/{unique}")


def stamp_of(sort: str) -> int:
    """The place in the inbox of a pending message, by its sort key."""
    return int(sort[len(PENDING) :].partition("/")[0])


def step(partition: str, number: int) -> Key:
    """A step by its number in the run."""
    return Key(partition, f"{STEP}{number:06d}")


def piece(partition: str, step: int, fence: int, at: int) -> Key:
    """A piece of a streaming text by where it begins."""
    return Key(partition, f"{PIECE}{step:06d}/{fence:09d}/{at:09d}")


def day(at: float) -> str:
    """The UTC day of a time, as in 2026-11-22."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def ledger(tenant: str, created_at: float, run_id: str, *, user: str = "", shards: int = 1) -> Key:
    """A run's entry in the ledger of its day; those of a user sort by time.

    Without the user it is where older versions put it, all users of a day in one row.
    """
    shard = shard_of(run_id, shards)
    partition = f"{quoted(tenant)}/ledger/{day(created_at)}" + (f"/{shard}" if shard else "")
    return Key(partition, f"{ledger_of(user) if user else ''}{int(created_at * 1000):013d}/{run_id}")


def ledger_days(tenant: str, at: float, shards: int) -> list[str]:
    """The partitions of a day's ledger."""
    first = ledger(tenant, at, "").partition
    return [first, *(f"{first}/{shard}" for shard in range(1, shards))]


def ledger_of(user: str) -> str:
    """What the entries of a user begin with; a name that is too long for a key has its hash there."""
    name = quoted(user)
    return (name if len(name.encode()) <= 256 else hashlib.sha256(name.encode()).hexdigest()) + OF_USER


def ledger_place(sort: str) -> tuple[str, str]:
    """Time and id of the run whose entry in the ledger has this sort key."""
    time, _, run_id = sort.partition("/")
    return time.rpartition(OF_USER)[2], run_id


def due(at: float, tenant: str, run_id: str, suffix: str = "", *, shards: int = 1) -> Key:
    """An entry in the list of what is due, in the partition of the run; sorts by time."""
    return timed(at, f"{quoted(tenant)}/{run_id}{suffix}", shards=shards, by=f"{quoted(tenant)}/{run_id}")


def dead(tenant: str, run_id: str) -> Key:
    """A run that was given up."""
    return Key(f"{quoted(tenant)}/dead", run_id)
