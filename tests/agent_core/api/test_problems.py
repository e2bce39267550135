"""Whatever is wrong with a request, its answer is a problem that says so."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from agent_core.clock import SystemClock
from agent_core.errors import StoreBusyError
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore

House = Callable[..., Any]
JSON = {"Content-Type": "application/json"}


def check(answer: httpx.Response, status: int, slug: str, field: str | None = None) -> dict[str, Any]:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"]) == (status, status)
    assert problem["type"] == f"urn:sampan:problem:{slug}"
    assert problem["title"]
    assert problem["instance"] == f"urn:sampan:request:{answer.headers['x-request-id']}"
    assert problem.get("field") == field
    assert "Traceback" not in answer.text
    return problem


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ('{"message": 5}', "$.message", "Expected"),
        ('{"message": ""}', "$.message", "length >= 1"),
        ("{}", "$", "either `message`"),
        (
            '{"message": "a", "messages": [{"parts": [{"type": "text", "text": "b"}]}]}',
            "$",
            "either `message`",
        ),
        ('{"messages": []}', "$.messages", "length >= 1"),
        ('{"messages": [{"parts": [{"type": "text"}]}]}', "$.messages[0].parts[0]", "`text`"),
        (
            '{"message": {"parts": [{"type": "video"}]}}',
            "$.message.parts[0].type",
            "there are: text, image, audio, file",
        ),
        (
            '{"message": {"parts": [{"type": "image", "media_type": "image/png", "data": "?"}]}}',
            "$.message.parts[0].data",
            "base64",
        ),
        (
            '{"message": {"parts": [{"type": "image", "media_type": "image/png", "ref": "blob"}]}}',
            "$.message.parts[0]",
            "`ref`",
        ),
        ('{"message": "a", "colour": "red"}', "$", "there are: message, messages, session_id"),
        ('{"message": "a", "session_id": "a/b"}', "$.session_id", "regex"),
        ('{"message": "a", "metadata": {"k": 1}}', "$.metadata[...]", "str"),
        (
            '{"message": "a", "data_class": "secret"}',
            "$.data_class",
            "there are: confidential, internal, public, restricted",
        ),
        ('["message"]', "$", "object"),
        ("null", "$", "null"),
    ],
)
async def test_a_body_that_can_not_be_used(house: House, body: str, field: str, words: str) -> None:
    async with house().client() as client:
        answer = await client.post("/api/v1/agent", content=body, headers=JSON)
    assert words in check(answer, 422, "invalid-input", field)["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"message": "\xff"}',
        b"\xff\xfe{}",
        b'{"message": "\\ud800"}',
        b"hello",
        b'{"message": "a"} x',
    ],
)
async def test_a_body_that_is_not_json(house: House, body: bytes) -> None:
    async with house().client() as client:
        check(await client.post("/api/v1/agent", content=body, headers=JSON), 400, "malformed")


async def test_a_body_nested_without_end(house: House) -> None:
    async with house().client() as client:
        body = b'{"model": "assistant", "messages": ' + b"[" * 100_000
        answer = await client.post("/v1/chat/completions", content=body, headers=JSON)
        assert answer.status_code == 400
        body = b'{"model": "assistant", "messages": [], "x": ' + b"[" * 100_000
        answer = await client.post("/v1/chat/completions", content=body, headers=JSON)
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_a_body_of_another_type(house: House, headers: dict[str, str]) -> None:
    async with house().client() as client:
        answer = await client.post("/api/v1/agent", content=b'{"message": "Hi"}', headers=headers)
        check(answer, 415, "unsupported-media-type")


async def test_a_body_may_say_its_charset(house: House) -> None:
    async with house("Hi.").client() as client:
        headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
        answer = await client.post("/api/v1/agent", content='{"message": "Grüße"}'.encode(), headers=headers)
        assert answer.status_code == 200


async def test_a_body_too_large_whether_it_says_so_or_not(house: House) -> None:
    home = house(settings={"max_body_bytes": 100})
    body = b'{"message": "' + b"a" * 100 + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10):
            yield body[start : start + 10]

    async with home.client() as client:
        check(await client.post("/api/v1/agent", content=body, headers=JSON), 413, "too-large")
        answer = await client.post("/api/v1/agent", content=pieces(), headers=JSON)
        assert "content-length" not in answer.request.headers
        check(answer, 413, "too-large")


async def test_headers_and_addresses_have_limits(house: House) -> None:
    home = house(settings={"max_header_bytes": 1000})
    check(await home.get("/healthz", headers={"X-Long": "a" * 1000}), 431, "headers-too-large")
    check(await home.get("/" + "a" * 1000), 414, "uri-too-long")
    check(await home.get("/healthz?" + "a" * 1000), 414, "uri-too-long")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/runs?limit=0", "query.limit"),
        ("/api/v1/runs?limit=x", "query.limit"),
        ("/api/v1/runs?limit=1&limit=2", "query"),
        ("/api/v1/runs?colour=red", "query"),
        ("/api/v1/runs?" + "&".join(f"a{n}=" for n in range(30)), "query"),
        ("/api/v1/runs?before=%ff", "query"),
        ("/api/v1/sessions/s?after=-1", "query.after"),
    ],
)
async def test_a_query_that_can_not_be_used(house: House, path: str, field: str) -> None:
    check(await house().get(path), 422, "invalid-input", field)


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/api/v1/agent/", "/api/v1/runs/none", "/api/v1/sessions/none", "/api/v1/runs?before=none"],
)
async def test_what_is_not_there(house: House, path: str) -> None:
    check(await house().get(path), 404, "not-found")


async def test_an_unknown_agent_is_named_with_those_there_are(house: House) -> None:
    problem = check(await house().say("Hi", agent="nobody"), 404, "not-found")
    assert "assistant" in problem["detail"]


async def test_a_method_that_is_not_taken(house: House) -> None:
    async with house().client() as client:
        answer = await client.put("/api/v1/sessions/s")
        check(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
        options = await client.options("/api/v1/agent")
        assert (options.status_code, options.headers["allow"]) == (204, "OPTIONS, POST")
        head = await client.head("/healthz")
        assert (head.status_code, head.content) == (200, b"")


async def test_an_error_nobody_thought_of_is_logged_and_told_without_its_words(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("secret")

    home = house(mounts=[("/broken", broken)])
    with caplog.at_level(logging.ERROR, "sampan.api"):
        answer = await home.get("/broken/x")
    problem = check(answer, 500, "internal")
    assert "secret" not in answer.text
    assert problem["instance"].rsplit(":", 1)[1] in caplog.text
    assert "secret" in caplog.text


async def test_a_store_that_is_out_is_a_503(house: House) -> None:
    store = FaultyStore(MemoryStore(SystemClock()), [Fault(1, StoreBusyError("locked", retry_after=2.4))])
    home = house(store=store)
    answer = await home.get("/readyz")
    check(answer, 503, "store-busy")
    assert answer.headers["retry-after"] == "3"
    assert (await home.get("/readyz")).json() == {"status": "ok"}


async def test_answers_carry_security_headers(house: House) -> None:
    answer = await house().get("/healthz")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["x-request-id"]
    assert "access-control-allow-origin" not in answer.headers


async def test_a_mounted_app_keeps_its_own_headers(house: House) -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Content-Security-Policy", b"default-src 'self'"), (b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": scope["root_path"].encode()})

    home = house(mounts=[("/console", page)])
    answer = await home.get("/console/")
    assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert answer.text == "/console"
    front = await home.get("/", headers={"Accept": "text/html"})
    assert (front.status_code, front.headers["location"]) == (303, "console/")
    assert (await home.get("/")).json()["links"]["console"] == "/console/"
