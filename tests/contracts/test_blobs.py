"""What every implementation of the Blobs port does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_core.blobs.base import Blob, Blobs
from agent_core.blobs.folder import FolderBlobs
from agent_core.blobs.memory import MemoryBlobs
from agent_core.errors import InputError, NotFoundError
from agent_core.testing import ManualClock
from tests.aws.emulator import Emulator

NAMES = [
    "plain",
    "",
    ".",
    "..",
    "../../etc",
    "/root",
    "a/b",
    "a\\b",
    "con",
    "名前",
    "x\ny",
    "%2e%2e",
    "s p",
    "\x00",
    "é",
    "e\u0301",
    "n" * 3000,
    "n" * 3001,
    "A",
    "a",
    "\U0010ffff",
]


EMULATED = {"moto": "emulator", "ministack": "ministack"}
"""S3 as two others emulate it: the name of each, and of its fixture."""


@pytest.fixture(params=["memory", "folder", "moto", "ministack"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    blobs: Blobs
    if request.param in EMULATED:
        emulator: Emulator = request.getfixturevalue(EMULATED[request.param])
        blobs = emulator.blobs(ManualClock(jump=True))
    else:
        blobs = MemoryBlobs() if request.param == "memory" else FolderBlobs(tmp_path / "blobs")
    yield blobs
    await blobs.close()


@pytest.mark.parametrize("data", [b"", b"\n", b"a\nb", bytes(range(256)), b"x" * 3_000_000])
async def test_bytes_and_media_type_come_back(blobs: Blobs, data: bytes) -> None:
    ref = await blobs.put("tenant", "session", data, "text/plain; charset=utf-8")
    assert await blobs.get("tenant", ref) == Blob(data, "text/plain; charset=utf-8")


async def test_a_reference_is_made_from_session_and_content(blobs: Blobs) -> None:
    ref = await blobs.put("t", "s/1", b"data", "image/png")
    assert ref == "s/1/" + hashlib.sha256(b"data").hexdigest()
    assert await blobs.put("t", "s/1", b"data", "image/png") == ref
    assert await blobs.put("t", "s/2", b"data", "image/png") != ref


async def test_the_last_media_type_stands(blobs: Blobs) -> None:
    ref = await blobs.put("t", "s", b"data", "image/png")
    await blobs.put("t", "s", b"data", "image/webp")
    assert (await blobs.get("t", ref)).media_type == "image/webp"


async def test_an_empty_media_type_is_one(blobs: Blobs) -> None:
    assert (await blobs.get("t", await blobs.put("t", "s", b"data", ""))).media_type == ""


@pytest.mark.parametrize("media_type", ["text/plain\nx", "text/\x00", "text/é", "x" * 256])
async def test_a_media_type_is_one_plain_line(blobs: Blobs, media_type: str) -> None:
    with pytest.raises(InputError):
        await blobs.put("t", "s", b"data", media_type)


@pytest.mark.parametrize(
    "ref", ["", "s", "s/", "/", "s/../../x", "s/" + "g" * 64, "s/" + "a" * 63, "s/" + "a" * 64]
)
async def test_what_is_not_there_is_not_found(blobs: Blobs, ref: str) -> None:
    with pytest.raises(NotFoundError):
        await blobs.get("t", ref)


async def test_no_tenant_and_no_session_meets_another_whatever_their_names(blobs: Blobs) -> None:
    refs = {}
    for tenant in NAMES:
        for session in NAMES:
            refs[tenant, session] = await blobs.put(tenant, session, b"same", f"{NAMES.index(tenant)}")
    for (tenant, session), ref in refs.items():
        assert (await blobs.get(tenant, ref)).media_type == f"{NAMES.index(tenant)}", (tenant, session)
    await blobs.erase(NAMES[0], NAMES[1])
    for (tenant, session), ref in refs.items():
        if (tenant, session) == (NAMES[0], NAMES[1]):
            with pytest.raises(NotFoundError):
                await blobs.get(tenant, ref)
        else:
            assert (await blobs.get(tenant, ref)).data == b"same"


async def test_another_tenant_can_not_use_the_reference(blobs: Blobs) -> None:
    ref = await blobs.put("mine", "s", b"data", "text/plain")
    with pytest.raises(NotFoundError):
        await blobs.get("theirs", ref)


async def test_erase_removes_the_session_and_can_be_repeated(blobs: Blobs) -> None:
    first = await blobs.put("t", "s", b"1", "text/plain")
    second = await blobs.put("t", "s", b"2", "text/plain")
    kept = await blobs.put("t", "other", b"1", "text/plain")
    for _ in range(2):
        await blobs.erase("t", "s")
    for ref in (first, second):
        with pytest.raises(NotFoundError):
            await blobs.get("t", ref)
    assert (await blobs.get("t", kept)).data == b"1"
    assert await blobs.put("t", "s", b"1", "text/plain") == first
    assert (await blobs.get("t", first)).data == b"1"


async def test_puts_and_erasures_at_the_same_time_leave_a_whole_blob_or_none(blobs: Blobs) -> None:
    async def put(number: int) -> str:
        return await blobs.put("t", "s", b"%d" % (number % 5) * 1000, "text/plain")

    refs = await asyncio.gather(
        *(put(number) for number in range(30)), *(blobs.erase("t", "s") for _ in range(5))
    )
    for ref in {ref for ref in refs if ref}:
        try:
            blob = await blobs.get("t", ref)
        except NotFoundError:
            continue
        assert ref == "s/" + hashlib.sha256(blob.data).hexdigest()


async def test_one_blob_is_removed_and_no_other(blobs: Blobs) -> None:
    gone = await blobs.put("acme", "s", b"one", "text/plain")
    kept = [
        ("acme", await blobs.put("acme", "s", b"two", "text/plain")),
        ("acme", await blobs.put("acme", "s2", b"one", "text/plain")),
        ("other", await blobs.put("other", "s", b"one", "text/plain")),
    ]
    await blobs.remove("acme", gone)
    await blobs.remove("acme", gone)
    await blobs.remove("nobody", gone)
    with pytest.raises(NotFoundError):
        await blobs.get("acme", gone)
    assert [(await blobs.get(tenant, ref)).data for tenant, ref in kept] == [b"two", b"one", b"one"]


async def test_all_of_a_tenant_is_listed_and_erased_and_nothing_of_another(blobs: Blobs) -> None:
    kept: dict[str, list[bytes]] = {}
    for tenant in ("acme", "acme2", "a"):
        for session in ("s", "../x", "n" * 300):
            data = f"{tenant}{session}".encode()
            await blobs.put(tenant, session, data, "text/plain")
            kept.setdefault(tenant, []).append(data)
    found = [(name, blob) async for name, blob in blobs.all("acme")]
    assert sorted(blob.data for _, blob in found) == sorted(kept["acme"])
    assert {blob.media_type for _, blob in found} == {"text/plain"}
    assert {name.rpartition("/")[2] for name, _ in found} == {
        hashlib.sha256(data).hexdigest() for data in kept["acme"]
    }
    assert len({name for name, _ in found}) == 3
    await blobs.erase_all("acme")
    await blobs.erase_all("acme")
    assert [one async for one in blobs.all("acme")] == []
    for tenant in ("acme2", "a"):
        assert sorted([blob.data async for _, blob in blobs.all(tenant)]) == sorted(kept[tenant])
    assert [one async for one in blobs.all("nobody")] == []
