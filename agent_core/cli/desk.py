"""Where batches are handed in, seen as one: this process, or a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import httpx
import msgspec

from agent_core.api.batch_schemas import BatchView, batch_view
from agent_core.app import App, build_app
from agent_core.batches.records import Batch
from agent_core.batches.service import Options
from agent_core.cli.client import CALL_SECONDS, connect, refusal, unreachable
from agent_core.cli.shutdown import shut
from agent_core.clock import Clock, SystemClock
from agent_core.engine import keys
from agent_core.errors import AgentError, ConflictError, ConnectError, CutError
from agent_core.messages import Principal
from agent_core.settings import Settings

PIECE = 256 * 1024
UPLOAD_TRIES = 5
LEAVE_SECONDS = 2.0


class Desk(Protocol):
    """Takes a batch, tells how far it is, gives its results. `waits` says that the work is done in this process."""

    waits: bool

    async def open(self, options: Options, key: str) -> BatchView:
        """The batch of this key: a new one, or the one that is there."""

    async def append(self, batch_id: str, offset: int, file: Path) -> BatchView:
        """Send what the file has from this byte on. Raises CutError or ConnectError where it broke off."""

    async def start(self, batch_id: str) -> BatchView:
        """End the upload and have the batch run."""

    async def look(self, batch_id: str) -> BatchView:
        """How far the batch is; has it gone on with where nobody works on it."""

    def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """The results as lines of JSON."""


class LocalDesk:
    """Batches of this process's own store, run here."""

    waits = True

    def __init__(self, app: App) -> None:
        self._batches = app.batches
        self._clock = app.clock
        self._me = Principal()

    def _view(self, batch: Batch) -> BatchView:
        return batch_view(batch, self._clock.now())

    async def open(self, options: Options, key: str) -> BatchView:
        """See Desk."""
        batch, _ = await self._batches.create(self._me, options, keys.run_id(self._me, f"batch/{key}"))
        return self._view(batch)

    async def append(self, batch_id: str, offset: int, file: Path) -> BatchView:
        """See Desk."""
        return self._view(await self._batches.append(self._me, batch_id, offset, pieces(file, offset)))

    async def start(self, batch_id: str) -> BatchView:
        """See Desk."""
        return self._view(await self._batches.start(self._me, batch_id))

    async def look(self, batch_id: str) -> BatchView:
        """See Desk."""
        batch = await self._batches.get(self._me, batch_id)
        self._batches.go_on(batch)
        return self._view(batch)

    async def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """See Desk."""
        async for piece in self._batches.results(await self._batches.get(self._me, batch_id)):
            yield piece


class RemoteDesk:
    """Batches of a server."""

    waits = False

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def _call(self, request: httpx.Request) -> BatchView:
        try:
            response = await self._client.send(request)
        except httpx.HTTPError as error:
            raise unreachable(self._client, error) from error
        if response.status_code == 409:
            raise ConflictError(refusal(409, response.content).detail)
        if response.status_code >= 400:
            raise refusal(response.status_code, response.content)
        return msgspec.json.decode(response.content, type=BatchView)

    async def open(self, options: Options, key: str) -> BatchView:
        """See Desk."""
        wanted = {name: value for name, value in msgspec.structs.asdict(options).items() if value}
        headers = {"Idempotency-Key": key}
        return await self._call(
            self._client.build_request("POST", "/api/v1/batches", json=wanted, headers=headers)
        )

    async def append(self, batch_id: str, offset: int, file: Path) -> BatchView:
        """See Desk."""
        return await self._call(
            self._client.build_request(
                "PATCH",
                f"/api/v1/batches/{batch_id}",
                params={"offset": offset},
                content=pieces(file, offset),
                headers={"Content-Type": "application/jsonl"},
            )
        )

    async def start(self, batch_id: str) -> BatchView:
        """See Desk."""
        return await self._call(self._client.build_request("POST", f"/api/v1/batches/{batch_id}/start"))

    async def look(self, batch_id: str) -> BatchView:
        """See Desk."""
        return await self._call(
            self._client.build_request("GET", f"/api/v1/batches/{batch_id}", timeout=CALL_SECONDS)
        )

    async def results(self, batch_id: str) -> AsyncIterator[bytes]:
        """See Desk."""
        try:
            async with self._client.stream("GET", f"/api/v1/batches/{batch_id}/results") as response:
                if response.status_code >= 400:
                    raise refusal(response.status_code, await response.aread())
                async for piece in response.aiter_bytes():
                    yield piece
        except httpx.HTTPError as error:
            raise unreachable(self._client, error) from error


async def pieces(file: Path, offset: int) -> AsyncIterator[bytes]:
    """The bytes of a file from an offset on; never all of it."""
    with file.open("rb") as source:
        source.seek(offset)
        while piece := source.read(PIECE):
            yield piece


async def upload(desk: Desk, shown: BatchView, file: Path, size: int, clock: Clock) -> BatchView:
    """Send what is missing of the file of this size, from where the batch has it, again where it broke off."""
    for tried in range(UPLOAD_TRIES):
        if shown.status != "uploading":
            return shown
        try:
            if shown.received < size:
                await desk.append(shown.batch_id, shown.received, file)
            return await desk.start(shown.batch_id)
        except (CutError, ConnectError, ConflictError) as error:
            if tried == UPLOAD_TRIES - 1:
                raise
            await clock.sleep(0.5 * 2**tried)
            shown = await _still(desk, shown, error)
    return shown


async def _still(desk: Desk, shown: BatchView, error: AgentError) -> BatchView:
    try:
        return await desk.look(shown.batch_id)
    except ConnectError:
        return shown


@asynccontextmanager
async def opened(settings: Settings, url: str) -> AsyncIterator[tuple[Desk, Clock]]:
    """The desk of the server at the URL, or without one that of this process."""
    if url:
        async with connect(url, settings.api_key) as client:
            yield RemoteDesk(client), SystemClock()
        return
    app = build_app(settings)
    try:
        yield LocalDesk(app), app.clock
    finally:
        await app.batches.close()
        await shut(app, LEAVE_SECONDS)
