"""What `sampan doctor` looks at, one thing a function: each gives findings and goes on past what is wrong."""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Literal

import msgspec

from agent_core.agent import Agent, Responder
from agent_core.api.views import Home
from agent_core.app import build_app, make_shards, make_store
from agent_core.cli.address import bind, url_of
from agent_core.cli.extras import EXTRAS, install
from agent_core.cli.screen import clipped, installed_version, seconds
from agent_core.clock import Clock, SystemClock
from agent_core.errors import AgentError, ConfigError, ModelRefusedError
from agent_core.loader import load_agents
from agent_core.messages import Message, Prompt
from agent_core.models.base import Model
from agent_core.settings import Settings, variable
from agent_core.store.base import Delete, Key

MODEL_SECONDS = 60.0
"""How long a model may take to answer the check; a small one in process is loaded in that time, too."""

PORT_SECONDS = 3.0
"""How long whoever has our port may take to say who it is."""


class Finding(msgspec.Struct, frozen=True):
    """What was found about one thing; `mend` says what to do about it."""

    about: str
    status: Literal["ok", "missing", "wrong"]
    detail: str
    mend: str = ""


async def examine(settings: Settings, *, offline: bool) -> AsyncIterator[Finding]:
    """All checks, from the ground up; with `offline`, no model is called."""
    clock = SystemClock()
    yield _python()
    for finding in _packages():
        yield finding
    yield _settings(settings)
    agents: list[Agent | Responder] = []
    try:
        agents = load_agents(settings)
        yield Finding("agents", "ok", f"{', '.join(agent.name for agent in agents)} in {settings.agents}")
        yield _default(settings, agents)
    except ConfigError as error:
        yield Finding("agents", "wrong", error.detail)
    async for finding in _agents(settings, agents, clock, offline=offline):
        yield finding
    yield await _store(settings, clock)
    yield await _port(settings)


def _python() -> Finding:
    return Finding(
        "python", "ok", f"{platform.python_version()} in {sys.prefix}, Sampan {installed_version()}"
    )


def _packages() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            words = f"not installed: {', '.join(missing)}"
            yield Finding(f"extra {extra}", "missing", words, install(extra))
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(packages))


def _settings(settings: Settings) -> Finding:
    plain = Settings()
    set_here = [
        f"{variable(name)}={value}"
        for name, value in settings.public().items()
        if getattr(settings, name) != getattr(plain, name)
    ]
    return Finding("settings", "ok", " ".join(set_here) or "all as by default")


def _default(settings: Settings, agents: Sequence[Agent | Responder]) -> Finding:
    names = [agent.name for agent in agents]
    if settings.default_agent in names:
        return Finding("default agent", "ok", settings.default_agent)
    return Finding(
        "default agent",
        "missing",
        f"there is no agent {settings.default_agent!r}, so {names[0]!r} answers when a request names none",
        f"set SAMPAN_DEFAULT_AGENT={names[0]}",
    )


async def _agents(
    settings: Settings, agents: Sequence[Agent | Responder], clock: Clock, *, offline: bool
) -> AsyncIterator[Finding]:
    """Each agent by itself: its tools, plugins and output type, and that its model answers."""
    hasty = msgspec.structs.replace(settings, store="memory", model_retries=0)
    seen: set[str] = set()
    for agent in agents:
        try:
            app = build_app(hasty, agents=[agent], clock=clock)
        except ConfigError as error:
            about = f"agent {agent.name}"
            yield Finding(about, "wrong", error.detail.removeprefix(f"{about}: "))
            continue
        try:
            yield _parts(agent)
            model = app.engine.agents[agent.name].model
            if model is not None and model.name not in seen:
                seen.add(model.name)
                yield await _model(model, clock, offline=offline)
        finally:
            await app.close()


