"""Wiring: the only place that picks adapters. Nothing connects, reads or writes until it is used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from agent_core.agent import Agent, Responder
from agent_core.batches.runner import LEASE_SECONDS
from agent_core.batches.service import Batches
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock, SystemClock
from agent_core.costs.pricing import Prices
from agent_core.engine.bound import Bound
from agent_core.engine.engine import Engine
from agent_core.engine.hooks import Hooks
from agent_core.engine.kit import Deliverer, Kit
from agent_core.engine.prompts import check_prompts
from agent_core.engine.runs import CALLBACK, Due, Run
from agent_core.engine.sweeper import Swept
from agent_core.engine.switches import Switches
from agent_core.errors import ConfigError, StoreError
from agent_core.loader import load_agents
from agent_core.messages import Principal
from agent_core.models.base import Model
from agent_core.models.batching import PrefetchedModel
from agent_core.models.catalog import make_model, resolve
from agent_core.plugins.chain import PluginChain
from agent_core.plugins.loader import load_plugins
from agent_core.queues.base import Queue
from agent_core.schedules.records import KIND as SCHEDULE
from agent_core.schedules.service import Schedules, Times
from agent_core.security.audit import KIND as AUDIT
from agent_core.security.audit import Audit
from agent_core.security.declarations import Accepted, beside, of_tool
from agent_core.security.door import Door
from agent_core.security.seal import Seal
from agent_core.security.secrets import REFERENCE, Secrets, SecretWire, resolved
from agent_core.security.stepup import StepUp
from agent_core.security.webhook import Receiver
from agent_core.settings import Settings
from agent_core.store.base import Key, Store, WholeStore
from agent_core.store.overflow import OverflowStore
from agent_core.tools.base import Tool
from agent_core.tools.toolbox import Toolbox
from agent_core.wire.base import Wire
from agent_core.worker import Desk, Waker

log = logging.getLogger("sampan.app")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
"""An ASGI application. Said here, so that Starlette is loaded only where HTTP is spoken. https://asgi.readthedocs.io"""


