"""A cold start on Lambda: from a fresh process to the first answer, of the packaged functions and of their peers."""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks import tls, venv
from benchmarks.function import Used, function
from benchmarks.machine import ROOT, BenchmarkError
from benchmarks.servers import free_port, mock_model, running
from benchmarks.start import profile_of
from benchmarks.table import Goal, Report

PAIRS = 9
WARM_UP, WARM = 50, 200
OURS, BASELINE = "Sampan", "Powertools + pydantic + httpx + boto3"
PEERS = {
    "Strands + bedrock-agentcore": "lambda_strands",
    "agno": "lambda_agno",
    "pydantic-ai": "lambda_pydantic_ai",
    "LangGraph + langchain-openai": "lambda_langgraph",
    "LiteLLM": "lambda_litellm",
}
BARE = "a handler that does nothing"
OVER_TLS = ", over TLS"
CHART = Path(__file__).with_name("cold_start.svg")
PAGE = Path(__file__).with_name("cold_start.md")
LOAD_ALL = "from handlers import api, _shared\n_shared.asgi()\n"


class Target(NamedTuple):
    """A function: its handler, where its code lies, whose Python runs it."""

    handler: str
    folder: Path
    python: str = sys.executable
    tls: bool = False


class Start(NamedTuple):
    """One cold start: what the process had used at its first answer."""

    loaded: Used
    answered: Used


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` one round, without peers."""
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as name:
        folder = Path(name)
        targets, size = _targets(folder, quick=quick)
        starts: dict[str, list[Start]] = {name: [] for name in targets}
        failed: dict[str, str] = {}
        with _doubles(folder) as (plain, over_tls):
            for round_ in range(1 if quick else PAIRS + 1):
                for name, target in targets.items():
                    if name in failed:
                        continue
                    try:
                        start = _start(target, folder, over_tls if target.tls else plain)
                    except BenchmarkError as error:
                        if name.removesuffix(OVER_TLS) in (OURS, BASELINE):
                            raise
                        failed[name] = str(error)
                        continue
                    if quick or round_:
                        starts[name].append(start)
            warm = {
                name: _warm(targets[name], folder, plain, calls=20 if quick else WARM)
                for name in (OURS, BASELINE)
            }
            known = plain | {"AWS_REGION": "us-east-1"}
            profile = profile_of(LOAD_ALL, targets[OURS].folder, known, rounds=1 if quick else 3)
    report = _report(starts, warm, size, profile)
    report.notes += [f"- {name} was left out: {words}" for name, words in failed.items()]
    if not quick:
        CHART.write_text(chart({str(row[0]): float(str(row[1])) for row in report.rows}))
    return report


def _targets(folder: Path, *, quick: bool) -> tuple[dict[str, Target], tuple[float, float]]:
    """Our package as it is deployed, the peers beside it, and how large ours is, zipped and unzipped, in MB."""
    archive = folder / "function.zip"
    command = [sys.executable, "deploy/aws/package.py", "--here", f"--output={archive}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BenchmarkError(f"the package can't be made: {made.stderr.strip()[-300:]}")
    ours, peers = folder / "ours", folder / "peers"
    with zipfile.ZipFile(archive) as found:
        found.extractall(ours)
        size = archive.stat().st_size / 1e6, sum(info.file_size for info in found.infolist()) / 1e6
    shutil.copytree(ROOT / "benchmarks" / "peers", peers / "benchmarks" / "peers")
    (peers / "benchmarks" / "__init__.py").touch()
    (peers / "nothing.py").write_text("def handler(event, context):\n    return {'statusCode': 200}\n")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(str(peers), quiet=2, force=True, invalidation_mode=mode)
    # What the baseline imports is that of development: compiled, too.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-qq", Path(sys.prefix) / "lib"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        check=False,
    )
    targets = {
        OURS: Target("handlers.api.handler", ours),
        BASELINE: Target("benchmarks.peers.powertools_handler.handler", peers),
        BARE: Target("nothing.handler", peers),
    }
    targets |= {name + OVER_TLS: targets[name]._replace(tls=True) for name in (OURS, BASELINE)}
    if not quick:
        python = str(venv.peers_python())
        targets |= {
            name: Target(f"benchmarks.peers.{module}.handler", peers, python)
            for name, module in PEERS.items()
        }
    return targets, size


@contextmanager
def _doubles(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """A model and a table that answer at once, and what a function must know of them: over plain HTTP, over TLS."""
    port, table_tls, model_tls = free_port(), free_port(), free_port()
    command = [sys.executable, "-m", "benchmarks.table_double", str(port)]
    front = [sys.executable, "-m", "benchmarks.tls"]
    with (
        mock_model(folder / "model.log", latency_ms=0) as mock,
        running(command, port, folder / "table.log"),
        running([*front, str(table_tls), str(port)], table_tls, folder / "table-tls.log"),
        running([*front, str(model_tls), str(mock.port)], model_tls, folder / "model-tls.log"),
    ):
        mock.ask("_config", tool_calls=False)
        plain = {
            "MODEL_ENDPOINT": mock.endpoint,
            "MODEL_NAME": "mock",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "TABLE": "table",
            "IS_LOCAL": "true",  # nobody is asked for a key, as by the baseline
            "SAMPAN_STORE": "dynamodb",
            "SAMPAN_TABLE": "table",
            "SAMPAN_QUEUE": "sqs",
            "SAMPAN_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/queue",
        }
        authorities = tls.bundle(folder / "authorities.pem")
        yield (
            plain,
            plain
            | {
                "MODEL_ENDPOINT": f"https://localhost:{model_tls}/v1",
                "AWS_ENDPOINT_URL": f"https://localhost:{table_tls}",
                "SSL_CERT_FILE": authorities,
                "AWS_CA_BUNDLE": authorities,
            },
        )


def event() -> dict[str, Any]:
    """A question in a session of its own, as an HTTP API sends it."""
    found: dict[str, Any] = json.loads((ROOT / "events" / "api.hello.json").read_text())
    asked = {"message": "What is the capital of France?", "session_id": uuid4().hex}
    return {**found, "body": json.dumps(asked)}


def _start(target: Target, folder: Path, environment: Mapping[str, str]) -> Start:
    with function(
        target.handler, target.folder, folder / "function.log", python=target.python, **environment
    ) as started:
        started.begin()
        loaded = started.used()
        started.answer(event())
        return Start(loaded, started.used())


def _warm(target: Target, folder: Path, environment: Mapping[str, str], *, calls: int) -> float:
    """CPU of an invocation in ms, when all is loaded."""
    with function(target.handler, target.folder, folder / "function.log", **environment) as started:
        started.begin()
        for _ in range(WARM_UP):
            started.answer(event())
        before = started.used().cpu
        for _ in range(calls):
            started.answer(event())
        return (started.used().cpu - before) / calls


def _report(
    starts: Mapping[str, list[Start]],
    warm: Mapping[str, float],
    size: tuple[float, float],
    profile: list[tuple[str, float]],
) -> Report:
    base = [start.answered.cpu for start in starts[BASELINE]]
    ratios, tls_ratios = _ratios(starts, ""), _ratios(starts, OVER_TLS)
    ratio, tls_ratio = median(ratios), median(tls_ratios)
    report = Report(
        "cold_start",
        "A cold start on Lambda, to the first answer",
        ("function", "CPU ms", "least", "of it loading", "x baseline", "peak MiB", "warm CPU ms"),
        goals=[
            Goal("CPU to the baseline's, must hold", ratio, 0.5, "x"),
            Goal("CPU to the baseline's, the goal", ratio, 0.4, "x"),
            Goal("CPU to the baseline's over TLS, must hold", tls_ratio, 0.5, "x"),
            Goal("CPU to the baseline's over TLS, the goal", tls_ratio, 0.4, "x"),
            Goal("peak memory", median(start.answered.peak for start in starts[OURS]), 42, "MiB"),
            Goal("CPU of a durable turn, warm", warm[OURS], 3, "ms"),
            Goal("the zip", size[0], 15, "MB"),
            Goal("unzipped", size[1], 40, "MB"),
        ],
    )
    for name, found in starts.items():
        if found:
            cpu = [start.answered.cpu for start in found]
            loading = median(start.loaded.cpu for start in found)
            peak = median(start.answered.peak for start in found)
            share = f"{median(cpu) / median(base):.2f} x"
            report.rows.append((name, median(cpu), min(cpu), loading, share, peak, warm.get(name)))
    shares = ", ".join(f"{root} {milliseconds:.1f}" for root, milliseconds in profile[:16])
    report.notes = [
        f"- A fresh process of awslambdaric with compiled files, {len(base)} rounds in turn, CPU of the whole process, "
        f"user and system; medians, and the ratio of each pair's (from {min(ratios):.2f} to "
        f"{max(ratios):.2f}; over TLS from {min(tls_ratios):.2f} to {max(tls_ratios):.2f}).",
        "- Ours is the unzipped package: accept and lease, query, model call, commit. The baseline reads, calls the "
        "model and writes. The other peers call the model and keep nothing. Doubles answer at once. Over plain "
        "HTTP there is no handshake, and ours makes no TLS context, while the baseline's httpx makes one all the same; "
        "the rows over TLS are what a function meets at AWS. `x baseline` is to the baseline over plain HTTP.",
        f"- What importing costs on our path, in ms by package: {shares}.",
    ]
    return report


def _ratios(starts: Mapping[str, list[Start]], way: str) -> list[float]:
    """Our CPU to the baseline's, pair by pair."""
    pairs = zip(starts[OURS + way], starts[BASELINE + way], strict=True)
    return [ours.answered.cpu / other.answered.cpu for ours, other in pairs]


def chart(bars: Mapping[str, float]) -> str:
    """The rows as a picture (SVG): a bar each, in CPU ms."""
    widest, height = max(bars.values()), 28
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{height * len(bars) + 12}" '
        'font-family="sans-serif" font-size="13" role="img">',
        "<title>CPU of a cold start to the first answer, in ms</title>",
    ]
    for number, (name, value) in enumerate(sorted(bars.items(), key=lambda bar: bar[1])):
        top, width = number * height + 6, value / widest * 420
        colour = "#0a7d62" if name.startswith(OURS) else "#9aa5b1"
        lines += [
            f'<text x="302" y="{top + 16}" text-anchor="end" fill="#57606a">{name}</text>',
            f'<rect x="310" y="{top}" width="{width:.1f}" height="{height - 6}" fill="{colour}"/>',
            f'<text x="{316 + width:.1f}" y="{top + 16}" fill="#57606a">{value:.0f} ms</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
