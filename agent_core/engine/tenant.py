"""A whole tenant: exported into a file, or erased for good.

    erasing   <tenant>   an erasure that has begun; it is there until all is gone

Both go through the whole store, so that nothing is passed over because somebody forgot where it lies. For operators:
it reads every tenant's records to find one's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.ledger import Ledger
from agent_core.engine import keys
from agent_core.engine.reading import bill_so_far
from agent_core.engine.runs import Run
from agent_core.engine.switches import CACHE_SECONDS, EVERY_TENANT, Switch, Switches
from agent_core.errors import ConditionError, InputError
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.store.base import Absent, Delete, Key, Put, Record, WholeStore, Write, quoted
from agent_core.store.pieces import OVERFLOW

VERSION = 1
"""Of the export's form."""

REASON = "its data is being erased"

_ERASING = "erasing"

_OWNED = {"key": "key", "login": "login", "socket": "connection"}
"""Partitions that no tenant's name begins, by their sort key: their records say themselves whose they are."""

_AT_ONCE = 25
_SECRET = {"digest", "old_digest", "seed", "secret", "old_secret"}
"""Fields of keys, factors and endpoints that nobody needs a copy of."""

_PASSING = {"login", "socket"}
"""Kinds that end by themselves within a day and are of no use elsewhere: logins, connections."""

_LONGEST_LEASE = 300.0
"""Seconds to wait at the most for who may still be at it: a batch that waits for its provider is put off for longer."""


class Elsewhere(Protocol):
    """A place beside the store and the blobs, such as a queue, where a tenant's words may lie."""

    async def erase(self, tenant: str) -> int:
        """Remove them for good; how many things were removed."""


Tell = Callable[[int], None]
"""Told how many records were looked at since it was told last."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure under way. The salt makes names in the ledger into others, the same however often it is begun."""

    tenant: str
    salt: str
    by: str
    at: float


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed, `letters` from queues, and how many entries of the ledger stayed without their names."""

    records: int
    ledger: int
    letters: int = 0


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds: lines by kind, blobs, and the SHA-256 of each of its files."""

    version: int = VERSION
    tenant: str
    exported_at: float
    records: dict[str, int]
    blobs: int
    sha256: dict[str, str]