@runtime_checkable
class _Closed(Protocol):
    """A deliverer with connections of its own."""

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class App:
    """All that a process needs to serve, made by `build_app`."""

    settings: Settings
    clock: Clock
    store: Store
    blobs: Blobs
    wire: Wire
    models: tuple[Model, ...]
    engine: Engine
    schedules: Schedules
    queue: Queue | None = None
    webhooks: Receiver | None = None
    deliverers: Mapping[str, Deliverer] = field(default_factory=dict)

    def asgi(self, *, own: bool = False) -> ASGIApp:
        """The HTTP surface; the pages are at /console where the packages that render them are installed.

        `own` is for the process itself, whom nobody asks for a key: never listen with that.
        """
        # Imported only where HTTP is spoken: a queue's worker needs none of it.
        from agent_core.api.asgi import build
        from agent_core.console.asgi import Pages

        door = None if own else self.door
        pages = all(find_spec(package) for package in ("a2wsgi", "flask"))
        mounts = [("/console", Pages(self.engine, self.settings, self.clock, door))] if pages else []
        return build(
            self.engine,
            self.settings,
            clock=self.clock,
            mounts=mounts,
            batches=lambda: self.batches,
            webhooks=self.webhooks,
            door=door,
        )

    @cached_property
    def door(self) -> Door:
        """Who is calling, and what they may do. Every way in asks here."""
        return Door(self.settings, self.store, self.wire, self.clock)

    @cached_property
    def batches(self) -> Batches:
        """Many messages submitted together. Made when first asked for: most processes never see one."""
        # Imported only then, for cold start.
        from agent_core.api.batch_formats import line_formats

        return Batches(
            self.engine,
            self.store,
            self.blobs,
            self.clock,
            line_formats(self.engine.agents, self.settings.data_class),
            max_bytes=self.settings.max_batch_bytes,
            lease_seconds=min(LEASE_SECONDS, self.settings.lease_seconds),
        )

    async def look_after_audit(self, key: Key, due: Due) -> None:
        """Link an entry into the audit log of its tenant."""
        await self.engine.audit.look_after(key, due.tenant)

    async def look_after_batch(self, key: Key, due: Due) -> None:
        """Go on with a batch that nobody works on."""
        await self.batches.look_after(key, due)

    async def forget_lines(self, principal: Principal, runs: Sequence[Run]) -> None:
        """Take the lines that these runs answered out of their batches."""
        if any(run.line for run in runs):
            # Imported only then: few sessions have lines of a batch.
            from agent_core.batches.forgetting import forget

            await forget(self.store, self.blobs, principal, runs)

    async def look_after(self) -> None:
        """Sweep for ever, now and then and whenever a schedule is due. Ends by being cancelled."""
        while True:
            try:
                swept = await self.sweep()
            except StoreError as error:
                log.warning("sweep=<failed> | trying again: %s", error)
            else:
                if swept != Swept():
                    log.info(
                        "resumed=<%d>, pushed=<%d>, given_up=<%d>, others=<%d> | swept",
                        *msgspec.structs.astuple(swept),
                    )
            await self.clock.sleep(self._pause())

    def _pause(self) -> float:
        """Seconds to the next sweep, a little more or less, so that many processes do not all come at once."""
        pause = self.settings.sweep_seconds * (0.8 + 0.4 * self.clock.random())
        tick = self.schedules.next_at()
        return pause if tick is None else min(pause, tick - self.clock.now() + self.clock.random())

    async def work(self) -> None:
        """Handle the queue's messages for ever, or nothing where there is no queue. Ends by being cancelled."""
        if self.queue is None:
            return
        # Imported only where there is a queue, for cold start.
        from agent_core.queues.consumer import consume

        handle = partial(self.desk.handle, queue=self.queue.rules.name)
        await consume(self.queue, handle, asyncio.Event(), clock=self.clock)

    @property
    def desk(self) -> Desk:
        """What handles the messages of a queue."""
        return Desk(self.engine, self.settings, self.clock)

    async def settle(self, seconds: float | None = None, *, wake: bool = True) -> None:
        """Before the platform freezes this process: wait for the work under way, then hand over what is not done.

        `seconds` None waits as long as it takes. Batches stop with it, to be gone on with; `wake` as in the engine's
        `hand_over`.
        """
        drained = asyncio.ensure_future(self._drained())
        await asyncio.wait({drained}, timeout=seconds)
        if not drained.done():
            if "batches" in self.__dict__:
                await self.batches.close()
            await self.engine.hand_over(wake=wake)
        await drained

    async def sweep(self) -> Swept:
        """Look once after what was left lying and what is due, the schedules of the code included."""
        await self.schedules.keep()
        return await self.engine.sweep()

    async def _drained(self) -> None:
        await self.engine.drain()
        if "batches" in self.__dict__:
            await self.batches.drain()

    async def close(self) -> None:
        """Wait for the runs under way, then let go of everything. Batches stop, to be gone on with."""
        if "batches" in self.__dict__:
            await self.batches.close()
        await self.engine.close()
        for deliverer in self.deliverers.values():
            if isinstance(deliverer, _Closed):
                await deliverer.close()
        for model in self.models:
            await model.close()
        if self.queue is not None:
            await self.queue.close()
        await self.wire.close()
        await self.blobs.close()
        await self.store.close()


