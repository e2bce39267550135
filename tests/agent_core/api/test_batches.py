"""Batches over HTTP: lines in, however they come, and lines out in the same order."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_core.messages import Message, Prompt, Reply, Usage
from agent_core.models.scripted import ScriptedModel

LINES = {"Content-Type": "application/jsonl"}


class Echo(ScriptedModel):
    """Says what it hears."""

    async def reply(self, prompt: Prompt) -> Reply:
        said = prompt.messages[-1].text
        return Reply(message=Message.of("assistant", said.upper()), usage=Usage(10, 0, 5))


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def openai_line(name: str, text: str, model: str = "assistant") -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


class World:
    def __init__(self, house: Any) -> None:
        self.app = house.app
        self.client = house.client()

    async def post(self, content: Any, query: str = "", **headers: str) -> httpx.Response:
        sent = {**LINES, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.client.post(f"/api/v1/batches{query}", content=content, headers=sent)

    async def ended(self, response: httpx.Response) -> dict[str, Any]:
        await self.app.batches.drain()
        shown: dict[str, Any] = (await self.client.get(response.headers["location"])).json()
        return shown

    async def results(self, response: httpx.Response) -> list[dict[str, Any]]:
        got = await self.client.get(response.headers["location"] + "/results")
        assert got.headers["content-type"].startswith("application/jsonl")
        return [json.loads(line) for line in got.text.splitlines()]


def world(house: Callable[..., Any], **settings: Any) -> World:
    made = house(settings=settings)
    agent = made.app.engine.agents["assistant"]
    object.__setattr__(agent, "model", Echo())
    return World(made)


async def test_lines_in_and_results_out_in_their_order(house: Callable[..., Any]) -> None:
    here = world(house)
    sent = await here.post(lines(*({"id": f"n{n}", "message": f"word {n}"} for n in range(700))))
    assert sent.status_code == 202, sent.text
    shown = await here.ended(sent)
    assert (shown["status"], shown["format"]) == ("succeeded", "sampan")
    assert shown["lines"] == {"total": 700, "invalid": 0, "done": 700, "failed": 0, "skipped": 0}
    assert shown["usage"] == {"input": 7000, "output": 3500}
    assert shown["rate"] > 0
    results = await here.results(sent)
    assert [(r["id"], r["line"], r["reply"]["text"]) for r in results] == [
        (f"n{n}", n + 1, f"WORD {n}") for n in range(700)
    ]
    run = (await here.client.get(f"/api/v1/runs/{results[3]['run_id']}")).json()
    assert (run["channel"], run["reply"]["text"]) == ("batch", "WORD 3")


async def test_openai_batch_lines_are_known_by_themselves(house: Callable[..., Any]) -> None:
    here = world(house)
    sent = await here.post(
        lines(
            openai_line("a", "one"),
            openai_line("b", "two", "gpt-5-mini"),
            {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {}},
            openai_line("d", "four", "gpt-5-mini"),
        ),
        "?agent=assistant",
    )
    shown = await here.ended(sent)
    assert (shown["format"], shown["lines"]["invalid"], shown["lines"]["failed"]) == ("openai", 1, 1)
    assert shown["errors"] == [{"line": 3, "detail": shown["errors"][0]["detail"], "field": "$.url"}]
    first, _, third, fourth = await here.results(sent)
    assert set(first) == {"id", "custom_id", "line", "response", "error", "cost_usd"}
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("a", None, 200)
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "ONE"
    assert first["response"]["body"]["usage"]["total_tokens"] == 15
    assert (third["custom_id"], third["response"], third["error"]["code"]) == ("c", None, "invalid_input")
    assert fourth["response"]["body"]["choices"][0]["message"]["content"] == "FOUR"


async def test_a_model_that_is_no_agent_needs_the_batch_to_name_one(house: Callable[..., Any]) -> None:
    here = world(house)
    shown = await here.ended(await here.post(lines(openai_line("a", "one", "gpt-5-mini"))))
    assert shown["errors"][0]["field"] == "$.body.model"


async def test_blank_lines_count_as_an_editor_counts_them(house: Callable[..., Any]) -> None:
    here = world(house)
    sent = await here.post(b'\n{"message": "a"}\n\n   \nnot json\n{"message": "b"}')
    shown = await here.ended(sent)
    assert [error["line"] for error in shown["errors"]] == [5]
    assert [(r["line"], r["status"]) for r in await here.results(sent)] == [
        (2, "succeeded"),
        (5, "failed"),
        (6, "succeeded"),
    ]


async def test_the_same_key_is_the_same_batch(house: Callable[..., Any]) -> None:
    here = world(house)
    body = lines(*({"message": str(n)} for n in range(600)))
    first = await here.post(body, idempotency_key="k1")
    again = await here.post(body, idempotency_key="k1")
    assert again.json()["batch_id"] == first.json()["batch_id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    for other in (body[:-5], body + b"{}\n", body.replace(b"599", b"598"), lines({"message": "x"})):
        refused = await here.post(other, idempotency_key="k1")
        assert (refused.status_code, refused.json()["type"]) == (
            422,
            "urn:sampan:problem:idempotency-key-reused",
        ), other[-20:]
    assert (await here.post(body, "?concurrency=3", idempotency_key="k1")).status_code == 422
    shown = await here.ended(first)
    assert shown["lines"]["done"] == 600
    assert len((await here.client.get("/api/v1/batches")).json()["batches"]) == 1


async def test_an_upload_that_broke_off_is_completed_under_its_key(house: Callable[..., Any]) -> None:
    here = world(house)
    body = lines(*({"message": str(n)} for n in range(1300)))

    async def broken() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        raise ConnectionError("gone")

    assert (await here.post(broken(), idempotency_key="k2")).status_code == 500
    [left] = (await here.client.get("/api/v1/batches")).json()["batches"]
    assert left["status"] == "uploading"
    assert 0 < left["received"] < len(body) // 2
    sent = await here.post(body, idempotency_key="k2")
    assert sent.json()["batch_id"] == left["batch_id"]
    assert (await here.ended(sent))["lines"]["done"] == 1300


async def test_an_upload_in_pieces(house: Callable[..., Any]) -> None:
    here = world(house)
    opened = await here.client.post("/api/v1/batches", json={"format": "sampan", "concurrency": 2})
    assert opened.status_code == 201, opened.text
    place = opened.headers["location"]
    body = lines(*({"message": str(n)} for n in range(30)))
    half = body.index(b"\n", len(body) // 2) + 1
    one = await here.client.patch(f"{place}?offset=0", content=body[:half], headers=LINES)
    assert (one.status_code, one.json()["received"]) == (200, half)
    wrong = await here.client.patch(f"{place}?offset=0", content=body[:half], headers=LINES)
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, str(half))
    await here.client.patch(f"{place}?offset={half}", content=body[half:], headers=LINES)
    sent = await here.client.post(f"{place}/start")
    assert sent.status_code == 202
    shown = await here.ended(sent)
    assert (shown["status"], shown["lines"]["done"], shown["concurrency"]) == ("succeeded", 30, 2)
    late = await here.client.patch(f"{place}?offset={len(body)}", content=body, headers=LINES)
    assert late.status_code == 409


async def test_lines_in_a_blob(house: Callable[..., Any]) -> None:
    here = world(house)
    ref = await here.app.blobs.put("default", "mine", lines({"message": "from a blob"}), "application/jsonl")
    sent = await here.client.post("/api/v1/batches", json={"blob": ref})
    assert sent.status_code == 202, sent.text
    await here.ended(sent)
    assert [r["reply"]["text"] for r in await here.results(sent)] == ["FROM A BLOB"]
    missing = await here.client.post("/api/v1/batches", json={"blob": f"mine/{'0' * 64}"})
    assert missing.status_code == 404


async def test_a_cancelled_batch_begins_no_line(house: Callable[..., Any]) -> None:
    here = world(house)
    opened = await here.client.post("/api/v1/batches", json={})
    place = opened.headers["location"]
    cancelled = await here.client.post(f"{place}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (await here.client.post(f"{place}/cancel")).status_code == 200


async def test_what_is_refused(house: Callable[..., Any]) -> None:
    here = world(house, max_batch_bytes=200)
    assert (await here.post(b"")).status_code == 422
    assert (await here.post(b"\n\n")).status_code == 422
    assert (await here.post(lines({"message": "x" * 300}))).status_code == 413
    assert (await here.post(lines({"message": "a"}), "?concurrency=0")).status_code == 422
    assert (await here.post(lines({"message": "a"}), "?agent=nobody")).status_code == 404
    assert (await here.client.post("/api/v1/batches", content=b"a,b")).status_code == 415
    assert (await here.client.get("/api/v1/batches/nope")).status_code == 404
    assert (await here.client.get("/api/v1/batches/nope/results")).status_code == 404
    assert (await here.client.patch("/api/v1/batches/nope", content=b"{}")).status_code == 415


async def test_lists_are_paged_newest_first(house: Callable[..., Any]) -> None:
    here = world(house)
    made = [(await here.client.post("/api/v1/batches", json={})).json()["batch_id"] for _ in range(5)]
    first = (await here.client.get("/api/v1/batches?limit=3")).json()
    rest = (await here.client.get(f"/api/v1/batches?limit=3&before={first['next']}")).json()
    assert [b["batch_id"] for b in first["batches"] + rest["batches"]] == made[::-1]


@pytest.mark.measured
def test_an_upload_of_many_lines_takes_no_more_memory_than_one_of_few(
    house: Callable[..., Any], tmp_path: Path
) -> None:
    """100,000 lines, 40 MB, through a real server on the embedded store."""
    small, large = 5_000, 100_000
    peaks = {}
    for count in (small, large):
        made = house(settings={"store": "sqlite", "data": str(tmp_path / str(count)), "max_body_bytes": 1000})

        def content(count: int = count) -> Iterator[bytes]:
            for number in range(count):
                yield lines({"id": f"n{number}", "message": "x" * 360})

        with made.served() as url, httpx.Client(base_url=url, timeout=100) as client:
            opened = client.post("/api/v1/batches", json={"format": "sampan"}).json()
            before = resident()
            sent = client.patch(f"/api/v1/batches/{opened['batch_id']}", content=content(), headers=LINES)
            assert sent.status_code == 200, sent.text
            assert sent.json()["lines"]["total"] == count
            peaks[count] = resident() - before
        asyncio.run(made.app.store.close())
    assert peaks[large] - peaks[small] < 20 * 1024 * 1024, peaks


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
