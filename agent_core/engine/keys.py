"""Where the engine's records are. Tenant and user stand in the keys, so a caller can't reach another's session.

    <tenant>/session/<user>/<session>   message/<seq>     the transcript
                                        pending/<arrival> the inbox
                                        state             the head: lease, fence, counts
    <tenant>/sessions/<user>            <made>            the list of a user's sessions
    <tenant>/run/<run>                  run               the run
                                        step/<number>     its journal
                                        piece/<step>/<fence>/<at>   text that is still streaming
    <tenant>/ledger/<day>               <time>/<run>      what each run cost
    <tenant>/dead                       <run>             runs given up, with their reason and message
    <tenant>/watch/<run>                <connection>      who waits for the run's end
    <tenant>/sent/<channel>             <push id>         how far an answer of the run is (channels/post.py)
    <tenant>/hooks                      notice/<id>/<endpoint>   what is told outside (hooks.py)
    due                                 <time>/<tenant>/<run>   what the sweeper looks after

In a session's partition, `message` < `pending` < `state`: one query from the end reads the head, the inbox and the
latest messages together.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from agent_core.clock import sortable_id
from agent_core.errors import InputError
from agent_core.messages import Principal
from agent_core.store.base import MAX_PARTITION, Key
from agent_core.store.base import quoted as quoted

STATE = "state"
PENDING = "pending/"
MESSAGE = "message/"
RUN = "run"
STEP = "step/"
PIECE = "piece/"
DUE = "due"
PUSH = "push"
NOTICE = "notice/"

MAX_TENANT = 512
"""Bytes of a tenant's name in a key: it stands in sort keys too, with more behind it."""

MAX_SESSION = MAX_PARTITION - 128
"""Bytes of a session's partition; there are partitions beside it with somewhat longer names."""


def check(principal: Principal, session_id: str) -> None:
    """Raise InputError for names that are too long for the keys of all that will come of a message.

    Said when it arrives: at the commit it would be too late.
    """
    try:
        tenant, whole = len(quoted(principal.tenant).encode()), len(session(principal, session_id).encode())
    except UnicodeEncodeError:
        raise InputError("a name holds half a surrogate pair", field="$.session_id") from None
    if tenant > MAX_TENANT or whole > MAX_SESSION:
        raise InputError(
            f"the names of tenant, user and session take {whole} bytes together, the tenant's {tenant}; "
            f"they may take {MAX_SESSION} and {MAX_TENANT}",
            field="$.session_id",
        )


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


def sent(tenant: str, channel: str) -> str:
    """The partition of what arrived at a channel, by push ids; these begin with the id of the run."""
    return f"{quoted(tenant)}/sent/{quoted(channel)}"


def hooks(tenant: str) -> str:
    """The partition of what is told to endpoints outside; ids of notices of a run begin with its id."""
    return f"{quoted(tenant)}/hooks"


def message(partition: str, seq: int) -> Key:
    """A message by its place in the session."""
    return Key(partition, f"{MESSAGE}{seq:012d}")


def pending(partition: str, stamp: int, unique: str) -> Key:
    """A message in the inbox by when it came, in microseconds since 1970 or a little later; an id makes it unique."""
    return Key(partition, f"{PENDING}{stamp:020d}/{unique}")


def step(partition: str, number: int) -> Key:
    """A step by its number in the run."""
    return Key(partition, f"{STEP}{number:06d}")


def piece(partition: str, step: int, fence: int, at: int) -> Key:
    """A piece of a streaming text by where it begins."""
    return Key(partition, f"{PIECE}{step:06d}/{fence:09d}/{at:09d}")


def day(at: float) -> str:
    """The UTC day of a time, as in 2026-11-22."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def ledger(tenant: str, created_at: float, run_id: str) -> Key:
    """A run's entry in the ledger of its day; sorts by time."""
    return Key(f"{quoted(tenant)}/ledger/{day(created_at)}", f"{int(created_at * 1000):013d}/{run_id}")


def due(at: float, tenant: str, run_id: str, suffix: str = "") -> Key:
    """An entry in the list of what is due; sorts by time."""
    return Key(DUE, f"{int(at * 1000):013d}/{quoted(tenant)}/{run_id}{suffix}")


def dead(tenant: str, run_id: str) -> Key:
    """A run that was given up."""
    return Key(f"{quoted(tenant)}/dead", run_id)
