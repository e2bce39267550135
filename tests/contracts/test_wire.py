"""What every implementation of the Wire port does, against real sockets."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent_core.errors import (
    ConfigError,
    ConnectError,
    CutError,
    LostError,
    OversizeError,
    ProtocolError,
    StalledError,
    WireError,
)
from agent_core.testing import ManualClock
from agent_core.wire.aiohttp import AiohttpWire
from agent_core.wire.asyncio import AsyncioWire
from agent_core.wire.base import Request, Timeouts, Wire
from agent_core.wire.httpcore import HttpcoreWire
from agent_core.wire.retry import RetryWire
from agent_core.wire.tls import shared_context
from tests.contracts.raw_server import CHUNKED, RawServer, Step, answer, chunked

CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"
BRIEF = Timeouts(connect=0.1, first_byte=0.1, between_chunks=0.1, total=10)
LIMIT = 10_000_000

MAKERS: dict[str, Callable[[], Wire]] = {
    "asyncio": lambda: AsyncioWire(max_response=LIMIT),
    "httpcore": lambda: HttpcoreWire(max_response=LIMIT),
    "aiohttp": lambda: AiohttpWire(max_response=LIMIT),
    "retry": lambda: RetryWire(AsyncioWire(max_response=LIMIT), ManualClock(jump=True), retries=1),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Wire]:
    return MAKERS[request.param]


@pytest.fixture
async def wire(make: Callable[[], Wire]) -> AsyncIterator[Wire]:
    wire = make()
    yield wire
    await wire.close()


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer().running() as server:
        yield server


def post(url: str, body: bytes = b"{}", timeouts: Timeouts = BRIEF, **headers: str) -> Request:
    return Request(method="POST", url=url, body=body, headers=headers, timeouts=timeouts)


async def whole(wire: Wire, request: Request) -> bytes:
    return (await wire.send(request)).body


async def streamed(wire: Wire, request: Request) -> bytes:
    async with wire.stream(request) as answer:
        return await answer.read()


ways = pytest.mark.parametrize("way", [whole, streamed])


class TestAnswers:
    async def test_the_request_arrives_as_it_is(self, wire: Wire, server: RawServer) -> None:
        url = server.on("/a/b?c=d&e=%2F", answer(b"hello", status=201, headers="X-Some: Thing\r\n"))
        got = await wire.send(
            post(url, b"body", authorization="Bearer key", **{"content-type": "text/plain"})
        )
        assert (got.status, got.body, got.headers["x-some"]) == (201, b"hello", "Thing")
        head = server.heads[0].decode().lower().split("\r\n")
        assert server.heads[0].startswith(b"POST /a/b?c=d&e=%2F HTTP/1.1\r\n")
        assert server.bodies == [b"body"]
        for line in (
            "authorization: bearer key",
            "content-type: text/plain",
            "content-length: 4",
            "accept-encoding: identity",
        ):
            assert head.count(line) == 1
        assert [line for line in head if line.startswith("host:")] == [
            f"host: {server.url.removeprefix('http://')}"
        ]
        assert not [line for line in head if line.startswith(("user-agent", "accept:"))]

    async def test_an_empty_post_has_a_length(self, wire: Wire, server: RawServer) -> None:
        await wire.send(post(server.on("/", answer()), b""))
        assert b"content-length: 0" in server.heads[0].lower()

    async def test_a_get_has_no_body(self, wire: Wire, server: RawServer) -> None:
        url = server.on("/", answer(b"x"))
        assert (await wire.send(Request(method="GET", url=url))).body == b"x"
        assert b"content-length" not in server.heads[0].lower()

    @ways
    @pytest.mark.parametrize("status", [204, 301, 404, 418])
    async def test_any_status_is_an_answer(
        self, wire: Wire, server: RawServer, way: object, status: int
    ) -> None:
        url = server.on(
            "/",
            b"HTTP/1.1 %d X\r\nLocation: /b\r\n" % status
            + (b"\r\n" if status == 204 else b"Content-Length: 2\r\n\r\nno"),
        )
        async with wire.stream(post(url)) as got:
            assert (got.status, await got.read()) == (status, b"" if status == 204 else b"no")

    @ways
    async def test_every_way_a_body_may_end(
        self, wire: Wire, server: RawServer, way: Callable[..., object]
    ) -> None:
        assert await way(wire, post(server.on("/1", answer(b"by length")))) == b"by length"
        assert await way(wire, post(server.on("/2", CHUNKED + chunked(b"by ", b"chunks")))) == b"by chunks"
        assert (
            await way(wire, post(server.on("/3", b"HTTP/1.1 200 OK\r\n\r\nby closing", "close")))
            == b"by closing"
        )

    @ways
    async def test_large_bodies_both_ways(
        self, wire: Wire, server: RawServer, way: Callable[..., object]
    ) -> None:
        body = bytes(range(256)) * 20_000
        long = Timeouts(first_byte=20, between_chunks=20)
        assert await way(wire, post(server.on("/", answer(body)), body, long)) == body
        assert server.bodies == [body]

    async def test_pieces_come_as_they_are_sent(self, wire: Wire, server: RawServer) -> None:
        more = asyncio.Event()
        url = server.on("/", CHUNKED + chunked(b"one", end=False), more, chunked(b"two"))
        async with wire.stream(post(url, timeouts=Timeouts())) as got:
            assert await anext(got.chunks) == b"one"
            more.set()
            assert await got.read() == b"two"

    async def test_an_interim_answer_is_passed_over(self, wire: Wire, server: RawServer) -> None:
        url = server.on("/", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"final"))
        assert (await wire.send(post(url))).body == b"final"


class TestConnections:
    @ways
    async def test_they_are_used_again(
        self, wire: Wire, server: RawServer, way: Callable[..., object]
    ) -> None:
        urls = [server.on("/1", answer(b"x")), server.on("/2", CHUNKED + chunked(b"x"))]
        for url in urls * 5:
            assert await way(wire, post(url)) == b"x"
        assert server.connections == 1

    async def test_many_at_once(self, wire: Wire, server: RawServer) -> None:
        """As many connections as calls at once, and all of them are used again for the next wave."""
        for _ in range(3):
            go = asyncio.Event()
            url = server.on("/", go, answer(b"x"))
            calls = [asyncio.create_task(wire.send(post(url, timeouts=Timeouts()))) for _ in range(60)]
            for _ in calls:
                await server.arrived.acquire()
            go.set()
            assert {(await call).body for call in calls} == {b"x"}
        assert server.connections == 60

    async def test_leaving_early_closes(self, wire: Wire, server: RawServer) -> None:
        url = server.on("/", CHUNKED + chunked(b"x", end=False), "stall")
        async with wire.stream(post(url)) as got:
            await anext(got.chunks)
            server.scripts["/"] = [CHUNKED + chunked(b"y")]
        assert await streamed(wire, post(url)) == b"y"
        assert server.connections == 2

    async def test_a_cancelled_call_harms_no_other(self, wire: Wire, server: RawServer) -> None:
        call = asyncio.create_task(wire.send(post(server.on("/stall", "stall"), timeouts=Timeouts())))
        await server.arrived.acquire()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await whole(wire, post(server.on("/", answer(b"x")))) == b"x"

    async def test_one_that_the_server_closed_is_not_used(self, wire: Wire, server: RawServer) -> None:
        url = server.on("/", answer(b"x"), "close")
        for _ in range(3):
            assert await whole(wire, post(url)) == b"x"
            await asyncio.wait_for(server.closed.wait(), 5)
            server.closed.clear()
            for _ in range(3):
                await asyncio.sleep(0)  # the client's loop learns of it

    async def test_close_and_go_on(self, wire: Wire, server: RawServer) -> None:
        url = server.on("/", answer(b"x"))
        await wire.send(post(url))
        await wire.close()
        await asyncio.wait_for(server.closed.wait(), 5)
        await wire.close()
        assert (await wire.send(post(url))).body == b"x"
        assert server.connections == 2


class TestFailures:
    @ways
    @pytest.mark.parametrize(
        ("script", "timeout"),
        [
            (["stall"], "first_byte"),
            ([b"HTTP/1.1 200", "stall"], "first_byte"),
            ([CHUNKED, "stall"], "first_byte"),
            ([CHUNKED + chunked(b"x", end=False), "stall"], "between_chunks"),
            ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", "stall"], "between_chunks"),
        ],
        ids=["silence", "half a head", "a head alone", "a chunk", "a part"],
    )
    async def test_stalls(
        self, wire: Wire, server: RawServer, way: Callable[..., object], script: list[Step], timeout: str
    ) -> None:
        with pytest.raises(StalledError) as raised:
            await way(wire, post(server.on("/", *script)))
        assert raised.value.timeout == timeout
        assert "127.0.0.1" in raised.value.detail

    @ways
    async def test_a_connection_that_is_not_made(
        self, wire: Wire, server: RawServer, way: Callable[..., object]
    ) -> None:
        """The server takes the connection, and says nothing to the greeting of TLS."""
        with pytest.raises(StalledError) as raised:
            await way(wire, post(server.url.replace("http:", "https:") + "/"))
        assert raised.value.timeout == "connect"

    @ways
    async def test_an_answer_that_takes_too_long_in_all(
        self, wire: Wire, server: RawServer, way: Callable[..., object]
    ) -> None:
        drip = [step for _ in range(3) for step in (chunked(b"x", end=False), "stall")]
        url = server.on("/", CHUNKED, *drip)
        with pytest.raises(StalledError) as raised:
            await way(wire, post(url, timeouts=Timeouts(total=0.1)))
        assert raised.value.timeout == "total"

    @ways
    @pytest.mark.parametrize(
        ("script", "error"),
        [
            ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", "close"], CutError),
            ([CHUNKED + chunked(b"x", end=False), "close"], CutError),
            ([CHUNKED + b"9\r\nx", "close"], CutError),
            ([CHUNKED + chunked(b"x", end=False), "reset"], CutError),
            (["close"], LostError),
            (["reset"], LostError),
            ([b"HTTP/1.1 200 OK\r\ncontent-le", "close"], LostError),
            ([b"SSH-2.0-OpenSSH_9.2\r\n"], ProtocolError),
            ([b"\x15\x03\x01\x00\x02\x02\x46", "close"], ProtocolError),
            ([b"HTTP/1.1 200 OK\r\ncontent-length: some\r\n\r\n"], ProtocolError),
            ([CHUNKED + b"zz\r\nabc\r\n"], ProtocolError),
            ([CHUNKED + chunked(b"x", end=False) + b"zz\r\nabc\r\n"], ProtocolError),
            ([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LIMIT + 1), "close"], OversizeError),
        ],
        ids=str,
    )
    async def test_broken_answers(
        self,
        wire: Wire,
        server: RawServer,
        way: Callable[..., object],
        script: list[Step],
        error: type[WireError],
    ) -> None:
        url = server.on("/", *script)
        with pytest.raises(WireError) as raised:
            await way(wire, post(url, timeouts=Timeouts(first_byte=5, between_chunks=5)))
        assert type(raised.value) is error
        assert "\n" not in raised.value.detail
        assert await way(wire, post(server.on("/ok", answer(b"x")))) == b"x"

    @ways
    async def test_nobody_listens(self, wire: Wire, way: Callable[..., object]) -> None:
        async with RawServer().running() as gone:
            url = gone.url
        with pytest.raises(ConnectError):
            await way(wire, post(url + "/"))

    @ways
    @pytest.mark.parametrize(
        "url", ["ftp://127.0.0.1/", "127.0.0.1/", "http://", "http://127.0.0.1:port/", "", "http://[::1/"]
    )
    async def test_no_url(self, wire: Wire, way: Callable[..., object], url: str) -> None:
        with pytest.raises(ConfigError):
            await way(wire, post(url))

    @ways
    @pytest.mark.parametrize(
        "value", ["Bearer secret\n", "Bearer secret\r\nx: y", "Bearer secret\u2028", "secret\0"]
    )
    async def test_a_header_that_http_forbids_is_not_shown(
        self, wire: Wire, server: RawServer, way: Callable[..., object], value: str
    ) -> None:
        """A key read from a file with its line end is a common mistake, and must not land in a log."""
        with pytest.raises(ConfigError) as raised:
            await way(wire, post(server.on("/", answer()), authorization=value))
        assert "secret" not in str(raised.value)
        assert raised.value.__suppress_context__ or raised.value.__context__ is None
        assert not server.heads


class TestLoops:
    def test_a_wire_outlives_its_loops(self, make: Callable[[], Wire], threaded: str) -> None:
        """A client at module level under asyncio.run per call (Lambda), and nothing is left open behind."""
        wire = make()
        for _ in range(3):
            assert asyncio.run(whole(wire, post(threaded, timeouts=Timeouts()))) == b"x"
            gc.collect()  # what was left open would warn here, and a warning is an error

    def test_two_loops_at_once(self, make: Callable[[], Wire], threaded: str) -> None:
        wire = make()
        met = threading.Barrier(2, timeout=30)

        async def twice() -> list[bytes]:
            first = await whole(wire, post(threaded, timeouts=Timeouts()))
            met.wait()
            return [first, await whole(wire, post(threaded, timeouts=Timeouts()))]

        outcomes: list[list[bytes]] = []
        threads = [threading.Thread(target=lambda: outcomes.append(asyncio.run(twice()))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [[b"x", b"x"]] * 2

    def test_a_loop_that_was_dropped(self, make: Callable[[], Wire], threaded: str) -> None:
        """Not asyncio.run, which tidies up: a loop closed by hand with its connections open."""
        wire = make()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(whole(wire, post(threaded, timeouts=Timeouts())))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        assert asyncio.run(whole(wire, post(threaded, timeouts=Timeouts()))) == b"x"


@pytest.fixture
def threaded() -> Iterator[str]:
    """The URL of a server that runs in a loop and a thread of its own."""
    started, url = threading.Event(), ""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal url
        async with RawServer().running() as server:
            url = server.on("/", answer(b"x"))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(30)
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


class TestTls:
    async def test_a_trusted_server(self, wire: Wire) -> None:
        """One context serves all wires; a server it does not trust gets no request."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
        async with RawServer().running(tls) as server:
            url = server.on("/", answer(b"secret"))
            if not trusted():
                with pytest.raises(ConnectError, match=r"(?i)certificate"):
                    await wire.send(post(url, timeouts=Timeouts()))
                assert not server.heads
                shared_context().load_verify_locations(CERTIFICATE)
            for _ in range(3):
                assert (await wire.send(post(url, timeouts=Timeouts()))).body == b"secret"
            assert await streamed(wire, post(url, timeouts=Timeouts())) == b"secret"
            with pytest.raises(ConnectError, match=r"(?i)certificate"):
                await wire.send(post(url.replace("localhost", "127.0.0.1"), timeouts=Timeouts()))
            await wire.close()


