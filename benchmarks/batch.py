"""How close a batch comes to what the model itself can give at the same concurrency, and how much memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import ROOT, BenchmarkError, clean_environment
from benchmarks.servers import AGENT, Mock, Server, load, mock_model
from benchmarks.table import Goal, Report

LATENCY_MS = 50
SHARE = 0.7
"""Least part of the model's own throughput."""

RESIDENT_GOAL_MIB = 150


class Size(NamedTuple):
    """How many lines, how many at the same time."""

    lines: int
    concurrency: int


FULL = (Size(10_000, 8), Size(10_000, 16), Size(10_000, 32), Size(100_000, 16))
QUICK = (Size(300, 8),)


class Figures(NamedTuple):
    """What one batch gave; `direct` is the model's own throughput just before it, in calls per second."""

    size: Size
    direct: float
    rate: float
    cpu_ms: float
    resident: float


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` too small to mean much."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as name:
        folder = Path(name)
        (folder / "agents").mkdir()
        (folder / "agents" / "assistant.py").write_text(AGENT)
        with mock_model(folder / "mock.log", latency_ms=LATENCY_MS) as mock:
            for number, size in enumerate(QUICK if quick else FULL):
                print(f"{size.lines} lines, {size.concurrency} at a time", flush=True)
                figures.append(_measure(folder, mock, size, str(number)))
    return _report(figures)


def _measure(folder: Path, mock: Mock, size: Size, name: str) -> Figures:
    body = '{"model": "mock", "messages": [{"role": "user", "content": "Hello {i}, how are you?"}]}'
    direct = Server("none", mock.pid, f"{mock.endpoint}/chat/completions", {"whole": body})
    requests = min(size.lines, 3000)
    own = load(direct, "whole", concurrency=size.concurrency, requests=requests)["rps"]
    file = folder / f"{name}.jsonl"
    with file.open("w") as target:
        for number in range(size.lines):
            line = {"id": f"n{number}", "message": f"Hello {number}, how are you?"}
            target.write(json.dumps(line) + "\n")
    shown, usage = _batch(folder, mock, file, size)
    seconds = _time(shown["finished_at"]) - _time(shown["started_at"])
    with file.with_suffix(".results.jsonl").open() as lines:
        results = sum(1 for _ in lines)
    if shown["lines"]["done"] != size.lines or shown["lines"]["failed"] or results != size.lines:
        raise BenchmarkError(f"of {size.lines} lines {shown['lines']} came out, {results} results")
    cpu = (usage.ru_utime + usage.ru_stime) * 1000 / size.lines
    return Figures(size, own, size.lines / seconds, cpu, usage.ru_maxrss / 1024)


def _batch(folder: Path, mock: Mock, file: Path, size: Size) -> tuple[dict[str, Any], Any]:
    """`sampan batch` as a user runs it: what it says at the end, and what the process took."""
    command = [sys.executable, "-m", "agent_core.cli", "batch", str(file), "--json"]
    command += [f"--concurrency={size.concurrency}", f"--data={folder / 'data'}"]
    command += [f"--agents={folder / 'agents'}"]
    environment = clean_environment(MODEL_ENDPOINT=mock.endpoint, MODEL_NAME="mock")
    said, log = file.with_suffix(".out"), file.with_suffix(".log")
    with said.open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"sampan batch failed: {log.read_text()[-300:]}")
    text = said.read_text()
    shown: dict[str, Any] = json.loads(text[text.index("\n{") :])
    return shown, usage


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _report(figures: list[Figures]) -> Report:
    rows: list[tuple[object, ...]] = [
        (
            f"{one.size.lines:,}, {one.size.concurrency} at a time",
            one.direct,
            one.rate,
            f"{one.rate / one.direct * 100:.0f} %",
            one.cpu_ms,
            one.resident,
        )
        for one in figures
    ]
    last = figures[-1]
    return Report(
        name="batch",
        title="A batch",
        columns=("lines", "model alone, calls/s", "batch, lines/s", "share", "CPU ms per line", "peak MiB"),
        rows=rows,
        goals=[
            Goal(
                f"Time of {last.size.lines:,} lines, {last.size.concurrency} at a time, against the model's own",
                last.direct / last.rate,
                1 / SHARE,
                "x",
            ),
            Goal("Peak memory, the largest batch", last.resident, RESIDENT_GOAL_MIB, "MiB"),
        ],
        notes=[
            f"- `sampan batch` on an SQLite store, in one process, against a model that answers in {LATENCY_MS} ms. "
            "Each line is a stored run with its session, messages, journal and ledger entry.",
            "- The model's own throughput is measured just before each batch, by a loader that stores nothing.",
        ],
    )
