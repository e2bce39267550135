"""Whatever bytes and whatever JSON come: an answer or a problem, never a fault of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

House = Callable[..., Any]

BOUNDS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
WORDS = st.sampled_from(
    ["text", "image", "image_url", "file", "user", "tool", "assistant", "AAAA", "data:image/png;base64,AAAA"]
)
PART = st.fixed_dictionaries(
    {"type": WORDS | ANY},
    optional={
        name: WORDS | ANY
        for name in ("text", "data", "media_type", "name", "image_url", "file", "input_audio")
    },
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": WORDS | ANY,
        "content": WORDS | ANY | st.lists(PART | ANY, max_size=3),
        "parts": ANY | st.lists(PART | ANY, max_size=3),
        "tool_calls": ANY | st.lists(st.fixed_dictionaries({"id": ANY, "function": ANY}), max_size=2),
        "tool_call_id": WORDS | ANY,
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "message": st.text(max_size=20) | MESSAGE | ANY,
        "messages": st.lists(MESSAGE | ANY, max_size=4) | ANY,
        "model": st.just("assistant") | ANY,
        "agent": st.just("assistant") | ANY,
        "session_id": st.text(max_size=12) | ANY,
        "stream": st.booleans() | ANY,
        "metadata": st.dictionaries(st.text(max_size=5), st.text(max_size=5) | ANY, max_size=3) | ANY,
        "data_class": st.sampled_from(["public", "secret"]) | ANY,
        "tools": ANY,
        "tool_choice": ANY,
        "response_format": ANY,
        "max_tokens": ANY,
        "stop": ANY,
    },
)
PATHS = st.sampled_from(["/api/v1/agent", "/v1/chat/completions"])
KEYS = st.none() | st.text(st.characters(max_codepoint=255), max_size=300)


def check(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 404, 409, 413, 415, 422), answer.text
    kind = answer.headers["content-type"]
    if answer.status_code != 200:
        assert kind in ("application/problem+json", "application/json")
        assert answer.json()


@BOUNDS
@given(path=PATHS, body=BODY | ANY, key=KEYS)
async def test_any_json(house: House, path: str, body: Any, key: str | None) -> None:
    home = house("Fine.", settings={"max_header_bytes": 64 * 1024})
    headers = {"content-type": b"application/json"} | (
        {"idempotency-key": key.encode("latin-1")} if key else {}
    )
    content = msgspec.json.encode(_finite(body))
    async with home.client() as client:
        check(await client.post(path, content=content, headers=headers))


@BOUNDS
@given(
    path=PATHS,
    body=st.binary(max_size=200) | st.builds(lambda a, b: a + b, st.binary(max_size=20), st.just(b'"}')),
)
async def test_any_bytes(house: House, path: str, body: bytes) -> None:
    async with house("Fine.").client() as client:
        check(await client.post(path, content=body, headers={"content-type": "application/json"}))


@BOUNDS
@given(
    path=st.text(max_size=40),
    query=st.text(max_size=40),
    method=st.sampled_from(["GET", "POST", "DELETE", "QUERY"]),
)
async def test_any_address(house: House, path: str, query: str, method: str) -> None:
    async with house().client() as client:
        for root in ("/", "/api/v1/runs/", "/api/v1/sessions/", "/v1/models/"):
            address = f"{root}{quote(path, safe='%/;')}?{quote(query, safe='%&=+;')}"
            answer = await client.request(method, address)
            assert answer.status_code in (200, 202, 204, 404, 405, 415, 422), answer.text


def _finite(value: Any) -> Any:
    """The value without what JSON has no words for: msgspec writes lone surrogates and infinities as nothing."""
    if isinstance(value, dict):
        return {_finite(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if not isinstance(value, int) or abs(value) < 2**63 else float(2**63)