def _parts(agent: Agent | Responder) -> Finding:
    """The agent's tools, their schemas made for good."""
    if not isinstance(agent, Agent):
        return Finding(f"agent {agent.name}", "ok", type(agent).__name__)
    dumb: list[str] = []
    for tool in agent.tools:
        try:
            msgspec.json.encode(tool.spec)
        except (AgentError, TypeError) as error:
            return Finding(f"agent {agent.name}", "wrong", f"tool {tool.name}: {error}")
        if not tool.description:
            dumb.append(tool.name)
    if dumb:
        mend = "write a docstring: it is all a model knows of a tool"
        return Finding(f"agent {agent.name}", "missing", f"no description: tool {', '.join(dumb)}", mend)
    names = ", ".join(tool.name for tool in agent.tools)
    return Finding(f"agent {agent.name}", "ok", f"tools: {names}" if names else "no tools")


async def _model(model: Model, clock: Clock, *, offline: bool) -> Finding:
    """One very small request: it proves endpoint, key and name at once."""
    about = f"model {model.name}"
    if offline:
        return Finding(about, "ok", "set up; not called")
    prompt = Prompt(
        messages=(Message.of("user", "Say hello."),), system="Answer with one word.", max_tokens=16
    )
    start = clock.monotonic()
    try:
        async with asyncio.timeout(MODEL_SECONDS):
            reply = await model.reply(prompt)
    except TimeoutError:
        return Finding(about, "wrong", f"no answer within {MODEL_SECONDS:g} s", "is the endpoint overloaded?")
    except AgentError as error:
        return Finding(about, "wrong", error.detail.removeprefix(f"{model.name}: "), _model_mend(error))
    tools = "" if model.tools else "; it calls no tools"
    took = seconds(clock.monotonic() - start)
    return Finding(about, "ok", f"answered {clipped(reply.message.text, 30)!r} in {took}{tools}")


def _model_mend(error: AgentError) -> str:
    if isinstance(error, ConfigError):
        return ""  # its words say what to do
    if isinstance(error, ModelRefusedError):
        return "check MODEL_NAME, MODEL_ENDPOINT and the API key"
    return "is the endpoint up, and reachable from here? MODEL_ENDPOINT says where it is looked for"


async def _store(settings: Settings, clock: Clock) -> Finding:
    """Write a record, read it, remove it."""
    about = f"store {settings.store}"
    key = Key("doctor", clock.new_id())
    try:
        store = make_store(settings, clock)
        try:
            await store.add(key, {"checks": 1}, expires_at=clock.now() + 60)
            found = await store.get(key)
            await store.write(Delete(key))
            numbers = await make_shards(settings, store, clock).numbers()
        finally:
            await store.close()
    except (AgentError, OSError) as error:
        words = error.detail if isinstance(error, AgentError) else str(error)
        return Finding(about, "wrong", words, "give a folder that can be written: SAMPAN_DATA or --data")
    if found is None:
        return Finding(about, "wrong", "a record that was written is not there")
    where = f" in {settings.data}" if settings.store == "sqlite" else ""
    spread = f"; lists in up to {max(numbers)} partitions are read" if max(numbers) > 1 else ""
    return Finding(about, "ok", f"written and read{where}{spread}")


async def _port(settings: Settings) -> Finding:
    about = f"port {settings.port}"
    try:
        with bind(settings) as listener:
            return Finding(about, "ok", f"free: {url_of(listener)}")
    except ConfigError as error:
        if await _is_sampan(settings):
            return Finding(about, "ok", "a Sampan server is running there")
        return Finding(about, "wrong", error.detail)


async def _is_sampan(settings: Settings) -> bool:
    # An extra of its own, which this finds missing in a moment if it is.
    try:
        from agent_core.cli.client import connect, fetch
    except ModuleNotFoundError:
        return False
    try:
        async with connect(f"http://{settings.host}:{settings.port}") as client:
            async with asyncio.timeout(PORT_SECONDS):
                return (await fetch(client, "/", Home)).service == "sampan"
    except (AgentError, msgspec.DecodeError, TimeoutError):
        return False
