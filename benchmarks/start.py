"""What it costs to start: importing Sampan and building the app in a fresh process, above a bare interpreter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import venv
from benchmarks.machine import ROOT, BenchmarkError, clean_environment, compile_all
from benchmarks.table import Goal, Report

ROUNDS = 9
CPU_GOAL_MS = 350.0
RESIDENT_GOAL_MIB = 60.0
UNWANTED = ("boto3", "redis", "flask", "rich", "typer")

IMPORT = "import agent_core\n"
BUILD = """from agent_core import Agent, Settings, build_app
agent = Agent(name="assistant", model="openai:gpt-5-mini")
app = build_app(Settings(openai_api_key="k", data=DATA), agents=[agent])
"""
SERVE = BUILD + "app.asgi()\n"

# Printed by each process at its end. VmHWM is its own peak; ru_maxrss would also know its parent's.
PROBE = """
import sys, time
cpu = time.process_time()
modules = sorted(sys.modules)
import json
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([cpu * 1000, peak / 1024, modules]))
"""


class Probe(NamedTuple):
    """What one fresh process took: CPU in ms, peak memory in MiB, and what it had loaded."""

    cpu: float
    peak: float
    modules: list[str]


@dataclass
class Start:
    """What the rounds gave for one way to start: CPU in ms above its bare interpreter, peak memory in MiB."""

    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    modules: Sequence[str] = ()


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` one round, without peers."""
    compile_all()
    skipped: list[str] = []
    code = {("import agent_core"): IMPORT, "+ build_app": BUILD, "+ HTTP surface": SERVE}
    commands = {name: (sys.executable, words) for name, words in code.items()}
    if not quick:
        try:
            commands |= _peers(str(venv.peers_python()))
        except BenchmarkError as error:
            skipped.append(f"- the peers were left out: {error}")
    starts: dict[str, Start] = {name: Start() for name in commands}
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as folder:
        for number in range(1 if quick else ROUNDS + 1):
            _round(commands, starts, folder, counted=quick or number > 0)
        profile = profile_of(f"DATA = {folder!r}\n{BUILD}", ROOT, {}, rounds=1 if quick else 3)
    return _report(starts, profile, skipped)


def _peers(python: str) -> dict[str, tuple[str, str]]:
    """The peers of `turn`, each imported as its server would."""
    shown = {"FastAPI + openai": "fastapi_openai", "pydantic-ai + FastAPI": "pydantic_ai_fastapi"}
    shown["agno AgentOS"] = "agno_os"
    return {name: (python, f"from benchmarks.peers.{module} import app\n") for name, module in shown.items()}


def _round(
    commands: Mapping[str, tuple[str, str]], starts: dict[str, Start], folder: str, *, counted: bool
) -> None:
    bare = {python: _process(python, "", folder) for python, _ in commands.values()}
    for name, (python, code) in commands.items():
        found = _process(python, code, folder)
        if counted:
            starts[name].cpu.append(found.cpu - bare[python].cpu)
            starts[name].peak.append(found.peak)
        starts[name].modules = found.modules


def _process(python: str, code: str, folder: str) -> Probe:
    code = f"DATA = {folder!r}\n{code}{PROBE}"
    environment = clean_environment(MODEL_ENDPOINT="http://127.0.0.1:9/v1", PEER_DATA=folder)
    result = subprocess.run(
        [python, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if result.returncode:
        raise BenchmarkError(f"a fresh process failed: {result.stderr.strip().splitlines()[-1][:200]}")
    return Probe(*json.loads(result.stdout.splitlines()[-1]))


_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")


def profile_of(
    code: str, folder: Path, environment: Mapping[str, str], *, rounds: int
) -> list[tuple[str, float]]:
    """Milliseconds of loading by top-level package, dearest first: what its modules take themselves."""
    spent: dict[str, list[int]] = defaultdict(list)
    for _ in range(rounds):
        command = [sys.executable, "-X", "importtime", "-c", code]
        result = subprocess.run(
            command,
            cwd=folder,
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        once: dict[str, int] = defaultdict(int)
        for own, module in _LINE.findall(result.stderr):
            root = module.partition(".")[0].lstrip("_")
            once["standard library" if root in _STANDARD else root] += int(own)
        for root, microseconds in once.items():
            spent[root].append(microseconds)
    found = [(root, median(values) / 1000) for root, values in spent.items()]
    return sorted(found, key=lambda item: -item[1])


_STANDARD = {name.lstrip("_") for name in sys.stdlib_module_names} | {
    "zipimport",
    "site",
    "frozen_importlib_external",
}


def _report(starts: dict[str, Start], profile: list[tuple[str, float]], skipped: list[str]) -> Report:
    built = starts["+ build_app"]
    cost = median(built.cpu)
    roots = {module.partition(".")[0] for module in built.modules}
    unwanted = sorted(roots & set(UNWANTED))
    rows: list[tuple[object, ...]] = []
    for name, start in starts.items():
        cpu = median(start.cpu)
        rows.append(
            (name, cpu, min(start.cpu), f"{cpu / cost:.1f} x", median(start.peak), len(start.modules))
        )
    shares = ", ".join(f"{root} {milliseconds:.1f}" for root, milliseconds in profile[:8])
    return Report(
        name="start",
        title="A cold start",
        columns=("fresh process", "CPU ms above bare", "least", "x Sampan", "peak MiB", "modules"),
        rows=rows,
        goals=[
            Goal("CPU of importing and building, above a bare interpreter", cost, CPU_GOAL_MS, "ms"),
            Goal("peak memory of it", median(built.peak), RESIDENT_GOAL_MIB, "MiB"),
            Goal(f"modules of {', '.join(UNWANTED)} loaded by it", len(unwanted), 0),
        ],
        notes=[
            "The app has an OpenAI-compatible model and an SQLite store, neither of which is touched before the first "
            f"request. CPU is user + system, medians of {len(built.cpu)} interleaved rounds, with compiled files. "
            "Peers: their service of the next table imported, above a bare interpreter of their environment.",
            "",
            f"Where the time of `build_app` goes (ms of importing, by package): {shares}.",
            *skipped,
        ],
    )
