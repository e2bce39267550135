"""What one stored turn costs through the real HTTP server, beside the same service written with other libraries."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import venv
from benchmarks.machine import BenchmarkError, resident_mib
from benchmarks.servers import JSON_BODIES, Mock, Server, free_port, load, mock_model, running, sampan
from benchmarks.table import Goal, Report, show

LATENCY_MS = 50
CHUNKS = 50
PACE_MS = 4
"""Milliseconds between two chunks of a paced stream."""

JITTER_MS = 15
"""How much earlier or later than LATENCY_MS an answer of the model may come, where answers are uneven."""

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


OURS, FLEETING, ALONE = "Sampan", "Sampan, store in memory", "the double alone"

PEERS = (
    Peer("Starlette + aiohttp", "starlette_aiohttp", ours=True),
    Peer("Starlette + httpx", "starlette_httpx", ours=True),
    Peer("FastAPI + openai", "fastapi_openai"),
    Peer("pydantic-ai + FastAPI", "pydantic_ai_fastapi"),
    Peer("agno AgentOS", "agno_os", "sessions", "/agents/assistant/runs", form=True),
)


@dataclass(frozen=True)
class Kind:
    """A kind of load. `pace_ms` is between two chunks of a stream, `jitter_ms` how uneven the model's answers come."""

    name: str
    mode: str
    concurrency: int
    pace_ms: float = 0.0
    jitter_ms: float = 0.0

    @property
    def has_floor(self) -> bool:
        """Whether the double alone is measured too, for its latency."""
        return self.mode == "whole"


MANY = Kind("many", "whole", CONCURRENCY)
UNEVEN = Kind("uneven", "whole", CONCURRENCY, jitter_ms=JITTER_MS)
SINGLE = Kind("single", "whole", 1)
AT_ONCE = Kind("at once", "streamed", CONCURRENCY)
PACED = Kind("paced", "streamed", CONCURRENCY, pace_ms=PACE_MS)


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds, and requests of each kind in a round."""

    rounds: int
    requests: Mapping[Kind, int]


FULL = Size(5, {MANY: 320, UNEVEN: 160, SINGLE: 24, AT_ONCE: 160, PACED: 96})
QUICK = Size(1, {MANY: 48, UNEVEN: 32, SINGLE: 4, AT_ONCE: 32, PACED: 32})


@dataclass
class Figures:
    """What the rounds gave for one service, by what was measured; a number for each round."""

    cpu: dict[Kind, list[float]] = field(default_factory=lambda: defaultdict(list))
    latency: dict[Kind, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident: float = 0.0


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` only of what needs no further packages, and too small to mean much."""
    size = QUICK if quick else FULL
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        mock = stack.enter_context(mock_model(folder / "mock.log", latency_ms=LATENCY_MS, chunks=CHUNKS))
        servers = {
            OURS: stack.enter_context(sampan(OURS, folder / "sampan", mock)),
            FLEETING: stack.enter_context(sampan(FLEETING, folder / "fleeting", mock, store="memory")),
        }
        for peer in [peer for peer in PEERS if peer.ours or not quick]:
            try:
                servers[peer.name] = stack.enter_context(_served(peer, folder, mock))
            except BenchmarkError as error:
                skipped.append(f"- {peer.name} was left out: {error}")
        flushes: list[float] = []
        figures = _measure(servers, mock, size, lambda: flushes.extend(_flushes(folder)))
        for server in servers.values():
            figures[server.name].resident = resident_mib(server.pid)
    return _report(figures, size, flushes, skipped)


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
    return Server(ALONE, mock.pid, f"{mock.endpoint}/chat/completions", {"whole": body})


def _flushes(folder: Path) -> list[float]:
    """Milliseconds that flushes of a small write to the disk take now: what an SQLite store waits for."""
    found = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(20):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - began) * 1000)
    return found


