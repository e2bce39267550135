"""Blobs as files, for one machine: `<folder>/t-<tenant>/s-<session>/<sha256>`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from agent_core.blobs.base import Blob, check_media_type, plain_name, reference, split_reference
from agent_core.errors import NotFoundError, StoreError

_TRIES = 20


class FolderBlobs:
    """All verbs over the files of a folder, made when first used.

    A file's first line is its media type, the rest its bytes. It appears whole or not at all, and is on the disk when
    `put` returns. Many processes may share the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    async def put(self, tenant: str, session: str, data: bytes, media_type: str) -> str:
        """Store the bytes and return their reference."""
        check_media_type(media_type)
        ref = reference(session, data)
        folder, digest = self._folder(tenant, session), split_reference(ref)[1]
        with _declared(folder):
            await asyncio.to_thread(_put, folder, digest, media_type.encode() + b"\n" + data)
        return ref

    async def get(self, tenant: str, ref: str) -> Blob:
        """The bytes again; raises NotFoundError, StoreError where they are damaged."""
        session, digest = split_reference(ref)
        file = self._folder(tenant, session) / digest
        with _declared(file):
            try:
                content = await asyncio.to_thread(file.read_bytes)
            except FileNotFoundError:
                raise NotFoundError(f"no blob {ref}") from None
        head, _, data = content.partition(b"\n")
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{file} is damaged: its bytes are not those it is named after")
        return Blob(data, head.decode())

    async def remove(self, tenant: str, ref: str) -> None:
        """Remove these bytes."""
        session, digest = split_reference(ref)
        file = self._folder(tenant, session) / digest
        with _declared(file):
            await asyncio.to_thread(_remove, file)

    async def erase(self, tenant: str, session: str) -> None:
        """Remove all bytes of a session."""
        folder = self._folder(tenant, session)
        with _declared(folder):
            await asyncio.to_thread(_erase, folder, self._path / "erased")

    async def erase_all(self, tenant: str) -> None:
        """Remove all bytes of a tenant."""
        folder = self._path / f"t-{plain_name(tenant)}"
        with _declared(folder):
            await asyncio.to_thread(_erase, folder, self._path / "erased")

    async def all(self, tenant: str) -> AsyncIterator[tuple[str, Blob]]:
        """All bytes of a tenant, each with its name."""
        folder = self._path / f"t-{plain_name(tenant)}"
        for file in await asyncio.to_thread(lambda: sorted(folder.glob("s-*/*"))):
            if file.name.startswith("."):
                continue  # not whole yet
            with _declared(file):
                try:
                    content = await asyncio.to_thread(file.read_bytes)
                except FileNotFoundError:  # erased meanwhile
                    continue
            head, _, data = content.partition(b"\n")
            yield f"{file.parent.name}/{file.name}", Blob(data, head.decode())

    async def close(self) -> None:
        """Nothing to let go of."""

    def _folder(self, tenant: str, session: str) -> Path:
        return self._path / f"t-{plain_name(tenant)}" / f"s-{plain_name(session)}"


def _put(folder: Path, name: str, content: bytes) -> None:
    for _ in range(_TRIES):
        _make(folder)
        try:
            # In the session's folder, so that an erasure takes the leftovers of a crash with it.
            handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        except FileNotFoundError:  # erased since
            continue
        try:
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / name)
            _sync(folder)
            return
        except FileNotFoundError:  # erased meanwhile, and the temporary file with it
            continue
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    raise StoreError(f"{folder} is being erased again and again")


def _remove(file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
        _sync(file.parent)


def _erase(folder: Path, erased: Path) -> None:
    for _ in range(_TRIES):
        if not folder.exists():
            return
        _make(erased)
        try:
            # Moved aside first: from then on nobody finds it, and nobody adds to what is being removed.
            aside = Path(tempfile.mkdtemp(dir=erased))
            os.rename(folder, aside / "session")
        except FileNotFoundError:  # another process erases too
            continue
        _sync(folder.parent)
        shutil.rmtree(erased, ignore_errors=True)  # with what crashes left there
        if aside.exists():
            raise StoreError(f"{aside} can't be removed")
    if folder.exists():
        raise StoreError(f"{folder} is being written again and again")


def _make(folder: Path) -> None:
    """Make the folder and its parents so that they outlive a power cut."""
    if folder.is_dir():
        return
    _make(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    if os.name == "nt":  # Windows can't flush a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _declared(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
