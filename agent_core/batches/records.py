"""What is stored of a batch.

<tenant>/batch/<batch>    batch             the batch, its counters and its lease
                          segment/<number>  a run of its lines, in a blob; its results, in another
                          job/<number>      some of its segments at the provider's batch endpoint
<tenant>/batches/<user>   <made>/<batch>    the list of a user's batches
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent_core.engine.keys import quoted
from agent_core.messages import Principal
from agent_core.store.base import Key

BatchStatus = Literal["uploading", "queued", "running", "succeeded", "failed", "cancelled"]
OVER = ("succeeded", "failed", "cancelled")

BATCH = "batch"
SEGMENT = "segment/"


class LineError(msgspec.Struct, frozen=True):
    """Why a line can't be run; `line` counts from 1."""

    line: int
    detail: str
    field: str = ""


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Lines submitted together. `usd` caps what they may cost in all, `concurrency` how many run at once.

    `received` counts the bytes that are stored: an upload that broke off goes on from there. `rows` counts lines as an
    editor does, `lines` those that are not blank. `done`, `failed` (a part of `done`), `skipped`, `cost` (nano-dollars)
    and the tokens are counters; the `open_` ones are of segments still under work. `errors` are the first lines that
    could not be read, `invalid` counts them all. `fingerprint` is a hash of what the batch was asked to be. Times are
    in seconds since 1970.
    """

    id: str
    principal: Principal
    status: BatchStatus
    created_at: float
    format: str = ""
    agent: str = ""
    deadline: str = ""
    concurrency: int = 8
    usd: float | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    received: int = 0
    segments: int = 0
    rows: int = 0
    lines: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    invalid: int = 0
    cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0
    open_done: int = 0
    open_failed: int = 0
    open_cost: int = 0
    fingerprint: str = ""
    errors: tuple[LineError, ...] = ()
    reason: str = ""
    cancelling: int = 0
    owner: str = ""
    lease_until: float = 0.0
    fence: int = 0
    due: str = ""

    @property
    def over(self) -> bool:
        """Whether the batch has come to its end."""
        return self.status in OVER


class Segment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some lines of a batch, in a blob, byte for byte as they came, blank ones too.

    `first` is the number of its first line, from 1; `size` counts its bytes. `results` names the blob of what came of
    the lines that are not blank, once all are done, `answers` that of what the provider's batch endpoint gave.
    `gone` are blobs with lines of erased sessions, until they are removed.
    """

    number: int
    first: int
    lines: int
    size: int
    source: str
    results: str = ""
    answers: str = ""
    gone: tuple[str, ...] = ()


def batch_key(tenant: str, batch_id: str) -> Key:
    """Where a batch is."""
    return Key(f"{quoted(tenant)}/batch/{quoted(batch_id)}", BATCH)


def segment_key(tenant: str, batch_id: str, number: int) -> Key:
    """Where a segment of a batch is."""
    return Key(batch_key(tenant, batch_id).partition, f"{SEGMENT}{number:06d}")


def listing_key(batch: Batch) -> Key:
    """Where a batch stands in the list of its user's; sorts by time."""
    return Key(listing(batch.principal), f"{int(batch.created_at * 1000):013d}/{batch.id}")


def listing(principal: Principal) -> str:
    """The partition of the list of a user's batches."""
    return f"{quoted(principal.tenant)}/batches/{quoted(principal.user)}"


def blob_session(batch_id: str) -> str:
    """The name under which a batch's blobs are kept."""
    return f"batch-{batch_id}"
