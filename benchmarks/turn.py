"""What one stored turn costs through the real HTTP server, beside the same service written with other libraries."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import venv
from benchmarks.machine import BenchmarkError, resident_mib
from benchmarks.servers import JSON_BODIES, Mock, Server, free_port, load, mock_model, running, sampan
from benchmarks.table import Goal, Report

LATENCY_MS = 50
CHUNKS = 50
PACE_MS = 4
"""Milliseconds between two chunks of a paced stream."""

CONCURRENCY = 16

CPU_GOAL_MS = 3.0
STREAMED_CPU_GOAL_MS = 6.0
ADDED_GOAL_MS = 5.0

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Peer:
    """A service to compare with: `module` of benchmarks/peers, `keeps` what it stores."""

    name: str
    module: str
    keeps: str = "nothing"
    path: str = "/api/v1/agent"
    form: bool = False
    ours: bool = False
    """Whether it runs in Sampan's own environment: needs nothing more."""


PEERS = (
    Peer("Starlette + aiohttp", "starlette_aiohttp", ours=True),
    Peer("Starlette + httpx", "starlette_httpx", ours=True),
    Peer("FastAPI + openai", "fastapi_openai"),
    Peer("pydantic-ai + FastAPI", "pydantic_ai_fastapi"),
    Peer("agno AgentOS", "agno_os", "sessions", "/agents/assistant/runs", form=True),
)


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds, and requests of each kind in a round."""

    rounds: int
    whole: int
    streamed: int
    paced: int
    single: int


FULL = Size(rounds=5, whole=480, streamed=320, paced=160, single=40)
QUICK = Size(rounds=1, whole=48, streamed=32, paced=32, single=4)


@dataclass
class Figures:
    """What the rounds gave for one service, by what was measured; a number for each round."""

    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    latency: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident: float = 0.0


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` only of what needs no further packages, and too small to mean much."""
    size = QUICK if quick else FULL
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        mock = stack.enter_context(mock_model(folder / "mock.log", latency_ms=LATENCY_MS, chunks=CHUNKS))
        servers = {"Sampan": stack.enter_context(sampan(folder / "sampan", mock))}
        for peer in [peer for peer in PEERS if peer.ours or not quick]:
            try:
                servers[peer.name] = stack.enter_context(_served(peer, folder, mock))
            except BenchmarkError as error:
                skipped.append(f"- {peer.name} was left out: {error}")
        figures = _measure(servers, mock, size)
        for server in servers.values():
            figures[server.name].resident = resident_mib(server.pid)
    return _report(figures, size, skipped)


@contextmanager
def _served(peer: Peer, folder: Path, mock: Mock) -> Iterator[Server]:
    python = sys.executable if peer.ours else str(venv.peers_python())
    port = free_port()
    command = [python, "-m", "uvicorn", f"benchmarks.peers.{peer.module}:app", f"--port={port}"]
    environment = {"MODEL_ENDPOINT": mock.endpoint, "PEER_DATA": str(folder)}
    with running(command, port, folder / f"{peer.module}.log", **environment) as pid:
        bodies = JSON_BODIES
        if peer.form:
            bodies = {"whole": "message=Hello {i}, how are you?&stream=false"}
            bodies["streamed"] = bodies["whole"].replace("false", "true")
        kind = FORM if peer.form else "application/json"
        yield Server(peer.name, pid, f"http://127.0.0.1:{port}{peer.path}", bodies, kind)


def _direct(mock: Mock) -> Server:
    """The double itself: what is above its latency is added by the server under test."""
    body = '{"model": "mock", "messages": [{"role": "user", "content": "Hello {i}, how are you?"}]}'
    return Server("none", mock.pid, f"{mock.endpoint}/chat/completions", {"whole": body})


