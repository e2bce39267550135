"""What only a real server on a real socket shows."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

House = Callable[..., Any]


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connected:
        yield connected


def read(connected: socket.socket) -> bytes:
    """All that comes until the server closes."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connected.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def request(*lines: str) -> bytes:
    return "\r\n".join([*lines, "Host: sampan.test", "Connection: close", "", ""]).encode()


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_too_large_is_refused_and_the_server_goes_on(house: House, declared: bool) -> None:
    body = b'{"message": "' + b"a" * 300_000 + b'"}'

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    with (
        house("Fine.", settings={"max_body_bytes": 50_000}).served() as url,
        httpx.Client(base_url=url) as client,
    ):
        headers = {"Content-Type": "application/json"}
        answer = client.post("/api/v1/agent", content=body if declared else pieces(), headers=headers)
        assert answer.status_code == 413
        assert client.post("/api/v1/agent", json={"message": "Hi"}).json()["reply"]["text"] == "Fine."


def test_a_client_that_leaves_in_the_middle_of_its_body_starts_nothing(house: House) -> None:
    home = house("Fine.")
    with home.served() as url:
        with connection(url) as connected:
            head = request(
                "POST /api/v1/agent HTTP/1.1", "Content-Type: application/json", "Content-Length: 100"
            )
            connected.sendall(head + b'{"message": ')
        assert httpx.post(f"{url}/api/v1/agent", json={"message": "Hi"}).status_code == 200
    assert len(home.model.prompts) == 1


def test_headers_too_large_are_refused_as_a_problem(house: House) -> None:
    with house().served() as url:
        answer = httpx.get(f"{url}/healthz", headers={"X-Long": "a" * 20_000})
        assert (answer.status_code, answer.json()["type"]) == (431, "urn:sampan:problem:headers-too-large")


def test_a_body_may_come_byte_by_byte(house: House) -> None:
    body = b'{"message": "Hi"}'
    with house("Fine.").served() as url, connection(url) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        length = f"Content-Length: {len(body)}"
        connected.sendall(request("POST /api/v1/agent HTTP/1.1", "Content-Type: application/json", length))
        for byte in body:
            connected.sendall(bytes([byte]))
        answer = read(connected)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"text":"Fine."' in answer


def test_a_head_request_has_the_headers_alone(house: House) -> None:
    with house().served() as url, connection(url) as connected:
        connected.sendall(request("HEAD /healthz HTTP/1.1"))
        head, _, body = read(connected).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b""


def test_a_websocket_finds_nothing(house: House) -> None:
    """The server knows no WebSockets here; the app itself closes one politely."""
    with house().served() as url, connection(url) as connected:
        upgrade = [
            "Upgrade: websocket",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
        ]
        connected.sendall(request("GET /ws HTTP/1.1", *upgrade))
        assert b" 404 " in read(connected).split(b"\r\n")[0]


async def test_a_websocket_where_there_is_none_is_closed(house: House) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/nothing", "root_path": "", "headers": [], "query_string": b""}
    await house().asgi(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
