"""Connections of an API Gateway WebSocket: who is at the other end, and what is pushed there.

    socket/<connection>      connection   who opened it; expires when the gateway cuts it
    <tenant>/watch/<run>     <connection> connections that want the end of a run which was asked for elsewhere

No process has the connection itself. Any of them pushes over HTTPS, so the ends of runs come from whichever process
finished them, by the engine's outbox: at least once, and also where the one that took the message died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec

from agent_core.api.socket_frames import Frame, cut
from agent_core.aws.connections import ConnectionGoneError, ConnectionsApi
from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Run
from agent_core.messages import Principal, from_record, to_record
from agent_core.security.visitor import Caller
from agent_core.store.base import Delete, Key, Put, Store

log = logging.getLogger("sampan.websocket")

KIND = "websocket"
PAGE = 100
AT_ONCE = 10
"""Connections that are told of one run at the same time."""

LIFE_SECONDS = 7200.0
"""How long API Gateway keeps a connection at most."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """An open connection, as stored."""

    id: str
    principal: Principal
    opened_at: float
    key: str = ""
    rate: str = ""
    owner: bool = False

    @property
    def caller(self) -> Caller:
        """Who opened it, as the door knew them."""
        return Caller(principal=self.principal, key=self.key, rate=self.rate, owner=self.owner)


class Telling:
    """A client is being told of a run by this process: what others bring of it comes after that."""

    def __init__(self) -> None:
        self.run_id = ""
        self.over = asyncio.Event()


class Connections:
    """Opens, closes and reaches connections; delivers the ends of runs to them."""

    def __init__(self, store: Store, clock: Clock, api: ConnectionsApi) -> None:
        self._store = store
        self._clock = clock
        self._api = api
        self._tellings: dict[str, list[Telling]] = {}

    async def opened(self, connection_id: str, caller: Caller) -> None:
        """Remember who opened a connection."""
        now = self._clock.now()
        connection = Connection(
            id=connection_id,
            principal=caller.principal,
            opened_at=now,
            key=caller.key,
            rate=caller.rate,
            owner=caller.owner,
        )
        await self._store.write(
            Put(_key(connection_id), to_record(connection), expires_at=now + LIFE_SECONDS)
        )

    async def closed(self, connection_id: str) -> None:
        """Forget a connection."""
        await self._store.write(Delete(_key(connection_id)))

    async def get(self, connection_id: str) -> Connection:
        """Who is there; raises ConnectionGoneError."""
        record = await self._store.get(_key(connection_id))
        if record is None:
            raise ConnectionGoneError(f"connection {connection_id} is not open; connect again")
        return from_record(Connection, record.fields)

    async def push(self, connection_id: str, frame: Frame) -> None:
        """Send a frame, in parts where it is large. A connection that is gone is forgotten: ConnectionGoneError."""
        try:
            for piece in cut(frame, self._clock.new_id()):
                await self._api.post(connection_id, piece)
        except ConnectionGoneError:
            await self.closed(connection_id)
            raise

    def line(self, connection: Connection) -> Gatewayed:
        """The way to one connection."""
        return Gatewayed(self, connection)

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        """Push the end of a run to the connection that it came from, and to those that watch it.

        A client that is gone is no failure: it comes back with the run's id and the last event that it saw.
        """
        # Imported here: where no reply goes to a WebSocket, its process needs nothing of HTTP.
        from agent_core.api.talk import end_frame

        partition = keys.watchers(run.principal.tenant, run.id)
        places = asyncio.Semaphore(AT_ONCE)

        async def tell(connection_id: str, watches: bool) -> None:
            async with places:
                await self._told(connection_id, run.id)
                try:
                    await self.push(connection_id, end_frame(run))
                except ConnectionGoneError:
                    log.info("run=<%s>, connection=<%s> | gone; its client may resume", run.id, connection_id)
                if watches:
                    # At once: where another can't be told now, this one is not told again.
                    await self._store.write(Delete(Key(partition, connection_id)))

        after, own = "", [delivery.address]
        while True:
            page = await self._store.query(partition, after=after, limit=PAGE)
            watching = [record.key.sort for record in page.records]
            own = [address for address in own if address not in watching]
            telling = [*(tell(each, False) for each in own), *(tell(each, True) for each in watching)]
            outcomes = await asyncio.gather(*telling, return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failed:
                raise failed[0]
            after, own = page.after, []
            if not after:
                return

    async def watch(self, connection: Connection, run_id: str) -> None:
        """Have the end of a run delivered to this connection, too."""
        key = Key(keys.watchers(connection.principal.tenant, run_id), connection.id)
        await self._store.write(Put(key, {"v": 1}, expires_at=self._clock.now() + LIFE_SECONDS))

    async def unwatch(self, connection: Connection, run_id: str) -> None:
        """The connection was told the run's end."""
        await self._store.write(
            Delete(Key(keys.watchers(connection.principal.tenant, run_id), connection.id))
        )

    @contextmanager
    def telling(self, connection_id: str) -> Iterator[Telling]:
        """While this process tells a client of a run, the run's end waits."""
        telling = Telling()
        self._tellings.setdefault(connection_id, []).append(telling)
        try:
            yield telling
        finally:
            telling.over.set()
            self._tellings[connection_id].remove(telling)
            if not self._tellings[connection_id]:
                del self._tellings[connection_id]

    async def _told(self, connection_id: str, run_id: str) -> None:
        for telling in tuple(self._tellings.get(connection_id, ())):
            if telling.run_id in ("", run_id):
                await telling.over.wait()

    async def close(self) -> None:
        """Let go of the HTTP connections to the gateway."""
        await self._api.close()


class Gatewayed:
    """The way to one client through API Gateway."""

    def __init__(self, connections: Connections, connection: Connection) -> None:
        self._connections = connections
        self._connection = connection

    @property
    def delivery(self) -> Delivery:
        """Where the ends of runs are pushed."""
        return Delivery(KIND, self._connection.id)

    async def push(self, frame: Frame) -> None:
        """Send a frame; raises ConnectionGoneError."""
        await self._connections.push(self._connection.id, frame)

    def telling(self) -> AbstractContextManager[Telling]:
        """While a client is told of a run here, its end waits."""
        return self._connections.telling(self._connection.id)

    async def watch(self, run_id: str) -> None:
        """Have the end of a run pushed here, wherever it was asked for."""
        await self._connections.watch(self._connection, run_id)

    async def unwatch(self, run_id: str) -> None:
        """The end has been told."""
        await self._connections.unwatch(self._connection, run_id)


def _key(connection_id: str) -> Key:
    return Key(f"socket/{keys.quoted(connection_id)}", "connection")