def build_app(
    settings: Settings | None = None,
    *,
    agents: Sequence[Agent | Responder] | None = None,
    store: Store | None = None,
    blobs: Blobs | None = None,
    wire: Wire | None = None,
    clock: Clock | None = None,
) -> App:
    """The application as the settings say; what is given explicitly wins. Raises ConfigError with the way out."""
    settings = settings or Settings.from_env()
    clock = clock or SystemClock()
    plain = wire or _plain_wire(settings)
    wire = wire or make_wire(settings, clock, plain)
    store = make_store(settings, clock) if store is None else _of_any_size(store, clock)
    blobs = blobs or make_blobs(settings, clock)
    found = _agents(settings, agents)
    accepted = Accepted(beside(settings.agents))
    common = load_plugins(settings.plugins, accepted)
    models: dict[str, Model] = {}
    bound = {
        agent.name: _bind(agent, settings, common, models, accepted, blobs=blobs, wire=wire, clock=clock)
        for agent in found
    }
    default = settings.default_agent if settings.default_agent in bound else found[0].name
    kit = _kit(settings, clock, wire, plain, bound, store=store, blobs=blobs)
    queue = make_queue(settings, clock)
    engine = Engine(kit, default_agent=default, wake=Waker(queue) if queue else None)
    app = App(
        settings=settings,
        clock=clock,
        store=store,
        blobs=blobs,
        wire=wire,
        models=tuple(models.values()),
        engine=engine,
        schedules=Schedules(engine, store, clock, _times, data_class=settings.data_class),
        queue=queue,
        deliverers=kit.deliverers,
    )
    if settings.channels:
        app = replace(app, webhooks=_connect_channels(kit, engine, settings, plain))
    kit.due["batch"] = app.look_after_batch
    kit.forget.append(app.forget_lines)
    kit.due[AUDIT] = app.look_after_audit
    kit.due[SCHEDULE] = app.schedules.tick
    return app


def _kit(
    settings: Settings,
    clock: Clock,
    wire: Wire,
    plain: Wire,
    agents: Mapping[str, Bound],
    *,
    store: Store,
    blobs: Blobs,
) -> Kit:
    """What the engine works with."""
    hooks = make_hooks(settings, store, clock) if settings.hooks else None
    kit = Kit(
        store=store,
        blobs=blobs,
        clock=clock,
        prices=Prices(settings.prices),
        agents=agents,
        switches=Switches(store, clock, hooks),
        audit=Audit(store, clock, settings.audit_keys),
        lease_seconds=settings.lease_seconds,
        run_seconds=settings.run_days * 86_400,
        deliverers=make_deliverers(settings, clock, wire, store),
        factors=StepUp(settings, store, clock),
        hooks=hooks,
    )
    if hooks is not None:
        _connect_hooks(kit, hooks, plain)
    return kit


def _agents(settings: Settings, given: Sequence[Agent | Responder] | None) -> list[Agent | Responder]:
    """The agents that were given, or else found; none of them tells its model a secret."""
    found = list(given) if given is not None else load_agents(settings)
    if not found:
        raise ConfigError(
            f"no agent found in {settings.agents!r}; write `agent = Agent(name=...)` in a module there"
        )
    check_prompts(found, Secrets(settings.secrets()))
    return found


def _connect_channels(kit: Kit, engine: Engine, settings: Settings, wire: Wire) -> Receiver:
    """Have the channels of the settings answered. Imported only where one is on, for cold start."""
    from agent_core.channels.connect import connect

    return connect(kit, engine, settings, wire)


def _connect_hooks(kit: Kit, hooks: Hooks, wire: Wire) -> None:
    """Have endpoints of tenants told what happens. Imported only where that is on, for cold start."""
    from agent_core.engine.hook_post import HookPost
    from agent_core.engine.hooks import KIND
    from agent_core.wire.outside import OutsideWire

    kit.due[KIND] = HookPost(kit.store, hooks, OutsideWire(wire, hooks.reach), kit.clock).tell


def make_hooks(settings: Settings, store: Store, clock: Clock) -> Hooks:
    """The endpoints of tenants. Imported only when asked for, for cold start."""
    from agent_core.security.addresses import CALLBACKS, LOCAL_CALLBACKS

    reach = LOCAL_CALLBACKS if settings.local_callbacks else CALLBACKS
    return Hooks(store, Seal(settings.seal_keys), clock, reach)


def make_wire(settings: Settings, clock: Clock, plain: Wire | None = None) -> Wire:
    """The way out to the network, with retries. Imported only where no other wire is given, for cold start."""
    from agent_core.wire.retry import RetryWire

    return RetryWire(plain or _plain_wire(settings), clock, retries=settings.model_retries)


