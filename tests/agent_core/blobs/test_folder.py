"""What a folder of blobs does beyond the contract: its files, and its faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_core.blobs.folder import FolderBlobs
from agent_core.errors import InputError, StoreError


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


async def test_a_blob_is_a_file_named_after_its_content(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    ref = await blobs.put("Acme", "s-1", b"data", "text/plain")
    digest = ref.removeprefix("s-1/")
    assert files(tmp_path) == [Path("t-%41cme") / "s-s-1" / digest]
    assert (tmp_path / "t-%41cme" / "s-s-1" / digest).read_bytes() == b"text/plain\ndata"


async def test_erase_leaves_nothing_on_the_disk_also_not_what_a_crash_left(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    ref = await blobs.put("t", "s", b"data", "text/plain")
    [file] = files(tmp_path)
    (tmp_path / file.parent / ".half-written").write_bytes(b"text/plain\nda")
    (tmp_path / "erased" / "moved-but-not-removed").mkdir(parents=True)
    (tmp_path / "erased" / "moved-but-not-removed" / ref.removeprefix("s/")).write_bytes(b"older")
    await blobs.erase("t", "s")
    assert files(tmp_path) == []


async def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "inner")
    for name in ("../x", "..", "/tmp/x", "a/../../../../x"):
        await blobs.put(name, name, b"data", "text/plain")
    assert {path.parts[0] for path in files(tmp_path)} == {"inner"}


async def test_damaged_bytes_are_an_error_not_an_answer(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    ref = await blobs.put("t", "s", b"data", "text/plain")
    [file] = files(tmp_path)
    (tmp_path / file).write_bytes(b"text/plain\ndat")
    with pytest.raises(StoreError, match="damaged"):
        await blobs.get("t", ref)


async def test_a_folder_that_can_not_be_used_is_a_declared_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    blobs = FolderBlobs(tmp_path / "taken")
    with pytest.raises(StoreError):
        await blobs.put("t", "s", b"data", "text/plain")
    with pytest.raises(StoreError):
        await blobs.get("t", "s/" + "0" * 64)


async def test_a_put_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    ref = await blobs.put("t", "s", b"data", "text/plain")
    [file] = files(tmp_path)
    (tmp_path / file).unlink()
    (tmp_path / file).mkdir()  # so that the last step, the renaming, can't be done
    with pytest.raises(StoreError):
        await blobs.put("t", "s", b"data", "text/plain")
    assert files(tmp_path) == []
    with pytest.raises(StoreError):
        await blobs.get("t", ref)


async def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        await FolderBlobs(tmp_path).put("\ud800", "s", b"data", "text/plain")
