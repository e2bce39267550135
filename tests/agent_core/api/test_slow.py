"""Who sends slowly is not waited for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

House = Callable[..., Any]

HEAD = "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: 99\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/v1/agent", "application/json"), ("/api/v1/batches", "application/jsonl")]
)
def test_a_body_that_stops_in_the_middle_ends_in_408(house: House, path: str, kind: str) -> None:
    here = house(settings={"body_seconds": 0.2})
    with here.served() as url:
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
            connection.sendall(HEAD.format(path=path, host=where.netloc, kind=kind).encode() + b'{"message"')
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"urn:sampan:problem:slow-request" in body
    assert b"0.2 s" in body
