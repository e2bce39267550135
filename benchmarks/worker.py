"""How much longer a worker's batch takes than its slowest model call: records must run side by side."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from agent_core.agent import Agent
from agent_core.app import App, build_app, make_wire
from agent_core.clock import SystemClock
from agent_core.messages import Chunk, Prompt, Reply
from agent_core.models.base import Model
from agent_core.models.catalog import make_model, resolve
from agent_core.queues.base import Entry
from agent_core.queues.consumer import process
from agent_core.settings import Settings
from benchmarks.machine import BenchmarkError
from benchmarks.servers import mock_model
from benchmarks.table import Goal, Report

LATENCY_MS = 300
RECORDS = 10
GOAL = 1.15
"""Times the slowest call that a batch may take."""

ROUNDS, QUICK_ROUNDS = 30, 2


class Round(NamedTuple):
    """One batch: how long it took from its receive to its last deletion, and its slowest model call, in ms."""

    batch: float
    call: float


class TimedModel:
    """A model whose calls are timed."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.name, self.tools, self.context_window = model.name, model.tools, model.context_window
        self.calls: list[float] = []

    async def reply(self, prompt: Prompt) -> Reply:
        """As the model beneath."""
        began = time.perf_counter()
        try:
            return await self._model.reply(prompt)
        finally:
            self.calls.append((time.perf_counter() - began) * 1000)

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """As the model beneath; not timed, a worker asks for whole replies."""
        async for chunk in self._model.stream(prompt):
            yield chunk

    async def close(self) -> None:
        """Close the model beneath."""
        await self._model.close()


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` of few batches."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as name:
        folder = Path(name)
        with mock_model(folder / "mock.log", latency_ms=LATENCY_MS) as mock:
            settings = Settings(
                data=str(folder / "data"),
                queue="sqlite",
                model_endpoint=mock.endpoint,
                model_name="mock",
                wire="aiohttp",
            )
            return _report(asyncio.run(_measure(settings, rounds)))


async def _measure(settings: Settings, rounds: int) -> list[Round]:
    clock = SystemClock()
    wire = make_wire(settings, clock)
    model = TimedModel(make_model(resolve("openai:mock", settings), settings, wire, clock))
    app = build_app(settings, agents=[Agent(name="assistant", model=model)], wire=wire, clock=clock)
    try:
        await _batch(app, model, "warm")  # connections, tables, imports
        return [await _batch(app, model, str(number)) for number in range(rounds)]
    finally:
        await app.close()


async def _batch(app: App, model: TimedModel, name: str) -> Round:
    queue = app.queue
    assert queue is not None
    await queue.send(
        *(
            Entry(body=json.dumps({"message": f"Hello {number}", "session_id": f"{name}-{number}"}))
            for number in range(RECORDS)
        )
    )
    model.calls.clear()
    began = time.perf_counter()
    records = await queue.receive()
    outcome = await process(records, app.desk.handle, queue=queue, clock=app.clock, delete=True)
    took = (time.perf_counter() - began) * 1000
    if len(outcome.done) != RECORDS or len(model.calls) != RECORDS:
        raise BenchmarkError(
            f"of {RECORDS} records {len(outcome.done)} were done by {len(model.calls)} calls"
        )
    return Round(took, max(model.calls))


def _report(rounds: list[Round]) -> Report:
    ratios = sorted(one.batch / one.call for one in rounds)
    report = Report(
        "worker",
        "A worker's batch",
        ("", "median", "least", "most"),
        goals=[
            Goal(
                f"a batch of {RECORDS} at {LATENCY_MS} ms, beside its slowest call", median(ratios), GOAL, "x"
            )
        ],
    )
    for title, values in (
        ("batch, ms", [one.batch for one in rounds]),
        ("slowest model call, ms", [one.call for one in rounds]),
        ("batch / slowest call", ratios),
        (f"batch / {LATENCY_MS} ms", [one.batch / LATENCY_MS for one in rounds]),
    ):
        report.rows.append((title, float(median(values)), float(min(values)), float(max(values))))
    report.notes = [
        f"- {len(rounds)} batches of {RECORDS} whole messages, each for a session of its own, from the receive to the "
        "last deletion: SQLite queue and store on disk, the model's double over HTTP.",
        "- A call is timed from our asking to our having its reply.",
    ]
    return report