def _plain_wire(settings: Settings) -> Wire:
    """The way out without retries: AWS adapters know which calls may be repeated. Imported only when chosen."""
    if settings.wire == "aiohttp":
        from agent_core.wire.aiohttp import AiohttpWire

        return AiohttpWire()
    if settings.wire == "httpcore":
        from agent_core.wire.httpcore import HttpcoreWire

        return HttpcoreWire()
    from agent_core.wire.asyncio import AsyncioWire

    return AsyncioWire()


def make_deliverers(settings: Settings, clock: Clock, wire: Wire, store: Store) -> dict[str, Deliverer]:
    """Who brings replies to those who want them pushed. Imported only when set up, for cold start."""
    deliverers: dict[str, Deliverer] = {}
    if settings.callback_secret:
        from agent_core.channels.callback import Callback
        from agent_core.security.addresses import CALLBACKS, LOCAL_CALLBACKS
        from agent_core.wire.outside import OutsideWire

        reach = LOCAL_CALLBACKS if settings.local_callbacks else CALLBACKS
        deliverers[CALLBACK] = Callback(OutsideWire(wire, reach), clock, resolved(settings.callback_secret))
    if settings.websocket_url:
        from agent_core.api.connections import KIND, Connections
        from agent_core.aws.connections import ConnectionsApi
        from agent_core.aws.services import make_client

        client = make_client(settings, clock, _plain_wire(settings))
        deliverers[KIND] = Connections(store, clock, ConnectionsApi(client, settings.websocket_url))
    return deliverers


def make_store(settings: Settings, clock: Clock) -> WholeStore:
    """The store of the settings, for records of any size."""
    return _of_any_size(_plain_store(settings, clock), clock)


def _of_any_size(store: Store, clock: Clock) -> OverflowStore:
    """The store for records of any size, if it is not such a one."""
    return store if isinstance(store, OverflowStore) else OverflowStore(store, clock)


def _plain_store(settings: Settings, clock: Clock) -> WholeStore:
    """The store of the settings. Imported only when chosen, for cold start."""
    if settings.store == "memory":
        from agent_core.store.memory import MemoryStore

        return MemoryStore(clock)
    if settings.store == "sqlite":
        from agent_core.store.sqlite import SqliteStore

        return SqliteStore(Path(settings.data) / "sampan.db", clock)
    if settings.store == "dynamodb":
        from agent_core.aws.services import dynamodb, make_client
        from agent_core.store.dynamodb import DynamoStore

        if not settings.table:
            raise ConfigError("SAMPAN_TABLE is not set: name the DynamoDB table")
        client = make_client(settings, clock, _plain_wire(settings))
        return DynamoStore(dynamodb(settings, client), settings.table)
    raise ConfigError(f"SAMPAN_STORE={settings.store}: there are `sqlite`, `dynamodb` and `memory`")


def make_queue(settings: Settings, clock: Clock) -> Queue | None:
    """The queue of the settings, if there is one. Imported only when chosen, for cold start."""
    if settings.queue == "memory":
        from agent_core.queues.memory import MemoryQueue

        return MemoryQueue(clock)
    if settings.queue == "sqlite":
        from agent_core.queues.sqlite import SqliteQueue

        return SqliteQueue(Path(settings.data) / "queue.db", clock)
    if settings.queue == "sqs":
        from agent_core.aws.services import make_client, sqs
        from agent_core.queues.sqs import SqsQueue, rules_of

        url = settings.queue_url
        service = sqs(make_client(settings, clock, _plain_wire(settings)), url)
        return SqsQueue(service, url, rules_of(url), dead_url=settings.dead_queue_url)
    return None


def _times(when: str, zone: str) -> Times:
    """The planned times of a schedule; raises ConfigError."""
    # Imported only where an agent has a schedule, for cold start.
    from agent_core.schedules.cron import parse

    return parse(when, zone)