class TestPinning:
    """A request with an `address` goes there, whatever its host's name would lead to."""

    @ways
    async def test_it_goes_to_the_address_and_names_the_host(
        self, wire: Wire, server: RawServer, way: Callable[..., object]
    ) -> None:
        server.on("/a?b", answer(b"pinned"))
        port = server.url.rpartition(":")[2]
        request = replace(post(f"http://nowhere.invalid:{port}/a?b"), address="127.0.0.1")
        assert await way(wire, request) == b"pinned"
        head = server.heads[0].decode().lower()
        assert head.startswith("post /a?b http/1.1\r\n")
        assert f"\r\nhost: nowhere.invalid:{port}\r\n" in head

    async def test_the_certificate_must_be_the_hosts_not_the_addresss(self, wire: Wire) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
        asked: list[str | None] = []
        tls.sni_callback = lambda _, name, __: asked.append(name)
        async with RawServer().running(tls) as server:
            shared_context().load_verify_locations(CERTIFICATE)
            pinned = replace(post(server.on("/", answer(b"yes")), timeouts=Timeouts()), address="127.0.0.1")
            assert (await wire.send(pinned)).body == b"yes"
            assert asked == ["localhost"]
            # The same address under another name: neither that connection nor that certificate serves.
            other = replace(pinned, url=pinned.url.replace("localhost", "other.invalid"))
            with pytest.raises(ConnectError, match=r"(?i)certificate"):
                await wire.send(other)
            assert set(asked) == {"localhost", "other.invalid"}
            await wire.close()

    async def test_a_connection_to_one_address_serves_none_that_is_pinned_to_another(
        self, wire: Wire, server: RawServer
    ) -> None:
        url = server.on("/", answer(b"one")).replace("127.0.0.1", "nowhere.invalid")
        for _ in range(2):
            assert (await wire.send(replace(post(url), address="127.0.0.1"))).body == b"one"
        assert server.connections == 1
        with pytest.raises(ConnectError):  # nobody listens there
            await wire.send(replace(post(url), address="127.0.0.2"))
        assert len(server.heads) == 2


def trusted() -> bool:
    names = [
        name for certificate in shared_context().get_ca_certs() for name in certificate.get("subject", ())
    ]
    return (("commonName", "sampan test"),) in names