class Tenants:
    """Exports and erases tenants. `tell` hears how it goes on, `elsewhere` are further places to erase them from."""

    def __init__(
        self,
        store: WholeStore,
        blobs: Blobs,
        clock: Clock,
        tell: Tell = lambda looked_at: None,
        elsewhere: Sequence[Elsewhere] = (),
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._tell = tell
        self._elsewhere = elsewhere
        self._held_until = 0.0

    async def erase(self, tenant: str, *, by: str, log_too: bool = False) -> Erased:
        """Remove all of a tenant, and leave the ledger's figures without names, and the audit log (unless `log_too`).

        Begun again after a crash it goes on. Meanwhile the tenant is stopped: its runs end, messages are refused.
        """
        _check_name(tenant)
        erasure = await self._begun(tenant, by)
        switches = Switches(self._store, self._clock)
        await switches.throw(Switch(kind="tenant", tenant=tenant, reason=REASON, by=by, at=self._clock.now()))
        records = ledger = letters = 0
        quiet = False
        while True:
            await self._blobs.erase_all(tenant)
            gone, renamed = await self._pass(erasure, log_too, all_too=quiet)
            records, ledger = records + gone, ledger + renamed
            if quiet and not gone and not renamed:
                break
            if not quiet:
                # Until then a process may not know that the tenant is stopped, and may still store something; and a
                # worker who has lost its session, and stops when it wants to renew its lease, may still put a blob.
                left = min(self._held_until - self._clock.now(), _LONGEST_LEASE)
                await self._clock.sleep(max(CACHE_SECONDS, left) + 1)
                quiet = True
        for place in self._elsewhere:
            letters += await place.erase(tenant)
        await self._store.scrub()
        await self._over(tenant, by, log_too)
        return Erased(records=records, ledger=ledger, letters=letters)

    async def export(self, tenant: str, file: Path, *, by: str) -> Exported:
        """All of a tenant in a zip: JSON lines by kind, and the blobs. It appears whole or not at all.

        What is written meanwhile may be in it or not. Hashes of keys and seeds of second factors are left out.
        """
        _check_name(tenant)
        counts: Counter[str] = Counter()
        digests: dict[str, str] = {}
        blobs = 0
        part = file.with_name(f".{file.name}.part")
        try:
            with ExitStack() as stack, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                lines: dict[str, IO[bytes]] = {}
                async for record in self._records(tenant):
                    kind = kind_of(record.key)
                    if kind in _PASSING or kind == OVERFLOW:
                        continue  # what was moved out of records stands in them
                    if kind not in lines:
                        lines[kind] = stack.enter_context(tempfile.TemporaryFile())
                    lines[kind].write(msgspec.json.encode(_public(record)) + b"\n")
                    counts[kind] += 1
                for kind, content in sorted(lines.items()):
                    name = f"records/{kind}.jsonl"
                    content.seek(0)
                    digests[name] = _put(archive, name, content)
                async for name, blob in self._blobs.all(tenant):
                    archive.writestr(f"blobs/{name}", blob.data)
                    digests[f"blobs/{name}"] = hashlib.sha256(blob.data).hexdigest()
                    blobs += 1
                told = Exported(
                    tenant=tenant,
                    exported_at=self._clock.now(),
                    records=dict(sorted(counts.items())),
                    blobs=blobs,
                    sha256=digests,
                )
                archive.writestr("manifest.json", msgspec.json.format(msgspec.json.encode(told), indent=2))
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        await self._store.write(
            audit.entry(self._clock, tenant, "tenant.exported", by=by, records=str(counts.total()))
        )
        return told

    async def _begun(self, tenant: str, by: str) -> Erasure:
        key = Key(_ERASING, quoted(tenant))
        erasure = Erasure(tenant=tenant, salt=os.urandom(32).hex(), by=by, at=self._clock.now())
        try:
            await self._store.write(Put(key, to_record(erasure), when=(Absent(),)))
        except ConditionError:
            record = await self._store.get(key)
            if record is not None:
                return from_record(Erasure, record.fields)
            return await self._begun(tenant, by)  # it ended in this moment
        return erasure

    async def _over(self, tenant: str, by: str, log_too: bool) -> None:
        """Let the tenant go again, and write down that it was erased: where the log is gone, in that of all tenants."""
        await self._store.write(
            Delete(Key(_ERASING, quoted(tenant))),
            Delete(_stop(tenant)),
            audit.entry(
                self._clock, "*" if log_too else tenant, "tenant.erased", by=by, subject=_mark(tenant)
            ),
        )

    async def _pass(self, erasure: Erasure, log_too: bool, *, all_too: bool) -> tuple[int, int]:
        """Go once through the store; how many records were removed, and how many were given other names.

        `all_too`: also what was moved out of records, and is needed to read them as long as they are there.
        """
        removed = renamed = 0
        doomed: list[Write] = []
        async for record in self._records(erasure.tenant):
            kind = kind_of(record.key)
            if record.key == _stop(erasure.tenant) or (kind == "audit" and not log_too):
                continue  # what stops the tenant goes last, with the erasure itself
            if kind == OVERFLOW and not all_too:
                continue
            if kind == "ledger":
                entry = from_record(Ledger, record.fields)
                if not entry.erased:
                    await self._store.write(*_nameless(record.key, entry, erasure.salt))
                    renamed += 1
                continue
            if (
                kind == "run"
                and record.key.sort == keys.RUN
                and not (run := from_record(Run, record.fields)).done
            ):
                # It never came to its end, at which what it cost is written down.
                bill = await bill_so_far(self._store, run)
                place = keys.ledger(run.principal.tenant, run.created_at, run.id)
                await self._store.write(_nameless(place, bill, erasure.salt)[1])
                renamed += 1
            self._held_until = max(self._held_until, float(record.fields.get("lease_until", 0.0)))
            doomed.append(Delete(record.key))
            removed += 1
            if len(doomed) == _AT_ONCE:
                await self._store.write(*doomed)
                doomed.clear()
        if doomed:
            await self._store.write(*doomed)
        return removed, renamed

    async def _records(self, tenant: str) -> AsyncIterator[Record]:
        """All records of a tenant, wherever they lie."""
        after: Key | None = None
        while True:
            page = await self._store.scan(after=after)
            for record in page.records:
                if belongs(record, tenant):
                    yield record
            self._tell(len(page.records))
            after = page.after
            if after is None:
                return


def _stop(tenant: str) -> Key:
    return Key("switches", f"{quoted(tenant)}/tenant/")


def _check_name(tenant: str) -> None:
    if tenant in ("", EVERY_TENANT):
        raise InputError(f"{tenant!r} is no tenant: name one", field="tenant")


def belongs(record: Record, tenant: str) -> bool:
    """Whether a record is of this tenant: by its partition, its sort key, or what it says itself."""
    own = quoted(tenant)
    head, slash, _ = record.key.partition.partition("/")
    if record.key.partition in ("due", "switches", _ERASING):
        parts = record.key.sort.split("/")
        return (parts[1] if record.key.partition == "due" else parts[0]) == own and head != _ERASING
    if slash and record.key.partition.count("/") == 1 and record.key.sort == _OWNED.get(head):
        owner: Mapping[str, Any] = record.fields.get("principal", record.fields)
        return bool(owner.get("tenant", Principal().tenant) == tenant)
    return bool(slash) and head == own


def kind_of(key: Key) -> str:
    """What a record is, by where it lies: session, run, ledger, due, key, ..."""
    head, slash, rest = key.partition.partition("/")
    if not slash:
        return "audit" if head == "due" and key.sort.endswith(f"/{audit.KIND}") else head
    if "/" not in rest and key.sort == _OWNED.get(head):
        return head
    return rest.partition("/")[0]


def _nameless(key: Key, entry: Ledger, salt: str) -> list[Write]:
    """The figures under names that nobody can lead back to the old ones, once the salt is gone."""

    def other(name: str) -> str:
        return hmac.new(bytes.fromhex(salt), name.encode(), hashlib.sha256).hexdigest()[:26]

    after = msgspec.structs.replace(
        entry,
        run_id=other(entry.run_id),
        session_id=other(entry.session_id),
        user=other(entry.user),
        erased=True,
    )
    place = Key(key.partition, f"{key.sort.partition('/')[0]}/{after.run_id}")
    return [Delete(key), Put(place, to_record(after))]


def _mark(tenant: str) -> str:
    """The tenant in the log: its name's hash, which only who knows the name finds again."""
    return hashlib.sha256(tenant.encode()).hexdigest()


def _public(record: Record) -> dict[str, Any]:
    fields = {name: value for name, value in record.fields.items() if name not in _SECRET}
    return {"partition": record.key.partition, "sort": record.key.sort, "fields": fields}


def _put(archive: zipfile.ZipFile, name: str, content: IO[bytes]) -> str:
    """Write a file into the archive in pieces; its SHA-256."""
    digest = hashlib.sha256()
    with archive.open(name, "w", force_zip64=True) as target:
        while piece := content.read(1 << 16):
            digest.update(piece)
            target.write(piece)
    return digest.hexdigest()