def make_blobs(settings: Settings, clock: Clock) -> Blobs:
    """The blobs of the bucket that is set, else those that go with the store. Imported only when chosen."""
    if settings.bucket:
        from agent_core.aws.services import bucket_url, make_client
        from agent_core.blobs.s3 import S3Blobs

        client = make_client(settings, clock, _plain_wire(settings))
        return S3Blobs(client, bucket_url(settings, client.region))
    if settings.store == "memory":
        from agent_core.blobs.memory import MemoryBlobs

        return MemoryBlobs()
    from agent_core.blobs.folder import FolderBlobs

    return FolderBlobs(Path(settings.data) / "blobs")


def _bind(
    agent: Agent | Responder,
    settings: Settings,
    common: Sequence[object],
    models: dict[str, Model],
    accepted: Accepted,
    *,
    blobs: Blobs,
    wire: Wire,
    clock: Clock,
) -> Bound:
    """An agent with its adapters. Agents of the same model share one. What is wrong is told with the agent's name."""
    try:
        return _bind_parts(agent, settings, common, models, accepted, blobs=blobs, wire=wire, clock=clock)
    except ConfigError as error:
        raise ConfigError(f"agent {agent.name}: {error.detail}") from error


def _bind_parts(
    agent: Agent | Responder,
    settings: Settings,
    common: Sequence[object],
    models: dict[str, Model],
    accepted: Accepted,
    *,
    blobs: Blobs,
    wire: Wire,
    clock: Clock,
) -> Bound:
    own = agent.plugins if isinstance(agent, Agent) else ()
    chain = PluginChain([*common, *own], timeout_seconds=settings.plugin_seconds)
    tools = [tool for tool in agent.tools if _may_be_used(tool, accepted)] if isinstance(agent, Agent) else ()
    for tool in tools:
        tool.check()
    toolbox = Toolbox(
        tools,
        blobs=blobs,
        clock=clock,
        timeout_seconds=settings.tool_seconds,
        result_bytes=settings.tool_result_bytes,
    )
    if not isinstance(agent, Agent):
        return Bound(agent=agent, model=None, toolbox=toolbox, plugins=chain)
    schema, check = _output(agent)
    model = _model(agent.model, settings, models, wire, clock)
    rules = agent.compaction
    summarizer = _model(rules.model or model, settings, models, wire, clock) if rules else None
    return Bound(
        agent=agent,
        model=model,
        toolbox=toolbox,
        plugins=chain,
        output_schema=schema,
        check_output=check,
        limits=agent.limits,
        busy=agent.busy,
        history=agent.history,
        compaction=agent.compaction,
        summarizer=summarizer,
        untrusted=agent.untrusted,
        egress=None if agent.egress.hosts is None else tuple(agent.egress.hosts),
        channels=None if agent.egress.channels is None else tuple(agent.egress.channels),
    )


def _may_be_used(tool: Tool, accepted: Accepted) -> bool:
    """Whether it is your own, or declares what was accepted. Else the agent does without it, and the log says so."""
    if not tool.source:
        return True
    refused = accepted.why_not(of_tool(tool))
    if refused:
        log.warning("tool=<%s>, source=<%s> | left out: %s", tool.name, tool.source, refused)
    return not refused


def _model(
    wanted: str | Model, settings: Settings, models: dict[str, Model], wire: Wire, clock: Clock
) -> Model:
    if not isinstance(wanted, str):
        models[f"given:{id(wanted)}"] = wanted
        return wanted
    spec = resolve(wanted, settings)
    key = repr(spec)
    if key not in models:
        model = make_model(spec, settings, _with_secrets(settings, wire), clock)
        found = getattr(model, "batches", None)
        models[key] = PrefetchedModel(model, found) if found else model
    return models[key]


def _with_secrets(settings: Settings, wire: Wire) -> Wire:
    """The wire of models, whose keys may be named instead of given."""
    keys = (settings.model_api_key, settings.openai_api_key, settings.anthropic_api_key)
    named = [key for key in keys if REFERENCE.fullmatch(key)]
    return SecretWire(wire, named) if named else wire


def _output(agent: Agent) -> tuple[dict[str, Any] | None, Any]:
    if agent.output is None:
        return None, None
    # pydantic is loaded only where a user's own type comes in: its first model costs 150 ms of CPU at start.
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(agent.output)
    return adapter.json_schema(), adapter.validate_json