def _measure(
    servers: Mapping[str, Server], mock: Mock, size: Size, between: Callable[[], None]
) -> dict[str, Figures]:
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
        for kind, requests in size.requests.items():
            mock.ask("_config", chunk_interval_ms=kind.pace_ms, jitter_ms=kind.jitter_ms)
            for server in (direct, *order) if kind.has_floor else order:
                found = load(server, kind.mode, concurrency=kind.concurrency, requests=requests)
                figures[server.name].cpu[kind].append(found["cpu_ms_per_req"])
                figures[server.name].latency[kind].append(found["p50_ms"])
            between()
    return figures


def _report(figures: Mapping[str, Figures], size: Size, flushes: list[float], skipped: list[str]) -> Report:
    alone, ours = figures[ALONE], figures[OURS]

    def added(one: Figures, kind: Kind) -> float:
        return median(a - b for a, b in zip(one.latency[kind], alone.latency[kind], strict=True))

    def cpu(one: Figures, kind: Kind) -> float:
        return median(one.cpu[kind])

    def times(one: Figures, kind: Kind) -> str:
        ratio = median(a / b for a, b in zip(one.cpu[kind], ours.cpu[kind], strict=True))
        return "" if one is ours else f"{ratio:.1f} x"

    keeps = {peer.name: peer.keeps for peer in PEERS}
    keeps |= {OURS: "messages, run, journal, ledger", FLEETING: "the same, until it ends"}
    rows: list[tuple[object, ...]] = [
        (
            name,
            keeps[name],
            *(cpu(one, MANY), times(one, MANY)),
            *(cpu(one, AT_ONCE), cpu(one, PACED), times(one, PACED)),
            *(added(one, MANY), added(one, UNEVEN), added(one, SINGLE)),
            one.resident,
        )
        for name, one in figures.items()
        if name != ALONE
    ]
    flushes.sort()
    return Report(
        name="turn",
        title="A turn over HTTP",
        columns=(
            "service",
            "keeps",
            "CPU ms",
            "x Sampan",
            f"CPU ms, {CHUNKS} chunks at once",
            f"CPU ms, {CHUNKS} chunks {PACE_MS} ms apart",
            "x Sampan",
            f"added ms, {CONCURRENCY} in step",
            f"added ms, {CONCURRENCY} uneven",
            "added ms, one",
            "MiB",
        ),
        rows=rows,
        goals=[
            Goal(f"CPU of a stored turn, {CONCURRENCY} at a time", cpu(ours, MANY), CPU_GOAL_MS, "ms"),
            Goal(
                f"CPU of a stored turn streamed in {CHUNKS} chunks, the dearer of both ways",
                max(cpu(ours, AT_ONCE), cpu(ours, PACED)),
                STREAMED_CPU_GOAL_MS,
                "ms",
            ),
            Goal(f"added latency, {CONCURRENCY} in step, p50", added(ours, MANY), ADDED_GOAL_MS, "ms"),
            Goal(f"added latency, {CONCURRENCY} uneven, p50", added(ours, UNEVEN), ADDED_GOAL_MS, "ms"),
            Goal("added latency, one at a time, p50", added(ours, SINGLE), ADDED_GOAL_MS, "ms"),
        ],
        notes=[
            "One process each, under uvicorn with uvloop and httptools and its log of requests, at a concurrency of "
            f"{CONCURRENCY}; the model's double answers after {LATENCY_MS} ms and shares the machine with server and "
            "loader. CPU is user + system of the server's process over all requests; medians of "
            f"{size.rounds} interleaved rounds of {', '.join(map(str, size.requests.values()))} requests, each a "
            "session of its own. `x Sampan` is the median of the rounds' ratios.",
            "",
            "Added latency is p50 above that of the double alone in the same round. `in step`: all answers of the "
            "model take the same time, so requests that began together stay together and wait for each other; "
            f"`uneven`: {LATENCY_MS - JITTER_MS} to {LATENCY_MS + JITTER_MS} ms. A stored turn waits for two flushes "
            f"of the disk, each p50 {show(median(flushes))} ms, p95 {show(flushes[int(len(flushes) * 0.95)])} ms when "
            "this was measured; the row without a disk tells what they come to.",
            "",
            "Not equal in features: only Sampan journals, prices and replays, and flushes each answer to the disk "
            "before it gives it; agno keeps sessions in SQLite; the others keep nothing.",
            *skipped,
        ],
    )