def _measure(servers: Mapping[str, Server], mock: Mock, size: Size) -> dict[str, Figures]:
    """Interleaved rounds, each in another order, so that what else the machine does meets all of them."""
    direct = _direct(mock)
    figures = {name: Figures() for name in (*servers, direct.name)}
    for server in servers.values():
        for mode in ("whole", "streamed"):
            load(server, mode, concurrency=CONCURRENCY, requests=2 * CONCURRENCY)
    for number in range(size.rounds):
        order = list(servers.values())
        order = order[number % len(order) :] + order[: number % len(order)]
        print(f"round {number + 1} of {size.rounds}", flush=True)
        for concurrency, requests in ((CONCURRENCY, size.whole), (1, size.single)):
            for server in (direct, *order):
                found = load(server, "whole", concurrency=concurrency, requests=requests)
                figures[server.name].cpu[f"whole {concurrency}"].append(found["cpu_ms_per_req"])
                figures[server.name].latency[f"whole {concurrency}"].append(found["p50_ms"])
        for mode, pace, requests in (("at once", 0, size.streamed), ("paced", PACE_MS, size.paced)):
            mock.ask("_config", chunk_interval_ms=pace)
            for server in order:
                found = load(server, "streamed", concurrency=CONCURRENCY, requests=requests)
                figures[server.name].cpu[mode].append(found["cpu_ms_per_req"])
        mock.ask("_config", chunk_interval_ms=0)
    return figures


def _report(figures: Mapping[str, Figures], size: Size, skipped: list[str]) -> Report:
    direct, ours = figures["none"], figures["Sampan"]

    def added(one: Figures, concurrency: int) -> float:
        kind = f"whole {concurrency}"
        return median(a - b for a, b in zip(one.latency[kind], direct.latency[kind], strict=True))

    def cpu(one: Figures, kind: str) -> float:
        return median(one.cpu[kind])

    def times(one: Figures, kind: str) -> str:
        ratio = median(a / b for a, b in zip(one.cpu[kind], ours.cpu[kind], strict=True))
        return "" if one is ours else f"{ratio:.1f} x"

    many = f"whole {CONCURRENCY}"
    rows: list[tuple[object, ...]] = []
    keeps = {peer.name: peer.keeps for peer in PEERS} | {"Sampan": "messages, run, journal, ledger"}
    for name, one in figures.items():
        if name == "none":
            continue
        rows.append(
            (
                name,
                keeps[name],
                cpu(one, many),
                times(one, many),
                cpu(one, "at once"),
                cpu(one, "paced"),
                times(one, "paced"),
                added(one, CONCURRENCY),
                added(one, 1),
                one.resident,
            )
        )
    return Report(
        name="turn",
        title="A turn over HTTP",
        columns=(
            "service",
            "keeps",
            "CPU ms",
            "x Sampan",
            f"streamed: CPU ms, {CHUNKS} chunks at once",
            f"CPU ms, {CHUNKS} chunks {PACE_MS} ms apart",
            "x Sampan",
            f"added ms, {CONCURRENCY} at a time",
            "added ms, one at a time",
            "MiB",
        ),
        rows=rows,
        goals=[
            Goal(f"CPU of a stored turn, {CONCURRENCY} at a time", cpu(ours, many), CPU_GOAL_MS, "ms"),
            Goal(
                f"CPU of a stored turn streamed in {CHUNKS} chunks (the dearer of both ways)",
                max(cpu(ours, "at once"), cpu(ours, "paced")),
                STREAMED_CPU_GOAL_MS,
                "ms",
            ),
            Goal(
                f"added latency, {CONCURRENCY} at a time, p50", added(ours, CONCURRENCY), ADDED_GOAL_MS, "ms"
            ),
            Goal("added latency, one at a time, p50", added(ours, 1), ADDED_GOAL_MS, "ms"),
        ],
        notes=[
            "One process each, under uvicorn with uvloop and httptools and its log of requests; the model's double "
            f"answers after {LATENCY_MS} ms and shares the machine with server and loader. CPU is user + system of the "
            f"server's process over all requests; medians of {size.rounds} interleaved rounds of {size.whole} whole, "
            f"{size.streamed} and {size.paced} streamed and {size.single} single requests, each a session of its own. "
            "`x Sampan` is the median of the rounds' ratios. Added latency is p50 above that of the double alone in "
            "the same round.",
            "",
            "Not equal in features: only Sampan journals, prices and replays, and flushes each answer to the disk "
            "before it gives it; agno keeps sessions in SQLite; the others keep nothing.",
            *skipped,
        ],
    )
