"""Beside the contract: TLS that waits for its first use, another loop than asyncio's, what a call costs."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from agent_core.errors import CutError, StalledError
from agent_core.models.openai import OpenAIModel
from agent_core.testing import ManualClock
from agent_core.wire import tls
from agent_core.wire.aiohttp import AiohttpWire
from agent_core.wire.asyncio import AsyncioWire
from agent_core.wire.base import DEFAULT_TIMEOUTS, Request, Timeouts, Wire
from agent_core.wire.httpcore import HttpcoreWire
from agent_core.wire.retry import RetryWire
from tests.contracts.raw_server import CHUNKED, PROGRAM, RawServer, answer, chunked
from tests.wire.cases import Case

CERTIFICATE = Path(__file__).parents[2] / "contracts" / "tls" / "localhost.pem"
wires = pytest.mark.parametrize("make", [AsyncioWire, HttpcoreWire, AiohttpWire])


def post(url: str, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> Request:
    return Request(method="POST", url=url, body=b"{}", timeouts=timeouts)


def test_no_tls_before_the_first_https_call(tmp_path: Path) -> None:
    """A context costs as much CPU as a hundred calls; a process that speaks plain HTTP alone never pays for it."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from agent_core.wire.base import Request
from agent_core.wire.asyncio import AsyncioWire
from agent_core.wire.tls import shared_context
from tests.contracts.raw_server import RawServer, answer

async def main():
    async with RawServer().running() as server:
        wire = AsyncioWire()
        await wire.send(Request(method="GET", url=server.on("/", answer(b"x"))))
        await wire.close()

asyncio.run(main())
print(shared_context.cache_info().currsize, "aiohttp" in sys.modules, "httpcore" in sys.modules, "email" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "0 False False False"


def test_certificates_of_a_machine_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then certifi's serve."""
    bare = SimpleNamespace(cafile=None, capath="/nowhere")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: bare)
    context = tls.shared_context.__wrapped__()
    assert context.cert_store_stats()["x509_ca"] > 50
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@wires
def test_under_uvloop(make: Callable[[], Wire]) -> None:
    """The loop of the servers has transports of its own."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(CERTIFICATE)
    tls.shared_context().load_verify_locations(CERTIFICATE)
    wire = make()

    async def use(context: ssl.SSLContext | None) -> None:
        async with RawServer().running(context) as server:
            url = server.on("/", CHUNKED + chunked(b"one", end=False), chunked())
            server.on("/big", answer(b"x" * 3_000_000))
            for _ in range(3):
                assert (await wire.send(post(url))).body == b"one"
            async with wire.stream(post(server.url + "/big")) as got:
                assert len(await got.read()) == 3_000_000
            assert server.connections == 1
            with pytest.raises(StalledError):
                await wire.send(post(server.on("/stall", "stall"), Timeouts(first_byte=0.1)))
            with pytest.raises(CutError):
                await wire.send(post(server.on("/cut", CHUNKED + chunked(b"x", end=False), "close")))
            await wire.close()

    for context in (None, server_tls):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(use(context))


@pytest.fixture
def model_server(root: Path) -> Iterator[str]:
    """A model's server in a process of its own, so that its CPU is not counted."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.communicate(timeout=30)


@pytest.mark.measured
@pytest.mark.parametrize(
    ("make", "whole_us", "streamed_us"),
    [(AsyncioWire, 400, 900), (HttpcoreWire, 500, 1500), (AiohttpWire, 400, 900)],
    ids=["asyncio", "httpcore", "aiohttp"],
)
def test_what_a_call_costs(
    make: Callable[[], Wire], whole_us: float, streamed_us: float, model_server: str
) -> None:
    """CPU of wire, retries and model together: a reply, and a stream of 50 chunks. Doubled bounds: machines differ."""
    case = Case("openai", "text")

    async def measure() -> tuple[float, float]:
        wire = RetryWire(make(), ManualClock())
        model = OpenAIModel("openai:m", "m", model_server, "k", wire)

        async def streamed() -> None:
            async for _ in model.stream(case.prompt):
                pass

        async def replied() -> None:
            await model.reply(case.prompt)

        costs = [await best(call) for call in (replied, streamed)]
        await wire.close()
        return costs[0], costs[1]

    whole, streamed = asyncio.run(measure())
    print(f"{make.__name__}: {whole:.0f} us a reply, {streamed:.0f} us a stream of 50 chunks")
    assert whole < 2 * whole_us
    assert streamed < 2 * streamed_us


async def best(call: Callable[[], object], rounds: int = 7, calls: int = 50) -> float:
    """Microseconds of this process's CPU per call, in the quietest round."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(calls):
            await call()  # type: ignore[misc]
        found.append((time.process_time() - begun) / calls * 1e6)
    return min(found)
